"""`drift_page`: a comparison of scores with those of the calibration as one self-contained HTML page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from pp_graph.report.charts import Bar, bar_chart
from pp_graph.report.page import page, table, warning_list
from pp_graph.summary import Fields, Table

if TYPE_CHECKING:
    from pp_graph.monitoring.report import DriftReport, Part


def drift_page(report: DriftReport) -> str:
    """Return the report as HTML: verdict, advice, shares of the scores in each part of the scale, all figures."""
    total, before = report.found.scores, report.calibration.scores
    bars = [
        Bar(
            _range(part),
            {"new scores": part.scores / total},
            f"{part.scores / total:.1%} (calibration {part.calibration / before:.1%})",
            mark=part.calibration / before,
        )
        for part in report.parts
    ]
    blocks = report.summary()
    tables = "".join(
        table(each.title, each.values.items())
        if isinstance(each, Fields)
        else table(each.title, map(tuple, each.rows), each.columns)
        for each in blocks
        if isinstance(each, Fields | Table)
    )
    failed = " failed" if report.drifted else ""
    body = (
        f'<p class="verdict{failed}">{escape(report.verdict)}</p>\n<p>{escape(report.advice)}</p>\n'
        f"{warning_list(report.warnings)}<h2>Share of the new scores in each part of the scale</h2>\n"
        "<p>The dashed line marks the share of the calibration's scores.</p>\n"
        f"{bar_chart('Share of the new scores', bars)}"
        f'<h2>Figures</h2>\n<div class="tables">{tables}</div>'
    )
    return page(f"Drift of {report.name}", body)


def _range(part: Part) -> str:
    if part.above is None:
        return "all scores" if part.up_to is None else f"up to {part.up_to:.6g}"
    return f"above {part.above:.6g}" if part.up_to is None else f"{part.above:.6g} to {part.up_to:.6g}"
