"""The closed vocabulary in which steps write ONNX, at whatever opset the graph has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pp_graph.errors import FusionError, OpsetError

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from pp_graph.model import NameScope, Shape

MINIMUM_OPSET = 9
"""Where and IsNaN first take float32 here; everything else is older."""

_CLIP_BOUNDS_ARE_INPUTS = 11
_REDUCE_AXES_ARE_INPUTS = {"ReduceSum": 13, "ReduceMax": 18, "ReduceL2": 18}
_SLICE_BOUNDS_ARE_INPUTS = 10
_UNSQUEEZE_AXES_ARE_INPUTS = 13
_LESS_OR_EQUAL = 12
_RESIZE_TAKES_SIZES = 11
_RESIZE_INPUTS_ARE_OPTIONAL = 13
_INITIALIZERS_NEED_NO_INPUT = 4
"""IR version from which an initializer need not be a graph input as well."""


class Emitter:
    """Writes operators at the end of a graph; every name is fresh and lies under one prefix.

    Args:
        graph: The graph to write into.
        opset: The graph's opset; operators are written in the form it asks for.
        ir_version: The model's IR version. Before 4 an initializer must also be an input, so
            constants are written as Constant nodes there, and the inputs stay as they are.
        names: The names taken in the graph.
        prefix: What every name begins with.

    Raises:
        OpsetError: The opset is below `MINIMUM_OPSET`.
    """

    def __init__(self, graph: ir.Graph, *, opset: int, ir_version: int, names: NameScope, prefix: str) -> None:
        if opset < MINIMUM_OPSET:
            raise OpsetError(
                f"The model is at opset {opset}, expected {MINIMUM_OPSET} or later for the post-processing's "
                f"operators (Where, IsNaN). Export it again with opset_version={MINIMUM_OPSET} or later."
            )
        self._graph = graph
        self._opset = opset
        self._ir_version = ir_version
        self._names = names
        self._prefix = prefix
        self._scope = ""
        self._constants: dict[tuple[str, bytes], ir.Value] = {}
        self._trusted: dict[ir.Value, Shape | None] = {}
        self._before: ir.Node | None = None

    @contextlib.contextmanager
    def before(self, node: ir.Node) -> Iterator[None]:
        """Write before a node, instead of at the end of the graph."""
        self._before = node
        try:
            yield
        finally:
            self._before = None

    def trust(self, value: ir.Value, shape: Shape | None) -> None:
        """Take `shape` for that of a value of the raw model, which declares only what is proven of it."""
        self._trusted[value] = shape

    def shape_of(self, value: ir.Value) -> Shape | None:
        """Shape of a value, as far as it is known."""
        if value in self._trusted:
            return self._trusted[value]
        if value.shape is None:
            return None
        return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Name everything written inside `<prefix>/<name>/...`."""
        self._scope = name
        self._constants = {}
        try:
            yield
        finally:
            self._scope = ""

    def constant(self, value: np.generic | Sequence[int], name: str) -> ir.Value:
        """A named constant: a float32 scalar, or int64 numbers. One value a scope is written once."""
        return self._constant(np.asarray(value, np.int64 if isinstance(value, Sequence) else None), name)

    def array(self, value: npt.NDArray[np.floating], name: str) -> ir.Value:
        """A named constant array, rounded to float32."""
        return self._constant(np.ascontiguousarray(value, np.float32), name)

    def _constant(self, array: npt.NDArray[Any], name: str) -> ir.Value:
        import onnx_ir as ir

        key = (f"{array.dtype} {array.shape}", array.tobytes())
        if key not in self._constants:
            full = self._fresh(name)
            tensor = ir.tensor(array, name=full)
            if self._ir_version < _INITIALIZERS_NEED_NO_INPUT:
                self._constants[key] = self._node("Constant", [], {"value": tensor}, array.dtype, array.shape, full)
            else:
                constant = ir.Value(
                    name=full,
                    shape=ir.Shape(array.shape),
                    type=ir.TensorType(tensor.dtype),
                    const_value=tensor,
                )
                self._graph.register_initializer(constant)
                self._constants[key] = constant
        return self._constants[key]

    def adjustable(self, default: np.float32, name: str) -> ir.Value:
        """A float32 scalar that a caller may feed, under exactly this name; an input of the graph with a default.

        Raises:
            FusionError: The name is taken.
        """
        import onnx_ir as ir

        if self._names.fresh(name) != name:
            raise FusionError(
                f"The model has a value named '{name}', which the adjustable cutoff needs. Export the model with "
                "another name, or leave thresholds fixed."
            )
        value = ir.Value(
            name=name,
            shape=ir.Shape(()),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(np.asarray(default), name=name),
        )
        self._graph.inputs.append(value)
        self._graph.register_initializer(value)
        return value

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a + b`; `b` broadcasts to `a`."""
        return self._node("Add", [a, b], {}, np.dtype(np.float32), self.shape_of(a))

    def sub(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a - b`; `b` broadcasts to `a`."""
        return self._node("Sub", [a, b], {}, np.dtype(np.float32), self.shape_of(a))

    def div(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a / b`; `b` broadcasts to `a`."""
        return self._node("Div", [a, b], {}, np.dtype(np.float32), self.shape_of(a))

    def clip(self, a: ir.Value, low: float, high: float) -> ir.Value:
        """Limit `a` to [low, high]. What NaN becomes depends on the runtime."""
        dtype = np.dtype(np.float32)
        if self._opset < _CLIP_BOUNDS_ARE_INPUTS:
            return self._node("Clip", [a], {"min": low, "max": high}, dtype, self.shape_of(a))
        bounds = [self.constant(np.float32(low), "low"), self.constant(np.float32(high), "high")]
        return self._node("Clip", [a, *bounds], {}, dtype, self.shape_of(a))

    def less(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a < b`, false for NaN if `b` is a constant; the constant of the two broadcasts."""
        shape = self.shape_of(b) if a in self._constants.values() else self.shape_of(a)
        return self._node("Less", [a, b], {}, np.dtype(np.bool_), shape)

    def less_or_equal(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a <= b`, false where either is NaN, of the shape of `b`; `a` is a scalar."""
        dtype = np.dtype(np.bool_)
        if self._opset >= _LESS_OR_EQUAL:
            return self._node("LessOrEqual", [a, b], {}, dtype, self.shape_of(b))
        not_above = self.logical_not(self._node("Less", [b, a], {}, dtype, self.shape_of(b)))
        number = self.logical_not(self.is_nan(a))
        return self.logical_and(self.logical_and(not_above, number), self.logical_not(self.is_nan(b)))

    def is_nan(self, a: ir.Value) -> ir.Value:
        """Whether each number is NaN."""
        return self._node("IsNaN", [a], {}, np.dtype(np.bool_), self.shape_of(a))

    def logical_not(self, a: ir.Value) -> ir.Value:
        """`not a`."""
        return self._node("Not", [a], {}, np.dtype(np.bool_), self.shape_of(a))

    def logical_and(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a and b`; `b` broadcasts to `a`."""
        return self._node("And", [a, b], {}, np.dtype(np.bool_), self.shape_of(a))

    def logical_or(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a or b`, of one shape."""
        return self._node("Or", [a, b], {}, np.dtype(np.bool_), self.shape_of(a))

    def where(self, condition: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a` where the condition holds, else `b`, of one element type; both broadcast to the condition."""
        dtype = np.dtype(np.float32) if a.dtype is None else a.dtype.numpy()
        return self._node("Where", [condition, a, b], {}, dtype, self.shape_of(condition))

    def cast(self, a: ir.Value, dtype: np.dtype[np.generic]) -> ir.Value:
        """Convert to another element type."""
        import onnx_ir as ir

        to = ir.DataType.from_numpy(dtype)
        return self._node("Cast", [a], {"to": to.value}, dtype, self.shape_of(a))

    def reduce(
        self,
        kind: Literal["ReduceMax", "ReduceL2", "ReduceSum"],
        a: ir.Value,
        axes: Sequence[int],
        *,
        keepdims: bool = False,
    ) -> ir.Value:
        """Maximum, root of the sum of squares, or sum over some axes, which disappear or keep size 1.

        What ReduceMax makes of NaN depends on the runtime; the sums spread it.
        """
        shape = self.shape_of(a)
        left = None
        if shape is not None:
            left = tuple(1 if axis in axes else dim for axis, dim in enumerate(shape) if keepdims or axis not in axes)
        dtype = np.dtype(np.float32)
        attributes: dict[str, int] = {"keepdims": int(keepdims)}
        if self._opset < _REDUCE_AXES_ARE_INPUTS[kind]:
            return self._node(kind, [a], {"axes": list(axes), **attributes}, dtype, left)
        return self._node(kind, [a, self.constant(tuple(axes), "axes")], attributes, dtype, left)

    def matmul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a @ b`, over the last two axes; float32."""
        return self._node("MatMul", [a, b], {}, np.dtype(np.float32), None)

    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """Values one after the other along an axis, of which the first shows all other sizes; float32."""
        before = [self.shape_of(value) for value in values]
        sizes = [None if shape is None else shape[axis] for shape in before]
        total = sum(size for size in sizes if isinstance(size, int))
        whole = total if all(isinstance(size, int) for size in sizes) else None
        shape = None if before[0] is None else (*before[0][:axis], whole, *before[0][axis + 1 :])
        return self._node("Concat", values, {"axis": axis}, np.dtype(np.float32), shape)

    def convolution(self, a: ir.Value, kernel: ir.Value, **attributes: int | list[int]) -> ir.Value:
        """A convolution over the last two axes; float32. Without attributes: no padding, stride 1, one group."""
        return self._node("Conv", [a, kernel], attributes, np.dtype(np.float32), None)

    def gather(self, a: ir.Value, index: ir.Value, axis: int) -> ir.Value:
        """What lies at some places along an axis, which takes the shape of `index`."""
        return self._node("Gather", [a, index], {"axis": axis}, None, None)

    def mul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a * b`; `b` broadcasts to `a`."""
        return self._node("Mul", [a, b], {}, np.dtype(np.float32), self.shape_of(a))

    def transpose(self, a: ir.Value, order: Sequence[int]) -> ir.Value:
        """The axes in another order; float32."""
        before = self.shape_of(a)
        shape = None if before is None else tuple(before[axis] for axis in order)
        return self._node("Transpose", [a], {"perm": list(order)}, np.dtype(np.float32), shape)

    def slice(self, a: ir.Value, starts: Sequence[int], stops: Sequence[int], axes: Sequence[int]) -> ir.Value:
        """A cut along some axes; float32."""
        if self._opset < _SLICE_BOUNDS_ARE_INPUTS:
            attributes = {"starts": list(starts), "ends": list(stops), "axes": list(axes)}
            return self._node("Slice", [a], attributes, np.dtype(np.float32), None)
        bounds = [
            self.constant(tuple(each), name) for each, name in ((starts, "starts"), (stops, "ends"), (axes, "axes"))
        ]
        return self._node("Slice", [a, *bounds], {}, np.dtype(np.float32), None)

    def unsqueeze(self, a: ir.Value, axes: Sequence[int]) -> ir.Value:
        """New axes of size 1 at these places of the result, in rising order; float32."""
        before = self.shape_of(a)
        shape: list[int | str | None] = list(before or ())
        for axis in axes:
            shape.insert(axis, 1)
        return self._reshaped("Unsqueeze", a, axes, None if before is None else shape)

    def squeeze(self, a: ir.Value, axis: int) -> ir.Value:
        """Without an axis of size 1; float32."""
        before = self.shape_of(a)
        return self._reshaped("Squeeze", a, (axis,), before and [*before[:axis], *before[axis + 1 :]])

    def _reshaped(
        self, kind: str, a: ir.Value, axes: Sequence[int], shape: Sequence[int | str | None] | None
    ) -> ir.Value:
        known = None if shape is None else tuple(shape)
        if self._opset < _UNSQUEEZE_AXES_ARE_INPUTS:
            return self._node(kind, [a], {"axes": list(axes)}, np.dtype(np.float32), known)
        return self._node(kind, [a, self.constant(tuple(axes), "axes")], {}, np.dtype(np.float32), known)

    def resize(self, a: ir.Value, height: int, width: int) -> ir.Value:
        """`a` of (N,C,H,W) with other sizes of H and W, bilinear between centres of pixels; float32.

        Raises:
            OpsetError: The opset has no such operator.
        """
        if self._opset < _RESIZE_TAKES_SIZES:
            raise OpsetError(
                f"The model is at opset {self._opset}, expected {_RESIZE_TAKES_SIZES} or later to resize its map. "
                f"Export it again with opset_version={_RESIZE_TAKES_SIZES} or later, or leave out --map-size."
            )
        whole = self._node("Shape", [a], {}, np.dtype(np.int64), (4,))
        bounds = [self.constant((number,), name) for number, name in ((0, "start"), (2, "end"), (0, "axis"))]
        kept = self._node("Slice", [whole, *bounds], {}, np.dtype(np.int64), (2,))
        size = self.constant((height, width), "size")
        sizes = self._node("Concat", [kept, size], {"axis": 0}, np.dtype(np.int64), (4,))
        # Between opsets 11 and 12 the region of interest must be there, and is not looked at.
        roi = self.array(np.empty(0), "no_region")
        scales = self.array(np.empty(0), "no_scales") if self._opset < _RESIZE_INPUTS_ARE_OPTIONAL else None
        roi_or_none = roi if scales is not None else None
        before = self.shape_of(a)
        shape = None if before is None else (*before[:2], height, width)
        attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        return self._node("Resize", [a, roi_or_none, scales, sizes], attributes, np.dtype(np.float32), shape)

    def rewired(self, node: ir.Node, inputs: Sequence[ir.Value | None], **attributes: int) -> ir.Value:
        """The first output of an operator like another one on other inputs, with its attributes or some replaced."""
        import onnx_ir as ir

        outputs = [ir.Value(name=self._fresh(f"{node.op_type}_output"), type=output.type) for output in node.outputs]
        kept = [attribute for name, attribute in node.attributes.items() if name not in attributes]
        kept += [ir.AttrInt64(name, number) for name, number in attributes.items()]
        copy = ir.Node(node.domain, node.op_type, inputs, kept, outputs=outputs, name=self._fresh(node.op_type))
        self._write(copy)
        return outputs[0]

    def identity(self, a: ir.Value) -> ir.Value:
        """`a` under a name of its own; float32."""
        return self._node("Identity", [a], {}, np.dtype(np.float32), self.shape_of(a))

    def _fresh(self, name: str) -> str:
        return self._names.fresh("/".join(part for part in (self._prefix, self._scope, name) if part))

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, ir.TensorProtocol | float | int | str | list[int]],
        dtype: np.dtype[np.generic] | None,
        shape: Shape | None,
        name: str | None = None,
    ) -> ir.Value:
        import onnx_ir as ir

        output = ir.Value(
            name=name or self._fresh(f"{op_type}_output"),
            shape=None if shape is None else ir.Shape(shape),
            type=None if dtype is None else ir.TensorType(ir.DataType.from_numpy(dtype)),
        )
        node = ir.node(op_type, inputs, attributes, outputs=[output], name=self._fresh(op_type))
        self._write(node)
        return output

    def _write(self, node: ir.Node) -> None:
        if self._before is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(self._before, node)
