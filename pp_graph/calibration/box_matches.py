"""Match detections with ground truth, and compute average precision as COCO does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data import overlaps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pp_graph.data import Detections, MarkedBoxes

Array = npt.NDArray[Any]

COCO_OVERLAPS: Final = tuple(float(each) for each in np.linspace(0.5, 0.95, 10))
"""Intersections over union at which AP50-95 is averaged."""
MAX_DETECTIONS: Final = 100
"""Detections of a class in an image that count, the highest scores first."""
_RECALLS: Final = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class ClassMatches:
    """Detections of a class in all images, the highest score first, matched with ground truth.

    A detection is matched with the box of the largest overlap that no detection of a higher score has, at each least
    overlap.

    Attributes:
        scores: Confidence of each, (D,).
        right: True for a detection that found a box, (overlaps, D).
        wrong: True for one that found none, (overlaps, D). Neither is true for one in a crowd.
        marked: Number of boxes in the ground truth, without crowds.
    """

    scores: Array
    right: npt.NDArray[np.bool_]
    wrong: npt.NDArray[np.bool_]
    marked: int

    @property
    def found(self) -> npt.NDArray[np.int64]:
        """Boxes found by the detections up to each, (overlaps, D)."""
        return np.cumsum(self.right, 1)

    @property
    def precision(self) -> npt.NDArray[np.float64]:
        """Share of right ones among the detections up to each, (overlaps, D)."""
        found = self.found
        return np.asarray(found / (found + np.cumsum(self.wrong, 1) + np.spacing(1)))

    @property
    def average_precision(self) -> npt.NDArray[np.float64]:
        """Mean over 101 recalls of the best precision at that recall or above, (overlaps,); NaN without boxes."""
        if not self.marked:
            return np.full(len(self.right), np.nan)
        recall = self.found / self.marked
        best = np.maximum.accumulate(self.precision[:, ::-1], 1)[:, ::-1]
        average = np.zeros(len(recall))
        for row, (reached, precision) in enumerate(zip(recall, best, strict=True)):
            place = np.searchsorted(reached, _RECALLS)
            average[row] = precision[place[place < len(precision)]].sum() / len(_RECALLS)
        return average


def match_class(
    found: Sequence[Detections],
    marked: Sequence[MarkedBoxes],
    index: int,
    least: Sequence[float] = COCO_OVERLAPS,
    limit: int | None = MAX_DETECTIONS,
) -> ClassMatches:
    """Match the detections of a class with ground truth.

    Args:
        found: Detections of each image, in pixels of the image.
        marked: Ground truth of each image.
        index: The class.
        least: Intersections over union that a match needs at least.
        limit: Detections of the class in an image that count; None for all.

    Returns:
        Detections of all images in descending order of the score.
    """
    scores, right, wrong = [np.zeros(0)], [], []
    for each, truth in zip(found, marked, strict=True):
        own = np.flatnonzero(each.classes == index)
        if not len(own):
            continue
        own = own[np.argsort(-each.scores[own], kind="stable")][:limit]
        matched, crowd = _match(each.boxes[own], truth.of_class(index), np.asarray(least))
        scores.append(each.scores[own])
        right.append(matched & ~crowd)
        wrong.append(~matched)
    joined = np.concatenate(scores)
    order = np.argsort(-joined, kind="stable")
    empty = [np.zeros((len(least), 0), np.bool_)]
    boxes = sum(int((~truth.crowds[truth.classes == index]).sum()) for truth in marked)
    return ClassMatches(
        joined[order], np.concatenate(empty + right, 1)[:, order], np.concatenate(empty + wrong, 1)[:, order], boxes
    )


def _match(boxes: Array, truth: MarkedBoxes, least: Array) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Match the detections of an image, the highest score first.

    Returns:
        True for a match, and true for one with a crowd, both (overlaps, D).
    """
    matched = np.zeros((len(least), len(boxes)), np.bool_)
    crowd = matched.copy()
    if not len(truth) or not len(boxes):
        return matched, crowd
    # Boxes before crowds. Among equal overlaps COCO's evaluation takes the last box, and argmax the first.
    order = np.concatenate([np.flatnonzero(~truth.crowds)[::-1], np.flatnonzero(truth.crowds)[::-1]])
    crowds = truth.crowds[order]
    overlap = overlaps(boxes, truth.boxes[order], crowds)
    rows = np.arange(len(least))
    free = np.ones((len(least), len(order)), np.bool_)
    for place, shares in enumerate(overlap):
        fits = free & (shares >= np.minimum(least, 1 - 1e-10)[:, None])
        # A crowd is taken only if no box fits.
        fits &= ~(fits & ~crowds).any(1, keepdims=True) | ~crowds
        best = np.where(fits, shares, -1).argmax(1)
        matched[:, place] = fits[rows, best]
        crowd[:, place] = matched[:, place] & crowds[best]
        free[rows, best] &= ~matched[:, place] | crowds[best]
    return matched, crowd


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision of each class; NaN for a class without boxes.

    Attributes:
        at_50: With matches of an intersection over union of at least 0.5, (C,).
        at_50_to_95: Mean over 0.5, 0.55, ... 0.95, (C,).
    """

    at_50: npt.NDArray[np.float64]
    at_50_to_95: npt.NDArray[np.float64]

    @property
    def means(self) -> tuple[float, float]:
        """AP50 and AP50-95, averaged over classes with boxes; NaN without any."""
        return _mean(self.at_50), _mean(self.at_50_to_95)


def average_precision(found: Sequence[Detections], marked: Sequence[MarkedBoxes], classes: int) -> AveragePrecision:
    """Compute average precision as COCO does: 101 recalls, 10 overlaps, 100 detections of a class in an image.

    Args:
        found: Detections of each image, in pixels of the image.
        marked: Ground truth of each image.
        classes: Number of classes.
    """
    rows = np.array([match_class(found, marked, index).average_precision for index in range(classes)])
    rows = rows.reshape(classes, len(COCO_OVERLAPS))
    return AveragePrecision(rows[:, 0], rows.mean(1))


def _mean(numbers: Array) -> float:
    known = numbers[~np.isnan(numbers)]
    return float(known.mean()) if len(known) else float("nan")
