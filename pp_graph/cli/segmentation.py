"""Options of `--task segmentation`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from pp_graph.cli.classification import parse_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.postprocessors import SegmentationPostProcessor

RETUNED: Final = (
    click.option("--class-thresholds", metavar="T[,T...]|FILE", callback=parse_numbers,
                 help="segmentation: write a mask of each class, where its probability is above this threshold; one "
                      "for all, or one for each class."),
)  # fmt: skip
FUSED: Final = (
    click.option("--stretch", is_flag=True, default=None,
                 help="segmentation: map the range of each matte to [0, 1] first, as U2-Net and IS-Net do."),
    click.option("--no-areas", is_flag=True, default=None, help="segmentation: do not count the pixels of each class."),
    *RETUNED,
)  # fmt: skip
NAMES: Final = ("activation", "stretch", "no_areas", "class_thresholds")
RETUNED_NAMES: Final = ("class_thresholds",)


def post_processor(options: Mapping[str, Any], settings: Mapping[str, Any]) -> SegmentationPostProcessor:
    """Build the post-processor from the options."""
    from pp_graph.postprocessors import SegmentationPostProcessor
    from pp_graph.postprocessors.class_names import read_class_names

    file = options.get("labels")
    return SegmentationPostProcessor(
        activation=options["activation"],
        class_thresholds=options["class_thresholds"],
        map_size=settings["map_size"],
        stretch=bool(options["stretch"]),
        areas=not options["no_areas"],
        outputs=settings["outputs"],
        labels=() if file is None else read_class_names(file),
        on_nan=settings["on_nan"],
    )
