"""Pictures of predictions: image, anomaly map and mask side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image

_GAP: Final = 8
_CAPTION_HEIGHT: Final = 24
_OPACITIES: Final = [round(0.7 * level) for level in range(256)]
"""Opacity of the heat map at each level of the anomaly map."""
_OUTLINE: Final = 256
"""Pixels of the picture's shorter side per pixel of outline width."""
_MASK_COLOR: Final = (255, 40, 40)
_LEGEND_ROWS: Final = 9
"""Height of the largest legend, in heights of a letter."""
_MASK_OPACITIES: Final = [round(0.55 * level) for level in range(256)]


def prediction_panel(
    image: npt.NDArray[np.uint8], anomaly_map: npt.NDArray[Any], mask: npt.NDArray[Any], caption: str
) -> Image:
    """Draw one image, its anomaly map and its mask side by side.

    Args:
        image: RGB, uint8, (H,W,3).
        anomaly_map: Normalised map, in [0, 1], (H,W).
        mask: Anomalous pixels, bool, (H,W).
        caption: A line of text above.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    overlay = picture.copy()
    overlay.paste(_MASK_COLOR, mask=mask_picture(mask, picture.size).point(_MASK_OPACITIES))
    parts = [picture, _heat(_gray(anomaly_map).resize(picture.size)), overlay]
    panel = Image.new("RGB", (3 * width + 2 * _GAP, height + _CAPTION_HEIGHT), "white")
    ImageDraw.Draw(panel).text((2, 4), caption, fill="black", font=ImageFont.load_default(14))
    for index, part in enumerate(parts):
        panel.paste(part, (index * (width + _GAP), _CAPTION_HEIGHT))
    return panel


def mask_picture(mask: npt.NDArray[Any], size: tuple[int, int]) -> Image:
    """Draw a mask: 255 for anomalous pixels, 0 for others.

    Args:
        mask: Anomalous pixels, bool, (H,W).
        size: Width and height of the picture; resized by nearest neighbour.

    Returns:
        An 8-bit grayscale picture.
    """
    from PIL import Image

    return Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)


def palette(count: int) -> list[tuple[int, int, int]]:
    """Return a colour for each class, as PASCAL VOC numbers them: black for class 0."""
    index = np.arange(count)
    # Bits 0, 3 and 6 of the class are the highest of red, the next ones of green and blue.
    channels = [sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
    return [(int(red), int(green), int(blue)) for red, green, blue in zip(*channels, strict=True)]


def class_picture(classes: npt.NDArray[np.uint8], size: tuple[int, int]) -> Image:
    """Draw a class map: a PNG palette picture whose pixels are the classes.

    Args:
        classes: The class of each pixel, uint8, (H,W).
        size: Width and height of the picture; resized by nearest neighbour.
    """
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(classes))
    picture.putpalette([channel for colour in palette(256) for channel in colour])
    return picture.resize(size, Image.Resampling.NEAREST)


def matte_picture(matte: npt.NDArray[np.uint8], size: tuple[int, int]) -> Image:
    """Draw a matte, uint8 (H,W), as a grayscale picture of this width and height."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(matte)).resize(size, Image.Resampling.BILINEAR)


def class_overlay(
    image: npt.NDArray[np.uint8], classes: npt.NDArray[np.uint8], legend: Sequence[Mapping[str, Any]] = ()
) -> Image:
    """Draw the classes over an image, half transparent, and a legend of those that are in it below.

    Args:
        image: RGB, uint8, (H,W,3).
        classes: Number of the class of each pixel, uint8, (H,W) of any size. Number 0 is not drawn.
        legend: Number (`pixel`), class, name and colour of each class; see `DrawnOutputs.legend`.
    """
    from PIL import Image

    drawn = Image.fromarray(image)
    shown = class_picture(classes, drawn.size)
    opacity = shown.copy().convert("P").point([0, *[140] * 255], "L")
    counts = np.bincount(classes.ravel(), minlength=256)
    present = [
        (str(each["class"] if each["name"] is None else each["name"]), tuple(each["color"]) if each["pixel"] else None)
        for each in sorted(legend, key=lambda each: -counts[each["pixel"]])
        if counts[each["pixel"]]
    ]
    return with_legend(Image.composite(shown.convert("RGB"), drawn, opacity), present)


