"""Find tensors and subgraphs in an OpenVINO model, and cut the model at tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import openvino as ov


def find_tensor(model: ov.Model, name: str) -> ov.Output:
    """Return the node output with a name, ignoring result nodes.

    Raises:
        TargetError: No tensor has the name.
    """
    for node in model.get_ordered_ops():
        for output in node.outputs():
            if name in output.get_names() and node.get_type_name() != "Result":
                return output
    raise TargetError(
        f"Tensor '{name}' is not in the converted model, expected a tensor that the provenance names. "
        "The model was changed after it was fused: convert the fused model again."
    )


def tensor_key(value: ov.Output) -> tuple[int, int]:
    """Return a unique key of a tensor within its model."""
    return value.get_node().get_instance_id(), value.get_index()


def is_constant(node: ov.Node) -> bool:
    """Return True if a node depends on no input and no state."""
    pending, seen = [node], set()
    while pending:
        each = pending.pop()
        if each.get_type_name() in ("Parameter", "ReadValue"):
            return False
        if each.get_instance_id() not in seen:
            seen.add(each.get_instance_id())
            pending += [value.get_node() for value in each.input_values()]
    return True


def nodes_between(sources: Iterable[ov.Output], ends: Iterable[ov.Node]) -> set[int]:
    """Return the ids of the nodes between tensors and end nodes, including the end nodes."""
    starts = {tensor_key(source) for source in sources}
    pending = list(ends)
    seen: set[int] = set()
    while pending:
        node = pending.pop()
        if node.get_instance_id() in seen:
            continue
        seen.add(node.get_instance_id())
        pending += [value.get_node() for value in node.input_values() if tensor_key(value) not in starts]
    return seen


def detach(
    sources: Sequence[ov.Output], ends: Sequence[ov.op.Result], shapes: Sequence[Sequence[int]] | None = None
) -> list[ov.op.Parameter]:
    """Let results be computed from new parameters instead of tensors. Changes the model in place.

    Args:
        sources: Tensors to replace.
        ends: Results.
        shapes: Shapes of the parameters; None for the shapes of the tensors.

    Returns:
        A parameter for each tensor.
    """
    from openvino import opset13 as ops

    nodes = nodes_between(sources, ends)
    parameters = []
    for index, source in enumerate(sources):
        shape = source.get_partial_shape() if shapes is None else list(shapes[index])
        parameter = ops.parameter(shape, source.get_element_type(), name=f"island_{index}")
        # The names matter if an output of the model is this tensor itself.
        parameter.output(0).get_tensor().set_names(source.get_names())
        parameters.append(parameter)
        for target in list(source.get_target_inputs()):
            if target.get_node().get_instance_id() in nodes:
                target.replace_source_output(parameter.output(0))
    return parameters
