"""Progress bars in terminals and notebooks."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, Task, TaskID
    from rich.text import Text

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Bar:
    """A progress bar. Call it with the amount of work just done."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def __call__(self, done: float) -> None:
        """Advance by an amount of work, to all of it at most."""
        task = self._progress.tasks[0]
        self._progress.advance(self._task, done if task.total is None else min(done, task.total - task.completed))

    def expect(self, total: float) -> None:
        """Set the amount of all work, once it is known."""
        self._progress.update(self._task, total=total)


@contextlib.contextmanager
def progress_bar(description: str, total: float | None, *, quiet: bool = False, seconds: bool = False) -> Iterator[Bar]:
    """Show a progress bar in a notebook, or on stderr if it is a terminal.

    Args:
        description: What is done.
        total: Amount of all work; None if unknown.
        quiet: True shows nothing.
        seconds: True if work is counted in seconds, which pass without a rate.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Items per second."""

        def render(self, task: Task) -> Text:
            if seconds:
                return Text("s")
            return Text("" if task.speed is None else f"{task.speed:,.1f}/s")

    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not (console.is_terminal or console.is_jupyter),
    )
    with progress:
        yield Bar(progress, progress.add_task(description, total=total))


def expect(progress: object, total: float) -> None:
    """Tell a bar of this module the amount of all work; do nothing for any other `progress`."""
    if isinstance(progress, Bar):
        progress.expect(total)


def shows_progress(description: str, *, seconds: bool = False) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Let a function take `progress=True` for a progress bar. It gets the bar in place of True."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def shown(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if kwargs.get("progress") is not True:
                return function(*args, **kwargs)
            with progress_bar(description, None, seconds=seconds) as bar:
                changed: dict[str, Any] = {**kwargs, "progress": bar}
                return function(*args, **changed)

        return shown

    return decorate
