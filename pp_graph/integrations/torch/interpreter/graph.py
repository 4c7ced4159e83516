"""Run the graph that `fuse` writes in torch, operator by operator."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir
import torch

from pp_graph.errors import TargetError
from pp_graph.integrations.torch.interpreter.table import (
    HOST_INPUTS,
    HOST_OPERATORS,
    NEEDS_DEVICE,
    OPERATORS,
    OPSET,
    VALUES_ALONE,
    Function,
)
from pp_graph.integrations.torch.interpreter.tracing import is_traced, without_trace_warnings
from pp_graph.model import NameScope
from pp_graph.steps import Emitter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.program import Program


PREFIX: Final = "pp_graph"
"""First part of an operator's name, before the name of its step."""

_CONTROL_FLOW: Final = ("If", "Loop")

_FUSE: Final = (
    "Export the model without the post-processor and let pp_graph fuse it: "
    "pp_graph.integrations.torch.export(model, post, ...)."
)

Values = dict[ir.Value, Any]


@dataclass(frozen=True)
class _Instruction:
    """An operator with its torch function.

    Attributes:
        op_type: Name of the operator.
        where: Step and operator, for error messages.
        function: Its torch function; None for control flow.
        inputs: Values it reads; None for an omitted input.
        outputs: Values it writes.
        attributes: Its attributes; a `TorchGraph` for each body.
    """

    op_type: str
    where: str
    function: Function | None
    inputs: tuple[ir.Value | None, ...]
    outputs: tuple[ir.Value, ...]
    attributes: Mapping[str, Any]


