"""The map in which a program finds regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pp_graph.errors import PostProcessorError
from pp_graph.steps import RegionPart, RegionTable, SelectRegions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.program.program import Program


def region_map_size(program: Program, shapes: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return height and width of the map whose pixels the output `region_boxes` counts; None without this output.

    Args:
        program: A program.
        shapes: Shape of each raw value, for a map whose size the program leaves open.

    Raises:
        PostProcessorError: The size is open in these, too.
    """
    writes = {step.target: step for step in program.steps}
    step = writes.get("region_boxes")
    while isinstance(step, RegionPart | SelectRegions):
        step = writes.get(step.source)
    if not isinstance(step, RegionTable):
        return None
    known = program.types[step.source].map_size
    if known is not None:
        return known
    axes = program.types[step.source].axes
    sizes = next(
        (shapes[role] for role, value in program.signature.items() if value.per_pixel and value.axes == axes), None
    )
    try:
        height, width = (int(str(sizes[axes.index(axis)])) for axis in "HW")  # type: ignore[index]
    except (TypeError, ValueError) as error:
        raise PostProcessorError(
            "The size of the map in which regions are found is open, expected a known one, to bring them to pixels of "
            "the frame. Fix the size of the model's input (--input-shape)."
        ) from error
    return height, width
