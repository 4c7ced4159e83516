"""Let operators follow outputs of a model and take their names, and undo it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.openvino.island.float32 import mark_float32
from pp_graph.openvino.island.graph import find_tensor

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import openvino as ov


def replace_outputs(
    model: ov.Model,
    prefix: str,
    names: Collection[str],
    ends: Sequence[ov.Node],
    parameters: Sequence[ov.Node],
    sources: Sequence[ov.Output],
) -> None:
    """Return other values under the names of outputs. Changes the model in place.

    Args:
        model: The model.
        prefix: Prefix of the names of the operators, and of the tensors that the outputs were.
        names: Names of the outputs.
        ends: A result for each, computed from `parameters`.
        parameters: Inputs of the operators; the last ones are the outputs, in order.
        sources: What feeds them, in `model`.
    """
    import openvino as ov

    small = mark_float32(ov.Model(list(ends), list(parameters), prefix.rpartition("/")[2]))
    for node in small.get_ordered_ops():
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"{prefix}/{node.get_friendly_name()}")
    results = [_result(model, name) for name in names]
    for parameter, source in zip(small.get_parameters(), sources, strict=True):
        for target in list(parameter.output(0).get_target_inputs()):
            target.replace_source_output(source)
    own = sources[-len(results) :]
    for name, source, result, end in zip(names, own, results, small.get_results(), strict=True):
        value = end.input_value(0)
        source.get_tensor().set_names((source.get_names() - {name}) | {f"{prefix}/{name}"})
        value.get_tensor().set_names({name})
        result.input(0).replace_source_output(value)
    model.validate_nodes_and_infer_types()


def restore_outputs(model: ov.Model, prefix: str, names: Collection[str]) -> None:
    """Undo `replace_outputs`. Changes the model in place."""
    for name in names:
        source, result = find_tensor(model, f"{prefix}/{name}"), _result(model, name)
        result.input_value(0).get_tensor().set_names(set())
        source.get_tensor().set_names((source.get_names() - {f"{prefix}/{name}"}) | {name})
        result.input(0).replace_source_output(source)
    model.validate_nodes_and_infer_types()


def _result(model: ov.Model, name: str) -> ov.op.Result:
    return next(each for each in model.get_results() if name in each.output(0).get_names())
