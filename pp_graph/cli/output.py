"""Print results on stdout and everything else on stderr."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

# Piped output has no width of its own; names and paths must not be cut there.
_PIPED_WIDTH = 160


class _PipeTolerant(io.TextIOWrapper):
    """Standard output that ignores a closed pipe, such as that of `| head`, and leaves the exit status alone."""

    def write(self, text: str) -> int:
        with self._tolerating():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._tolerating():
            super().flush()

    @contextlib.contextmanager
    def _tolerating(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


@contextlib.contextmanager
def pipe_tolerant_stdout() -> Iterator[None]:
    """Write to a standard output that ignores a closed pipe, and may be missing.

    Raises:
        OSError: Something else keeps the output from being written.
    """
    plain = sys.stdout
    buffer = getattr(plain, "buffer", None)
    if plain is None:
        tolerant: TextIO = io.StringIO()
    elif buffer is None:
        tolerant = plain
    else:
        plain.flush()
        tolerant = _PipeTolerant(buffer, encoding=plain.encoding, errors=plain.errors, line_buffering=False)
    sys.stdout = tolerant
    try:
        yield
        tolerant.flush()
    finally:
        sys.stdout = plain
        if isinstance(tolerant, _PipeTolerant):
            with contextlib.suppress(OSError):
                tolerant.detach()


def print_json(result: dict[str, Any]) -> None:
    """Write the one JSON object of `--json` to stdout."""
    click.echo(json.dumps(result, indent=1, allow_nan=False))


def print_error(kind: str, message: str, *, as_json: bool) -> None:
    """Write an error to stderr, with `--json` also as an object to stdout."""
    click.echo(f"Error: {message}", err=True)
    if as_json:
        print_json({"error": {"type": kind, "message": message}})


def note(message: str) -> None:
    """Write a remark to stderr."""
    click.echo(message, err=True)


def console() -> Console:
    """Console for tables on stdout."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    click.secho(title, bold=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)


def print_fields(title: str, fields: dict[str, str]) -> None:
    """Write names and values to stdout, aligned."""
    width = max((len(name) for name in fields), default=0)
    click.secho(title, bold=True)
    for name, value in fields.items():
        click.echo(f"  {name.ljust(width)}  {value}")
    click.echo()


@contextlib.contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Callable[[float], None]]:
    """Show a progress bar on stderr if it is a terminal.

    Yields:
        A function to call with the amount of work just done.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Items per second."""

        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:,.1f}/s")

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.advance(task, done)
