"""`write_calibration_report`: a calibration as one self-contained HTML page, or as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import OutputFileError
from pp_graph.extras import check_extra
from pp_graph.files import written_together
from pp_graph.report.page import page, sources, table, warning_list
from pp_graph.report.panels import PANELS, number, panel_svg, save_png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pp_graph.calibration import CalibrationResult, LevelResult
    from pp_graph.calibration.metrics import LevelMetrics
    from pp_graph.report.page import Row

_METRICS_INTERVAL: Final = "95 % interval (F1, precision, recall: images that each draw leaves out)"
_UNDEFINED: Final = "not defined"


def calibration_page(result: CalibrationResult, title: str | None = None) -> str:
    """Return the report as HTML. Colours follow the reader's system, light or dark.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    if title is None:
        title = default_title(result)
    levels = "\n".join(_level_section(name, level) for name, level in result.levels.items())
    return page(title, levels + sources(_source_rows(result)))


def _level_section(name: str, level: LevelResult) -> str:
    panels = "\n".join(f"<figure>{panel_svg(draw, name, level)}</figure>" for draw in PANELS)
    tables = [table("Statistics", _statistics_rows(level), ("", "", "95 % interval"))]
    if level.metrics is not None:
        note = "" if level.metrics.exact else " (scores near the cutoff are counted as one: approximate)"
        tables += [
            table(f"At the threshold{note}", _metrics_rows(level.metrics), ("", "", _METRICS_INTERVAL)),
            table("Confusion matrix", _confusion_rows(level.metrics), ("", "called normal", "called anomalous")),
        ]
    tables.append(table("How it was calibrated", _record_rows(level)))
    return (
        f"<h2>{name.capitalize()} level</h2>\n{warning_list(level.warnings)}"
        f'<div class="panels">\n{panels}\n</div>\n<div class="tables">\n{"".join(tables)}</div>'
    )


def _statistics_rows(level: LevelResult) -> Iterable[Row]:
    statistics, bound = level.statistics, level.record.threshold_bound
    yield "threshold", _number(statistics.threshold), _interval(level.metrics, "threshold", number)
    if bound is not None:
        yield "exact threshold lies within", _between(bound, number), ""
    yield "min", _number(statistics.min), ""
    yield "max", _number(statistics.max), ""
    yield "cutoff, the smallest score called anomalous", _number(level.cutoff), ""


def _metrics_rows(metrics: LevelMetrics) -> Iterable[Row]:
    for label, name in (("F1", "f1"), ("precision", "precision"), ("recall", "recall"), ("AUROC", "auroc")):
        value: float | None = getattr(metrics, name)
        yield label, _UNDEFINED if value is None else _rate(value), _interval(metrics, name, _rate)
    if metrics.auroc_bound is not None and metrics.auroc_bound[0] < metrics.auroc_bound[1]:
        yield "AUROC is known to", f"± {(metrics.auroc_bound[1] - metrics.auroc_bound[0]) / 2:.1g}", ""
    if metrics.pro is not None:
        yield f"PRO, mean over {metrics.regions or 0:,} regions", _rate(metrics.pro), ""


def _confusion_rows(metrics: LevelMetrics) -> Iterable[Row]:
    yield "normal", f"{metrics.true_negatives:,}", f"{metrics.false_positives:,}"
    yield "anomalous", f"{metrics.false_negatives:,}", f"{metrics.true_positives:,}"


def _record_rows(level: LevelResult) -> Iterable[Row]:
    record = level.record
    yield "threshold", _with_parameters(record.method, record.parameters)
    if record.placement is not None:
        yield "placement", record.placement
    yield "range", _with_parameters(record.range, record.range_parameters)
    yield "exact", "yes, bit for bit" if record.exact else "no, within the bound above"
    yield "normal scores", f"{record.normal:,}"
    yield "anomalous scores", f"{record.anomalous:,}"
    yield "unlabelled scores", f"{int(level.counts.unlabelled.sum()):,}"
    if record.dropped:
        yield "left out, not finite", f"{record.dropped:,}"


def _source_rows(result: CalibrationResult) -> Iterable[Row]:
    record = result.record
    yield "images", f"{record.images:,}, {record.anomalous_images:,} of them anomalous"
    for label, name in (
        ("model", "model"),
        ("SHA-256 of the raw .onnx in it", "model_sha256"),
        ("data", "data"),
        ("SHA-256 of the data", "data_sha256"),
        ("runtime", "runtime"),
        ("device", "device"),
        ("precision", "precision"),
        ("weights", "weights"),
    ):
        value: str | None = getattr(record, name)
        if value is not None:
            yield label, value


def _with_parameters(name: str, parameters: dict[str, Any]) -> str:
    values = ", ".join(f"{key}={value}" for key, value in parameters.items())
    return f"{name} ({values})" if values else name


def _number(value: float | None) -> str:
    return "none" if value is None else number(value)


def _rate(value: float) -> str:
    return f"{value:.4f}"


def _between(bound: tuple[float, float], text: Callable[[float], str]) -> str:
    return f"{text(bound[0])} to {text(bound[1])}"


def _interval(metrics: LevelMetrics | None, name: str, text: Callable[[float], str]) -> str:
    interval = ((metrics and metrics.intervals) or {}).get(name)
    return "" if interval is None else _between(interval, text)


def default_title(result: CalibrationResult) -> str:
    """Return the heading of a page: it names the model, if it is known."""
    return f"Calibration of {result.record.model}" if result.record.model else "Calibration"


def check_calibration_report(path: Path) -> None:
    """Check that a report can be written, before calibrating.

    Raises:
        ExtraError: matplotlib is not installed.
        OutputFileError: The path does not end in `.html` or `.png`.
    """
    if path.suffix.lower() not in (".html", ".png"):
        raise OutputFileError(
            f"Calibration report '{path}' ends in '{path.suffix}', expected '.html' or '.png'. Name it report.html."
        )
    check_extra("matplotlib", "report", "a calibration report")


def write_calibration_report(
    result: CalibrationResult,
    path: str | Path,
    *,
    overwrite: bool = False,
    title: str | None = None,
    inputs: Iterable[Path] = (),
) -> Path:
    """Write histogram, precision-recall and F1 curves of each level, with the numbers.

    Args:
        result: The calibration.
        path: A `.png` file for one picture with a row per level, or an `.html` file for a self-contained page that
            adds all numbers, warnings and sources.
        overwrite: Replace the file if it exists.
        title: Heading; None for one that names the model.
        inputs: Files that are never replaced.

    Returns:
        The path.

    Raises:
        ExtraError: matplotlib is not installed.
        OutputFileError: The path has another ending, is an input, exists, or cannot be written.
    """
    path = Path(path)
    check_calibration_report(path)
    if title is None:
        title = default_title(result)
    with written_together(path, overwrite=overwrite, inputs=inputs) as (draft,):
        if path.suffix.lower() == ".png":
            save_png(result, draft, title)
        else:
            draft.write_bytes(calibration_page(result, title).encode("utf-8", "replace"))
    return path
