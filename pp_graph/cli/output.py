"""Print results on stdout and everything else on stderr."""

from __future__ import annotations

import contextlib
import datetime
import functools
import io
import json
import os
import re
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pp_graph.summary import Block

# Messages name an option for both interfaces: `--force (overwrite=True)`, or `head=... (--head NAME)`.
_PYTHON_AFTER = re.compile(r"(--[a-z][\w-]*[^()]*?) \([a-z_]+=(?:[^()]|\([^()]*\))*\)")
_NAMED_TWICE = re.compile(r"\b([a-z]+(?:_[a-z]+)*) \((--[a-z-]+)\)")
_FUNCTION = re.compile(r"pp_graph\.[a-z_.]+ \((pp-graph [^()]*)\)")
_OPTION = re.compile(r"^[a-z]+(?= (?:is|has|holds|was) )|(?<![\w'\"./=-])[a-z]+(?:_[a-z]+)+(?![\w'\"./=(])")
_NOT_OPTIONS: Final = frozenset(
    {
        "key_points",
        "input_dtype",
        *(f"{level}_{name}" for level in ("image", "pixel") for name in ("threshold", "min", "max")),
    }
)
"""Names of outputs and of fields in files, which some options share."""
_PYTHON_BEFORE = re.compile(r"\b[a-z_]+=(?:\([^()]*\)|[^\s()]+(?:\([^()]*\))?) \((--[^()]*)\)")


class _Log:
    """What is said besides results: how much of it, and the file that it is copied to."""

    def __init__(self) -> None:
        self.level = 0
        self.file: Path | None = None
        self.started = time.perf_counter()

    def write(self, text: str) -> None:
        """Append a line to the file, if there is one."""
        if self.file is not None:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(f"{now} {text}\n")


_log = _Log()


def start_log(verb: str, *, level: int, file: Path | None) -> None:
    """Set how much is said: -1 only errors, 0 notes, 1 also versions and time.

    Args:
        verb: The verb that runs.
        level: The level.
        file: File to append notes, errors with tracebacks, versions and time to; None for none.
    """
    _log.level, _log.file, _log.started = level, file, time.perf_counter()
    if level > 0 or file is not None:
        detail(f"pp-graph {verb}, {_versions()}")


def end_log() -> None:
    """Say how long the verb took."""
    with contextlib.suppress(OSError):
        detail(f"took {time.perf_counter() - _log.started:.2f} s")
    _log.level, _log.file = 0, None


def detail(message: str) -> None:
    """Write a remark to stderr with -v, and to the file of --log-file."""
    _log.write(message)
    if _log.level > 0:
        click.echo(message, err=True)


def _versions() -> str:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = [f"Python {platform.python_version()}"]
    for name in ("pp_graph", "onnx", "onnxruntime", "openvino", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


class _PipeTolerant(io.TextIOWrapper):
    """Standard output that ignores a closed pipe, such as that of `| head`, and leaves the exit status alone."""

    closed_by_reader = False

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
            self.closed_by_reader = True
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


def nobody_reads() -> bool:
    """Return True if whoever read standard output has closed it."""
    return isinstance(sys.stdout, _PipeTolerant) and sys.stdout.closed_by_reader


def print_json(result: dict[str, Any]) -> None:
    """Write the one JSON object of `--json` to stdout."""
    click.echo(json.dumps(result, indent=1, allow_nan=False))


def on_command_line(message: str) -> str:
    """Spell options as on the command line, where a message names them for Python, or for both interfaces."""
    message = _PYTHON_BEFORE.sub(r"\1", _PYTHON_AFTER.sub(r"\1", message))
    message = _FUNCTION.sub(r"\1", _NAMED_TWICE.sub(_named_once, message))
    message = re.sub(r"Post-processor '\w+' has no (?=--)", "The post-processing of this model has no ", message)
    message = message.replace("is not a valid float.", "is not a number.")
    if re.match(r"\w+ (file '|'.*?', line \d)", message):  # settings in a file have the names of Python
        return message
    return _OPTION.sub(lambda found: _flag(found[0]), message.replace("is not a valid integer.", "is no whole number."))


def _named_once(found: re.Match[str]) -> str:
    """Return `--raise-opset` for `raise_opset (--raise-opset)`; leave other words before an option alone."""
    return found[2] if found[2] == f"--{found[1].replace('_', '-')}" else found[0]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}" if name in _option_names() else name


@functools.cache
def _option_names() -> frozenset[str]:
    """Names of parameters in Python that are options of a verb."""
    from pp_graph.cli import COMMANDS

    flags = {flag for verb in COMMANDS for option in verb.params for flag in option.opts if flag.startswith("--")}
    return frozenset(flag.removeprefix("--").replace("-", "_") for flag in flags) - _NOT_OPTIONS


def print_error(kind: str, message: str, *, as_json: bool) -> None:
    """Write an error to stderr, with `--json` also as an object to stdout."""
    message = on_command_line(message)
    click.echo(_for_stderr(f"Error: {message}"), err=True)
    found = "" if sys.exception() is None else f"\n{traceback.format_exc()}"
    with contextlib.suppress(OSError):
        _log.write(f"Error: {message}{found}")
    if _log.level > 0:
        click.echo(found, err=True)
    if as_json:
        print_json({"error": {"type": kind, "message": message}})


def note(message: str) -> None:
    """Write a remark to stderr, unless with -q."""
    message = on_command_line(message)
    _log.write(message)
    if _log.level >= 0:
        click.echo(_for_stderr(message), err=True)


def _for_stderr(text: str) -> str:
    from pp_graph.summary import terminal_width, wrap_text

    return wrap_text(text, terminal_width(err=True))


def print_line(text: str) -> None:
    """Write a sentence to stdout."""
    from pp_graph.summary import Line

    print_blocks([Line(text)])


def print_blocks(blocks: Sequence[Block]) -> None:
    """Write tables to stdout, as wide as the terminal or whole, and remarks to stderr."""
    from pp_graph.summary import Remark, lines_of, terminal_width

    width = terminal_width()
    for block in blocks:
        if isinstance(block, Remark):
            note(block.text)
            continue
        for line in lines_of(block, width):
            click.secho(line.text, bold=line.bold or None)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to stdout."""
    from pp_graph.summary import Table

    print_blocks([Table(title, columns, rows)])


def print_fields(title: str, fields: Mapping[str, str]) -> None:
    """Write names and values to stdout, aligned."""
    from pp_graph.summary import Fields

    print_blocks([Fields(title, fields)])


@contextlib.contextmanager
def progress_bar(description: str, total: int | None, *, seconds: bool = False) -> Iterator[Callable[[float], None]]:
    """Show a progress bar on stderr if it is a terminal.

    Args:
        description: What is done.
        total: Amount of all work; None if unknown.
        seconds: True if work is counted in seconds.

    Yields:
        A function to call with the amount of work just done.
    """
    from pp_graph import progress

    with progress.progress_bar(description, total, quiet=_log.level < 0, seconds=seconds) as bar:
        yield bar
