"""Regions of an image: rows of a table, and boxes on an overlay, in pixels of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.preprocessing.placement import FRAME
from pp_graph.report.label_places import Rectangle, free_place
from pp_graph.report.prediction_table import plain
from pp_graph.steps import RegionPart, RegionTable, SelectRegions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image

    from pp_graph.preprocessing import Preprocessing
    from pp_graph.program import Program

Array = npt.NDArray[Any]

_BOX_COLOR: Final = (255, 210, 0)
_THICKNESS: Final = 300
"""Pixels of the picture's shorter side per pixel of line width."""


@dataclass(frozen=True)
class DrawnRegions:
    """Outputs about regions.

    Attributes:
        parts: Name of the output that holds each part of the table of regions: `boxes`, `areas`, `max` or `mean`,
            `centroids`.
        map_size: Height and width of the map in which they were found; None if open.
        in_frame: True if boxes and centroids are in pixels of the frame that the model gets.
    """

    parts: Mapping[str, str]
    map_size: tuple[int, int] | None
    in_frame: bool = False

    @classmethod
    def of(cls, program: Program, preprocessing: Preprocessing | None = None) -> DrawnRegions | None:
        """Find the outputs of a program; None if it returns no boxes of regions."""
        tables = {step.target: step for step in program.steps if isinstance(step, RegionTable)}
        tables |= {
            step.target: tables[step.source]
            for step in program.steps
            if isinstance(step, SelectRegions) and step.source in tables
        }
        written = {output.name for output in program.predicted}
        parts: dict[str, str] = {
            step.part: step.target
            for step in program.steps
            if isinstance(step, RegionPart) and step.source in tables and step.target in written
        }
        boxes = next((output.name for output in program.predicted if output.meaning == "box"), None)
        if boxes is None or not tables:
            return None
        table = next(iter(tables.values()))
        if preprocessing is not None and preprocessing.box_coordinates == FRAME:
            # Images are first stretched to the frames' size, if the model fixes that.
            return cls({**parts, "box": boxes}, preprocessing.frame_size, in_frame=True)
        return cls({**parts, "box": boxes}, program.types[table.source].map_size)

    def of_image(
        self, values: Mapping[str, Array], size: tuple[int, int], map_size: tuple[int, ...] | None
    ) -> list[list[Any]]:
        """Return the regions of an image: corners, area, score and centroid; None for a part that is not returned.

        Args:
            values: Outputs of the image, by name.
            size: Width and height of the picture, to which boxes and centroids are scaled.
            map_size: Height and width of the map, if the program leaves them open.
        """
        boxes = values[self.parts["box"]]
        height, width = self.map_size or (None if self.in_frame else map_size) or size[::-1]
        scale = np.array([size[0] / width, size[1] / height])
        score = self.parts.get("max") or self.parts.get("mean")
        area, centroids = (self.parts.get(part) for part in ("areas", "centroids"))
        rows: list[list[Any]] = []
        for place in np.flatnonzero(boxes[:, 2] > boxes[:, 0]):
            corners = [round(float(each), 2) for each in boxes[place] * np.tile(scale, 2)]
            # A centroid is counted from the centre of the first pixel, and a box from its border.
            centre = [None, None] if centroids is None else (values[centroids][place] + 0.5) * scale
            rows.append(
                [
                    *corners,
                    None if area is None else plain(values[area][place]),
                    None if score is None else plain(values[score][place]),
                    *(None if each is None else round(float(each), 2) for each in centre),
                ]
            )
        return rows


def draw_boxes(picture: Image, regions: Sequence[Sequence[Any]], size: tuple[int, int]) -> None:
    """Draw the box of each region, and its score above it.

    Args:
        picture: The picture to draw on.
        regions: Regions in pixels of a picture of another size; see `DrawnRegions.of_image`.
        size: Width and height of that picture.
    """
    from PIL import ImageDraw, ImageFont

    width = max(1, min(picture.size) // _THICKNESS)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(10, min(picture.size) // 40))
    across, down = picture.width / size[0], picture.height / size[1]
    taken: list[Rectangle] = []
    for x1, y1, x2, y2, _, score, *_ in regions:
        left, top, right, bottom = x1 * across, y1 * down, x2 * across, y2 * down
        # Around the region, not over its border.
        draw.rectangle(
            (left - width, top - width, right + width - 1, bottom + width - 1), outline=_BOX_COLOR, width=width
        )
        if score is not None:
            text = f"{score:.2f}"
            x, y, length, height = draw.textbbox((0, 0), text, font=font)
            around = (left, top - width, right, bottom + width)
            place = free_place(around, (length - x + 2, height - y + 2), picture.size, taken)
            taken.append(place)
            # Yellow alone cannot be read on white.
            draw.rectangle(place, fill="black")
            draw.text((place[0] + 1 - x, place[1] + 1 - y), text, fill=_BOX_COLOR, font=font)
