"""Check a composition of steps against what the raw model gives, and compile its decisions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import PostProcessorError, StatisticsError
from pp_graph.program.outputs import Output, check_output
from pp_graph.program.signature import Signature
from pp_graph.steps import DecidingStep, MonotoneStep, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pp_graph.program.roles import Role
    from pp_graph.steps import Array
    from pp_graph.values import ValueType


class _UnboundError(PostProcessorError):
    """A step takes such values, but not of these sizes."""


@dataclass(frozen=True)
class CompiledSteps:
    """Steps that fit each other and the raw model.

    Attributes:
        steps: The steps in order, bound to what they read; each is needed for a value that was asked for.
        types: Type of each value, raw ones included, by name.
    """

    steps: tuple[Step, ...]
    types: Mapping[str, ValueType]

    @property
    def intermediates(self) -> tuple[str, ...]:
        """Values that runtimes round differently and that another step reads."""
        read = {name for step in self.steps for name in step.reads}
        return tuple(step.target for step in self.steps if not step.exact and step.target in read)

    @property
    def comparisons(self) -> dict[str, DecidingStep]:
        """The steps that decide, by what they write."""
        return {step.target: step for step in self.steps if isinstance(step, DecidingStep)}

    def decided_by(self, names: Iterable[str]) -> dict[str, DecidingStep | None]:
        """The step by which the margin of each of some values is measured.

        It is the nearest one that decides, among those that a value follows from; None where there is none.
        """
        writes = {step.target: step for step in self.steps}
        found: dict[str, DecidingStep | None] = {}
        for name in names:
            pending: list[str] = [name]
            found[name] = None
            while pending and found[name] is None:
                step = writes.get(pending.pop(0))
                if isinstance(step, DecidingStep):
                    found[name] = step
                elif step is not None:
                    same = self.types[name].per_pixel
                    pending += [each for each in step.reads if self.types[each].per_pixel == same]
        return found

    def needed(self, wanted: Iterable[str], known: Iterable[str]) -> list[Step]:
        """The steps that compute some values from those that are known, in order."""
        needed, known = set(wanted), set(known)
        kept = []
        for step in reversed(self.steps):
            if step.target in needed and step.target not in known:
                kept.append(step)
                needed |= set(step.reads)
        return kept[::-1]

    def compute(self, values: Mapping[str, Array], wanted: Iterable[str]) -> dict[str, Array]:
        """Every value that is needed for some others, by name, and those given.

        Raises:
            PostProcessorError: A value that was given, or that a reference returned, is not what its type says.
        """
        found = dict(values)
        for name, array in values.items():
            if name in self.types:
                self._check_given(name, array)
        for step in self.needed(wanted, values):
            missing = next((name for name in step.reads if name not in found), None)
            if missing is not None:
                raise PostProcessorError(
                    f"{self._called(missing)} is missing among the values, {', '.join(map(repr, values)) or 'none'}, "
                    f"expected {self.types[missing]}. Give what the raw model returns, by role."
                )
            found[step.target] = step.reference(*(found[name] for name in step.reads))
            check_result(step, found[step.target], self.types[step.target])
        return found

    def _check_given(self, name: str, array: Array) -> None:
        value = self.types[name]
        if array.dtype != value.dtype:
            raise PostProcessorError(
                f"{self._called(name)} holds {array.dtype}, expected {value.dtype}. Convert it first."
            )
        if value.rank_known and array.ndim != value.rank:
            raise PostProcessorError(
                f"{self._called(name)} has rank {array.ndim}, {array.dtype} of shape {array.shape}, and the file "
                f"declares rank {value.rank}, {value}. Export the model with the shapes that it returns."
            )
        if value.per_pixel and 0 in array.shape[1:]:
            raise PostProcessorError(
                f"{self._called(name)} has shape {array.shape}, expected at least one pixel. Give larger images."
            )

    def _called(self, name: str) -> str:
        """What messages call a value."""
        return f"'{name}'"


def compile_steps(
    steps: Sequence[Step],
    signature: Signature,
    *,
    outputs: Sequence[Output] = (),
    wanted: Sequence[str] | None = None,
) -> CompiledSteps:
    """Check steps, bind them to what they read, and pull decisions back in front of monotone steps.

    Args:
        steps: The steps, in order.
        signature: What the raw model gives.
        outputs: What comes out, as far as steps write it.
        wanted: Names of the values to compute; None for the outputs.

    Raises:
        PostProcessorError: A step reads what is not there or does not fit, two steps write the same, or nothing is
            written that comes out.
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
            raise _UnboundError(f"{named(step)} does not fit what it reads: {error}") from error
        types[step.target] = bound[-1].output_type(*read)
        if step.target in declared:
            check_output(step, declared[step.target], types[step.target])
    written = [step.target for step in bound if step.target in declared] if wanted is None else wanted
    if not written and wanted is None:
        listed = ", ".join(f"'{step.target}'" for step in bound) or "none"
        raise PostProcessorError(
            f"The steps write {listed}, expected some of {', '.join(declared)}: only these come out of the model. "
            "Give the last steps one of these targets, or declare what they write (in a recipe under outputs)."
        )
    compiled = CompiledSteps(tuple(_pulled_back(bound)), types)
    return dataclasses.replace(compiled, steps=tuple(compiled.needed(written, signature)))


