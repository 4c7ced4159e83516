"""Convert the model of a `GraphStep` to the raw model's later opset, and check that it still computes the same."""

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
    from pp_graph.values import ValueType

_TOLERANCE: Final = 1e-6
"""Allowed difference between both models, as a fraction of the largest number."""
_LOG_FATAL_ONLY: Final = 4
_OPEN_SIZES: Final = ((48, 40), (64, 56))
"""Heights and widths to try if the size is open."""
OPEN_CLASSES: Final = 3
_OPEN_AXES: Final = {"C": OPEN_CLASSES, "K": 5, "P": 4, "T": 2}
"""Sizes to try for other open axes."""


def trial_arrays(types: Sequence[ValueType]) -> list[tuple[Array, ...]]:
    """Arrays of some types for several batches and, if open, sizes. The last ones are the best example."""
    rng = np.random.default_rng(0)
    open_size = any(value.per_pixel and value.map_size is None for value in types)
    # Batch 1 comes first: an exporter would take it for fixed in the example.
    cases = [(1, _OPEN_SIZES[0]), (3, _OPEN_SIZES[0]), *([(2, _OPEN_SIZES[1])] if open_size else [])]
    trials = []
    for turn, (batch, size) in enumerate(cases):
        arrays: list[Array] = []
        for value in types:
            height, width = value.map_size or size
            sized = value.resized(H=height, W=width) if value.per_pixel else value
            shape = sized.example_shape(batch=batch, **_OPEN_AXES)
            # Raw values are around zero or far above it.
            numbers = rng.normal(20.0 * turn, 3.0 + 3.0 * turn, shape).astype(np.float32)
            arrays.append(numbers > 0 if value.dtype == "bool" else numbers)
        trials.append(tuple(arrays))
    return trials


def opset_of(model: onnx.ModelProto) -> int:
    """Return the imported version of the default domain, or 0."""
    return default_opset({entry.domain: entry.version for entry in model.opset_import})


def adapted(model: onnx.ModelProto, opset: int, types: tuple[ValueType, ...], what: str) -> onnx.ModelProto:
    """Return a model at a later opset.

    Args:
        model: A model without local functions that imports only the default domain.
        opset: The raw model's opset.
        types: Types of the inputs, for arrays on which to compare both models.
        what: Subject of the error messages.

    Raises:
        OpsetError: The model has a later opset than `opset`, or would compute other results there.
    """
    written_at = opset_of(model)
    if written_at == opset:
        return model
    if written_at > opset:
        raise OpsetError(
            f"{what} is written at opset {written_at}, expected at most {opset}, the raw model's. Raise the raw model "
            f"with raise_opset={written_at} (--raise-opset {written_at}), export it with opset_version={written_at}, "
            f"or write the step with operators of opset {opset}."
        )
    return _converted(model.SerializeToString(deterministic=True), opset, types, what)


@functools.lru_cache(maxsize=64)
def _converted(content: bytes, opset: int, types: tuple[ValueType, ...], what: str) -> onnx.ModelProto:
    import onnx
    from onnx import version_converter

    model = onnx.load_from_string(content)
    try:
        converted = version_converter.convert_version(model, opset)
        onnx.checker.check_model(converted, full_check=True)
        problem = _difference(model, converted, trial_arrays(types))
    except Exception as failure:  # the errors of converter and checker have no common base
        problem = (str(failure).strip().splitlines() or [type(failure).__name__])[0].rstrip(".")
    if problem is not None:
        raise OpsetError(
            f"{what} is written at opset {opset_of(model)} and cannot be converted to opset {opset}, the raw model's: "
            f"{problem}. Write the step with operators of opset {opset}."
        )
    _mark_new_constants(converted, model, opset)
    return converted


def run_model(model: onnx.ModelProto, arrays: Sequence[Array]) -> Array:
    """Run a model with one output in onnxruntime, without graph optimisations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    read = {info.name for info in session.get_inputs()}
    named = zip(model.graph.input, arrays, strict=True)
    result: Array = session.run(None, {info.name: array for info, array in named if info.name in read})[0]
    return result


def _difference(model: onnx.ModelProto, converted: onnx.ModelProto, trials: Sequence[tuple[Array, ...]]) -> str | None:
    """Describe how two models differ in onnxruntime; None if they do not."""
    for arrays in (*trials, *map(_with_special_numbers, trials)):
        expected, result = run_model(model, arrays), run_model(converted, arrays)
        if expected.shape != result.shape or expected.dtype != result.dtype:
            return f"it would return {result.dtype} {result.shape} instead of {expected.dtype} {expected.shape}"
        if not _close(result, expected):
            operators = ", ".join(sorted({node.op_type for node in model.graph.node}))
            return f"it would compute other numbers (its operators: {operators})"
    return None


def _close(result: Array, expected: Array) -> bool:
    if expected.dtype.kind != "f":
        return np.array_equal(result, expected)
    finite = expected[np.isfinite(expected)]
    scale = float(np.abs(finite).max(initial=0.0))
    return np.allclose(result, expected, rtol=0, atol=_TOLERANCE * scale, equal_nan=True)


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


def _mark_new_constants(converted: onnx.ModelProto, model: onnx.ModelProto, opset: int) -> None:
    """Prefix constants that the conversion added with the opset, so that a name means the same number at any opset."""
    known = {tensor.name for tensor in model.graph.initializer}
    known |= {name for node in model.graph.node for name in node.output}
    added = [tensor.name for tensor in converted.graph.initializer]
    added += [name for node in converted.graph.node if node.op_type == "Constant" for name in node.output]
    _rename(converted.graph, {name: f"opset{opset}/{name}" for name in added if name not in known})


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
