"""`Preprocessing`: from a camera's frame to the model's input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import DataError, TargetError
from pp_graph.preprocessing.placement import FRAME, INPUT, LETTERBOX, PADDING, letterbox
from pp_graph.preprocessing.resizing import RESIZES, resize
from pp_graph.preprocessing.yuv import YUV_ORDERS, check_even, picture_size, to_rgb, yuv_shape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Array = npt.NDArray[Any]

DTYPES: Final[Mapping[str, str]] = {"u8": "uint8", "u16": "uint16", "f32": "float32"}
"""Element types of frames, and their NumPy names."""
LAYOUTS: Final = ("NHWC", "NCHW")
CHANNEL_ORDERS: Final = ("RGB", "BGR")
METHODS: Final = (*RESIZES, LETTERBOX)
"""Ways to bring frames to the model's size."""


@dataclass(frozen=True)
class Preprocessing:
    """Conversion of frames to the model's input, in float32.

    The operations in order: convert NV12, I420 or YUYV to RGB in uint8, convert to float32, resize, reorder channels,
    subtract `mean`, divide by `scale`, transpose to the model's layout. There is no implicit scaling: uint8 stays in
    0..255 unless `scale` is given.

    Attributes:
        dtype: Element type of the frames: `u8`, `u16` or `f32`.
        layout: Layout of the frames: `NHWC` or `NCHW`.
        channel_order: Channel order of the frames: `RGB` or `BGR`; or the bytes that many cameras give, as `u8` in
            `NHWC`: `NV12` and `I420` (N, 3/2 H, W, 1), `YUYV` (N, H, W, 2).
        mean: Numbers to subtract, in the range of the frames (0..255 for `u8`): one, or one per channel in the model's
            order. Empty for none.
        scale: Numbers to divide by: one, or one per channel. Empty for none. Models trained on [0, 1] need 255 for
            `u8`.
        resize: Method to resize frames to the model's height and width: `linear`, `cubic`, `nearest`,
            `bilinear_pillow` or `bicubic_pillow`; or `letterbox`, which keeps the aspect ratio (bilinear) and fills the
            rest with gray, 114 of 255. None if frames have the model's size.
        frame_size: Height and width of the frames in pixels. None for any size, or for the model's without `resize`.
        box_coordinates: What boxes, key points and regions are in pixels of: the raw model's `input` (regions: the
            map), or the `frame` before `resize`, at whose edges boxes end.
        map_size: `frame` brings masks and maps to the size of the frame before `resize`: each pixel gets the number of
            the map's pixel there. None leaves them.
        model_channel_order: Channel order of the model.
        input: Name of the input; None if the model has only one.
        model_layout: Layout of the model's input; None to derive it from the sizes.
        model_size: Height and width of the model's input, None for an open one. Set by conversion.

    Raises:
        TargetError: A value is not supported.
    """

    dtype: str = "u8"
    layout: str = "NHWC"
    channel_order: str = "RGB"
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    resize: str | None = None
    frame_size: tuple[int, int] | None = None
    box_coordinates: str = INPUT
    map_size: str | None = None
    model_channel_order: str = "RGB"
    input: str | None = None
    model_layout: str | None = None
    model_size: tuple[int | None, int | None] | None = None

    def __post_init__(self) -> None:
        for what, value, known in (
            ("Element type", self.dtype, tuple(DTYPES)),
            ("Layout", self.layout, LAYOUTS),
            ("Channel order", self.channel_order, (*CHANNEL_ORDERS, *YUV_ORDERS)),
            ("Channel order of the model", self.model_channel_order, CHANNEL_ORDERS),
            ("Layout of the model", self.model_layout, (*LAYOUTS, None)),
            ("Resizing", self.resize, (*METHODS, None)),
            ("Coordinates of boxes", self.box_coordinates, (INPUT, FRAME)),
            ("Size of maps", self.map_size, (FRAME, None)),
        ):
            if value not in known:
                choices = ", ".join(str(choice) for choice in known if choice is not None)
                raise TargetError(f"{what} of frames is '{value}', expected one of: {choices}. Choose one.")
        if self.is_yuv and (self.dtype, self.layout) != ("u8", "NHWC"):
            raise TargetError(
                f"Frames in {self.channel_order} are {self.dtype} {self.layout}, expected u8 NHWC: they are bytes as "
                "cameras give them. Leave out dtype and layout (--input-dtype, --input-layout)."
            )
        for name, lower_bound in (("mean", None), ("scale", 0.0)):
            numbers = getattr(self, name)
            given = (numbers,) if isinstance(numbers, int | float) else tuple(numbers)
            object.__setattr__(self, name, _checked(name, given, lower_bound))
        if self.box_coordinates == FRAME and self.resize is None:
            raise TargetError(
                "Boxes in pixels of the frame were asked for without a method to resize frames, expected both: without "
                "resizing, the frame is the model's input. Add resize (--resize), or leave box_coordinates out "
                "(--box-coordinates)."
            )
        if self.map_size == FRAME and self.resize is None:
            raise TargetError(
                "Masks and maps in the size of the frame were asked for without a method to resize frames, expected "
                "both: without resizing, map_size='input' (--map-size input) gives them that size. Add resize "
                "(--resize), or take that."
            )
        if self.frame_size is not None:
            size = tuple(self.frame_size)
            if len(size) != 2 or not all(isinstance(length, int) and length > 0 for length in size):
                raise TargetError(
                    f"Size of frames is {size}, expected a height and a width in pixels. Give both, such as (480, 640)."
                )
            object.__setattr__(self, "frame_size", size)
            self.check_even(*size)
            if self.resize is None:
                raise TargetError(
                    "A size of frames was given without a method to resize them, expected both: without resizing, "
                    f"frames have the model's size. Add resize (--resize), one of: {', '.join(METHODS)}."
                )

    @property
    def numpy_dtype(self) -> str:
        """NumPy name of the frames' element type."""
        return DTYPES[self.dtype]

    @property
    def is_yuv(self) -> bool:
        """True if frames hold brightness and colour instead of RGB."""
        return self.channel_order in YUV_ORDERS

    @property
    def reverses_channels(self) -> bool:
        """True if frames and model differ in channel order. NV12, I420 and YUYV become RGB."""
        return ("RGB" if self.is_yuv else self.channel_order) != self.model_channel_order

    def check_even(self, height: int | None, width: int | None) -> None:
        """Raise `TargetError` if frames have an odd size that their channel order does not allow."""
        if self.is_yuv:
            try:
                check_even(height, width, self.channel_order, "Frames")
            except DataError as error:
                raise TargetError(str(error)) from error

    def frame_shape(self, channels: Any, height: Any, width: Any) -> tuple[Any, ...]:
        """Return the shape of a frame of a height and width, without the batch."""
        if self.is_yuv:
            return yuv_shape(height, width, self.channel_order)
        sizes = {"C": channels, "H": height, "W": width}
        return tuple(sizes[axis] for axis in self.layout[1:])

    def size_of(self, shape: Sequence[Any]) -> tuple[Any, Any]:
        """Return height and width of frames, from the shape of a batch."""
        if self.is_yuv:
            return picture_size(shape, self.channel_order)
        return shape[self.layout.index("H")], shape[self.layout.index("W")]

    @property
    def padding(self) -> float:
        """Number around a letterboxed frame, before `mean` and `scale`. Frames in f32 are taken as 0 to 255."""
        return PADDING[self.dtype]

    @property
    def model_shape(self) -> tuple[int | None, ...] | None:
        """Shape of the model's input, with None for the batch, channels and open sizes; None before conversion."""
        if self.model_size is None:
            return None
        sizes = dict(zip("HW", self.model_size, strict=True))
        return tuple(sizes.get(axis) for axis in self.model_layout or "NCHW")

    def affine(self, channels: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
        """Return mean and scale as float32 arrays (channels,); None if neither is set.

        Raises:
            TargetError: The number of means or scales does not match the channels.
        """
        if not self.mean and not self.scale:
            return None
        arrays = []
        for name, numbers, neutral in (("mean", self.mean, 0.0), ("scale", self.scale, 1.0)):
            if len(numbers) not in (0, 1, channels):
                raise TargetError(
                    f"{name} has {len(numbers)} numbers, expected one, or {channels}: one per channel of the model's "
                    f"input. Correct --{name}."
                )
            arrays.append(np.broadcast_to(np.array(numbers or (neutral,), np.float32), (channels,)))
        return arrays[0], arrays[1]

    def reference(self, frames: Array) -> npt.NDArray[np.float32]:
        """Compute the model's input in NumPy.

        Args:
            frames: A batch of frames in `layout` and `dtype`.

        Returns:
            The batch in the model's layout and size, float32.

        Raises:
            DataError: The frames have a different element type or rank.
            TargetError: `resize` is set and `model_size` is unknown.
        """
        if frames.dtype != self.numpy_dtype or frames.ndim != 4:
            raise DataError(
                f"Frames are {frames.dtype} of shape {frames.shape}, expected {self.numpy_dtype} "
                f"({','.join(self.layout)}). Give unprocessed frames."
            )
        pixels = frames if self.layout == "NHWC" else frames.transpose(0, 2, 3, 1)
        if self.is_yuv:
            pixels = to_rgb(pixels, self.channel_order)
        if self.resize is None:
            values = pixels.astype(np.float32)
        else:
            height, width = self.model_size or (None, None)
            if height is None or width is None:
                raise TargetError(
                    "Frames are to be resized to a size that is not known, expected a model with a fixed height and "
                    "width. Fix them with --input-shape."
                )
            values = (
                letterbox(pixels, height, width, self.padding)
                if self.resize == LETTERBOX
                else resize(pixels, height, width, self.resize)
            )
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
        """Describe the preprocessing in one line."""
        size = self.frame_size if self.resize is not None else self.model_size
        parts = [f"{self.dtype} {self.layout} {self.channel_order} frames of {_size(size)} for input '{self.input}'"]
        if self.resize is not None:
            parts.append(f"resized ({self.resize}) to {_size(self.model_size)}")
        if self.box_coordinates == FRAME:
            parts.append("boxes in pixels of the frame")
        if self.map_size == FRAME:
            parts.append("masks and maps in the size of the frame")
        if self.reverses_channels:
            parts.append(f"channels to {self.model_channel_order}")
        parts += [f"minus {_listed(self.mean)}"] if self.mean else []
        parts += [f"divided by {_listed(self.scale)}"] if self.scale else []
        return ", ".join(parts)


def feed_by_hand(feeds: Mapping[str, Array], preprocessing: Preprocessing | None) -> dict[str, Array]:
    """Convert an artifact's feeds to those of the raw model: preprocess the frames in NumPy.

    Args:
        feeds: The artifact's feeds, by input.
        preprocessing: The artifact's preprocessing; None if it has none.

    Returns:
        The raw model's feeds, by input.
    """
    if preprocessing is None:
        return dict(feeds)
    return {
        name: preprocessing.reference(array) if name == preprocessing.input else array for name, array in feeds.items()
    }


def _checked(name: str, numbers: Sequence[Any], lower_bound: float | None) -> tuple[float, ...]:
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TargetError(f"{name} contains {number!r}, expected numbers. Give one, or one per channel.")
        with np.errstate(over="ignore", under="ignore"):
            single = float(np.float32(number))
        if not math.isfinite(single) or (lower_bound is not None and not single > lower_bound):
            expected = "a finite number" if lower_bound is None else "a finite number above 0"
            raise TargetError(f"{name} contains {number:g}, expected {expected}. Correct --{name}.")
    return tuple(float(number) for number in numbers)


def _size(size: tuple[int | None, ...] | None) -> str:
    if size is None or None in size:
        return "any size"
    return "x".join(map(str, size))


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
