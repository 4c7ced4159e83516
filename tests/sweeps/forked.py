"""Run the command line in forks of a warm interpreter, with limits."""

from __future__ import annotations

import importlib
import os
import resource
import select
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SECONDS: Final = 10
"""Processor time a command may take. Time on the clock says little on a machine that others use."""
_WALL_SECONDS: Final = 180
"""Time on the clock after which a command that waits for something is ended."""
BYTES: Final = 1 << 30
"""Memory a command may take beyond that of the imported libraries."""
_LATE: Final = (
    "onnx_ir.passes.common", "onnxruntime", "openvino", "PIL.ImageFile", "yaml", "pp_graph.cli", "pp_graph.report",
    "pp_graph.running",
)  # fmt: skip
_ADDRESSES: Final = 6 << 30
"""Address space, so that what takes too much fails instead of stopping the machine."""


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        status: Exit status; the negative number of the signal that ended it.
        output: What it wrote to stdout and stderr.
        seconds: Processor time.
        bytes: Peak memory beyond that of the imported libraries.
        waited: True if it was ended because it did not end.
    """

    status: int
    output: str
    seconds: float
    bytes: int
    waited: bool

    @property
    def kind(self) -> str:
        """`0`, `1` or `2`, the exit status, if all is well; otherwise what is not."""
        if self.waited or self.seconds > SECONDS or self.status == -signal.SIGXCPU:
            return "hang"
        if self.status < 0:
            return "crashed"
        if self.bytes > BYTES:
            return "memory"
        untyped = self.status > 2 or "defect in pp_graph" in self.output or "Traceback (most" in self.output
        return "untyped" if untyped else str(self.status)


def warm_up() -> None:
    """Import what the verbs import late."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in _LATE:
        importlib.import_module(name)


def _fields(name: str) -> int:
    return next(
        int(line.split()[1]) << 10 for line in Path("/proc/self/status").read_text().splitlines() if name in line
    )


@dataclass(frozen=True)
class Started:
    """A command in a fork of this process."""

    child: int
    log: Path
    resident: int

    def outcome(self) -> Outcome:
        """Wait until it ends, and end it if it does not."""
        descriptor = os.pidfd_open(self.child)
        try:
            waited = not select.select([descriptor], [], [], _WALL_SECONDS)[0]
        finally:
            os.close(descriptor)
        if waited:
            os.kill(self.child, signal.SIGKILL)
        _, status, usage = os.wait4(self.child, 0)
        return Outcome(
            status=os.waitstatus_to_exitcode(status),
            output=self.log.read_text("utf-8", "replace"),
            seconds=usage.ru_utime + usage.ru_stime,
            bytes=max(0, (usage.ru_maxrss << 10) - self.resident),
            waited=waited,
        )


def start(work: Callable[[], int], log: Path, *, limited: bool = True) -> Started:
    """Call a function in a fork, its output going to a file. This process must have no other threads.

    Args:
        work: Returns the exit status.
        log: File for stdout and stderr.
        limited: Limit processor time and address space.
    """
    resident = _fields("VmRSS:")
    sys.stdout.flush()
    log.touch()
    child = os.fork()
    if child == 0:
        _end_in_child(work, log, _fields("VmSize:") + _ADDRESSES if limited else None)
    return Started(child, log, resident)


def command(arguments: Sequence[str | Path], folder: Path, *, limited: bool = True) -> Started:
    """Start a command line in a folder."""

    def work() -> int:
        from pp_graph.cli import run

        os.chdir(folder)
        return run([str(argument) for argument in arguments])

    return start(work, folder / "log.txt", limited=limited)


def _end_in_child(work: Callable[[], int], log: Path, addresses: int | None) -> None:
    status = 99
    try:
        with log.open("wb", buffering=0) as stream, open(os.devnull) as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 0)
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        if addresses is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS + 1, SECONDS + 2))
            resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        status = work()
    except SystemExit as request:
        status = int(request.code or 0)
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        os._exit(status)
