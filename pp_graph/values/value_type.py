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
    "T": "time",
}
"""Names of axes, and what lies along each."""

DType = Literal["float32", "bool", "uint8", "int64"]
DTYPES: Final[tuple[DType, ...]] = get_args(DType)
"""Element types: numbers, decisions, decisions or classes as bytes, and indices."""


@dataclass(frozen=True)
class ValueType:
    """Element type, named axes and sizes of a value.

    Attributes:
        axes: A letter of `AXES` for each axis, such as `NCHW`.
        sizes: Size of each axis, None for an open one; `()` for all open.
        dtype: Element type.
        rank_known: False where not even the rank is known; `axes` are then the usual ones.
    """

    axes: str
    sizes: tuple[int | None, ...] = ()
    dtype: DType = "float32"
    rank_known: bool = True

    def __post_init__(self) -> None:
        """Refuse axes that are not known or do not fit the sizes.

        Raises:
            ValueError: An axis is not in `AXES` or is there twice, or there are more or fewer sizes than axes.
        """
        if set(self.axes) - set(AXES) or len(set(self.axes)) != len(self.axes):
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
        """The axes; None where the rank is not known."""
        return self.axes if self.rank_known else None

    @property
    def per_pixel(self) -> bool:
        """Whether there is a value for each pixel: whether it is a map."""
        return "H" in self.axes and "W" in self.axes

    @property
    def map_size(self) -> tuple[int, int] | None:
        """Height and width in pixels; None if the value is not a map, or if one of the two is open."""
        if not self.per_pixel:
            return None
        height, width = self.size("H"), self.size("W")
        return None if height is None or width is None else (height, width)

    def size(self, axis: str) -> int | None:
        """Size of an axis: 1 where there is no such axis, None where it is open."""
        return self.sizes[self.axes.index(axis)] if axis in self.axes else 1

    def resized(self, **sizes: int | None) -> ValueType:
        """The same with other sizes of some axes, by their letters."""
        changed = tuple(sizes.get(axis, size) for axis, size in zip(self.axes, self.sizes, strict=True))
        return dataclasses.replace(self, sizes=changed)

    def reduced(self, axes: str) -> ValueType:
        """The same without some axes."""
        kept = [(axis, size) for axis, size in zip(self.axes, self.sizes, strict=True) if axis not in axes]
        return dataclasses.replace(self, axes="".join(axis for axis, _ in kept), sizes=tuple(size for _, size in kept))

    def as_dtype(self, dtype: str) -> ValueType:
        """The same with another element type."""
        return dataclasses.replace(self, dtype=dtype)  # type: ignore[arg-type]

    def example_shape(self, *, batch: int = 1, **usual: int) -> tuple[int, ...]:
        """A shape of this type.

        Args:
            batch: Size of the axis N.
            usual: Sizes of axes that are open, by their letters; 1 for those that are not named.
        """
        return tuple(
            batch if axis == "N" else usual.get(axis, 1) if size is None else size
            for axis, size in zip(self.axes, self.sizes, strict=True)
        )

    def __str__(self) -> str:
        """The type for a message, such as `float32 (N,1,H,W)`."""
        if not self.rank_known:
            return f"{self.dtype} of unknown rank"
        return f"{self.dtype} {pattern(self.axes, self.sizes)}"


def pattern(axes: str, sizes: Sequence[int | None] = ()) -> str:
    """Axes for people, with the sizes that are known: `(N,1,H,W)`."""
    names = [axis if size is None else str(size) for axis, size in zip(axes, sizes or (None,) * len(axes), strict=True)]
    return f"({','.join(names)}{',' if len(names) == 1 else ''})"


def spatial_axes(axes: str | None) -> tuple[int, int]:
    """Where height and width are among some axes; as in (N,C,H,W) where the axes are not known."""
    axes = axes or "NCHW"
    return axes.index("H"), axes.index("W")


def axes_of_shape(shape: Sequence[object], alternatives: Sequence[str]) -> str | None:
    """The axes of an array, among alternatives; None where none has its rank.

    Channels are last where the last axis has one place and the second has more. Of several classes it is told by a
    square map, where two neighbouring sizes agree, and else by there being fewer classes than rows and columns.

    Args:
        shape: Its sizes; anything but an integer for an open one.
        alternatives: Axes that it could have.
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
        return False
    if (second == third) != (third == last):
        return second == third
    return last < second


class Scale(NamedTuple):
    """Range of numbers.

    Attributes:
        low: The lowest number.
        high: The highest number.
        threshold: Where the calibrated threshold lies; None where that is not known.
    """

    low: float
    high: float
    threshold: float | None = None
