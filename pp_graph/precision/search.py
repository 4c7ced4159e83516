"""Search the fastest plan whose decisions stay within limits."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from pp_graph.errors import TargetError
from pp_graph.precision.blocks import block_times
from pp_graph.precision.measured import Measured
from pp_graph.precision.plan import BASE, HALVES, INT8, Plan, runs_otherwise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pp_graph.openvino.timed_session import TimedSession
    from pp_graph.precision.decisions import Judge
    from pp_graph.precision.measured import Limits
    from pp_graph.precision.plan import Builder
    from pp_graph.precision.state import State
    from pp_graph.precision.timing import Stopwatch

_FINALISTS: Final = 5
_LABEL_WEIGHT: Final = 10_000
"""Pixels that a flipped label counts for when blocks are ordered."""


class _BudgetSpentError(Exception):
    """No time is left for another measurement."""


class Search:
    """Measures plans until all are measured that look worthwhile, or until the time is over.

    First each precision for the whole network, then each block alone in each precision, then a greedy search: blocks
    are lowered in the order of flips per microsecond gained, as long as the decisions stay within the limits.

    Args:
        builder: Builds artifacts.
        judge: Measures decisions.
        stopwatch: Measures latency.
        limits: The limits.
        device: Device to run on.
        levels: Precisions below f32, fastest to try first.
        state: Earlier measurements, and the place to keep new ones.
        seconds: Time to search for.
        progress: Called with the seconds just spent.

    Attributes:
        notes: Remarks for the user.
        complete: False if the time was over before the search ended.
    """

    def __init__(
        self,
        builder: Builder,
        judge: Judge,
        stopwatch: Stopwatch,
        limits: Limits,
        *,
        device: str,
        levels: Sequence[str],
        state: State,
        seconds: float,
        progress: Callable[[float], None] | None,
    ) -> None:
        self._builder = builder
        self._judge = judge
        self._stopwatch = stopwatch
        self._limits = limits
        self._device = device
        self._levels = list(levels)
        self._state = state
        self._started = self._last = time.monotonic()
        self._seconds = seconds
        # A small part of the budget for each comparison leaves time for all of them.
        self._turn = min(max(seconds / 200, 0.1), 3.0)
        self._progress = progress or (lambda _: None)
        self._base_session: TimedSession | None = None
        self._failed: set[Plan] = set()
        self._whole: list[Plan] = []
        self.notes: list[str] = []
        self.complete = False
        for each in state.measured.values():
            each.choose(limits, judge.base)

    @property
    def measured(self) -> list[Measured]:
        """Everything that was measured of these blocks."""
        return list(self._state.measured.values())

    @property
    def base(self) -> Measured:
        """Measurements of the f32 model."""
        return self._decide(Plan.uniform(BASE, self._builder.blocks))

    def allowed(self, measured: Measured) -> bool:
        """Return True if a plan is within the limits. The f32 model always is."""
        return measured.plan.is_base or self._limits.allow(measured.decided, self._judge.base)

    def run(self) -> None:
        """Search until the end, or until the time is over."""
        self._time(self.base)
        with contextlib.suppress(_BudgetSpentError):
            halves = [level for level in self._levels if level in HALVES]
            self._whole_network(halves)
            for half in halves or [BASE]:
                plan = self._raise_blocks(half)
                plan = self._lower_blocks(plan, half, [half])
                # int8 comes last, because quantising a block takes the longest.
                for start in (plan, self.base.plan) if INT8 in self._levels else ():
                    self._lower_blocks(start, half, [half, INT8])
            self.complete = True

    def finalists(self) -> list[Measured]:
        """Time the fastest plans within the limits together, and return them, the fastest first.

        Plans with one precision for the whole network are timed with them, so that the table compares like with like.
        """
        timed = sorted((each for each in self.measured if each.timing is not None), key=_ratio)
        others = [each for each in timed if not each.plan.is_base]
        best = [each for each in others if self.allowed(each)][:_FINALISTS]
        whole = [each for each in others if each.plan in self._whole and each not in best]
        together = [self.base, *best, *whole]
        sessions = [self._session(each.plan) for each in together]
        timings = self._stopwatch.compare(sessions[0], sessions[1:], 2 * self._turn * len(sessions))
        for each, timing in zip(together, timings, strict=True):
            each.timing = timing
            self._state.keep(each)
        return sorted(filter(self.allowed, together), key=_ratio)

    def _whole_network(self, halves: Sequence[str]) -> None:
        """Measure each precision for the whole network; leave int8 out if the network cannot be quantised."""
        blocks = self._builder.blocks
        self._whole = [Plan.uniform(half, blocks) for half in halves]
        for plan in self._whole:
            self._try(plan, timed=True)
        for rest in (halves or [BASE]) if INT8 in self._levels else ():
            self._whole.append(Plan.uniform(INT8, blocks, rest))
            if self._try(self._whole[-1], timed=True) is None:
                self._levels.remove(INT8)
                return

    def _raise_blocks(self, half: str) -> Plan:
        """Start with all blocks in bf16 or f16, and return blocks to f32 until the decisions are within the limits.

        Those that flip most for the time they gain come first.
        """
        blocks, base = self._builder.blocks, self.base.plan
        plan = Plan.uniform(half, blocks)
        if half == BASE or self._allowed(plan):
            return plan
        for _, index, _ in sorted(self._moves(half, [half]), reverse=True):
            plan = plan.having(index, BASE)
            if plan == base or self._allowed(plan):
                break
        return plan if plan == base or self._try(plan, timed=True) is not None else base

    def _lower_blocks(self, plan: Plan, half: str, levels: Sequence[str]) -> Plan:
        """Lower blocks of a plan as long as the decisions stay within the limits.

        Those that flip least for the time they gain come first.

        Args:
            plan: The plan to start with, within the limits.
            half: bf16 or f16, or f32 without them.
            levels: Precisions to lower blocks to.
        """
        levels = [level for level in levels if level in self._levels]
        gains = {level: self._gains(level, half) for level in levels}
        for _, index, level in sorted(self._moves(half, levels)):
            now = plan.precisions[index]
            if now != BASE and gains[now][index] >= gains[level][index]:
                continue
            trial = plan.having(index, level)
            if self._allowed(trial) and self._try(trial, timed=True) is not None:
                plan = trial
        return plan

    def _moves(self, half: str, levels: Sequence[str]) -> list[tuple[float, int, str]]:
        """Measure each block alone in each precision.

        Returns:
            Flips for each microsecond that the block gains, its index and the precision.
        """
        moves = []
        for level in levels:
            for index, (block, gain) in enumerate(zip(self._builder.blocks, self._gains(level, half), strict=True)):
                if level == INT8 and not block.quantisable:
                    continue
                measured = self._try(self.base.plan.having(index, level))
                # A label may flip in one block and flip back in others. Errors of int8 are larger than that.
                if measured is not None and (level != INT8 or self.allowed(measured)):
                    moves.append((_cost(measured) / gain, index, level))
        return moves

    def _gains(self, level: str, half: str) -> list[float]:
        """Return the microseconds that each block gains in a precision."""
        blocks = self._builder.blocks
        plan = Plan.uniform(level, blocks, half)
        if level not in self._state.times:
            self._check_time()
            artifact = self._builder.build(plan)
            self._state.times[level] = self._stopwatch.operator_times(artifact, plan.inference_precision)
            self._state.save()
        before, after = (block_times(blocks, self._state.times[each]) for each in (BASE, level))
        # Times of single operators are noisy: a block counts for at least a quarter of the average gain.
        least = max((sum(before) - sum(after)) / len(blocks) / 4, 1.0)
        return [max(own - lower, least) for own, lower in zip(before, after, strict=True)]

    def _try(self, plan: Plan, *, timed: bool = False) -> Measured | None:
        """Measure a plan; None if it cannot be built, or the device fails on it."""
        if plan in self._failed:
            return None
        try:
            measured = self._decide(plan)
            if timed:
                self._time(measured)
        except TargetError as error:
            self._failed.add(plan)
            self.notes.append(f"{plan} was left out: {error}")
            return None
        return measured

    def _allowed(self, plan: Plan) -> bool:
        measured = self._try(plan)
        return measured is not None and self.allowed(measured)

    def _decide(self, plan: Plan) -> Measured:
        """Measure decisions, or return what is known. Measures the f32 model even if no time is left."""
        known = self._state.measured.get(plan)
        if known is not None:
            return known
        if not plan.is_base:
            self._check_time()
        artifact = self._builder.build(plan)
        found = self._judge.decide(artifact, self._device, plan.inference_precision, recalibrate=not plan.is_base)
        measured = Measured(plan, found)
        measured.choose(self._limits, self._judge.base)
        self._state.keep(measured)
        return measured

    def _time(self, measured: Measured) -> None:
        """Time a plan against the f32 model, unless it was timed before."""
        if measured.timing is not None:
            return
        base = self._session(self.base.plan)
        if measured.plan.is_base:
            (measured.timing,) = self._stopwatch.compare(base, [], self._turn)
        else:
            self._check_time()
            session = self._session(measured.plan)
            _, measured.timing = self._stopwatch.compare(base, [session], self._turn)
            measured.otherwise = tuple(
                runs_otherwise(self._builder.blocks, measured.plan, session.operator_precisions())
            )
        self._state.keep(measured)

    def _session(self, plan: Plan) -> TimedSession:
        if plan.is_base:
            self._base_session = self._base_session or self._stopwatch.compile(self._builder.base, BASE)
            return self._base_session
        return self._stopwatch.compile(self._builder.build(plan), plan.inference_precision)

    def _check_time(self) -> None:
        now = time.monotonic()
        self._progress(now - self._last)
        self._last = now
        if now - self._started > self._seconds:
            raise _BudgetSpentError


def _ratio(measured: Measured) -> float:
    assert measured.timing is not None
    return measured.timing.ratio


def _cost(measured: Measured) -> float:
    # A block without flips is still ordered by its gain.
    return 1.0 + measured.decided.pixel_flips + _LABEL_WEIGHT * measured.decided.label_flips
