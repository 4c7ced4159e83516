"""Compare with a threshold, compiled to one float32 cutoff, and encode the decision.

If `f` is monotone in float32, the decision `f(x) > level` is false below some x and true from there on. That x, the
cutoff, is found by bisection over the ordered float32 numbers. Comparing raw values with it needs none of the
arithmetic of `f`, so no runtime can round it differently.

Subnormal cutoffs are not written into graphs: OpenVINO flushes such constants to 0 in some graphs, and devices may
flush such raw values. The nearest number that is not subnormal is written instead. It decides the same for all raw
values that are not subnormal.
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
    DECISION,
    NUMBERS,
    Accepts,
    Array,
    MonotoneChain,
    MonotoneStep,
    OnNaN,
    Step,
    as_float32,
    check_on_nan,
)
from pp_graph.values.float_keys import HIGHEST_KEY, LOWEST_KEY, from_key, from_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType


Cutoff = np.float32 | None
"""Smallest float32 for which a decision is true; None if it is never true."""

NEVER: Final = None

SMALLEST_NORMAL: Final = np.finfo(np.float32).smallest_normal


def find_cutoff(decide: Callable[[Array], Array]) -> Cutoff:
    """Find the smallest float32 for which a monotone decision is true.

    Args:
        decide: Takes a float32 array of shape (1,) without NaN, returns booleans of that shape. Must be monotone: if it
            is true for a number, it is true for all larger ones.

    Returns:
        The cutoff, which may be an infinity, or `NEVER`.
    """
    cutoff = find_cutoffs(decide, (1,))[0]
    return NEVER if np.isnan(cutoff) else np.float32(cutoff)


def find_cutoffs(decide: Callable[[Array], Array], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Find the cutoffs of several monotone decisions at once.

    Args:
        decide: Takes a float32 array of `shape`, returns each decision about the number at its place; see
            `find_cutoff`.
        shape: Shape of the array of decisions.

    Returns:
        The cutoffs, float32 of `shape`; NaN for a decision that is never true.
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


def normal_below(subnormal_cutoffs: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return the largest number below each subnormal cutoff that is not itself subnormal."""
    return np.where(np.asarray(subnormal_cutoffs) > 0, np.float32(0), -SMALLEST_NORMAL)


