"""Run a model on images and collect the values of its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pp_graph.data import LabelledImages, choose_batch_size, feed_model, open_images, open_labelled, read_ahead
from pp_graph.data.masks import same_aspect
from pp_graph.errors import UnlabelledError
from pp_graph.inspection.output_values import Collected
from pp_graph.model import RawModel, fixed_batch
from pp_graph.opening import kind_of
from pp_graph.openvino.model import OpenVINOModel
from pp_graph.sessions import OnnxSession, run_in_batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pp_graph.data import Images, LabelledSource
    from pp_graph.inspection.output_values import OutputValues
    from pp_graph.sessions import Session

Array = npt.NDArray[Any]


def open_session(model: str | Path | RawModel) -> Session:
    """Open an IR on the CPU in float32, and an ONNX model in onnxruntime."""
    if isinstance(model, str | Path) and kind_of(model) == "ir":
        return OpenVINOModel.load(model).session("CPU", precision="f32")
    return OnnxSession(RawModel.open(model))


def open_either(data: LabelledSource, masks: str | Path | bool) -> LabelledImages | Images:
    """Open images, with their labels if they have some."""
    try:
        return open_labelled(data, masks=masks)
    except UnlabelledError:
        return open_images(data)  # type: ignore[arg-type]


class ValueCollector:
    """Collects the values of each output of a model.

    Args:
        kinds: What each output has a value for, if it is known from earlier images: `image`, `pixel` or `value`.
    """

    def __init__(self, kinds: Mapping[str, str] | None = None) -> None:
        self._known = dict(kinds or {})
        self.found: dict[str, Collected] = {}

    @property
    def kinds(self) -> dict[str, str]:
        """What each output has a value for."""
        return {name: collected.per for name, collected in self.found.items()}

    def collect(
        self,
        session: Session,
        images: LabelledImages | Images,
        size: int,
        fixed_inputs: Mapping[str, npt.ArrayLike] | None,
        span: tuple[int, int] | None = None,
    ) -> Iterator[int]:
        """Run a model on images.

        Args:
            session: The model.
            images: The images.
            size: Images in a batch.
            fixed_inputs: Values of inputs that are not images.
            span: Index of the first image to run, and index after the last; None for all.

        Yields:
            The number of images in each batch.
        """
        labelled = images if isinstance(images, LabelledImages) else None
        fed = feed_model(images.images if isinstance(images, LabelledImages) else images, session.inputs, fixed_inputs)
        for start, stop, feeds in read_ahead(fed, session.inputs, size, span):
            frames = [feed.shape for feed in feeds.values() if feed.ndim == 4]
            for name, values in run_in_batches(session, feeds).items():
                if values.dtype.kind in "biuf":
                    kind = self._known.setdefault(name, _kind(values.shape, stop - start, frames))
                    self._add(self.found.setdefault(name, Collected(kind)), values, labelled, start, stop)
            yield stop - start

    def _add(self, collected: Collected, values: Array, labelled: LabelledImages | None, start: int, stop: int) -> None:
        if collected.per == "value" or len(values) != stop - start:
            collected.add(values.astype(np.float64), None)
            return
        flat = values if collected.per == "image" else values.reshape(len(values), *_plane(values.shape))
        flags = _flags(labelled, start, stop, flat.shape)
        for value, flag in zip(flat, flags, strict=True):
            collected.add(value.reshape(-1), flag.reshape(-1) if isinstance(flag, np.ndarray) else flag)

    def merge(self, other: ValueCollector) -> None:
        """Add the values of other images."""
        for name, collected in other.found.items():
            self.found.setdefault(name, Collected(collected.per)).merge(collected)

    def results(self) -> tuple[OutputValues, ...]:
        """Describe each output."""
        return tuple(collected.result(name) for name, collected in self.found.items())


def batch_size(session: Session) -> int:
    """Return the number of images in a batch. What a model lists of one image cannot be joined with that of others."""
    return choose_batch_size(session.inputs, fixed_batch(session.inputs))


def collect_values(
    session: Session,
    data: LabelledSource,
    *,
    masks: str | Path | bool = True,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
) -> tuple[OutputValues, ...]:
    """Run a model on images and describe each output.

    Args:
        session: The model.
        data: Images, labelled or not; see `pp_graph.data.open_labelled`.
        masks: Folder of the masks; False to use none.
        fixed_inputs: Values of inputs that are not images; see `pp_graph.data.fix_inputs`.

    Raises:
        DataError: Images do not fit the model, or a file cannot be read.
        TargetError: The runtime fails.
    """
    collector = ValueCollector()
    for _ in collector.collect(session, open_either(data, masks), batch_size(session), fixed_inputs):
        pass
    return collector.results()


def _plane(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Height and width of a map (N,H,W), (N,1,H,W) or (N,H,W,1); empty for any other shape."""
    if len(shape) == 3:
        return shape[1:]
    if len(shape) == 4 and 1 in (shape[1], shape[3]):
        return shape[2:] if shape[1] == 1 else shape[1:3]
    return ()


def _kind(shape: tuple[int, ...], images: int, frames: list[tuple[int, ...]]) -> str:
    if not shape or shape[0] != images:
        return "value"
    if int(np.prod(shape)) == images:
        return "image"
    plane = _plane(shape)
    # Boxes are (N,K,4), too: a map has the aspect ratio of the image.
    sizes = [size for frame in frames for size in (frame[2:], frame[1:3])]
    fits = plane and any(same_aspect((plane[1], plane[0]), (size[1], size[0])) for size in sizes)
    return "pixel" if fits and min(plane) > 1 else "value"


def _flags(
    labelled: LabelledImages | None, start: int, stop: int, shape: tuple[int, ...]
) -> list[npt.NDArray[np.bool_] | bool | None]:
    """True for what is anomalous, by image; None where it is unknown."""
    if labelled is None:
        return [None] * (stop - start)
    labels = None if labelled.labels is None else labelled.labels[start:stop].tolist()
    if len(shape) != 3:
        if labels is not None:
            return list(labels)
        return [None if mask is None else bool(mask.any()) for mask in labelled.masks(start, stop, None)]
    masks = labelled.masks(start, stop, (shape[1], shape[2]))
    if labels is None:
        return list(masks)
    return [mask if mask is not None else None if label else False for mask, label in zip(masks, labels, strict=True)]
