"""Run a model on images and describe the values of each output, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.calibration.counting import FirstPass
from pp_graph.calibration.metrics import auroc_bound
from pp_graph.calibration.score_counts import ScoreCounts
from pp_graph.data import choose_batch_size, feed_model, open_images, open_labelled, read_ahead
from pp_graph.data.masks import same_aspect
from pp_graph.errors import UnlabelledError
from pp_graph.model import fixed_batch
from pp_graph.reprs import short_repr
from pp_graph.sessions import run_in_batches

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pp_graph.data import LabelledImages, LabelledSource
    from pp_graph.sessions import Session

_BINS: Final = 20
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class OutputValues:
    """Values of an output on all images.

    Attributes:
        name: Name of the output.
        per: `image` or `pixel` for one value per image or pixel; `value` for any other output.
        count: Number of values.
        minimum: Smallest finite value; None without one.
        maximum: Largest finite value.
        mean: Mean of the finite values.
        nan: Share of NaN, from 0 to 1.
        infinite: Share of infinite values.
        auroc: Area under the ROC curve: the share of pairs whose anomalous value is higher. Exact for values per image;
            the middle of `auroc_bound` for pixels. None without labels of both classes, and for values that are neither
            per image nor per pixel.
        auroc_bound: Interval that certainly holds the area; its ends are equal for values per image.
        histogram: Number of values in intervals of equal width from `minimum` to `maximum`, by class: `normal`,
            `anomalous`, `unlabelled`. Values near an edge, up to 1/2048 of their size, may count in the next lower
            interval. Empty for values that are neither per image nor per pixel.
    """

    name: str
    per: str
    count: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    nan: float
    infinite: float
    auroc: float | None
    auroc_bound: tuple[float, float] | None
    histogram: dict[str, tuple[int, ...]]

    __repr__ = short_repr


class _Collected:
    """Running totals of an output."""

    def __init__(self, per: str) -> None:
        self.per = per
        self._counted = None if per == "value" else FirstPass()
        self._scores: list[float] = []  # one for each image: few enough to keep
        self._labels: list[bool | None] = []
        self._count = self._nan = self._infinite = 0
        self._sum = 0.0
        self._low, self._high = np.inf, -np.inf

    def add(self, values: Array, anomalous: npt.NDArray[np.bool_] | bool | None) -> None:
        """Add values of one image, or of several without labels."""
        finite = np.isfinite(values)
        self._count += values.size
        self._nan += int(np.isnan(values).sum())
        self._infinite += int(np.isinf(values).sum())
        kept = values[finite]
        if not kept.size:
            return
        self._sum += float(kept.sum(dtype=np.float64))
        self._low, self._high = min(self._low, float(kept.min())), max(self._high, float(kept.max()))
        if self._counted is not None:
            flags = anomalous[finite] if isinstance(anomalous, np.ndarray) else anomalous
            self._counted.update(kept.astype(np.float32), flags)
            if self.per == "image":
                self._scores += kept.astype(np.float32).tolist()
                self._labels += [flags] if isinstance(flags, bool) else [None] * kept.size

    def _exact_counts(self) -> ScoreCounts:
        labels = self._labels
        anomalous, known = (
            np.array([label is True for label in labels]),
            np.array([each is not None for each in labels]),
        )
        return ScoreCounts.of(np.array(self._scores, np.float32), anomalous, known)

    def result(self, name: str) -> OutputValues:
        """Return the totals."""
        finite = self._count - self._nan - self._infinite
        histogram: dict[str, tuple[int, ...]] = {}
        bound = None
        if self._counted is not None and finite:
            counts = self._counted.counts()
            bound = auroc_bound(counts if self.per == "pixel" else self._exact_counts())
            width = (self._high - self._low) / _BINS or 1.0
            places = np.clip((counts.lower.astype(np.float64) - self._low) / width, 0, _BINS - 1).astype(np.intp)
            for kind in ("normal", "anomalous", "unlabelled"):
                of = getattr(counts, kind)
                if of.any():
                    histogram[kind] = tuple(int(n) for n in np.bincount(places, weights=of, minlength=_BINS))
        total = max(self._count, 1)
        return OutputValues(
            name=name,
            per=self.per,
            count=self._count,
            minimum=self._low if finite else None,
            maximum=self._high if finite else None,
            mean=self._sum / finite if finite else None,
            nan=self._nan / total,
            infinite=self._infinite / total,
            auroc=None if bound is None else sum(bound) / 2,
            auroc_bound=bound,
            histogram=histogram,
        )


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
    labelled: LabelledImages | None
    try:
        labelled = open_labelled(data, masks=masks)
        images = labelled.images
    except UnlabelledError:
        labelled, images = None, open_images(data)  # type: ignore[arg-type]
    found: dict[str, _Collected] = {}
    # What a model lists of one image cannot be joined with that of others.
    size = choose_batch_size(session.inputs, fixed_batch(session.inputs))
    for start, stop, feeds in read_ahead(feed_model(images, session.inputs, fixed_inputs), session.inputs, size):
        frames = [feed.shape for feed in feeds.values() if feed.ndim == 4]
        for name, values in run_in_batches(session, feeds).items():
            if values.dtype.kind not in "biuf":
                continue
            if name not in found:
                found[name] = _Collected(_kind(values.shape, stop - start, frames))
            if found[name].per == "value" or len(values) != stop - start:
                found[name].add(values.astype(np.float64), None)
                continue
            flat = values if found[name].per == "image" else values.reshape(len(values), *_plane(values.shape))
            flags = _flags(labelled, start, stop, flat.shape)
            for value, flag in zip(flat, flags, strict=True):
                found[name].add(value.reshape(-1), flag.reshape(-1) if isinstance(flag, np.ndarray) else flag)
    return tuple(collected.result(name) for name, collected in found.items())


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
