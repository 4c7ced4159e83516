"""`SegmentationPostProcessor`: the class of each pixel, a mask of each class, or a matte."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal, get_args

from pp_graph.errors import OutputRoleError, PostProcessorError
from pp_graph.one_class_options import OPTIONS
from pp_graph.postprocessors.classification import Activation, checked_labels, checked_levels
from pp_graph.postprocessors.post_processor import PostProcessor, chosen_outputs
from pp_graph.program import Output, Role
from pp_graph.steps import (
    ArgMax,
    ClassAreas,
    ClassMap,
    Compare,
    ComparePerClass,
    Keep,
    MaskAreas,
    Matte,
    OnNaN,
    PerImageMinMax,
    ResizeMap,
    Sigmoid,
    Softmax,
    Step,
)
from pp_graph.steps.class_maps import MOST_CLASSES
from pp_graph.steps.step import check_on_nan, require_one_of

if TYPE_CHECKING:
    from pp_graph.program import Signature
    from pp_graph.statistics import Statistics
    from pp_graph.values import ValueType

PIXEL_LOGITS: Final = "raw_logits"
PIXEL_CLASSES: Final = "raw_classes"

LOGITS: Final = Role(
    PIXEL_LOGITS,
    ("NCHW", "NHWC", "NHW"),
    names=frozenset({
        "logits", "output", "outputs", "out", "pred", "prediction", "predictions", "segmentation", "semantic", "seg",
        "mask", "masks", "matte", "alpha", "probs", "probabilities", "softmax", "sigmoid",
    }),
    noun="logits",
    meaning="one number per pixel and class",
)  # fmt: skip
"""One number per pixel and class: (N,C,H,W), (N,H,W,C), or (N,H,W) for one class."""

CLASSES: Final = Role(
    PIXEL_CLASSES,
    ("NHW", "NCHW", "NHWC"),
    sizes={"C": 1},
    dtype="int64",
    names=LOGITS.names | {"classes", "class_map", "labels", "argmax"},
    noun="class map",
    meaning="one class index per pixel",
)
"""One class index per pixel: (N,H,W), (N,1,H,W) or (N,H,W,1)."""


def _outputs(names: tuple[str, ...]) -> tuple[Output, ...]:
    return (
        Output("class_scores", ("NCHW", "NHWC"), "number", "number of each pixel and class, of which the largest wins"),
        Output("class_map", ("NHW",), "class", "class of each pixel", names),
        Output("class_masks", ("NCHW", "NHWC", "NHW"), "decision", "whether the pixel is of the class", names),
        Output("class_area", ("NC", "N"), "count", "number of pixels of each class"),
        Output("alpha", ("NCHW", "NHWC", "NHW"), "picture", "opacity of each pixel, 0 to 255"),
    )


@dataclass(frozen=True)
class SegmentationPostProcessor(PostProcessor):
    """Post-processing for segmentation: logits of each pixel in, classes, masks or a matte out.

    - Several classes: `class_map`, the class with the largest logit, as `numpy.argmax`; uint8, (N,H,W).
    - With `class_thresholds`: `class_masks`, whether each pixel is of each class, `probability > threshold`; bool, in
      the layout of the logits.
    - One channel and no threshold: `alpha`, `round(255 * probability)`, uint8, in the layout of the logits.
    - `class_scores`, only if named in `outputs`: the logits, resized as `map_size` says. Alone, and as (N,C,H,W),
      Intel's Model API reads it and chooses the same classes.
    - `class_area`, the number of pixels of each class, int32, (N,C), with a class map or masks.

    A model that returns a class map already (integers) gets it as bytes, and areas if there are `labels`.

    Attributes:
        statistics: Not used.
        activation: Function that turns logits into probabilities for thresholds and mattes: `softmax`, `sigmoid` or
            `none`. None chooses: `none` if the model ends in one of these functions, else `sigmoid`.
        class_thresholds: Threshold in [0, 1] of all classes, or one for each class; None for the largest logit.
        map_size: Height and width to which the logits are resized (bilinear) before anything is decided; `input` for
            the size of the model's input, None for no resizing.
        stretch: Map the range of each image to [0, 1] first, as U2-Net and IS-Net do; mattes only.
        areas: Write `class_area`.
        labels: Name of each class, in order; empty if unknown.
        on_nan: With thresholds, `anomalous` counts a pixel whose logit is NaN to the class; `normal` does not.

        outputs: Outputs to compute, from those above; None for all but `class_scores`.

    Raises:
        PostProcessorError: An option is outside its range, or two exclude each other.
    """

    roles: ClassVar[tuple[Role, ...]] = (LOGITS, CLASSES)  # type: ignore[misc]
    tunable: ClassVar[tuple[str, ...]] = ("class_thresholds",)
    statistics: Statistics | None = None
    activation: Activation | None = None
    class_thresholds: float | tuple[float, ...] | None = None
    map_size: tuple[int, int] | Literal["input"] | None = None
    stretch: bool = False
    areas: bool = True
    labels: tuple[str, ...] = ()
    on_nan: OnNaN = "anomalous"
    outputs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check each option."""
        require_one_of(self.activation, "activation", (*get_args(Activation), None))
        check_on_nan(self.on_nan, "class_masks")
        object.__setattr__(self, "map_size", OPTIONS["map_size"].check(self.map_size))
        object.__setattr__(self, "class_thresholds", checked_levels(self.class_thresholds, "class_thresholds"))
        object.__setattr__(self, "labels", checked_labels(self.labels))
        if self.stretch and self.class_thresholds is not None:
            raise PostProcessorError(
                "stretch is given together with class_thresholds, expected one of them: after stretching, the largest "
                "pixel of every image is 1. Leave out one of them."
            )
        object.__setattr__(self, "outputs", None if self.outputs is None else tuple(self.outputs))
        declared = chosen_outputs(_outputs(self.labels), self.outputs, on_request=("class_scores",))
        object.__setattr__(self, "declared_outputs", declared)

    def settled(self, raw: Signature) -> SegmentationPostProcessor:
        """Choose the activation, resolve `map_size`, and check the number of classes."""
        if PIXEL_LOGITS in raw and PIXEL_CLASSES in raw:
            raise OutputRoleError(
                f"The model returns logits ({raw.outputs.get(PIXEL_LOGITS, PIXEL_LOGITS)}) and a class map "
                f"({raw.outputs.get(PIXEL_CLASSES, PIXEL_CLASSES)}), expected one of them. Remove one of these outputs "
                "from the model."
            )
        if PIXEL_CLASSES in raw:
            return self._settled_for_classes(raw)
        value, ends_in = raw[PIXEL_LOGITS], raw.activations.get(PIXEL_LOGITS)
        output = f"output '{raw.outputs[PIXEL_LOGITS]}'" if PIXEL_LOGITS in raw.outputs else "the value"
        count = value.size("C")
        if count is None or not value.rank_known:
            raise PostProcessorError(
                f"The number of classes of {output}, {value}, is open, expected a known one. Export the model with "
                "its output shapes."
            )
        self._check_count(count, f"{output}, {value},")
        if ends_in is not None and self.activation not in (None, "none"):
            raise PostProcessorError(
                f"activation is {self.activation}, and {output} holds probabilities, because the model ends in a "
                f"{ends_in}, expected none. Leave the activation out, or give 'none' (--activation none)."
            )
        if self.activation == "softmax" and count == 1:
            raise PostProcessorError(
                f"activation is softmax, and {output}, {value}, has one class, expected several. Use "
                "activation='sigmoid' (--activation sigmoid)."
            )
        usual: Activation = "sigmoid" if ends_in is None else "none"
        # The largest logit is that of the largest probability.
        chosen = (
            usual if self.activation is None and (count == 1 or self.class_thresholds is not None) else self.activation
        )
        return dataclasses.replace(self, activation=chosen, map_size=self._resolved_size(raw, value))

    def _settled_for_classes(self, raw: Signature) -> SegmentationPostProcessor:
        given = {
            "activation": self.activation is not None,
            "class_thresholds": self.class_thresholds is not None,
            "map_size": self.map_size is not None,
            "stretch": self.stretch,
        }
        name = next((name for name, is_given in given.items() if is_given), None)
        if name is not None:
            raise PostProcessorError(
                f"{name} is given, and the model returns a class map, {raw[PIXEL_CLASSES]}, expected logits to apply "
                f"it to. Export the model without its last ArgMax, or leave out {name}."
            )
        return self

    def _check_count(self, count: int, what: str) -> None:
        levels = self.class_thresholds
        if self.labels and len(self.labels) != count:
            raise PostProcessorError(
                f"There are {len(self.labels)} labels, and {what} has {count} classes, expected one label for each "
                f"class, in order. Correct the labels (--labels FILE, one name a line), or name another output with "
                f"--role {PIXEL_LOGITS}=NAME."
            )
        if isinstance(levels, tuple) and len(levels) != count:
            raise PostProcessorError(
                f"There are {len(levels)} class_thresholds, and {what} has {count} classes, expected one for all, or "
                "one for each class (--class-thresholds 0.5,0.7,...)."
            )
        if count > MOST_CLASSES and levels is None:
            raise PostProcessorError(
                f"{what} has {count} classes, expected at most {MOST_CLASSES}, which fit a byte. Choose in a recipe, "
                "with arg_max."
            )
        if self.stretch and count > 1:
            raise PostProcessorError(
                f"stretch is given, and {what} has {count} classes, expected one: it is for mattes. Leave it out."
            )

    def _resolved_size(self, raw: Signature, value: ValueType) -> tuple[int, int] | None:
        size = raw.input_size if self.map_size == "input" else self.map_size
        if self.map_size is not None and size is None:
            raise PostProcessorError(
                "map_size is 'input', but the height and width of the model's input are not known. Give numbers: "
                "map_size=(512, 512) (--map-size 512x512), or export the model with a fixed input size."
            )
        return None if size == value.map_size else size

    def steps(self, raw: Signature) -> tuple[Step, ...]:
        """Resize, then choose the class, compare each class, or write the matte."""
        if PIXEL_CLASSES in raw:
            count = len(self.labels)
            return (ClassMap(PIXEL_CLASSES, "class_map"), *self._areas(count))
        logits, count = PIXEL_LOGITS, raw[PIXEL_LOGITS].size("C") or 1
        steps: list[Step] = []
        if isinstance(self.map_size, tuple):
            steps.append(ResizeMap(logits, "resized", *self.map_size))
            logits = "resized"
        if count > 1 and "class_scores" in (self.outputs or ()):
            steps.append(Keep(logits, "class_scores"))
        if self.class_thresholds is None and count > 1:
            return (*steps, ArgMax(logits, "classes"), ClassMap("classes", "class_map"), *self._areas(count))
        steps.append(self._activated(logits))
        if self.class_thresholds is None:
            if self.stretch:
                steps.append(PerImageMinMax("probabilities", "stretched", "normal"))
            return (*steps, Matte(steps[-1].target, "alpha"))
        levels = self.class_thresholds if isinstance(self.class_thresholds, tuple) else (self.class_thresholds,) * count
        steps.append(
            ComparePerClass("probabilities", "class_masks", levels, on_nan=self.on_nan)
            if "C" in raw[PIXEL_LOGITS].axes
            else Compare("probabilities", "class_masks", levels[0], on_nan=self.on_nan)
        )
        return (*steps, *([MaskAreas("class_masks", "class_area")] if self.areas else []))

    def _activated(self, source: str) -> Step:
        if self.activation == "softmax":
            return Softmax(source, "probabilities")
        return (
            Keep(source, "probabilities")
            if self.activation == "none"
            else Sigmoid(source, "probabilities", self.on_nan if self.class_thresholds is not None else "normal")
        )

    def _areas(self, count: int) -> tuple[Step, ...]:
        return (ClassAreas("class_map", "class_area", min(count, MOST_CLASSES)),) if self.areas and count else ()
