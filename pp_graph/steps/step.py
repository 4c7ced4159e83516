"""Base classes of steps, checks of their parameters, and `Keep`, the identity."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from pp_graph.errors import PostProcessorError
from pp_graph.values import DTYPES, DType
from pp_graph.values.value_type import pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import Scale, ValueType


def require_whole(number: object, what: str, least: int, most: int | None = None, *, odd: bool = False) -> None:
    """Raise `PostProcessorError` unless a parameter is an integer within limits."""
    whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
    if not whole or number < least or (most and number > most) or (odd and number % 2 == 0):  # type: ignore[operator]
        kind = "an odd whole number" if odd else "a whole number"
        limits = f"from {least} to {most}" if most else f"from {least}"
        raise PostProcessorError(f"{what} is {number!r}, expected {kind} {limits}.")


def require_one_of(value: object, what: str, allowed: Sequence[object]) -> None:
    """Raise `PostProcessorError` unless a parameter has one of the allowed values."""
    # True equals 1, but is not a number of neighbours.
    if isinstance(value, bool) or value not in allowed:
        raise PostProcessorError(f"{what} is {value!r}, expected {' or '.join(map(repr, allowed))}.")


def require_size(size: tuple[int, int] | None, least: tuple[int, int], target: str, why: str) -> None:
    """Raise `PostProcessorError` if a map is too small.

    Args:
        size: Height and width of the map; None if unknown.
        least: Smallest height and width.
        target: Name of the value computed from the map.
        why: Reason for the error message, such as `to be mirrored by 4`.
    """
    if size is not None and (size[0] < least[0] or size[1] < least[1]):
        raise PostProcessorError(
            f"'{target}' is computed from {size[0]}x{size[1]} pixels, expected at least {least[0]}x{least[1]} {why}."
        )


@dataclass(frozen=True)
class Accepts:
    """Requirements of a step for one of its inputs.

    The defaults suit a step that computes each number from the one at the same place: it works on any axes.

    Attributes:
        dtypes: Accepted element types.
        needs: Axes that the input must have, such as `HW` for a map.
        axes: Accepted axes, in order, such as `("NHW", "NCHW")`; `()` for any.
        lacks: Axes that it must not have.
        single: Axes that must have size 1, such as `C` for a map of one channel.
        known_rank: True if its rank must be known.
    """

    dtypes: tuple[DType, ...] = ("float32",)
    needs: str = ""
    axes: tuple[str, ...] = ()
    lacks: str = ""
    single: str = ""
    known_rank: bool = False

    def refusal(self, value: ValueType) -> str | None:
        """Describe what was expected instead of this type; None if it fits."""
        if "H" in self.needs and not value.per_pixel:
            return "a map, one value per pixel"
        if any(axis in value.axes for axis in self.lacks):
            return "one value per image, not a map" if "H" in self.lacks else f"no axis {' or '.join(self.lacks)}"
        if self.axes and value.axes not in self.axes:
            return f"the axes {' or '.join(map(pattern, self.axes))}"
        if value.dtype not in self.dtypes:
            return " or ".join(self.dtypes)
        if any(value.size(axis) not in (1, None) for axis in self.single):
            return "one channel: choose a class first, with SelectClass"
        if self.known_rank and not value.rank_known:
            return "known axes: export the model with its output shapes"
        missing = [axis for axis in self.needs if axis not in value.axes]
        if missing == ["C"]:
            return "an axis of classes, as in (N,C), (N,C,H,W) or (N,H,W,C): it has no axis of classes"
        return f"the axes {', '.join(self.needs)}" if missing else None


MAP_AXES: Final = ("NHW", "NCHW", "NHWC")
"""Axes of the maps that steps on whole maps accept."""

NUMBERS = Accepts()
"""Numbers of any axes."""
DECISION = Accepts(dtypes=("bool",))
"""Decisions of any axes."""
CLASSES = Accepts(needs="C", known_rank=True)
"""Numbers of each class."""
MAP = Accepts(needs="HW", axes=MAP_AXES, single="C", known_rank=True)
"""A map of one channel."""
MAPS = Accepts(needs="HW", axes=MAP_AXES, known_rank=True)
"""A map with any number of channels."""
MASK = Accepts(dtypes=("bool",), needs="HW", axes=MAP_AXES, single="C", known_rank=True)
"""A mask of one channel."""
MAPS_AND_MASKS = Accepts(dtypes=DTYPES, needs="HW", known_rank=True)
"""A map or a mask with any number of channels."""


Array = npt.NDArray[Any]

OnNaN = Literal["anomalous", "normal"]
"""How NaN among the raw values is classified."""


class Step(ABC):
    """One step of a post-processor: reads named values and writes another one.

    Subclasses are frozen dataclasses whose fields are the step's parameters. Every step has the fields `source` and
    `target`. `bind` sets a field `axes: str | None = None`, if there is one, to the axes of the input.

    Attributes:
        source: Name of the input.
        target: Name of the output.
        exact: True if every runtime computes the same bits. Otherwise `verify` reads the output from the runtime,
            checks decisions on these numbers, and counts other flips as drift.
        pointwise: True if each number depends only on the number at the same place.
        defines_nan: True if every runtime gives the same for NaN.
        keeps_scale: True if the output has the scale of the first input; see `output_scale`.
        selects: True if every number of the output is one of the input, and rounding the input to another element type
            does the same as rounding the output.
        accepts: Requirements for each input, in the order of `reads`.
        settled: Fields that `bind` sets, rather than the user.
    """

    exact: ClassVar[bool] = True
    pointwise: ClassVar[bool] = True
    defines_nan: ClassVar[bool] = True
    keeps_scale: ClassVar[bool] = False
    selects: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (NUMBERS,)
    settled: ClassVar[frozenset[str]] = frozenset({"axes"})
    source: str
    target: str

    @property
    def least_size(self) -> int:
        """Smallest height and width of a map."""
        return 1

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the inputs, in the order in which `emit` and `reference` take them."""
        return (self.source,)

    def bind(self, *values: Any) -> Self:
        """Return this step for inputs of these types.

        Args:
            values: A `ValueType` for each input; it meets the requirements of `accepts`.

        Raises:
            PostProcessorError: An input does not fit.
        """
        if any(field.name == "axes" for field in dataclasses.fields(self)):  # type: ignore[arg-type]
            return dataclasses.replace(self, axes=values[0].known_axes)  # type: ignore[type-var]
        return self

    def output_type(self, *values: Any) -> ValueType:
        """Type of the output; by default that of the first input.

        Args:
            values: A `ValueType` for each input.
        """
        first: ValueType = values[0]
        return first

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """Range of the output's numbers; None if unbounded or unknown.

        Args:
            scales: Range of each input.
        """
        return scales[0] if self.keeps_scale else None

    @abstractmethod
    def emit(self, op: Emitter, *values: Any) -> ir.Value:
        """Write the step into a graph.

        Args:
            op: Emitter at the graph's opset.
            values: An `ir.Value` for each input.

        Returns:
            The output.
        """

    @abstractmethod
    def reference(self, *arrays: Any) -> Array:
        """Compute the step in NumPy. This is its specification.

        Args:
            arrays: An array for each input.

        Returns:
            The output.
        """


