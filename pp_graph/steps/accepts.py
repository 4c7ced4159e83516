"""What a step takes for each of the values that it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pp_graph.values import DTYPES, DType
from pp_graph.values.value_type import pattern

if TYPE_CHECKING:
    from pp_graph.values import ValueType


@dataclass(frozen=True)
class Accepts:
    """What a step takes for one of the values that it reads.

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
        """What was expected instead of a value of this type; None where it fits."""
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
