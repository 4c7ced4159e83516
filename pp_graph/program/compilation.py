"""Check that steps fit each other and the raw model, and compile their decisions to cutoffs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import PostProcessorError, StatisticsError
from pp_graph.program.outputs import Output, check_output
from pp_graph.program.signature import Signature
from pp_graph.steps import DecidingStep, MonotoneStep, Step
from pp_graph.steps.step import RoundToType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pp_graph.program.roles import Role
    from pp_graph.steps import Array
    from pp_graph.values import ValueType


class _UnboundError(PostProcessorError):
    """A step accepts the values by their axes, but not by their sizes."""


@dataclass(frozen=True)
class CompiledSteps:
    """Steps that fit each other and the raw model.

    Attributes:
        steps: The steps in order, bound to the types they read; all are needed for the requested values.
        types: Type of each value by name, raw values included.
    """

    steps: tuple[Step, ...]
    types: Mapping[str, ValueType]

    @property
    def intermediates(self) -> tuple[str, ...]:
        """Values that runtimes may round differently and that another step reads."""
        read = {name for step in self.steps for name in step.reads}
        return tuple(step.target for step in self.steps if not step.exact and step.target in read)

    @property
    def comparisons(self) -> dict[str, DecidingStep]:
        """The deciding steps, by the name of the decision."""
        return {step.target: step for step in self.steps if isinstance(step, DecidingStep)}

    def needed(self, wanted: Iterable[str], known: Iterable[str]) -> list[Step]:
        """Return the steps that compute the wanted values from the known ones, in order."""
        needed, known = set(wanted), set(known)
        kept = []
        for step in reversed(self.steps):
            if step.target in needed and step.target not in known:
                kept.append(step)
                needed |= set(step.reads)
        return kept[::-1]

    def compute(self, values: Mapping[str, Array], wanted: Iterable[str]) -> dict[str, Array]:
        """Compute the wanted values and all they depend on, in NumPy; return them with the given ones.

        Raises:
            PostProcessorError: A given value, or one that a NumPy reference returned, does not have its declared type.
        """
        computed = dict(values)
        for name, array in values.items():
            if name in self.types:
                self._check_given(name, array)
        for step in self.needed(wanted, values):
            missing = next((name for name in step.reads if name not in computed), None)
            if missing is not None:
                raise PostProcessorError(
                    f"{self._called(missing)} is missing, given are {', '.join(map(repr, values)) or 'none'}, "
                    f"expected {self.types[missing]}. Give the raw model's outputs by role."
                )
            computed[step.target] = step.reference(*(computed[name] for name in step.reads))
            check_result(step, computed[step.target], self.types[step.target])
        return computed

    def _check_given(self, name: str, array: Array) -> None:
        value = self.types[name]
        if array.dtype != value.dtype:
            raise PostProcessorError(
                f"{self._called(name)} holds {array.dtype}, expected {value.dtype}. Convert it first."
            )
        if value.rank_known and array.ndim != value.rank:
            raise PostProcessorError(
                f"{self._called(name)} has rank {array.ndim}, {array.dtype} of shape {array.shape}, but the file "
                f"declares rank {value.rank}, {value}. Export the model with the shapes that it returns."
            )
        if value.per_pixel and 0 in array.shape[1:]:
            raise PostProcessorError(
                f"{self._called(name)} has shape {array.shape}, expected at least one pixel. Give larger images."
            )

    def _called(self, name: str) -> str:
        """Name of a value for messages."""
        return f"'{name}'"


def compile_steps(
    steps: Sequence[Step],
    signature: Signature,
    *,
    outputs: Sequence[Output] = (),
    wanted: Sequence[str] | None = None,
) -> CompiledSteps:
    """Check steps, bind them to the types they read, and move decisions ahead of monotone steps.

    Args:
        steps: The steps, in order.
        signature: The raw values.
        outputs: The declared outputs; steps need not write all of them.
        wanted: Names of the values to compute; None for the outputs.

    Raises:
        PostProcessorError: A step reads a value that is missing or does not fit, two steps write the same value, or
            no step writes an output.
    """
    types: dict[str, ValueType] = dict(signature)
    declared = {output.name: output for output in outputs}
    bound: list[Step] = []
    for step in steps:
        _check_names(step, types, signature)
        read = [types[name] for name in step.reads]
        for name, value, accepts in zip(step.reads, read, step.accepts, strict=True):
            refusal = accepts.refusal(value)
            if refusal is not None:
                raise PostProcessorError(f"{named(step)} reads '{name}', which is {value}, expected {refusal}.")
        try:
            bound.append(step.bind(*read))
        except PostProcessorError as error:
            raise _UnboundError(f"{named(step)} does not fit its input: {error}") from error
        types[step.target] = bound[-1].output_type(*read)
        if step.target in declared:
            check_output(step, declared[step.target], types[step.target])
    written = [step.target for step in bound if step.target in declared] if wanted is None else wanted
    if not written and wanted is None:
        listed = ", ".join(f"'{step.target}'" for step in bound) or "none"
        raise PostProcessorError(
            f"The steps write {listed}, expected some of {', '.join(declared)}: the model returns only these. "
            "Give the last steps one of these targets, or declare their outputs (in a recipe under outputs)."
        )
    compiled = CompiledSteps(tuple(_pulled_back(bound, signature.narrow)), types)
    return dataclasses.replace(compiled, steps=tuple(compiled.needed(written, signature)))


def check_steps(
    steps_for: Callable[[Signature], Sequence[Step]], roles: Sequence[Role], outputs: Sequence[Output]
) -> None:
    """Check that steps fit a raw model with all roles, or with all but one optional role.

    Args:
        steps_for: Returns the steps for a signature.
        roles: Roles that the steps may read.
        outputs: The declared outputs.

    Raises:
        PostProcessorError: The steps fit none of these models; the error is that of a model with all roles.
    """
    whole = Signature({role.name: role.example() for role in roles}, input_size=(256, 256))
    optional = [role.name for role in roles if not role.required]
    tried = [whole, *(whole.limited(set(whole) - {name}) for name in optional if len(roles) > 1)]
    refusals = []
    for signature in tried:
        try:
            compile_steps(steps_for(signature), signature, outputs=outputs)
        except (StatisticsError, _UnboundError):
            # Statistics, sizes and numbers of classes may become known later.
            return
        except PostProcessorError as error:
            refusals.append(error)
            continue
        return
    raise refusals[0]


def check_result(step: Step, result: object, value: ValueType) -> None:
    """Raise `PostProcessorError` if a NumPy reference returned an element type or rank that differs from the step's."""
    rank = value.rank if value.rank_known else None
    if not isinstance(result, np.ndarray) or result.dtype != value.dtype or (rank is not None and result.ndim != rank):
        what = f"{result.dtype} of shape {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
        raise PostProcessorError(
            f"{named(step)}: its reference returned {what}, expected {value}. Correct the step's output_type()."
        )


