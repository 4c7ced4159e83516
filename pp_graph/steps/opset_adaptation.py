"""Bring a step that comes as a model to the raw model's later opset, and check that it still computes the same."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.errors import OpsetError
from pp_graph.model.graphs import default_opset

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from pp_graph.steps.step import Array

_TOLERANCE: Final = 1e-6
"""Allowed difference between both forms, as a fraction of the largest number."""
_SILENT: Final = 4


class Trials:
    """Inputs to compare two models on, one tuple of arrays per run; equal keys make equal trials."""

    def __init__(self, key: object, arrays: Sequence[tuple[Array, ...]]) -> None:
        self.arrays = tuple(arrays)
        self._key = key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trials) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def opset_of(model: onnx.ModelProto) -> int:
    """Return the imported version of the default domain, or 0."""
    return default_opset({entry.domain: entry.version for entry in model.opset_import})


def adapted(model: onnx.ModelProto, opset: int, trials: Trials, what: str) -> onnx.ModelProto:
    """Return a model at a later opset.

    Args:
        model: The model, of the default domain alone and without local functions.
        opset: The raw model's opset.
        trials: Inputs to compare both forms on.
        what: Subject of the error messages.

    Raises:
        OpsetError: The model needs a later opset than `opset`, or would compute something else there.
    """
    own = opset_of(model)
    if own == opset:
        return model
    if own > opset:
        raise OpsetError(
            f"{what} is written at opset {own}, expected at most {opset}, the raw model's. Raise the raw model with "
            f"raise_opset={own} (--raise-opset {own}), export it with opset_version={own}, or write the step with "
            f"operators of opset {opset}."
        )
    return _converted(model.SerializeToString(deterministic=True), opset, trials, what)


@functools.lru_cache(maxsize=64)
def _converted(content: bytes, opset: int, trials: Trials, what: str) -> onnx.ModelProto:
    import onnx
    from onnx import version_converter

    model = onnx.load_from_string(content)
    try:
        found = version_converter.convert_version(model, opset)
        onnx.checker.check_model(found, full_check=True)
        different = _difference(model, found, trials)
    except Exception as failure:  # the converter and the checker raise errors of many kinds
        different = _first_line(failure)
    if different is not None:
        raise OpsetError(
            f"{what} is written at opset {opset_of(model)} and cannot be converted to opset {opset}, the raw model's: "
            f"{different}. Write the step with operators of opset {opset}."
        )
    _mark_new_constants(found, model, opset)
    return found


def run_model(model: onnx.ModelProto, arrays: Sequence[Array]) -> Array:
    """Run a model of one output in onnxruntime, without optimising it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fed = {each.name: array for each, array in zip(model.graph.input, arrays, strict=True)}
    read = {each.name for each in session.get_inputs()}
    result: Array = session.run(None, {name: array for name, array in fed.items() if name in read})[0]
    return result


def _difference(model: onnx.ModelProto, found: onnx.ModelProto, trials: Trials) -> str | None:
    """Describe how two models differ in onnxruntime; None if they do not."""
    for arrays in (*trials.arrays, *map(_with_special_numbers, trials.arrays)):
        expected, given = run_model(model, arrays), run_model(found, arrays)
        if expected.shape != given.shape or expected.dtype != given.dtype:
            return f"it would give {given.dtype} {given.shape} instead of {expected.dtype} {expected.shape}"
        if not _same(given, expected):
            operators = ", ".join(sorted({node.op_type for node in model.graph.node}))
            return f"it would compute other numbers (its operators: {operators})"
    return None


def _same(found: Array, expected: Array) -> bool:
    if expected.dtype.kind != "f":
        return np.array_equal(found, expected)
    finite = expected[np.isfinite(expected)]
    scale = float(np.abs(finite).max(initial=0.0))
    return np.allclose(found, expected, rtol=0, atol=_TOLERANCE * scale, equal_nan=True)


def _with_special_numbers(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Replace a few numbers by NaN, infinities and zero."""
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
    """Name constants that the conversion added after the opset, so that one name means one number at every opset."""
    known = {tensor.name for tensor in model.graph.initializer}
    known |= {name for node in model.graph.node for name in node.output}
    added = [tensor.name for tensor in found.graph.initializer]
    added += [name for node in found.graph.node if node.op_type == "Constant" for name in node.output]
    _rename(found.graph, {name: f"opset{opset}/{name}" for name in added if name not in known})


def _rename(graph: onnx.GraphProto, new: dict[str, str]) -> None:
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = new.get(name, name)
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _rename(body, new)
    for output in graph.output:
        output.name = new.get(output.name, output.name)


def _first_line(failure: Exception) -> str:
    return (str(failure).strip().splitlines() or [type(failure).__name__])[0].rstrip(".")
