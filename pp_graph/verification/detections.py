"""Compare the detections of two sides, matched by overlap."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from pp_graph.data import Detections, overlaps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.fusion import Provenance
    from pp_graph.steps import Array

MATCH_OVERLAP: Final = 0.5
"""Least overlap of two detections of the same object."""
_MAX_LISTED: Final = 1000

Kind = Literal["lost", "gained", "class"]


@dataclass(frozen=True)
class DetectionChange:
    """A detection that only one side has, or to which both give different classes.

    Attributes:
        image: Index of the image.
        kind: `lost` if only the expected side has it, `gained` if only the other has it, `class` if the class differs.
        score: Its score, on the expected side if that has it.
        box: Its corners in pixels of the model's input.
        class_index: Its class, on the expected side if that has it.
        distance: How far its score is above the confidence of its class. If that is large, boxes that overlap by about
            the limit of the suppression changed, or candidates were truncated.
    """

    image: int
    kind: Kind
    score: float
    box: tuple[float, ...]
    class_index: int
    distance: float


@dataclass(frozen=True)
class DetectionDifferences:
    """Differences between the detections of two sides.

    Attributes:
        expected: Number of detections of the expected side.
        found: Number of detections of the other side.
        changes: What differs, the largest distance from the confidence first.
        box_errors: Largest difference of a coordinate in pixels, of each detection that both sides have.
        score_error: Largest difference of their scores.
        mask_pixels: Number of pixels of the masks of detections that both sides have.
        mask_flips: Index of an image and the number of these pixels that differ in it, for each image where some do.
        point_error: Largest difference of a coordinate of their key points, in pixels; None without key points.
    """

    expected: int
    found: int
    changes: tuple[DetectionChange, ...]
    box_errors: npt.NDArray[np.float64] = field(repr=False)
    score_error: float
    point_error: float | None = None
    mask_pixels: int = 0
    mask_flips: tuple[tuple[int, int], ...] = field(default=(), repr=False)

    def count(self, kind: Kind) -> int:
        """Return the number of changes of a kind."""
        return sum(change.kind == kind for change in self.changes)

    @property
    def box_error(self) -> float:
        """Largest difference of a coordinate in pixels."""
        return float(self.box_errors.max(initial=0.0))

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the differences as JSON values, with up to 1000 changes.

        Args:
            names: Names of the images.
        """
        return {
            "expected": self.expected,
            "found": self.found,
            **{kind: self.count(kind) for kind in ("lost", "gained", "class")},
            "box_error_max": self.box_error,
            "box_error_median": float(np.median(self.box_errors)) if len(self.box_errors) else 0.0,
            "score_error_max": self.score_error,
            **({"mask_flips": sum(count for _, count in self.mask_flips)} if self.mask_pixels else {}),
            **({} if self.point_error is None else {"point_error_max": self.point_error}),
            "changes": [{**asdict(each), "image": names[each.image]} for each in self.changes[:_MAX_LISTED]],
        }


@dataclass(frozen=True)
class DetectionReport:
    """Comparison of detections.

    Attributes:
        postprocessing: Differences between the NumPy reference on the artifact's own raw values and the artifact's
            outputs. There must be none.
        drift: Differences between the reference on the raw model's values and on the artifact's own.
        truncated: Images with more candidates above the confidence than the post-processing compares, on either side.
        class_names: Names of the classes; empty if unknown.
    """

    postprocessing: DetectionDifferences
    drift: DetectionDifferences
    truncated: int
    class_names: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence if candidates were truncated."""
        if not self.truncated:
            return ()
        return (
            (
                f"{self.truncated:,} images have more candidates above the confidence than the post-processing "
                "compares: boxes may be missing in both models. Fuse with more --candidates, or a higher --confidence."
            ),
        )

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the report as JSON values.

        Args:
            names: Names of the images.
        """
        return {
            "postprocessing": self.postprocessing.to_dict(names),
            "drift": self.drift.to_dict(names),
            "truncated_images": self.truncated,
        }


class DetectionComparison:
    """Running totals of a `DetectionReport`.

    Args:
        provenance: Provenance of the artifact.
    """

    def __init__(self, provenance: Provenance) -> None:
        self._parameters = provenance.parameters
        self._class_names = provenance.predicted["classes"].class_names
        confidence = self._parameters.get("confidence", 0.0)
        self._postprocessing, self._drift = DetectionTotals(confidence), DetectionTotals(confidence)
        self._truncated = 0

    def add(
        self, reference: Mapping[str, Array], own: Mapping[str, Array], shipped: Mapping[str, Array], start: int
    ) -> None:
        """Add a batch.

        Args:
            reference: Outputs of the reference on the raw model's values.
            own: Outputs of the reference on the artifact's own raw values.
            shipped: Outputs of the artifact.
            start: Index of the first image.
        """
        for place in range(len(shipped["count"])):
            sides = [Detections.of_outputs(outputs, place, self._parameters) for outputs in (reference, own, shipped)]
            self._drift.add(start + place, sides[0], sides[1])
            self._postprocessing.add(start + place, sides[1], sides[2])
            self._truncated += any(side.truncated for side in sides)

    def merge(self, other: DetectionComparison) -> None:
        """Add the totals of the images that follow."""
        self._postprocessing.merge(other._postprocessing)
        self._drift.merge(other._drift)
        self._truncated += other._truncated

    def report(self) -> DetectionReport:
        """Return the totals."""
        return DetectionReport(self._postprocessing.report(), self._drift.report(), self._truncated, self._class_names)


