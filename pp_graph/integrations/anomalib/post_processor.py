"""Our post-processing as the `post_processor` of an Anomalib model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from anomalib.data import InferenceBatch
from anomalib.post_processing import PostProcessor

from pp_graph.errors import PostProcessorError
from pp_graph.integrations.torch.module import PostProcessorModule, restore_precision
from pp_graph.postprocessors import OneClassPostProcessor
from pp_graph.statistics.anomalib_checkpoint import BUFFERS, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pp_graph.statistics import Statistics
    from pp_graph.steps import OnNaN

_ADDED_SETTINGS: Final = ("on_nan",)
"""Settings that Anomalib does not have."""
_ALL_SETTINGS: Final = frozenset({*SETTINGS, *_ADDED_SETTINGS})


class AnomalibPostProcessor(PostProcessor):  # type: ignore[misc]
    """Post-processing for models trained on normal images only, with the decisions that `pp_graph.fuse` writes.

    Pass it to a model as `post_processor`; Anomalib's metrics find the thresholds and ranges in validation. Anomalib
    compares normalised values, this class compares raw values with cutoffs. It makes the same decisions in `forward`,
    in `engine.test` and `engine.predict`, in Anomalib's exports, and in models fused by `pp_graph`. Each class loads
    the other's state dict. A checkpoint does not name the class of its post-processor: to load it with this one, pass
    `post_processor=AnomalibPostProcessor()`.

    Differences from Anomalib's: NaN counts as anomalous (`on_nan`), raw values are compared with the raw threshold
    without normalisation, and missing statistics raise.

    Args:
        image_sensitivity: In [0, 1]: 0 flags no image (except NaN), 0.5 flags above the threshold, 1 flags every score
            that normalises above 0. Can be assigned later. Has no effect with `enable_normalization=False`.
        pixel_sensitivity: The same for pixels.
        statistics: Initial statistics; validation replaces them.
        on_nan: Decision about a raw value that is NaN, `anomalous` or `normal`.
        settings: Anomalib's `enable_normalization`, `enable_thresholding` and `enable_threshold_matching`.

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
        self._apply_settings(OneClassPostProcessor(statistics))
        for name in BUFFERS:
            getattr(self, name).copy_(getattr(self._inner, name))
        self._share_buffers()

    @property
    def post(self) -> OneClassPostProcessor:
        """The post-processor with the current settings and statistics.

        Raises:
            PostProcessorError: An assigned setting is outside its range.
            StatisticsError: The buffers hold invalid statistics, such as `min` above `max`.
        """
        self._share_buffers()
        post = self._inner.post
        assert isinstance(post, OneClassPostProcessor)
        return post

    def forward(self, predictions: Any) -> Any:
        """Post-process the model's outputs.

        Args:
            predictions: An `InferenceBatch` with `pred_score` of shape (N,) or (N,1), `anomaly_map` of shape (N,H,W) or
                (N,1,H,W), or both.

        Returns:
            Anomalib's `InferenceBatch`, with None for missing outputs.

        Raises:
            ValueError: Both are missing, or one has a different shape.
            StatisticsError: The model was not validated yet.
        """
        self._share_buffers()
        found = self._inner({"pred_score": predictions.pred_score, "anomaly_map": predictions.anomaly_map})
        return InferenceBatch(**found._asdict())

    def post_process_batch(self, batch: Any) -> None:
        """Post-process a batch in place, as `engine.test` and `engine.predict` do.

        Keeps labels and masks that the model itself returned, like Anomalib.

        Args:
            batch: An Anomalib batch with `pred_score`, `anomaly_map`, or both.

        Raises:
            StatisticsError: The model was not validated yet.
        """
        if batch.pred_score is None and batch.anomaly_map is None:
            return
        # A batch wraps its maps in torchvision's `Mask`.
        score, anomaly_map = (
            None if tensor is None else tensor.as_subclass(torch.Tensor)
            for tensor in (batch.pred_score, batch.anomaly_map)
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
        """Settings that Anomalib 2.7 stores in a checkpoint."""
        return (*super()._checkpoint_config_keys, *_ADDED_SETTINGS)

    def on_validation_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        """Use the statistics that Anomalib's metrics found."""
        super().on_validation_epoch_end(*args, **kwargs)
        self._share_buffers()

    def __setattr__(self, name: str, value: Any) -> None:
        is_setting = name in _ALL_SETTINGS and "_inner" in self.__dict__
        before = getattr(self, name) if is_setting else None
        super().__setattr__(name, value)
        if is_setting:
            try:
                self._apply_settings(self.post)
            except PostProcessorError:
                super().__setattr__(name, before)
                raise

    def _apply_settings(self, post: OneClassPostProcessor) -> None:
        """Rebuild the inner module with the current settings; raise if one is out of range."""
        normalize = self.enable_normalization
        settings = {
            "normalize": normalize,
            "threshold": self.enable_thresholding,
            "match_thresholds": self.enable_threshold_matching,
            # Without normalisation, sensitivities have no effect, and Anomalib's default is not a user's choice.
            "image_sensitivity": self.image_sensitivity if normalize else 0.5,
            "pixel_sensitivity": self.pixel_sensitivity if normalize else 0.5,
            "on_nan": self.on_nan,
        }
        inner = PostProcessorModule(dataclasses.replace(post, **settings))
        # Not a submodule: it shares the buffers of this module.
        object.__setattr__(self, "_inner", inner)

    def _share_buffers(self) -> None:
        """Share the buffers with the inner module, which reads them now because it cannot during an export."""
        if torch.compiler.is_compiling():
            return
        for name in BUFFERS:
            if getattr(self._inner, name) is not getattr(self, name):
                setattr(self._inner, name, getattr(self, name))
        _ = self._inner.post

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._share_buffers()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move the buffers to another device, but keep their precision."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        restore_precision(self, before)
        self._share_buffers()
        return self
