"""Benchmark reports: their JSON, and the comparison of two of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from pp_graph.errors import DataError

SCHEMA_VERSION = 1


class ContenderReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model on one device in one precision.

    Attributes:
        name: What was run: `raw`, `raw + host-numpy`, or the name of a file.
        device: Where.
        asked_precision: The precision asked for; `default` for the device's own.
        precision: The precision that the device says it ran in.
        runs: Runs timed.
        median_ms: Median time of a run, milliseconds.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        ratio: Median divided by that of the raw model, from the same interleaved rounds.
        ratio_low: Lower end of its 95 % confidence interval, by bootstrap over rounds.
        ratio_high: Upper end.
        throughput: Images a second with several requests in flight.
        in_flight: How many.
        bytes_in: Bytes an image from host to device.
        bytes_out: Bytes an image back.
        compile_seconds: Time to compile, in a process of its own where memory was measured.
        peak_mib: Peak memory of a process that reads, compiles and runs the model once; None if not measured.
        groups_us: Median time of the operators of the network, its tail and the post-processing, microseconds; also of
            preprocessing in a model that takes frames.
        slowest: The slowest operators: name, kernel, microseconds.
    """

    name: str
    device: str
    asked_precision: str
    precision: str
    runs: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    throughput: float
    in_flight: int
    bytes_in: float
    bytes_out: float
    compile_seconds: float
    peak_mib: float | None
    groups_us: dict[str, float]
    slowest: list[tuple[str, str, float]]


class BenchmarkReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole run.

    Attributes:
        schema_version: Version of this record.
        machine: Processor, cores, memory, system.
        versions: Versions of Python and of the packages that matter.
        settings: What was asked for.
        absent_devices: Devices that were asked for and are not on this machine.
        results: One a device, precision and model.
        notes: What a person should know.
    """

    schema_version: int = SCHEMA_VERSION
    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, str]
    absent_devices: list[str]
    results: list[ContenderReport]
    notes: list[str] = []

    def to_json(self) -> bytes:
        """The report as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def load_report(path: str | Path) -> BenchmarkReport:
    """Read a report written by `pp-graph benchmark --json`.

    Raises:
        DataError: The file is missing or no such report.
    """
    try:
        report = msgspec.json.decode(Path(path).read_bytes(), type=BenchmarkReport)
    except OSError as error:
        raise DataError(f"Report '{path}' cannot be read: {error.strerror or error}. Check the path.") from error
    except msgspec.DecodeError as error:
        raise DataError(
            f"File '{path}' is no benchmark report: {error}. Expected what pp-graph benchmark --json FILE.json writes."
        ) from error
    if report.schema_version != SCHEMA_VERSION:
        raise DataError(
            f"Report '{path}' has schema version {report.schema_version}, expected {SCHEMA_VERSION}. Upgrade pp_graph, "
            "or measure again."
        )
    return report


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
