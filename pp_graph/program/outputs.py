"""Outputs: what a post-processor declares, and what is known of each once it is bound to a raw model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from pp_graph.errors import PostProcessorError
from pp_graph.steps import DECISION_VALUES, Compare, DecidingStep, EncodeDecision, Keep, OnNaN
from pp_graph.values import Scale, ValueType
from pp_graph.values.value_type import pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pp_graph.steps import Array, Step
    from pp_graph.values import DType

Meaning = Literal["number", "decision", "class", "box", "count", "picture"]
"""What an output tells: a score, whether something is so, the index of a class, places, how many, or an image."""
MEANINGS: Final[tuple[Meaning, ...]] = ("number", "decision", "class", "box", "count", "picture")


@dataclass(frozen=True)
class Output:
    """An output that a post-processor declares.

    Attributes:
        name: Its name in the fused model.
        axes: Axes that it can have; `()` for any.
        meaning: What it tells; None to tell by the step that writes it: a decision or a number.
        description: The same for people, such as `anomaly score of each image`.
    """

    name: str
    axes: tuple[str, ...] = ()
    meaning: Meaning | None = None
    description: str = ""

    def __post_init__(self) -> None:
        """Take one text for one choice of axes, and refuse a meaning that is not known.

        Raises:
            PostProcessorError: The meaning is not known.
        """
        given: Any = self.axes  # whatever a user wrote
        object.__setattr__(self, "axes", (given,) if isinstance(given, str) else tuple(given))
        if self.meaning is not None and self.meaning not in MEANINGS:
            raise PostProcessorError(
                f"Output '{self.name}' has the meaning {self.meaning!r}, expected one of: {', '.join(MEANINGS)}."
            )


class OutputDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of an output of a program.

    Attributes:
        name: Its name in the fused model.
        dtype: Element type.
        axes: A letter for each axis; None where the rank is not known.
        sizes: Size of each axis, None for an open one.
        meaning: What it tells.
        description: The same for people.
        scale: Lowest and highest number, and where the calibrated threshold lies; None where numbers are not bounded.
        unchanged: The role whose raw value it is, where nothing was done to that.
        decision_values: The numbers that stand for normal and anomalous in a decision that is not bool; None where
            that is not known.
        on_nan: What NaN counts as where a comparison decides; None where none does.
        sensitivity: The parameter of the post-processor that moves the decision; None where there is none.
        channels: What lies along the last axis of a packed tensor; empty for another output.
    """

    name: str
    dtype: str = "float32"
    axes: str | None = None
    sizes: tuple[int | None, ...] = ()
    meaning: Meaning = "number"
    description: str = ""
    scale: Scale | None = None
    unchanged: str | None = None
    decision_values: tuple[float, float] | None = None
    on_nan: OnNaN | None = None
    sensitivity: str | None = None
    channels: tuple[OutputDescription, ...] = ()

    @property
    def type(self) -> ValueType | None:
        """Element type, axes and sizes; None where the rank is not known."""
        return None if self.axes is None else ValueType(self.axes, self.sizes, self.dtype)  # type: ignore[arg-type]

    @property
    def decides(self) -> bool:
        """Whether it is a decision."""
        return self.meaning == "decision"

    @property
    def per_pixel(self) -> bool:
        """Whether there is a value for each pixel."""
        return self.axes is not None and "H" in self.axes

    @property
    def bounded(self) -> bool:
        """Whether its numbers lie in [0, 1]."""
        return self.scale is not None and (self.scale.low, self.scale.high) == (0.0, 1.0)


def check_output(step: Step, declared: Output, value: ValueType) -> None:
    """Make sure that a step writes what its output is declared as.

    Raises:
        PostProcessorError: Axes or element type are others.
    """
    decides = declared.meaning == "decision"
    number = value.dtype == "float32"
    # A decision may come as numbers 0 and 1, from a step that decides.
    fits = not number or isinstance(step, DecidingStep | EncodeDecision) if decides else number
    if declared.meaning not in ("decision", "number"):
        fits = True
    if (declared.axes and value.axes not in declared.axes) or not fits:
        found = _kind(value.axes)
        expected = list(dict.fromkeys(_kind(axes) or pattern(axes) for axes in declared.axes))
        if found in expected and declared.axes and value.axes not in declared.axes:
            # The word for it is the same, so the axes have to tell.
            expected = list(map(pattern, declared.axes))
        dtype = {"decision": "bool", "number": "float32"}.get(declared.meaning or "", "")
        raise PostProcessorError(
            f"Step '{step.target}' ({type(step).__name__}) writes {', '.join(filter(None, [str(value), found]))}, "
            f"expected {', '.join(filter(None, [' or '.join(expected), dtype]))}. Give it another target."
        )


