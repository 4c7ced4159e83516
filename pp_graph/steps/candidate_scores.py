"""Steps on the scores of candidates: those above the confidence, the best of each candidate, the best candidates.

Candidates are ordered by score, then by index. The operator TopK does not promise that: OpenVINO 2026.4 runs it as an
unstable sort. Here a first TopK gives the k-th score only. A second one chooses by distinct keys: all candidates above
that score, then the first ones equal to it. These are sorted by score, then by distinct keys of score and place.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.candidates import (
    BEST,
    NO_SCORE,
    PASSING,
    SCORES,
    WITH_CLASSES,
    require_gathering,
)
from pp_graph.steps.compare import is_subnormal, normal_below
from pp_graph.steps.compare_many import SeveralCutoffs
from pp_graph.steps.step import Accepts, Array, MonotoneStep, OnNaN, Step, as_float32, check_on_nan, require_whole
from pp_graph.steps.top_classes import ClassStep

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType

MOST_CANDIDATES: Final = 4096
"""Largest number of candidates to select: steps on pairs of them need its square."""
_F32, _I32, _I64 = np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.int64)


@dataclass(frozen=True)
class ExceedsConfidence(SeveralCutoffs):
    """Decide which scores exceed the confidence, strictly; NaN never does, unless `on_nan` is `anomalous`.

    Attributes:
        source: Name of the scores, float32, (N,K,C), (N,C,K) or (N,K).
        target: Name of the decisions, bool, same shape.
        confidence: The confidence: one number, or one for each class.
        normalizer: Monotone step to apply before comparing, such as Sigmoid; None to compare the scores themselves.
        on_nan: How NaN is classified.
        axes: Axes of the scores; None until the step is bound.
        runtime: Make the cutoffs an input of the graph, named `confidence_cutoff`, with the compiled ones as default.

    Raises:
        PostProcessorError: A confidence is not finite in float32.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (SCORES,)
    source: str
    target: str
    confidence: tuple[float, ...]
    normalizer: MonotoneStep | None = None
    on_nan: OnNaN = "normal"
    axes: str | None = None
    runtime: bool = False

    @property
    def input_name(self) -> str:
        """Name of the graph input for the cutoffs, if `runtime` is set; the same for all steps of a model."""
        return "confidence_cutoff"

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_on_nan(self.on_nan, self.target)
        given = self.confidence if isinstance(self.confidence, tuple | list) else (self.confidence,)
        levels = tuple(float(as_float32(level, f"confidence of '{self.target}'")) for level in given)
        object.__setattr__(self, "confidence", levels)

    def bind(self, value: ValueType) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: The number of classes differs from the number of confidences.
        """
        classes = value.size("C") if "C" in value.axes else 1
        if len(self.confidence) not in (1, classes):
            raise PostProcessorError(
                f"there are {len(self.confidence)} confidences for {classes} classes, {value}, expected one, or one "
                "for each class."
            )
        return super().bind(value)

    @property
    def levels(self) -> Array:
        """The confidences, in a shape that broadcasts to the scores."""
        levels = np.array(self.confidence, np.float32)
        if len(levels) == 1:
            return levels.reshape(())
        return levels[:, None] if self.axes == "NCK" else levels

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write `Less(largest number that does not pass, score)`, which is false for NaN in every runtime."""
        if self.runtime:
            return super().emit(op, value)
        cutoffs = self.cutoffs.astype(np.float32)
        below = np.nextafter(cutoffs, np.float32(-np.inf))
        below = np.where(is_subnormal(cutoffs) | is_subnormal(below), normal_below(cutoffs), below)
        # A cutoff of the smallest normal number lies just above 0 and subnormal ones, which count as 0.
        below = np.where(np.isnan(cutoffs), np.float32(np.inf), below)
        passing = op.less(op.array(below, "confidence"), value)
        return op.logical_or(passing, op.is_nan(value)) if self.on_nan == "anomalous" else passing


