"""Draw the predictions of an image over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pp_graph.report.detections import ImageDetections, overlay_detections
from pp_graph.report.drawn_regions import draw_boxes
from pp_graph.report.pictures import class_overlay, matte_overlay, overlay_picture, with_caption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

    from pp_graph.fusion import Provenance
    from pp_graph.report.drawn_outputs import DrawnOutputs


def overlay_of(
    image: npt.NDArray[np.uint8],
    values: Mapping[str, npt.NDArray[Any]],
    drawn: DrawnOutputs,
    provenance: Provenance,
    boxes: ImageDetections | None,
    regions: Sequence[Sequence[Any]],
    size: tuple[int, int],
) -> Image:
    """Draw map, mask, classes, boxes and caption over an image.

    Args:
        image: RGB, uint8 (H,W,3).
        values: Outputs of the image; see `DrawnOutputs.of_image`.
        drawn: Outputs of the model.
        provenance: Provenance of the model.
        boxes: Detections of the image; None for other models.
        regions: Regions of the image, in pixels of a picture of `size`.
        size: Width and height of the image before it was made smaller for the overlay.

    Returns:
        A picture of the image's width and height, and a legend or caption below it.
    """
    mask = None if drawn.mask is None else values[drawn.mask]
    if drawn.pixel_classes is not None:
        overlay = class_overlay(image, values[drawn.pixel_classes], drawn.legend.get("classes", ()))
    elif drawn.mattes and mask is None:
        overlay = matte_overlay(image, values[drawn.mattes[0]])
    else:
        overlay = overlay_picture(image, drawn.shown_map(values, provenance), mask)
    if regions:
        draw_boxes(overlay, regions, size)
    if boxes is not None:
        overlay = overlay_detections(overlay, boxes, drawn.class_names)
    return with_caption(overlay, drawn.caption(values)) if drawn.captioned else overlay
