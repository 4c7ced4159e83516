"""Options of `--task sequence`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from pp_graph.postprocessors import SequencePostProcessor

_Function = TypeVar("_Function", bound=Callable[..., Any])

_FUSED = (
    click.option("--blank", type=int, metavar="INDEX",
                 help="sequence: class that stands for no character, -1 for the last.  [default: as --labels say, "
                      "else 0]"),
    click.option("--layout", type=click.Choice(["NTC", "TNC"]),
                 help="sequence: axes of the logits: images, times, classes.  [default: by the batch of the input]"),
)  # fmt: skip
NAMES: Final = ("blank", "layout")


def sequence_options(function: _Function) -> _Function:
    """Add the options of sequences to a verb that fuses; `--task` and `--activation` are those of classification."""
    for option in reversed(_FUSED):
        function = option(function)
    return function


def sequence(options: Mapping[str, Any]) -> SequencePostProcessor:
    """Build the post-processor from the options."""
    from pp_graph.postprocessors import SequencePostProcessor
    from pp_graph.postprocessors.class_names import read_characters

    file = options.get("labels")
    labels = () if file is None else read_characters(file)
    settings = {name: options[name] for name in ("activation", *NAMES)}
    return SequencePostProcessor(labels=labels, **settings)