class DetectionTotals:
    """Running totals of `DetectionDifferences`.

    Args:
        confidence: Confidence of all classes, or of each.
    """

    def __init__(self, confidence: float | Sequence[float]) -> None:
        self._confidence = np.atleast_1d(np.asarray(confidence, np.float64))
        self._expected = self._found = 0
        self._changes: list[DetectionChange] = []
        self._box_errors: list[npt.NDArray[np.float64]] = []
        self._score_error = 0.0
        self._point_error: float | None = None
        self._mask_pixels = 0
        self._mask_flips: list[tuple[int, int]] = []

    def add(self, image: int, expected: Detections, found: Detections) -> None:
        """Add the detections of an image."""
        self._expected += len(expected)
        self._found += len(found)
        pairs = match_detections(expected, found)
        ours, theirs = pairs[:, 0], pairs[:, 1]
        errors = np.abs(expected.boxes[ours].astype(np.float64) - found.boxes[theirs]).max(1, initial=0.0)
        if "corners" in expected.parts and "corners" in found.parts:
            one, two = (side.parts["corners"][places] for side, places in ((expected, ours), (found, theirs)))
            # A box that is turned by 90 degrees, with its sides swapped, is the same box.
            turned = [
                np.abs(one.astype(np.float64) - np.roll(two, turn, 1)).max((1, 2), initial=0) for turn in range(4)
            ]
            errors = np.maximum(errors, np.min(turned, axis=0))
        self._box_errors.append(errors)
        scores = np.abs(expected.scores[ours].astype(np.float64) - found.scores[theirs])
        self._score_error = max(self._score_error, float(scores.max(initial=0.0)))
        if "keypoints" in expected.parts and "keypoints" in found.parts:
            one, two = (side.parts["keypoints"][places, :, :2] for side, places in ((expected, ours), (found, theirs)))
            distance = float(np.abs(one.astype(np.float64) - two).max(initial=0.0))
            self._point_error = max(self._point_error or 0.0, distance)
        if "masks" in expected.parts and "masks" in found.parts:
            flips = expected.parts["masks"][ours] != found.parts["masks"][theirs]
            self._mask_pixels += flips.size
            self._mask_flips += [(image, int(flips.sum()))] if flips.any() else []
        differing = ours[expected.classes[ours] != found.classes[theirs]]
        for kind, side, places in (
            ("lost", expected, np.setdiff1d(np.arange(len(expected)), ours)),
            ("gained", found, np.setdiff1d(np.arange(len(found)), theirs)),
            ("class", expected, differing),
        ):
            self._changes += [self._change(image, kind, side, place) for place in places]  # type: ignore[arg-type]

    def merge(self, other: DetectionTotals) -> None:
        """Add the detections of the images that follow."""
        self._expected += other._expected
        self._found += other._found
        self._changes += other._changes
        self._box_errors += other._box_errors
        self._score_error = max(self._score_error, other._score_error)
        points = [error for error in (self._point_error, other._point_error) if error is not None]
        self._point_error = max(points, default=None)
        self._mask_pixels += other._mask_pixels
        self._mask_flips += other._mask_flips

    def _change(self, image: int, kind: Kind, side: Detections, place: int) -> DetectionChange:
        index, score = int(side.classes[place]), float(side.scores[place])
        confidence = self._confidence[index if len(self._confidence) > 1 else 0]
        box = tuple(map(float, side.boxes[place]))
        return DetectionChange(image, kind, score, box, index, float(score - confidence))

    def report(self) -> DetectionDifferences:
        """Return the totals."""
        changes = sorted(self._changes, key=lambda change: -change.distance)
        errors = np.concatenate([np.zeros(0), *self._box_errors])
        return DetectionDifferences(
            self._expected,
            self._found,
            tuple(changes),
            errors,
            self._score_error,
            self._point_error,
            self._mask_pixels,
            tuple(self._mask_flips),
        )


def match_detections(one: Detections, two: Detections) -> npt.NDArray[np.int64]:
    """Match two sides' detections of an image, those of equal class and largest overlap first.

    Oriented boxes are matched by the upright boxes around them.

    Returns:
        Indices of each pair, (pairs, 2).
    """
    if len(one) == len(two) and np.array_equal(one.boxes, two.boxes) and np.array_equal(one.classes, two.classes):
        return np.repeat(np.arange(len(one))[:, None], 2, 1)
    shares = overlaps(one.boxes, two.boxes)
    # Boxes without an area overlap nothing, not even themselves.
    shares[(one.boxes[:, None] == two.boxes[None]).all(-1)] = 1
    same = one.classes[:, None] == two.classes[None]
    left, right = np.nonzero(shares >= MATCH_OVERLAP)
    order = np.lexsort((-shares[left, right], ~same[left, right]))
    free_left, free_right = np.ones(len(one), np.bool_), np.ones(len(two), np.bool_)
    pairs = []
    for ours, theirs in zip(left[order], right[order], strict=True):
        if free_left[ours] and free_right[theirs]:
            pairs.append((ours, theirs))
            free_left[ours] = free_right[theirs] = False
    return np.array(pairs, np.int64).reshape(-1, 2)
