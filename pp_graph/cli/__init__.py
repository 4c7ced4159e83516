"""The command line: parse, call the public API, print. A new verb is one file and one entry in `COMMANDS`."""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING

import click

from pp_graph.cli.benchmark import benchmark
from pp_graph.cli.calibrate import calibrate
from pp_graph.cli.ci import ci
from pp_graph.cli.convert import convert
from pp_graph.cli.demo import demo
from pp_graph.cli.devices import devices
from pp_graph.cli.drift import drift
from pp_graph.cli.explore import explore
from pp_graph.cli.fleet import fleet
from pp_graph.cli.fuse import fuse
from pp_graph.cli.inspect import inspect
from pp_graph.cli.interrupts import heed_interrupts, is_interrupt
from pp_graph.cli.output import end_log, pipe_tolerant_stdout, print_error
from pp_graph.cli.package import package
from pp_graph.cli.plugins import import_plugin
from pp_graph.cli.retune import retune
from pp_graph.cli.run import run_verb
from pp_graph.cli.stats import stats
from pp_graph.cli.strip import strip
from pp_graph.cli.verify import verify
from pp_graph.errors import PPGraphError, StatisticsWarning
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: tuple[click.Command, ...] = (
    inspect,
    calibrate,
    stats,
    fuse,
    convert,
    verify,
    run_verb,
    explore,
    drift,
    benchmark,
    package,
    retune,
    strip,
    fleet,
    ci,
    devices,
    demo,
)

_BAD_INPUT = 2


class _OrderedGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [command.name or "" for command in COMMANDS]


@click.group(
    cls=_OrderedGroup,
    commands=list(COMMANDS),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="pp-graph")
@click.option("--plugin", "plugins", multiple=True, metavar="FILE.py|MODULE",
              help="Import FILE.py or MODULE first, with your own post-processors. Its code runs.")  # fmt: skip
def cli(plugins: tuple[str, ...]) -> None:
    """Write post-processing into ONNX models, convert them to OpenVINO, and prove that no decision changed.

    Exit status: 0 done, 1 a check failed, 2 any other error. PP_GRAPH_DEBUG=1 shows tracebacks.
    """
    for plugin in plugins:
        import_plugin(plugin)


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Args:
        arguments: The words after `pp-graph`.

    Returns:
        The exit status: 0 done, 1 a check failed, 2 any other error.
    """
    as_json = _wants_json(arguments)
    try:
        with pipe_tolerant_stdout(), warnings.catch_warnings():
            warnings.simplefilter("ignore", StatisticsWarning)  # printed as a note
            return _run(arguments, as_json)
    except OSError as error:
        # The result itself could not be written, to a full disk for example.
        print_error(
            "OutputFileError",
            f"Standard output cannot be written: {error.strerror or error}. Send it elsewhere.",
            as_json=False,
        )
        return _BAD_INPUT
    finally:
        end_log()


def _wants_json(arguments: Sequence[str]) -> bool:
    """True if results and errors go to stdout as JSON. `benchmark` can take a file instead."""
    if "--json=-" in arguments:
        return True
    if "--json" not in arguments:
        return False
    given = list(arguments[arguments.index("--json") + 1 :])[:1]
    return "benchmark" not in arguments or not given or given[0].startswith("-")


def _run(arguments: Sequence[str], as_json: bool) -> int:
    try:
        status = cli.main(args=list(arguments), prog_name="pp-graph", standalone_mode=False)
    except click.exceptions.Exit as request:
        return request.exit_code
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None and not as_json:
            click.echo(f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.\n", err=True)
        print_error(type(error).__name__, error.format_message(), as_json=as_json)
        return _BAD_INPUT
    except (click.Abort, KeyboardInterrupt):
        return _interrupted(as_json)
    except Exception as error:
        if is_interrupt(error):
            return _interrupted(as_json)
        unwritable = isinstance(error, OSError) and not isinstance(error, PPGraphError) and error.filename is None
        if unwritable or os.environ.get("PP_GRAPH_DEBUG"):
            raise
        print_error(type(error).__name__, _message(error), as_json=as_json)
        return _BAD_INPUT
    return status if isinstance(status, int) else 0


def _interrupted(as_json: bool) -> int:
    # With `python -m`, an interrupt in code compiled from text, as that of dataclasses, would replace the status; see
    # run_eval_code_obj in Python's source.
    exec("")  # noqa: S102
    print_error("Interrupted", "Interrupted; nothing was left half-written.", as_json=as_json)
    return _BAD_INPUT


def _message(error: Exception) -> str:
    if isinstance(error, PPGraphError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"File '{error.filename}' cannot be used: {error.strerror or error}."
    return (
        f"Unexpected {type(error).__name__}: {error}. This is a defect in pp_graph or a library under it; "
        "run again with PP_GRAPH_DEBUG=1 for the traceback and report it."
    )


def main() -> None:
    """Entry point of `pp-graph`."""
    heed_interrupts()
    sys.exit(run(sys.argv[1:]))
