"""What is known of a value before it is computed: its level, element type and axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["image", "pixel"]
"""Whether there is a value an image or one a pixel."""

ImageAxes = Literal["N", "NC"]
MapAxes = Literal["NHW", "NCHW", "NHWC"]
"""Axes of a map; with one channel, or one a class."""

DTYPES = ("float32", "bool", "uint8")
"""Element types of values: numbers, decisions, and decisions as a byte."""


def spatial_axes(axes: MapAxes | None) -> tuple[int, int]:
    """Where height and width are; those of (N,C,H,W) where the axes are not known."""
    return (1, 2) if axes in ("NHW", "NHWC") else (2, 3)


def rank_of(axes: MapAxes | None) -> int:
    """Rank of a map; that of (N,C,H,W) where the axes are not known."""
    return len(axes or "NCHW")


@dataclass(frozen=True)
class Form:
    """What is known of a value before it is computed.

    Attributes:
        level: Whether it holds numbers an image or a pixel.
        dtype: Element type, one of `DTYPES`.
        axes: Its axes; None where the rank is not known.
        classes: Size of the axis C, 1 where there is none; None where it is not known.
        size: Height and width of a map; None where they are not known, and for an image level.
    """

    level: Level
    dtype: str = "float32"
    axes: ImageAxes | MapAxes | None = None
    classes: int | None = 1
    size: tuple[int, int] | None = None

    @property
    def map_axes(self) -> MapAxes | None:
        """Axes of a map; None where they are not known, or where this is no map."""
        return self.axes if self.axes in ("NHW", "NCHW", "NHWC") else None

    @property
    def spatial_axes(self) -> tuple[int, int]:
        """Where height and width are; those of (N,C,H,W) where the axes are not known."""
        return spatial_axes(self.map_axes)

    def __str__(self) -> str:
        """The form for a message, such as `float32 (N,1,H,W)`."""
        if self.axes is None:
            return f"{self.dtype} of unknown rank"
        sizes = {"H": None if self.size is None else self.size[0], "W": None if self.size is None else self.size[1]}
        sizes["C"] = self.classes
        names = [axis if sizes.get(axis) is None else str(sizes[axis]) for axis in self.axes]
        return f"{self.dtype} ({','.join(names)}{',' if len(names) == 1 else ''})"


@dataclass(frozen=True)
class Accepts:
    """What a step takes for one of the values that it reads.

    Attributes:
        level: Level that it must have; None for either.
        dtypes: Element types, of which it must have one.
        classes: Whether an axis of classes is taken; otherwise there must be one value an image or pixel.
        known_axes: Whether its axes must be known.
        classes_only: Whether the step is meant for values with classes, so that a recipe with it takes these.
    """

    level: Level | None = None
    dtypes: tuple[str, ...] = ("float32",)
    classes: bool = False
    known_axes: bool = False
    classes_only: bool = False

    def refusal(self, form: Form) -> str | None:
        """What was expected of a value of this form instead; None where it fits."""
        if self.level is not None and form.level != self.level:
            return "a map, one value a pixel" if self.level == "pixel" else "one value an image, no map"
        if form.dtype not in self.dtypes:
            return " or ".join(self.dtypes)
        if not self.classes and form.classes not in (1, None):
            return "one channel: choose a class first, with SelectClass"
        if self.known_axes and form.axes is None:
            return "known axes: export the model with its output shapes"
        return None


DECISION = Accepts(dtypes=("bool",))
"""A label or a mask."""
MASK = Accepts(level="pixel", dtypes=("bool",), known_axes=True)
"""A mask whose axes are known."""
MAP = Accepts(level="pixel", known_axes=True)
"""A map of one channel whose axes are known."""
NUMBERS = Accepts(classes=True)
"""A score or a map, also one with classes."""