class MonotoneStep(Step):
    """A pointwise step that never maps a larger number to a smaller one.

    A decision about its output is compiled to a cutoff on its input, so no runtime can round it differently (see
    `pp_graph.steps.compare`). This requires a reference that never falls in float32, except for NaN. Compute
    exponentials and divisions in float64 and round once.
    """

    exact: ClassVar[bool] = False

    @property
    def span(self) -> float:
        """Input range over which the output changes; margins are reported relative to it. 0 if unbounded."""
        return 0.0

    @property
    def bends(self) -> tuple[float, ...]:
        """Input numbers near which the step changes its slope; it is tested there."""
        return ()


def as_float32(number: float, what: str) -> np.float32:
    """Round a parameter to float32.

    Raises:
        PostProcessorError: It is not a number, or not finite in float32.
    """
    if isinstance(number, bool | str) or not isinstance(number, int | float | np.number):
        raise PostProcessorError(f"{what} is {number!r}, expected a number.")
    with np.errstate(over="ignore"):
        rounded = np.float32(number)
    if not np.isfinite(rounded):
        raise PostProcessorError(f"{what} is {number}, expected a number that is finite in float32.")
    return rounded


def check_on_nan(on_nan: object, target: str) -> None:
    """Raise `PostProcessorError` if `on_nan` is unknown."""
    require_one_of(on_nan, f"on_nan of '{target}'", get_args(OnNaN))


@dataclass(frozen=True)
class Keep(MonotoneStep):
    """Give a raw value an output of its own, unchanged; NaN stays NaN.

    Attributes:
        source: Name of the raw value; any shape and element type.
        target: Name of the output; same shape and dtype.
    """

    exact: ClassVar[bool] = True
    keeps_scale: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(dtypes=("float32", "uint8", "int32", "int64")),)
    source: str
    target: str

    def reference(self, array: Array) -> Array:
        """Return the array."""
        return np.asarray(array)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Identity."""
        return op.unchanged(value)


@dataclass(frozen=True)
class RoundToType(MonotoneStep):
    """Round to the element type in which a raw model returns a value. It is compiled to a cutoff, and never written.

    Attributes:
        source: Name of the raw value; any shape.
        target: Name of the decision it is compiled into.
        dtype: `float16` or `bfloat16`.
    """

    source: str
    target: str
    dtype: str

    def reference(self, array: Array) -> Array:
        """Round to nearest, ties to even."""
        import ml_dtypes

        kind = np.dtype(ml_dtypes.bfloat16 if self.dtype == "bfloat16" else np.float16)
        with np.errstate(over="ignore"):
            rounded: Array = np.asarray(array, np.float32).astype(kind).astype(np.float32)
        return rounded

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write nothing: the runtimes round, or the cutoff does."""
        del op
        return value


@dataclass(frozen=True)
class MonotoneChain(MonotoneStep):
    """Consecutive monotone steps. They are compiled to a cutoff and never listed among the steps.

    Attributes:
        source: Name of the input; any shape, float32.
        target: Name of the output; same shape, float32.
        links: The steps, in order.
    """

    source: str
    target: str
    links: tuple[MonotoneStep, ...]

    @property
    def span(self) -> float:
        """Span of the first step that has one."""
        return next((link.span for link in self.links if link.span > 0), 0.0)

    @property
    def bends(self) -> tuple[float, ...]:
        """Bends of the first step, which has the same input."""
        return self.links[0].bends

    def reference(self, array: Array) -> Array:
        """Compute one step after the other."""
        value = np.asarray(array, np.float32)
        for link in self.links:
            value = link.reference(value)
        return value

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write one step after the other."""
        for link in self.links:
            value = link.emit(op, value)
        return value
