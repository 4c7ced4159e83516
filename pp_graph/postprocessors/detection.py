"""`DetectionPostProcessor`: boxes, scores and classes of what a detector found, as lists of fixed size."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, get_args

import numpy as np

from pp_graph.errors import OutputRoleError, PostProcessorError
from pp_graph.model import RawModel, describe_outputs
from pp_graph.model.image_size import image_size
from pp_graph.postprocessors.classification import Activation, checked_labels, checked_probability
from pp_graph.postprocessors.detection_anchors import Background, anchors_as_text, stored_anchors
from pp_graph.postprocessors.detection_heads import HEADS, Head
from pp_graph.postprocessors.detection_parts import (
    PART_OUTPUTS,
    MaskSize,
    checked_key_points,
    default_detections,
    part_names,
)
from pp_graph.postprocessors.detection_steps import COCO_IDS, activation_of, class_count, detection_steps
from pp_graph.postprocessors.head_choice import choose_head, corner_outputs, named_head, stored_key_points
from pp_graph.postprocessors.head_finding import RAW_BOXES, RAW_CANDIDATES, RAW_HEAT, RAW_POINTS, RAW_SCORES
from pp_graph.postprocessors.inner_scores import find_logits
from pp_graph.postprocessors.listed_heads import BACKGROUND, require_one_image
from pp_graph.postprocessors.post_processor import PostProcessor, chosen_outputs
from pp_graph.program import DETECTION_OUTPUTS, Output, Signature, packed_detections, renamed_detections
from pp_graph.program.detection_forms import model_api_detections
from pp_graph.steps.candidate_scores import MOST_CANDIDATES
from pp_graph.steps.overlaps import MOST_UNROLLED
from pp_graph.steps.step import as_float32, require_one_of, require_whole

if TYPE_CHECKING:
    from pp_graph.program import OutputDescription, Predictions, Program
    from pp_graph.statistics import Statistics
    from pp_graph.steps import BoxForm, Step
    from pp_graph.values import ValueType

AUTO: Final = "auto"
"""Tell the head by the axes and sizes of the model's outputs."""


def _outputs(names: tuple[str, ...], form: str, wanted: Collection[str]) -> tuple[Output, ...]:
    return (
        Output("boxes", ("NKP",), "box", f"boxes in pixels of the input, {form}"),
        Output("scores", ("NK",), "number", "score of each box, largest first"),
        Output("classes", ("NK",), "class", "class of each box; -1 for none", names),
        Output("count", ("N",), "count", "number of boxes"),
        Output("candidates", ("N",), "count", "number of candidates above the confidence"),
        *(
            Output(name, axes, meaning, description)
            for name, axes, meaning, description in PART_OUTPUTS
            if name in wanted
        ),
    )


