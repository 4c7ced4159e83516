"""A detector to explore: candidates from a low confidence on, about which the page decides again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data import open_ground_truth, open_images
from pp_graph.data.fitting import image_shape
from pp_graph.errors import DataError, PostProcessorError
from pp_graph.exploring.models import shown_input
from pp_graph.postprocessors import DetectionPostProcessor
from pp_graph.postprocessors.detection_heads import HEADS
from pp_graph.preprocessing import Placement
from pp_graph.steps import ExceedsConfidence
from pp_graph.steps.candidate_scores import MOST_CANDIDATES
from pp_graph.steps.candidates import NO_SCORE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pp_graph.data import GroundTruth, Images, ImageSource
    from pp_graph.fusion import Artifact
    from pp_graph.model import ModelInput
    from pp_graph.program import Program
    from pp_graph.steps import Array

FLOOR: Final = 0.01
"""Lowest confidence on the page, if the model's own is not lower."""
_ENOUGH: Final = 1000
"""Candidates of an image that the page holds below the model's own confidence."""

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ExploredDetector:
    """A detector that lists its candidates; see `Family`.

    A candidate of several classes is listed once for each class that passes a low confidence, before boxes suppress
    each other. The page then does what the graph does: it takes the best class of each candidate that passes, the best
    candidates, and suppresses overlaps, in float32.

    Attributes:
        post: The model's own post-processor.
        program: One that lists the candidates.
        images: The images.
        truth: Boxes of the ground truth; None if unknown.
        placing: Preprocessing of the model, which places images in its input.
        class_names: Name of each class; empty if unknown.
        letterbox: True if images keep their aspect ratio when they are resized.
    """

    name: ClassVar[str] = "a detector"
    script: ClassVar[str] = "detection.js"
    post: DetectionPostProcessor
    program: Program
    images: Images
    truth: GroundTruth | None
    placing: Any
    class_names: tuple[str, ...]
    letterbox: bool

    @classmethod
    def open(
        cls,
        artifact: Artifact,
        images: ImageSource,
        boxes: str | Path | None,
        *,
        letterbox: bool,
        max_pixels: int | None,
        skip_broken: bool,
    ) -> ExploredDetector:
        """Open images and ground truth.

        Raises:
            PostProcessorError: The boxes are oriented.
            DataError: Images or ground truth cannot be read or do not fit.
        """
        post = artifact.program.post
        assert isinstance(post, DetectionPostProcessor)
        head = HEADS[post.head]
        if head.oriented:
            raise PostProcessorError(
                f"The detector's head is '{head.name}', whose boxes are oriented, expected upright boxes to explore. "
                "Draw the results with pp-graph run MODEL IMAGES -o DIR --report FILE.html."
            )
        program = _listing(artifact.program, post, every_class=head.class_part is None)
        names = artifact.provenance.predicted["classes"].class_names
        truth = None
        if boxes is not None:
            if not _is_path(images):
                raise DataError(
                    "Boxes of ground truth are given for arrays, expected a folder of images. Give a folder."
                )
            truth = open_ground_truth(boxes, images, class_names=names, max_pixels=max_pixels, letterbox=letterbox)  # type: ignore[arg-type]
            names = names or truth.class_names
        opened = (
            open_images(images, max_pixels=max_pixels, skip_broken=skip_broken, letterbox=letterbox)
            if truth is None
            else truth.images
        )
        return cls(post, program, opened, truth, artifact.provenance.preprocessing, tuple(names), letterbox)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks about the data."""
        if self.truth is None:
            return (
                *self.images.notes,
                "images without ground truth, so without precision and recall; give --boxes (boxes=...)",
            )
        return (*self.images.notes, *self.truth.notes)

    def numbers(self, values: Mapping[str, Array]) -> list[Numbers]:
        """Return corners, compared score, its probability, shown score, class and index of each candidate, (9,K)."""
        compared = next(step for step in self.program.steps if isinstance(step, ExceedsConfidence))
        scores = "chosen_scores" if "chosen_scores" in self.program.types else "chosen_best"
        wanted = ("chosen_boxes", "chosen_best", scores, "chosen_classes", "order")
        computed = self.program.compute(values, wanted)
        found = []
        for boxes, best, shown, classes, order in zip(*(computed[name] for name in wanted), strict=True):
            limit = best if compared.normalizer is None else compared.normalizer.reference(best)
            rows = np.stack([*boxes.T, best, limit, shown, classes, order]).astype(np.float32)
            found.append(rows[:, best > NO_SCORE])
        return found

    def fitted(self, numbers: list[Numbers]) -> tuple[list[Numbers], dict[str, Any], tuple[str, ...]]:
        """Keep the candidates above the lowest confidence at which all of them are known."""
        own = float(min(np.atleast_1d(self.post.confidence)))
        limits = [each[5] for each in numbers]
        cut = max((float(each[-1]) for each in limits if len(each) == MOST_CANDIDATES), default=0.0)
        many = max((float(each[_ENOUGH]) for each in limits if len(each) > _ENOUGH), default=0.0)
        floor = max(min(FLOOR, own), cut, min(many, own))
        notes: tuple[str, ...] = ()
        if cut > own:
            held = f"an image has more than {MOST_CANDIDATES:,} candidates above that"
            notes = (f"the confidence starts at {floor:.6g} and not at the model's own, {own:g}: {held}",)
        kept = [each[:, each[5] > np.float32(floor)] for each in numbers]
        return kept, {"floor": floor}, notes

    def meta(
        self, places: Sequence[int], sizes: Sequence[tuple[int, int]], inputs: Sequence[ModelInput]
    ) -> dict[str, Any]:
        """Return settings, ground truth, and where images lie in the model's input."""
        _, height, width = image_shape(shown_input(inputs))
        placed = [Placement.of(size[::-1], (height, width), self.placing, letterbox=self.letterbox) for size in sizes]
        marked = None if self.truth is None else [self.truth.marked[place] for place in places]
        head = HEADS[self.post.head]
        return {
            "confidence": self.post.confidence,
            "iou": self.post.iou,
            "classAware": self.post.class_aware,
            "everyClass": self.post.every_class or head.class_part is not None,
            "candidates": self.post.candidates,
            "most": self.post.max_detections,
            "suppresses": head.overlapping,
            "classes": list(self.class_names),
            # Width and height, left and upper edge, and pixels of the image for one of the input.
            "frames": [
                [*size, *each.offset[::-1], size[0] / each.size[1], size[1] / each.size[0]]
                for size, each in zip(sizes, placed, strict=True)
            ],
            "truth": None
            if marked is None
            else [
                [
                    [*map(float, box), int(kind), bool(crowd)]
                    for box, kind, crowd in zip(each.boxes, each.classes, each.crowds, strict=True)
                ]
                for each in marked
            ],
        }


def _listing(program: Program, post: DetectionPostProcessor, *, every_class: bool) -> Program:
    """Return the program with a low confidence, for as many candidates as possible."""
    changes = {"confidence": min(FLOOR, *np.atleast_1d(post.confidence)), "candidates": MOST_CANDIDATES}
    try:
        return program.replace(every_class=every_class, **changes)
    except PostProcessorError:
        # The number of the model's candidates is open. Of each only the best class can be listed, which is all that one
        # confidence for all classes needs.
        if isinstance(post.confidence, tuple):
            raise
        return program.replace(**changes)


def _is_path(images: object) -> bool:
    from pathlib import Path

    return isinstance(images, str | Path)
