"""Our post-processing as the `post_processor` of an Anomalib model. Needs Anomalib, which the package asks for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from anomalib.data import InferenceBatch
from anomalib.post_processing import PostProcessor

from pp_graph.errors import PostProcessorError
from pp_graph.integrations.torch import PostProcessorModule
from pp_graph.postprocessors import OneClassPostProcessor
from pp_graph.statistics.anomalib_checkpoint import BUFFERS, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pp_graph.statistics import Statistics
    from pp_graph.steps import OnNaN

_OURS: Final = ("on_nan",)
"""Settings that Anomalib does not have."""
_SETTINGS: Final = frozenset({*SETTINGS, *_OURS})


class AnomalibPostProcessor(PostProcessor):  # type: ignore[misc]
    """Post-processing for models trained on normal images only, with the decisions that `pp_graph.fuse` writes.

    It is an Anomalib `PostProcessor`: hand it to a model as `post_processor`, and Anomalib's own metrics find the
    thresholds and ranges in validation. Where Anomalib decides about normalised values, this decides about raw ones, by
    cutoffs. Decisions are the same in `forward`, in `engine.test` and `engine.predict`, in what Anomalib exports, and
    in what `pp_graph` fuses. State dicts have the keys of Anomalib's own, and load both ways. A checkpoint does not say
    which class it was saved with: to load it with this one, pass `post_processor=AnomalibPostProcessor()`.

    It differs from Anomalib's in that NaN counts as anomalous (`on_nan`), that without normalisation raw values are
    compared with the raw threshold, and that missing statistics are an error.

    Args:
        image_sensitivity: Within [0, 1]: 0 flags no image, 0.5 flags above the threshold, 1 flags every score that
            normalises above 0. May be assigned later. Has no meaning with `enable_normalization=False`.
        pixel_sensitivity: The same for pixels.
        statistics: Calibrated numbers to start with; validation replaces them.
        on_nan: What a NaN among the raw values counts as, `anomalous` or `normal`.
        settings: `enable_normalization`, `enable_thresholding` and `enable_threshold_matching`, as Anomalib has them.

    Raises:
        PostProcessorError: A parameter is outside its range.
    """

    _inner: PostProcessorModule

    def __init__(
        self,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
        statistics: Statistics | None = None,
        *,
        on_nan: OnNaN = "anomalous",
        **settings: Any,
    ) -> None:
        super().__init__(image_sensitivity=image_sensitivity, pixel_sensitivity=pixel_sensitivity, **settings)
        self.on_nan: OnNaN = on_nan
        self._take_over(OneClassPostProcessor(statistics))
        for name in BUFFERS:
            getattr(self, name).copy_(getattr(self._inner, name))
        self._settle()

    @property
    def post(self) -> OneClassPostProcessor:
        """The post-processor that decides, with the settings and statistics of now.

        Raises:
            PostProcessorError: A setting that was assigned is outside its range.
            StatisticsError: The buffers hold numbers that no calibration can have produced.
        """
        self._settle()
        post = self._inner.post
        assert isinstance(post, OneClassPostProcessor)
        return post

    def forward(self, predictions: Any) -> Any:
        """Post-process the model's outputs.

        Args:
            predictions: An `InferenceBatch` with `pred_score` of shape (N,) or (N,1), `anomaly_map` of shape (N,H,W) or
                (N,1,H,W), or both.

        Returns:
            An `InferenceBatch` of Anomalib's; None for what there is not.

        Raises:
            ValueError: Neither is there, or one has another shape.
            StatisticsError: The model was not validated yet.
        """
        self._settle()
        found = self._inner({"pred_score": predictions.pred_score, "anomaly_map": predictions.anomaly_map})
        return InferenceBatch(**found._asdict())

    def post_process_batch(self, batch: Any) -> None:
        """Post-process a batch in place, as `engine.test` and `engine.predict` do.

        Labels and masks that the model itself gave are kept, as Anomalib does.

        Args:
            batch: A batch of Anomalib's with `pred_score`, `anomaly_map`, or both.

        Raises:
            StatisticsError: The model was not validated yet.
        """
        if batch.pred_score is None and batch.anomaly_map is None:
            return
        # A batch labels its maps as masks, by a class of torchvision's.
        score, anomaly_map = (
            None if each is None else each.as_subclass(torch.Tensor) for each in (batch.pred_score, batch.anomaly_map)
        )
        found = self(InferenceBatch(pred_score=score, anomaly_map=anomaly_map))
        if found.anomaly_map is not None:
            batch.anomaly_map = found.anomaly_map
        batch.pred_score = found.pred_score
        if self.enable_thresholding:
            batch.pred_label = found.pred_label if batch.pred_label is None else batch.pred_label
            batch.pred_mask = found.pred_mask if batch.pred_mask is None else batch.pred_mask

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        """Settings that Anomalib 2.7 keeps in a checkpoint."""
        return (*super()._checkpoint_config_keys, *_OURS)

    def on_validation_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        """Adopt the statistics that Anomalib's metrics found."""
        super().on_validation_epoch_end(*args, **kwargs)
        self._settle()

    def __setattr__(self, name: str, value: Any) -> None:
        decides = name in _SETTINGS and "_inner" in self.__dict__
        before = getattr(self, name) if decides else None
        super().__setattr__(name, value)
        if decides:
            try:
                self._take_over(self.post)
            except PostProcessorError:
                super().__setattr__(name, before)
                raise

    def _take_over(self, post: OneClassPostProcessor) -> None:
        """Adopt the present settings; raise if one is out of range."""
        normalize = self.enable_normalization
        settings = {
            "normalize": normalize,
            "threshold": self.enable_thresholding,
            "match_thresholds": self.enable_threshold_matching,
            # Without normalisation they have no meaning, and Anomalib's default says nothing.
            "image_sensitivity": self.image_sensitivity if normalize else 0.5,
            "pixel_sensitivity": self.pixel_sensitivity if normalize else 0.5,
            "on_nan": self.on_nan,
        }
        inner = PostProcessorModule(dataclasses.replace(post, **settings))
        # It is no submodule: its buffers are these, under their own names.
        object.__setattr__(self, "_inner", inner)

    def _settle(self) -> None:
        """Let the inner module see these buffers; it reads them now, since it cannot while an export is looking."""
        if torch.compiler.is_compiling():
            return
        for name in BUFFERS:
            if getattr(self._inner, name) is not getattr(self, name):
                setattr(self._inner, name, getattr(self, name))
        _ = self._inner.post

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._settle()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move the buffers to another device; in another precision, decisions would flip."""
        before = {name: self._buffers[name] for name in BUFFERS}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        self._settle()
        return self
