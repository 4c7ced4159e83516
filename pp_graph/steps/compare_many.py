"""Compare with a threshold for each class or each pixel."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from pp_graph.errors import PostProcessorError
from pp_graph.steps.classes import check_class_count
from pp_graph.steps.compare import DecidingStep, find_cutoffs, is_subnormal, normal_above, normal_below
from pp_graph.steps.step import CLASSES, MAPS, Accepts, Array, MonotoneStep, OnNaN, as_float32, check_on_nan

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType


class SeveralCutoffs(DecidingStep):
    """Base class of decisions with an array of levels, which broadcasts to the input.

    Attributes:
        runtime: Make the cutoffs an input of the graph with the compiled ones as default, as of `Compare`.
    """

    runtime: bool = False

    @property
    def input_name(self) -> str:
        """Name of the graph input for the cutoffs, if `runtime` is set."""
        return f"{self.target}_cutoff"

    @property
    def runtime_cutoff(self) -> Array:
        """Default of the graph input: the cutoffs, NaN if nothing is anomalous; see `Compare.runtime_cutoff`."""
        return normal_above(self.cutoffs)

    @cached_property
    def cutoffs(self) -> Array:
        """Cutoff for each level, NaN if nothing is anomalous."""
        return find_cutoffs(self._decide, self.levels.shape)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write `Not(Less(raw, cutoffs))`, which is true for NaN in every runtime; see `Compare`.

        Further operators handle cutoffs that are NaN, or subnormal and therefore possibly flushed to 0.
        """
        if self.runtime:
            passing = op.less_or_equal(op.adjustable(self.runtime_cutoff, self.input_name), value)
            return op.logical_or(passing, op.is_nan(value)) if self.on_nan == "anomalous" else passing
        cutoffs: npt.NDArray[np.float32] = self.cutoffs.astype(np.float32)
        never = np.isnan(cutoffs)
        subnormal = is_subnormal(cutoffs)
        # Only infinity and NaN are not below infinity. At a subnormal cutoff, infinity is anomalous anyway.
        replaced = np.where(never | subnormal, np.float32(np.inf), cutoffs)
        anomalous = op.logical_not(op.less(value, op.array(replaced, "cutoffs")))
        if subnormal.any():
            below = np.where(subnormal, normal_below(cutoffs), np.float32(np.inf))
            anomalous = op.logical_or(anomalous, op.less(op.array(below, "highest_normal_values"), value))
        if never.any():
            anomalous = op.logical_and(anomalous, op.array(~never, "ever_anomalous"))
        if self.on_nan == "normal":
            return op.logical_and(anomalous, op.logical_not(op.is_nan(value)))
        return op.logical_or(anomalous, op.is_nan(value)) if never.any() else anomalous


