"""Turn a torch module that post-processes a batch into an `OnnxPostProcessor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import torch
from torch import nn

from pp_graph.errors import PostProcessorError
from pp_graph.integrations.torch.batch import FIELDS, Predictions, fields_of, other_fields
from pp_graph.integrations.torch.module_step import exported, prepared
from pp_graph.model.graphs import DEFAULT_DOMAINS
from pp_graph.model.packed_messages import pack_message
from pp_graph.postprocessors import PostProcessor
from pp_graph.postprocessors.anomaly import DECISION_NAMES, RAW_MAP, RAW_SCORE
from pp_graph.postprocessors.onnx_model import REFERENCES, OnnxPostProcessor, decode_model, inputs_of
from pp_graph.steps.compare import find_cutoff
from pp_graph.steps.opset_adaptation import trial_arrays
from pp_graph.values.float_keys import HIGHEST_KEY, LOWEST_KEY, from_keys, to_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from pp_graph.program import Signature
    from pp_graph.statistics import Statistics
    from pp_graph.steps import Array, Step

_ROLES: Final = {RAW_SCORE: "pred_score", RAW_MAP: "anomaly_map"}
"""Field in which a module finds each raw value."""
_SAMPLES: Final = 4097
_COMPARISONS: Final = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
_MOVES: Final = {"Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_KEEP_DECISIONS: Final = {*_MOVES, "Not"}
_MONOTONE: Final = {
    *_MOVES, "Add", "Clip", "Div", "Erf", "Exp", "LeakyRelu", "Log", "Max", "Min", "Mul", "Neg", "Relu", "Sigmoid",
    "Softplus", "Sqrt", "Sub", "Tanh",
}  # fmt: skip
"""Operators that rise or fall over all numbers if one operand varies. Where one has no result, such as Log below 0, NaN
compares as false."""


@dataclass(frozen=True)
class ModulePostProcessor(PostProcessor):
    """A torch module as a post-processor. Binding it to a raw model traces it; see `OnnxPostProcessor`.

    Attributes:
        statistics: None; the module holds its numbers.
        module: The module; its `forward` takes predictions and returns predictions.
    """

    statistics: Statistics | None
    module: Any

    def __post_init__(self) -> None:
        """Check nothing: what the module returns depends on the raw model."""

    def __hash__(self) -> int:
        """Two are equal if they hold the same module."""
        return id(self.module)

    def steps(self, raw: Signature) -> Sequence[Step]:
        """Return the steps of the traced module."""
        return self._traced(raw).steps(raw)

    def settled(self, raw: Signature) -> Self:
        """Return the traced module."""
        traced: Any = self._traced(raw)
        return traced  # type: ignore[no-any-return]

    def _traced(self, raw: Signature) -> OnnxPostProcessor:
        return trace(self.module, raw)


def trace(module: nn.Module, raw: Signature) -> OnnxPostProcessor:
    """Trace a module for raw values of some types.

    Decisions that are monotone in one raw value are compiled to one number each, found by bisection with the module
    itself; see `pp_graph.steps.compare`.

    Args:
        module: `forward` takes an object with `pred_score`, `pred_label`, `anomaly_map` and `pred_mask`, and returns
            one, or a mapping.
        raw: Types of the raw values.

    Raises:
        PostProcessorError: The module fails, returns something else, or cannot be exported.
    """
    own = prepared(module)
    roles = [role for role in (RAW_SCORE, RAW_MAP) if role in raw]
    types = [raw[role] for role in roles]
    trials = trial_arrays(types)
    example = trials[-1]
    found = _run(own, roles, _tensors(example))
    for arrays in trials:
        _check_decisions(own, _results(own, roles, _tensors(arrays)))
    wrapper = _Wrapper(own, roles, list(found))
    model = exported(wrapper, types, example, list(found), roles)
    _lower_opset(model)
    text = pack_message(model)

    def reference(output: str, arrays: Sequence[Array]) -> Array:
        # A step is given only what its output depends on; the module gets zeros for the rest.
        reads = inputs_of(text, output)
        given = dict(zip(reads, arrays, strict=True))
        tensors = [
            torch.tensor(np.asarray(given[role], np.float32))
            if role in given
            else torch.zeros(raw[role].resized(H=4, W=4).example_shape(batch=len(arrays[0])))
            for role in roles
        ]
        return np.asarray(_run(own, roles, tensors)[output].numpy())

    REFERENCES[text] = reference
    return OnnxPostProcessor(None, text, _compiled(text, list(found), raw, reference))


def _lower_opset(model: onnx.ModelProto) -> None:
    """Lower the declared opset to the earliest one in which every operator has the same definition.

    The step then fits raw models of older opsets.
    """
    import onnx

    (entry,) = (each for each in model.opset_import if each.domain in DEFAULT_DOMAINS)
    nodes = list(model.graph.node)
    if any(attribute.HasField("g") or attribute.graphs for node in nodes for attribute in node.attribute):
        return
    schemas = [onnx.defs.get_schema(node.op_type, entry.version, "") for node in nodes]
    entry.version = max((schema.since_version for schema in schemas), default=entry.version)


def _tensors(arrays: Sequence[Array]) -> list[torch.Tensor]:
    """Copy arrays to tensors, because a module may change what it is given."""
    return [torch.tensor(array) for array in arrays]


def _check_decisions(module: nn.Module, found: dict[str, torch.Tensor]) -> None:
    """Raise if a label or mask is not one of two values."""
    for name in DECISION_NAMES & found.keys():
        values = set(np.unique(found[name].numpy()).tolist())
        if found[name].dtype != torch.bool and not (values <= {0, 1} or values <= {0, 255}):
            shown = ", ".join(f"{value:g}" for value in sorted(values)[:3])
            raise PostProcessorError(
                f"{type(module).__name__}.forward returns {name} as {str(found[name].dtype).removeprefix('torch.')} "
                f"with values such as {shown}, expected decisions: bool, or 0 and 1. Return a comparison, such as "
                f"pred_score > threshold."
            )


def _run(module: nn.Module, roles: Sequence[str], tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run a module on raw values, and return its predictions in the types that steps have."""
    return {
        name: value if name in DECISION_NAMES and value.dtype == torch.bool else
        value != 0 if name in DECISION_NAMES else value.float()
        for name, value in _results(module, roles, tensors).items()
    }  # fmt: skip


