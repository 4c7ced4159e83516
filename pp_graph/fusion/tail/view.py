"""Query a raw graph: proven shapes, constants, producers and redundant operators."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from pp_graph.model.constants import FOLDED, LARGEST_CONSTANT, Array, evaluate, read_constant_node
from pp_graph.model.graphs import all_nodes, bodies_of, default_opset
from pp_graph.model.shape_inference import ShapeInference
from pp_graph.model.shapes import OVERRIDABLE_FROM, Dimension, Shape, declared_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import onnx_ir as ir


_READS_SIZES: Final = frozenset({"Pad", "Resize", "Upsample", "Reshape", "Expand", "Slice", "Tile"})
_UNCERTAIN_SIZE: Final = 1e-3
_LISTS: Final = {"Concat": None, "Cast": 1, "Squeeze": 1, "Unsqueeze": 1, "Identity": 1, "Gather": 1, "Slice": None}
"""Operators that make an integer vector from others, with the number of inputs that hold them; None for all."""
_PASSES: Final = 3
"""Maximum number of inference passes, as one folded size may determine the next."""
_MIXING: Final = frozenset({"ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN", "If", "Loop", "Scan"})


_T = TypeVar("_T")


def resolve(
    value: ir.Value,
    known: dict[ir.Value, _T],
    operands: Callable[[ir.Value], Sequence[ir.Value]],
    read: Callable[[ir.Value], _T],
) -> _T:
    """Read a value once those that it depends on are known. A loop, since chains are longer than Python's stack."""
    pending = [value]
    while pending:
        last = pending[-1]
        unknown = None if last in known else next((each for each in operands(last) if each not in known), None)
        if unknown is not None:
            pending.append(unknown)
            continue
        pending.pop()
        if last not in known:
            known[last] = read(last)
    return known[value]


