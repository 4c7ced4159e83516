"""Trusted shapes: the declared ones, corrected by inference."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt
    import onnx_ir as ir

OVERRIDABLE_FROM: Final = 4
"""IR version from which an initializer that is also an input is a default that a caller may override."""

Dimension = int | str | None
"""A size, the name of a symbolic size, or None where the file says neither."""

Shape = tuple[Dimension, ...]


def format_shape(shape: Shape | None) -> str:
    """Write a shape for people: `(batch, 1, 256, ?)`; `(unknown rank)` for None."""
    if shape is None:
        return "(unknown rank)"
    inner = ", ".join("?" if dim is None else str(dim) for dim in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def declared_shape(value: ir.Value) -> Shape | None:
    """Shape as the file declares it; sizes below 1 (written by some exporters for 'any') become None."""
    if value.shape is None:
        return None
    return tuple((dim if dim > 0 else None) if isinstance(dim, int) else (dim.value or None) for dim in value.shape)


def infer_values(
    model: ir.Model,
    known: Mapping[str, npt.NDArray[Any]] | None = None,
    proven: Mapping[str, Shape] | None = None,
) -> dict[str, ir.Value]:
    """Infer shapes and types of the main graph's values from inputs and weights alone.

    Args:
        model: The model; it is not changed, and the shapes it declares are not looked at.
        known: Values of the graph, by name, that are known to be constant although operators compute them: sizes and
            pads, mostly, which inference itself does not work out.
        proven: Shapes that are known otherwise, by name of the value.

    Returns:
        Name to a value of a copy of the graph, with the shape and type that were inferred. Empty where
        inference fails as a whole, as it may on custom operators.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    # The pass logs a stack trace where inference fails; here that only means "unknown".
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        clone = model.clone()
        graph = clone.graph
        for node in graph.all_nodes():
            for output in node.outputs:
                shape = (proven or {}).get(output.name or "")
                output.shape = None if shape is None else ir.Shape(shape)
        for value in graph.inputs:
            shape = declared_shape(value)
            value.shape = None if shape is None else ir.Shape(shape)
            if model.ir_version >= OVERRIDABLE_FROM and value.name is not None and value.name in graph.initializers:
                del graph.initializers[value.name]  # only a default; nothing is proven by it
        _write_constants(graph, known or {})
        graph.sort()
        inferred = common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(clone).model
    except Exception:
        return {}
    finally:
        logger.setLevel(level)
    return {value.name: value for node in inferred.graph for value in node.outputs if value.name}


def _write_constants(graph: ir.Graph, known: Mapping[str, npt.NDArray[Any]]) -> None:
    """Read constants where operators that compute them were read."""
    import onnx_ir as ir

    for name, array in known.items():
        tensor = ir.tensor(array, name=f"{name}#known")
        constant = ir.Value(name=f"{name}#known", shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
        constant.const_value = tensor
        for node in list(graph):
            for index, value in enumerate(node.inputs):
                if value is not None and value.name == name:
                    node.replace_input_with(index, constant)
        if constant.consumers():
            graph.register_initializer(constant)


def reconcile(
    declared: Shape | None, inferred: Shape | None, input_symbols: Iterable[str]
) -> tuple[Shape | None, str | None]:
    """Join a declared and an inferred shape; inference wins where the two contradict each other.

    Args:
        declared: What the file says.
        inferred: What inference found.
        input_symbols: Names of the symbolic sizes of the graph inputs. A size that inference
            derives from one of them is dynamic, even where the file declares a number.

    Returns:
        The shape, and a sentence about the contradiction, None where there is none.
    """
    if declared is None or inferred is None:
        return (inferred if declared is None else declared), None
    if len(declared) != len(inferred):
        return inferred, f"declared as {format_shape(declared)}, but computed as {format_shape(inferred)}"
    symbols = set(input_symbols)
    merged: list[Dimension] = []
    conflict = False
    for says, finds in zip(declared, inferred, strict=True):
        if isinstance(says, int) and (
            (isinstance(finds, int) and finds != says) or (isinstance(finds, str) and finds in symbols)
        ):
            conflict = True
            merged.append(finds)
        elif isinstance(says, int) or not isinstance(finds, int):
            merged.append(says if says is not None else finds)
        else:
            merged.append(finds)
    note = f"declared as {format_shape(declared)}, but computed as {format_shape(inferred)}"
    return tuple(merged), note if conflict else None


def symbols_of(shapes: Sequence[Shape | None]) -> set[str]:
    """Names of all symbolic sizes in some shapes."""
    return {dim for shape in shapes if shape is not None for dim in shape if isinstance(dim, str)}