def _kind(axes: str) -> str:
    """What values of some axes are of, as far as there is a word for it."""
    if "H" in axes and "W" in axes:
        return "one value a pixel"
    return "one value an image" if axes in ("N", "NC") else ""


def describe(
    declared: Sequence[Output],
    steps: Sequence[Step],
    types: Mapping[str, ValueType],
    raw: Sequence[str],
    sensitivities: Mapping[str, str],
) -> tuple[OutputDescription, ...]:
    """Describe the outputs that steps write.

    Args:
        declared: What the post-processor declares, in the order of the outputs.
        steps: All steps, in order.
        types: Type of each value, by name.
        raw: Names of the raw values.
        sensitivities: Parameters that move decisions, and the output that each moves.
    """
    moved_by = {output: parameter for parameter, output in sensitivities.items()}
    scales: dict[str, Scale | None] = dict.fromkeys(raw)
    unchanged: dict[str, str] = {name: name for name in raw}
    values: dict[str, tuple[float, float]] = {}
    writes = {step.target: step for step in steps}
    for step in steps:
        scales[step.target] = step.output_scale(*(scales.get(name) for name in step.reads))
        if isinstance(step, Keep) and step.source in unchanged:
            unchanged[step.target] = unchanged[step.source]
        if isinstance(step, Compare | EncodeDecision) and step.dtype != "bool":
            normal, anomalous = DECISION_VALUES[step.dtype]
            values[step.target] = float(normal), float(anomalous)
    described = []
    for output in declared:
        if output.name not in writes:
            continue
        step = writes[output.name]
        value = types[output.name]
        decides = isinstance(step, DecidingStep | EncodeDecision) or value.dtype == "bool"
        described.append(
            OutputDescription(
                name=output.name,
                dtype=value.dtype,
                axes=value.known_axes,
                sizes=value.sizes if value.rank_known else (),
                meaning=output.meaning or ("decision" if decides else "number"),
                description=output.description,
                scale=scales[output.name],
                unchanged=unchanged.get(output.name),
                decision_values=values.get(output.name),
                on_nan=_on_nan(step, writes),
                sensitivity=moved_by.get(output.name),
            )
        )
    return tuple(described)


def _on_nan(step: Step, writes: Mapping[str, Step]) -> OnNaN | None:
    """What NaN counts as in a decision, also where a later step encodes it."""
    while isinstance(step, EncodeDecision) and step.source in writes:
        step = writes[step.source]
    return step.on_nan if isinstance(step, DecidingStep) else None


def as_float32(output: OutputDescription) -> OutputDescription:
    """An output as it lies in a packed tensor: a decision as 0 or 1."""
    dtype: DType = "float32"
    numbers = (0.0, 1.0) if output.decides else None
    return msgspec.structs.replace(output, dtype=dtype, decision_values=numbers)


_ANOMALY = ("pred_score", "pred_label", "anomaly_map", "pred_mask")


class Predictions(Mapping[str, Any]):
    """Post-processed outputs of a batch, by name: `predictions["pred_mask"]` or `predictions.pred_mask`.

    The outputs of anomaly models can always be asked for by attribute; they are None where the model or the settings do
    not give them:

    - `pred_score`: score an image, float32, (N,) or (N,1); in [0, 1] when normalised;
    - `pred_label`: whether each image is anomalous, bool, shape of `pred_score`;
    - `anomaly_map`: score a pixel, float32, (N,H,W), (N,1,H,W) or (N,H,W,1); in [0, 1] when normalised;
    - `pred_mask`: whether each pixel is anomalous, bool, shape of `anomaly_map`.

    Args:
        values: Arrays by name of the output; None for what there is not.
        named: Further ones.
    """

    def __init__(self, values: Mapping[str, Array | None] | None = None, **named: Array | None) -> None:
        given = {**(values or {}), **named}
        self._values: dict[str, Array] = {name: array for name, array in given.items() if array is not None}

    def __getitem__(self, name: str) -> Array:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__.get("_values", {})
        if name in values:
            return values[name]
        if name in _ANOMALY:
            return None
        raise AttributeError(f"Predictions have no '{name}', expected one of: {', '.join(values) or 'none'}.")

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}={array.dtype}{list(array.shape)}" for name, array in self._values.items())
        return f"Predictions({shapes})"
