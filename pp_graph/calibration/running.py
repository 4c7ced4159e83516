"""Run a model on labelled images, and give its values to a calibrator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.data import choose_batch_size, feed_model, read_ahead
from pp_graph.data.labels import without_channel
from pp_graph.errors import CalibrationError
from pp_graph.postprocessors import OneClassPostProcessor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy as np
    import numpy.typing as npt

    from pp_graph.calibration.calibrator import Calibrator
    from pp_graph.calibration.spilled_maps import SpilledMaps
    from pp_graph.data import LabelledImages
    from pp_graph.postprocessors import PostProcessor
    from pp_graph.raw_values import RawValues


class CalibrationRun:
    """A model, and the values that its decisions compare.

    Args:
        values: The model.
        post: Post-processor of a raw model.
        fixed_inputs: Values of inputs other than the images.

    Raises:
        CalibrationError: There is nothing to calibrate, or an artifact got a post-processor.
    """

    def __init__(
        self, values: RawValues, post: PostProcessor | None, fixed_inputs: Mapping[str, npt.ArrayLike] | None
    ) -> None:
        self._values = values
        self._fixed_inputs = fixed_inputs
        calibrated = _post_processor(values, post)
        self._names = calibrated.calibrated_names(values.signature)
        if not self._names:
            raise CalibrationError(
                f"{type(calibrated).__name__} reads {' and '.join(values.signature)} and has nothing to calibrate, "
                "expected a raw score or map, or steps that refer to $image or $pixel. Calibrate a detector with "
                "ground truth: --boxes (calibrate_detector)."
            )
        self._compiled = calibrated.bind_calibration(values.signature)

    def batch_size(self, labelled: LabelledImages, asked: int | None) -> int:
        """Return the number of images in a batch, after checking that the images feed the model."""
        feed_model(labelled.images, self._values.inputs, self._fixed_inputs)
        return choose_batch_size(self._values.inputs, asked)

    def count(
        self,
        calibrator: Calibrator,
        labelled: LabelledImages,
        offset: int,
        size: int,
        kept: SpilledMaps | None,
        span: tuple[int, int] | None = None,
    ) -> Iterator[tuple[int, int]]:
        """Run the model, and give its values to a calibrator.

        Args:
            calibrator: The calibrator.
            labelled: The images.
            offset: Index of the first of them among all.
            size: Images in a batch.
            kept: Where to keep the maps, if there are some.
            span: First and exclusive last image to run, counted from the first of `labelled`; None for all.

        Yields:
            Index of the first image of each batch, and index after the last one, among all.
        """
        fed = feed_model(labelled.images, self._values.inputs, self._fixed_inputs)
        for start, stop, feeds in read_ahead(fed, self._values.inputs, size, span):
            computed = self._compiled.compute(self._values.run(feeds), self._names.values())
            maps = None if "pixel" not in self._names else without_channel(computed[self._names["pixel"]], "Maps")
            if maps is not None and kept is not None:
                kept.write(maps, offset + start)
            scores = None if "image" not in self._names else computed[self._names["image"]]
            _update(calibrator, labelled, start, stop, maps=maps, scores=scores)
            yield offset + start, offset + stop


def recount(
    calibrator: Calibrator, labelled: LabelledImages, start: int, batches: Iterable[npt.NDArray[np.float32]]
) -> None:
    """Give maps to a calibrator in a later pass.

    Args:
        calibrator: The calibrator.
        labelled: The images.
        start: Index of the first of the maps' images, counted from the first of `labelled`.
        batches: Maps, (N,H,W).
    """
    for maps in batches:
        _update(calibrator, labelled, start, start + len(maps), maps=maps)
        start += len(maps)


def _update(
    calibrator: Calibrator,
    labelled: LabelledImages,
    start: int,
    stop: int,
    *,
    maps: npt.NDArray[np.float32] | None,
    scores: npt.NDArray[np.float32] | None = None,
) -> None:
    calibrator.update(
        scores=scores,
        maps=maps,
        labels=None if labelled.labels is None else labelled.labels[start:stop],
        masks=labelled.masks(start, stop, None if maps is None else (maps.shape[1], maps.shape[2])),
        names=labelled.images.names[start:stop],
    )


def _post_processor(values: RawValues, post: PostProcessor | None) -> PostProcessor:
    """Return the post-processor that defines the calibrated values."""
    if values.provenance is None:
        return OneClassPostProcessor() if post is None else post
    if post is not None:
        raise CalibrationError(
            "A post-processor was given for a fused model, expected a raw model. Leave it out: a fused model has its "
            "own."
        )
    return values.provenance.build_post_processor(values.provenance.statistics, {})
