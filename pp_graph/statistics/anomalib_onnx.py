"""Read statistics from an Anomalib 2.x export to ONNX, which has its post-processing in the graph.

The post-processing is recognised by its arithmetic, read backwards from Anomalib's four outputs, because names of
operators and constants differ between exporters and versions.
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
_LOSSLESS: Final = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "BOOL")
"""Types that scores, maps and decisions can be cast to without changing their meaning."""

_MOST_STEPS: Final = 64


@dataclass(frozen=True)
class _Normalizer:
    """Constants of the normalisation of one level."""

    threshold: float
    extent: float
    minimum: float | None = None
    maximum: float | None = None
    dtype: str = "float32"


@dataclass(frozen=True)
class _Level:
    """Post-processing of one level.

    Attributes:
        normalizer: Constants of the normalisation; None if the model outputs the raw value.
        compared: Number that the value is compared with; None if no comparison was found.
        decides: True if the model outputs the decision.
    """

    normalizer: _Normalizer | None
    compared: float | None
    decides: bool


@dataclass(frozen=True)
class GraphStatistics:
    """Statistics and settings of the post-processing in a graph.

    Attributes:
        numbers: For `image` and `pixel`, those of `threshold`, `min` and `max` that the graph contains.
        settings: Keyword arguments of `OneClassPostProcessor`.
        notes: Notes for the user.
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
        """Read the constants of the post-processing."""
        post_processing = None if file.onnx is None else find_in_graph(file.onnx)
        if post_processing is None:
            raise StatisticsError(
                "the ONNX model has no known post-processing, expected Anomalib's "
                "clip((x - threshold) / (max - min) + 0.5, 0, 1) as output pred_score or anomaly_map. A raw export has "
                "no statistics: pass the file that contains them."
            )
        image, pixel = post_processing.numbers["image"], post_processing.numbers["pixel"]
        return self.statistics(file, image, pixel, settings=post_processing.settings, notes=post_processing.notes)


def find_in_graph(model: RawModel) -> GraphStatistics | None:
    """Find Anomalib's post-processing in a graph.

    Args:
        model: The model. Only its small constants are read.

    Returns:
        The post-processing; None if there is none.

    Raises:
        StatisticsError: A constant of the post-processing is infinite or NaN.
    """
    graph = _Graph(model)
    try:
        levels = {name: level for name in _LEVELS if (level := graph.level(*_LEVELS[name])) is not None}
    except Exception:
        return None  # a malformed graph, so not an export of Anomalib
    normalizes = any(level.normalizer is not None for level in levels.values())
    if not normalizes and all(level.compared is None for level in levels.values()):
        return None
    numbers: dict[str, dict[str, float | None]] = {"image": {}, "pixel": {}}
    settings: dict[str, Any] = {"normalize": normalizes, "threshold": any(level.decides for level in levels.values())}
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
    extents = [
        f"{name} {numbers[name]['max']:.9g}"
        for name, level in levels.items()
        if level.normalizer is not None and level.normalizer.minimum is None
    ]
    if extents:
        notes.append(f"The graph keeps only the difference max - min ({', '.join(extents)}); {STAND_IN}")
    if not normalizes:
        notes.append(
            "Normalisation is off in the graph, where Anomalib compares raw values with 1 - sensitivity; these numbers "
            "are the thresholds here. The calibrated ones are in the checkpoint."
        )
    return GraphStatistics(numbers, settings, tuple(notes))


def _numbers(level: str, normalizer: _Normalizer) -> dict[str, float | None]:
    constants = {"threshold": normalizer.threshold, "max - min": normalizer.extent}
    for name, value in constants.items():
        # An unknown threshold would mean the middle of minimum and maximum, but these are unknown here.
        if as_number(f"{level} {name}", value) is None:
            raise StatisticsError(f"'{level} {name}' is NaN, expected a number. Validate the model again.")
    if normalizer.minimum is None:
        return {"threshold": normalizer.threshold, "min": 0.0, "max": normalizer.extent}
    return {"threshold": normalizer.threshold, "min": normalizer.minimum, "max": normalizer.maximum}


