"""Run the graph that fusing writes, operator by operator, in torch."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
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

    import onnx_ir as ir

    from pp_graph.program import Program


PREFIX: Final = "pp_graph"
"""What the names of operators begin with, before the name of their step."""

_CONTROL: Final = ("If", "Loop")

Values = dict["ir.Value", Any]


@dataclass(frozen=True)
class _Instruction:
    """An operator, made ready to run.

    Attributes:
        op_type: Its name.
        where: The step that it belongs to, and the operator, for messages.
        function: What computes it; None for control flow.
        inputs: What it reads.
        outputs: What it writes.
        attributes: Its attributes; a `TorchGraph` for a body.
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

    The table `OPERATORS` says what computes each operator. On CPU, what is exact in the graph has the same bits as in
    any other runtime: comparisons, choices, and float32 arithmetic in the order in which it is written.

    Args:
        graph: The graph, at `OPSET`; operators of the default domain.

    Raises:
        TargetError: An operator or an attribute is not in the table; the message names the step.
    """

    graph: ir.Graph
    _program: list[_Instruction] = field(init=False)
    _constants: dict[ir.Value, np.ndarray[Any, Any]] = field(init=False)
    _on_device: dict[tuple[ir.Value, torch.device], torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        """Look up every operator, so that missing ones are found before anything runs."""
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
                self._program.append(_prepared(node))

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
            found = self._run(fed, device)
        return {value.name or "": each for value, each in zip(self.graph.outputs, found, strict=True)}

    def _run(self, values: Values, device: torch.device) -> list[torch.Tensor]:
        values.update(self._constants)
        for instruction in self._program:
            if instruction.op_type in _CONTROL:
                found = _controlled(instruction, values, device)
            else:
                found = self._computed(instruction, values, device)
            values.update(zip(instruction.outputs, found, strict=False))
        return [self._tensor(value, values[value], device) for value in self.graph.outputs]

    def _computed(self, instruction: _Instruction, values: Values, device: torch.device) -> Sequence[Any]:
        read = [None if value is None else values[value] for value in instruction.inputs]
        given = [each for each in read if each is not None]
        function, attributes = instruction.function, instruction.attributes
        assert function is not None
        if instruction.op_type in HOST_OPERATORS and given and all(_is_size(each) for each in given):
            return (np.asarray(HOST_OPERATORS[instruction.op_type](*read, **attributes)),)
        on_host = HOST_INPUTS.get(instruction.op_type, frozenset())
        arguments = [
            None
            if each is None
            else (_array(each, instruction) if index in on_host else self._tensor(value, each, device))
            for index, (value, each) in enumerate(zip(instruction.inputs, read, strict=True))
        ]
        if instruction.op_type in NEEDS_DEVICE:
            attributes = {**attributes, "device": device}
        try:
            found = function(*arguments, **attributes)
        except NotImplementedError as error:
            raise TargetError(
                f"{instruction.where} uses {error}, which is not written for torch. Export the model without the "
                "post-processing, and fuse it: pp_graph.integrations.torch.export(model, post, ...)."
            ) from error
        return found if isinstance(found, tuple) else (found,)

    def _tensor(self, value: ir.Value | None, found: Any, device: torch.device) -> torch.Tensor:
        """A value as a tensor; constants are moved to a device once."""
        if isinstance(found, torch.Tensor):
            return found
        if is_traced() or value not in self._constants:
            return _as_tensor(found, device)
        key = (value, device)
        if key not in self._on_device:
            self._on_device[key] = _as_tensor(found, device)
        return self._on_device[key]


def _as_tensor(array: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
    if array.dtype == object:
        # Sizes that an export leaves open.
        numbers = [
            each if isinstance(each, torch.Tensor) else torch.scalar_tensor(each, dtype=torch.int64)
            for each in array.ravel()
        ]
        return torch.stack(numbers).reshape(array.shape).to(device)
    tensor = torch.from_numpy(np.array(array))
    return tensor if device.type == "cpu" else tensor.to(device)


def _is_size(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iO"


def _array(value: Any, instruction: _Instruction) -> np.ndarray[Any, Any]:
    if isinstance(value, np.ndarray):
        return value
    if is_traced():
        raise _untraceable(instruction.where, "needs a number that follows from the data")
    array: np.ndarray[Any, Any] = value.cpu().numpy()
    return array


def _untraceable(where: str, why: str) -> TargetError:
    return TargetError(
        f"{where} {why}, which torch cannot write down. Export the model without the post-processing, and let pp_graph "
        "fuse it: pp_graph.integrations.torch.export(model, post, ...)."
    )


def _constant_of(node: ir.Node) -> np.ndarray[Any, Any]:
    (attribute,) = node.attributes.values()
    value: Any = attribute.value
    if attribute.name == "value":
        array: np.ndarray[Any, Any] = value.numpy()
        return array
    return np.asarray(value, np.float32 if attribute.name.startswith("value_float") else np.int64)


def _prepared(node: ir.Node) -> _Instruction:
    where = f"{_step_of(node)}operator {node.op_type}"
    attributes = {name: _plain(attribute) for name, attribute in node.attributes.items()}
    outputs = tuple(node.outputs)
    if node.op_type in _CONTROL and not node.domain:
        return _Instruction(node.op_type, where, None, tuple(node.inputs), outputs, attributes)
    function = None if node.domain else OPERATORS.get(node.op_type)
    if function is None:
        domain = f" of domain '{node.domain}'" if node.domain else ""
        raise TargetError(
            f"{where}{domain} is not written for torch, expected one in the interpreter's table. "
            "Fuse the post-processing instead: pp_graph.integrations.torch.export(model, post, ...)."
        )
    alone = not any(output.uses() or output.is_graph_output() for output in outputs[1:])
    if alone and node.op_type in VALUES_ALONE:
        function, outputs = VALUES_ALONE[node.op_type], outputs[:1]
    known = _attribute_names(function)
    unknown = [] if known is None else [name for name in attributes if name not in known]
    if unknown:
        raise TargetError(
            f"{where} has the attribute '{unknown[0]}', expected only {', '.join(sorted(known or ())) or 'none'}, as "
            f"of opset {OPSET}. Write it as that opset does."
        )
    return _Instruction(node.op_type, where, function, tuple(node.inputs), outputs, attributes)


def _attribute_names(function: Function) -> set[str] | None:
    """Parameter names of a function; None if it takes any. Torch's own take no ONNX attributes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return set()
    return None if any(each.kind is each.VAR_KEYWORD for each in parameters) else {each.name for each in parameters}