@dataclass
class TorchGraph:
    """An ONNX graph whose operators run in torch.

    `OPERATORS` has the torch function of each operator. On CPU, exact values have the same bits as in any runtime:
    comparisons, selections, and float32 arithmetic in the order of the graph.

    Args:
        graph: The graph, at `OPSET`, with operators of the default domain.

    Raises:
        TargetError: An operator or attribute is not in the table; the message names the step.
    """

    graph: ir.Graph
    _program: list[_Instruction] = field(init=False)
    _constants: dict[ir.Value, np.ndarray[Any, Any]] = field(init=False)
    _on_device: dict[tuple[ir.Value, torch.device], torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        """Look up every operator, so that a missing one raises before anything runs."""
        self._constants = {
            value: value.const_value.numpy()
            for value in self.graph.initializers.values()
            if value.const_value is not None
        }
        self._on_device = {}
        self._program = []
        for node in self.graph:
            if node.op_type == "Constant":
                self._constants[node.outputs[0]] = _constant_of(node)
            else:
                self._program.append(_instruction(node))

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run the graph.

        Args:
            inputs: A tensor for each input, by name, all on one device.

        Returns:
            A tensor for each output, by name, on that device.
        """
        device = next(iter(inputs.values())).device
        fed = {value: inputs[value.name or ""] for value in self.graph.inputs if value not in self._constants}
        with without_trace_warnings():
            outputs = self._run(fed, device)
        return {value.name or "": tensor for value, tensor in zip(self.graph.outputs, outputs, strict=True)}

    def _run(self, values: Values, device: torch.device) -> list[torch.Tensor]:
        values.update(self._constants)
        for instruction in self._program:
            run = _run_control_flow if instruction.function is None else self._run_operator
            values.update(zip(instruction.outputs, run(instruction, values, device), strict=False))
        return [self._tensor(value, values[value], device) for value in self.graph.outputs]

    def _run_operator(self, instruction: _Instruction, values: Values, device: torch.device) -> Sequence[Any]:
        read = [None if value is None else values[value] for value in instruction.inputs]
        present = [content for content in read if content is not None]
        function, attributes = instruction.function, instruction.attributes
        assert function is not None
        if instruction.op_type in HOST_OPERATORS and present and all(map(_is_size, present)):
            return (np.asarray(HOST_OPERATORS[instruction.op_type](*read, **attributes)),)
        host_inputs = HOST_INPUTS.get(instruction.op_type, frozenset())
        arguments: list[Any] = []
        for index, (value, content) in enumerate(zip(instruction.inputs, read, strict=True)):
            if content is None:
                arguments.append(None)
            elif index in host_inputs:
                arguments.append(_array(content, instruction))
            else:
                arguments.append(self._tensor(value, content, device))
        if instruction.op_type in NEEDS_DEVICE:
            attributes = {**attributes, "device": device}
        try:
            outputs = function(*arguments, **attributes)
        except NotImplementedError as error:
            raise TargetError(
                f"{instruction.where} uses {error}, which is not implemented in torch. {_FUSE}"
            ) from error
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def _tensor(self, value: ir.Value | None, content: Any, device: torch.device) -> torch.Tensor:
        """Convert a value to a tensor; move constants to each device once."""
        if isinstance(content, torch.Tensor):
            return content
        if is_traced() or value not in self._constants:
            return _as_tensor(content, device)
        key = (value, device)
        if key not in self._on_device:
            self._on_device[key] = _as_tensor(content, device)
        return self._on_device[key]


def _as_tensor(array: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
    if array.dtype == object:
        # Some sizes are symbols of torch.
        sizes = [
            size if isinstance(size, torch.Tensor) else torch.scalar_tensor(size, dtype=torch.int64)
            for size in array.ravel()
        ]
        return torch.stack(sizes).reshape(array.shape).to(device)
    tensor = torch.from_numpy(np.array(array))
    return tensor if device.type == "cpu" else tensor.to(device)


def _is_size(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iO"


def _array(value: Any, instruction: _Instruction) -> np.ndarray[Any, Any]:
    if isinstance(value, np.ndarray):
        return value
    if is_traced():
        raise _untraceable(instruction.where, "needs a number computed from the data")
    array: np.ndarray[Any, Any] = value.cpu().numpy()
    return array


def _untraceable(where: str, why: str) -> TargetError:
    return TargetError(f"{where} {why}, which torch cannot export. {_FUSE}")


def _constant_of(node: ir.Node) -> np.ndarray[Any, Any]:
    (attribute,) = node.attributes.values()
    value: Any = attribute.value
    if attribute.name == "value":
        array: np.ndarray[Any, Any] = value.numpy()
        return array
    return np.asarray(value, np.float32 if attribute.name.startswith("value_float") else np.int64)


def _instruction(node: ir.Node) -> _Instruction:
    where = f"{_step_prefix(node)}operator {node.op_type}"
    attributes = {
        name: TorchGraph(attribute.as_graph()) if attribute.type == ir.AttributeType.GRAPH else attribute.value
        for name, attribute in node.attributes.items()
    }
    outputs = tuple(node.outputs)
    if node.op_type in _CONTROL_FLOW and not node.domain:
        return _Instruction(node.op_type, where, None, tuple(node.inputs), outputs, attributes)
    function = None if node.domain else OPERATORS.get(node.op_type)
    if function is None:
        domain = f" of domain '{node.domain}'" if node.domain else ""
        raise TargetError(
            f"{where}{domain} is not implemented in torch, expected one of the interpreter's table. {_FUSE}"
        )
    others_unused = not any(output.uses() or output.is_graph_output() for output in outputs[1:])
    if others_unused and node.op_type in VALUES_ALONE:
        function, outputs = VALUES_ALONE[node.op_type], outputs[:1]
    known = _attribute_names(function)
    unknown = [] if known is None else [name for name in attributes if name not in known]
    if unknown:
        raise TargetError(
            f"{where} has the attribute '{unknown[0]}', expected only {', '.join(sorted(known or ())) or 'none'}, as "
            f"of opset {OPSET}. Emit it at that opset."
        )
    return _Instruction(node.op_type, where, function, tuple(node.inputs), outputs, attributes)


def _attribute_names(function: Function) -> set[str] | None:
    """Return the parameter names of a function; None if it accepts any."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        # A builtin of torch; these accept no ONNX attributes.
        return set()
    accepts_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return None if accepts_any else set(parameters)


def _step_prefix(node: ir.Node) -> str:
    parts = (node.name or "").split("/")
    return f"Step '{parts[1]}', " if len(parts) > 2 and parts[0] == PREFIX else ""


def _run_control_flow(instruction: _Instruction, values: Values, device: torch.device) -> Sequence[Any]:
    """Run a branch or a loop in Python."""
    if is_traced():
        raise _untraceable(instruction.where, "branches on the data")
    if instruction.op_type == "If":
        (condition,) = instruction.inputs
        assert condition is not None
        body = instruction.attributes["then_branch" if bool(values[condition].item()) else "else_branch"]
        return body._run(dict(values), device)  # type: ignore[no-any-return]
    return _run_loop(instruction, values, device)


def _run_loop(instruction: _Instruction, values: Values, device: torch.device) -> Sequence[Any]:
    body: TorchGraph = instruction.attributes["body"]
    trip_count, condition, *state = [None if value is None else values[value] for value in instruction.inputs]
    limit = None if trip_count is None else int(trip_count.item())
    running = condition is None or bool(condition.item())
    carried: Sequence[Any] = [
        _as_tensor(content, device) if isinstance(content, np.ndarray) else content for content in state
    ]
    scanned: list[list[torch.Tensor]] = [[] for _ in range(len(body.graph.outputs) - 1 - len(carried))]
    iteration = 0
    while running and (limit is None or iteration < limit):
        inputs: list[Any] = [torch.tensor(iteration, device=device), torch.tensor(True, device=device), *carried]
        outputs = body._run({**values, **dict(zip(body.graph.inputs, inputs, strict=True))}, device)
        running = bool(outputs[0].item())
        carried = outputs[1 : 1 + len(carried)]
        for tensors, output in zip(scanned, outputs[1 + len(carried) :], strict=True):
            tensors.append(output)
        iteration += 1
    if scanned and not iteration:
        raise TargetError(f"{instruction.where} never runs its body, expected at least one iteration to stack outputs.")
    return [*carried, *(torch.stack(tensors) for tensors in scanned)]


_IR_VERSION: Final = 10


def compile_post_processor(program: Program) -> TorchGraph:
    """Emit a program as `pp_graph.fuse` does, as a graph that runs in torch.

    Args:
        program: The post-processor, bound to the raw values.

    Returns:
        A graph from the raw values of `program.signature`, by role, to the outputs in their order.

    Raises:
        PostProcessorError: A step emits nothing.
        TargetError: An operator is not in the table.
    """
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="post_processing")
    for role, value_type in program.signature.items():
        dtype = ir.DataType.from_numpy(np.dtype(value_type.dtype))
        shape = ir.Shape(value_type.sizes) if value_type.rank_known else None
        graph.inputs.append(ir.Value(name=role, shape=shape, type=ir.TensorType(dtype)))
    op = Emitter(graph, opset=OPSET, ir_version=_IR_VERSION, names=NameScope(graph), prefix=PREFIX)
    # Emitting may add inputs, one for each adjustable cutoff, so list the raw values first.
    emitted = program.emit(op, {value.name or "": value for value in graph.inputs})
    for output in program.outputs:
        value = emitted[output.name]
        value.name = output.name
        graph.outputs.append(value)
    return TorchGraph(graph)
