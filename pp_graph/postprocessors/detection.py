"""`DetectionPostProcessor`: boxes, scores and classes of what a detector found, as lists of fixed size."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.errors import OutputRoleError, PostProcessorError
from pp_graph.model import RawModel, describe_outputs
from pp_graph.postprocessors.classification import checked_labels, checked_probability
from pp_graph.postprocessors.detection_heads import (
    HEADS,
    RAW_BOXES,
    RAW_CANDIDATES,
    RAW_HEAT,
    RAW_OFFSETS,
    RAW_SCORES,
    RAW_SIZES,
    Head,
    choose_head,
    find_heads,
    grid_levels,
    named_head,
)
from pp_graph.postprocessors.post_processor import PostProcessor
from pp_graph.program import Output, Signature
from pp_graph.program.signature import image_size
from pp_graph.steps import (
    AnchorBoxes,
    BestClass,
    BestScore,
    BoxForm,
    ConvertBoxes,
    CountPassing,
    CountPlaces,
    DistanceBoxes,
    ExceedsConfidence,
    ExpectedDistances,
    FlattenMap,
    GatherCandidates,
    GridBoxes,
    JoinCandidates,
    JoinParts,
    MaskScores,
    PadCandidates,
    PlacesOfPassing,
    ScaleScores,
    SelectCandidates,
    Sigmoid,
    Softmax,
    Step,
    SuppressOverlaps,
    TakeDetections,
    TakeParts,
)
from pp_graph.steps.box_decoding import grid
from pp_graph.steps.candidate_scores import MOST_CANDIDATES
from pp_graph.steps.candidates import NO_SCORE
from pp_graph.steps.overlaps import MOST_UNROLLED
from pp_graph.steps.step import require_one_of, require_whole

if TYPE_CHECKING:
    from pp_graph.program import Predictions, Program
    from pp_graph.statistics import Statistics

AUTO: Final = "auto"
"""Tell the head by the axes and sizes of the model's outputs."""


def _outputs(names: tuple[str, ...], form: str) -> tuple[Output, ...]:
    return (
        Output("boxes", ("NKP",), "box", f"boxes in pixels of the input, {form}"),
        Output("scores", ("NK",), "number", "score of each box, largest first"),
        Output("classes", ("NK",), "class", "class of each box; -1 for none", names),
        Output("count", ("N",), "count", "number of boxes"),
        Output("candidates", ("N",), "count", "number of candidates above the confidence"),
    )


