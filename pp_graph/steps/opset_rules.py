"""What single operators are called at another opset.

Checked against the schemas of onnx 1.22 (opsets 9 to 24).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    import onnx_ir as ir

_REDUCTIONS: Final = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)
_INPUTS: Final[dict[str, tuple[int, dict[int, str]]]] = {
    **{name: (18, {1: "axes"}) for name in _REDUCTIONS},
    "ReduceSum": (13, {1: "axes"}),
    "Squeeze": (13, {1: "axes"}),
    "Unsqueeze": (13, {1: "axes"}),
    "Split": (13, {1: "split"}),
    "Clip": (11, {1: "min", 2: "max"}),
    "Pad": (11, {1: "pads", 2: "value"}),
    "Slice": (10, {1: "starts", 2: "ends", 3: "axes"}),
    "TopK": (10, {1: "k"}),
}
"""Operators of which attributes became inputs: at which opset, and which; scalars are `_SCALARS`."""
_SCALARS: Final = frozenset({"min", "max", "value", "k"})
_FLOATS: Final = frozenset({"min", "max", "value"})

_FLATTENED_BEFORE_13: Final = ("Softmax", "LogSoftmax", "Hardmax")
"""Operators that took all axes from the given one on as one; the last axis alone means the same."""


_SHAPE_IS_CUT: Final = 15
"""Opset from which Shape gives some of the axes only."""
_RESIZE_INPUTS_ARE_OPTIONAL: Final = 13


class Untranslatable(Exception):  # noqa: N818 - a reason, never shown on its own
    """An operator has no form at another opset."""


def rewrite_nodes(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A model with each operator written as another opset has it.

    Raises:
        Untranslatable: An operator has no such form; the message says which.
    """
    import onnx_ir as ir
    from onnx import inliner, shape_inference

    own = model.opset_import[0].version
    model = shape_inference.infer_shapes(model)
    adapted = ir.from_proto(model)
    _simplify(adapted.graph)
    absent = sorted({node.op_type for node in _all(adapted.graph) if not _exists(node.op_type, opset)})
    if absent:
        # Some are defined by others, as LessOrEqual is by Less, Equal and Or.
        inlined = inliner.inline_selected_functions(
            ir.to_proto(adapted), [("", name) for name in absent], inline_schema_functions=True
        )
        adapted = ir.from_proto(shape_inference.infer_shapes(inlined))
        _simplify(adapted.graph)
    for node in list(_all(adapted.graph)):
        _rewrite(node, own, opset)
    adapted.opset_imports.clear()
    adapted.opset_imports[""] = opset
    return ir.to_proto(adapted)


def _all(graph: ir.Graph) -> Iterator[ir.Node]:
    """Operators of a graph and of the bodies in it."""
    yield from graph.all_nodes()


def _exists(op_type: str, opset: int) -> bool:
    import onnx

    return bool(onnx.defs.has(op_type, opset, ""))


def _simplify(graph: ir.Graph) -> None:
    """Write what only newer opsets have as what every one has, where that is known here.

    CastLike becomes Cast to the element type that is meant, and every Constant holds a tensor.
    """
    import onnx_ir as ir

    for node in list(_all(graph)):
        tensor = ir.convenience.get_const_tensor(node.outputs[0]) if node.op_type == "Constant" else None
        if tensor is not None:
            node.attributes.clear()
            node.attributes["value"] = ir.AttrTensor("value", tensor)
        like = node.inputs[1] if node.op_type == "CastLike" else None
        given = node.inputs[0] if node.inputs else None
        if like is None or like.dtype is None or given is None:
            continue
        if given.dtype == like.dtype and not node.outputs[0].is_graph_output() and node.graph is not None:
            ir.convenience.replace_all_uses_with(node.outputs[0], given)
            node.graph.remove(node)
        else:
            node.op_type = "Cast"
            node.resize_inputs(1)
            node.attributes.clear()
            node.attributes["to"] = ir.AttrInt64("to", like.dtype.value)


def _rewrite(node: ir.Node, own: int, opset: int) -> None:
    import onnx

    if not _exists(node.op_type, opset):
        raise Untranslatable(f"operator {node.op_type} does not exist there")
    before = onnx.defs.get_schema(node.op_type, own, "")
    after = onnx.defs.get_schema(node.op_type, opset, "")
    if before.since_version == after.since_version:
        return
    if node.op_type == "Shape" and opset < _SHAPE_IS_CUT:
        _cut_shape(node, opset)
        return
    if node.op_type == "Resize" and opset < _RESIZE_INPUTS_ARE_OPTIONAL:
        _fill_in(node, (1, 2))
    if node.op_type in _FLATTENED_BEFORE_13 and min(own, opset) < 13 <= max(own, opset):
        _check_last_axis(node, own)
    if node.op_type in _INPUTS:
        since, names = _INPUTS[node.op_type]
        if opset < since <= own:
            _to_attributes(node, names, opset)
        elif own < since <= opset:
            _to_inputs(node, names)
    _rewrite_attributes(node, before, after)
    _check_inputs(node, before, after)


def _rewrite_attributes(node: ir.Node, before: onnx.defs.OpSchema, after: onnx.defs.OpSchema) -> None:
    """Leave out what says what is so anyway, and say what was meant where it was left out."""
    import onnx_ir as ir

    for name in list(node.attributes):
        if name not in after.attributes:
            value = node.attributes[name].value
            # Without gaps; and with sizes of 0, which no score and no map has.
            trivial = (name == "dilations" and set(value) == {1}) or (node.op_type, name) == ("Reshape", "allowzero")
            if not trivial and (name not in before.attributes or value != _default(before, name)):
                raise Untranslatable(f"{node.op_type} has no attribute '{name}' there")
            del node.attributes[name]
    for name in before.attributes:
        meant = _default(before, name)
        if name in after.attributes and name not in node.attributes and meant != _default(after, name):
            if meant is None:
                raise Untranslatable(f"{node.op_type} takes '{name}' for something else there when it is left out")
            node.attributes[name] = ir.convenience.convert_attribute(name, meant)