def with_legend(picture: Image, entries: Sequence[tuple[str, tuple[int, ...] | None]]) -> Image:
    """Add a legend below a picture: a square of each colour, empty for None, and its name. Long ones are cut."""
    from PIL import Image, ImageDraw, ImageFont

    if not entries:
        return picture
    size = max(11, min(picture.size) // 32)
    font = ImageFont.load_default(size)
    places: list[tuple[int, int]] = []
    x = y = size // 2
    for name, _ in entries:
        length = int(font.getlength(name)) + 3 * size
        if places and x + length > picture.width:
            x, y = size // 2, y + size * 3 // 2
        if y > _LEGEND_ROWS * size:
            break
        places.append((x, y))
        x += length
    left_out = len(entries) - len(places)
    if left_out:
        entries = [*entries[: len(places) - 1], (f"and {left_out + 1} more", None)]
    whole = Image.new("RGB", (picture.width, picture.height + places[-1][1] + 2 * size), "white")
    whole.paste(picture)
    draw = ImageDraw.Draw(whole)
    for (x, y), (name, color) in zip(places, entries, strict=False):
        top = picture.height + y
        draw.rectangle((x, top, x + size, top + size), fill=color, outline="black")
        draw.text((x + size * 3 // 2, top + size // 2), name, fill="black", font=font, anchor="lm")
    return whole


def with_caption(picture: Image, text: str) -> Image:
    """Write a line of text below a picture, which is widened if the text is longer."""
    from PIL import Image, ImageDraw, ImageFont

    size = max(12, min(picture.size) // 24)
    font = ImageFont.load_default(size)
    width = max(picture.width, int(font.getlength(text)) + size)
    whole = Image.new("RGB", (width, picture.height + 2 * size), "white")
    whole.paste(picture)
    ImageDraw.Draw(whole).text((size // 2, picture.height + size), text, fill="black", font=font, anchor="lm")
    return whole


def matte_overlay(image: npt.NDArray[np.uint8], matte: npt.NDArray[np.uint8]) -> Image:
    """Cut out a foreground: an image, (H,W,3), over a checkerboard where its matte, (H,W) of any size, is 0."""
    from PIL import Image

    drawn = Image.fromarray(image)
    side = max(4, min(drawn.size) // 32)
    rows, columns = np.indices(image.shape[:2]) // side
    board = np.where((rows + columns) % 2 == 0, 255, 205).astype(np.uint8)
    return Image.composite(drawn, Image.fromarray(board).convert("RGB"), matte_picture(matte, drawn.size))


def overlay_picture(
    image: npt.NDArray[np.uint8], anomaly_map: npt.NDArray[Any] | None, mask: npt.NDArray[Any] | None
) -> Image:
    """Draw an anomaly map over its image, with the outline of the mask.

    Args:
        image: RGB, uint8, (H,W,3).
        anomaly_map: Normalised map in [0, 1], (H,W) of any size. It is more opaque where it is more anomalous.
        mask: Anomalous pixels, bool, (H,W) of any size.

    Returns:
        A picture of the size of the image.
    """
    from PIL import Image

    drawn = Image.fromarray(image)
    if anomaly_map is not None:
        gray = _gray(anomaly_map).resize(drawn.size)
        drawn = Image.composite(_heat(gray), drawn, gray.point(_OPACITIES))
    if mask is not None and mask.any():
        whole = mask_picture(mask, drawn.size)
        box = whole.getbbox()
        if box is not None:
            right, bottom = min(drawn.width, box[2] + 1), min(drawn.height, box[3] + 1)
            around = (max(0, box[0] - 1), max(0, box[1] - 1), right, bottom)
            part = whole.crop(around)
            width = max(1, min(drawn.size) // _OUTLINE)
            drawn.paste(_MASK_COLOR, around[:2], Image.fromarray(_outline(np.asarray(part) > 0, width)))
    return drawn


def _gray(anomaly_map: npt.NDArray[Any]) -> Image:
    from PIL import Image

    return Image.fromarray(np.round(np.clip(np.nan_to_num(anomaly_map, nan=1.0), 0, 1) * 255).astype(np.uint8))


def _heat(gray: Image) -> Image:
    """Colour a map: dark below the threshold at 0.5, warm above."""
    from PIL import ImageOps

    return ImageOps.colorize(gray, "#10102e", "#fff7c0", mid="#d1495b", midpoint=128)


def _outline(mask: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    """Return the pixels of a mask within a distance from its border."""
    inside = mask
    for _ in range(width):
        padded = np.pad(inside, 1, mode="edge")
        neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
        inside = np.logical_and.reduce([inside, *neighbours])
    return mask & ~inside


def stack_panels(panels: Sequence[Image]) -> Image:
    """Stack pictures of equal width vertically."""
    from PIL import Image

    height = sum(panel.height for panel in panels) + _GAP * (len(panels) - 1)
    stacked = Image.new("RGB", (panels[0].width, height), "white")
    top = 0
    for panel in panels:
        stacked.paste(panel, (0, top))
        top += panel.height + _GAP
    return stacked
