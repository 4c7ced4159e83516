"""Decide with a threshold for each class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.form import NUMBERS, Accepts, Form, ImageAxes, MapAxes
from pp_graph.steps.several_cutoffs import SeveralCutoffs
from pp_graph.steps.step import Array, MonotoneStep, OnNaN, as_float32, checked_on_nan


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

    accepts: ClassVar[tuple[Accepts, ...]] = (dataclasses.replace(NUMBERS, known_axes=True),)
    source: str
    target: str
    class_levels: tuple[float, ...]
    normalizer: MonotoneStep | None = None
    on_nan: OnNaN = "anomalous"
    axes: ImageAxes | MapAxes | None = None

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

    def bound(self, form: Form) -> Self:
        """The step with its axes.

        Raises:
            PostProcessorError: There are not as many classes as levels.
        """
        check_class_axis(form)
        if form.classes != len(self.class_levels):
            raise PostProcessorError(
                f"there are {len(self.class_levels)} class_levels for {form.classes} classes, {form}, expected one "
                "each. Give a level a class."
            )
        return dataclasses.replace(self, axes=form.axes)

    @property
    def levels(self) -> Array:
        """(C,), or (C,1,1) for (N,C,H,W)."""
        levels = np.array(self.class_levels, np.float32)
        return levels[:, None, None] if self.axes == "NCHW" else levels


def check_class_axis(form: Form) -> None:
    """Make sure that a value has an axis of classes whose size is known.

    Raises:
        PostProcessorError: It has none, or its size is open.
    """
    if form.axes in ("N", "NHW"):
        raise PostProcessorError(f"{form} has no axis of classes, expected (N,C), (N,C,H,W) or (N,H,W,C).")
    if form.classes is None:
        raise PostProcessorError(
            f"the number of classes of {form} is open, expected a known one. Export the model with its output shapes."
        )