def check_steps(
    steps_for: Callable[[Signature], Sequence[Step]], roles: Sequence[Role], outputs: Sequence[Output]
) -> None:
    """Make sure that steps fit some raw model: one with all roles, or with all but one of those that may be missing.

    Args:
        steps_for: Gives the steps for what a raw model gives.
        roles: What they may read.
        outputs: What comes out.

    Raises:
        PostProcessorError: They fit none; the error is that of a model with all roles.
    """
    whole = Signature({role.name: role.example() for role in roles}, input_size=(256, 256))
    optional = [role.name for role in roles if not role.required]
    tried = [whole, *(whole.limited(set(whole) - {name}) for name in optional if len(roles) > 1)]
    refusals = []
    for signature in tried:
        try:
            compile_steps(steps_for(signature), signature, outputs=outputs)
        except (StatisticsError, _UnboundError):
            # Numbers may come later, and so do the sizes and classes that some steps have to know.
            return
        except PostProcessorError as error:
            refusals.append(error)
            continue
        return
    raise refusals[0]


def check_result(step: Step, found: object, value: ValueType) -> None:
    """Make sure that a reference returned what the step said it would.

    Raises:
        PostProcessorError: It is no array, or of another element type or rank.
    """
    rank = value.rank if value.rank_known else None
    if not isinstance(found, np.ndarray) or found.dtype != value.dtype or (rank is not None and found.ndim != rank):
        what = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
        raise PostProcessorError(
            f"{named(step)}: its reference returned {what}, expected {value}. Let the step's output_type() say what it "
            "writes."
        )


def named(step: Step) -> str:
    """A step for a message."""
    return f"Step '{step.target}' ({type(step).__name__})"


def _check_names(step: Step, types: Mapping[str, ValueType], signature: Signature) -> None:
    if not isinstance(step, Step):
        raise PostProcessorError(f"Among the steps is {step!r}, expected a Step. Give steps only.")
    for name in step.reads:
        if name not in types:
            raise PostProcessorError(
                f"{named(step)} reads '{name}', which is not there; there are "
                f"{', '.join(map(repr, types)) or 'none'}. "
                "Read one of these, let an earlier step write it, or name the output of the model that is it "
                f"(--role {name}=NAME)."
            )
    if step.target in signature:
        raise PostProcessorError(f"{named(step)} writes '{step.target}', which the raw model gives. Rename it.")
    if step.target in types:
        raise PostProcessorError(f"{named(step)} writes '{step.target}', which an earlier step writes. Rename one.")


def _pulled_back(steps: Sequence[Step]) -> list[Step]:
    """Steps that decide about what a monotone step computes, deciding about what that reads."""
    found: dict[str, Step] = {}
    for step in steps:
        moved = step
        while isinstance(moved, DecidingStep):
            before = found.get(moved.source)
            if not isinstance(before, MonotoneStep):
                break
            earlier = moved.pulled_back(before)
            if earlier is moved:
                break
            moved = earlier
        found[moved.target] = moved
    return list(found.values())
