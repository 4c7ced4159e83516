"""Options of `--task classification`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from pp_graph.postprocessors import ClassificationPostProcessor

_Function = TypeVar("_Function", bound=Callable[..., Any])

LABELS_HELP: Final = (
    "classification: file of class names, one a line, or JSON; sequence: of characters, as in PP-OCR's dictionaries."
)


def _numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> float | tuple[float, ...] | None:
    """Parse `0.5`, `0.5,0.7` or a file with one number a line."""
    del context
    if text is None:
        return None
    lines = Path(text).read_text("utf-8").split() if Path(text).is_file() else text.split(",")
    try:
        numbers = tuple(map(float, lines))
    except ValueError:
        raise click.BadParameter(
            f"'{text}' is neither a threshold, nor one for each class, expected 0.5, or 0.5,0.7,..., or a file with a "
            "number a line.",
            param=parameter,
        ) from None
    return numbers[0] if len(numbers) == 1 else numbers


_RETUNED = (
    click.option("--temperature", type=float, metavar="T", help="classification: divide logits by this number first."),
    click.option("--unknown-below", type=float, metavar="P",
                 help="classification: an image is unknown if its class is less probable."),
    click.option("--multi-label", metavar="T[,T...]|FILE", callback=_numbers,
                 help="classification: several classes may be present, each above this threshold; one for all, or one "
                      "for each class."),
)  # fmt: skip
_FUSED = (
    click.option("--task", type=click.Choice(["anomaly", "classification", "sequence"]), default="anomaly",
                 show_default=True, help="What the model does: score anomalies, classify, or read text (CTC)."),
    click.option("--activation", type=click.Choice(["softmax", "sigmoid", "none"]),
                 help="classification, sequence: what turns outputs into probabilities.  [default: none if the model "
                      "ends in a softmax or sigmoid, else softmax, with --multi-label sigmoid]"),
    click.option("--top", type=int, metavar="K", help="classification: also return the K most probable classes."),
    *_RETUNED,
)  # fmt: skip
NAMES: Final = ("activation", "top", "temperature", "unknown_below", "multi_label")
SHARED: Final = ("on_nan", "thresholds")
"""Options of anomaly models that classifiers have, too."""
RETUNED_NAMES: Final = ("temperature", "unknown_below", "multi_label")


def classification_options(function: _Function) -> _Function:
    """Add the options of classification to a verb that fuses; `--labels` is added by the verb."""
    for option in reversed(_FUSED):
        function = option(function)
    return function


def retuned_options(function: _Function) -> _Function:
    """Add the options of classification that can be retuned."""
    for option in reversed(_RETUNED):
        function = option(function)
    return function


def classifier(options: Mapping[str, Any], stats: Path | None) -> ClassificationPostProcessor:
    """Build the post-processor from the options, and from the limits that `calibrate` found, if a file is given."""
    from pp_graph.postprocessors import ClassificationPostProcessor
    from pp_graph.postprocessors.class_names import read_class_names

    file = options.get("labels")
    settings = {} if stats is None else classifier_settings(stats)
    settings |= {name: options[name] for name in NAMES if options[name] is not None}
    labels = () if file is None else read_class_names(file)
    shared = {name: options[name] for name in SHARED}
    return ClassificationPostProcessor(labels=labels, **shared, **settings)


def classifier_settings(stats: Path) -> dict[str, Any]:
    """Read the limits that `pp-graph calibrate --task classification` wrote."""
    from pp_graph.calibration.classification import load_classifier_settings

    return load_classifier_settings(stats)
