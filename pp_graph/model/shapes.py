"""Trusted shapes: the declared ones, corrected by inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pp_graph.model.graphs import quiet_onnx_ir

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import onnx_ir as ir

OVERRIDABLE_FROM: Final = 4
"""IR version from which callers may override an initializer that is also an input."""

Dimension = int | str | None
"""A size, the name of a symbolic size, or None if the file declares neither."""

Shape = tuple[Dimension, ...]


def format_shape(shape: Shape | None) -> str:
    """Format a shape for people: `(batch, 1, 256, ?)`; `(unknown rank)` for None."""
    if shape is None:
        return "(unknown rank)"
    inner = ", ".join("?" if dim is None else str(dim) for dim in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def declared_shape(value: ir.Value) -> Shape | None:
    """Return the shape that the file declares. Sizes below 1, which some exporters write for open ones, become None."""
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
        model: The model; it is not changed, and its declared inner shapes are ignored.
        known: Computed values that are known to be constant, by name: mostly sizes and pads that inference cannot
            compute itself.
        proven: Shapes that are known from elsewhere, by name of the value.

    Returns:
        Values with inferred shape and type, by name; they belong to a copy of the graph. Empty if inference fails, as
        it may with custom operators.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

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
                del graph.initializers[value.name]  # a default that callers may override proves nothing
        _write_constants(graph, known or {})
        graph.sort()
        with quiet_onnx_ir():
            inferred = common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(clone).model
    except Exception:
        return {}
    return {value.name: value for node in inferred.graph for value in node.outputs if value.name}


def _write_constants(graph: ir.Graph, known: Mapping[str, npt.NDArray[Any]]) -> None:
    """Replace computed values by constants."""
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
