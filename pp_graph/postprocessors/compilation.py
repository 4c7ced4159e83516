"""Check a composition of steps against what the raw model gives, and compile its decisions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import PostProcessorError, StatisticsError
from pp_graph.postprocessors.layout import DECISION_NAMES, RawLayout
from pp_graph.steps import DecidingStep, EncodeDecision, Form, MonotoneStep, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

OUTPUT_NAMES: Final = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
"""Names of the outputs, in the order in which a fused model lists them."""

_LEVELS: Final = {"pred_score": "image", "pred_label": "image", "anomaly_map": "pixel", "pred_mask": "pixel"}


class _UnboundError(PostProcessorError):
    """A step takes such values, but not of these sizes."""


@dataclass(frozen=True)
class CompiledSteps:
    """Steps that fit each other and the raw model.

    Attributes:
        steps: The steps in order, bound to what they read; each is needed for an output.
        forms: What is known of each value, raw ones included, by name.
    """

    steps: tuple[Step, ...]
    forms: Mapping[str, Form]

    @property
    def inner(self) -> tuple[str, ...]:
        """Values that runtimes round differently and that another step reads."""
        read = {name for step in self.steps for name in step.reads}
        return tuple(step.target for step in self.steps if not step.exact and step.target in read)

    @property
    def compares(self) -> dict[str, DecidingStep]:
        """The steps that decide, by what they write."""
        return {step.target: step for step in self.steps if isinstance(step, DecidingStep)}

    @property
    def decisions(self) -> dict[str, DecidingStep | None]:
        """Outputs that say normal or anomalous, and the step by which the margin of each is measured.

        It is the nearest one that decides, among those that an output follows from; None where there is none.
        """
        writes = {step.target: step for step in self.steps}
        found: dict[str, DecidingStep | None] = {}
        for name in DECISION_NAMES:
            if name not in writes:
                continue
            pending: list[str] = [name]
            found[name] = None
            while pending and found[name] is None:
                step = writes.get(pending.pop(0))
                if isinstance(step, DecidingStep):
                    found[name] = step
                elif step is not None:
                    pending += [each for each in step.reads if self.forms[each].level == self.forms[name].level]
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


def compile_steps(steps: Sequence[Step], layout: RawLayout, *, wanted: Sequence[str] | None = None) -> CompiledSteps:
    """Check steps, bind them to what they read, and move decisions in front of monotone steps.

    Args:
        steps: The steps, in order.
        layout: What the raw model gives.
        wanted: Names of the values to compute; None for the outputs.

    Raises:
        PostProcessorError: A step reads what is not there or does not fit, two steps write the same, or nothing is
            written that comes out.
    """
    forms = dict(layout.forms)
    bound: list[Step] = []
    for step in steps:
        _check_names(step, forms, layout)
        read = [forms[name] for name in step.reads]
        for name, form, accepts in zip(step.reads, read, step.accepts, strict=True):
            refusal = accepts.refusal(form)
            if refusal is not None:
                raise PostProcessorError(f"{named(step)} reads '{name}', which is {form}, expected {refusal}.")
        try:
            bound.append(step.bound(*read))
        except PostProcessorError as error:
            raise _UnboundError(f"{named(step)} does not fit what it reads: {error}") from error
        forms[step.target] = bound[-1].form(*read)
        _check_output(step, forms[step.target])
    written = [step.target for step in bound if step.target in OUTPUT_NAMES] if wanted is None else wanted
    if not written and wanted is None:
        listed = ", ".join(f"'{step.target}'" for step in bound) or "none"
        raise PostProcessorError(
            f"The steps write {listed}, expected some of {', '.join(OUTPUT_NAMES)}: only these come out of the model. "
            "Give the last steps one of these targets."
        )
    compiled = CompiledSteps(tuple(_pulled_back(bound)), forms)
    return dataclasses.replace(compiled, steps=tuple(compiled.needed(written, layout.forms)))


def check_steps(steps_for: Callable[[RawLayout], Sequence[Step]], *, classes: bool) -> None:
    """Make sure that steps fit some raw model: one with a score and a map, or with either.

    Args:
        steps_for: Gives the steps for what a raw model gives.
        classes: Whether scores and maps with classes are taken.

    Raises:
        PostProcessorError: They fit none; the error is that of a model with both.
    """
    one: int | None = None if classes else 1
    both = RawLayout(True, True, map_rank=4, score_rank=2, input_size=(256, 256), score_classes=one, map_classes=one)
    refusals = []
    for layout in (both, dataclasses.replace(both, score=False), dataclasses.replace(both, map=False)):
        try:
            compile_steps(steps_for(layout), layout)
        except (StatisticsError, _UnboundError):
            # Numbers may come later, and so do the sizes and classes that some steps have to know.
            return
        except PostProcessorError as error:
            refusals.append(error)
            continue
        return
    raise refusals[0]


def check_result(step: Step, found: object, form: Form) -> None:
    """Make sure that a reference returned what the step said it would.

    Raises:
        PostProcessorError: It is no array, or of another element type or rank.
    """
    rank = None if form.axes is None else len(form.axes)
    if not isinstance(found, np.ndarray) or found.dtype != form.dtype or (rank is not None and found.ndim != rank):
        what = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
        raise PostProcessorError(
            f"{named(step)}: its reference returned {what}, expected {form}. Let the step's form() say what it writes."
        )


def named(step: Step) -> str:
    """A step for a message."""
    return f"Step '{step.target}' ({type(step).__name__})"


def _check_names(step: Step, forms: Mapping[str, Form], layout: RawLayout) -> None:
    if not isinstance(step, Step):
        raise PostProcessorError(f"Among the steps is {step!r}, expected a Step. Give steps only.")
    for name in step.reads:
        if name not in forms:
            raise PostProcessorError(
                f"{named(step)} reads '{name}', which is not there; there are "
                f"{', '.join(map(repr, forms)) or 'none'}. "
                "Read one of these, or let an earlier step write it."
            )
    if step.target in layout.forms:
        raise PostProcessorError(f"{named(step)} writes '{step.target}', which the raw model gives. Rename it.")
    if step.target in forms:
        raise PostProcessorError(f"{named(step)} writes '{step.target}', which an earlier step writes. Rename one.")


def _check_output(step: Step, form: Form) -> None:
    level = _LEVELS.get(step.target)
    if level is None:
        return
    decides = step.target in DECISION_NAMES
    number = form.dtype == "float32"
    # A decision may come as numbers 0 and 1, from a step that decides.
    fits = not number or isinstance(step, DecidingStep | EncodeDecision) if decides else number
    if form.level != level or not fits:
        what = "one value an image" if level == "image" else "a map, one value a pixel"
        raise PostProcessorError(
            f"{named(step)} writes {form}, one value {'an' if form.level == 'image' else 'a'} {form.level}, expected "
            f"{what}, {'bool' if decides else 'float32'}. Give it another target."
        )


def _pulled_back(steps: Sequence[Step]) -> list[Step]:
    """Steps that decide about what a monotone step computes, deciding about what that reads."""
    found: dict[str, Step] = {}
    for step in steps:
        moved = step
        while isinstance(moved, DecidingStep):
            before = found.get(moved.source)
            if not isinstance(before, MonotoneStep):
                break
            behind = moved.behind(before)
            if behind is moved:
                break
            moved = behind
        found[moved.target] = moved
    return list(found.values())