def _check_inputs(node: ir.Node, before: onnx.defs.OpSchema, after: onnx.defs.OpSchema) -> None:
    """Make sure that what a node reads is called the same there."""
    import onnx

    option = onnx.defs.OpSchema.FormalParameterOption
    if not after.min_input <= len(node.inputs) <= after.max_input:
        raise Untranslatable(f"{node.op_type} has {len(node.inputs)} inputs, and other ones there")
    if not after.inputs or after.inputs[-1].option == option.Variadic or node.op_type in _INPUTS:
        return
    for place, (value, formal) in enumerate(zip(node.inputs, after.inputs, strict=False)):
        if value is not None and formal.name != before.inputs[place].name:
            raise Untranslatable(f"{node.op_type} has other inputs there")
        if value is None and formal.option == option.Single:
            raise Untranslatable(f"{node.op_type} needs the input '{formal.name}' there")


def _default(schema: onnx.defs.OpSchema, name: str) -> Any:
    """What an attribute is where it is left out; None where there is no such thing."""
    import onnx
    import onnx_ir as ir

    proto = schema.attributes[name].default_value
    if proto.type == onnx.AttributeProto.UNDEFINED:
        return None
    return ir.serde.deserialize_attribute(proto).value


def _check_last_axis(node: ir.Node, own: int) -> None:
    import onnx_ir as ir

    given = node.attributes.get("axis")
    axis = given.as_int() if given is not None else (-1 if own >= 13 else 1)
    shape = None if node.inputs[0] is None else node.inputs[0].shape
    if axis != -1 and (shape is None or axis != len(shape) - 1):
        raise Untranslatable(f"{node.op_type} over another axis than the last means something else there")
    node.attributes["axis"] = ir.AttrInt64("axis", axis)


def _cut_shape(node: ir.Node, opset: int) -> None:
    """Write Shape of some axes as a slice of the whole shape."""
    import onnx_ir as ir

    start, end = (node.attributes.pop(name, None) for name in ("start", "end"))
    if node.graph is None or ((start is None or start.as_int() == 0) and end is None):
        return
    first, last = 0 if start is None else start.as_int(), 2**31 - 1 if end is None else end.as_int()
    whole = ir.node("Shape", [node.inputs[0]], {})
    whole.outputs[0].name = f"{node.outputs[0].name}/whole"
    whole.outputs[0].type = node.outputs[0].type
    node.graph.insert_before(node, whole)
    node.op_type = "Slice"
    node.resize_inputs(1)
    node.replace_input_with(0, whole.outputs[0])
    for name, number in (("starts", first), ("ends", last), ("axes", 0)):
        node.attributes[name] = ir.AttrInt64s(name, [number])
    since, names = _INPUTS["Slice"]
    if opset >= since:
        _to_inputs(node, names)


def _fill_in(node: ir.Node, places: tuple[int, ...]) -> None:
    """Give empty lists for inputs that must be there."""
    import onnx_ir as ir

    assert node.graph is not None
    for place in places:
        if place < len(node.inputs) and node.inputs[place] is None:
            constant = ir.node("Constant", [], {"value": ir.tensor(np.empty(0, np.float32))})
            constant.outputs[0].name = f"{node.outputs[0].name}/{place}"
            node.graph.insert_before(node, constant)
            node.replace_input_with(place, constant.outputs[0])


def _to_attributes(node: ir.Node, names: dict[int, str], opset: int) -> None:
    import onnx_ir as ir

    for place, name in names.items():
        value = node.inputs[place] if place < len(node.inputs) else None
        if value is None:
            continue
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            raise Untranslatable(f"{node.op_type} takes a constant '{name}' only, at opset {opset}")
        numbers = np.asarray(tensor.numpy()).ravel()
        if name in _SCALARS:
            scalar = float(numbers[0]) if name in _FLOATS else int(numbers[0])
            node.attributes[name] = ir.convenience.convert_attribute(name, scalar)
        else:
            node.attributes[name] = ir.AttrInt64s(name, [int(number) for number in numbers])
    for place in range(max(names) + 1, len(node.inputs)):
        steps = node.inputs[place]
        held = None if steps is None else ir.convenience.get_const_tensor(steps)
        if steps is not None and (held is None or np.any(held.numpy() != 1)):
            raise Untranslatable(f"{node.op_type} has no input {place} at opset {opset}")
    node.resize_inputs(1)


def _to_inputs(node: ir.Node, names: dict[int, str]) -> None:
    import onnx_ir as ir

    graph = node.graph
    assert graph is not None
    last = max((place for place, name in names.items() if name in node.attributes), default=0)
    if len(node.inputs) <= last:
        node.resize_inputs(last + 1)
    for place, name in names.items():
        if name not in node.attributes:
            continue
        held: Any = node.attributes.pop(name).value
        numbers = np.asarray(held, np.float32 if name in _FLOATS else np.int64)
        # The amount k is a list of one number.
        tensor = ir.tensor(numbers.reshape(1) if name == "k" else numbers)
        constant = ir.node("Constant", [], {"value": tensor})
        constant.outputs[0].name = f"{node.outputs[0].name}/{name}"
        graph.insert_before(node, constant)
        node.replace_input_with(place, constant.outputs[0])