def _sensitivity(compared: float) -> float:
    """Return the shortest sensitivity for which `1 - sensitivity`, in float32, equals a number."""
    exact = 1 - compared
    for candidate in (round(exact, digits) for digits in range(1, 9)):
        if np.float32(1) - np.float32(candidate) == np.float32(compared):
            return candidate
    return exact


def _passes_through(node: ir.Node) -> bool:
    """True if an operator returns its input."""
    if node.op_type == "Cast":
        import onnx_ir as ir

        return ir.DataType(node.attributes["to"].as_int()).name in _LOSSLESS
    return node.op_type == "Identity"


def _node(value: ir.Value | None, kind: str) -> ir.Node | None:
    """Return the operator that computes a value, if it is of a kind."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == kind else None


class _Graph:
    """A graph, read backwards from its outputs."""

    def __init__(self, model: RawModel) -> None:
        self._outputs = {value.name: value for value in model.model.graph.outputs if value.name}
        self._constants = GraphConstants(model.opset)

    def level(self, value: str, decision: str) -> _Level | None:
        """Find the post-processing of one level; None if the model has no such output."""
        if value not in self._outputs:
            return None
        decides = decision in self._outputs
        compared = self._compared(self._outputs[decision], self._outputs[value]) if decides else None
        return _Level(self._normalizer(self._outputs[value]), compared, decides)

    def _compared(self, decision: ir.Value, value: ir.Value) -> float | None:
        """Find the number in `value > number`; None if the decision is not this comparison."""
        comparison = self._skip_identities(decision)
        if (node := _node(comparison, "Greater")) is not None:
            larger, smaller = node.inputs
        elif (node := _node(comparison, "Less")) is not None:
            smaller, larger = node.inputs
        else:
            return None
        number = self._constants.number(smaller)
        if number is None or self._skip_identities(larger) is not self._skip_identities(value):
            return None
        return float(number)

    def _skip_identities(self, value: ir.Value | None) -> ir.Value | None:
        """Skip Identity, Cast, and Where with a constant condition."""
        for _ in range(_MOST_STEPS):
            node = None if value is None else value.producer()
            inner = None
            if node is not None and _passes_through(node):
                inner = node.inputs[0]
            elif node is not None and node.op_type == "Where":
                truth = self._constants.truth(node.inputs[0])
                inner = None if truth is None else node.inputs[1 if truth else 2]
            if inner is None:
                return value
            value = inner
        return value

    def _normalizer(self, output: ir.Value) -> _Normalizer | None:
        value = self._skip_identities(output)
        normalizer = self._match_scaled(value) or self._match_stepped(value)
        if normalizer is None or normalizer.minimum is not None:
            return normalizer
        for low, high in self._range_checks(output):
            if np.float32(high) - np.float32(low) == np.float32(normalizer.extent):
                return replace(normalizer, minimum=low, maximum=high)
        return normalizer

    def _match_scaled(self, value: ir.Value | None) -> _Normalizer | None:
        """Match `clip((raw - threshold) / extent + 0.5, 0, 1)`."""
        scaled = self._match_commutative(self._match_clip(value), "Add", 0.5)
        if scaled is None:
            return None
        # Optimisers remove a division by 1 and a subtraction of 0.
        shifted, extent = self._match_binary(scaled, "Div") or (scaled, None)
        _, threshold = self._match_binary(shifted, "Sub") or (shifted, None)
        extent_number = 1.0 if extent is None else self._float(extent)
        threshold_number = 0.0 if threshold is None else self._float(threshold)
        if extent_number is None or threshold_number is None:
            return None
        constants = (self._constants.number(constant) for constant in (extent, threshold))
        dtypes = {constant.dtype.name for constant in constants if constant is not None} - {"float32"}
        normalizer = _Normalizer(threshold_number, extent_number, dtype=min(dtypes, default="float32"))
        ends = self._match_binary(self._skip_identities(extent), "Sub")
        high, low = (None, None) if ends is None else (self._float(end) for end in ends)
        return normalizer if low is None or high is None else replace(normalizer, minimum=low, maximum=high)

    def _match_stepped(self, value: ir.Value | None) -> _Normalizer | None:
        """Match `raw > threshold ? 1 : raw < threshold ? 0 : 0.5`, the form if max equals min."""
        for kind, chosen, other_kind, other_chosen in (("Greater", 1.0, "Less", 0.0), ("Less", 0.0, "Greater", 1.0)):
            outer = self._match_selection(value, kind, chosen)
            if outer is None:
                continue
            raw, threshold, alternative = outer
            inner = self._match_selection(self._skip_identities(alternative), other_kind, other_chosen)
            if inner is not None and inner[:2] == (raw, threshold) and self._constants.equals(inner[2], 0.5):
                return _Normalizer(threshold, 0.0)
        return None

    def _match_selection(
        self, value: ir.Value | None, comparison: str, chosen: float
    ) -> tuple[ir.Value | None, float, ir.Value] | None:
        """Match `raw <comparison> number ? chosen : alternative`. Returns raw value, number and alternative."""
        node = _node(value, "Where")
        if node is None or not self._constants.equals(node.inputs[1], chosen):
            return None
        condition, _, alternative = node.inputs
        compared = self._match_binary(condition, comparison)
        number = None if compared is None else self._float(compared[1])
        return None if compared is None or number is None or alternative is None else (compared[0], number, alternative)

    def _match_clip(self, value: ir.Value | None) -> ir.Value | None:
        """Match a clip to [0, 1]. Returns its input."""
        node = _node(value, "Clip")
        if node is not None:
            # Before opset 11, the bounds are attributes.
            low, high = (node.attributes.get(name) for name in ("min", "max"))
            if low is not None and high is not None and (low.as_float(), high.as_float()) == (0.0, 1.0):
                return self._skip_identities(node.inputs[0])
            bounds = node.inputs[1:3]
            if len(bounds) == 2 and self._constants.equals(bounds[0], 0) and self._constants.equals(bounds[1], 1):
                return self._skip_identities(node.inputs[0])
        for outer, bound, inner, other in (("Min", 1.0, "Max", 0.0), ("Max", 0.0, "Min", 1.0)):
            clipped = self._match_commutative(self._match_commutative(value, outer, bound), inner, other)
            if clipped is not None:
                return clipped
        return None

    def _match_commutative(self, value: ir.Value | None, kind: str, constant: float) -> ir.Value | None:
        """Match a commutative operator with a constant operand. Returns the other operand."""
        node = _node(value, kind)
        if node is None or len(node.inputs) != 2:
            return None
        for index in (0, 1):
            if self._constants.equals(node.inputs[index], constant):
                return self._skip_identities(node.inputs[1 - index])
        return None

    def _match_binary(self, value: ir.Value | None, kind: str) -> tuple[ir.Value | None, ir.Value] | None:
        """Match an operator with two operands. Returns both, the first without identities."""
        node = _node(value, kind)
        if node is None or len(node.inputs) != 2:
            return None
        first, second = node.inputs
        return None if first is None or second is None else (self._skip_identities(first), second)

    def _float(self, value: ir.Value | None) -> float | None:
        number = self._constants.number(value)
        return None if number is None or number.dtype.kind not in "fiu" else float(number)

    def _range_checks(self, output: ir.Value) -> list[tuple[float, float]]:
        """Find minimum and maximum in checks `not isnan(min) and not isnan(max)`, if the exporter kept them."""
        ranges = []
        value: ir.Value | None = output
        for _ in range(_MOST_STEPS):
            node = None if value is None else value.producer()
            if node is None or not (_passes_through(node) or node.op_type == "Where"):
                break
            if _passes_through(node):
                value = node.inputs[0]
                continue
            if (ends := self._match_range_check(node.inputs[0])) is not None:
                ranges.append(ends)
            value = node.inputs[1 if self._constants.truth(node.inputs[0]) else 2]
        return ranges

    def _match_range_check(self, condition: ir.Value | None) -> tuple[float, float] | None:
        node = _node(condition, "And")
        if node is None:
            return None
        numbers = []
        for value in node.inputs:
            inverted = _node(value, "Not")
            checked = None if inverted is None else _node(inverted.inputs[0], "IsNaN")
            numbers.append(None if checked is None else self._float(checked.inputs[0]))
        low, high = numbers
        return None if low is None or high is None else (low, high)
