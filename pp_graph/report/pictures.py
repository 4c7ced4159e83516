"""Pictures of predictions: image, anomaly map and mask side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

_GAP: Final = 8
_CAPTION_HEIGHT: Final = 24
_MASK_COLOR: Final = np.array([255, 40, 40], np.float32)


def prediction_panel(
    image: npt.NDArray[np.uint8], anomaly_map: npt.NDArray[Any], mask: npt.NDArray[Any], caption: str
) -> Image:
    """Draw one image, its anomaly map and its mask side by side.

    Args:
        image: RGB, uint8, (H,W,3).
        anomaly_map: Normalised map, in [0, 1], (H,W).
        mask: Anomalous pixels, bool, (H,W).
        caption: A line to write above.

    Returns:
        The picture.
    """
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    height, width = image.shape[:2]
    gray = Image.fromarray(np.round(np.clip(anomaly_map, 0, 1) * 255).astype(np.uint8))
    # Dark below the threshold, warm above it: 0.5 is where the decision lies.
    heat = ImageOps.colorize(gray.resize((width, height)), "#10102e", "#fff7c0", mid="#d1495b", midpoint=128)
    anomalous = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), 0)) > 0
    overlay = image.astype(np.float32)
    overlay[anomalous] = 0.45 * overlay[anomalous] + 0.55 * _MASK_COLOR
    parts = [Image.fromarray(image), heat, Image.fromarray(overlay.astype(np.uint8))]
    panel = Image.new("RGB", (3 * width + 2 * _GAP, height + _CAPTION_HEIGHT), "white")
    ImageDraw.Draw(panel).text((2, 4), caption, fill="black", font=ImageFont.load_default(14))
    for index, part in enumerate(parts):
        panel.paste(part, (index * (width + _GAP), _CAPTION_HEIGHT))
    return panel


def stack_panels(panels: Sequence[Image]) -> Image:
    """Put pictures of one width below each other."""
    from PIL import Image

    height = sum(panel.height for panel in panels) + _GAP * (len(panels) - 1)
    stacked = Image.new("RGB", (panels[0].width, height), "white")
    top = 0
    for panel in panels:
        stacked.paste(panel, (0, top))
        top += panel.height + _GAP
    return stacked
