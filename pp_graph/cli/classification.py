"""Options of `--task classification`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.postprocessors import ClassificationPostProcessor

LABELS_HELP: Final = (
    "classification, detection, segmentation: file of class names, one a line, or JSON; sequence: of characters, as in "
    "PP-OCR's dictionaries."
)


def parse_numbers(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> float | tuple[float, ...] | None:
    """Parse `0.5`, `0.5,0.7` or a file with one number a line."""
    del context
    if text is None:
        return None
    lines = Path(text).read_text("utf-8").split() if Path(text).is_file() else text.split(",")
    try:
        numbers = tuple(map(float, lines))
    except ValueError:
        raise click.BadParameter(
            f"'{text}' is neither a threshold, nor one for each class, nor a file that exists, expected 0.5, or "
            "0.5,0.7,..., or a file with a number a line.",
            param=parameter,
        ) from None
    return numbers[0] if len(numbers) == 1 else numbers


RETUNED: Final = (
    click.option("--temperature", type=float, metavar="T", help="classification: divide logits by this number first."),
    click.option("--unknown-below", type=float, metavar="P",
                 help="classification: an image is unknown if its class is less probable."),
    click.option("--multi-label", metavar="T[,T...]|FILE", callback=parse_numbers,
                 help="classification: several classes may be present, each above this threshold; one for all, or one "
                      "for each class."),
)  # fmt: skip
FUSED: Final = (
    click.option("--activation", type=click.Choice(["softmax", "sigmoid", "none"]),
                 help="classification, segmentation, sequence: what turns outputs into probabilities.  [default: none "
                      "if the model ends in a softmax or sigmoid, else sigmoid, for one class of several softmax]"),
    click.option("--top", type=int, metavar="K", help="classification: also return the K most probable classes."),
    *RETUNED,
)  # fmt: skip
NAMES: Final = ("activation", "top", "temperature", "unknown_below", "multi_label")
SHARED: Final = ("on_nan", "thresholds", "outputs")
"""Options of anomaly models that classifiers have, too."""
RETUNED_NAMES: Final = ("temperature", "unknown_below", "multi_label")


def post_processor(options: Mapping[str, Any], settings: Mapping[str, Any]) -> ClassificationPostProcessor:
    """Build the post-processor from the options, and from the limits that `calibrate` found, if a file is given."""
    from pp_graph.postprocessors import ClassificationPostProcessor
    from pp_graph.postprocessors.class_names import read_class_names

    file = options.get("labels")
    given = {} if settings["stats"] is None else classifier_settings(settings["stats"])
    given |= {name: options[name] for name in NAMES if options[name] is not None}
    labels = () if file is None else read_class_names(file)
    shared = {name: settings[name] for name in SHARED}
    return ClassificationPostProcessor(labels=labels, **shared, **given)


def classifier_settings(stats: Path) -> dict[str, Any]:
    """Read the limits that `pp-graph calibrate --task classification` wrote."""
    from pp_graph.calibration.classification import load_classifier_settings

    return load_classifier_settings(stats)