def _results(module: nn.Module, roles: Sequence[str], tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run a module on raw values, and return the predictions that it computes."""
    batch = Predictions(**{_ROLES[role]: tensor for role, tensor in zip(roles, tensors, strict=True)})
    with torch.no_grad():
        result = module.forward(batch)
    found = {name: value for name, value in fields_of(result).items() if value is not None}
    wrong = next((name for name, value in found.items() if not isinstance(value, torch.Tensor)), None)
    if not found or wrong is not None:
        held = type(result).__name__ if wrong is None else f"{type(found[wrong]).__name__} as '{wrong}'"
        raise PostProcessorError(
            f"{type(module).__name__}.forward returns {held}, expected predictions with tensors among "
            f"{', '.join(FIELDS)}. Return the predictions it was given, changed, or an InferenceBatch."
        )
    further = other_fields(result)
    if further:
        raise PostProcessorError(
            f"{type(module).__name__}.forward returns {further[0]!r}, expected only {', '.join(FIELDS)}. Leave it out, "
            "or describe the post-processing in steps: a pp_graph.PostProcessor declares outputs of any name."
        )
    return found


class _Wrapper(nn.Module):
    """Takes raw values by position, and returns predictions as a tuple."""

    def __init__(self, module: nn.Module, roles: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.module, self.roles, self.outputs = module, tuple(roles), tuple(outputs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the module."""
        found = _run(self.module, self.roles, tensors)
        # An output must not be an input.
        return tuple(found[name] if found[name].dtype == torch.bool else found[name] + 0.0 for name in self.outputs)


def _compiled(text: str, outputs: Sequence[str], raw: Signature, reference: Any) -> dict[str, dict[str, Any]]:
    """Return the decisions that compare one raw value with one number, as `OnnxPostProcessor.decisions`."""
    found: dict[str, dict[str, Any]] = {}
    for name in outputs:
        reads = inputs_of(text, name)
        if name not in DECISION_NAMES or len(reads) != 1 or not _is_one_comparison(text, name):
            continue
        shape = raw[reads[0]].resized(H=1, W=1, C=1).example_shape(batch=1)

        def decide(numbers: Array, name: str = name, shape: Sequence[int] = shape) -> Array:
            values = np.asarray(numbers, np.float32).reshape(-1, *shape[1:])
            return np.asarray(reference(name, [values]), np.bool_).reshape(np.shape(numbers))

        try:
            keys = np.linspace(LOWEST_KEY, HIGHEST_KEY, _SAMPLES).astype(np.int64)
            cutoff = find_cutoff(decide)
            around = [] if cutoff is None else [to_key(float(cutoff)) + step for step in range(-64, 65)]
            keys = np.unique(np.clip(np.concatenate([keys, np.array(around, np.int64)]), LOWEST_KEY, HIGHEST_KEY))
            decisions = decide(from_keys(keys))
            on_nan = "anomalous" if decide(np.array([np.nan], np.float32))[0] else "normal"
        except (RuntimeError, ValueError, PostProcessorError):
            continue  # it reads neighbours, or maps of one size
        if (np.diff(decisions.astype(int)) < 0).any() or cutoff is None or not np.isfinite(cutoff):
            continue
        level = float(np.nextafter(cutoff, np.float32(-np.inf)))
        if np.isfinite(np.float32(level)) and _is_pointwise(name, reads[0], raw, reference, cutoff):
            found[name] = {"reads": reads[0], "level": level, "on_nan": on_nan}
    return found


def _is_one_comparison(text: str, output: str) -> bool:
    """Return True if a decision compares a chain of monotone operators with a constant.

    Trying numbers cannot show it: a decision may differ in a band that is narrower than their distance.
    """
    graph = decode_model(text).graph
    producers = {name: node for node in graph.node for name in node.output}
    varying = {value.name for value in graph.input}
    for node in graph.node:
        if varying.intersection(node.input):
            varying.update(node.output)
    name, compared = output, False
    while name in producers:
        node = producers[name]
        sources = [source for source in node.input if source in varying]
        if node.op_type in _COMPARISONS:
            if compared:
                return False
            compared = True
        elif node.op_type not in (_MONOTONE if compared else _KEEP_DECISIONS):
            return False
        if len(sources) != 1 or (node.op_type == "Div" and sources[0] != node.input[0]):
            return False
        (name,) = sources
    return compared


def _is_pointwise(name: str, role: str, raw: Signature, reference: Any, cutoff: np.float32) -> bool:
    """Return True if each decision depends on the raw value at its own place only."""
    value = raw[role] if raw[role].map_size else raw[role].resized(H=5, W=7)
    shape = value.example_shape(batch=3)
    rng = np.random.default_rng(0)
    spread = max(1.0, abs(float(cutoff)))
    for scale in (1e-6, 1e-2, 1.0, 10.0):
        values = (cutoff + rng.normal(0, scale * spread, shape)).astype(np.float32)
        if not np.array_equal(np.asarray(reference(name, [values]), np.bool_), values >= cutoff):
            return False
    return True
