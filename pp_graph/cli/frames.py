"""Options about the frames that a converted model takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from pp_graph.cli.output import note
from pp_graph.cli.verb import spelled

if TYPE_CHECKING:
    from pp_graph.preprocessing import Preprocessing

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Option to field of Preprocessing. Values are checked there, so that Python and the command line refuse alike.
_FIELDS: Final = {
    "input_dtype": "dtype",
    "input_layout": "layout",
    "channel_order": "channel_order",
    "model_channel_order": "model_channel_order",
    "model_layout": "model_layout",
    "mean": "mean",
    "scale": "scale",
    "resize": "resize",
    "frame_size": "frame_size",
    "box_coordinates": "box_coordinates",
    "image_input": "input",
}
_OPTIONS = (
    click.option("--input-dtype", metavar="u8|u16|f32",
                 help="frames: take camera frames of this type as input. This and the options below write "
                      "preprocessing into the model.  [default with any of them: u8]"),
    click.option("--input-layout", metavar="NHWC|NCHW", help="frames: axes of the frames.  [default: NHWC]"),
    click.option("--channel-order", metavar="RGB|BGR|NV12|I420|YUYV",
                 help="frames: channels of the frames, or bytes as cameras give them, which become RGB.  "
                      "[default: RGB]"),
    click.option("--model-channel-order", metavar="RGB|BGR",
                 help="frames: channels that the model was trained on.  [default: RGB]"),
    click.option("--model-layout", metavar="NHWC|NCHW",
                 help="frames: axes of the model's input.  [default: by its sizes]"),
    click.option("--mean", metavar="X|R,G,B",
                 help="frames: subtract this, on the scale of the frames (0..255 for u8), in the model's channel "
                      "order."),
    click.option("--scale", metavar="X|R,G,B",
                 help="frames: then divide by this. Models trained on [0,1] need 255 for u8."),
    click.option("--resize", metavar="METHOD",
                 help="frames: resize frames to the model's input: linear, cubic, nearest (as OpenCV), bilinear_pillow "
                 "or bicubic_pillow (as Pillow, and torchvision with antialias); letterbox keeps the aspect ratio and "
                 "fills the rest with gray (114)."),
    click.option("--frame-size", metavar="HxW",
                 help="frames: size of the frames, with --resize.  [default: any; NPU needs it]"),
    click.option("--box-coordinates", metavar="input|frame",
                 help="frames: return boxes, key points and regions in pixels of the model's input, or of the frame, "
                      "with --resize.  [default: input]"),
    click.option("--image-input", metavar="NAME", help="frames: input that takes the frames, if there are several."),
)  # fmt: skip


def frame_options(function: _Function) -> _Function:
    """Add the options about frames to a verb."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_preprocessing(options: dict[str, Any]) -> Preprocessing | None:
    """Take the options about frames out of all options; None where none was given."""
    given: dict[str, Any] = {
        field: value for name, field in _FIELDS.items() if (value := options.pop(name)) is not None
    }
    if options.get("map_size") == "frame":
        # The other sizes are about the post-processing.
        given["map_size"], options["map_size"] = "frame", None
    if not given:
        return None
    from pp_graph.preprocessing import Preprocessing

    for name in ("layout", "channel_order", "model_channel_order", "model_layout"):
        if name in given:
            given[name] = given[name].upper()
    if "dtype" in given:
        given["dtype"] = spelled(given["dtype"])
    for name in ("mean", "scale"):
        if name in given:
            given[name] = _numbers(given[name], f"--{name}")
    if "frame_size" in given:
        given["frame_size"] = parse_frame_size(given["frame_size"])
    preprocessing = Preprocessing(**given)
    from pp_graph.plausibility import preprocessing_warnings

    warnings = preprocessing_warnings(preprocessing)
    for warning in warnings:
        note(f"Warning: {warning}")
    if preprocessing.dtype != "f32" and not preprocessing.scale and not warnings:
        largest = {"u8": 255, "u16": 65535}[preprocessing.dtype]
        note(
            f"Note: the model gets values from 0 to {largest}. If it was trained on [0,1], add --scale {largest}"
            + (", or the value your camera returns for white." if largest > 255 else ".")
        )
    return preprocessing


def parse_frame_size(text: str | None, flag: str = "--frame-size") -> tuple[int, int] | None:
    """`1080x1920` -> (1080, 1920)."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
        raise click.BadParameter(
            f"'{text}' is not a size, expected height and width such as 1080x1920.", param_hint=flag
        )
    return int(parts[0]), int(parts[1])


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(
            f"'{text}' is not a list of numbers, expected one number, or one per channel such as 123.7,116.3,103.5.",
            param_hint=option,
        ) from None