@dataclass(frozen=True)
class DetectionPostProcessor(PostProcessor):
    """Post-processing for detectors: candidates in, at most D boxes out.

    - `boxes`: the boxes in pixels of the model's input, float32, (N,D,4); 0 after the last.
    - `scores`: their scores, by score descending, then by index of the candidate, float32, (N,D); 0 after the last.
    - `classes`: their classes, int32, (N,D); -1 after the last.
    - `count`: their number, int32, (N,).
    - `candidates`: how many candidates exceed the confidence, int32, (N,). If they are more than the option
      `candidates`, those with the smallest scores were left out.

    A candidate passes if the score of a class exceeds the confidence, strictly; NaN never does. Its class is that of
    its largest passing score. The best candidates are chosen first, and only these are decoded. A box is suppressed if
    its IoU with a kept box of a larger score exceeds the threshold, strictly.

    Attributes:
        statistics: Not used.
        head: Form in which the model returns boxes, one of `HEADS`, or `auto` to tell it by axes and sizes.
        confidence: Score in [0, 1] that a detection exceeds; one, or one for each class.
        iou: Intersection over union in [0, 1] above which the box of the smaller score is suppressed.
        class_aware: True to let only boxes of the same class suppress each other.
        max_detections: Number D of boxes in the outputs.
        candidates: Number of candidates that suppression sees, at most 4,096.
        labels: Name of each class, in order; empty takes the names that Ultralytics writes into a model, if any.
        box_format: Form of the boxes: `xyxy` (two corners), `xywh` (a corner and sizes) or `cxcywh` (centre and sizes).
        class_count: Number of class scores of a candidate, if mask coefficients or key points follow them; None takes
            all.
        loop_free: True to suppress without the operator Loop, for devices that lack it; D is then at most 100.

    Raises:
        PostProcessorError: An option is outside its range, or two exclude each other.
    """

    statistics: Statistics | None = None
    head: str = AUTO
    confidence: float | tuple[float, ...] = 0.25
    iou: float = 0.45
    class_aware: bool = True
    max_detections: int = 300
    candidates: int = 1000
    labels: tuple[str, ...] = ()
    box_format: BoxForm = "xyxy"
    class_count: int | None = None
    loop_free: bool = False

    def __post_init__(self) -> None:
        """Check each option."""
        require_one_of(self.head, "head", (AUTO, *HEADS))
        require_one_of(self.box_format, "box_format", ("xyxy", "xywh", "cxcywh"))
        require_whole(self.max_detections, "max_detections", 1, MOST_CANDIDATES)
        require_whole(self.candidates, "candidates", 1, MOST_CANDIDATES)
        if self.class_count is not None:
            require_whole(self.class_count, "class_count", 1)
        for name in ("class_aware", "loop_free"):
            if not isinstance(getattr(self, name), bool):
                raise PostProcessorError(f"{name} is {getattr(self, name)!r}, expected True or False.")
        if self.loop_free and self.max_detections > MOST_UNROLLED:
            raise PostProcessorError(
                f"max_detections is {self.max_detections} with loop_free, expected at most {MOST_UNROLLED}. Lower it "
                f"(--max-detections {MOST_UNROLLED}), or leave loop_free out."
            )
        given: Any = self.confidence
        if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str):
            if not len(given):
                raise PostProcessorError("confidence is empty, expected a score, or one for each class.")
            levels = tuple(checked_probability(each, f"confidence[{place}]") for place, each in enumerate(given))
            object.__setattr__(self, "confidence", levels)
        else:
            object.__setattr__(self, "confidence", checked_probability(given, "confidence"))
        object.__setattr__(self, "iou", checked_probability(self.iou, "iou"))
        object.__setattr__(self, "labels", checked_labels(self.labels))
        object.__setattr__(self, "declared_outputs", _outputs(self.labels, self.box_format))
        object.__setattr__(self, "roles", () if self.head == AUTO else HEADS[self.head].roles)

    def parameters(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        return {name: list(each) if isinstance(each, tuple) else each for name, each in super().parameters().items()}

    def bind(self, raw: RawModel | Signature, roles: Mapping[str, str] | None = None) -> Program:
        """Find the head in a raw model, and bind to it; see `PostProcessor.bind`.

        Raises:
            OutputRoleError: No head fits, or several do.
        """
        if not isinstance(raw, RawModel):
            self._require_head()
            return super().bind(raw, roles)
        outputs, size = describe_outputs(raw), image_size(raw)
        if self.head == AUTO:
            head, reading = choose_head(outputs, size)
        else:
            head, reading = HEADS[self.head], named_head(outputs, size, self.head, given=bool(roles))
        task = raw.model.metadata_props.get("task", "detect")
        if task == "obb":
            raise OutputRoleError(
                "The model returns oriented boxes, as its metadata says (task=obb), expected upright ones. Export a "
                "detector of upright boxes."
            )
        labels = self.labels or _stored_labels(raw)
        classes = self.class_count
        if classes is None and labels and task in ("segment", "pose") and head.class_start is not None:
            classes = len(labels)
        post = dataclasses.replace(self, head=head.name, labels=labels, class_count=classes)
        return super(DetectionPostProcessor, post).bind(raw, {**reading.roles, **(roles or {})})

    def __call__(self, raw: Mapping[str, Any] | object) -> Predictions:
        """Post-process raw values in NumPy; see `PostProcessor.__call__`.

        Raises:
            PostProcessorError: The head is `auto`.
        """
        self._require_head()
        return super().__call__(raw)

    def _require_head(self) -> None:
        if self.head == AUTO:
            raise PostProcessorError(
                f"head is 'auto' without a model to tell it from, expected one of: {', '.join(HEADS)}."
            )

    @property
    def _head(self) -> Head:
        return HEADS[self.head]

    def settled(self, raw: Signature) -> DetectionPostProcessor:
        """Check the numbers of labels and confidences against the number of classes."""
        head = self._head
        role = next(name for name in (RAW_CANDIDATES, RAW_SCORES, f"{RAW_SCORES}_0", RAW_HEAT) if name in raw)
        what = f"output '{raw.outputs[role]}', {raw[role]}," if role in raw.outputs else f"the value, {raw[role]},"
        confidences = len(self.confidence) if isinstance(self.confidence, tuple) else 1
        if head.class_part is not None:
            if confidences > 1:
                raise PostProcessorError(
                    f"There are {confidences} confidences, and {what} holds one score a box, expected one confidence "
                    "(--confidence 0.25)."
                )
            return self
        found = raw[role].size("P" if head.class_start is not None else "C")
        count = None if found is None else found - (head.class_start or 0) - head.background
        if self.class_count is not None and count is not None and self.class_count <= count:
            count = self.class_count
        if count is None or count < 1 or self.class_count not in (None, count):
            number = "open" if count is None else count
            raise PostProcessorError(
                f"The number of classes of {what} is {number}, expected "
                f"{'at least one' if self.class_count is None else self.class_count}. Name the head that the model has "
                "(--head), and export it with its output shapes."
            )
        for given, name, flag in (
            (len(self.labels) or count, "labels", "--labels"),
            (confidences if confidences > 1 else count, "confidences", "--confidence"),
        ):
            if given != count:
                raise PostProcessorError(
                    f"There are {given} {name}, and {what} has {count} classes as head '{head.name}', expected one for "
                    f"each class, in order ({flag})."
                )
        return self

    def steps(self, raw: Signature) -> tuple[Step, ...]:
        """Choose the best candidates by their raw scores, decode these, and suppress overlaps."""
        head, most = self._head, self.max_detections
        steps, sources = self._joined(raw)
        scored = RAW_CANDIDATES if RAW_CANDIDATES in sources else RAW_SCORES
        if head.activation == "softmax":
            steps.append(Softmax(sources[scored], "all_probabilities"))
            sources[scored] = "all_probabilities"
        steps += self._masked(sources[scored], "")
        scores = "scores_that_pass"
        if head.class_part is None:
            scores = "best"
            steps.append(BestScore("scores_that_pass", "best"))
        steps += [
            CountPassing(scores, "candidates"),
            SelectCandidates(scores, "order", self.candidates),
            GatherCandidates(scores, "chosen_best", "order"),
        ]
        if RAW_HEAT in raw or raw[scored if scored in raw else f"{scored}_0"].axes == "NPK":
            # Scores of one candidate lie far apart: finding the class of all is quicker than gathering the scores.
            if RAW_CANDIDATES in sources:
                steps.append(TakeParts(sources[scored], "box_parts", head.box_start, head.box_start + 4))
                sources = {RAW_BOXES: "box_parts"}
            steps += [
                BestClass("scores_that_pass", "best_classes", "best"),
                GatherCandidates("best_classes", "chosen_classes", "order"),
                GatherCandidates(sources[RAW_BOXES], f"chosen_{RAW_BOXES}", "order"),
            ]
        else:
            steps += [GatherCandidates(source, f"chosen_{name}", "order") for name, source in sources.items()]
            if head.class_part is not None:
                part = head.class_part
                steps.append(TakeParts(f"chosen_{scored}", "chosen_classes", part, part + 1))
            else:
                steps += self._masked(f"chosen_{scored}", "chosen_")
                steps.append(BestClass("chosen_scores_that_pass", "chosen_classes", "chosen_best"))
            if RAW_CANDIDATES in sources:
                start = head.box_start
                steps.append(TakeParts(f"chosen_{RAW_CANDIDATES}", f"chosen_{RAW_BOXES}", start, start + 4))
        steps += self._boxes(raw)
        scores = "chosen_best"
        if head.activation == "sigmoid":
            steps.append(Sigmoid("chosen_best", "chosen_scores", "normal"))
            scores = "chosen_scores"
        if head.overlapping:
            classes = "chosen_classes" if self.class_aware else None
            steps.append(
                SuppressOverlaps("chosen_boxes", "kept", "chosen_best", most, self.iou, classes, self.loop_free)
            )
        else:
            steps.append(PlacesOfPassing("chosen_best", "kept", most))
        corners = "boxes" if self.box_format == "xyxy" else "corners"
        steps += [
            TakeDetections("chosen_boxes", corners, "kept"),
            TakeDetections(scores, "scores", "kept"),
            TakeDetections("chosen_classes", "classes", "kept", padding=-1.0, whole=True),
            CountPlaces("kept", "count"),
        ]
        if self.box_format != "xyxy":
            steps.append(ConvertBoxes(corners, "boxes", "xyxy", self.box_format))
        return tuple(steps)

    def _joined(self, raw: Signature) -> tuple[list[Step], dict[str, str]]:
        """Join levels and maps to one list of candidates; return its values by role."""
        head = self._head
        if RAW_HEAT in raw:
            # Sizes and offsets are of y, then x.
            return [
                FlattenMap(RAW_HEAT, "scores_of_pixels"),
                FlattenMap(RAW_OFFSETS, "offsets_of_pixels", parts=True),
                FlattenMap(RAW_SIZES, "sizes_of_pixels", parts=True),
                JoinParts("offsets_of_pixels", "boxes_of_pixels", "sizes_of_pixels", (1, 0, 3, 2)),
            ], {RAW_SCORES: "scores_of_pixels", RAW_BOXES: "boxes_of_pixels"}
        if f"{RAW_SCORES}_0" in raw:
            joined: list[Step] = []
            sources = {}
            for role in (RAW_SCORES, RAW_BOXES):
                levels = [name for name in raw if name.startswith(f"{role}_")]
                joined.append(JoinCandidates(levels[0], f"{role[4:]}_of_levels", tuple(levels[1:])))
                sources[role] = f"{role[4:]}_of_levels"
            return joined, sources
        if all(value.size("K") is not None for value in raw.values()):
            return [], {name: name for name in raw}
        if head.activation == "softmax":
            raise PostProcessorError(
                f"The number of candidates of {next(iter(raw.values()))} is open, expected a known one for head "
                f"'{head.name}'. Export the model with its output shapes."
            )
        # An open number of candidates may be smaller than the number to select.
        padding = 0.0 if head.activation == "none" else float(NO_SCORE)
        padded: list[Step] = [PadCandidates(name, f"{name}_padded", self.candidates, padding) for name in raw]
        return padded, {name: f"{name}_padded" for name in raw}

    def _masked(self, source: str, prefix: str) -> list[Step]:
        """Find the passing scores among the parts of candidates."""
        head = self._head
        steps: list[Step] = []
        scores = f"{prefix}class_scores"
        if head.class_part is not None:
            steps.append(TakeParts(source, scores, head.class_part - 1, head.class_part))
        elif head.class_start is not None:
            stop = None if self.class_count is None else head.class_start + self.class_count
            steps.append(TakeParts(source, scores, head.class_start, stop, classes=True))
        elif head.background:
            steps.append(TakeParts(source, scores, 0, -1, classes=True))
        else:
            scores = source
        if head.objectness is not None:
            steps.append(TakeParts(source, f"{prefix}objectness", head.objectness, head.objectness + 1))
            steps.append(ScaleScores(scores, f"{prefix}products", f"{prefix}objectness"))
            scores = f"{prefix}products"
        compared = scores
        if head.activation == "sigmoid":
            compared = f"{prefix}probabilities"
            steps.append(Sigmoid(scores, compared, "normal"))
        levels = self.confidence if isinstance(self.confidence, tuple) else (self.confidence,)
        steps.append(ExceedsConfidence(compared, f"{prefix}passing", levels))
        steps.append(MaskScores(scores, f"{prefix}scores_that_pass", f"{prefix}passing"))
        return steps

    def _boxes(self, raw: Signature) -> list[Step]:
        """Decode the boxes of the chosen candidates."""
        head = self._head
        source = f"chosen_{RAW_BOXES}"
        steps: list[Step] = []
        if head.decode == "distances":
            steps.append(ExpectedDistances(source, "chosen_distances"))
            source = "chosen_distances"
        elif head.decode == "anchors":
            steps.append(TakeParts(source, "chosen_parts", head.box_start, head.box_start + 4))
            source = "chosen_parts"
        if raw.input_size is None and (head.decode != "corners" or head.normalised):
            raise PostProcessorError(
                f"The size of the model's images is unknown, expected a known one: head '{head.name}' returns boxes "
                "relative to it. Export the model with a fixed height and width."
            )
        height, width = raw.input_size or (1, 1)
        if head.decode == "corners":
            scale = (float(width), float(height)) if head.normalised else (1.0, 1.0)
            return [*steps, ConvertBoxes(source, "chosen_boxes", head.form, scale=scale)]
        if head.decode == "anchors":
            # The same cells for each size of images.
            levels = tuple((16 // each, 16 // each, height * each // 16) for each in (1, 2))
            cells = np.concatenate([grid([level], count) for level, count in zip(levels, head.per_cell, strict=True)])
            centres = (cells[:, :2] + np.float32(head.centre)) * cells[:, 2:]
            anchors = tuple((float(x), float(y), 1.0, 1.0) for x, y in centres)
            self._check_count(raw, len(anchors))
            return [*steps, AnchorBoxes(source, "chosen_boxes", "order", anchors, (1.0, 1.0), exponential=False)]
        count = sum(name.startswith(f"{RAW_SCORES}_") for name in raw) or len(head.strides)
        levels = grid_levels((height, width), head.strides[:count])
        self._check_count(raw, sum(rows * columns for rows, columns, _ in levels))
        if head.decode == "distances":
            return [*steps, DistanceBoxes(source, "chosen_boxes", "order", levels, head.centre)]
        if RAW_HEAT in raw:
            # The parts are in the order (N,4,K).
            steps.append(ConvertBoxes(source, "chosen_parts", "xyxy"))
            source = "chosen_parts"
        return [*steps, GridBoxes(source, "chosen_boxes", "order", levels, head.centre)]

    def _check_count(self, raw: Signature, cells: int) -> None:
        """Raise unless there are as many candidates as cells of a grid."""
        scored = [value for name, value in raw.items() if name.startswith((RAW_SCORES, RAW_CANDIDATES, RAW_HEAT))]
        counts = [value.size("K") if value.map_size is None else math.prod(value.map_size) for value in scored]
        found = None if None in counts else sum(count or 0 for count in counts)
        if found != cells:
            height, width = raw.input_size or (0, 0)
            number = "an open number of" if found is None else f"{found:,}"
            raise PostProcessorError(
                f"{', '.join(map(str, scored))} holds {number} candidates, expected {cells:,} of head '{self.head}' "
                f"for images of {height}x{width} pixels. Export the model with fixed sizes, or name the head that it "
                "has (--head)."
            )


def _stored_labels(raw: RawModel) -> tuple[str, ...]:
    """Names of the classes that Ultralytics writes into a model; empty without."""
    text = raw.model.metadata_props.get("names", "")
    try:
        names = ast.literal_eval(text) if text else {}
    except (SyntaxError, ValueError):
        return ()
    if not isinstance(names, dict) or list(names) != list(range(len(names))):
        return ()
    return tuple(str(name).strip() or str(index) for index, name in names.items())


def detector_hint(raw: RawModel) -> str:
    """Return a sentence that names the head of a detector; empty if a raw model does not look like one."""
    readings = find_heads(describe_outputs(raw), image_size(raw))
    if not readings:
        return ""
    name, reading = next(iter(readings.items()))
    if len(readings) > 1:
        return f" If the model is a detector, use --task detection --head {'|'.join(readings)}."
    return (
        f" If the model is a detector ({HEADS[name].title}; {reading.why}), use --task detection --head {name} "
        "(DetectionPostProcessor)."
    )