@dataclass(frozen=True)
class DetectionPostProcessor(PostProcessor):
    """Post-processing for detectors: candidates in, at most D boxes out.

    - `boxes`: the boxes in pixels of the model's input, float32, (N,D,4); 0 after the last. Of oriented
      boxes centre, size and angle in radians, from 0 to pi/2 clockwise as seen in the image, (N,D,5).
    - `scores`: their scores, by score descending, then by index of the candidate, float32, (N,D); 0 after the last.
    - `classes`: their classes, int32, (N,D); -1 after the last.
    - `count`: their number, int32, (N,).
    - `keypoints`: of heads with key points, x, y and possibly visibility of each point in pixels of the model's input,
      float32, (N,D,J,2) or (N,D,J,3); 0 after the last.
    - `masks`: of heads with masks, the pixels of each detection, bool, (N,D,H,W); empty after the last.
    - `candidates`: how many candidates exceed the confidence, int32, (N,). If they are more than the option
      `candidates`, those with the smallest scores were left out.

    A candidate passes if the score of a class exceeds the confidence, strictly; NaN never does. Its class is that of
    its largest passing score. The best candidates are chosen first, and only these are decoded. A box is suppressed if
    its IoU with a kept box of a larger score exceeds the threshold, strictly. An oriented box is suppressed if its
    probabilistic IoU with any box of a larger score does, kept or not, as Ultralytics' fast suppression does.

    Attributes:
        statistics: Not used.
        head: Form in which the model returns boxes, one of `HEADS`, or `auto` to tell it by axes and sizes.
        confidence: Score in [0, 1] that a detection exceeds; one, or one for each class.
        iou: Intersection over union in [0, 1] above which the box of the smaller score is suppressed.
        class_aware: True to let only boxes of the same class suppress each other.
        max_detections: Number D of boxes in the outputs; None for 300, with masks 100, and with masks of the input's
            size 20.
        candidates: Number of candidates that suppression sees, at most 4,096.
        labels: Name of each class, in order; empty takes the names that Ultralytics writes into a model, if any.
        box_format: Form of the boxes: `xyxy` (two corners), `xywh` (a corner and sizes) or `cxcywh` (centre and sizes).
        activation: Function that turns the model's scores into probabilities: `softmax`, `sigmoid` or `none`. None
            chooses: `none` if the model ends in one of these, else that of the head. If the scores are the result of a
            Sigmoid, None also reads its input instead: candidates are chosen by logits, and only the chosen ones get
            their probability. `none` reads the model's output itself.
        class_count: Number of class scores of a candidate, if mask coefficients or key points follow them; None takes
            all.
        key_points: Number of key points and numbers of each, 2 or 3, of head `yolov8-pose`; None takes those that
            Ultralytics writes into a model.
        mask_size: Size of the masks of head `yolov8-seg`: that of the `prototypes`, or of the model's `input`.
        anchors: Centre and size of each anchor of head `ssd`, as shares of the image, (K,4); kept as text. None takes
            those that the model holds as an output or a weight, if any.
        background: Which of the scores of head `ssd` means that there is no object: `first`, `last` or `none`. Classes
            count from 0 without it.
        variances: Factors of the deltas of head `ssd`, of centres and of sizes.
        every_class: True to return a box for each class that passes, instead of the best one of a candidate.
        loop_free: True to suppress without the operator Loop, for devices that lack it; D is then at most 100.
        outputs: Outputs to compute, from those above; None for all.
        pack: True to return one tensor `detections` instead of boxes, scores, classes and count, float32, (N,D,6):
            corners, score, class, as Ultralytics' export with `nms=True`; 0 after the last, but -1 for the class.
        names: `efficient-nms` returns `num_dets` (N,1), `det_boxes`, `det_scores` and `det_classes`, as TensorRT's
            EfficientNMS plugin; `model-api` returns `bboxes`, corners and score, (N,D,5), and `labels`, int64, (N,D),
            which the SSD wrapper of Intel's Model API reads; `own` the names above.
        thresholds: `runtime` makes confidence and IoU inputs with defaults (`confidence_cutoff`, on the scores that the
            model compares, and `iou_threshold`; states in an IR), so that they can change while the model runs; see
            `pp_graph.cutoffs_for`. `fixed` writes constants.

    Raises:
        PostProcessorError: An option is outside its range, or two exclude each other.
    """

    tunable: ClassVar[tuple[str, ...]] = ("confidence", "iou")
    statistics: Statistics | None = None
    head: str = AUTO
    confidence: float | tuple[float, ...] = 0.25
    iou: float = 0.45
    class_aware: bool = True
    max_detections: int | None = None
    candidates: int = 1000
    labels: tuple[str, ...] = ()
    box_format: BoxForm = "xyxy"
    activation: Activation | None = None
    class_count: int | None = None
    key_points: tuple[int, int] | None = None
    mask_size: MaskSize = "prototypes"
    anchors: str | None = None
    background: Background = "first"
    variances: tuple[float, float] = (0.1, 0.2)
    every_class: bool = False
    loop_free: bool = False
    thresholds: Literal["fixed", "runtime"] = "fixed"
    outputs: tuple[str, ...] | None = None
    pack: bool = False
    names: Literal["own", "efficient-nms", "model-api"] = "own"

    def __post_init__(self) -> None:
        """Check each option."""
        require_one_of(self.head, "head", (AUTO, *HEADS))
        require_one_of(self.activation, "activation", (*get_args(Activation), None))
        require_one_of(self.thresholds, "thresholds", ("fixed", "runtime"))
        require_one_of(self.box_format, "box_format", ("xyxy", "xywh", "cxcywh"))
        most = default_detections(self) if self.max_detections is None else self.max_detections
        require_whole(most, "max_detections", 1, MOST_CANDIDATES)
        require_one_of(self.mask_size, "mask_size", get_args(MaskSize))
        require_whole(self.candidates, "candidates", 1, MOST_CANDIDATES)
        if self.class_count is not None:
            require_whole(self.class_count, "class_count", 1)
        if self.anchors is not None:
            object.__setattr__(self, "anchors", anchors_as_text(self.anchors))
        require_one_of(self.background, "background", get_args(Background))
        first, second = (as_float32(each, "variances") for each in self.variances)
        object.__setattr__(self, "variances", (float(first), float(second)))
        if self.key_points is not None:
            object.__setattr__(self, "key_points", checked_key_points(self.key_points))
        require_one_of(self.names, "names", ("own", "efficient-nms", "model-api"))
        for name in ("class_aware", "every_class", "loop_free", "pack"):
            if not isinstance(getattr(self, name), bool):
                raise PostProcessorError(f"{name} is {getattr(self, name)!r}, expected True or False.")
        if self.loop_free and most > MOST_UNROLLED:
            raise PostProcessorError(
                f"max_detections is {most} with loop_free, expected at most {MOST_UNROLLED}. Lower it "
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
        object.__setattr__(self, "outputs", None if self.outputs is None else tuple(self.outputs))
        object.__setattr__(self, "declared_outputs", self._chosen_outputs())
        object.__setattr__(self, "roles", () if self.head == AUTO else HEADS[self.head].roles)

    def _chosen_outputs(self) -> tuple[Output, ...]:
        """Return the outputs to compute, after checking that options fit each other."""
        oriented = self.head != AUTO and HEADS[self.head].oriented
        possible = _outputs(
            self.labels, "centre, size and angle" if oriented else self.box_format, part_names(self.head)
        )
        form = "pack" if self.pack else "names" if self.names != "own" else ""
        upright = {
            form: bool(form),
            f"box_format={self.box_format!r}": self.box_format != "xyxy",
            "thresholds='runtime'": self.thresholds == "runtime",
        }
        reason = next((name for name, given in upright.items() if given), None)
        if oriented and reason is not None:
            raise PostProcessorError(
                f"{reason} is given for head '{self.head}', expected none: its boxes are oriented, with centre, "
                "size and angle. Leave it out."
            )
        if form:
            excluded = {
                "outputs": self.outputs is not None,
                f"box_format={self.box_format!r}": self.box_format != "xyxy",
                "names": self.pack and self.names != "own",
            }
            reason = next((name for name, given in excluded.items() if given), None)
            if reason is not None:
                raise PostProcessorError(
                    f"{form} is given together with {reason}, expected one of them: the form has corners, scores and "
                    "classes in a fixed order. Leave out one."
                )
            # Key points and masks stay outputs of their own.
            return tuple(output for output in possible if output.name in (*DETECTION_OUTPUTS, *part_names(self.head)))
        return chosen_outputs(possible, self.outputs)

    def arranged(
        self, outputs: tuple[OutputDescription, ...], types: Mapping[str, ValueType]
    ) -> tuple[OutputDescription, ...]:
        """Return the outputs in the form in which the model returns them."""
        del types
        if self.pack:
            return packed_detections(outputs)
        forms = {"efficient-nms": renamed_detections, "model-api": model_api_detections}
        return outputs if self.names == "own" else forms[self.names](outputs)

    def bind(self, raw: RawModel | Signature, roles: Mapping[str, str] | None = None) -> Program:
        """Find the head in a raw model, and bind to it; see `PostProcessor.bind`.

        Raises:
            OutputRoleError: No head fits, or several do.
        """
        if not isinstance(raw, RawModel):
            self._require_head()
            return super().bind(raw, roles)
        outputs, size, metadata = describe_outputs(raw), image_size(raw), raw.model.metadata_props
        if roles:
            outputs = tuple(each for each in outputs if each.name in roles.values())
        if self.head == AUTO:
            head, reading = choose_head(outputs, size, metadata, corner_outputs(raw))
        else:
            head, reading = HEADS[self.head], named_head(outputs, size, self.head, given=bool(roles))
        task = metadata.get("task", "detect")
        if task == "obb" and not head.oriented:
            raise OutputRoleError(
                f"head is '{head.name}', and the model returns oriented boxes, as its metadata says (task=obb), "
                "expected head 'yolov8-obb'. Name it (--head yolov8-obb), or leave the head out."
            )
        labels = self.labels or _stored_labels(raw)
        classes = self.class_count
        if classes is None and labels and task in ("segment", "pose") and head.name == "yolov8":
            classes = len(labels)
        points = self.key_points
        if points is None and head.points == "parts":
            points = stored_key_points(metadata)
        post = dataclasses.replace(self, head=head.name, labels=labels, class_count=classes, key_points=points)
        named = {**reading.roles, **(roles or {})}
        if head.one_image:
            require_one_image(raw, head)
        signature = Signature.of_model(raw, head.roles, named)
        if any("N" not in value.axes for value in signature.values()):
            require_one_image(raw, head)
        if head.decode == "deltas" and self.anchors is None:
            anchors = stored_anchors(raw, signature[RAW_SCORES].size("K"), size)
            post = dataclasses.replace(post, anchors=None if anchors is None else anchors_as_text(anchors))
        read = {role: match.output.name for role, match in signature.matches.items()}
        # An activation that the user gave is about the outputs.
        inside = find_logits(raw, head, read) if self.activation is None and classes is None else None
        if inside is not None:
            head, inner = inside
            replaced = [match for role, match in signature.matches.items() if inner.get(role) != match.output.name]
            signature = Signature.of_model(raw, head.roles, inner, inner=inner.values(), replaced=replaced)
            post = dataclasses.replace(post, head=head.name, activation="sigmoid")
        return super(DetectionPostProcessor, post).bind(signature)

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
        if self.max_detections is None:
            return dataclasses.replace(self, max_detections=default_detections(self)).settled(raw)
        head = self._head
        if head.from_one and self.labels and self.labels[0].strip("_").lower() not in BACKGROUND:
            return dataclasses.replace(self, labels=("background", *self.labels)).settled(raw)
        joints = raw[RAW_POINTS].size("J") if RAW_POINTS in raw and head.order else None
        if joints is not None and self.key_points is None:
            return dataclasses.replace(self, key_points=(joints, 3)).settled(raw)
        role = next(
            name for name in (RAW_CANDIDATES, RAW_SCORES, f"{RAW_SCORES}_0", RAW_HEAT, RAW_BOXES) if name in raw
        )
        what = f"output '{raw.outputs[role]}', {raw[role]}," if role in raw.outputs else f"the value, {raw[role]},"
        ends_in = raw.activations.get(role)
        if self.activation is None:
            chosen: Any = activation_of(self) if ends_in is None else "none"
            return dataclasses.replace(self, activation=chosen).settled(raw)
        if ends_in is not None and self.activation != "none":
            raise PostProcessorError(
                f"activation is {self.activation}, and {what} holds probabilities, because the model ends in a "
                f"{ends_in}, expected none. Leave the activation out."
            )
        confidences = len(self.confidence) if isinstance(self.confidence, tuple) else 1
        if head.class_part is not None:
            if confidences > 1:
                raise PostProcessorError(
                    f"There are {confidences} confidences, and {what} holds one score a box, expected one confidence "
                    "(--confidence 0.25)."
                )
            if self.every_class:
                raise PostProcessorError(
                    f"every_class is True, and {what} holds one class a box, expected False (no --every-class)."
                )
            return self
        count = class_count(self, raw)
        implied = self._implied_classes(count)
        if implied is not None and self.class_count is None:
            return dataclasses.replace(self, class_count=implied).settled(raw)
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

    def _implied_classes(self, count: int | None) -> int | None:
        """Number of classes, if something may follow their scores; None where all scores are classes."""
        if self._head.spare and count not in (None, COCO_IDS) and len(self.labels) + 1 == count:
            return len(self.labels)
        follows = self._head.extends is not None or self._head.bins
        return count if follows and count is not None and count > 0 else None

    def steps(self, raw: Signature) -> tuple[Step, ...]:
        """Choose the best candidates by their raw scores, decode these, and suppress overlaps."""
        return detection_steps(self, raw)


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
