"""`Program`: a post-processor that is bound to a raw model."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.program.compilation import CompiledSteps, compile_steps, named
from pp_graph.program.outputs import OutputDescription, Predictions, describe
from pp_graph.program.packing import emit_packed, packed_output
from pp_graph.steps import Compare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from pp_graph.program.outputs import Output
    from pp_graph.program.roles import Role
    from pp_graph.program.signature import Signature
    from pp_graph.statistics import Statistics
    from pp_graph.steps import Array, Cutoff, DecidingStep, Emitter, Step

_LISTED_CUTOFFS: Final = 1024
"""Cutoffs up to which those of a comparison are listed one by one."""

Cutoffs = dict[str, float | str | list[float | str]]


class Description(Protocol):
    """What a program needs of the `PostProcessor` that it was bound from."""

    @property
    def statistics(self) -> Statistics | None: ...  # noqa: D102 - see PostProcessor
    @property
    def pack(self) -> bool: ...  # noqa: D102
    @property
    def declared_outputs(self) -> tuple[Output, ...]: ...  # noqa: D102
    @property
    def roles(self) -> tuple[Role, ...]: ...  # noqa: D102
    @property
    def replaces_unread(self) -> bool: ...  # noqa: D102
    @property
    def sensitivities(self) -> Mapping[str, str]: ...  # noqa: D102
    def steps(self, raw: Signature, /) -> Sequence[Step]: ...  # noqa: D102
    def parameters(self) -> dict[str, Any]: ...  # noqa: D102
    def changed(self, statistics: Statistics | None, changes: Mapping[str, Any]) -> Self: ...  # noqa: D102
    def bind(self, raw: Signature, /) -> Program: ...  # noqa: D102


@dataclass(frozen=True)
class Program(CompiledSteps):
    """What is computed from the outputs of a raw model, and what comes out: the result of `PostProcessor.bind`.

    Attributes:
        steps: The steps in order, decisions compiled to cutoffs.
        types: Type of each value, raw ones included, by name.
        post: The post-processor, with everything settled that depends on the raw model.
        signature: The raw values that the steps read.
        outputs: What comes out, in order.
        ignored: Roles that an output of the raw model was found for, and that no step reads.
    """

    post: Description
    signature: Signature
    outputs: tuple[OutputDescription, ...]
    ignored: Signature

    @classmethod
    def compile(cls, post: Description, signature: Signature) -> Program:
        """Compile a post-processor; see `PostProcessor.bind`."""
        declared = post.declared_outputs
        compiled = compile_steps(post.steps(signature), signature, outputs=declared)
        outputs = describe(declared, compiled.steps, compiled.types, list(signature), post.sensitivities)
        if post.pack:
            outputs = (packed_output(outputs, compiled.types),)
        read = {name for step in compiled.steps for name in step.reads}
        return cls(
            compiled.steps,
            {name: value for name, value in compiled.types.items() if name in read or name not in signature},
            post,
            signature.limited(read),
            outputs,
            signature.limited(set(signature) - read),
        )

    def _called(self, name: str) -> str:
        output = self.signature.outputs.get(name)
        return super()._called(name) if output is None else f"Output '{output}', read as '{name}',"

    @property
    def statistics(self) -> Statistics | None:
        """The calibrated numbers."""
        return self.post.statistics

    @cached_property
    def predicted(self) -> tuple[OutputDescription, ...]:
        """The outputs one by one, also where they come packed."""
        return tuple(each for output in self.outputs for each in (output.channels or (output,)))

    @cached_property
    def decisions(self) -> dict[str, DecidingStep | None]:
        """Outputs that say whether something is so, and the step by which the margin of each is measured."""
        return self.decided_by(output.name for output in self.predicted if output.decides)

    @cached_property
    def cutoffs(self) -> Cutoffs:
        """The cutoffs of all comparisons, by what each writes, as JSON holds them."""
        return {name: _cutoffs_to_json(step) for name, step in self.comparisons.items()}

    @property
    def adjustable(self) -> list[str]:
        """Names of the inputs that hold cutoffs which can be changed while the model runs."""
        return [step.input_name for step in self._adjustable]

    @property
    def runtime_cutoffs(self) -> dict[str, Array]:
        """The values of these inputs, float32 of shape (); NaN where nothing is anomalous."""
        return {step.input_name: np.array(step.runtime_cutoff, np.float32) for step in self._adjustable}

    @property
    def _adjustable(self) -> list[Compare]:
        return [step for step in self.comparisons.values() if isinstance(step, Compare) and step.runtime]

    def replace(self, statistics: Statistics | None = None, **changes: Any) -> Program:
        """The program of the same post-processor with other statistics, or with other values of its parameters.

        Args:
            statistics: The new statistics; None keeps those it has.
            changes: Parameters to replace, by name.

        Raises:
            PostProcessorError: The post-processor has no such parameter, or does not take the value.
            StatisticsError: The statistics lack a number.
        """
        kept = self.post.statistics if statistics is None else statistics
        return self.post.changed(kept, changes).bind(self.signature)

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Compute every value that is needed for the outputs, in NumPy.

        Args:
            values: Raw values by role, float32; and intermediates where these are known already, which are then not
                computed anew.

        Returns:
            All values by name, those given included.

        Raises:
            PostProcessorError: A value is not what its type says.
        """
        return self.compute(values, [output.name for output in self.predicted])

    def predictions(self, values: Mapping[str, Array]) -> Predictions:
        """The outputs among the values that `run` returned; decisions of a packed tensor as bool."""
        found: dict[str, Array] = {}
        for output in self.outputs:
            for each in output.channels or (output,):
                if each.name in values:
                    array = values[each.name]
                    found[each.name] = array > 0 if output.channels and each.decides else array
        return Predictions(found)

    def emit(self, op: Emitter, raw: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
        """Write the steps into a graph.

        Args:
            op: The vocabulary, at the graph's opset.
            raw: Values of the graph, by role.

        Returns:
            Every value by name, those given included; the outputs come first, in their order.

        Raises:
            PostProcessorError: A step emits nothing.
        """
        values = dict(raw)
        for step in self.steps:
            read = [values[name] for name in step.reads]
            with op.scope(step.target):
                emitted = step.emit(op, *read)
                if emitted is None:
                    raise PostProcessorError(f"{named(step)} emits nothing, expected emit() to return a value.")
                # A value that is handed on needs a name of its own: that of the raw model must survive.
                values[step.target] = op.unchanged(emitted) if any(emitted is each for each in read) else emitted
        outputs: dict[str, ir.Value] = {}
        for output in self.outputs:
            if output.channels:
                with op.scope(output.name):
                    parts = {each.name: values.pop(each.name) for each in self.predicted}
                    outputs[output.name] = emit_packed(op, parts, output)
            else:
                outputs[output.name] = values.pop(output.name)
        return {**outputs, **values}


def _cutoffs_to_json(step: DecidingStep) -> float | str | list[float | str]:
    cutoffs = step.cutoffs
    each = [_cutoff_to_json(None if np.isnan(cutoff) else cutoff) for cutoff in cutoffs.ravel()[:_LISTED_CUTOFFS]]
    if cutoffs.size == 1:
        return each[0]
    if cutoffs.size <= _LISTED_CUTOFFS:
        return each
    return f"{cutoffs.size} cutoffs, sha256 {hashlib.sha256(cutoffs.tobytes()).hexdigest()}"


def _cutoff_to_json(cutoff: Cutoff) -> float | str:
    """A cutoff as JSON can hold it; float32 numbers survive exactly."""
    if cutoff is None:
        return "never"
    return float(cutoff) if math.isfinite(cutoff) else str(np.float32(cutoff))


def outputs_by_name(outputs: Sequence[OutputDescription]) -> dict[str, OutputDescription]:
    """Outputs by name, those in a packed tensor included."""
    return {each.name: each for output in outputs for each in (output, *output.channels)}