def normal_above(numbers: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return the numbers as float32, and for each subnormal one the smallest number above it that is not subnormal."""
    rounded = np.asarray(numbers, np.float32)
    return np.where(is_subnormal(rounded), np.where(rounded > 0, SMALLEST_NORMAL, np.float32(0)), rounded)


def is_blurred(cutoffs: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Mark subnormal cutoffs that have subnormal numbers between themselves and `normal_below`.

    The graph calls those numbers anomalous, the reference normal.
    """
    apart: npt.NDArray[np.bool_] = np.nextafter(normal_below(cutoffs), np.float32(np.inf)) != np.asarray(cutoffs)
    return is_subnormal(cutoffs) & apart


DecisionType = Literal["bool", "u8", "u8_255", "f32"]
"""Element type of a decision: booleans, or numbers that encode them."""

DECISION_VALUES: Final[dict[str, tuple[np.generic, np.generic]]] = {
    "bool": (np.bool_(False), np.bool_(True)),
    "u8": (np.uint8(0), np.uint8(1)),
    "u8_255": (np.uint8(0), np.uint8(255)),
    "f32": (np.float32(0), np.float32(1)),
}
"""Values for normal and anomalous, by `DecisionType`."""


@functools.lru_cache(maxsize=256)
def _require_rising(step: MonotoneStep) -> None:
    """Raise `PostProcessorError` if a step falls between sampled numbers, or changes the shape of its input."""
    # Samples over all of float32, and dense ones around 0 and near the step's bends.
    keys = np.linspace(LOWEST_KEY, HIGHEST_KEY, 2049).astype(np.int64)
    near = [point for bend in step.bends for point in (0.5 * bend, bend, 1.5 * bend)]
    values = np.array([*(from_key(int(key)) for key in keys), *np.linspace(-8, 8, 257), *near], np.float32)
    with np.errstate(all="ignore"):
        results = step.reference(np.sort(values))
        same_shape = results.shape == values.shape
        falls = same_shape and bool((np.diff(results[~np.isnan(results)].astype(np.float64)) < 0).any())
    if not same_shape or falls:
        raise PostProcessorError(
            f"Step '{step.target}' ({type(step).__name__}) is a MonotoneStep and "
            f"{'falls' if falls else 'changes the shape of its input'}, expected results of the input's shape that "
            "never fall. Inherit from Step, or negate the numbers in the model."
        )


class DecidingStep(Step):
    """A step that decides about each number by itself: `normalized > level`.

    The reference computes exactly that. The graph compares the input with compiled cutoffs instead (see
    `pp_graph.steps.compare`), so its decisions do not depend on how a runtime rounds the normalisation.

    Attributes:
        normalizer: Monotone step to apply before comparing; None to compare the input itself.
        on_nan: How NaN is classified.
        per_pixel: True if each pixel has its own cutoff; the step then accepts maps of one size only.
    """

    per_pixel: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (NUMBERS,)
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "normalizer"})
    normalizer: MonotoneStep | None
    on_nan: OnNaN

    @property
    @abstractmethod
    def cutoffs(self) -> Array:
        """Smallest anomalous float32, NaN if there is none; in a shape that broadcasts to the input."""

    @property
    @abstractmethod
    def levels(self) -> Array:
        """Numbers to compare the normalised values with, float32, in the shape of `cutoffs`."""

    @property
    def scale(self) -> float:
        """Unit of margins: the range of the normalisation, or 1 without one."""
        span = 0.0 if self.normalizer is None else self.normalizer.span
        return span if span > 0 else 1.0

    def pulled_back(self, normalizer: MonotoneStep) -> Self:
        """Return the same decision on the input of a monotone step instead of its output."""
        own = self.normalizer
        _require_rising(normalizer)
        # The normalizer may turn NaN into a number, whose decision then applies to NaN.
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
        """bool, of the input's shape."""
        return value.as_dtype("bool")

    def reference(self, array: Array) -> Array:
        """Decide for an array; float32 to bool of the same shape."""
        return np.where(np.isnan(array), self.on_nan == "anomalous", self._decide(array))


