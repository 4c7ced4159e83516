"""Options of `--task sequence`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.postprocessors import SequencePostProcessor

FUSED: Final = (
    click.option("--blank", type=int, metavar="INDEX",
                 help="sequence: class that stands for no character, -1 for the last.  [default: as --labels say, "
                      "else 0]"),
    click.option("--layout", type=click.Choice(["NTC", "TNC"]),
                 help="sequence: axes of the logits: images, times, classes.  [default: by the batch of the input]"),
)  # fmt: skip
NAMES: Final = ("activation", "blank", "layout")


def post_processor(options: Mapping[str, Any], settings: Mapping[str, Any]) -> SequencePostProcessor:
    """Build the post-processor from the options."""
    from pp_graph.postprocessors import SequencePostProcessor
    from pp_graph.postprocessors.class_names import read_characters

    file = options.get("labels")
    labels = () if file is None else read_characters(file)
    return SequencePostProcessor(labels=labels, outputs=settings["outputs"], **{name: options[name] for name in NAMES})
