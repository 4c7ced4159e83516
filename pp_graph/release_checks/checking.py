"""Verify and time models, and compare what was found with limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pp_graph.benchmarking import benchmark, load_report
from pp_graph.errors import DataError, PPGraphError
from pp_graph.release_checks.limits import read_limits
from pp_graph.release_checks.report import CheckedModel, Finding, ReleaseReport
from pp_graph.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pp_graph.benchmarking import BenchmarkReport, ContenderReport
    from pp_graph.release_checks.limits import Check


def check_release(limits: str | Path, *, progress: Callable[[str], None] | None = None) -> ReleaseReport:
    """Check models against limits.

    A model whose files are missing or unreadable is reported as such; the others are checked nevertheless.

    Args:
        limits: YAML file of checks; see `read_limits`. Paths in it are relative to its folder.
        progress: Called with the name of each model before it is checked.

    Raises:
        SettingsError: The file of limits cannot be read, or a field does not fit.
    """
    folder = Path(limits).parent
    checked = []
    for check in read_limits(limits):
        if progress is not None:
            progress(check.title)
        try:
            checked.append(CheckedModel(check.title, tuple(_findings(check, folder))))
        except (PPGraphError, OSError) as error:
            checked.append(CheckedModel(check.title, (), f"{error}"))
    return ReleaseReport(tuple(checked))


def _findings(check: Check, folder: Path) -> Iterator[Finding]:
    raw, model, data = (folder / path for path in (check.raw, check.model, check.data))
    precision = None if check.inference_precision == "default" else check.inference_precision
    limits = check.limits
    report = verify(
        raw,
        model,
        data,
        device=check.device,
        inference_precision=precision,
        max_label_flips=limits.label_flips,
        max_pixel_flips=limits.pixel_flips,
    )
    decisions = sum(decision.total for decision in report.decisions)
    failures = report.postprocessing_failures
    yield Finding(
        "post-processing",
        not failures,
        f"{report.postprocessing_flips:,} of {decisions:,} decisions about {report.images:,} images",
        "0",
        "\n".join(failures),
    )
    for drift in report.drift:
        yield Finding(f"{drift.kind} flipped by drift", drift.within_limit, f"{drift.flips:,} of {drift.total:,}",
                      "any" if drift.limit is None else str(drift.limit))  # fmt: skip
    if limits.ratio_to_raw is None and limits.ratio_to_release is None:
        return
    release = None if check.release is None else folder / check.release
    measured_before = release is not None and release.suffix == ".json"
    timing = benchmark(
        raw,
        [model],
        devices=[check.device],
        inference_precisions=[check.inference_precision],
        against=[] if release is None or measured_before else [release],
        images=data,
        seconds=check.seconds,
        memory=False,
    )
    after = _result(timing, model, check)
    if limits.ratio_to_raw is not None:
        yield _latency("latency over raw", after.ratio, (after.ratio_low, after.ratio_high), limits.ratio_to_raw)
    if limits.ratio_to_release is not None and release is not None:
        before = _result(
            load_report(release) if measured_before else timing, model if measured_before else release, check
        )
        interval = after.ratio_low / before.ratio_high, after.ratio_high / before.ratio_low
        yield _latency("latency over the release", after.ratio / before.ratio, interval, limits.ratio_to_release)


def _latency(name: str, ratio: float, interval: tuple[float, float], limit: float) -> Finding:
    """Compare a ratio with its limit. It fails if its whole interval is above, so that noise alone does not."""
    low, high = interval
    return Finding(name, low <= limit, f"{ratio:.3f} ({low:.3f} to {high:.3f})", f"{limit:g}")


def _result(report: BenchmarkReport, model: Path, check: Check) -> ContenderReport:
    """Return the result of a model, found by the name of its file, on the check's device and in its precision."""
    wanted = check.device, check.inference_precision
    own = [each for each in report.results if (each.device, each.asked_precision) == wanted]
    exact = [each for each in own if each.name == str(model)]
    named = exact or [each for each in own if Path(each.name).name == model.name]
    if len(named) != 1:
        listed = ", ".join(f"{each.name} ({each.device}, {each.asked_precision})" for each in report.results)
        raise DataError(
            f"The benchmark of the last release has {len(named)} results for '{model.name}' on {wanted[0]} in "
            f"{wanted[1]}, expected one. It has: {listed}. Measure the release with these settings."
        )
    return named[0]
