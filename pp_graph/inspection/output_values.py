"""Describe the values of an output, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.calibration.counting import FirstPass
from pp_graph.calibration.metrics import auroc_bound
from pp_graph.calibration.score_counts import ScoreCounts
from pp_graph.reprs import short_repr
from pp_graph.values.exact_sum import ExactSum

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


class Collected:
    """Running totals of an output."""

    def __init__(self, per: str) -> None:
        self.per = per
        self._counted = None if per == "value" else FirstPass()
        self._scores: list[float] = []  # one for each image: few enough to keep
        self._labels: list[bool | None] = []
        self._count = self._nan = self._infinite = 0
        self._sum = ExactSum()
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
        self._sum.add(float(kept.sum(dtype=np.float64)))
        self._low, self._high = min(self._low, float(kept.min())), max(self._high, float(kept.max()))
        if self._counted is not None:
            flags = anomalous[finite] if isinstance(anomalous, np.ndarray) else anomalous
            self._counted.update(kept.astype(np.float32), flags)
            if self.per == "image":
                self._scores += kept.astype(np.float32).tolist()
                self._labels += [flags] if isinstance(flags, bool) else [None] * kept.size

    def merge(self, other: Collected) -> None:
        """Add the values of other images."""
        if self._counted is not None and other._counted is not None:
            self._counted.merge(other._counted)
        self._scores += other._scores
        self._labels += other._labels
        self._count += other._count
        self._nan += other._nan
        self._infinite += other._infinite
        self._sum.merge(other._sum)
        self._low, self._high = min(self._low, other._low), max(self._high, other._high)

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
            mean=self._sum.total / finite if finite else None,
            nan=self._nan / total,
            infinite=self._infinite / total,
            auroc=None if bound is None else sum(bound) / 2,
            auroc_bound=bound,
            histogram=histogram,
        )
