"""Decide with a threshold for each class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.accepts import CLASSES, Accepts
from pp_graph.steps.several_cutoffs import SeveralCutoffs
from pp_graph.steps.step import Array, MonotoneStep, OnNaN, as_float32, checked_on_nan

if TYPE_CHECKING:
    from pp_graph.values import ValueType


@dataclass(frozen=True)
class ComparePerClass(SeveralCutoffs):
    """Decide for each class whether its number is anomalous: `normalized > level of the class`, strictly.

    Source: multi-label classification with a calibrated threshold a class, such as scikit-learn's
    `y_score > thresholds` and the per-class confidence thresholds of detectors.

    Attributes:
        source: Name of the numbers, float32: (N,C), (N,C,H,W) or (N,H,W,C).
        target: Name of the decisions, bool of the same shape, true for anomalous.
        class_levels: What each class is compared with, C numbers in the order of the classes.
        normalizer: Monotone step to apply before comparing; None to compare what is read.
        on_nan: What NaN counts as.
        axes: Axes of what is read; None until they are known.

    Raises:
        PostProcessorError: There are no levels, or one is not finite in float32.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (CLASSES,)
    source: str
    target: str
    class_levels: tuple[float, ...]
    normalizer: MonotoneStep | None = None
    on_nan: OnNaN = "anomalous"
    axes: str | None = None

    def __post_init__(self) -> None:
        """Refuse levels that float32 cannot hold."""
        checked_on_nan(self.on_nan, self.target)
        given: Any = self.class_levels  # whatever a file said
        if isinstance(given, np.ndarray):
            given = given.tolist()
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise PostProcessorError(
                f"class_levels of '{self.target}' is {given!r}, expected a number for each class, such as (0.5, 0.7)."
            )
        levels = tuple(
            float(as_float32(level, f"class_levels[{index}] of '{self.target}'")) for index, level in enumerate(given)
        )
        object.__setattr__(self, "class_levels", levels)

    def bind(self, value: ValueType) -> Self:
        """The step with its axes.

        Raises:
            PostProcessorError: There are not as many classes as levels.
        """
        check_class_count(value)
        classes = value.size("C")
        if classes != len(self.class_levels):
            raise PostProcessorError(
                f"there are {len(self.class_levels)} class_levels for {classes} classes, {value}, expected one "
                "each. Give a level a class."
            )
        return dataclasses.replace(self, axes=value.known_axes)

    @property
    def levels(self) -> Array:
        """(C,), with an axis of size 1 for each one behind the classes: (C,1,1) for (N,C,H,W)."""
        axes = self.axes or "NC"
        behind = len(axes) - 1 - axes.index("C")
        return np.array(self.class_levels, np.float32).reshape(-1, *(1,) * behind)


def check_class_count(value: ValueType) -> None:
    """Make sure that the number of classes is known.

    Raises:
        PostProcessorError: It is open.
    """
    if value.size("C") is None:
        raise PostProcessorError(
            f"the number of classes of {value} is open, expected a known one. Export the model with its output shapes."
        )
