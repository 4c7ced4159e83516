"""Run a function in a process of its own, with limits of time and memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import DeviceError, PPGraphError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from pathlib import Path

_PRELOADED: Final = "pp_graph.fleet.preloaded"
_LOG_LINES: Final = 3
_MEMORY_WORDS: Final = ("bad_alloc", "MemoryError", "Failed to allocate memory", "Cannot allocate memory")
"""What runtimes say when they get no memory."""
_running: set[BaseProcess] = set()


class TaskError(Exception):
    """A task failed.

    Attributes:
        slot: The task.
        title: The task, for people.
        problem: What happened.
        absent: True if the machine lacks its device.
    """

    def __init__(self, slot: str, title: str, problem: str, absent: bool = False) -> None:
        super().__init__(slot, title, problem, absent)  # what a worker sends
        self.slot, self.title, self.problem, self.absent = slot, title, problem, absent

    def __str__(self) -> str:
        """Return the message."""
        return f"{self.title}: {self.problem}"


class ProcessError(Exception):
    """A function did not return in its process.

    Attributes:
        again: True if it may go better the next time.
        absent: True if the machine lacks a device.
    """

    def __init__(self, problem: str, *, again: bool, absent: bool = False) -> None:
        super().__init__(problem)
        self.again, self.absent = again, absent


def run_isolated(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    seconds: float,
    memory: int,
    cores: frozenset[int],
    log: Path,
) -> Any:
    """Run a function in a new process, and return its result.

    Args:
        function: A function that can be pickled.
        arguments: Its arguments.
        seconds: Time after which the process is ended.
        memory: Bytes that the process may allocate, where the system can limit them (Linux).
        cores: Cores that it may use, likewise; empty for all.
        log: File for what it prints; removed if the function returns.

    Raises:
        ProcessError: The function raised, or the process ended before it returned.
    """
    # A process started from this one would inherit its threads' locks; a fork server has none, and imports only once.
    forking = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if forking else "spawn")
    if forking:
        context.set_forkserver_preload([_PRELOADED])
    log.parent.mkdir(parents=True, exist_ok=True)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, function, arguments, memory, seconds, cores, str(log)))
    with _children_allowed():
        process.start()
    theirs.close()
    _running.add(process)
    try:
        if not ours.poll(seconds):
            raise ProcessError(f"took more than {seconds:g} s and was stopped (field 'timeout')", again=False)
        try:
            outcome, value = ours.recv()
        except EOFError:
            process.join()
            raise ProcessError(_how_it_ended(process.exitcode, memory, log), again=True) from None
    finally:
        process.kill()
        process.join()
        process.close()
        _running.discard(process)
        ours.close()
    if outcome == "done":
        log.unlink(missing_ok=True)
        return value
    raise ProcessError(value, again=outcome == "again", absent=outcome == "absent")


def stop_all() -> None:
    """End all processes of this one."""
    for process in list(_running):
        with contextlib.suppress(ValueError):  # closed meanwhile
            process.kill()


@contextlib.contextmanager
def _children_allowed() -> Any:
    """Let a daemonic process, such as a worker that `dask worker` started, start another one.

    multiprocessing refuses, because the child would stay when the worker ends; ours ends with it.
    """
    settings: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    daemonic = settings.pop("daemon", None)
    try:
        yield
    finally:
        if daemonic is not None:
            settings["daemon"] = daemonic


def _how_it_ended(code: int | None, memory: int, log: Path) -> str:
    try:
        lines = log.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    last = "; ".join(line.strip() for line in lines[-_LOG_LINES:] if line.strip())
    if _tells_of_memory(last):
        return _out_of_memory(memory)
    if code is not None and code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            how += ", perhaps by the system for lack of memory"
        if hasattr(signal, "SIGXCPU") and -code == signal.SIGXCPU:
            return "used the cores for longer than its time and was stopped (field 'timeout')"
    else:
        how = f"ended with status {code}"
    return f"its process {how}{f' after: {last}' if last else ''}"


def _tells_of_memory(text: str) -> bool:
    return any(words in text for words in _MEMORY_WORDS)


def _out_of_memory(memory: int) -> str:
    return f"needed more memory than {memory / 2**30:.3g} GiB (field 'memory')"


def _run(
    results: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    memory: int,
    seconds: float,
    cores: frozenset[int],
    log: str,
) -> None:
    """Run a function in this process, and send its result."""
    _limit(memory, seconds, cores, log)
    try:
        outcome, value = "done", function(*arguments)
    except MemoryError:
        outcome, value = "failed", _out_of_memory(memory)
    except DeviceError as error:
        outcome, value = "absent", f"{error}"
    except PPGraphError as error:
        outcome, value = "again" if isinstance(error, OSError) else "failed", f"{error}"
        if _tells_of_memory(value):
            value = _out_of_memory(memory)
    except OSError as error:
        outcome, value = "again", f"file '{error.filename}' cannot be used: {error.strerror or error}"
    except BaseException as error:
        import traceback

        traceback.print_exc()
        outcome = "failed"
        value = f"unexpected {type(error).__name__}: {first_line(error)}; see '{log}'"
        if _tells_of_memory(str(error)):
            value = _out_of_memory(memory)
    results.send((outcome, value))
    results.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a runtime that hangs or crashes when it is taken down takes nothing along


def _limit(memory: int, seconds: float, cores: frozenset[int], log: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    if hasattr(os, "sched_setaffinity") and cores:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cores)
    try:
        import resource
    except ImportError:  # Windows
        return
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Holds when the parent can end nobody any more.
    limit = int(seconds * (len(cores) or os.cpu_count() or 1)) + 10
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


class Seats:
    """Divides the cores of this machine among tasks that run at the same time."""

    def __init__(self, count: int) -> None:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._free: queue.SimpleQueue[frozenset[int]] = queue.SimpleQueue()
        for seat in range(count):
            own = cores[seat::count] if len(cores) >= count else cores[seat % max(1, len(cores)) :][:1]
            self._free.put(frozenset(own))

    @contextlib.contextmanager
    def taken(self) -> Any:
        """Yield the cores of a seat."""
        cores = self._free.get()
        try:
            yield cores
        finally:
            self._free.put(cores)
