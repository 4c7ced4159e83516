"""`write_verification_report`: a verification as one self-contained HTML page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.report.charts import Bar, bar_chart
from pp_graph.report.page import check_page, page, table, warning_list, write_page
from pp_graph.sketching import draw, sketched
from pp_graph.verification.parts import place_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pp_graph.report.page import Row
    from pp_graph.verification import DecisionReport, VerificationReport
    from pp_graph.verification.parts import Drift

_LISTED: Final = 20
_BINS: Final = 10


def write_verification_report(
    report: VerificationReport, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()
) -> Path:
    """Write verdict, drift against its limits, errors and the flips with the largest margins.

    Args:
        report: The verification.
        path: The `.html` file to write.
        overwrite: Replace the file if it exists.
        inputs: Files that are never replaced.

    Raises:
        OutputFileError: The path has another ending, is an input, exists, or cannot be written.
    """
    return write_page(check_page(path), verification_page(report), overwrite=overwrite, inputs=inputs)


def verification_page(report: VerificationReport) -> str:
    """Return the report as HTML."""
    failed = "" if report.passed else " failed"
    reasons = "".join(f"<li>{escape(each)}</li>" for each in report.failures)
    body = [
        f'<p class="verdict{failed}">{escape(report.verdict)}</p>\n{f"<ul>{reasons}</ul>" if reasons else ""}',
        warning_list(report.warnings),
        "<h2>Drift of the network</h2>\n",
        *(_drift(drift) for drift in report.drift),
        *(_margins(decision) for decision in report.decisions),
        '<h2>Decisions and numbers</h2>\n<div class="tables">',
        table("Decisions", _decision_rows(report), ("", "compared", "flips", "by post-processing", "by drift")),
        table("Numbers", _number_rows(report), ("", "max error", "mean error", "max error of post-processing")),
        "</div>\n",
        *(_flips(report, decision) for decision in report.decisions),
        '<h2>Models and data</h2>\n<div class="sources">',
        table("Models and data", _sources(report)),
        "</div>\n<h2>The end of the graph</h2>\n",
        draw(sketched(report.provenance)),
    ]
    return page(f"Verification of {report.artifact}", "".join(body))


def _drift(drift: Drift) -> str:
    limit = drift.limit
    most = None if limit is None else limit.number / 100 * drift.total if limit.percent else limit.number
    text = f"{drift}; {'no limit' if limit is None else f'limit {limit}'}"
    if not drift.flips and not most:
        return f"<p>{escape(text)}.</p>\n"
    bar = Bar(f"{drift.kind} flipped", {"flipped": drift.flips}, f"{drift.flips:,} of {drift.total:,}")
    line = "" if most is None else " The dashed line is the limit."
    return f"<p>{escape(text)}.{line}</p>\n{bar_chart(f'{drift.kind} flipped', [bar], mark=most)}"


def _margins(decision: DecisionReport) -> str:
    margins = decision.drift.margin[np.isfinite(decision.drift.margin)]
    if len(margins) < 2 or decision.detections:
        return ""
    counts, edges = np.histogram(margins, bins=_BINS, range=(0.0, float(margins.max()) or 1.0))
    filled = [(count, low, high) for count, low, high in zip(counts, edges, edges[1:], strict=False) if count]
    bars = [Bar(f"{low:.2g} to {high:.2g}", {"flips": float(count)}, f"{count:,}") for count, low, high in filled]
    unit = "of max - min" if decision.scale != 1 else "in raw values"
    return f"<h3>{escape(decision.name)}: flips by margin, {unit}</h3>\n{bar_chart('flips by margin', bars)}"


def _decision_rows(report: VerificationReport) -> Iterator[Row]:
    for each in report.decisions:
        counts = (each.total, each.flips, len(each.postprocessing), len(each.drift))
        yield each.name, *(f"{count:,}" for count in counts)


def _number_rows(report: VerificationReport) -> Iterator[Row]:
    own = {error.name: f"{error.max_abs:.3g}" for error in report.postprocessing_errors}
    for error in report.errors:
        yield error.name, f"{error.max_abs:.3g}", f"{error.mean_abs:.3g}", own.get(error.name, "-")


def _flips(report: VerificationReport, decision: DecisionReport) -> str:
    rows: list[Row] = []
    for cause, flips in (("post-processing", decision.postprocessing), ("drift", decision.drift)):
        rows += [
            (each["image"], cause, place_text(each), _number(each["raw_value"]), _number(each["margin"]))
            for each in flips.listed(report.image_names)[:_LISTED]
        ]
    if not rows:
        return ""
    heads = ("image", "cause", "place", "raw value", "margin")
    listed = table(f"{decision.name}: flips with the largest margins, at most {_LISTED} of each cause", rows, heads)
    return f'<div class="wide">{listed}</div>'


def _sources(report: VerificationReport) -> Iterator[Row]:
    boundary = report.boundary
    yield "artifact", report.artifact
    yield "reference", report.reference
    yield "images", f"{report.images:,}"
    yield "around the cutoffs", f"{boundary.values:,} raw values, {boundary.flips:,} decisions differ"
    yield from report.provenance.summary().items()
    for note in report.notes:
        yield "note", note
    if not report.raw_matches:
        yield "note", "RAW is not the model that ARTIFACT was made from"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6g}"
