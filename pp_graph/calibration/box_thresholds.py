"""Find the confidence of each class of a detector from ground truth."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.calibration.box_matches import ClassMatches, average_precision, match_class
from pp_graph.calibration.family_summaries import detector_blocks
from pp_graph.errors import CalibrationError
from pp_graph.files import written_together
from pp_graph.reprs import short_repr
from pp_graph.summary import Summarised
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pp_graph.data import Detections, MarkedBoxes
    from pp_graph.summary import Block

MATCH_OVERLAP: Final = 0.5
_FEW: Final = 10
"""Boxes of a class below which its confidence is uncertain."""
_MOST_LISTED: Final = 10


@dataclass(frozen=True)
class ConfidenceGoal:
    """How to choose a confidence: by F1, or at a precision or recall.

    Attributes:
        precision: Least precision; of the confidences that reach it, the one with the largest recall is chosen.
        recall: Least recall; of the confidences that reach it, the largest is chosen.

    Raises:
        CalibrationError: Both are given, or one is not above 0 and at most 1.
    """

    precision: float | None = None
    recall: float | None = None

    def __post_init__(self) -> None:
        if self.precision is not None and self.recall is not None:
            raise CalibrationError(
                "A precision and a recall are given, expected one: a confidence is chosen by either. Leave one out."
            )
        for name, number in (("precision", self.precision), ("recall", self.recall)):
            if number is not None and not 0 < number <= 1:
                raise CalibrationError(f"The least {name} is {number:g}, expected a share above 0 and at most 1.")

    def __str__(self) -> str:
        if self.precision is not None:
            return f"precision of at least {self.precision:g}"
        return "largest F1" if self.recall is None else f"recall of at least {self.recall:g}"


@dataclass(frozen=True)
class ClassConfidence:
    """Confidence of a class, and what it gives on the calibration data.

    Attributes:
        name: Name of the class, or its index.
        confidence: Detections with a larger score are kept.
        marked: Boxes in the ground truth.
        right: Detections above the confidence that found one.
        wrong: Detections above the confidence that found none.
        ap50: Average precision at an overlap of 0.5; None without boxes.
        ap50_95: Mean average precision at overlaps from 0.5 to 0.95; None without boxes.
    """

    name: str
    confidence: float
    marked: int
    right: int
    wrong: int
    ap50: float | None = None
    ap50_95: float | None = None

    @property
    def precision(self) -> float | None:
        """Share of right ones among the detections; None without any."""
        return self.right / (self.right + self.wrong) if self.right + self.wrong else None

    @property
    def recall(self) -> float | None:
        """Share of boxes that are found; None without any."""
        return self.right / self.marked if self.marked else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None without boxes."""
        return 2 * self.right / (self.right + self.wrong + self.marked) if self.marked else None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and rates as JSON values."""
        return {**asdict(self), "precision": self.precision, "recall": self.recall, "f1": self.f1}


@dataclass(frozen=True, repr=False)
class BoxCalibration(Summarised):
    """Result of calibrating a detector.

    Attributes:
        classes: Confidence and metrics of each class, in order.
        ap50: Average precision at an overlap of 0.5, averaged over classes with boxes.
        ap50_95: The same, averaged over overlaps from 0.5 to 0.95.
        images: Number of images.
        goal: How the confidences were chosen.
        overlap: Least overlap of a match.
        truncated: Images with more candidates than the post-processing compares.
        model: Name of the model; None if unknown.
        notes: Remarks for the user.
    """

    classes: tuple[ClassConfidence, ...]
    ap50: float
    ap50_95: float
    images: int
    goal: ConfidenceGoal
    overlap: float
    truncated: int = 0
    model: str | None = None
    notes: tuple[str, ...] = ()

    __repr__ = short_repr

    def summary(self) -> list[Block]:
        """Return the result as tables."""
        return list(detector_blocks(self))

    @property
    def confidence(self) -> tuple[float, ...]:
        """Confidence of each class, for `DetectionPostProcessor(confidence=...)`."""
        return tuple(each.confidence for each in self.classes)

    @property
    def total(self) -> ClassConfidence:
        """Numbers of all classes together."""
        names = ("marked", "right", "wrong")
        marked, right, wrong = (sum(getattr(each, name) for each in self.classes) for name in names)
        return ClassConfidence("all", float("nan"), marked, right, wrong, self.ap50, self.ap50_95)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values, as `save` writes it."""
        return {
            "schema_version": 1,
            "confidence": {each.name: each.confidence for each in self.classes},
            "calibration": {
                "pp_graph_version": __version__,
                "model": self.model,
                "images": self.images,
                "goal": str(self.goal),
                "overlap": self.overlap,
                "ap50": self.ap50,
                "ap50_95": self.ap50_95,
                "truncated_images": self.truncated,
                "classes": [each.to_dict() for each in self.classes],
                "notes": list(self.notes),
            },
        }

    def save(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
        """Write the confidences as JSON, for `--confidence FILE`.

        Raises:
            OutputFileError: The file exists and `overwrite` is False, or it cannot be written.
        """
        with written_together(Path(path), overwrite=overwrite, inputs=inputs) as (draft,):
            draft.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")


def calibrate_boxes(
    found: Sequence[Detections],
    marked: Sequence[MarkedBoxes],
    class_names: Sequence[str],
    *,
    goal: ConfidenceGoal | None = None,
    overlap: float = MATCH_OVERLAP,
    floor: float = 0.0,
    one_for_all: bool = False,
    model: str | None = None,
    notes: Sequence[str] = (),
) -> BoxCalibration:
    """Find the confidence of each class.

    Detections must be those of a low confidence. Suppression of overlapping boxes goes by descending score, so what
    is kept above a confidence is what the post-processing with that confidence keeps, if it compares boxes of one
    class only.

    Args:
        found: Detections of each image, in pixels of the image.
        marked: Ground truth of each image.
        class_names: Name of each class of the model.
        goal: How to choose; the largest F1 by default.
        overlap: Least intersection over union of a match.
        floor: Confidence with which the detections were made.
        one_for_all: Choose one confidence for all classes together.
        model: Name of the model.
        notes: Remarks about the data.

    Raises:
        CalibrationError: The ground truth has no boxes, or one of a class that the model does not have, or no
            detection is right.
    """
    goal = goal or ConfidenceGoal()
    if not 0 < overlap <= 1:
        raise CalibrationError(f"The overlap of a match is {overlap:g}, expected a number above 0 and at most 1.")
    largest = max((int(each.classes.max()) for each in marked if len(each)), default=-1)
    if largest >= len(class_names):
        raise CalibrationError(
            f"The ground truth has boxes of class {largest}, and the model has {len(class_names)} classes, expected "
            f"indices from 0 to {len(class_names) - 1}. Correct the ground truth, or give the labels (--labels FILE)."
        )
    matches = [match_class(found, marked, index, (overlap,), None) for index in range(len(class_names))]
    pooled = _joined(matches)
    if not pooled.marked or not pooled.right.any():
        raise CalibrationError(
            f"{'No detection is right' if pooled.marked else 'The ground truth has no boxes'} in {len(marked)} images, "
            f"expected boxes that the model finds with an overlap of at least {overlap:g}. Check that the ground truth "
            "belongs to these images, and that the images are preprocessed as the model needs."
        )
    usual, reached = _choose(pooled, goal, floor)
    precision = average_precision(found, marked, len(class_names))
    remarks: list[str] = []
    if one_for_all and not reached:
        remarks.append(f"no confidence reaches a {goal}; the nearest is taken")
    classes = []
    for index, (name, each) in enumerate(zip(class_names, matches, strict=True)):
        confidence = usual
        if one_for_all:
            pass
        elif each.right.any():
            confidence, reached = _choose(each, goal, floor)
            if not reached:
                remarks.append(f"class '{name}' does not reach a {goal}; the nearest confidence is taken")
        kept = each.scores > np.float32(confidence)
        ap50, ap50_95 = (
            None if np.isnan(numbers[index]) else float(numbers[index])
            for numbers in (precision.at_50, precision.at_50_to_95)
        )
        right, wrong = int(each.right[0, kept].sum()), int(each.wrong[0, kept].sum())
        classes.append(ClassConfidence(name, confidence, each.marked, right, wrong, ap50, ap50_95))
    if not one_for_all:
        for held, names in (
            ("without boxes in the ground truth", [each.name for each in classes if not each.marked]),
            (
                "that are never found",
                [c.name for c, m in zip(classes, matches, strict=True) if m.marked and not m.right.any()],
            ),
        ):
            if names:
                remarks.append(f"classes {held}, which get the confidence of all classes together: {_listed(names)}")
    few = [] if one_for_all else [each.name for each in classes if 0 < each.marked < _FEW]
    if few:
        remarks.append(f"classes with fewer than {_FEW} boxes, whose confidence is uncertain: {_listed(few)}")
    return BoxCalibration(
        tuple(classes), *precision.means, len(marked), goal, overlap, sum(each.truncated for each in found), model,
        (*notes, *remarks),
    )  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_LISTED]) + (
        f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    )


