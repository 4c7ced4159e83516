"""What a step is: two twins that compute the same, one in ONNX and one in NumPy."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from pp_graph.errors import PostProcessorError
from pp_graph.steps.accepts import NUMBERS, Accepts

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.values import Scale, ValueType

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
        """This step with everything settled that depends on what it reads.

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
            op: The vocabulary of operators, at the graph's opset.
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
    (see `pp_graph.steps.cutoff`). For that, the reference must not fall anywhere in float32, NaN aside: compute what
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
        """Numbers of what is read at which the step bends, near which it is tried out."""
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
    """Refuse what is no meaning of NaN.

    Raises:
        PostProcessorError: It is none.
    """
    if on_nan not in get_args(OnNaN):
        raise PostProcessorError(
            f"on_nan of '{target}' is {on_nan!r}, expected {' or '.join(map(repr, get_args(OnNaN)))}."
        )