@dataclass(frozen=True)
class MaskScores(Step):
    """Replace the scores that do not pass by `NO_SCORE`.

    Source: `numpy.where`.

    Attributes:
        source: Name of the scores, float32, (N,K,C), (N,C,K) or (N,K).
        target: Name of the masked scores; same shape.
        passing: Name of the decisions, bool, in the shape of the scores.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (SCORES, PASSING)
    source: str
    target: str
    passing: str

    @property
    def reads(self) -> tuple[str, ...]:
        """Scores and decisions."""
        return (self.source, self.passing)

    def reference(self, array: Array, passing: Array) -> Array:
        """Mask an array."""
        return np.where(passing, array, NO_SCORE)

    def emit(self, op: Emitter, value: ir.Value, passing: ir.Value) -> ir.Value:
        """Write Where."""
        return op.where(passing, value, op.constant(NO_SCORE, "no_score"))


@dataclass(frozen=True)
class BestScore(ClassStep):
    """Take the largest score of each candidate.

    Source: `numpy.max`.

    Attributes:
        source: Name of the scores, float32, (N,K,C) or (N,C,K), without NaN.
        target: Name of the best scores, float32, (N,K).
        axes: Axes of the scores; None until the step is bound.
        classes: Number of classes; None until the step is bound.
    """

    keeps_scale: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=WITH_CLASSES, known_rank=True),)
    axes: str | None = None
    classes: int | None = None

    def output_type(self, value: ValueType) -> ValueType:
        """float32, (N,K)."""
        return value.reduced("C")

    def reference(self, array: Array) -> Array:
        """Find the best scores in an array."""
        best: Array = array.max(axis=self._axis)
        return best

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write ReduceMax."""
        return op.reduce("ReduceMax", value, (self._axis,))


@dataclass(frozen=True)
class BestClass(ClassStep):
    """Find the class of the largest score of each candidate, the first of equal ones.

    Source: `numpy.argmax`.

    Attributes:
        source: Name of the scores, float32, (N,K,C) or (N,C,K), without NaN.
        target: Name of the classes, float32, (N,K).
        best: Name of the largest scores, float32, (N,K): the result of `BestScore`.
        axes: Axes of the scores; None until the step is bound.
        classes: Number of classes; None until the step is bound.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=WITH_CLASSES, known_rank=True), BEST)
    best: str
    axes: str | None = None
    classes: int | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Scores and best scores."""
        return (self.source, self.best)

    def output_type(self, value: ValueType, *_: ValueType) -> ValueType:
        """float32, (N,K)."""
        return value.reduced("C")

    def reference(self, array: Array, best: Array) -> Array:
        """Find the classes in an array."""
        del best
        found: Array = array.argmax(axis=self._axis).astype(np.float32)
        return found

    def emit(self, op: Emitter, value: ir.Value, best: ir.Value) -> ir.Value:
        """Write the smallest index among the largest scores."""
        assert self.classes is not None, "bind() sets it"
        less = op.below_other(value, op.unsqueeze(best, (self._axis,)), value)
        behind = op.constant(np.float32(self.classes), "behind_all")
        indices = op.array(self.index(self.classes), "index")
        return op.reduce("ReduceMin", op.where(less, behind, indices), (self._axis,))


@dataclass(frozen=True)
class CountPassing(Step):
    """Count the candidates of each image whose best score passes.

    Attributes:
        source: Name of the best scores, float32, (N,K), with `NO_SCORE` where none passes.
        target: Name of the counts, int32, (N,).
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (BEST,)
    source: str
    target: str

    def output_type(self, value: ValueType) -> ValueType:
        """int32, (N,)."""
        return value.reduced("K").as_dtype("int32")

    def reference(self, array: Array) -> Array:
        """Count in an array."""
        counts: Array = (array > NO_SCORE).sum(axis=1).astype(np.int32)
        return counts

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write a sum of ones."""
        passing = op.less(op.constant(NO_SCORE, "no_score"), value)
        ones = op.where(passing, op.constant(np.float32(1), "one"), op.constant(np.float32(0), "none"))
        return op.cast(op.reduce("ReduceSum", ones, (1,)), _I32)


