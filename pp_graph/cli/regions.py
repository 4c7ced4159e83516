"""Options of `--task regions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.postprocessors import RegionsPostProcessor

RETUNED: Final = (
    click.option("--pixel-threshold", type=float, metavar="T",
                 help="anomaly, regions: pixels above this raw value are anomalous, or belong to a region.  "
                      "[default for regions: 0.3]"),
    click.option("--box-threshold", type=float, metavar="T",
                 help="regions: smallest mean of the map in a region.  [default: 0.6]"),
    click.option("--min-area", type=int, metavar="A",
                 help="regions: smallest number of pixels of a region.  [default: 10]"),
    click.option("--unclip", type=float, metavar="R",
                 help="regions: grow boxes by area * R / perimeter on each side.  [default: 1.5]"),
)  # fmt: skip
FUSED: Final = (
    *RETUNED,
    click.option("--no-mask", is_flag=True, default=None, help="regions: do not return the mask."),
)
RETUNED_NAMES: Final = ("pixel_threshold", "box_threshold", "min_area", "unclip")
NAMES: Final = (*RETUNED_NAMES, "no_mask")


def post_processor(options: Mapping[str, Any], settings: Mapping[str, Any]) -> RegionsPostProcessor:
    """Build the post-processor from the options; those that are not given keep their defaults."""
    from pp_graph.postprocessors import RegionsPostProcessor

    given = {name: options[name] for name in RETUNED_NAMES if options[name] is not None}
    if settings["regions"] is not None:
        given["regions"] = settings["regions"]
    if "on_nan" in settings["given"]:
        given["on_nan"] = settings["on_nan"]
    return RegionsPostProcessor(outputs=settings["outputs"], mask=not options["no_mask"], **given)
