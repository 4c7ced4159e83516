"""`write_benchmark_report`: a benchmark as one self-contained HTML page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from pp_graph.report.charts import Bar, bar_chart
from pp_graph.report.page import check_page, page, table, warning_list, write_page

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from pp_graph.benchmarking import BenchmarkReport
    from pp_graph.benchmarking.report import ContenderReport
    from pp_graph.report.page import Row


def write_benchmark_report(
    report: BenchmarkReport, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()
) -> Path:
    """Write ratios to the raw model with their intervals, where the time goes, and all figures.

    Args:
        report: The benchmark.
        path: The `.html` file to write.
        overwrite: Replace the file if it exists.
        inputs: Files that are never replaced.

    Raises:
        OutputFileError: The path has another ending, is an input, exists, or cannot be written.
    """
    return write_page(check_page(path), benchmark_page(report), overwrite=overwrite, inputs=inputs)


def benchmark_page(report: BenchmarkReport) -> str:
    """Return the report as HTML."""
    devices = dict.fromkeys((each.device, each.asked_precision) for each in report.results)
    sections = [
        _section([each for each in report.results if (each.device, each.asked_precision) == key]) for key in devices
    ]
    versions = {f"version of {name}": version for name, version in report.versions.items()}
    absent = dict.fromkeys(report.absent_devices, "not on this machine, not measured")
    facts = {**report.machine, **report.settings, **versions, **absent}
    body = (
        f"{warning_list(report.notes, 'Notes')}{''.join(sections)}\n<h2>Machine and settings</h2>\n"
        f'<div class="sources">{table("Machine and settings", facts.items())}</div>'
    )
    return page("Benchmark", body)


def _section(rows: Sequence[ContenderReport]) -> str:
    first = rows[0]
    precision = first.asked_precision if first.asked_precision == first.precision else f"default, {first.precision}"
    ratios = [
        Bar(
            each.name,
            {"ratio": each.ratio},
            f"{each.ratio:.3f} ({each.ratio_low:.3f}–{each.ratio_high:.3f}), {each.median_ms:.2f} ms",
            (each.ratio_low, each.ratio_high),
        )
        for each in rows
    ]
    timed = [
        Bar(each.name, each.groups_us, f"{sum(each.groups_us.values()) / 1000:,.2f} ms")
        for each in rows
        if each.groups_us
    ]
    slowest = [(each.name, name, f"{time:,.0f}") for each in rows for name, _, time in each.slowest[:3]]
    heads = ("", "runs", "median ms", "p90", "p99", "images/s", "KiB in", "out", "compile s", "peak MiB")
    return "".join(
        (
            f"<h2>{escape(first.device)}, {escape(precision)}</h2>\n",
            "<h3>Time divided by that of the raw model, with 95 % intervals</h3>\n",
            bar_chart("Time divided by that of the raw model", ratios, mark=1.0),
            f"<h3>Where the time goes</h3>\n{bar_chart('Where the time goes', timed)}" if timed else "",
            f'<div class="wide">{table("All figures", _rows(rows), heads)}</div>',
            f'<div class="sources">{table("Slowest operators", slowest, ("", "operator", "µs"))}</div>'
            if slowest
            else "",
        )
    )


def _rows(rows: Sequence[ContenderReport]) -> Iterator[Row]:
    for each in rows:
        yield (
            each.name,
            str(each.runs),
            f"{each.median_ms:.2f}",
            f"{each.p90_ms:.2f}",
            f"{each.p99_ms:.2f}",
            f"{each.throughput:,.0f} ({each.in_flight})",
            f"{each.bytes_in / 1024:,.0f}",
            f"{each.bytes_out / 1024:,.1f}",
            f"{each.compile_seconds:.2f}",
            "-" if each.peak_mib is None else f"{each.peak_mib:,.0f}",
        )
