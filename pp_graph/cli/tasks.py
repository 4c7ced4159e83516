"""Options of `--task`: what each family of models takes, and the post-processor built from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from pp_graph.cli import classification, detection, numbers, regions, segmentation, sequence

if TYPE_CHECKING:
    from pp_graph.postprocessors import PostProcessor

_Function = TypeVar("_Function", bound=Callable[..., Any])

ANOMALY: Final = "anomaly"
_DEFAULT: Final = re.compile(r"\[default: [^\]]*\]")


@dataclass(frozen=True)
class Task:
    """A family of models.

    Attributes:
        models: What such models are called in messages.
        names: Its own options.
        settings: Options of the one-class post-processor that it takes too.
        reads_stats: True if `--stats` names limits of its own.
        build: Builds the post-processor from the values of both.
    """

    models: str
    names: tuple[str, ...]
    settings: tuple[str, ...]
    build: Callable[[Mapping[str, Any], Mapping[str, Any]], PostProcessor]
    reads_stats: bool = False


TASKS: Final = {
    "classification": Task(
        "classifiers",
        ("labels", *classification.NAMES),
        classification.SHARED,
        classification.post_processor,
        reads_stats=True,
    ),
    "detection": Task("detectors", ("labels", *detection.NAMES), detection.SHARED, detection.post_processor),
    "segmentation": Task(
        "segmentation models",
        ("labels", *segmentation.NAMES),
        ("on_nan", "map_size", "outputs"),
        segmentation.post_processor,
    ),
    "sequence": Task("text recognisers", ("labels", *sequence.NAMES), ("outputs",), sequence.post_processor),
    "regions": Task("models of regions", regions.NAMES, ("on_nan", "regions", "outputs"), regions.post_processor),
}

_TASK = click.option(
    "--task", type=click.Choice([ANOMALY, *TASKS]), default=ANOMALY, show_default=True,
    help="What the model does: score anomalies, classify, detect objects, segment, read text (CTC), or mark regions "
         "such as lines of text.",
)  # fmt: skip
_FUSED = (_TASK, *classification.FUSED, *detection.FUSED, *segmentation.FUSED, *sequence.FUSED, *regions.FUSED)
_RETUNED = (*classification.RETUNED, *detection.RETUNED, *segmentation.RETUNED, *regions.RETUNED)
RETUNED_NAMES: Final = (
    *classification.RETUNED_NAMES, *detection.RETUNED_NAMES, *segmentation.RETUNED_NAMES, *regions.RETUNED_NAMES,
)  # fmt: skip


def task_options(function: _Function) -> _Function:
    """Add the options of all tasks to a verb that fuses; `--labels` is added by the verb."""
    for option in reversed(_FUSED):
        function = option(function)
    return function


def retuned_options(function: _Function) -> _Function:
    """Add the options that can be retuned. Without one, a model keeps its number."""
    for option in reversed(_RETUNED):
        function = option(function)
        added = function.__click_params__[-1]  # type: ignore[attr-defined]
        added.help = _DEFAULT.sub("[default: unchanged]", added.help)
    return function


def refuse_options(given: Mapping[str, Any], task: str) -> None:
    """Raise if an option of another task is given."""
    own = TASKS[task].names if task in TASKS else ()
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    for owner, other in TASKS.items():
        for name in other.names:
            if task == ANOMALY and name in numbers.NAMES:
                continue
            if name in own or given.get(name) is None or context.get_parameter_source(name) is default:
                continue
            flag = f"--{name.replace('_', '-')}"
            if name == "labels":
                raise click.UsageError(f"--labels names classes, and the task is {task}. Add --task {owner}.")
            raise click.UsageError(
                f"{flag} applies only to {other.models}, and the task is {task}. Add --task {owner}, or leave out "
                f"{flag}."
            )
