"""Boxes of objects, to measure the average precision of a quantised detector."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pp_graph.calibration.box_matches import average_precision, match_class
from pp_graph.data import Detections, open_ground_truth
from pp_graph.data.fitting import image_shape
from pp_graph.model import image_input
from pp_graph.preprocessing import Placement
from pp_graph.quantization.decisions import typed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pp_graph.data import Images, MarkedBoxes
    from pp_graph.data.ground_truth import GroundTruth
    from pp_graph.fusion import Provenance
    from pp_graph.model import ModelInput
    from pp_graph.program import Program
    from pp_graph.steps import Array

FLOOR = 0.001
"""Confidence for average precision, which depends on detections of low scores too."""


@dataclass(frozen=True)
class BoxJudgement:
    """Detections of one image, and how right they are.

    Attributes:
        index: Index of the image.
        found: Detections with a confidence of at least `FLOOR`, in pixels of the image.
        returned: Those that the model returns, likewise.
        right: F1 of those that the model returns, in [0, 1].
    """

    index: int
    found: Detections
    returned: Detections
    right: float


@dataclass(frozen=True)
class BoxTruth:
    """Images with the boxes of the objects in them, for `Quantization(labelled=...)`.

    Attributes:
        truth: Images and boxes.
        provenance: Provenance of the model.
        size: Height and width of the images that the model takes; None until it is fitted.
    """

    truth: GroundTruth
    provenance: Provenance
    size: tuple[int, int] | None = None

    @classmethod
    def open(cls, boxes: str | Path, images: str | Path, provenance: Provenance, *, letterbox: bool = False) -> Self:
        """Open COCO JSON or YOLO's text files; see `pp_graph.data.open_ground_truth` for arguments and errors."""
        names = provenance.predicted["classes"].class_names
        return cls(open_ground_truth(boxes, images, class_names=names, letterbox=letterbox), provenance)

    @property
    def images(self) -> Images:
        """The images."""
        return self.truth.images

    @property
    def name(self) -> str | None:
        """Name of the file with the boxes."""
        return self.truth.file.name

    def sha256(self) -> str:
        """Return the hash of all boxes."""
        digest = hashlib.sha256()
        for each in self.truth.marked:
            for array in (each.boxes, each.classes, each.crowds):
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def fitted(self, inputs: Sequence[ModelInput], provenance: Provenance) -> Self:
        """Return the truth for a model with these inputs, whose sizes place boxes in the images."""
        images = image_input(inputs)
        assert images is not None
        _, height, width = image_shape(images)
        size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        return replace(self, provenance=provenance, size=size)

    def judge(self, program: Program, raw: Mapping[str, Array], indices: Sequence[int]) -> Sequence[BoxJudgement]:
        """Match the detections of images with their boxes."""
        wide = program.replace(confidence=FLOOR) if "confidence" in self.provenance.parameters else program
        values = typed(program, raw)
        kept, all_ = (each.predictions(each.run(values)) for each in (program, wide))
        judged = []
        for row, index in enumerate(indices):
            lists = [self._placed(Detections.of_outputs(each, row, self.provenance.parameters), index)
                     for each in (kept, all_)]  # fmt: skip
            right = _f1([lists[0]], [self.truth.marked[index]])
            judged.append(BoxJudgement(index, lists[1], lists[0], 1.0 if right is None else right))
        return judged

    def _placed(self, found: Detections, index: int) -> Detections:
        columns, rows = self.truth.sizes[index]
        size = self.size or (rows, columns)
        placed = Placement.of(
            (rows, columns), size, self.provenance.preprocessing, letterbox=self.truth.images.letterbox
        )
        return replace(found, boxes=placed.to_frame(found.boxes))

    def rates(self, judged: Sequence[Any]) -> dict[str, float]:
        """Return AP50 and AP50-95 as COCO computes them."""
        marked = [self.truth.marked[each.index] for each in judged]
        found = [each.found for each in judged]
        seen = [each.classes for each in (*found, *marked)]
        count = max((int(classes.max()) + 1 for classes in seen if len(classes)), default=0)
        means = average_precision(found, marked, count).means
        names = ("average_precision_50", "average_precision_50_95")
        return {name: mean for name, mean in zip(names, means, strict=True) if not math.isnan(mean)}

    def f1(self, judged: Sequence[Any]) -> dict[str, float]:
        """Return the F1 of the boxes that the model returns, of all images and classes, at an overlap of 0.5."""
        right = _f1([each.returned for each in judged], [self.truth.marked[each.index] for each in judged])
        return {} if right is None else {"box": right}


def _f1(found: Sequence[Detections], marked: Sequence[MarkedBoxes]) -> float | None:
    """Return F1 at an overlap of 0.5; None if there are no boxes on either side."""
    seen = [*(each.classes for each in found), *(each.classes for each in marked)]
    classes = sorted({int(index) for each in seen for index in each})
    matches = [match_class(found, marked, index, (0.5,)) for index in classes]
    right, wrong = (sum(int(getattr(each, name).sum()) for each in matches) for name in ("right", "wrong"))
    boxes = sum(each.marked for each in matches)
    return 2 * right / (right + wrong + boxes) if right + wrong + boxes else None