def _plain(attribute: ir.Attr) -> Any:
    import onnx_ir as ir

    if attribute.type == ir.AttributeType.GRAPH:
        return TorchGraph(attribute.as_graph())
    return attribute.value


def _step_of(node: ir.Node) -> str:
    parts = (node.name or "").split("/")
    return f"Step '{parts[1]}', " if len(parts) > 2 and parts[0] == PREFIX else ""


def _controlled(instruction: _Instruction, values: Values, device: torch.device) -> Sequence[Any]:
    """Run a branch or a loop in Python."""
    if is_traced():
        raise _untraceable(f"{instruction.where}", "branches on the data")
    if instruction.op_type == "If":
        (condition,) = instruction.inputs
        assert condition is not None
        body = instruction.attributes["then_branch" if bool(values[condition].item()) else "else_branch"]
        return body._run(dict(values), device)  # type: ignore[no-any-return]
    return _looped(instruction, values, device)


def _looped(instruction: _Instruction, values: Values, device: torch.device) -> Sequence[Any]:
    body: TorchGraph = instruction.attributes["body"]
    trips, condition, *state = [None if value is None else values[value] for value in instruction.inputs]
    most = None if trips is None else int(trips.item())
    goes_on = condition is None or bool(condition.item())
    carried: Sequence[Any] = [_as_tensor(each, device) if isinstance(each, np.ndarray) else each for each in state]
    scanned: list[list[torch.Tensor]] = [[] for _ in range(len(body.graph.outputs) - 1 - len(carried))]
    done = 0
    while goes_on and (most is None or done < most):
        step: list[Any] = [torch.tensor(done, device=device), torch.tensor(True, device=device), *carried]
        found = body._run({**values, **dict(zip(body.graph.inputs, step, strict=True))}, device)
        goes_on = bool(found[0].item())
        carried = found[1 : 1 + len(carried)]
        for kept, each in zip(scanned, found[1 + len(carried) :], strict=True):
            kept.append(each)
        done += 1
    if scanned and not done:
        raise TargetError(f"{instruction.where} collects what its body gives, and the body never ran.")
    return [*carried, *(torch.stack(kept) for kept in scanned)]


_IR_VERSION: Final = 10


def compile_post_processor(program: Program) -> TorchGraph:
    """Write a program as `pp_graph.fuse` does, and make it ready for torch.

    Args:
        program: The post-processor, bound to what the raw model gives.

    Returns:
        A graph that reads the raw values of `program.signature`, by role, and writes the outputs in their order.

    Raises:
        PostProcessorError: A step emits nothing.
        TargetError: An operator is not in the table.
    """
    import onnx_ir as ir

    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="post_processing")
    for role, read in program.signature.items():
        dtype = ir.DataType.from_numpy(np.dtype(read.dtype))
        shape = ir.Shape(read.sizes) if read.rank_known else None
        graph.inputs.append(ir.Value(name=role, shape=shape, type=ir.TensorType(dtype)))
    op = Emitter(graph, opset=OPSET, ir_version=_IR_VERSION, names=NameScope(graph), prefix=PREFIX)
    # The inputs now; adjustable cutoffs become further ones, with defaults.
    emitted = program.emit(op, {value.name or "": value for value in graph.inputs})
    for output in program.outputs:
        value = emitted[output.name]
        value.name = output.name
        graph.outputs.append(value)
    return TorchGraph(graph)