class GraphView:
    """Read-only view of a model for rules.

    Args:
        model: The model. Shapes are inferred once and constants read once, so make a new view after a change.
        scope: Prefix of the names of operators that rewrites added.

    Attributes:
        graph: The main graph.
        opset: Opset of the default domain.
    """

    def __init__(self, model: ir.Model, scope: str = "pp_graph/") -> None:
        self.graph = model.graph
        self.opset = default_opset(model.opset_imports)
        inference = ShapeInference(model)
        self._inferred = inference.infer()
        self._overridable = model.ir_version >= OVERRIDABLE_FROM
        self._constants: dict[ir.Value, Array | None] = {}
        self._integers: dict[ir.Value, tuple[Dimension, ...] | None] = {}
        self._places: dict[ir.Node, int] = {}
        self._scope = scope
        self._doubtful: set[ir.Value] = set()
        known: tuple[dict[str, Array], dict[str, Shape]] = ({}, {})
        for _ in range(_PASSES):
            folded, resized = self._folded_sizes(), self._resized()
            if folded.keys() == known[0].keys() and resized == known[1]:
                break
            known = folded, resized
            self._inferred = inference.infer(*known)
            self._constants.clear()
            self._integers.clear()
        self._doubtful = self._find_doubtful()
        self._live = self._find_live()

    def _find_doubtful(self) -> set[ir.Value]:
        """Find values whose size shape inference and runtimes may compute differently, and their dependents."""
        doubtful: set[ir.Value] = set()
        for node in self.graph:
            sizes = self.integers(node.inputs[3]) if node.op_type == "Resize" and len(node.inputs) > 3 else None
            fixed = sizes is not None and all(isinstance(dim, int) for dim in sizes[-2:])
            if fixed and node.inputs[3] not in doubtful:
                continue
            if self._sizes_depend_on_runtime(node) or any(value in doubtful for value in node.inputs):
                doubtful.update(node.outputs)
        return doubtful

    def _sizes_depend_on_runtime(self, node: ir.Node) -> bool:
        if node.op_type in ("MaxPool", "AveragePool", "LpPool") and node.attributes.get_int("ceil_mode", 0) != 0:
            return True
        if node.attributes.get_string("auto_pad", "NOTSET").startswith("SAME"):
            return max(node.attributes.get_ints("dilations", (1,))) > 1
        if node.op_type not in ("Resize", "Upsample"):
            return False
        if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
            return True
        source = node.inputs[0]
        shape = None if source is None else self.shape(source)
        scales: Sequence[float] | Array | None = None
        if "scales" in node.attributes:
            scales = node.attributes["scales"].as_floats()
        elif len(node.inputs) in (2, 3):
            scales = self.constant(node.inputs[-1])
        if shape is None or scales is None or len(scales) != len(shape):
            return False
        for size, scale in zip(shape, scales, strict=True):
            exact = size * float(scale) if isinstance(size, int) else 0.0
            if exact != round(exact) and abs(exact - round(exact)) < _UNCERTAIN_SIZE:
                return True
        return False

    def _folded_sizes(self) -> dict[str, Array]:
        """Evaluate sizes, pads and the like that operators compute from constants."""
        folded = {}
        for node in self.nodes():
            for value in node.inputs[1:] if node.op_type in _READS_SIZES else ():
                producer = self.producer(value)
                if value is None or producer is None or producer.op_type == "Constant":
                    continue
                array = self.constant(value)
                if array is not None and array.ndim < 2 and value.name:
                    folded[value.name] = array
        return folded

    def _resized(self) -> dict[str, Shape]:
        """Return shapes of resized values whose sizes refer to the batch by name, which inference loses."""
        shapes = {}
        for node in self.nodes():
            sizes = node.inputs[3] if node.op_type == "Resize" and len(node.inputs) > 3 else None
            shape = None if "axes" in node.attributes else self.integers(sizes)
            if shape is not None and node.outputs[0].name and not any(_is_unnamed(dim) for dim in shape):
                shapes[node.outputs[0].name] = shape
        return shapes

    def _find_live(self) -> set[ir.Node]:
        """Find the operators that an output of the graph depends on."""
        live: set[ir.Node] = set()
        pending = [node for output in self.graph.outputs if (node := output.producer()) is not None]
        while pending:
            node = pending.pop()
            if node in live:
                continue
            live.add(node)
            read = [value for value in node.inputs if value is not None]
            for body in bodies_of(node):
                read += [value for inner in all_nodes(body) for value in inner.inputs if value is not None]
                read += list(body.outputs)
            pending += [producer for value in read if (producer := value.producer()) is not None]
        return live

    def is_live(self, node: ir.Node) -> bool:
        """True if an output of the graph depends on the operator. Exporters leave unused ones in the graph."""
        return node in self._live

    def is_rewritten(self, node: ir.Node) -> bool:
        """True if a rewrite added the operator."""
        return (node.name or "").startswith(self._scope)

    @cached_property
    def network(self) -> set[ir.Node]:
        """Layers that mix channels, and all operators they depend on. The rest of the main graph is the tail."""
        network: set[ir.Node] = set()
        for node in reversed(self.graph):
            users = (user for output in node.outputs for user in output.consumers())
            # Bodies belong to operators that mix channels.
            if self.mixes_channels(node) or any(user in network or user.graph is not self.graph for user in users):
                network.add(node)
        return network

    def feeds_network(self, value: ir.Value) -> bool:
        """True if a layer that mixes channels depends on the value, which is therefore not in the tail."""
        return any(user in self.network or user.graph is not self.graph for user in value.consumers())

    def mixes_channels(self, node: ir.Node) -> bool:
        """True if the operator is a layer of the network, such as a convolution over several channels."""
        if self.is_rewritten(node):
            return False
        weight = self.shape(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
        narrow = node.op_type == "Conv" and weight is not None and weight[1] == 1
        return node.op_type in _MIXING or node.domain != "" or (node.op_type == "Conv" and not narrow)

    def shape(self, value: ir.Value) -> Shape | None:
        """Return the proven shape of a value. Sizes that the model only declares are ignored."""
        if value.is_initializer() and value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        if value.producer() is None:
            return declared_shape(value)
        inferred = self._inferred.get(value.name or "")
        shape = None if inferred is None else inferred.shape
        if shape is not None and value in self._doubtful:
            return shape[:2] + (None,) * (len(shape) - 2) if len(shape) == 4 else None
        return shape

    def named_shape(self, value: ir.Value) -> Shape | None:
        """Return the proven shape, with a unique name for each unknown size, so that shapes can be compared."""
        shape = self.shape(value)
        if shape is None:
            return None
        return tuple(f"{value.name}#{axis}" if dim is None else dim for axis, dim in enumerate(shape))

    def dtype(self, value: ir.Value) -> str | None:
        """Return the ONNX name of the element type, such as `FLOAT`; None if unknown."""
        if value.dtype is not None:
            return value.dtype.name
        inferred = self._inferred.get(value.name or "")
        return None if inferred is None else inferred.dtype

    def sizes(self, value: ir.Value) -> tuple[int, int] | None:
        """Return height and width of a value (N,C,H,W); None if either or the rank is unknown."""
        shape = self.shape(value)
        if shape is None or len(shape) != 4:
            return None
        height, width = shape[2:]
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def channels(self, value: ir.Value) -> int | None:
        """Return the number of channels of a value (N,C,H,W); None if it or the rank is unknown."""
        shape = self.shape(value)
        return shape[1] if shape is not None and len(shape) == 4 and isinstance(shape[1], int) else None

    def producer(self, value: ir.Value | None, *op_types: str) -> ir.Node | None:
        """Return the operator of the default domain that computes a value, if it has one of the given types."""
        node = None if value is None else value.producer()
        if node is None or node.graph is not self.graph or node.domain != "":
            return None
        return node if not op_types or node.op_type in op_types else None

    def constant(self, value: ir.Value | None) -> Array | None:
        """Return a constant's array; None if the value depends on inputs, can be overridden, or is large."""
        return None if value is None else resolve(value, self._constants, self._folded_from, self._read_constant)

    def _folded_from(self, value: ir.Value) -> list[ir.Value]:
        """Return the values that decide whether a value is constant; none if that is known without them."""
        node = self.producer(value)
        if node is None or node.op_type not in FOLDED:
            return []
        read = [operand for operand in node.inputs if operand is not None]
        return [] if any(self._constants.get(operand, ...) is None for operand in read) else read

    def _read_constant(self, value: ir.Value) -> Array | None:
        tensor = value.const_value
        if value.is_graph_input() and self._overridable:
            return None
        if value.is_initializer():
            if tensor is None or tensor.size > LARGEST_CONSTANT:
                return None
            try:
                return np.asarray(tensor.numpy())
            except (OSError, ValueError):
                return None  # onnx_ir does not follow links to external weights
        node = self.producer(value)
        if node is None:
            return None
        if node.op_type == "Constant":
            return read_constant_node(node)
        if node.op_type == "Shape":
            shape = None if node.inputs[0] is None else self.shape(node.inputs[0])
            if shape is None or not all(isinstance(dim, int) for dim in shape):
                return None
            start, stop = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
            return np.array(shape[start:stop], np.int64)
        if node.op_type not in FOLDED:
            return None
        if node.op_type == "Gather" and self.producer(node.inputs[0], "Shape") is not None:
            return self._read_size(node)
        read = [operand for operand in node.inputs if operand is not None]
        if any(self._constants.get(operand, ...) is None for operand in read):
            return None
        inputs = {operand.name or "": array for operand in read if (array := self.constant(operand)) is not None}
        return evaluate(node, inputs, self.opset)

    def _read_size(self, node: ir.Node) -> Array | None:
        """Return sizes that a Gather takes from a shape, of which others may be open."""
        sizes, index = self.integers(node.inputs[0]), self.constant(node.inputs[1])
        if sizes is None or index is None or node.attributes.get_int("axis", 0) != 0:
            return None
        chosen = [sizes[int(place)] for place in index.ravel()]
        if not all(isinstance(size, int) for size in chosen):
            return None
        return np.array(chosen, np.int64).reshape(index.shape)

    def integers(self, value: ir.Value | None) -> tuple[Dimension, ...] | None:
        """Return the elements of an integer vector, such as the sizes for a Resize. Symbolic sizes are names.

        Follows the operators that exporters write for shapes: Shape, Concat, Slice, Gather, Squeeze, Unsqueeze, Cast.
        """
        return None if value is None else resolve(value, self._integers, self._listed_from, self._read_integers)

    def _listed_from(self, value: ir.Value) -> list[ir.Value]:
        """Return the integer vectors from which an operator makes another one."""
        node = self.producer(value, *_LISTS)
        read = [] if node is None or self.constant(value) is not None else node.inputs[: _LISTS[node.op_type]]
        return [operand for operand in read if operand is not None]

    def _read_integers(self, value: ir.Value) -> tuple[Dimension, ...] | None:
        known = self.constant(value)
        if known is not None:
            return tuple(int(x) for x in known.ravel()) if known.ndim < 2 and known.dtype.kind in "iu" else None
        node = self.producer(value)
        if node is None:
            return None
        if node.op_type == "Shape":
            shape = None if node.inputs[0] is None else self.named_shape(node.inputs[0])
            if shape is None:
                return None
            start = node.attributes.get_int("start", 0)
            stop = node.attributes.get_int("end", len(shape))
            return shape[start:stop]
        if node.op_type not in _LISTS:
            return None
        if node.op_type == "Concat":
            parts = [self.integers(operand) for operand in node.inputs]
            return None if None in parts else tuple(dim for part in parts for dim in part or ())
        inner = self.integers(node.inputs[0]) if node.inputs else None
        if inner is None:
            return None
        if node.op_type in ("Cast", "Squeeze", "Unsqueeze", "Identity"):
            return inner
        if node.op_type == "Gather":
            indices = self.constant(node.inputs[1])
            return None if indices is None or indices.ndim > 1 else tuple(inner[int(i)] for i in indices.ravel())
        if node.op_type == "Slice" and len(node.inputs) >= 3:
            bounds = [self.integers(operand) for operand in node.inputs[1:]]
            flat = [bound[0] if bound and isinstance(bound[0], int) else None for bound in bounds]
            if flat[0] is None or flat[1] is None or (len(flat) > 3 and flat[3] is None):
                return None
            return inner[flat[0] : flat[1] : flat[3] if len(flat) > 3 else None]
        return None

    def known_integers(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """Return the elements of an integer vector; None if any is unknown or symbolic."""
        elements = self.integers(value)
        known = tuple(element for element in elements or () if isinstance(element, int))
        return None if elements is None or len(known) < len(elements) else known

    def reduced_axes(self, node: ir.Node) -> tuple[int, ...] | None:
        """Return the axes of a reduction, which are an attribute or an input; None if unknown."""
        if "axes" in node.attributes:
            return tuple(node.attributes["axes"].as_ints())
        return self.known_integers(node.inputs[1]) if len(node.inputs) > 1 else None

    def uniform(self, value: ir.Value | None) -> float | None:
        """Return the number that fills a floating-point value, such as a scalar or expanded zeros; otherwise None."""
        while value is not None and self.constant(value) is None:
            if (node := self.producer(value, "Expand", "Identity", "Cast")) is None:
                break
            value = node.inputs[0]
        known = self.constant(value)
        if known is not None:
            flat = known.ravel()
            return float(flat[0]) if flat.size and known.dtype.kind == "f" and (flat == flat[0]).all() else None
        if (node := self.producer(value, "ConstantOfShape")) is not None:
            attribute = node.attributes.get("value")
            fill = np.zeros(1, np.float32) if attribute is None else attribute.as_tensor().numpy()
            return float(fill.ravel()[0]) if fill.dtype.kind == "f" else None
        return None

    def see_through(self, value: ir.Value) -> ir.Value:
        """Skip Identity, and Reshape to the same shape, and return the value they copy."""
        while (node := self.producer(value, "Identity", "Reshape")) is not None and node.inputs[0] is not None:
            if node.op_type == "Reshape" and not self.same_shape(node.inputs[0], value):
                break
            value = node.inputs[0]
        return value

    def same_shape(self, first: ir.Value, second: ir.Value) -> bool:
        """True if two shapes are proven equal. Open sizes are compared by name."""
        shape = self.shape(first)
        return shape is not None and None not in shape and shape == self.shape(second)

    def between(self, reads: Iterable[ir.Value], target: ir.Value) -> list[ir.Node]:
        """Return the operators that compute `target` from `reads`. Operators that lead only to a Shape are left out."""
        stops = set(reads)
        found: set[ir.Node] = set()
        pending = [target]
        while pending:
            value = pending.pop()
            node = value.producer()
            if value in stops or node is None or node in found or node.graph is not self.graph:
                continue
            found.add(node)
            if node.op_type != "Shape":
                pending += [operand for operand in node.inputs if operand is not None]
        return [node for node in self.graph if node in found]

    def nodes(self) -> Sequence[ir.Node]:
        """Return the operators of the default domain in the main graph, in order."""
        return [node for node in self.graph if node.domain == ""]

    def only_for(self, results: Iterable[ir.Value], reads: Iterable[ir.Value] = ()) -> list[ir.Node]:
        """Return the operators that become redundant once some values are computed differently, in graph order.

        Args:
            results: The values to compute differently.
            reads: The values to compute them from. Their producers stay.
        """
        dead: set[ir.Node] = set()
        replaced = set(results)
        kept = {node for value in reads if (node := value.producer()) is not None}
        pending = [node for value in replaced if (node := value.producer()) is not None]
        while pending:
            node = pending.pop()
            if node in dead or node in kept or node.graph is not self.graph:
                continue
            unneeded = all(
                output in replaced or (not output.is_graph_output() and dead.issuperset(output.consumers()))
                for output in node.outputs
            )
            if unneeded and not bodies_of(node):
                dead.add(node)
                inputs = [value for value in node.inputs if value is not None]
                pending += [producer for value in inputs if (producer := value.producer()) is not None]
        if not dead <= self._places.keys():  # operators were added, which leaves the others in order
            self._places = {node: place for place, node in enumerate(self.graph)}
        return sorted(dead, key=self._places.__getitem__)


def tail_names(model: ir.Model) -> frozenset[str]:
    """Return the names of the operators after the last layers that mix channels, and of their outputs."""
    view = GraphView(model)
    tail = [node for node in view.graph if node not in view.network]
    return frozenset(name for node in tail for name in (node.name, *(value.name for value in node.outputs)) if name)


def _is_unnamed(dim: Dimension) -> bool:
    """True if an open size has no name in the model, only one from `named_shape` or shape inference."""
    return dim is None or (isinstance(dim, str) and ("#" in dim or dim.startswith("unk__")))
