"""Compare with a threshold for each class or each pixel."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from pp_graph.errors import PostProcessorError
from pp_graph.steps.compare import DecidingStep, find_cutoffs, highest_below, is_subnormal
from pp_graph.steps.step import CLASSES, MAPS, Accepts, Array, MonotoneStep, OnNaN, as_float32, checked_on_nan

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType


class SeveralCutoffs(DecidingStep):
    """A decision with several levels, which broadcast to the input."""

    @cached_property
    def cutoffs(self) -> Array:
        """A cutoff for each level, NaN where nothing is anomalous."""
        return find_cutoffs(self._decide, self.levels.shape)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write `Not(Less(raw, cutoffs))`, which is true for NaN in every runtime; see `Compare`.

        Where a cutoff is no number, or one that runtimes may take for 0, its place is settled by a second operator.
        """
        cutoffs: npt.NDArray[np.float32] = self.cutoffs.astype(np.float32)
        never = np.isnan(cutoffs)
        subnormal = is_subnormal(cutoffs)
        # Infinity and NaN alone are not below infinity. At a subnormal cutoff infinity is anomalous anyway.
        kept = np.where(never | subnormal, np.float32(np.inf), cutoffs)
        anomalous = op.logical_not(op.less(value, op.array(kept, "cutoffs")))
        if subnormal.any():
            below = np.where(subnormal, highest_below(cutoffs), np.float32(np.inf))
            anomalous = op.logical_or(anomalous, op.less(op.array(below, "highest_normal_values"), value))
        if never.any():
            anomalous = op.logical_and(anomalous, op.array(~never, "ever_anomalous"))
        if self.on_nan == "normal":
            return op.logical_and(anomalous, op.logical_not(op.is_nan(value)))
        return op.logical_or(anomalous, op.is_nan(value)) if never.any() else anomalous


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
    """Raise if the number of classes is unknown or another one.

    Raises:
        PostProcessorError: It is open.
    """
    if value.size("C") is None:
        raise PostProcessorError(
            f"the number of classes of {value} is open, expected a known one. Export the model with its output shapes."
        )


_TEXT: Final = re.compile(r"([1-9]\d{0,8})x([1-9]\d{0,8}):([A-Za-z0-9+/=]*)", re.ASCII)
_EXPECTED: Final = "rows of numbers, or their text as levels_as_text(array) writes it"


def levels_as_text(levels: npt.ArrayLike) -> str:
    """A map of levels as one text, which JSON and YAML hold and which loses nothing.

    Args:
        levels: The levels, (H,W), rounded to float32.

    Returns:
        `<H>x<W>:` and the float32 numbers, little endian, row after row, in base64.

    Raises:
        PostProcessorError: They are no such map, or one is not finite in float32.
    """
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(levels).astype(np.float32)
    except (TypeError, ValueError):
        raise PostProcessorError(f"Levels are {_brief(levels)}, expected {_EXPECTED}.") from None
    if array.ndim != 2 or not array.size or np.asarray(levels).dtype.kind not in "fiu":
        raise PostProcessorError(f"Levels have shape {array.shape}, expected numbers of shape (H,W).")
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise PostProcessorError(
            f"Level in row {row}, column {column} is {array[row, column]}, expected a number that is finite in float32."
        )
    return f"{array.shape[0]}x{array.shape[1]}:{base64.b64encode(array.astype('<f4').tobytes()).decode()}"


def levels_from_text(text: str) -> npt.NDArray[np.float32]:
    """The levels, float32 (H,W), that `levels_as_text` wrote.

    Raises:
        PostProcessorError: The text is not one of its.
    """
    match = _TEXT.fullmatch(text)
    data = b""
    if match is not None:
        try:
            data = base64.b64decode(match[3], validate=True)
        except binascii.Error:
            match = None
    if match is None:
        raise PostProcessorError(f"Levels are {_brief(text)}, expected {_EXPECTED}.")
    height, width = int(match[1]), int(match[2])
    if len(data) != 4 * height * width:
        raise PostProcessorError(
            f"Levels of {height}x{width} pixels hold {len(data)} bytes, expected {4 * height * width}. Write them anew "
            "with levels_as_text(array)."
        )
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(height, width)


def _brief(given: object) -> str:
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:60]}…"


@dataclass(frozen=True)
class ComparePerPixel(SeveralCutoffs):
    """Decide for each pixel of a map whether it is anomalous: `normalized > level of the pixel`, strictly.

    Source: a threshold map for a camera that does not move, such as the mean plus some standard deviations of the
    normal maps at each pixel (background models in the way of OpenCV's `accumulateSquare`).

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,C,H,W) or (N,H,W,C), of a size that is known.
        target: Name of the mask, bool of the same shape, true for anomalous.
        pixel_levels: What each pixel is compared with, H rows of W numbers, for all classes alike; or the text of
            `levels_as_text`, into which rows are turned.
        normalizer: Monotone step to apply before comparing; None to compare what is read.
        on_nan: What NaN counts as.
        axes: Axes of the map; None until they are known.

    Raises:
        PostProcessorError: The levels are no map of numbers that are finite in float32.
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
        """Refuse levels that float32 cannot hold."""
        checked_on_nan(self.on_nan, self.target)
        given: Any = self.pixel_levels  # whatever a file said
        try:
            levels = levels_from_text(given) if isinstance(given, str) else given
            object.__setattr__(self, "pixel_levels", levels_as_text(levels))
        except PostProcessorError as error:
            raise PostProcessorError(f"pixel_levels of '{self.target}': {error}") from error

    def bind(self, value: ValueType) -> Self:
        """The step with its axes.

        Raises:
            PostProcessorError: The map has not the size of the levels, or an open one.
        """
        height, width = self._map.shape
        if value.map_size != (height, width):
            found = "an open size" if value.map_size is None else f"{value.map_size[0]}x{value.map_size[1]} pixels"
            raise PostProcessorError(
                f"the map, {value}, has {found}, expected {height}x{width} as pixel_levels has. Give levels of the "
                "map's size, export the model with a fixed size, or resize the map first, with ResizeMap."
            )
        return dataclasses.replace(self, axes=value.known_axes)

    @cached_property
    def _map(self) -> npt.NDArray[np.float32]:
        assert isinstance(self.pixel_levels, str)
        return levels_from_text(self.pixel_levels)

    @property
    def levels(self) -> Array:
        """(H,W), (1,H,W) for (N,C,H,W), or (H,W,1) for (N,H,W,C)."""
        if self.axes == "NCHW":
            return self._map[None]
        return self._map[..., None] if self.axes == "NHWC" else self._map
