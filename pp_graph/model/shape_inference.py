"""Infer shapes and types from inputs and weights alone, whatever a file declares about inner values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pp_graph.model.shapes import OVERRIDABLE_FROM, Shape, declared_shape

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx
    import onnx_ir as ir

_LARGEST: Final = 1000
"""Bytes of a weight up to which its numbers are given to the inference, as they may be sizes."""
_MUCH: Final = 1 << 24
"""Size or constant above which the numbers of a Range are left unknown: the inference would compute all of them."""
_FUNCTIONS_DECLARE_FROM: Final = 10
"""IR version from which local functions declare inner values."""


class InferredValue(NamedTuple):
    """Shape and ONNX name of the element type, such as `FLOAT`; None where unknown."""

    shape: Shape | None
    dtype: str | None


class ShapeInference:
    """Infers shapes and types of the main graph's values.

    Args:
        model: The model. It is read once, without its weights, and not changed. Its declared inner shapes are ignored.
    """

    def __init__(self, model: ir.Model) -> None:
        self._graph: onnx.ModelProto | None
        try:
            self._graph = _without_weights(model)
        except Exception:
            self._graph = None  # it cannot be serialised, so nothing is known

    def infer(
        self,
        known: Mapping[str, npt.NDArray[Any]] | None = None,
        proven: Mapping[str, Shape] | None = None,
    ) -> Mapping[str, InferredValue]:
        """Infer.

        Args:
            known: Computed values that are known to be constant, by name: mostly sizes and pads that inference cannot
                compute itself.
            proven: Shapes that are known from elsewhere, by name of the value.

        Returns:
            The computed values by name. Empty if inference fails, as it may with custom operators.
        """
        import onnx

        if self._graph is None:
            return {}
        proto = self._graph
        if known or proven:
            proto = onnx.ModelProto()
            proto.CopyFrom(self._graph)
        try:
            if known:
                _write_constants(proto.graph, known)
            if proven:
                _write_shapes(proto.graph, proven)
            graph = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True).graph
        except Exception:
            return {}
        given = {*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)}
        entries = (*graph.value_info, *graph.output)
        return _InferredValues({entry.name: entry.type for entry in entries if entry.name not in given})


class _InferredValues(Mapping[str, InferredValue]):
    """Values that are read when they are asked for, because few of a large model's are."""

    def __init__(self, declared: dict[str, onnx.TypeProto]) -> None:
        self._declared = declared
        self._read: dict[str, InferredValue] = {}

    def __getitem__(self, name: str) -> InferredValue:
        if name not in self._read:
            self._read[name] = _read(self._declared[name])
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._declared

    def __iter__(self) -> Iterator[str]:
        return iter(self._declared)

    def __len__(self) -> int:
        return len(self._declared)


def _read(declared: onnx.TypeProto) -> InferredValue:
    import onnx

    tensor = declared.tensor_type
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return InferredValue(None, dtype)
    sizes = (dim.dim_value if dim.dim_value > 0 else dim.dim_param or None for dim in tensor.shape.dim)
    return InferredValue(tuple(sizes), dtype)


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """Serialise what inference reads: small weights with their numbers, other ones as inputs of known shape."""
    import onnx
    import onnx_ir as ir
    from onnx_ir import serde

    graph = model.graph
    proto = onnx.ModelProto(ir_version=model.ir_version)
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    for function in model.functions.values():
        declares = model.ir_version >= _FUNCTIONS_DECLARE_FROM
        proto.functions.append(serde.serialize_function(function, create_value_info=declares))
    for value in graph.inputs:
        shape = declared_shape(value)
        shaped = ir.Value(name=value.name, type=value.type, shape=None if shape is None else ir.Shape(shape))
        proto.graph.input.append(serde.serialize_value(shaped))
    _add_weights(proto.graph, graph, overridable=model.ir_version >= OVERRIDABLE_FROM)
    for node in graph:
        proto.graph.node.append(serde.serialize_node(node))
        _forget_inner_shapes(proto.graph.node[-1])
        for output in node.outputs:
            if output.type is not None and output.name and not output.is_graph_output():
                proto.graph.value_info.append(serde.serialize_value(ir.Value(name=output.name, type=output.type)))
    for output in graph.outputs:
        bare = output if output.producer() is None else ir.Value(name=output.name, type=output.type)
        proto.graph.output.append(serde.serialize_value(bare))
    _hide_long_ranges(proto.graph)
    return proto


def _hide_long_ranges(graph: onnx.GraphProto) -> None:
    """Give Range an unknown domain in a model with numbers that may make it long."""
    import numpy as np
    from onnx import numpy_helper

    ranges = [node for node in graph.node if node.op_type == "Range"]
    if not ranges:
        return
    tensors = [*graph.initializer, *(each.t for node in graph.node for each in node.attribute if each.HasField("t"))]
    numbers = [dim.dim_value for value in graph.input for dim in value.type.tensor_type.shape.dim]
    numbers += [each.i for node in graph.node for each in node.attribute]
    for tensor in tensors:
        array = numpy_helper.to_array(tensor)
        if array.size and array.dtype.kind in "iuf":
            numbers.append(int(np.nan_to_num(np.abs(array.astype(np.float64))).max()))
    if max(numbers, default=0) > _MUCH:
        for node in ranges:
            node.domain = "unknown"


def _add_weights(proto: onnx.GraphProto, graph: ir.Graph, *, overridable: bool) -> None:
    import onnx_ir as ir
    from onnx_ir import serde

    for value in graph.initializers.values():
        if value.is_graph_input() and overridable:
            continue  # a default that callers may override proves nothing
        tensor = value.const_value
        if not value.is_graph_input():
            known = value
            if tensor is not None:
                sizes = ir.Shape(tensor.shape.numpy())
                known = ir.Value(name=value.name, type=ir.TensorType(tensor.dtype), shape=sizes)
            proto.input.append(serde.serialize_value(known))
        if tensor is not None and tensor.nbytes <= _LARGEST:
            proto.initializer.append(serde.serialize_tensor(tensor))
            proto.initializer[-1].name = value.name or ""


def _forget_inner_shapes(node: onnx.NodeProto) -> None:
    """Remove the declared shapes of computed values in the branches or the loop of an operator."""
    for attribute in node.attribute:
        for body in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            del body.value_info[:]
            computed = {name for inner in body.node for name in inner.output}
            for output in body.output:
                if output.name in computed and output.type.HasField("tensor_type"):
                    output.type.tensor_type.ClearField("shape")
            for inner in body.node:
                _forget_inner_shapes(inner)


def _write_constants(graph: onnx.GraphProto, known: Mapping[str, npt.NDArray[Any]]) -> None:
    """Replace computed values by constants."""
    from onnx import numpy_helper

    for name, array in known.items():
        graph.initializer.append(numpy_helper.from_array(array, f"{name}#known"))
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in known:
                node.input[index] = f"{name}#known"


def _write_shapes(graph: onnx.GraphProto, proven: Mapping[str, Shape]) -> None:
    """Declare the shapes of computed values."""
    entries = {entry.name: entry for entry in (*graph.value_info, *graph.output)}
    for name, shape in proven.items():
        entry = entries.get(name)
        if entry is None:
            entry = graph.value_info.add(name=name)
        dims = entry.type.tensor_type.shape.dim
        del dims[:]
        for size in shape:
            dims.add(**({} if size is None else {"dim_value": size} if isinstance(size, int) else {"dim_param": size}))
