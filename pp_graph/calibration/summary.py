"""A calibration's result as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.errors import counted
from pp_graph.summary import Block, Fields, Line, Remark, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pp_graph.calibration.result import CalibrationResult, LevelResult


def blocks_of(result: CalibrationResult) -> Iterator[Block]:
    """Yield a result as tables."""
    record = result.record
    kinds = {} if result.subject is None else result.subject[1].kinds
    facts = {
        "model": record.model,
        "run by": record.runtime,
        "data": record.data and f"{record.data}, sha256 {(record.data_sha256 or '')[:16]}…",
        "kinds": ", ".join(f"{name} {count}" for name, count in kinds.items()),
        **{f"{name} level": _how(level) for name, level in result.levels.items()},
    }
    yield Fields(
        f"Calibrated on {counted(record.images, 'image')}, {record.anomalous_images:,} of them anomalous",
        {key: value for key, value in facts.items() if value},
    )
    rows = [
        (
            name,
            _number(level.statistics.threshold, ".9g") + _span(_interval(level, "threshold") or _bound(level)),
            _number(level.statistics.min, ".9g"),
            _number(level.statistics.max, ".9g"),
            _number(level.cutoff, ".9g"),
        )
        for name, level in result.levels.items()
    ]
    yield Table("Statistics", ("level", "threshold", "min", "max", "decides at"), rows)
    measured = {name: level for name, level in result.levels.items() if level.metrics is not None}
    if measured:
        yield from _metrics(measured)
    for name, level in measured.items():
        if level.metrics is not None and level.metrics.pro is not None:
            yield Line(
                f"Per-region overlap, {name} level: {level.metrics.pro:.4f} of {level.metrics.regions:,} regions\n"
            )
    for remark in result.notes:
        yield Remark(f"Note: {remark}.")
    for name, level in result.levels.items():
        for warning in level.warnings:
            yield Remark(f"Warning: {name} level: {warning}.")


def _metrics(measured: dict[str, LevelResult]) -> Iterator[Block]:
    yield Table(
        "Metrics at this threshold, on this data",
        ("level", "F1", "precision", "recall", "AUROC"),
        [_rates(name, level) for name, level in measured.items()],
    )
    yield Table(
        "Decisions at this threshold, on this data",
        ("level", "anomalous found", "missed", "normal flagged", "passed"),
        [_counts(name, level) for name, level in measured.items()],
    )
    if any(map(_has_intervals, measured.values())):
        yield Line(
            "Parentheses hold 95 % confidence intervals; those of F1, precision and recall are measured on the images "
            "that each draw leaves out.\n"
        )


def _how(level: LevelResult) -> str:
    record = level.record
    parameters = ", ".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else format(value, 'g')}"
        for key, value in record.parameters.items()
    )
    method = f"{record.method}({parameters})" if parameters else record.method
    span = ", ".join(f"{key}={value:g}" for key, value in record.range_parameters.items())
    placement = f"{record.placement}, " if record.placement else ""
    return (
        f"{method}, {placement}range {record.range}{f'({span})' if span else ''}; {record.normal:,} normal, "
        f"{record.anomalous:,} anomalous; {'exact' if record.exact else 'one pass, with a bound'}"
    )


def _has_intervals(level: LevelResult) -> bool:
    return bool(level.metrics is not None and level.metrics.intervals)


def _interval(level: LevelResult, name: str) -> tuple[float, float] | None:
    return None if level.metrics is None else (level.metrics.intervals or {}).get(name)


def _bound(level: LevelResult) -> tuple[float, float] | None:
    return level.record.threshold_bound


def _rates(name: str, level: LevelResult) -> tuple[str, ...]:
    metrics = level.metrics
    assert metrics is not None
    rates = [
        _with(getattr(metrics, each), _interval(level, each), ".4f") for each in ("f1", "precision", "recall", "auroc")
    ]
    if metrics.auroc_bound is not None and metrics.auroc_bound[0] < metrics.auroc_bound[1]:
        rates[-1] += f" ± {(metrics.auroc_bound[1] - metrics.auroc_bound[0]) / 2:.1g}"
    return (name, *rates)


def _counts(name: str, level: LevelResult) -> tuple[str, ...]:
    metrics = level.metrics
    assert metrics is not None
    counts = (metrics.true_positives, metrics.false_negatives, metrics.false_positives, metrics.true_negatives)
    return (name, *(f"{count:,}" for count in counts))


def _with(value: float | None, interval: tuple[float, float] | None, form: str) -> str:
    return _number(value, form) + _span(interval, form)


def _span(interval: tuple[float, float] | None, form: str = ".6g") -> str:
    return "" if interval is None else f" ({interval[0]:{form}}–{interval[1]:{form}})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
