"""How a verb parses and documents its options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pp_graph.cli.output import start_log

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECTIONS: Final = {
    "anomaly": "Options for anomaly models",
    "frames": "Options for camera frames",
    "video": "Options for videos, cameras and streams",
    "auto": "Options for --precision auto",
    "int8": "Options for --precision int8",
    **{
        task: f"Options for --task {task}"
        for task in ("classification", "detection", "segmentation", "sequence", "regions")
    },
}
"""Heading of the options whose help text begins with a key and a colon."""
_SEVERAL: Final = "Options for several tasks"
_SPELLINGS: Final = {
    "fp32": "f32", "float32": "f32", "float": "f32", "fp16": "f16", "float16": "f16", "half": "f16",
    "bfloat16": "bf16", "uint8": "u8", "uint16": "u16", "i8": "int8", "boolean": "bool",
}  # fmt: skip


def spelled(text: str) -> str:
    """Return the field's name of an element type or precision that was spelled in another way, such as `fp16`."""
    plain = text.strip().lower()
    return _SPELLINGS.get(plain, plain)


class _Choice(click.Choice[str]):
    """Choices that may be written in other cases, with underscores, or by a common other name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value not in self.choices:
            wanted = {value.strip().lower().replace("_", "-"), spelled(value)}
            value = next((each for each in self.choices if each.lower().replace("_", "-") in wanted), value)
        return super().convert(value, param, ctx)


class _Device(click.types.StringParamType):
    """A device name in any case."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        del param, ctx
        return value.upper() if isinstance(value, str) and value.islower() else value


_LOGGING: Final = (
    click.Option(["-v", "--verbose"], is_flag=True, help="Also say versions, time, and tracebacks of errors."),
    click.Option(["-q", "--quiet"], is_flag=True, help="Say nothing but results and errors."),
    click.Option(["--log-file"], type=click.Path(path_type=Path), metavar="FILE",
                 help="Append notes, errors with tracebacks, versions and time to this file."),
)  # fmt: skip


class Verb(click.Command):
    """A command whose help opens with examples, and which reports all wrong options at once."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        """Take the parameters of `click.Command`."""
        super().__init__(*args, **settings)
        self.params.extend(_LOGGING)
        for parameter in self.params:
            if type(parameter.type) is click.Choice:
                parameter.type = _Choice(parameter.type.choices)
            elif parameter.name in ("device", "devices"):
                parameter.type = _Device()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments.

        Raises:
            click.UsageError: Something is wrong; the message lists everything that is.
        """
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            problems = self._problems(click.Context(self, info_name=ctx.info_name, parent=ctx.parent), given)
            if len(problems) < 2:
                raise
            lines = "\n".join(f"  {problem.format_message()}" for problem in problems)
            raise click.UsageError(f"{len(problems)} things are wrong:\n{lines}", ctx=ctx) from error

    def _problems(self, ctx: click.Context, args: list[str]) -> list[click.UsageError]:
        """Parse again, and go on after each error."""
        problems: list[click.UsageError] = []
        while True:
            try:
                values, rest, order = self.make_parser(ctx).parse_args(args=list(args))
                break
            except click.NoSuchOption as error:
                problems.append(error)
                args = [text for text in args if text.partition("=")[0] != error.option_name]
                if len(problems) > 1 and str(problems[-2]) == str(error):
                    return problems[:-1]
            except click.UsageError as error:
                return [*problems, error]
        unknown = bool(problems)
        for parameter in click.core.iter_params_for_processing(order, self.get_params(ctx)):
            try:
                _, rest = parameter.handle_parse_result(ctx, values, rest)
            except click.UsageError as error:
                problems.append(error)
        if rest and not unknown:  # else perhaps the values of unknown options
            problems.append(click.UsageError(f"Got unexpected arguments ({' '.join(map(str, rest))})", ctx=ctx))
        return problems

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb, with the log that the options ask for."""
        given = {option.name: ctx.params.pop(option.name or "", None) for option in _LOGGING}
        if given["verbose"] and given["quiet"]:
            raise click.UsageError("-v and -q contradict each other. Use one of them.", ctx=ctx)
        level = 1 if given["verbose"] else -1 if given["quiet"] else 0
        start_log(ctx.command_path.partition(" ")[2], level=level, file=given["log_file"])
        return super().invoke(ctx)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write usage, examples, description and options."""
        self.format_usage(ctx, formatter)
        self.format_epilog(ctx, formatter)
        self.format_help_text(ctx, formatter)
        self.format_options(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of a task or precision under a heading of their own."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], _SEVERAL: []}
        for heading, record in self._records(ctx):
            sections.setdefault(heading, []).append(record)
        sections[_SEVERAL] = sections.pop(_SEVERAL)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def _records(self, ctx: click.Context) -> Iterator[tuple[str, tuple[str, str]]]:
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None or not isinstance(parameter, click.Option):
                continue
            found = re.match(r"([a-z0-9, ]+): +(.*)", record[1], flags=re.DOTALL)
            tasks = [] if found is None else found[1].split(", ")
            if found is None or not all(task in _SECTIONS for task in tasks):
                yield "Options", record
            elif len(tasks) == 1:
                yield _SECTIONS[tasks[0]], (record[0], found[2][:1].upper() + found[2][1:])
            else:
                yield _SEVERAL, record
