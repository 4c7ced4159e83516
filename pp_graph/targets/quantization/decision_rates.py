"""How many decisions of a model are right, by labels and masks that people gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.labels import without_channel
from pp_graph.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.data import LabelledImages
    from pp_graph.program import Program

Array = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]

LABELS: Final = "label_balanced_accuracy"
MASKS: Final = "mask_f1"


@dataclass(frozen=True)
class ImageDecisions:
    """Decisions about one image.

    Attributes:
        label: Counts of (true positive, false positive, true negative, false negative) labels; all 0 without labels.
        mask: The same for pixels.
    """

    label: Counts
    mask: Counts

    @property
    def right(self) -> float:
        """Share of right decisions, the mean over label and pixels, as far as there are any."""
        shares = [(counts[0] + counts[2]) / counts.sum() for counts in (self.label, self.mask) if counts.sum()]
        return float(np.mean(shares)) if shares else 1.0


def judge(
    program: Program, raw: Mapping[str, Array], labelled: LabelledImages, indices: Sequence[int]
) -> list[ImageDecisions]:
    """Count right and wrong decisions.

    Args:
        program: What decides, in float32.
        raw: Raw values of the images by role, batch first.
        labelled: The images, with labels and masks.
        indices: Which of the images these are.

    Raises:
        DataError: A mask cannot be read.
    """
    values = {role: np.asarray(array, program.signature[role].dtype) for role, array in raw.items()}
    found = program.predictions(program.run(values))
    # Masks may be numbers that stand for booleans.
    pred_mask = None if found.pred_mask is None else _without_classes(found.pred_mask, program.types["pred_mask"].axes)
    decisions = []
    for at, index in enumerate(indices):
        size = None if pred_mask is None else (pred_mask.shape[1], pred_mask.shape[2])
        truth = labelled.masks(index, index + 1, size)[0]
        if labelled.labels is not None:
            anomalous: bool | None = bool(labelled.labels[index])
        else:
            anomalous = None if truth is None else bool(truth.any())
        label = mask = np.zeros(4, np.int64)
        if found.pred_label is not None and anomalous is not None:
            label = _count(np.any(found.pred_label[at], keepdims=True).reshape(1), np.array([anomalous]))
        if pred_mask is not None:
            if truth is None and anomalous is False:
                truth = np.zeros(pred_mask.shape[1:], np.bool_)
            if truth is not None:
                mask = _count(pred_mask[at], truth)
        decisions.append(ImageDecisions(label, mask))
    return decisions


def _without_classes(masks: Array, axes: str) -> npt.NDArray[np.bool_]:
    """Masks as (N,H,W); of several classes, where any of them is anomalous."""
    found = masks > 0
    if found.ndim == 4 and 1 not in (found.shape[1], found.shape[3]):
        return np.asarray(found.any(axis=axes.index("C")))
    flags: npt.NDArray[np.bool_] = without_channel(found, "Predicted masks")
    return flags


def rates(decisions: Sequence[ImageDecisions]) -> dict[str, float]:
    """Rates of right decisions, in [0, 1].

    Labels have their balanced accuracy, the mean of the shares found among anomalous and among normal images. Masks
    have F1 over all pixels together, as there are so many more normal pixels that other rates hardly see the anomalous
    ones. A rate that has no meaning for these images, as F1 without anomalous pixels, is left out.
    """
    found: dict[str, float] = {}
    label = _sum([each.label for each in decisions])
    recalls = [
        right / total for right, total in ((label[0], label[0] + label[3]), (label[2], label[2] + label[1])) if total
    ]
    if recalls:
        found[LABELS] = float(np.mean(recalls))
    mask = _sum([each.mask for each in decisions])
    if mask[0] + mask[3]:
        found[MASKS] = float(2 * mask[0] / (2 * mask[0] + mask[1] + mask[3]))
    return found


def worst_drop(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """The most that a rate fell, negative where all of them rose; 0 where there is none."""
    return max((before[name] - after[name] for name in before), default=0.0)


def require_rates(found: Mapping[str, float]) -> None:
    """Make sure that there is something to measure.

    Raises:
        DataError: There is no decision of the model whose truth is known.
    """
    if not found:
        raise DataError(
            "The labelled data leave nothing to measure: none of its labels or masks belongs to a decision of this "
            "model, expected labels for a model that writes pred_label, or masks for one that writes pred_mask. Give "
            "such data, or leave out max_drop (--max-drop)."
        )


def _count(decided: Array, truth: Array) -> Counts:
    return np.array(
        [
            np.sum(decided & truth),
            np.sum(decided & ~truth),
            np.sum(~decided & ~truth),
            np.sum(~decided & truth),
        ],
        np.int64,
    )


def _sum(counts: Sequence[Counts]) -> Counts:
    return np.sum(counts, axis=0, dtype=np.int64) if counts else np.zeros(4, np.int64)
