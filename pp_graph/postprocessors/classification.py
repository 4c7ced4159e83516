"""`ClassificationPostProcessor`: class, confidence, the next best classes, and labels of several classes at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, get_args

import numpy as np

from pp_graph.errors import PostProcessorError, counted
from pp_graph.postprocessors.post_processor import PostProcessor, chosen_outputs
from pp_graph.program import Output, Role
from pp_graph.steps import (
    ArgMax,
    Compare,
    ComparePerClass,
    DropPixelAxes,
    GatherClasses,
    InvertDecision,
    Keep,
    MaxOverClasses,
    OnNaN,
    Sigmoid,
    Softmax,
    Step,
    Temperature,
    TopClasses,
    TopMargin,
)
from pp_graph.steps.bounded import as_width
from pp_graph.steps.step import check_on_nan, require_one_of, require_whole

if TYPE_CHECKING:
    from pp_graph.program import Signature
    from pp_graph.statistics import Statistics

RAW_LOGITS: Final = "raw_logits"
Activation = Literal["softmax", "sigmoid", "none"]

LOGITS: Final = Role(
    RAW_LOGITS,
    ("NC", "NHWC", "NCHW"),
    sizes={"H": 1, "W": 1},
    required=True,
    names=frozenset({
        "logits", "logit", "output", "outputs", "prob", "probs", "probabilities", "scores", "class_scores",
        "predictions", "prediction", "softmax", "classes", "class_probs", "fc", "dense",
    }),
    noun="logits",
    meaning="one number per image and class",
)  # fmt: skip
"""One number per image and class: (N,C), (N,1,1,C) or (N,C,1,1)."""


def _outputs(names: tuple[str, ...]) -> tuple[Output, ...]:
    return (
        Output("probabilities", ("NC",), "number", "probability of each class"),
        Output("pred_class", ("N",), "class", "most probable class", names),
        Output("pred_prob", ("N",), "number", "probability of the most probable class"),
        Output("unknown", ("N",), "decision", "whether the image is of no known class"),
        Output("pred_label", ("NC",), "decision", "whether the class is present", names),
        Output("top_classes", ("NK",), "class", "most probable classes, in order", names),
        Output("top_probs", ("NK",), "number", "probabilities of the most probable classes"),
    )


@dataclass(frozen=True)
class ClassificationPostProcessor(PostProcessor):
    """Post-processing for classifiers: logits or probabilities of each class in, decisions out.

    - `pred_class`: the class with the largest logit, as `numpy.argmax`: the first of equal ones. int64, (N,).
    - `pred_prob`: its probability, float32, (N,). With a NaN among the logits it is NaN, or after a sigmoid 0 or 1.
    - `unknown`, with `unknown_below`: true if that probability is smaller. bool, (N,).
    - `pred_label`, with `multi_label`: whether each class is present, `probability > threshold`. bool, (N,C).
    - `top_classes` and `top_probs`, with `top`: the k most probable classes and their probabilities, (N,k).
    - `probabilities`, only if named in `outputs`: those of all classes, float32, (N,C). Then it is the first output,
      and if it is a softmax, Intel's Model API reads it.

    Classes are compared by their logits, and limits on a sigmoid, on raw numbers or on the softmax of two classes are
    cutoffs on logits: these decide the same in every runtime. The softmax of more classes is computed by the runtime,
    and `unknown` compares that result.

    Attributes:
        statistics: Not used.
        activation: Function that turns the model's outputs into probabilities: `softmax`, `sigmoid`, or `none` for a
            model that returns probabilities. None chooses: `none` if the model ends in one of these functions, else
            `sigmoid` with `multi_label` and `softmax` without.
        temperature: Number that divides the logits first, above 0 (Guo et al., "On Calibration of Modern Neural
            Networks", 2017).
        unknown_below: Probability in (0, 1] below which an image is unknown; None writes no `unknown`.
        multi_label: Threshold in [0, 1] of all classes, or one for each class; None writes no `pred_label`.
        top: Number of classes in `top_classes`, at most 100; None writes neither these nor `top_probs`.
        labels: Name of each class, in order; empty if unknown.
        on_nan: `anomalous` makes an image with a NaN unknown, and a class whose logit is NaN present; `normal` does the
            opposite.
        thresholds: `runtime` makes the limit of `unknown` and those of `multi_label` inputs with defaults
            (`known_cutoff`, and `pred_label_cutoff` with one for each class; states in an IR), so that they can change
            while the model runs; see `pp_graph.cutoffs_for`. `fixed` writes constants.

        outputs: Outputs to compute, from those above; None for all but `probabilities`.

    Raises:
        PostProcessorError: An option is outside its range, or two exclude each other.
    """

    roles: ClassVar[tuple[Role, ...]] = (LOGITS,)  # type: ignore[misc]
    tunable: ClassVar[tuple[str, ...]] = ("unknown_below", "multi_label", "temperature")
    statistics: Statistics | None = None
    activation: Activation | None = None
    temperature: float = 1.0
    unknown_below: float | None = None
    multi_label: float | tuple[float, ...] | None = None
    top: int | None = None
    labels: tuple[str, ...] = ()
    on_nan: OnNaN = "anomalous"
    thresholds: Literal["fixed", "runtime"] = "fixed"
    outputs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check each option."""
        require_one_of(self.activation, "activation", (*get_args(Activation), None))
        as_width(self.temperature, "temperature")
        check_on_nan(self.on_nan, "unknown")
        require_one_of(self.thresholds, "thresholds", ("fixed", "runtime"))
        if self.thresholds == "runtime" and self.unknown_below is None and self.multi_label is None:
            raise PostProcessorError(
                "thresholds='runtime' is given without unknown_below or multi_label, expected a limit to adjust. Give "
                "one of them (--unknown-below P, --multi-label T)."
            )
        if self.unknown_below is not None:
            limit = checked_probability(self.unknown_below, "unknown_below")
            if limit == 0:
                raise PostProcessorError("unknown_below is 0, expected a probability above 0, or None for no limit.")
            object.__setattr__(self, "unknown_below", limit)
        if self.top is not None:
            require_whole(self.top, "top", 1, 100)
            object.__setattr__(self, "top", int(self.top))
        object.__setattr__(self, "multi_label", checked_levels(self.multi_label, "multi_label"))
        object.__setattr__(self, "labels", checked_labels(self.labels))
        if self.activation == "none" and self.temperature != 1:
            raise PostProcessorError(
                f"temperature is {self.temperature:g} with activation='none', expected 1: it divides logits, and the "
                "model returns probabilities. Leave it out, or choose softmax or sigmoid."
            )
        object.__setattr__(self, "outputs", None if self.outputs is None else tuple(self.outputs))
        declared = chosen_outputs(_outputs(self.labels), self.outputs, on_request=("probabilities",))
        object.__setattr__(self, "declared_outputs", declared)

    def settled(self, raw: Signature) -> ClassificationPostProcessor:
        """Choose the activation, and check the numbers of labels and thresholds against the number of classes."""
        value, ends_in = raw[RAW_LOGITS], raw.activations.get(RAW_LOGITS)
        if self.activation is None:
            usual: Activation = "softmax" if self.multi_label is None else "sigmoid"
            return dataclasses.replace(self, activation=usual if ends_in is None else "none").settled(raw)
        if ends_in is not None and self.activation != "none":
            raise PostProcessorError(
                f"activation is {self.activation}, and output '{raw.outputs[RAW_LOGITS]}' holds probabilities, because "
                f"the model ends in a {ends_in}, expected none. Leave the activation out, or give 'none' "
                "(--activation none)."
            )
        count = value.size("C")
        output = f"output '{raw.outputs[RAW_LOGITS]}'" if RAW_LOGITS in raw.outputs else "the value"
        if count is None or not value.rank_known:
            raise PostProcessorError(
                f"The number of classes of {output}, {value}, is open, expected a known one. Export the model with "
                "its output shapes."
            )
        if self.labels and len(self.labels) != count:
            raise PostProcessorError(
                f"There {'is' if len(self.labels) == 1 else 'are'} {counted(len(self.labels), 'label')}, and {output}, "
                f"{value}, has {count} classes, expected one label "
                "for each class, in order. Correct the labels (--labels FILE, one name a line), or name another output "
                f"with --role {RAW_LOGITS}=NAME."
            )
        levels = self.multi_label
        if isinstance(levels, tuple) and len(levels) != count:
            raise PostProcessorError(
                f"There are {len(levels)} thresholds in multi_label, and {output}, {value}, has {count} classes, "
                "expected one for all, or one for each class (--multi-label 0.5,0.7,...)."
            )
        if self.top is not None and self.top > count:
            raise PostProcessorError(
                f"top is {self.top}, and {output}, {value}, has {count} classes, expected at most those (--top)."
            )
        if self.activation == "softmax" and count == 1:
            raise PostProcessorError(
                f"activation is softmax, and {output}, {value}, has one class, expected several: the softmax of one "
                "class is always 1. Use activation='sigmoid' (--activation sigmoid)."
            )
        return self

    def steps(self, raw: Signature) -> tuple[Step, ...]:
        """Choose the class by its logit, then compute probabilities, and compare."""
        value, logits = raw[RAW_LOGITS], RAW_LOGITS
        steps: list[Step] = []
        if value.rank == 4:
            logits = "logits"
            steps.append(DropPixelAxes(RAW_LOGITS, logits))
        steps.append(ArgMax(logits, "pred_class"))
        classes = value.size("C")
        softmax = self.activation == "softmax"
        asked = "probabilities" in (self.outputs or ())
        if asked or self.top or self.multi_label is not None or (softmax and classes != 2):
            steps += self._activated(logits, "probabilities", softmax=softmax)
        if not softmax:
            steps.append(MaxOverClasses(logits, "top_logit"))
            steps += self._activated("top_logit", "pred_prob")
        elif classes == 2:
            # The larger of two softmax probabilities is the sigmoid of the difference.
            steps.append(TopMargin(logits, "margin"))
            steps += self._activated("margin", "pred_prob")
        else:
            steps.append(MaxOverClasses("probabilities", "pred_prob"))
        runtime = self.thresholds == "runtime"
        if self.unknown_below is not None:
            # A probability equal to the limit is known.
            level = float(np.nextafter(np.float32(self.unknown_below), np.float32(-np.inf)))
            steps.append(Compare("pred_prob", "known", level, on_nan=self._known_if_nan, runtime=runtime))
            steps.append(InvertDecision("known", "unknown"))
        if self.multi_label is not None:
            levels = self.multi_label if isinstance(self.multi_label, tuple) else (self.multi_label,) * (classes or 1)
            steps.append(ComparePerClass("probabilities", "pred_label", levels, on_nan=self.on_nan, runtime=runtime))
        if self.top:
            steps.append(TopClasses(logits, "top_classes", self.top))
            steps.append(GatherClasses("probabilities", "top_probs", "top_classes"))
        return tuple(steps)

    def _activated(self, source: str, target: str, *, softmax: bool = False) -> list[Step]:
        """Divide by the temperature and apply the activation, if there is one."""
        if self.activation == "none":
            return [Keep(source, target)]
        steps: list[Step] = []
        if self.temperature != 1:
            steps.append(Temperature(source, f"{source}_divided", self.temperature))
            source = f"{source}_divided"
        if softmax:
            return [*steps, Softmax(source, target)]
        return [*steps, Sigmoid(source, target, self.on_nan if target == "probabilities" else self._known_if_nan)]

    @property
    def _known_if_nan(self) -> OnNaN:
        """How a comparison that finds known images takes NaN."""
        return "normal" if self.on_nan == "anomalous" else "anomalous"


def checked_probability(given: Any, name: str) -> float:
    """Return a number as float.

    Raises:
        PostProcessorError: It is not a number from 0 to 1.
    """
    if isinstance(given, bool | str) or not isinstance(given, int | float | np.number) or not 0 <= given <= 1:
        raise PostProcessorError(f"{name} is {given!r}, expected a number from 0 to 1.")
    return float(given)


def checked_levels(given: Any, name: str) -> float | tuple[float, ...] | None:
    """Check a probability, or one for each class.

    Raises:
        PostProcessorError: A number is no probability, or there is none.
    """
    if given is None:
        return None
    if not isinstance(given, Sequence | np.ndarray) or isinstance(given, str):
        return checked_probability(given, name)
    if not len(given):
        raise PostProcessorError(f"{name} is empty, expected a threshold, or one for each class.")
    return tuple(checked_probability(level, f"{name}[{place}]") for place, level in enumerate(given))


def checked_labels(given: Any) -> tuple[str, ...]:
    """Check names of classes.

    Raises:
        PostProcessorError: One is no name, or empty.
    """
    labels = () if given is None else given
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise PostProcessorError(f"labels is {given!r}, expected the name of each class, in order.")
    for place, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip() or label != label.strip():
            raise PostProcessorError(f"labels[{place}] is {label!r}, expected a name without spaces around it.")
    return tuple(labels)
