"""Two benchmark reports side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pp_graph.benchmarking.report import BenchmarkReport, ContenderReport


@dataclass(frozen=True)
class ChangedResult:
    """What became of a model from one report to the other.

    Attributes:
        name: The model.
        device: Where it ran.
        precision: The precision asked for.
        before: Its figures in the first report; None where it is not there.
        after: Its figures in the second.
        verdict: `faster` or `slower` where the confidence intervals of its ratios to the raw model are apart, else
            `same`; `only in one` where there is nothing to compare.
    """

    name: str
    device: str
    precision: str
    before: ContenderReport | None
    after: ContenderReport | None
    verdict: str


def compare_reports(before: BenchmarkReport, after: BenchmarkReport) -> tuple[list[ChangedResult], list[str]]:
    """Compare two reports.

    Ratios to the raw model of the same run are compared, not times: they survive another machine load.

    Returns:
        One line for each model, and the other differences between both runs.
    """
    old = {(each.device, each.asked_precision, each.name): each for each in before.results}
    new = {(each.device, each.asked_precision, each.name): each for each in after.results}
    changes = []
    for key in dict.fromkeys([*old, *new]):
        device, precision, name = key
        first, second = old.get(key), new.get(key)
        changes.append(ChangedResult(name, device, precision, first, second, _verdict(first, second)))
    differences = []
    for what in ("machine", "versions", "settings"):
        left, right = getattr(before, what), getattr(after, what)
        differences += [
            f"{what}, {name}: {left.get(name, '-')} → {right.get(name, '-')}"
            for name in dict.fromkeys([*left, *right])
            if left.get(name) != right.get(name)
        ]
    return changes, differences


def _verdict(before: ContenderReport | None, after: ContenderReport | None) -> str:
    if before is None or after is None:
        return "only in one"
    if after.ratio_high < before.ratio_low:
        return "faster"
    if after.ratio_low > before.ratio_high:
        return "slower"
    return "same"
