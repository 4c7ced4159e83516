"""Outputs that a post-processor declares, their descriptions once it is bound, and `Predictions`."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import msgspec
import numpy as np

from pp_graph.errors import OutputFileError, PostProcessorError
from pp_graph.files import written_together
from pp_graph.steps import DECISION_VALUES, Compare, DecidingStep, EncodeDecision, Keep, OnNaN
from pp_graph.summary import Table, html_of, text_of
from pp_graph.values import Scale, ValueType
from pp_graph.values.value_type import pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pp_graph.steps import Array, Step
    from pp_graph.summary import Block

Meaning = Literal["number", "decision", "class", "token", "box", "count", "picture"]
"""What an output holds: scores, decisions, class indices, those of a text with -1 after its end, box coordinates,
counts or an image."""
MEANINGS: Final[tuple[Meaning, ...]] = get_args(Meaning)


@dataclass(frozen=True)
class Output:
    """An output that a post-processor declares.

    Attributes:
        name: Name in the fused model.
        axes: Possible axes; `()` for any.
        meaning: What it holds. None derives it from the step that writes it: a decision or a number.
        description: A description in words, such as `anomaly score of each image`.
        class_names: Name of each class, in order, if it holds class indices or a decision for each class.
    """

    name: str
    axes: tuple[str, ...] = ()
    meaning: Meaning | None = None
    description: str = ""
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Accept a single string as axes, and check the meaning.

        Raises:
            PostProcessorError: The meaning is unknown.
        """
        given: Any = self.axes
        object.__setattr__(self, "axes", (given,) if isinstance(given, str) else tuple(given))
        if self.meaning is not None and self.meaning not in MEANINGS:
            raise PostProcessorError(
                f"Output '{self.name}' has the meaning {self.meaning!r}, expected one of: {', '.join(MEANINGS)}."
            )


class OutputDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Description of an output of a program.

    Attributes:
        name: Name in the fused model.
        dtype: Element type.
        axes: A letter for each axis; None if the rank is unknown.
        sizes: Size of each axis, None for an open one.
        meaning: What it holds.
        description: A description in words.
        scale: Lowest and highest number, and the calibrated threshold between them; None if unbounded.
        unchanged: The role of the raw value that it copies; None for a computed value.
        decision_values: Numbers for normal and anomalous in a decision that is not bool; None if unknown.
        on_nan: How the comparison that decides classifies NaN; None without a comparison.
        sensitivity: Parameter of the post-processor that moves the decision; None if there is none.
        channels: Outputs along the last axis of a packed tensor; empty for other outputs.
        class_names: Name of each class, in order; empty if unknown, or if it is not about classes.
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
    class_names: tuple[str, ...] = ()

    @property
    def type(self) -> ValueType | None:
        """Element type, axes and sizes; None if the rank is unknown."""
        return None if self.axes is None else ValueType(self.axes, self.sizes, self.dtype)  # type: ignore[arg-type]

    @property
    def decides(self) -> bool:
        """True for a decision."""
        return self.meaning == "decision"

    @property
    def classifies(self) -> bool:
        """True for class indices, which are decisions among several classes."""
        return self.meaning in ("class", "token")

    @property
    def per_pixel(self) -> bool:
        """True if there is a value for each pixel."""
        return self.axes is not None and "H" in self.axes

    @property
    def bounded(self) -> bool:
        """True if its numbers lie in [0, 1]."""
        return self.scale is not None and (self.scale.low, self.scale.high) == (0.0, 1.0)


def check_output(step: Step, declared: Output, value: ValueType) -> None:
    """Raise `PostProcessorError` if a step writes other axes or a different element type than its output declares."""
    decides = declared.meaning == "decision"
    number = value.dtype == "float32"
    # A deciding step may also write its decision as the numbers 0 and 1.
    fits = not number or isinstance(step, DecidingStep | EncodeDecision) if decides else number
    if declared.meaning not in ("decision", "number"):
        fits = True
    if (declared.axes and value.axes not in declared.axes) or not fits:
        found = _kind(value.axes)
        expected = list(dict.fromkeys(_kind(axes) or pattern(axes) for axes in declared.axes))
        if found in expected and declared.axes and value.axes not in declared.axes:
            # The description is the same for both, so print the axes.
            expected = list(map(pattern, declared.axes))
        dtype = {"decision": "bool", "number": "float32"}.get(declared.meaning or "", "")
        raise PostProcessorError(
            f"Step '{step.target}' ({type(step).__name__}) writes {', '.join(filter(None, [str(value), found]))}, "
            f"expected {', '.join(filter(None, [' or '.join(expected), dtype]))}. Give it another target."
        )


