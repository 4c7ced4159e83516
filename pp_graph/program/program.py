"""`Program`: a post-processor bound to a raw model."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.program.compilation import CompiledSteps, compile_steps, named
from pp_graph.program.detection_forms import emit_detections, holds_detections
from pp_graph.program.outputs import OutputDescription, Predictions, describe
from pp_graph.program.packing import emit_packed
from pp_graph.steps import ChoosingStep, Compare, DecidingStep, SuppressOverlaps
from pp_graph.steps.compare_many import SeveralCutoffs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from pp_graph.program.outputs import Output
    from pp_graph.program.roles import Role
    from pp_graph.program.signature import Signature
    from pp_graph.statistics import Statistics
    from pp_graph.steps import Array, Emitter, Step
    from pp_graph.values import ValueType

_MAX_LISTED_CUTOFFS: Final = 1024
"""A comparison with more cutoffs than this is recorded by their hash."""

Cutoffs = dict[str, float | str | list[float | str]]


class Description(Protocol):
    """The part of `PostProcessor` that a program uses. The class itself is in a package that imports this one."""

    @property
    def statistics(self) -> Statistics | None: ...  # noqa: D102 - see PostProcessor
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
    def arranged(  # noqa: D102
        self, outputs: tuple[OutputDescription, ...], types: Mapping[str, ValueType], /
    ) -> tuple[OutputDescription, ...]: ...
    def changed(self, statistics: Statistics | None, changes: Mapping[str, Any]) -> Self: ...  # noqa: D102
    def bind(self, raw: Signature, /) -> Program: ...  # noqa: D102


@dataclass(frozen=True)
class Program(CompiledSteps):
    """A post-processor bound to a raw model: the result of `PostProcessor.bind`.

    Attributes:
        steps: The steps in order, decisions compiled to cutoffs.
        types: Type of each value by name, raw values included.
        post: The post-processor; parameters that depend on the raw model are resolved.
        signature: The raw values that the steps read.
        outputs: The outputs, in order.
        ignored: Raw values with a role that no step reads.
    """

    post: Description
    signature: Signature
    outputs: tuple[OutputDescription, ...]
    ignored: Signature

    def __repr__(self) -> str:
        """Return post-processor, raw values and outputs in a line."""
        raw = ", ".join(self.signature.types)
        outputs = ", ".join(output.name for output in self.outputs)
        return f"<Program of {type(self.post).__name__}: {raw} -> {outputs}; {len(self.steps)} steps>"

    @classmethod
    def compile(cls, post: Description, signature: Signature) -> Program:
        """Compile a post-processor; see `PostProcessor.bind`."""
        declared = post.declared_outputs
        compiled = compile_steps(post.steps(signature), signature, outputs=declared)
        outputs = describe(declared, compiled.steps, compiled.types, list(signature), post.sensitivities)
        outputs = post.arranged(outputs, compiled.types)
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
        """The outputs, with a packed tensor split into its parts."""
        return tuple(part for output in self.outputs for part in (output.channels or (output,)))

    @cached_property
    def decisions(self) -> dict[str, DecidingStep | ChoosingStep | None]:
        """The decision outputs, each with the nearest deciding step it depends on; None if there is none.

        Margins of flips are measured from the cutoff of that step, or between the classes that it chooses among.
        """
        writes = {step.target: step for step in self.steps}
        deciders: dict[str, DecidingStep | ChoosingStep | None] = {}
        for name in (output.name for output in self.predicted if output.decides or output.classifies):
            deciders[name] = None
            pending = [name]
            while pending and deciders[name] is None:
                step = writes.get(pending.pop(0))
                if isinstance(step, DecidingStep | ChoosingStep):
                    deciders[name] = step
                elif step is not None:
                    same = self.types[name].per_pixel
                    pending += [read for read in step.reads if self.types[read].per_pixel == same]
        return deciders

    @cached_property
    def cutoffs(self) -> Cutoffs:
        """Cutoffs of all comparisons as JSON values, by the name of the decision."""
        return {name: _cutoffs_to_json(step) for name, step in self.comparisons.items()}

    @property
    def adjustable(self) -> list[str]:
        """Names of the inputs that hold cutoffs adjustable at run time."""
        return list(self.adjustable_steps)[::-1]

    @property
    def runtime_cutoffs(self) -> dict[str, Array]:
        """Values of the inputs in `adjustable`, float32; NaN if nothing is anomalous.

        Their shape is () or, for a cutoff of each class, that of the step's levels.
        """
        return {name: np.array(step.runtime_cutoff, np.float32) for name, step in self.adjustable_steps.items()}

    @property
    def adjustable_steps(self) -> dict[str, Compare | SeveralCutoffs | SuppressOverlaps]:
        """Steps whose limits can change at run time, by the name of their input."""
        kinds = (Compare, SeveralCutoffs, SuppressOverlaps)
        adjustable = [step for step in self.steps if isinstance(step, kinds) and step.runtime]
        # Several steps may read one input; the first reads what decides.
        return {step.input_name: step for step in reversed(adjustable)}

    def replace(self, statistics: Statistics | None = None, **changes: Any) -> Program:
        """Bind the same post-processor with other statistics or parameters.

        Args:
            statistics: The new statistics; None keeps the present ones.
            changes: Parameters to replace, by name.

        Raises:
            PostProcessorError: The post-processor has no such parameter, or rejects the value.
            StatisticsError: The statistics lack a number.
        """
        kept = self.post.statistics if statistics is None else statistics
        return self.post.changed(kept, changes).bind(self.signature)

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Compute the outputs in NumPy.

        Args:
            values: Raw values by role, float32. Intermediates may be given too and are then not computed.

        Returns:
            All values by name: given, intermediate and outputs.

        Raises:
            PostProcessorError: A value does not have its declared type.
        """
        return self.compute(values, [output.name for output in self.predicted])

    def predictions(self, values: Mapping[str, Array]) -> Predictions:
        """Select the outputs among the values that `run` returned; decisions of a packed tensor become bool."""
        selected: dict[str, Array] = {}
        for output in self.outputs:
            for part in output.channels or (output,):
                if part.name in values:
                    array = values[part.name]
                    selected[part.name] = array > 0 if output.channels and part.decides else array
        return Predictions(selected)

    def emit(self, op: Emitter, raw: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
        """Write the steps into a graph.

        Args:
            op: Emitter at the graph's opset.
            raw: Graph values by role.

        Returns:
            All values by name, given ones included; the outputs come first, in order.

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
                # A step that returns its input gets a value of its own: the raw model keeps the original name.
                values[step.target] = op.unchanged(emitted) if any(emitted is value for value in read) else emitted
        outputs: dict[str, ir.Value] = {}
        for output in self.outputs:
            if output.channels:
                with op.scope(output.name):
                    parts = {part.name: values.pop(part.name) for part in output.channels}
                    emit = emit_detections if holds_detections(output) else emit_packed
                    outputs[output.name] = emit(op, parts, output)
            else:
                outputs[output.name] = values.pop(output.name)
        return {**outputs, **values}


def _cutoffs_to_json(step: DecidingStep) -> float | str | list[float | str]:
    cutoffs = step.cutoffs
    listed = [_cutoff_to_json(cutoff) for cutoff in cutoffs.ravel()[:_MAX_LISTED_CUTOFFS]]
    if cutoffs.size == 1:
        return listed[0]
    if cutoffs.size <= _MAX_LISTED_CUTOFFS:
        return listed
    return f"{cutoffs.size} cutoffs, sha256 {hashlib.sha256(cutoffs.tobytes()).hexdigest()}"


def _cutoff_to_json(cutoff: np.float32) -> float | str:
    """Convert a cutoff to a JSON value; float32 numbers are exact."""
    if np.isnan(cutoff):
        return "never"
    return float(cutoff) if math.isfinite(cutoff) else str(np.float32(cutoff))
