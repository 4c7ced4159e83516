"""A benchmark's result as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.summary import Block, Fields, Line, Remark, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pp_graph.benchmarking.report import BenchmarkReport, ContenderReport


def blocks_of(report: BenchmarkReport) -> Iterator[Block]:
    """Yield a report as tables: two for each device and precision."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    yield Fields("Benchmark", {**report.machine, "versions": versions, **report.settings})
    for device, asked in dict.fromkeys((each.device, each.asked_precision) for each in report.results):
        rows = [each for each in report.results if (each.device, each.asked_precision) == (device, asked)]
        ran = rows[0].precision
        yield Table(
            f"{device}, {asked}" + ("" if asked == ran else f" ({ran})"), _TIMES, [_times(each) for each in rows]
        )
        yield Table("What it takes", _LOAD, [_load(each) for each in rows])
        groups = list(dict.fromkeys(group for each in rows for group in each.groups_us))
        parts = [
            (
                each.name,
                *(f"{each.groups_us[group]:,.0f}" if group in each.groups_us else "-" for group in groups),
                _slowest(each),
            )
            for each in rows
            if each.slowest
        ]
        yield Table("Where the time goes, µs", ("model", *groups, "slowest operator"), parts)
    for device in report.absent_devices:
        yield Line(f"{device}: not on this machine, not measured")
    for remark in report.notes:
        yield Remark(f"Note: {remark}")


def _slowest(each: ContenderReport) -> str:
    """Name the slowest operator and its time; OpenVINO joins the names of operators that it runs as one."""
    name, _, time = each.slowest[0]
    first, *others = name.split(",")
    return f"{first}{f' and {len(others)} more' if others else ''}: {time:,.0f}"


_TIMES = ("model", "runs", "median ms", "p90 ms", "p99 ms", "ratio to raw (95 %)")
_LOAD = ("model", "images/s (in flight)", "KiB in", "KiB out", "peak MiB", "compile s")


def _times(each: ContenderReport) -> tuple[str, ...]:
    return (
        each.name,
        str(each.runs),
        f"{each.median_ms:.2f}",
        f"{each.p90_ms:.2f}",
        f"{each.p99_ms:.2f}",
        f"{each.ratio:.3f} ({each.ratio_low:.3f}–{each.ratio_high:.3f})",
    )


def _load(each: ContenderReport) -> tuple[str, ...]:
    return (
        each.name,
        f"{each.throughput:,.0f} ({each.in_flight})",
        f"{each.bytes_in / 1024:,.0f}",
        f"{each.bytes_out / 1024:,.1f}",
        "-" if each.peak_mib is None else f"{each.peak_mib:,.0f}",
        f"{each.compile_seconds:.2f}",
    )
