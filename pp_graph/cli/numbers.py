"""Options that give statistics as numbers, instead of a file or on top of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from pp_graph.statistics import Statistics

_Function = TypeVar("_Function", bound=Callable[..., Any])

_LEVELS: Final = {"image": "score", "pixel": "map"}
NAMES: Final = tuple(f"{level}_{name}" for level in _LEVELS for name in ("threshold", "min", "max"))
"""The six numbers."""
_OPTIONS: Final = tuple(
    click.option(f"--{level}-{name}", type=float, metavar="X", help=f"anomaly: {text}.")
    for level, raw in _LEVELS.items()
    for name, text in (
        ("threshold", f"raw {raw} above which an {level} is anomalous; overrides that of --stats"),
        ("min", f"smallest raw {raw} of the calibrated range, for normalising"),
        ("max", f"largest raw {raw} of the calibrated range"),
    )
    if (level, name) != ("pixel", "threshold")  # also an option of `--task regions`
)


def number_options(function: _Function) -> _Function:
    """Add the options to a verb."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def given_numbers(options: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that were given, by name."""
    return {name: options[name] for name in NAMES if options.get(name) is not None}


def with_numbers(statistics: Statistics | None, numbers: Mapping[str, float]) -> Statistics | None:
    """Put numbers in the place of those of a file.

    Raises:
        StatisticsError: They do not fit each other.
    """
    if not numbers:
        return statistics
    import msgspec

    from pp_graph.errors import StatisticsError
    from pp_graph.statistics import LevelStatistics, Statistics

    found = statistics or Statistics()
    levels: dict[str, LevelStatistics] = {}
    for level in _LEVELS:
        own = {name.partition("_")[2]: value for name, value in numbers.items() if name.startswith(level)}
        try:
            levels[level] = LevelStatistics(**{**msgspec.structs.asdict(getattr(found, level)), **own})
        except StatisticsError as error:
            raise StatisticsError(f"--{level}-threshold, --{level}-min and --{level}-max: {error}") from error
    return msgspec.structs.replace(found, image=levels["image"], pixel=levels["pixel"])
