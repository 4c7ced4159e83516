"""Write operators and constants into a graph, under fresh names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pp_graph.errors import FusionError, OpsetError
from pp_graph.model.opset_raising import HOW_TO_RAISE

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from pp_graph.model import NameScope, Shape

MINIMUM_OPSET = 9
"""Where and IsNaN take float32 from this opset on; the other operators are older."""

NODES_FOR_CONSTANTS_BELOW = 4
"""IR version below which an initializer must be a graph input as well."""

_OUTPUTS = {"TopK": 2}
"""Number of outputs, for operators with several. Only the first is used."""


class Writer:
    """Writes operators at the end of a graph, with fresh names under a prefix.

    Attributes:
        opset: The graph's opset, which determines the form of the operators.

    Args:
        graph: The graph to write into.
        opset: The graph's opset.
        ir_version: The model's IR version. Below 4 an initializer must also be an input, so constants are written as
            Constant nodes.
        names: The names taken in the graph.
        prefix: Prefix of all names.

    Raises:
        OpsetError: The opset is below `MINIMUM_OPSET`.
    """

    def __init__(self, graph: ir.Graph, *, opset: int, ir_version: int, names: NameScope, prefix: str) -> None:
        if opset < MINIMUM_OPSET:
            raise OpsetError(
                f"The model is at opset {opset}, expected {MINIMUM_OPSET} or later for the post-processing's "
                f"operators (Where, IsNaN). Fuse with {HOW_TO_RAISE}, or export it again with "
                f"opset_version={MINIMUM_OPSET} or later."
            )
        self._graph = graph
        self.opset = opset
        self._ir_version = ir_version
        self._names = names
        self._prefix = prefix
        self._scope = ""
        self._constants: dict[tuple[str, bytes], ir.Value] = {}
        self._trusted: dict[ir.Value, Shape | None] = {}
        self._before: ir.Node | None = None
        self._body: list[ir.Node] | None = None
        self._adjustable: dict[str, ir.Value] = {}

    @contextlib.contextmanager
    def before(self, node: ir.Node) -> Iterator[None]:
        """Write before a node, instead of at the end of the graph."""
        self._before = node
        try:
            yield
        finally:
            self._before = None

    def trust(self, value: ir.Value, shape: Shape | None) -> None:
        """Use a shape for a value of the raw model, whose declared shape holds only proven sizes."""
        self._trusted[value] = shape

    def shape_of(self, value: ir.Value) -> Shape | None:
        """Shape of a value, as far as known."""
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
        """A named constant: a scalar, or a list of int64 numbers. Equal constants of a scope are written once."""
        return self._constant(np.asarray(value, np.int64 if isinstance(value, Sequence) else None), name)

    def array(self, value: npt.NDArray[np.floating] | npt.NDArray[np.bool_], name: str) -> ir.Value:
        """A named constant array: bool, or rounded to float32."""
        return self._constant(np.ascontiguousarray(value, None if value.dtype == np.bool_ else np.float32), name)

    def _constant(self, array: npt.NDArray[Any], name: str) -> ir.Value:
        import onnx_ir as ir

        key = (f"{array.dtype} {array.shape}", array.tobytes())
        if key not in self._constants:
            full = self._fresh(name)
            tensor = ir.tensor(array, name=full)
            if self._ir_version < NODES_FOR_CONSTANTS_BELOW:
                self._constants[key] = self.node("Constant", [], {"value": tensor}, array.dtype, array.shape, full)
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

    def is_constant(self, value: ir.Value) -> bool:
        """True if a value is a constant written in this scope."""
        return any(value is constant for constant in self._constants.values())

    def adjustable(self, default: npt.ArrayLike, name: str) -> ir.Value:
        """A graph input of exactly this name with a default in float32; the same one if it was written before.

        Raises:
            FusionError: The name is taken.
        """
        import onnx_ir as ir

        if name in self._adjustable:
            return self._adjustable[name]
        if self._names.fresh(name) != name:
            raise FusionError(
                f"The model has a value named '{name}', which the adjustable cutoff needs. Export the model with "
                "another name there, or leave thresholds fixed."
            )
        number = np.asarray(default, np.float32)
        value = ir.Value(
            name=name,
            shape=ir.Shape(number.shape),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(number, name=name),
        )
        self._adjustable[name] = value
        self._graph.inputs.append(value)
        self._graph.register_initializer(value)
        return value

    def _fresh(self, name: str) -> str:
        return self._names.fresh("/".join(part for part in (self._prefix, self._scope, name) if part))

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, ir.TensorProtocol | float | int | str | list[int]],
        dtype: np.dtype[np.generic] | None,
        shape: Shape | None,
        name: str | None = None,
    ) -> ir.Value:
        """Write any operator of the default domain.

        Args:
            op_type: Name of the operator, such as `Exp`.
            inputs: Its inputs; None for an omitted optional input.
            attributes: Its attributes.
            dtype: Element type of its first output; None if unknown.
            shape: Shape of its first output; None if unknown.
            name: Name of its first output; None for a fresh one.

        Returns:
            Its first output.

        Raises:
            OpsetError: The graph's opset has no such operator.
        """
        import onnx
        import onnx_ir as ir

        if not onnx.defs.has(op_type, self.opset, ""):
            raise OpsetError(
                f"Operator {op_type} does not exist at opset {self.opset} of the model. Fuse with {HOW_TO_RAISE}, "
                "export the model with a later opset_version, or write the step with other operators."
            )

        output = ir.Value(
            name=name or self._fresh(f"{op_type}_output"),
            shape=None if shape is None else ir.Shape(shape),
            type=None if dtype is None else ir.TensorType(ir.DataType.from_numpy(dtype)),
        )
        unread = [ir.Value(name=self._fresh(f"{op_type}_unread")) for _ in range(_OUTPUTS.get(op_type, 1) - 1)]
        node = ir.node(op_type, inputs, attributes, outputs=[output, *unread], name=self._fresh(op_type))
        self._write(node)
        return output

    def dtype_of(self, value: ir.Value) -> np.dtype[np.generic] | None:
        """Element type of a value; None if unknown."""
        return None if value.dtype is None else value.dtype.numpy()

    def _write(self, node: ir.Node) -> None:
        if self._body is not None:
            self._body.append(node)
        elif self._before is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(self._before, node)
