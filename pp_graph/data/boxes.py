"""Boxes of objects in images: found by a detector, or marked by people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

Array = npt.NDArray[Any]

DETECTION_PARTS: Final = ("keypoints", "masks")
"""Outputs that some detectors have for each detection besides boxes, scores and classes."""


@dataclass(frozen=True)
class Detections:
    """Objects that a detector found in an image, the highest score first.

    Attributes:
        boxes: Corners x1, y1, x2, y2 in pixels, (D,4); of oriented boxes, those of the upright box around.
        scores: Confidence of each, (D,).
        classes: Index of the class of each, (D,).
        truncated: True if more candidates passed the confidence than the post-processing compares.
        parts: What the detector returns besides, by output, with an entry for each detection: `keypoints` (D,J,2) or
            (D,J,3) in pixels, `masks` (D,H,W), bool, over the whole input of the model, and `corners` (D,4,2) of
            oriented boxes in pixels, in order around the box.
    """

    boxes: Array
    scores: Array
    classes: Array
    truncated: bool = False
    parts: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of_outputs(
        cls, outputs: Mapping[str, Array], index: int, parameters: Mapping[str, Any] | None = None
    ) -> Detections:
        """Read the detections of an image from a model's outputs.

        Args:
            outputs: `boxes` (N,D,4) or (N,D,5), `scores` (N,D), `classes` (N,D), `count` (N,), and possibly
                `candidates` (N,) and `keypoints` (N,D,J,P) or `masks` (N,D,H,W).
            index: Index of the image.
            parameters: Parameters of the post-processor: `candidates`, the number that it compares, and `box_format`.
        """
        known = parameters or {}
        limit = known.get("candidates")
        count = int(outputs["count"][index])
        passed = int(outputs["candidates"][index]) if "candidates" in outputs else 0
        boxes, scores, classes = (outputs[name][index, :count] for name in ("boxes", "scores", "classes"))
        form = known.get("box_format", "xyxy")
        oriented = {}
        if boxes.shape[1] == 5:
            corners = oriented_corners(boxes)
            oriented = {"corners": corners}
            boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
        elif form != "xyxy":
            start, size = boxes[:, :2], boxes[:, 2:]
            start = start - size / 2 if form == "cxcywh" else start
            boxes = np.concatenate([start, start + size], 1)
        parts = {name: outputs[name][index, :count] for name in DETECTION_PARTS if name in outputs}
        return cls(boxes, scores, classes, isinstance(limit, int) and passed > limit, {**parts, **oriented})

    def __len__(self) -> int:
        return len(self.scores)

    def chosen(self, which: Array) -> Detections:
        """Return some of them.

        Args:
            which: Indices, or a bool for each.
        """
        parts = {name: array[which] for name, array in self.parts.items()}
        return Detections(self.boxes[which], self.scores[which], self.classes[which], self.truncated, parts)


@dataclass(frozen=True)
class MarkedBoxes:
    """Ground truth of an image.

    Attributes:
        boxes: Corners x1, y1, x2, y2 in pixels of the image, float64, (M,4).
        classes: Index of the class of each, int64, (M,).
        crowds: True for a box around a group of objects, bool, (M,). Detections in it are neither right nor wrong.
    """

    boxes: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]
    crowds: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.classes)

    def of_class(self, index: int) -> MarkedBoxes:
        """Return the boxes of a class."""
        chosen = self.classes == index
        return MarkedBoxes(self.boxes[chosen], self.classes[chosen], self.crowds[chosen])


def oriented_corners(boxes: Array) -> Array:
    """Return the corners of boxes given as centre, size and angle in radians, (D,5): float32, (D,4,2).

    Source: Ultralytics, `xywhr2xyxyxyxy`.
    """
    centre, half, angle = boxes[:, None, :2], boxes[:, 2:4] / 2, boxes[:, 4]
    cos, sin = np.cos(angle), np.sin(angle)
    along = (half[:, 0] * np.stack([cos, sin])).T[:, None]
    across = (half[:, 1] * np.stack([-sin, cos])).T[:, None]
    corners = [centre + along + across, centre + along - across, centre - along - across, centre - along + across]
    return np.concatenate(corners, 1).astype(np.float32)


def overlaps(found: Array, others: Array, crowds: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.float64]:
    """Compute the intersection over union of each pair, as COCO's evaluation does.

    Args:
        found: Corners, (D,4).
        others: Corners, (M,4).
        crowds: True for boxes of `others` whose union is the area of the found box alone, (M,).

    Returns:
        Numbers from 0 to 1, (D,M).
    """
    one, two = found.astype(np.float64)[:, None], others.astype(np.float64)[None]
    sides = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2])
    shared = np.where((sides > 0).all(-1), sides[..., 0] * sides[..., 1], 0.0)
    own, other = ((each[..., 2:] - each[..., :2]).prod(-1) for each in (one, two))
    union = own + other - shared
    if crowds is not None:
        union = np.where(crowds, own, union)
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0))
