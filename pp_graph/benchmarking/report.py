"""Benchmark reports: their JSON, and the comparison of two of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pp_graph.errors import DataError
from pp_graph.reprs import short_repr
from pp_graph.saving import page_of, save_result
from pp_graph.summary import html_of, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pp_graph.summary import Block

SCHEMA_VERSION = 1


class ContenderReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model on one device in one precision.

    Attributes:
        name: `raw`, `raw + host-numpy`, or a file name.
        device: Device it ran on.
        asked_precision: Requested inference precision, or `default`.
        precision: Inference precision that the device reports.
        runs: Number of timed runs.
        median_ms: Median time of a run in milliseconds.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        ratio: Median divided by that of the raw model, from the same interleaved rounds.
        ratio_low: Lower end of its 95 % confidence interval, by bootstrap over rounds.
        ratio_high: Upper end.
        throughput: Images per second with several requests in flight.
        in_flight: Number of requests in flight.
        bytes_in: Bytes per image from host to device.
        bytes_out: Bytes per image from device to host.
        compile_seconds: Time to compile; measured in a new process if `peak_mib` is.
        peak_mib: Peak memory of a new process that reads, compiles and runs the model once; None if not measured.
        groups_us: Median time in microseconds of the operators of the network, its tail and the post-processing; also
            of the preprocessing if the model takes frames.
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

    __repr__ = short_repr


class BenchmarkReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Result of a benchmark.

    Attributes:
        schema_version: Version of this record.
        machine: Processor, cores, memory, system.
        versions: Versions of Python and of the packages that affect times.
        settings: Settings of the benchmark.
        absent_devices: Requested devices that are not on this machine.
        results: One for each device, precision and model.
        notes: Notes for the reader of the figures.
    """

    schema_version: int = SCHEMA_VERSION
    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, str]
    absent_devices: list[str]
    results: list[ContenderReport]
    notes: list[str] = []

    def summary(self) -> list[Block]:
        """Return the report as tables."""
        from pp_graph.benchmarking.summary import blocks_of

        return list(blocks_of(self))

    def __repr__(self) -> str:
        """Return the ratios in a line."""
        ratios = ", ".join(f"{each.name} {each.ratio:.2f}" for each in self.results)
        return f"<BenchmarkReport, times over raw: {ratios}>"

    def __str__(self) -> str:
        """Return the tables as text."""
        return text_of(self.summary())

    def _repr_html_(self) -> str:
        return html_of(self.summary())

    def save(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> Path:
        """Write JSON, which `load_report` reads, or an HTML page, by the ending of the path.

        Raises:
            OutputFileError: The path has another ending, is an input, exists, or cannot be written.
        """
        forms = {".json": lambda: self.to_json().decode(), ".html": page_of("benchmark.benchmark_page", self)}
        return save_result(path, forms, overwrite=overwrite, inputs=inputs)

    def to_json(self) -> bytes:
        """Return the report as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def load_report(path: str | Path) -> BenchmarkReport:
    """Read a report written by `pp-graph benchmark --json`.

    Raises:
        DataError: The file cannot be read, or is not a benchmark report of this version.
    """
    try:
        report = msgspec.json.decode(Path(path).read_bytes(), type=BenchmarkReport)
    except OSError as error:
        raise DataError(f"Report '{path}' cannot be read: {error.strerror or error}. Check the path.") from error
    except msgspec.DecodeError as error:
        raise DataError(
            f"File '{path}' is not a benchmark report, expected one written by pp-graph benchmark --json. Name one, "
            "or measure again."
        ) from error
    if report.schema_version != SCHEMA_VERSION:
        raise DataError(
            f"Report '{path}' has schema version {report.schema_version}, expected {SCHEMA_VERSION}. Upgrade pp_graph, "
            "or measure again."
        )
    return report


@dataclass(frozen=True)
class ChangedResult:
    """Results of a model in two reports.

    Attributes:
        name: Name of the model; `before.xml → after.xml` if its name changed.
        device: Device it ran on.
        precision: Requested inference precision, or `default`.
        before: Its result in the first report; None if missing.
        after: Its result in the second report; None if missing.
        verdict: `faster` or `slower` if the confidence intervals of its ratios to the raw model do not overlap,
            otherwise `same`; `only in one` if a report lacks the model.
    """

    name: str
    device: str
    precision: str
    before: ContenderReport | None
    after: ContenderReport | None
    verdict: str


def compare_reports(before: BenchmarkReport, after: BenchmarkReport) -> tuple[list[ChangedResult], list[str]]:
    """Compare two reports.

    Models are compared by their ratios to the raw model of the same report, which depend less on the machine's load
    than times. They are matched by name; if each report has one model that the other lacks, those two are compared.

    Returns:
        One entry for each model, and other differences between the reports as text.
    """
    names = [{each.name for each in report.results} for report in (before, after)]
    alone = (names[0] - names[1], names[1] - names[0])
    renamed: dict[str, str] = {}
    if all(len(found) == 1 for found in alone):
        (gone,), (come,) = alone
        renamed = dict.fromkeys((gone, come), f"{gone} → {come}")
    old, new = (
        {(each.device, each.asked_precision, renamed.get(each.name, each.name)): each for each in report.results}
        for report in (before, after)
    )
    changes = []
    for key in dict.fromkeys([*old, *new]):
        device, precision, name = key
        first, second = old.get(key), new.get(key)
        changes.append(ChangedResult(name, device, precision, first, second, _verdict(first, second)))
    differences = []
    for part in ("machine", "versions", "settings"):
        left, right = getattr(before, part), getattr(after, part)
        differences += [
            f"{part}, {name}: {left.get(name, '-')} → {right.get(name, '-')}"
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
