"""An Anomalib 2.x export to ONNX, whose post-processing is in the graph.

It is told by its arithmetic, read backwards from Anomalib's four outputs; names of operators and constants differ from
one exporter and version to the next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from pp_graph.errors import StatisticsError
from pp_graph.statistics.onnx_constants import GraphConstants
from pp_graph.statistics.source import STAND_IN, StatisticsFormat, as_number

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.model import RawModel
    from pp_graph.statistics.source import StatisticsFile
    from pp_graph.statistics.statistics import Statistics

_LEVELS: Final = {"image": ("pred_score", "pred_label"), "pixel": ("anomaly_map", "pred_mask")}
_KEEPING: Final = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "BOOL")
"""Types that a score, a map or a decision can be cast to without becoming something else."""

_MOST_STEPS: Final = 64


@dataclass(frozen=True)
class _Normalizer:
    """Arithmetic that normalises one level."""

    raw: ir.Value
    threshold: float
    extent: float
    minimum: float | None = None
    maximum: float | None = None
    dtype: str = "float32"


@dataclass(frozen=True)
class _Level:
    """Arithmetic behind the outputs of one level.

    Attributes:
        normalizer: Constants of the normalisation; None where the value comes out raw.
        compared: Number that the value is compared with; None where no decision was found.
        decides: Whether there is an output for the decision.
    """

    normalizer: _Normalizer | None
    compared: float | None
    decides: bool


@dataclass(frozen=True)
class GraphStatistics:
    """The post-processing that was found in a graph.

    Attributes:
        numbers: `image` and `pixel` to `threshold`, `min` and `max`, as far as they are in the graph.
        settings: Keyword arguments of `OneClassPostProcessor`.
        notes: What a person should know about how they were read.
    """

    numbers: dict[str, dict[str, float | None]]
    settings: dict[str, Any]
    notes: tuple[str, ...]


class AnomalibONNX(StatisticsFormat):
    """The `.onnx` that Anomalib 2.x exports."""

    title: ClassVar[str] = "Anomalib 2.x ONNX export"

    def recognises(self, file: StatisticsFile) -> bool:
        """True for any ONNX model. `read` finds out if it holds statistics."""
        return file.onnx is not None

    def read(self, file: StatisticsFile) -> Statistics:
        """Read the constants of the post-processing in the graph."""
        found = None if file.onnx is None else find_in_graph(file.onnx)
        if found is None:
            raise StatisticsError(
                "the ONNX model holds no post-processing that is known, expected Anomalib's "
                "clip((x - threshold) / (max - min) + 0.5, 0, 1) behind an output pred_score or anomaly_map. A raw "
                "export has no statistics in it: name the file they are in."
            )
        numbers = found.numbers
        return self.statistics(file, numbers["image"], numbers["pixel"], settings=found.settings, notes=found.notes)


def find_in_graph(model: RawModel) -> GraphStatistics | None:
    """Find Anomalib's post-processing in a graph.

    Args:
        model: The opened model; only small constants of it are read.

    Returns:
        What was found; None where there is none.

    Raises:
        StatisticsError: A number in it is infinite or NaN.
    """
    graph = _Graph(model)
    try:
        levels = {name: level for name in _LEVELS if (level := graph.level(*_LEVELS[name])) is not None}
    except Exception:
        return None  # operators without their inputs, tensors cut short: whatever it is, Anomalib did not export it
    normalizes = any(level.normalizer is not None for level in levels.values())
    if not normalizes and all(level.compared is None for level in levels.values()):
        return None
    numbers: dict[str, dict[str, float | None]] = {"image": {}, "pixel": {}}
    settings: dict[str, Any] = {"normalize": normalizes, "threshold": any(each.decides for each in levels.values())}
    notes: list[str] = []
    for name, level in levels.items():
        value, decision = _LEVELS[name]
        if level.normalizer is not None:
            numbers[name] = _numbers(name, level.normalizer)
            if level.normalizer.dtype != "float32":
                notes.append(
                    f"The graph normalises {value} in {level.normalizer.dtype}, pp_graph in float32: values close to "
                    "the threshold may be decided otherwise."
                )
            if level.compared is not None:
                settings[f"{name}_sensitivity"] = _sensitivity(level.compared)
        elif normalizes:
            notes.append(f"{value} comes out raw: Anomalib had no range for the {name} level. Calibrate it.")
        elif level.compared is not None:
            numbers[name] = {"threshold": as_number(decision, level.compared)}
        if level.decides and level.compared is None:
            notes.append(
                f"{decision} is not {value} > a number, as with MEBinPostProcessor; pp_graph decides otherwise there."
            )
    extents = [f"{name} {numbers[name]['max']:.9g}" for name, level in levels.items() if _only_extent(level)]
    if extents:
        notes.append(f"The graph keeps only the difference max - min ({', '.join(extents)}); {STAND_IN}")
    if not normalizes:
        notes.append(
            "Normalisation is off in the graph, where Anomalib compares raw values with 1 - sensitivity; these numbers "
            "are the thresholds here. The calibrated ones are in the checkpoint."
        )
    return GraphStatistics(numbers, settings, tuple(notes))


def _only_extent(level: _Level) -> bool:
    return level.normalizer is not None and level.normalizer.minimum is None


def _numbers(level: str, found: _Normalizer) -> dict[str, float | None]:
    constants = {"threshold": found.threshold, "max - min": found.extent}
    for name, value in constants.items():
        # Without a threshold the middle of minimum and maximum would be taken, which are not known here.
        if as_number(f"{level} {name}", value) is None:
            raise StatisticsError(f"'{level} {name}' is not a number (NaN), expected one. Validate the model again.")
    if found.minimum is None:
        return {"threshold": found.threshold, "min": 0.0, "max": found.extent}
    return {"threshold": found.threshold, "min": found.minimum, "max": found.maximum}


def _sensitivity(compared: float) -> float:
    """The shortest sensitivity for which `1 - sensitivity`, in float32, is a given number."""
    exact = 1 - compared
    candidates = [round(exact, digits) for digits in range(1, 9)]
    same = [each for each in candidates if np.float32(1) - np.float32(each) == np.float32(compared)]
    return same[0] if same else exact


def _renames(node: ir.Node) -> bool:
    """True if an operator returns its input."""
    if node.op_type == "Cast":
        import onnx_ir as ir

        return ir.DataType(node.attributes["to"].as_int()).name in _KEEPING
    return node.op_type == "Identity"


class _Graph:
    """A graph, read backwards from its outputs."""

    def __init__(self, model: RawModel) -> None:
        self._outputs = {value.name: value for value in model.model.graph.outputs if value.name}
        self._constants = GraphConstants(model.opset)

    def level(self, value: str, decision: str) -> _Level | None:
        """Return the arithmetic behind one level's outputs; None if the model lacks them."""
        if value not in self._outputs:
            return None
        start = self._outputs[value]
        decides = decision in self._outputs
        compared = self._compared(self._outputs[decision], start) if decides else None
        return _Level(self._normalizer(start), compared, decides)

    def _compared(self, decision: ir.Value, value: ir.Value) -> float | None:
        """The number of `value > number`; None where the decision is something else."""
        node = self._settle(decision).producer()
        if node is None or node.op_type not in ("Greater", "Less"):
            return None
        larger, smaller = node.inputs if node.op_type == "Greater" else reversed(node.inputs)
        number = self._constants.number(smaller)
        if number is None or larger is None or self._settle(larger) is not self._settle(value):
            return None
        return float(number)

    def _settle(self, value: ir.Value) -> ir.Value:
        """The value behind renaming, casts, and selections that always go the same way."""
        for _ in range(_MOST_STEPS):
            node = value.producer()
            inner = None
            if node is not None and _renames(node):
                inner = node.inputs[0]
            elif node is not None and node.op_type == "Where":
                truth = self._constants.truth(node.inputs[0])
                inner = None if truth is None else node.inputs[1 if truth else 2]
            if inner is None:
                return value
            value = inner
        return value

    def _normalizer(self, output: ir.Value) -> _Normalizer | None:
        found = self._scaled(self._settle(output)) or self._stepped(self._settle(output))
        if found is None or found.minimum is not None:
            return found
        for low, high in self._checked(output):
            if np.float32(high) - np.float32(low) == np.float32(found.extent):
                return replace(found, minimum=low, maximum=high)
        return found

    def _scaled(self, value: ir.Value) -> _Normalizer | None:
        """`clip((raw - threshold) / extent + 0.5, 0, 1)`; optimisers drop a division by 1 and a subtraction of 0."""
        unclipped = self._clipped(value)
        shifted = None if unclipped is None else self._operand(unclipped, "Add", 0.5)
        if shifted is None:
            return None
        divided = self._binary(shifted, "Div")
        inner, extent = (shifted, None) if divided is None else divided
        size = 1.0 if extent is None else self._float(extent)
        subtracted = self._binary(inner, "Sub")
        raw, threshold = (inner, 0.0) if subtracted is None else (subtracted[0], self._float(subtracted[1]))
        if size is None or threshold is None:
            return None
        constants = (self._constants.number(each) for each in (extent, subtracted and subtracted[1]))
        other = {each.dtype.name for each in constants if each is not None} - {"float32"}
        found = _Normalizer(raw, threshold, size, dtype=min(other, default="float32"))
        ends = None if extent is None else self._binary(self._settle(extent), "Sub")
        if ends is not None:
            high, low = (self._float(each) for each in ends)
            if low is not None and high is not None:
                return replace(found, minimum=low, maximum=high)
        return found

    def _stepped(self, value: ir.Value) -> _Normalizer | None:
        """`raw > threshold ? 1 : raw < threshold ? 0 : 0.5`, the form when max equals min."""
        for kind, first, other, second in (("Greater", 1.0, "Less", 0.0), ("Less", 0.0, "Greater", 1.0)):
            outer = self._selection(value, kind, first)
            inner = None if outer is None else self._selection(self._settle(outer[2]), other, second)
            if outer is None or inner is None or not self._constants.equals(inner[2], 0.5):
                continue
            if inner[0] is outer[0] and inner[1] == outer[1]:
                return _Normalizer(outer[0], outer[1], 0.0)
        return None

    def _selection(self, value: ir.Value, comparison: str, chosen: float) -> tuple[ir.Value, float, ir.Value] | None:
        """Raw value, number and alternative of `raw <comparison> number ? chosen : alternative`."""
        node = value.producer()
        if node is None or node.op_type != "Where" or not self._constants.equals(node.inputs[1], chosen):
            return None
        condition, _, alternative = node.inputs
        compared = None if condition is None else self._binary(condition, comparison)
        number = None if compared is None else self._float(compared[1])
        return None if compared is None or number is None or alternative is None else (compared[0], number, alternative)

    def _clipped(self, value: ir.Value) -> ir.Value | None:
        """Return the value that is clipped to [0, 1]."""
        node = value.producer()
        if node is None:
            return None
        if node.op_type == "Clip":
            # Before opset 11 the bounds are attributes.
            low, high = (node.attributes.get(name) for name in ("min", "max"))
            if low is not None and high is not None and (low.as_float(), high.as_float()) == (0.0, 1.0):
                return self._given(node.inputs[0])
            bounds = node.inputs[1:3]
            if len(bounds) == 2 and self._constants.equals(bounds[0], 0) and self._constants.equals(bounds[1], 1):
                return self._given(node.inputs[0])
            return None
        for outer, bound, inner, other in (("Min", 1.0, "Max", 0.0), ("Max", 0.0, "Min", 1.0)):
            between = self._operand(value, outer, bound)
            if between is not None and (found := self._operand(between, inner, other)) is not None:
                return found
        return None

    def _operand(self, value: ir.Value, kind: str, constant: float) -> ir.Value | None:
        """The other operand of an operation that may be written either way round."""
        node = value.producer()
        if node is None or node.op_type != kind or len(node.inputs) != 2:
            return None
        for index in (0, 1):
            if self._constants.equals(node.inputs[index], constant):
                return self._given(node.inputs[1 - index])
        return None

    def _binary(self, value: ir.Value, kind: str) -> tuple[ir.Value, ir.Value] | None:
        """Both operands of an operation, the first of them settled."""
        node = value.producer()
        if node is None or node.op_type != kind or len(node.inputs) != 2:
            return None
        first, second = node.inputs
        return None if first is None or second is None else (self._settle(first), second)

    def _given(self, value: ir.Value | None) -> ir.Value | None:
        return None if value is None else self._settle(value)

    def _float(self, value: ir.Value) -> float | None:
        number = self._constants.number(value)
        return None if number is None or number.dtype.kind not in "fiu" else float(number)

    def _checked(self, output: ir.Value) -> list[tuple[float, float]]:
        """Minimum and maximum where the graph still checks that both are known, `not isnan(min) and not isnan(max)`."""
        found = []
        value: ir.Value | None = output
        for _ in range(_MOST_STEPS):
            node = None if value is None else value.producer()
            if node is None or not (_renames(node) or node.op_type == "Where"):
                break
            if node.op_type == "Where" and (ends := self._ends(node.inputs[0])) is not None:
                found.append(ends)
            value = node.inputs[0 if _renames(node) else 1 if self._constants.truth(node.inputs[0]) else 2]
        return found

    def _ends(self, condition: ir.Value | None) -> tuple[float, float] | None:
        node = None if condition is None else condition.producer()
        if node is None or node.op_type != "And":
            return None
        numbers = []
        for side in node.inputs:
            checked = side
            for kind in ("Not", "IsNaN"):
                inner = None if checked is None else checked.producer()
                checked = inner.inputs[0] if inner is not None and inner.op_type == kind else None
            numbers.append(None if checked is None else self._float(checked))
        low, high = numbers
        return None if low is None or high is None else (low, high)
