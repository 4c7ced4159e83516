"""Write a small model at another opset, and try out that it still computes the same.

A raw model keeps its opset, so what is written into it must take that one. First each operator is rewritten on its own:
most say the same at both opsets, or have moved an attribute to an input. Where that does not do, ONNX's own converter
takes the whole model; it knows few ways down and can leave an operator as it was. Whatever comes out is checked and run
beside the original, and refused where it differs.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.errors import OpsetError
from pp_graph.steps.opset_rules import Untranslatable, rewrite_nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx

    from pp_graph.steps.step import Array

_TOLERANCE: Final = 1e-6
"""Difference between both forms, as a fraction of the largest number, that rounding may make."""
_SILENT: Final = 4


class Trials:
    """Arrays to try a model out with, a tuple of one an input each; equal where they are for inputs of equal form."""

    def __init__(self, key: object, arrays: Sequence[tuple[Array, ...]]) -> None:
        self.arrays = tuple(arrays)
        self._key = key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trials) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the default domain that a model imports; 0 where it imports none."""
    return next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)


def adapted(model: onnx.ModelProto, opset: int, trials: Trials, what: str) -> onnx.ModelProto:
    """A model at another opset.

    Args:
        model: The model, of the default domain alone and without local functions.
        opset: The opset.
        trials: What to try it out with.
        what: What it is, for messages.

    Raises:
        OpsetError: It cannot be written at that opset, or would compute something else there.
    """
    if opset_of(model) == opset:
        return model
    return _adapted(model.SerializeToString(deterministic=True), opset, trials, what)


@functools.lru_cache(maxsize=64)
def _adapted(content: bytes, opset: int, trials: Trials, what: str) -> onnx.ModelProto:
    import onnx

    model = onnx.load_from_string(content)
    own = opset_of(model)
    reasons: list[str] = []
    ways: tuple[Callable[[onnx.ModelProto, int], onnx.ModelProto], ...] = (rewrite_nodes, _convert_whole)
    for way in ways:
        try:
            found = way(model, opset)
            onnx.checker.check_model(found, full_check=True)
        except Untranslatable as reason:
            reasons.append(str(reason))
        except Exception as failure:  # the converter and the checker raise errors of many kinds
            reasons.append(_first_line(failure))
        else:
            different = _difference(model, found, trials)
            if different is None:
                _mark_new_constants(found, model, opset)
                return found
            reasons.append(different)
    instead = f"Fuse with raise_opset={own} (--raise-opset {own}), export" if own > opset else "Export"
    raise OpsetError(
        f"{what} is written at opset {own} and cannot be written at opset {opset}, that of the raw model: "
        f"{reasons[0]}. {instead} the raw model with opset_version={own}, or write the step with operators that opset "
        f"{opset} has."
    )


def run_model(model: onnx.ModelProto, arrays: Sequence[Array]) -> Array:
    """Run a model in onnxruntime, as it is; its one output."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fed = {each.name: array for each, array in zip(model.graph.input, arrays, strict=True)}
    read = {each.name for each in session.get_inputs()}
    result: Array = session.run(None, {name: array for name, array in fed.items() if name in read})[0]
    return result


def _convert_whole(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    from onnx import version_converter

    return version_converter.convert_version(model, opset)


def _difference(model: onnx.ModelProto, found: onnx.ModelProto, trials: Trials) -> str | None:
    """How two models differ in onnxruntime; None where they do not."""
    for arrays in (*trials.arrays, *map(_with_special_numbers, trials.arrays)):
        try:
            expected, given = run_model(model, arrays), run_model(found, arrays)
        except Exception as failure:  # onnxruntime's errors have no common base
            return f"it cannot be tried out: {_first_line(failure)}"
        if expected.shape != given.shape or expected.dtype != given.dtype:
            return f"it would give {given.dtype} {given.shape} instead of {expected.dtype} {expected.shape}"
        if not _same(given, expected):
            operators = ", ".join(sorted({node.op_type for node in model.graph.node}))
            return f"it would compute other numbers (its operators: {operators})"
    return None


def _same(found: Array, expected: Array) -> bool:
    if expected.dtype.kind != "f":
        return np.array_equal(found, expected)
    finite = np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True) or not np.isfinite(found[finite]).all():
        return False
    scale = float(np.abs(expected[finite]).max(initial=0.0))
    error = np.abs(found[finite].astype(np.float64) - expected[finite]).max(initial=0.0)
    return bool(error <= _TOLERANCE * scale)


def _with_special_numbers(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """The same arrays with a few numbers that operators may treat in another way."""
    changed = []
    for array in arrays:
        special = array.copy()
        if special.dtype.kind == "f":
            flat: Any = special.reshape(-1)
            for place, number in enumerate((np.nan, np.inf, -np.inf, 0.0)):
                flat[place * max(1, len(flat) // 4) % len(flat)] = number
        changed.append(special)
    return tuple(changed)


def _mark_new_constants(found: onnx.ModelProto, model: onnx.ModelProto, opset: int) -> None:
    """Name what the other opset needs after it, so that one name stands for one number at every opset."""
    names = {tensor.name for tensor in model.graph.initializer}
    names |= {name for node in model.graph.node for name in node.output}
    new = {tensor.name: f"opset{opset}/{tensor.name}" for tensor in found.graph.initializer if tensor.name not in names}
    new |= {
        name: f"opset{opset}/{name}"
        for node in found.graph.node
        if node.op_type == "Constant"
        for name in node.output
        if name not in names
    }
    _renamed(found.graph, new)


def _renamed(graph: onnx.GraphProto, new: dict[str, str]) -> None:
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = new.get(name, name)
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _renamed(body, new)
    for output in graph.output:
        output.name = new.get(output.name, output.name)


def _first_line(failure: Exception) -> str:
    return (str(failure).strip().splitlines() or [type(failure).__name__])[0].rstrip(".")