@dataclass(frozen=True)
class ComparePerClass(SeveralCutoffs):
    """Decide for each class whether its number is anomalous: `normalized > level of the class`, strictly.

    Source: multi-label classification with a calibrated threshold for each class, such as scikit-learn's
    `y_score > thresholds` and the per-class confidence thresholds of detectors.

    Attributes:
        source: Name of the numbers, float32: (N,C), (N,C,H,W) or (N,H,W,C).
        target: Name of the decisions, bool of the same shape, true for anomalous.
        class_levels: Number to compare each class with, in the order of the classes.
        normalizer: Monotone step to apply before comparing; None to compare the numbers themselves.
        on_nan: How NaN is classified.
        axes: Axes of the numbers; None until the step is bound.
        runtime: Make the cutoffs an input of the graph, named `<target>_cutoff`, with the compiled ones as default.

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
    runtime: bool = False

    def __post_init__(self) -> None:
        """Check the levels."""
        check_on_nan(self.on_nan, self.target)
        given: Any = self.class_levels  # a file may hold anything
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
        """Bind the step to its input.

        Raises:
            PostProcessorError: The number of classes is open, or differs from the number of levels.
        """
        check_class_count(value)
        classes = value.size("C")
        if classes != len(self.class_levels):
            raise PostProcessorError(
                f"there are {len(self.class_levels)} class_levels for {classes} classes, {value}, expected one for "
                "each class."
            )
        return super().bind(value)

    @property
    def levels(self) -> Array:
        """The levels, (C,), with an axis of size 1 for each axis after the classes: (C,1,1) for (N,C,H,W)."""
        axes = self.axes or "NC"
        trailing = len(axes) - 1 - axes.index("C")
        return np.array(self.class_levels, np.float32).reshape(-1, *(1,) * trailing)


_TEXT: Final = re.compile(r"([1-9]\d{0,8})x([1-9]\d{0,8}):([A-Za-z0-9+/=]*)", re.ASCII)
_EXPECTED: Final = "rows of numbers, or the text that levels_as_text(array) returns"


def levels_as_text(levels: npt.ArrayLike) -> str:
    """Encode a map of levels as text for JSON and YAML, without loss.

    Args:
        levels: The levels, (H,W), rounded to float32.

    Returns:
        `<H>x<W>:`, then the float32 numbers in base64, little endian, row by row.

    Raises:
        PostProcessorError: The levels are not a map of numbers, or one is not finite in float32.
    """
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(levels).astype(np.float32)
    except (TypeError, ValueError):
        raise PostProcessorError(f"Levels are {_shortened(levels)}, expected {_EXPECTED}.") from None
    if array.ndim != 2 or not array.size or np.asarray(levels).dtype.kind not in "fiu":
        raise PostProcessorError(f"Levels have shape {array.shape}, expected numbers of shape (H,W).")
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise PostProcessorError(
            f"Level in row {row}, column {column} is {array[row, column]}, expected a number that is finite in float32."
        )
    return f"{array.shape[0]}x{array.shape[1]}:{base64.b64encode(array.astype('<f4').tobytes()).decode()}"


def levels_from_text(text: str) -> npt.NDArray[np.float32]:
    """Decode the text that `levels_as_text` wrote; float32 (H,W).

    Raises:
        PostProcessorError: The text is not of that form.
    """
    match = _TEXT.fullmatch(text)
    data = b""
    if match is not None:
        try:
            data = base64.b64decode(match[3], validate=True)
        except binascii.Error:
            match = None
    if match is None:
        raise PostProcessorError(f"Levels are {_shortened(text)}, expected {_EXPECTED}.")
    height, width = int(match[1]), int(match[2])
    if len(data) != 4 * height * width:
        raise PostProcessorError(
            f"Levels of {height}x{width} pixels hold {len(data)} bytes, expected {4 * height * width}. Encode them "
            "again with levels_as_text(array)."
        )
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(height, width)


def _shortened(given: object) -> str:
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:60]}…"


@dataclass(frozen=True)
class ComparePerPixel(SeveralCutoffs):
    """Decide for each pixel of a map whether it is anomalous: `normalized > level of the pixel`, strictly.

    Source: threshold maps for static cameras, such as the mean plus a few standard deviations of normal maps at each
    pixel (background models, as with OpenCV's `accumulateSquare`).

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,C,H,W) or (N,H,W,C), of known size.
        target: Name of the mask, bool of the same shape, true for anomalous.
        pixel_levels: Number to compare each pixel with, H rows of W numbers, the same for all classes; or the text that
            `levels_as_text` returns. Rows are stored as that text.
        normalizer: Monotone step to apply before comparing; None to compare the map itself.
        on_nan: How NaN is classified.
        axes: Axes of the map; None until the step is bound.

    Raises:
        PostProcessorError: The levels are not a map of numbers, or one is not finite in float32.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (MAPS,)
    per_pixel: ClassVar[bool] = True
    source: str
    target: str
    pixel_levels: str | tuple[tuple[float, ...], ...]
    normalizer: MonotoneStep | None = None
    on_nan: OnNaN = "anomalous"
    axes: str | None = None

    def __post_init__(self) -> None:
        """Check the levels."""
        check_on_nan(self.on_nan, self.target)
        given: Any = self.pixel_levels  # a file may hold anything
        try:
            levels = levels_from_text(given) if isinstance(given, str) else given
            object.__setattr__(self, "pixel_levels", levels_as_text(levels))
        except PostProcessorError as error:
            raise PostProcessorError(f"pixel_levels of '{self.target}': {error}") from error

    def bind(self, value: ValueType) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: The map's size is open, or differs from that of the levels.
        """
        height, width = self._map.shape
        if value.map_size != (height, width):
            found = "an open size" if value.map_size is None else f"{value.map_size[0]}x{value.map_size[1]} pixels"
            raise PostProcessorError(
                f"the map, {value}, has {found}, expected {height}x{width} like pixel_levels. Give levels of the "
                "map's size, export the model with a fixed size, or resize the map first with ResizeMap."
            )
        return super().bind(value)

    @cached_property
    def _map(self) -> npt.NDArray[np.float32]:
        assert isinstance(self.pixel_levels, str)
        return levels_from_text(self.pixel_levels)

    @property
    def levels(self) -> Array:
        """The levels, (H,W); (1,H,W) for (N,C,H,W), (H,W,1) for (N,H,W,C)."""
        if self.axes == "NCHW":
            return self._map[None]
        return self._map[..., None] if self.axes == "NHWC" else self._map