def _kind(axes: str) -> str:
    """Describe axes in words; empty if there is no short description."""
    if "H" in axes and "W" in axes:
        return "one value per pixel"
    return "one value per image" if axes in ("N", "NC") else ""


def describe(
    declared: Sequence[Output],
    steps: Sequence[Step],
    types: Mapping[str, ValueType],
    raw: Sequence[str],
    sensitivities: Mapping[str, str],
) -> tuple[OutputDescription, ...]:
    """Describe the outputs that steps write.

    Args:
        declared: The declared outputs, in order.
        steps: All steps, in order.
        types: Type of each value, by name.
        raw: Names of the raw values.
        sensitivities: Output that each sensitivity moves, by parameter name.
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
                class_names=output.class_names,
            )
        )
    return tuple(described)


def _on_nan(step: Step, writes: Mapping[str, Step]) -> OnNaN | None:
    """How a decision classifies NaN, looking through steps that encode it."""
    while isinstance(step, EncodeDecision) and step.source in writes:
        step = writes[step.source]
    return step.on_nan if isinstance(step, DecidingStep) else None


DETECTION_OUTPUTS: Final = ("boxes", "scores", "classes", "count")
"""Outputs of a detector: corners (N,D,4) in pixels of the model's input, scores and classes (N,D), count (N,)."""


def detects(outputs: Iterable[OutputDescription]) -> bool:
    """Return True if outputs list detections."""
    meanings = {output.name: output.meaning for output in outputs}
    return meanings.get("boxes") == "box" and all(name in meanings for name in DETECTION_OUTPUTS)


_ANOMALY = ("pred_score", "pred_label", "anomaly_map", "pred_mask")


class Predictions(Mapping[str, Any]):
    """Post-processed outputs of a batch, by name: `predictions["pred_mask"]` or `predictions.pred_mask`.

    The outputs of anomaly models are always attributes; they are None if the model does not return them:

    - `pred_score`: score of each image, float32, (N,) or (N,1); in [0, 1] if normalised;
    - `pred_label`: True for an anomalous image, bool, shape of `pred_score`;
    - `anomaly_map`: score of each pixel, float32, (N,H,W), (N,1,H,W) or (N,H,W,1); in [0, 1] if normalised;
    - `pred_mask`: True for an anomalous pixel, bool, shape of `anomaly_map`.

    Args:
        values: Arrays by output name; entries that are None are dropped.
        named: More arrays, as keyword arguments.
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

    def summary(self) -> list[Block]:
        """Return name, element type, shape and range of each output as a table."""
        rows = []
        for name, array in self._values.items():
            numbers = array[np.isfinite(array)] if array.dtype.kind == "f" else array
            ends = [f"{float(end):.6g}" for end in (numbers.min(), numbers.max())] if numbers.size else ["-", "-"]
            rows.append((name, str(array.dtype), "x".join(map(str, array.shape)), *ends))
        return [Table("Predictions", ("output", "type", "shape", "smallest", "largest"), rows)]

    def __str__(self) -> str:
        """Return the table as text."""
        return text_of(self.summary())

    def _repr_html_(self) -> str:
        return html_of(self.summary())

    def save(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> Path:
        """Write all outputs, bit for bit, to an `.npz` file that `numpy.load` reads.

        Raises:
            OutputFileError: The path has another ending, is an input, exists, or cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".npz":
            raise OutputFileError(f"File '{path}' ends in '{path.suffix}', expected '.npz'. Name it {path.stem}.npz.")
        with (
            written_together(path, overwrite=overwrite, inputs=inputs) as (draft,),
            zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            # NumPy's function takes outputs as keyword arguments, among which any name may be.
            for name, array in self._values.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)
        return path