def named(step: Step) -> str:
    """Name of a step for messages."""
    return f"Step '{step.target}' ({type(step).__name__})"


def _check_names(step: Step, types: Mapping[str, ValueType], signature: Signature) -> None:
    if not isinstance(step, Step):
        raise PostProcessorError(f"The steps contain {step!r}, expected a Step. Give steps only.")
    for name in step.reads:
        if name not in types:
            raise PostProcessorError(
                f"{named(step)} reads '{name}', which is not there; there are "
                f"{', '.join(map(repr, types)) or 'none'}. "
                f"Read one of these, let an earlier step write it, or name the model's output (--role {name}=NAME)."
            )
    if step.target in signature:
        raise PostProcessorError(f"{named(step)} writes '{step.target}', which the raw model returns. Rename it.")
    if step.target in types:
        raise PostProcessorError(f"{named(step)} writes '{step.target}', which an earlier step writes. Rename one.")


def _pulled_back(steps: Sequence[Step], narrow: Mapping[str, str]) -> list[Step]:
    """Move each decision ahead of the monotone step it reads, so that it compares that step's input.

    A raw value of float16 or bfloat16 may reach the comparison before it is rounded: onnxruntime and OpenVINO compute
    it in float32 and drop the casts in between. The cutoff is placed midway between two numbers of the narrow type, so
    the rounded and the unrounded value give the same decision. So does the cutoff on a value that was selected from it.
    """
    narrow = dict(narrow)
    by_target: dict[str, Step] = {}
    for step in steps:
        moved = step
        while isinstance(moved, DecidingStep):
            before = by_target.get(moved.source)
            if not isinstance(before, MonotoneStep):
                break
            earlier = moved.pulled_back(before)
            if earlier is moved:
                break
            moved = earlier
        if isinstance(moved, DecidingStep) and moved.source in narrow:
            moved = moved.pulled_back(RoundToType(moved.source, moved.target, narrow[moved.source]))
        if moved.selects and moved.source in narrow:
            narrow[moved.target] = narrow[moved.source]
        by_target[moved.target] = moved
    return list(by_target.values())