@dataclass(frozen=True)
class Compare(DecidingStep):
    """Decide whether a raw value is anomalous: `normalized > level`, or `raw > level` without a normaliser.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the decision; same shape, true for anomalous.
        level: Number to compare with; an equal value is normal.
        normalizer: Monotone step to apply before comparing; None to compare the raw value.
        on_nan: How NaN is classified.
        dtype: Element type and values of the decision; see `DECISION_VALUES`.
        runtime: Make the cutoff an input of the graph, named `<target>_cutoff`, with the compiled cutoff as default, so
            that it can be changed while the model runs.

    Raises:
        PostProcessorError: `level` is not finite in float32, or `dtype` is unknown.
    """

    source: str
    target: str
    level: float
    normalizer: MonotoneStep | None = None
    on_nan: OnNaN = "anomalous"
    dtype: DecisionType = "bool"
    runtime: bool = False

    def __post_init__(self) -> None:
        """Check the parameters."""
        as_float32(self.level, f"level of '{self.target}'")
        check_on_nan(self.on_nan, self.target)
        if self.dtype not in DECISION_VALUES:
            raise PostProcessorError(
                f"dtype of '{self.target}' is {self.dtype!r}, expected one of: {', '.join(DECISION_VALUES)}."
            )

    @property
    def input_name(self) -> str:
        """Name of the graph input for the cutoff, if `runtime` is set."""
        return f"{self.target}_cutoff"

    @property
    def runtime_cutoff(self) -> np.float32:
        """Default of the graph input: the cutoff, or NaN if nothing is anomalous.

        A subnormal cutoff becomes the next larger number that is not subnormal.
        """
        return np.float32(normal_above(self.cutoffs))

    @cached_property
    def cutoff(self) -> Cutoff:
        """Smallest anomalous raw value; None if there is none."""
        return find_cutoff(self._decide)

    @property
    def cutoffs(self) -> Array:
        """The cutoff as an array of shape (), NaN if nothing is anomalous."""
        return np.array(np.nan if self.cutoff is None else self.cutoff, np.float32)

    @property
    def levels(self) -> Array:
        """The level as an array of shape ()."""
        return np.array(self.level, np.float32)

    def output_type(self, value: ValueType) -> ValueType:
        """The element type of the decisions, in the input's shape."""
        return value.as_dtype(DECISION_VALUES[self.dtype][0].dtype.name)

    def reference(self, array: Array) -> Array:
        """Decide for an array; float32 of any shape to `dtype` of the same shape."""
        normal_value, anomalous_value = DECISION_VALUES[self.dtype]
        return np.where(super().reference(array), anomalous_value, normal_value)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the comparison and, unless bool, a Where for its two values."""
        anomalous = self._emit_adjustable(op, value) if self.runtime else self._emit_fixed(op, value)
        if self.dtype == "bool":
            return anomalous
        normal_value, anomalous_value = DECISION_VALUES[self.dtype]
        return op.where(anomalous, op.constant(anomalous_value, "anomalous"), op.constant(normal_value, "normal"))

    def _emit_adjustable(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write `cutoff <= raw`, which is false in every runtime if either is NaN."""
        cutoff = op.adjustable(self.runtime_cutoff, self.input_name)
        anomalous = op.less_or_equal(cutoff, value)
        return op.logical_or(anomalous, op.is_nan(value)) if self.on_nan == "anomalous" else anomalous

    def _emit_fixed(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write `Not(Less(raw, cutoff))`, which is true for NaN in every runtime.

        With NaN, `GreaterOrEqual` and `Greater` are true in OpenVINO on CPU and false in onnxruntime.
        """
        if self.cutoff is None:
            if self.on_nan == "anomalous":
                return op.is_nan(value)
            return op.less(value, op.constant(np.float32(-np.inf), "never"))
        if is_subnormal(self.cutoff):
            # Runtimes may flush the cutoff to 0, and 0 < 0 is false.
            below = np.float32(normal_below(self.cutoff))
            anomalous = op.less(op.constant(below, "highest_normal_value"), value)
            if self.on_nan == "anomalous":
                return op.logical_or(anomalous, op.is_nan(value))
        else:
            anomalous = op.logical_not(op.less(value, op.constant(self.cutoff, "cutoff")))
            if self.on_nan == "anomalous":
                return anomalous
        return op.logical_and(anomalous, op.logical_not(op.is_nan(value)))


@dataclass(frozen=True)
class EncodeDecision(Step):
    """Write a decision as numbers, such as 0 and 255 for a mask that is shown as a picture.

    Attributes:
        source: Name of the label or mask, bool, of any shape.
        target: Name of the numbers, of the same shape.
        dtype: Element type and values: `u8` (0 and 1), `u8_255` (0 and 255), `f32` (0 and 1).

    Raises:
        PostProcessorError: `dtype` is unknown.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (DECISION,)
    source: str
    target: str
    dtype: DecisionType = "u8"

    def __post_init__(self) -> None:
        """Check the element type."""
        if self.dtype not in DECISION_VALUES or self.dtype == "bool":
            raise PostProcessorError(f"dtype of '{self.target}' is {self.dtype!r}, expected u8, u8_255 or f32.")

    def output_type(self, value: ValueType) -> ValueType:
        """The element type of the numbers, in the input's shape."""
        return value.as_dtype(DECISION_VALUES[self.dtype][0].dtype.name)

    def reference(self, array: Array) -> Array:
        """Encode an array."""
        normal, anomalous = DECISION_VALUES[self.dtype]
        return np.where(array, anomalous, normal)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Where."""
        normal, anomalous = DECISION_VALUES[self.dtype]
        return op.where(value, op.constant(anomalous, "anomalous"), op.constant(normal, "normal"))