def _joined(matches: Sequence[ClassMatches]) -> ClassMatches:
    scores = np.concatenate([each.scores for each in matches])
    order = np.argsort(-scores, kind="stable")
    right, wrong = (np.concatenate([getattr(each, name) for each in matches], 1) for name in ("right", "wrong"))
    return ClassMatches(scores[order], right[:, order], wrong[:, order], sum(each.marked for each in matches))


def _choose(matches: ClassMatches, goal: ConfidenceGoal, floor: float) -> tuple[float, bool]:
    """Return a confidence, and whether it reaches the goal."""
    # Detections of one score are kept or dropped together.
    ends = np.flatnonzero(np.append(matches.scores[:-1] > matches.scores[1:], True))
    right = matches.found[0, ends]
    precision, recall = matches.precision[0, ends], right / matches.marked
    reached = True
    if goal.precision is not None:
        # Dividing rounds: 9 of 10 is a precision of 0.9.
        fits = precision >= goal.precision - 1e-9
        reached = bool(fits.any())
        best = int(np.where(fits, recall, -1).argmax()) if reached else int(precision.argmax())
    elif goal.recall is not None:
        fits = recall >= goal.recall - 1e-9
        reached = bool(fits.any())
        best = int((fits if reached else recall == recall.max()).argmax())
    else:
        wrong = np.cumsum(matches.wrong[0])[ends]
        best = int((2 * right / (right + wrong + matches.marked)).argmax())
    lowest = matches.scores[ends[best]]
    following = matches.scores[ends[best] + 1] if best + 1 < len(ends) else min(np.float32(floor), lowest)
    return _between(np.float32(lowest), np.float32(following)), reached


def _between(kept: np.float32, dropped: np.float32) -> float:
    """Return a float32 number below a score that is kept, halfway to the one that is dropped."""
    middle = np.float32((float(kept) + float(dropped)) / 2)
    return float(str(middle if middle < kept else dropped))
