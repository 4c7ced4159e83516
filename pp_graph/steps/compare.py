"""Compare with a threshold, compiled to one float32 cutoff.

Where `f` is monotone in float32, the decision `f(x) > level` is false up to some x and true from
there on. That x, the cutoff, is found by bisection over the float32 numbers in their order. A
comparison of raw values with it needs none of the arithmetic of `f`, so no runtime can round it
differently.

A subnormal cutoff is not written into a graph: OpenVINO takes such a constant for 0 in some graphs, and devices may
take such a raw value for 0. The nearest number that is not subnormal is written instead. It decides the same about
every raw value that is not subnormal either.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.step import (
    NUMBERS,
    Accepts,
    Array,
    MonotoneChain,
    MonotoneStep,
    OnNaN,
    Step,
    as_float32,
    checked_on_nan,
)
from pp_graph.values.float_keys import HIGHEST_KEY, LOWEST_KEY, from_key, from_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType


Cutoff = np.float32 | None
"""The smallest float32 for which a decision is true; None where it is never true."""

NEVER: Final = None

SMALLEST_NORMAL: Final = np.finfo(np.float32).smallest_normal


def find_cutoff(decide: Callable[[Array], Array]) -> Cutoff:
    """Find the smallest float32 for which a monotone decision is true.

    Args:
        decide: Takes a float32 array of shape (1,), returns booleans of that shape. Must be
            monotone: true for every number above one for which it is true. NaN is never asked.

    Returns:
        The cutoff, which may be an infinity, or `NEVER`.
    """
    cutoff = find_cutoffs(decide, (1,))[0]
    return NEVER if np.isnan(cutoff) else np.float32(cutoff)


def find_cutoffs(decide: Callable[[Array], Array], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Find a cutoff for each of several monotone decisions at once.

    Args:
        decide: Takes a float32 array of `shape`, returns booleans of that shape: what each decision makes of the
            number at its place. See `find_cutoff`.
        shape: As many decisions as an array of this shape has places.

    Returns:
        The cutoffs, float32 of `shape`; NaN where a decision is never true.
    """
    below = np.full(shape, LOWEST_KEY, np.int64)
    above = np.full(shape, HIGHEST_KEY, np.int64)
    never, always = ~decide(from_keys(above)), decide(from_keys(below))
    while np.any(above - below > 1):
        middle = (below + above) // 2
        holds = decide(from_keys(middle))
        above, below = np.where(holds, middle, above), np.where(holds, below, middle)
    cutoffs = np.where(always, np.float32(-np.inf), from_keys(above))
    return np.where(never, np.float32(np.nan), cutoffs).astype(np.float32)


