"""`Preprocessing`: from a camera's frame to the model's input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import DataError, TargetError
from pp_graph.preprocessing.resizing import RESIZES, resize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Array = npt.NDArray[Any]

DTYPES: Final[Mapping[str, str]] = {"u8": "uint8", "u16": "uint16", "f32": "float32"}
"""Element types of frames, and what NumPy calls them."""
LAYOUTS: Final = ("NHWC", "NCHW")
CHANNEL_ORDERS: Final = ("RGB", "BGR")


@dataclass(frozen=True)
class Preprocessing:
    """Conversion of frames to the model's input, in this order and in float32.

    Convert to float32, resize, bring channels into the model's order, subtract the mean, divide by the scale, bring
    axes into the model's layout. Nothing is implicit: uint8 stays 0..255 unless `scale` says otherwise.

    Attributes:
        dtype: Element type of the frames: `u8`, `u16` or `f32`.
        layout: Their axes, `NHWC` or `NCHW`.
        channel_order: Their channels, `RGB` or `BGR`.
        mean: What to subtract, on the scale of what is fed (0..255 for `u8`): one number, or one a channel in the
            model's order; empty for nothing.
        scale: What to divide by, after that; likewise. Models trained on [0,1] need 255 for `u8`.
        resize: How frames are brought to the model's height and width: `linear`, `cubic`, `nearest`, `bilinear_pillow`
            or `bicubic_pillow`. None where they have that size.
        frame_size: Height and width of the frames; None for any, or without `resize` for those of the model.
        model_channel_order: The channels that the model was trained on.
        input: Name of the input; None where the model has only one.
        model_layout: Axes of the model's input; None for what its sizes say.
        model_size: Height and width of the model's input, None for an open one. Conversion fills this in.

    Raises:
        TargetError: A value is not one of these.
    """

    dtype: str = "u8"
    layout: str = "NHWC"
    channel_order: str = "RGB"
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    resize: str | None = None
    frame_size: tuple[int, int] | None = None
    model_channel_order: str = "RGB"
    input: str | None = None
    model_layout: str | None = None
    model_size: tuple[int | None, int | None] | None = None

    def __post_init__(self) -> None:
        for what, value, known in (
            ("Element type", self.dtype, tuple(DTYPES)),
            ("Layout", self.layout, LAYOUTS),
            ("Channel order", self.channel_order, CHANNEL_ORDERS),
            ("Channel order of the model", self.model_channel_order, CHANNEL_ORDERS),
            ("Layout of the model", self.model_layout, (*LAYOUTS, None)),
            ("Resizing", self.resize, (*RESIZES, None)),
        ):
            if value not in known:
                named = ", ".join(str(each) for each in known if each is not None)
                raise TargetError(f"{what} of frames is '{value}', expected one of: {named}. Choose one.")
        for what, least in (("mean", None), ("scale", 0.0)):
            numbers = getattr(self, what)
            given = (numbers,) if isinstance(numbers, int | float) else tuple(numbers)
            object.__setattr__(self, what, _checked(what, given, least))
        if self.frame_size is not None:
            size = tuple(self.frame_size)
            if len(size) != 2 or not all(isinstance(each, int) and each > 0 for each in size):
                raise TargetError(
                    f"Size of frames is {size}, expected a height and a width in pixels, such as 1080x1920."
                )
            object.__setattr__(self, "frame_size", size)
            if self.resize is None:
                raise TargetError(
                    "A size of frames was given without a way to resize them, expected both: without resizing, frames "
                    f"have the model's size. Add resize (--resize), one of: {', '.join(RESIZES)}."
                )

    @property
    def numpy_dtype(self) -> str:
        """NumPy name of the frames' element type."""
        return DTYPES[self.dtype]

    @property
    def reverses_channels(self) -> bool:
        """True if frames have their channels in the opposite order of the model's."""
        return self.channel_order != self.model_channel_order

    @property
    def model_shape(self) -> tuple[int | None, ...] | None:
        """Sizes of the model's input, as far as conversion found them; None before that."""
        if self.model_size is None:
            return None
        sizes = dict(zip("HW", self.model_size, strict=True))
        return tuple(sizes.get(axis) for axis in self.model_layout or "NCHW")

    def affine(self, channels: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
        """Mean and scale, float32, one number for each channel of the model; None without either.

        Raises:
            TargetError: There are numbers for another count of channels.
        """
        if not self.mean and not self.scale:
            return None
        both = []
        for what, numbers, neutral in (("mean", self.mean, 0.0), ("scale", self.scale, 1.0)):
            if len(numbers) not in (0, 1, channels):
                raise TargetError(
                    f"{what} has {len(numbers)} numbers, expected one, or {channels}: one a channel of the model's "
                    f"input. Give as many (--{what})."
                )
            both.append(np.broadcast_to(np.array(numbers or (neutral,), np.float32), (channels,)))
        return both[0], both[1]

    def reference(self, frames: Array) -> npt.NDArray[np.float32]:
        """Compute the model's input in NumPy.

        Args:
            frames: A batch in the layout and element type of the frames.

        Returns:
            The batch in the model's layout and size, float32.

        Raises:
            DataError: The batch is of another type or rank.
            TargetError: Frames are to be resized, and the model's size is not known.
        """
        if frames.dtype != self.numpy_dtype or frames.ndim != 4:
            raise DataError(
                f"Frames are {frames.dtype} of shape {frames.shape}, expected {self.numpy_dtype} "
                f"({','.join(self.layout)}). Give them as a camera does."
            )
        pixels = frames if self.layout == "NHWC" else frames.transpose(0, 2, 3, 1)
        if self.resize is None:
            values = pixels.astype(np.float32)
        else:
            height, width = self.model_size or (None, None)
            if height is None or width is None:
                raise TargetError(
                    "Frames are to be resized, and the size of the model is not known. Fix it with --input-shape."
                )
            values = resize(pixels, height, width, self.resize)
        if self.reverses_channels:
            values = values[..., ::-1]
        affine = self.affine(values.shape[-1])
        if affine is not None:
            mean, scale = affine
            with np.errstate(over="ignore", invalid="ignore"):
                values = (values - mean) / scale
        if self.model_layout != "NHWC":
            values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values, np.float32)

    def describe(self) -> str:
        """One line for people."""
        size = self.frame_size if self.resize is not None else self.model_size
        parts = [f"{self.dtype} {self.layout} {self.channel_order} frames of {_size(size)} for input '{self.input}'"]
        if self.resize is not None:
            parts.append(f"resized ({self.resize}) to {_size(self.model_size)}")
        if self.reverses_channels:
            parts.append(f"channels to {self.model_channel_order}")
        parts += [f"minus {_listed(self.mean)}"] if self.mean else []
        parts += [f"divided by {_listed(self.scale)}"] if self.scale else []
        return ", ".join(parts)


def feed_by_hand(feeds: Mapping[str, Array], preprocessing: Preprocessing | None) -> dict[str, Array]:
    """Return the raw model's input for frames that the artifact is fed.

    Args:
        feeds: What the artifact is fed, by input.
        preprocessing: The preprocessing in it; None where it has none, and all is fed alike.

    Returns:
        The same with the frames preprocessed in NumPy.
    """
    if preprocessing is None:
        return dict(feeds)
    return {
        name: preprocessing.reference(array) if name == preprocessing.input else array for name, array in feeds.items()
    }


def _checked(what: str, numbers: Sequence[Any], least: float | None) -> tuple[float, ...]:
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TargetError(f"{what} holds {number!r}, expected numbers. Give one, or one a channel.")
        with np.errstate(over="ignore", under="ignore"):
            single = float(np.float32(number))
        if not math.isfinite(single) or (least is not None and not single > least):
            wanted = "a finite number" if least is None else "a finite number above 0"
            raise TargetError(f"{what} holds {number:g}, expected {wanted}. Correct --{what}.")
    return tuple(float(number) for number in numbers)


def _size(size: tuple[int | None, ...] | None) -> str:
    if size is None or None in size:
        return "any size"
    return "x".join(map(str, size))


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