@dataclass(frozen=True)
class SelectCandidates(Step):
    """Find the candidates with the k largest scores, by score, then by index.

    Source: `numpy.argsort(-x, axis=1, kind="stable")[:, :k]`.

    Attributes:
        source: Name of the scores, float32, (N,K), without NaN.
        target: Name of the indices, int64, (N,k); of all candidates if there are at most `k`. If their number is
            open, it must be at least `k`; see `PadCandidates`.
        k: Number of candidates to find.
        count: Number of candidates; None until the step is bound.

    Raises:
        PostProcessorError: `k` is not a whole number from 1 to 4,096.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (BEST,)
    settled: ClassVar[frozenset[str]] = frozenset({"count"})
    source: str
    target: str
    k: int
    count: int | None = None

    def __post_init__(self) -> None:
        """Check the number."""
        require_whole(self.k, f"k of '{self.target}'", 1, MOST_CANDIDATES)

    def bind(self, value: ValueType) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: The number of candidates is too large for exact keys.
        """
        count = value.size("K")
        if count is not None and count > 2**22:
            raise PostProcessorError(f"{value} has {count:,} candidates, expected at most {2**22:,}.")
        return dataclasses.replace(self, count=count)

    @property
    def _found(self) -> int:
        return self.k if self.count is None else min(self.k, self.count)

    def output_type(self, value: ValueType) -> ValueType:
        """int64, (N,k)."""
        return value.resized(K=self._found).as_dtype("int64")

    def reference(self, array: Array) -> Array:
        """Order an array."""
        return np.argsort(-array, axis=1, kind="stable")[:, : self._found].astype(np.int64)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the selection by distinct keys, and the ranks."""
        require_gathering(op, self.target)
        k = self._found
        higher, descending = self._emit_indices(op, value)
        least = op.slice(op.top_k(value, k, 1), (k - 1,), (k,), (1,))
        above, below = op.below_other(least, value, value), op.below_other(value, least, value)
        zero = op.constant(np.float32(0), "none")
        keys = op.where(above, higher, op.where(below, zero, descending))
        _, found = op.top_k_places(keys, k, 1)
        if k == 1:
            return found
        shape = op.shape_of(found)
        scores = op.node("GatherElements", [value, found], {"axis": 1}, _F32, shape)
        # They are in the order of their indices; equal ones of a sorted list must get back into it.
        ordered, places = op.top_k_places(scores, k, 1)
        first, others = op.slice(ordered, (0,), (k - 1,), (1,)), op.slice(ordered, (1,), (k,), (1,))
        falls = op.where(op.less(others, first), op.constant(np.float32(-k), "next"), zero)
        axis = op.constant(np.int64(1), "along_list")
        group = op.node("CumSum", [op.pad_start(falls, 1, 1, rank=2), axis], {}, _F32, shape)
        # A group of equal scores has keys of its own: at most 2^24 in all, which float32 holds.
        _, ranked = op.top_k_places(op.sub(group, op.cast(places, _F32)), k, 1)
        sorted_ = op.node("GatherElements", [places, ranked], {"axis": 1}, _I64, shape)
        return op.node("GatherElements", [found, sorted_], {"axis": 1}, _I64, shape)

    def _emit_indices(self, op: Emitter, value: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Write 2A-i and A-i for each of A candidates i."""
        if self.count is not None:
            index = np.arange(self.count, dtype=np.float32)
            return op.array(2 * self.count - index, "above"), op.array(self.count - index, "equal")
        sizes = op.sizes_of(value)
        size = op.node("Gather", [sizes, op.constant(np.int64(1), "axis")], {"axis": 0}, _I64, ())
        bounds = [size, op.constant(np.int64(0), "end"), op.constant(np.int64(-1), "step")]
        descending = op.cast(op.node("Range", bounds, {}, _I64, (None,)), _F32)
        return op.add(descending, op.cast(size, _F32)), descending