def is_subnormal(numbers: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Mark subnormal float32 numbers."""
    magnitudes = np.abs(np.asarray(numbers, np.float32))
    return (magnitudes > 0) & (magnitudes < SMALLEST_NORMAL)


def highest_below(subnormal_cutoffs: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The highest number below each of some subnormal cutoffs that is not subnormal itself."""
    return np.where(np.asarray(subnormal_cutoffs) > 0, np.float32(0), -SMALLEST_NORMAL)


def is_blurred(cutoffs: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Mark cutoffs with subnormal numbers between `highest_below` and themselves, which graphs decide differently."""
    apart: npt.NDArray[np.bool_] = np.nextafter(highest_below(cutoffs), np.float32(np.inf)) != np.asarray(cutoffs)
    return is_subnormal(cutoffs) & apart


DecisionType = Literal["bool", "u8", "u8_255", "f32"]
"""Element type of a decision: booleans, or numbers that stand for them."""

DECISION_VALUES: Final[dict[str, tuple[np.generic, np.generic]]] = {
    "bool": (np.bool_(False), np.bool_(True)),
    "u8": (np.uint8(0), np.uint8(1)),
    "u8_255": (np.uint8(0), np.uint8(255)),
    "f32": (np.float32(0), np.float32(1)),
}
"""What stands for normal and for anomalous in each."""


@functools.lru_cache(maxsize=256)
def _require_rising(step: MonotoneStep) -> None:
    """Check on numbers all over float32 that a step never falls.

    Raises:
        PostProcessorError: It does, or it changes the shape of what it reads.
    """
    # Far apart and close together: around 0, around 1, and near what the step says of itself.
    keys = np.linspace(LOWEST_KEY, HIGHEST_KEY, 2049).astype(np.int64)
    near = [point for bend in step.bends for point in (0.5 * bend, bend, 1.5 * bend)]
    values = np.array([*(from_key(int(key)) for key in keys), *np.linspace(-8, 8, 257), *near], np.float32)
    with np.errstate(all="ignore"):
        found = step.reference(np.sort(values))
        falls = found.shape == values.shape and bool((np.diff(found[~np.isnan(found)].astype(np.float64)) < 0).any())
    if found.shape != values.shape or falls:
        raise PostProcessorError(
            f"Step '{step.target}' ({type(step).__name__}) is a MonotoneStep and "
            f"{'falls' if falls else 'changes the shape of what it reads'}, expected numbers that never fall, one for "
            "each that is read. Inherit from Step, or turn the sign in the model."
        )


class DecidingStep(Step):
    """A step that decides about numbers, each on its own: `normalized > level`.

    The reference computes exactly that. The graph compares what it reads with compiled cutoffs instead (see
    `pp_graph.steps.compare`), so its decisions do not depend on how a runtime rounds the normalisation.

    Attributes:
        normalizer: Monotone step to apply before comparing; None to compare what is read.
        on_nan: What NaN counts as.
        per_pixel: Whether there is a cutoff for each pixel, so that only maps of one size are taken.
    """

    per_pixel: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (NUMBERS,)
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "normalizer"})
    normalizer: MonotoneStep | None
    on_nan: OnNaN

    @property
    @abstractmethod
    def cutoffs(self) -> Array:
        """The smallest anomalous float32, NaN if none is; of a shape that broadcasts to the input."""

    @property
    @abstractmethod
    def levels(self) -> Array:
        """Numbers to compare with, float32, of the shape of `cutoffs`."""

    @property
    def scale(self) -> float:
        """Unit of margins: the range of the normalisation, or 1 without one."""
        span = 0.0 if self.normalizer is None else self.normalizer.span
        return span if span > 0 else 1.0

    def pulled_back(self, normalizer: MonotoneStep) -> Self:
        """Return the same decision on the input of a monotone step instead of its output."""
        own = self.normalizer
        _require_rising(normalizer)
        # What NaN becomes before this step sees it decides what it counts as.
        nan = normalizer.reference(np.array([np.nan], np.float32))
        on_nan = self.on_nan
        if not np.isnan(nan[0]):
            decisions = np.unique(self._decide(nan))
            if len(decisions) != 1:
                return self
            on_nan = "anomalous" if decisions[0] else "normal"
        chain = normalizer if own is None else MonotoneChain(normalizer.source, self.target, (normalizer, own))
        return dataclasses.replace(  # type: ignore[type-var]
            self, source=normalizer.source, normalizer=chain, on_nan=on_nan
        )

    def _decide(self, array: Array) -> Array:
        x = np.asarray(array, np.float32)
        value = x if self.normalizer is None else self.normalizer.reference(x)
        decision: Array = value > self.levels
        return decision

    def output_type(self, value: ValueType) -> ValueType:
        """Decisions on the axes of the numbers."""
        return value.as_dtype("bool")

    def _anomalous(self, array: Array) -> Array:
        return np.where(np.isnan(array), self.on_nan == "anomalous", self._decide(array))

    def reference(self, array: Array) -> Array:
        """Decide for an array; float32 to bool of that shape."""
        return self._anomalous(array)


@dataclass(frozen=True)
class Compare(DecidingStep):
    """Decide whether a raw value is anomalous: `normalized > level`, or `raw > level` without a normaliser.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the decision; same shape, true for anomalous.
        level: What the value is compared with, strictly.
        normalizer: Monotone step to apply before comparing; None to compare the raw value.
        on_nan: What NaN counts as.
        dtype: Element type of the decision, and its two values; see `DECISION_VALUES`.
        runtime: Whether the cutoff is an input of the graph, named `<target>_cutoff`, of which the compiled one is
            the default; it can then be changed while the model runs.

    Raises:
        PostProcessorError: `level` is not finite in float32, or `dtype` is not known.
    """

    source: str
    target: str
    level: float
    normalizer: MonotoneStep | None = None
    on_nan: OnNaN = "anomalous"
    dtype: DecisionType = "bool"
    runtime: bool = False

    def __post_init__(self) -> None:
        """Refuse a level that float32 cannot hold."""
        as_float32(self.level, f"level of '{self.target}'")
        checked_on_nan(self.on_nan, self.target)
        if self.dtype not in DECISION_VALUES:
            raise PostProcessorError(
                f"dtype of '{self.target}' is {self.dtype!r}, expected one of: {', '.join(DECISION_VALUES)}."
            )

    @property
    def input_name(self) -> str:
        """Name of the graph's input that holds the cutoff, where that is adjustable."""
        return f"{self.target}_cutoff"

    @property
    def runtime_cutoff(self) -> np.float32:
        """The cutoff as the graph's input holds it: NaN where nothing is anomalous.

        A subnormal one becomes the next number above that is not: the smallest normal number, or 0.
        """
        if self.cutoff is None:
            return np.float32(np.nan)
        if is_subnormal(self.cutoff):
            return SMALLEST_NORMAL if self.cutoff > 0 else np.float32(0)
        return self.cutoff

    @cached_property
    def cutoff(self) -> Cutoff:
        """The smallest raw float32 that is anomalous; None where none is."""
        return find_cutoff(self._decide)

    @property
    def cutoffs(self) -> Array:
        """The cutoff as an array of no axes, NaN where nothing is anomalous."""
        return np.array(np.nan if self.cutoff is None else self.cutoff, np.float32)

    @property
    def levels(self) -> Array:
        """The level, as an array of no axes."""
        return np.array(self.level, np.float32)

    def output_type(self, value: ValueType) -> ValueType:
        """Decisions on the axes of the numbers, in the element type asked for."""
        return value.as_dtype(DECISION_VALUES[self.dtype][0].dtype.name)

    def reference(self, array: Array) -> Array:
        """Decide for an array; float32 of any shape to `dtype` of that shape."""
        normal_value, anomalous_value = DECISION_VALUES[self.dtype]
        return np.where(self._anomalous(array), anomalous_value, normal_value)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the comparison, and its two output values."""
        anomalous = self._emit_adjustable(op, value) if self.runtime else self._emit_fixed(op, value)
        if self.dtype == "bool":
            return anomalous
        normal_value, anomalous_value = DECISION_VALUES[self.dtype]
        return op.where(anomalous, op.constant(anomalous_value, "anomalous"), op.constant(normal_value, "normal"))

    def _emit_adjustable(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write `cutoff <= raw`, which is false where either is NaN, in every runtime."""
        cutoff = op.adjustable(self.runtime_cutoff, self.input_name)
        anomalous = op.less_or_equal(cutoff, value)
        return op.logical_or(anomalous, op.is_nan(value)) if self.on_nan == "anomalous" else anomalous

    def _emit_fixed(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write `Not(Less(raw, cutoff))`, which is true for NaN in every runtime.

        `GreaterOrEqual` and `Greater` will not do: with NaN they are true in OpenVINO on CPU and
        false in onnxruntime.
        """
        if self.cutoff is None:
            if self.on_nan == "anomalous":
                return op.is_nan(value)
            return op.less(value, op.constant(np.float32(-np.inf), "never"))
        if is_subnormal(self.cutoff):
            # Runtimes may take it for 0, and 0 itself would not lie below that.
            below = np.float32(highest_below(self.cutoff))
            anomalous = op.less(op.constant(below, "highest_normal_value"), value)
            if self.on_nan == "anomalous":
                return op.logical_or(anomalous, op.is_nan(value))
        else:
            anomalous = op.logical_not(op.less(value, op.constant(self.cutoff, "cutoff")))
            if self.on_nan == "anomalous":
                return anomalous
        return op.logical_and(anomalous, op.logical_not(op.is_nan(value)))
