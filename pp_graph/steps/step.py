"""Base classes of steps, and checks of their parameters."""

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


def require_whole(number: object, what: str, least: int, most: int, *, odd: bool = False) -> None:
    """Raise unless a parameter is an integer within limits.

    Raises:
        PostProcessorError: It is none.
    """
    whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
    if not whole or not least <= number <= most or (odd and number % 2 == 0):  # type: ignore[operator]
        kind = "an odd whole number" if odd else "a whole number"
        raise PostProcessorError(f"{what} is {number!r}, expected {kind} from {least} to {most}.")


def require_one_of(value: object, what: str, allowed: Sequence[object]) -> None:
    """Refuse a parameter that is none of some values.

    Raises:
        PostProcessorError: It is none.
    """
    # True equals 1, and is no number of neighbours.
    if isinstance(value, bool) or value not in allowed:
        raise PostProcessorError(f"{what} is {value!r}, expected {' or '.join(map(repr, allowed))}.")


def require_size(value: ValueType, least: tuple[int, int], why: str) -> None:
    """Refuse a map whose size is known and too small.

    Args:
        value: The map.
        least: Height and width that it must have at least.
        why: What needs them.

    Raises:
        PostProcessorError: It is too small.
    """
    size = value.map_size
    if size is not None and (size[0] < least[0] or size[1] < least[1]):
        raise PostProcessorError(
            f"the map has {size[0]}x{size[1]} pixels, expected at least {least[0]}x{least[1]} {why}."
        )


def require_array_size(array: Array, axes: tuple[int, int], least: tuple[int, int], what: str) -> None:
    """Refuse an array that is too small; arguments as of `require_size`.

    Raises:
        PostProcessorError: It is too small.
    """
    size = (array.shape[axes[0]], array.shape[axes[1]])
    if size[0] < least[0] or size[1] < least[1]:
        raise PostProcessorError(
            f"What '{what}' is computed from has {size[0]}x{size[1]} pixels, expected at least {least[0]}x{least[1]}."
        )


@dataclass(frozen=True)
class Accepts:
    """Requirements of a step for one of its inputs.

    A step that computes each number from the one at its place works on any axes, and asks for none.

    Attributes:
        dtypes: Element types, of which it must have one.
        needs: Axes that it must have, such as `HW` for a map.
        axes: All axes, in order, of which it must have one; `()` for any.
        lacks: Axes that it must not have.
        single: Axes along which there must be no more than one value, such as `C` for a map of one channel.
        known_rank: Whether its rank must be known.
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
            return "a map, one value a pixel"
        if any(axis in value.axes for axis in self.lacks):
            return "one value an image, no map" if "H" in self.lacks else f"no axis {' or '.join(self.lacks)}"
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
"""Axes for which steps that look at whole maps are written."""

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
"""What a NaN in the raw values counts as."""


class Step(ABC):
    """One step of a post-processing: reads named values, writes another.

    Subclasses are frozen dataclasses whose fields are the step's parameters; every step has the two fields `source`
    and `target`. A field `axes: str | None = None` is filled in with the axes of what is read.

    Attributes:
        source: Name of the value read.
        target: Name of the value written.
        exact: Whether every runtime computes the same bits. What a decision reads from a step that is not is a raw
            value of the runtime's own: `verify` makes it visible, and counts its difference as drift.
        pointwise: Whether each number follows from what stands at the same place alone.
        accepts: What it takes for each value that it reads, in the order of `reads`.
        settled: Fields that `bind` fills in, and no user.
    """

    exact: ClassVar[bool] = True
    pointwise: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (NUMBERS,)
    settled: ClassVar[frozenset[str]] = frozenset({"axes"})
    source: str
    target: str

    @property
    def least_size(self) -> int:
        """Height and width that a map must have at least."""
        return 1

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the values read, in the order in which `emit` and `reference` take them."""
        return (self.source,)

    def bind(self, *values: Any) -> Self:
        """Return this step for inputs of these types.

        Args:
            values: A `ValueType` for each value that it reads, as `accepts` asks for.

        Raises:
            PostProcessorError: What it reads does not fit; the message begins with what was found.
        """
        if any(field.name == "axes" for field in dataclasses.fields(self)):  # type: ignore[arg-type]
            return dataclasses.replace(self, axes=values[0].known_axes)  # type: ignore[type-var]
        return self

    def output_type(self, *values: Any) -> ValueType:
        """Type of the value that it writes: that of the first one it reads, unless a step says else.

        Args:
            values: A `ValueType` for each value that it reads.
        """
        kept: ValueType = values[0]
        return kept

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """Range of the numbers that it writes; None where it is not bounded or not known.

        Args:
            scales: That of each value that it reads.
        """
        del scales
        return None

    @abstractmethod
    def emit(self, op: Emitter, *values: Any) -> ir.Value:
        """Write the step into a graph.

        Args:
            op: Writes the operators, at the graph's opset.
            values: What the step reads, an `ir.Value` each.

        Returns:
            What the step computes.
        """

    @abstractmethod
    def reference(self, *arrays: Any) -> Array:
        """Compute the step in NumPy.

        Args:
            arrays: What the step reads, an array each.

        Returns:
            What the step computes; its specification.
        """


class MonotoneStep(Step):
    """A step that computes each number from the one at its place, and never a smaller one from a larger.

    A decision about what it computes is compiled to a cutoff on what it reads, so no runtime can round it differently
    (see `pp_graph.steps.compare`). For that, the reference must not fall anywhere in float32, NaN aside: compute what
    has an exponential or a division in float64 and round once.

    Attributes:
        span: Width of the interval of what is read that the step tells apart, in which margins are measured; 0 where
            there is no such interval.
    """

    exact: ClassVar[bool] = False

    @property
    def span(self) -> float:
        """See the class."""
        return 0.0

    @property
    def bends(self) -> tuple[float, ...]:
        """Input numbers at which the step bends, near which it is tried out."""
        return ()


def as_float32(number: float, what: str) -> np.float32:
    """Round a parameter to float32, the precision in which every step computes.

    Raises:
        PostProcessorError: The number is not finite in float32.
    """
    if isinstance(number, bool | str) or not isinstance(number, int | float | np.number):
        raise PostProcessorError(f"{what} is {number!r}, expected a number.")
    with np.errstate(over="ignore"):
        rounded = np.float32(number)
    if not np.isfinite(rounded):
        raise PostProcessorError(f"{what} is {number}, expected a number that is finite in float32.")
    return rounded


def checked_on_nan(on_nan: object, target: str) -> None:
    """Raise if `on_nan` is unknown.

    Raises:
        PostProcessorError: It is none.
    """
    if on_nan not in get_args(OnNaN):
        raise PostProcessorError(
            f"on_nan of '{target}' is {on_nan!r}, expected {' or '.join(map(repr, get_args(OnNaN)))}."
        )


@dataclass(frozen=True)
class MonotoneChain(MonotoneStep):
    """Consecutive monotone steps. They are compiled to a cutoff and never listed among the steps.

    Attributes:
        source: Name of the value read; any shape, float32.
        target: Name of the value written; same shape, float32.
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
        """Those of the first step, which reads the same numbers."""
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
