"""Options of the verbs that fuse, and the post-processor built from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pp_graph.cli.frames import parse_frame_size
from pp_graph.cli.numbers import given_numbers, number_options, with_numbers
from pp_graph.cli.options import PATH, named_roles, role_options
from pp_graph.cli.output import note
from pp_graph.cli.tasks import ANOMALY, TASKS, refuse_options, task_options
from pp_graph.one_class_options import OPTIONS, Option

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.fusion import FusedModel
    from pp_graph.postprocessors import PostProcessor
    from pp_graph.statistics import Statistics

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class PostProcessing:
    """Parsed values of `post_processing_options`.

    Attributes:
        recipe: File that lists the steps; None for the one-class post-processor.
        roles: Names of outputs by role.
        keep_raw: Keep the raw outputs as well.
        tail: Rewrite the raw model's own tail.
        raise_opset: Opset to bring the raw model to first; None for its own.
        strict: Fail if the statistics were calibrated on a different model.
        settings: Keyword arguments of `OneClassPostProcessor`.
        given: Names of the settings that the user set explicitly.
        task: Name of the task.
        options: Values of all options.
    """

    recipe: Path | None
    roles: dict[str, str]
    keep_raw: bool
    tail: bool
    raise_opset: int | None
    strict: bool
    settings: dict[str, Any]
    given: frozenset[str]
    task: str = ANOMALY
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def output_form(self) -> dict[str, Any]:
        """The given options that change the form of the outputs; see `Option.output_form`."""
        return {
            name: self.settings[name] for name, option in OPTIONS.items() if option.output_form and name in self.given
        }

    def fuse(self, raw: Path, stats: Path | None, *, replace: bool = False) -> FusedModel:
        """Fuse a raw model with the statistics of a file, and print notes.

        Settings in the statistics file apply unless an option overrides them.
        """
        from pp_graph.errors import OutputRoleError
        from pp_graph.fusion import fuse
        from pp_graph.model import RawModel
        from pp_graph.plausibility import size_notes, threshold_warnings
        from pp_graph.postprocessors import OneClassPostProcessor, RecipePostProcessor
        from pp_graph.postprocessors.hints import mismatch_note, task_hint
        from pp_graph.statistics import Statistics

        task = TASKS.get(self.task)
        other_stats = task is not None and task.reads_stats
        statistics = None if stats is None or other_stats else Statistics.load(stats)
        numbers = given_numbers(self.options)
        if task is None:
            statistics = with_numbers(statistics, numbers)
        else:
            self._refuse_numbers(task.names)
        post: PostProcessor
        if task is not None:
            self._refuse_settings(task.settings)
            if self.recipe is not None or (stats is not None and not task.reads_stats):
                flag = "--recipe" if self.recipe is not None else "--stats"
                raise click.UsageError(f"{flag} does not apply to --task {self.task}. Leave out one of them.")
            post = task.build(self.options, {**self.settings, "given": self.given, "stats": stats})
        elif self.recipe is None:
            settings = self.settings if stats is None or statistics is None else self._settings_with(statistics, stats)
            self._refuse_ineffective(settings)
            post = OneClassPostProcessor(statistics, **settings)
        else:
            self._refuse_settings()
            post = RecipePostProcessor.load(self.recipe, statistics)
        try:
            fused = fuse(
                raw,
                post,
                roles=self.roles,
                keep_raw=self.keep_raw,
                replace=replace,
                tail=self.tail,
                raise_opset=self.raise_opset,
                strict=self.strict,
                input_size=parse_frame_size(self.options["input_size"], "--input-size"),
            )
        except OutputRoleError as error:
            if self.recipe is not None or self.task in TASKS or self.roles:
                raise
            raise OutputRoleError(f"{error}{task_hint(RawModel.open(raw))}") from error
        for remark in fused.notes:
            note(f"Note: {remark}")
        for remark in size_notes(fused.provenance, [each.name for each in fused.network.inputs]):
            note(f"Note: {remark}")
        for warning in threshold_warnings(fused.provenance.parameters):
            note(f"Warning: {warning}")
        told = self.recipe is not None or self.roles or self.options["input_size"] is not None
        other = "" if told else mismatch_note(RawModel.open(raw), self.task)
        if other:
            note(f"Note: {other}")
        return fused

    def _refuse_settings(self, allowed: Sequence[str] = ()) -> None:
        given = [option for option in OPTIONS.values() if option.name in self.given and option.name not in allowed]
        option = next(iter(given), None)
        if option is not None and self.task in TASKS:
            raise click.UsageError(
                f"{option.flag} applies only to anomaly models, and the task is {self.task}. Leave out {option.flag}."
            )
        if option is not None:
            raise click.UsageError(
                f"{option.flag} applies only to the one-class post-processor, and --recipe replaces it. Leave out "
                f"{option.flag}, or write what it does into the recipe."
            )

    def _refuse_numbers(self, allowed: Sequence[str]) -> None:
        name = next((each for each in given_numbers(self.options) if each not in allowed), None)
        if name is not None:
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(
                f"{flag} applies only to anomaly models, and the task is {self.task}. Leave out {flag}."
            )

    def _refuse_ineffective(self, settings: dict[str, Any]) -> None:
        outputs = settings["outputs"]
        for option in OPTIONS.values():
            written = settings["threshold"] and (not isinstance(outputs, list | tuple) or option.moves in outputs)
            if option.moves is not None and option.name in self.given and not written:
                raise click.UsageError(
                    f"{option.flag} has no effect, because {option.moves} is not written (--outputs, --no-threshold). "
                    f"Leave out {option.flag}, or write {option.moves}."
                )

    def _settings_with(self, statistics: Statistics, file: Path) -> dict[str, Any]:
        from pp_graph.errors import StatisticsError

        settings = dict(self.settings)
        if statistics.provenance is None:
            return settings
        for remark in statistics.provenance.notes:
            note(f"Note: {remark}")
        for name, value in statistics.provenance.settings.items():
            if name not in settings:
                raise StatisticsError(
                    f"Statistics file '{file}' has a setting '{name}', expected some of: {', '.join(settings)}. "
                    "Take it out of the file."
                )
            if name not in self.given and value != settings[name]:
                note(f"Note: {name}={value} comes from {file.name}")
                settings[name] = value
        return settings


def _click_option(option: Option) -> Callable[[_Function], _Function]:
    """Build the flag of an option of the one-class post-processor."""
    if option.is_switch:
        return click.option(
            f"{option.flag}/--no-{option.flag.removeprefix('--')}",
            default=option.default,
            help=f"anomaly: {option.help}",
        )

    def parse(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
        if text is None or option.parse is None:
            return text
        try:
            return option.parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=option.flag) from error

    return click.option(
        option.flag,
        type=click.Choice(option.choices) if option.choices else float if option.moves else str,
        metavar=option.metavar,
        default=option.default,
        show_default=option.default is not None,
        callback=parse,
        help=f"anomaly: {option.help}",
    )


_OPTIONS = (
    click.option("--recipe", type=PATH, metavar="FILE.yaml",
                 help="Use the steps that this file lists, or the class it names, instead of the one-class "
                 "post-processor."),
    number_options,
    role_options,
    task_options,
    *map(_click_option, OPTIONS.values()),
    click.option("--no-tail", is_flag=True, help="Do not rewrite the raw model's tail."),
    click.option("--raise-opset", type=int, metavar="VERSION",
                 help="Raise the raw model to this opset first, for steps that need it. Fails if a bit of its "
                      "outputs would change. strip restores the original file."),
    click.option("--input-size", metavar="HxW",
                 help="Height and width of the images, for a raw model that leaves them open; some heads of detectors "
                      "need them."),
    click.option("--strict", is_flag=True, help="Fail if the statistics were calibrated on a different model."),
    click.option("--keep-raw", is_flag=True, help="Also return the raw values that the steps read."),
)  # fmt: skip


def post_processing_options(function: _Function) -> _Function:
    """Add the options of the one-class post-processor to a verb."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def post_processing(options: dict[str, Any]) -> PostProcessing:
    """Collect the values of the options."""
    context = click.get_current_context()
    refuse_options(options, options["task"])
    default = click.core.ParameterSource.DEFAULT
    return PostProcessing(
        recipe=options["recipe"],
        roles=named_roles(options),
        keep_raw=options["keep_raw"],
        tail=not options["no_tail"],
        raise_opset=options["raise_opset"],
        strict=options["strict"],
        settings={name: options[name] for name in OPTIONS},
        given=frozenset(name for name in options if context.get_parameter_source(name) is not default),
        task=options["task"],
        options=options,
    )
