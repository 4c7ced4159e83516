"""`ValueType`: element type, named axes and sizes of a value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Sequence

AXES: Final = {
    "N": "image",
    "C": "class or channel",
    "H": "row",
    "W": "column",
    "K": "candidate: a box, a token, a region",
    "P": "part of a candidate: x, y, width, height, score",
    "J": "key point of a candidate: a joint, an eye",
    "T": "time",
}
"""Letters of axes and their meanings."""

DType = Literal["float32", "bool", "uint8", "int32", "int64"]
DTYPES: Final[tuple[DType, ...]] = get_args(DType)
"""Element types of values: numbers, decisions, decisions or classes as bytes, counts, and indices."""


@dataclass(frozen=True)
class ValueType:
    """Element type, named axes and sizes of a value.

    Attributes:
        axes: A letter of `AXES` for each axis, such as `NCHW`.
        sizes: Size of each axis, None for an open one; `()` for all open.
        dtype: Element type.
        rank_known: False if even the rank is unknown; `axes` are then the most common ones.
    """

    axes: str
    sizes: tuple[int | None, ...] = ()
    dtype: DType = "float32"
    rank_known: bool = True

    def __post_init__(self) -> None:
        """Check axes and sizes.

        Raises:
            ValueError: An axis is not in `AXES` or occurs twice, or the number of sizes differs from that of axes.
        """
        if not valid_axes(self.axes):
            raise ValueError(f"Axes are {self.axes!r}, expected some of {', '.join(AXES)}, each once.")
        if not self.sizes:
            object.__setattr__(self, "sizes", (None,) * len(self.axes))
        if len(self.sizes) != len(self.axes):
            raise ValueError(f"Axes {self.axes!r} have sizes {self.sizes}, expected one size for each axis.")

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.axes)

    @property
    def known_axes(self) -> str | None:
        """The axes; None if the rank is unknown."""
        return self.axes if self.rank_known else None

    @property
    def per_pixel(self) -> bool:
        """True for a map, which has a value for each pixel."""
        return "H" in self.axes and "W" in self.axes

    @property
    def map_size(self) -> tuple[int, int] | None:
        """Height and width in pixels; None if the value is not a map, or if one of them is open."""
        if not self.per_pixel:
            return None
        height, width = self.size("H"), self.size("W")
        return None if height is None or width is None else (height, width)

    def size(self, axis: str) -> int | None:
        """Return the size of an axis: None if open, 1 if there is no such axis."""
        return self.sizes[self.axes.index(axis)] if axis in self.axes else 1

    def resized(self, **sizes: int | None) -> ValueType:
        """Return the type with other sizes, given by axis letter."""
        changed = tuple(sizes.get(axis, size) for axis, size in zip(self.axes, self.sizes, strict=True))
        return dataclasses.replace(self, sizes=changed)

    def reduced(self, axes: str) -> ValueType:
        """Return the type without some axes."""
        kept = [(axis, size) for axis, size in zip(self.axes, self.sizes, strict=True) if axis not in axes]
        return dataclasses.replace(self, axes="".join(axis for axis, _ in kept), sizes=tuple(size for _, size in kept))

    def as_dtype(self, dtype: str) -> ValueType:
        """Return the type with a different element type."""
        return dataclasses.replace(self, dtype=dtype)  # type: ignore[arg-type]

    def example_shape(self, *, batch: int = 1, **usual: int) -> tuple[int, ...]:
        """Return a shape of this type.

        Args:
            batch: Size of the axis N.
            usual: Sizes for open axes, by axis letter; 1 for the others.
        """
        return tuple(
            batch if axis == "N" else usual.get(axis, 1) if size is None else size
            for axis, size in zip(self.axes, self.sizes, strict=True)
        )

    def __str__(self) -> str:
        """Format the type for messages: `float32 (N,1,H,W)`."""
        if not self.rank_known:
            return f"{self.dtype} of unknown rank"
        return f"{self.dtype} {pattern(self.axes, self.sizes)}"


def valid_axes(axes: str) -> bool:
    """Return True if all axes are letters of `AXES`, each at most once."""
    return set(axes) <= set(AXES) and len(set(axes)) == len(axes)


def pattern(axes: str, sizes: Sequence[int | None] = ()) -> str:
    """Format axes with their known sizes: `(N,1,H,W)`."""
    names = [axis if size is None else str(size) for axis, size in zip(axes, sizes or (None,) * len(axes), strict=True)]
    return f"({','.join(names)}{',' if len(names) == 1 else ''})"


def spatial_axes(axes: str | None) -> tuple[int, int]:
    """Return the positions of height and width; those of (N,C,H,W) if the axes are unknown."""
    axes = axes or "NCHW"
    return axes.index("H"), axes.index("W")


def axes_of_shape(shape: Sequence[object], alternatives: Sequence[str]) -> str | None:
    """Choose the axes of an array among alternatives; None if none has its rank.

    Channels are last if the last axis has size 1 and the second does not, or if only the last size is known: a network
    fixes its classes, and may take images of any size. With several classes, two equal neighbouring sizes are taken for
    height and width, and otherwise the smaller of second and last axis for the classes.

    Args:
        shape: Sizes; anything but an integer is an open size.
        alternatives: Possible axes.
    """
    fitting = [axes for axes in alternatives if len(axes) == len(shape)]
    if "NHWC" in fitting and "NCHW" in fitting:
        return "NHWC" if _channels_are_last(shape) else "NCHW"
    return fitting[0] if fitting else None


def _channels_are_last(shape: Sequence[object]) -> bool:
    second, third, last = shape[1:]
    if second == 1:
        return False
    if last == 1:
        return True
    if not isinstance(second, int) or not isinstance(last, int):
        return isinstance(last, int) and not isinstance(third, int)
    if (second == third) != (third == last):
        return second == third
    return last < second


class Scale(NamedTuple):
    """Range of an output's numbers.

    Attributes:
        low: The lowest number.
        high: The highest number.
        threshold: The calibrated threshold on this scale; None if unknown.
    """

    low: float
    high: float
    threshold: float | None = None
