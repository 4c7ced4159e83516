"""A verification's result as tables."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import counted
from pp_graph.fusion.runtime_cutoffs import scores_anomalies
from pp_graph.openvino.island.float32 import is_floating
from pp_graph.summary import Block, Fields, Line, Remark, Table
from pp_graph.verification.parts import place_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pp_graph.verification.detections import DetectionReport
    from pp_graph.verification.parts import DecisionReport, Flips
    from pp_graph.verification.report import VerificationReport

_SHOWN_FLIPS: Final = 5


def blocks_of(report: VerificationReport) -> list[Block]:
    """Return a report as tables, the verdict last."""
    distinct = report.distinct_map_values
    facts = {
        "artifact": report.artifact,
        "reference": report.reference,
        **_island(report.island),
        **({} if distinct is None else {"raw map": f"at least {distinct:,} different values per image"}),
        **{key: line for key, line in report.provenance.summary().items() if not key.startswith("raw ")},
    }
    own = {error.name: error for error in report.postprocessing_errors}
    rows = [
        (
            error.name,
            f"{error.max_abs:.3g}",
            f"{error.mean_abs:.3g}",
            f"{own[error.name].max_abs:.3g}" if error.name in own else "-",
        )
        for error in report.errors
    ]
    boundary = report.boundary
    return [
        Fields(f"Verified on {counted(report.images, 'image')}", facts),
        Table("Numbers", ("output", "max error", "mean error", "max error of post-processing"), rows),
        *_decisions(report),
        *(() if report.detections is None else _detections(report, report.detections)),
        *(
            table
            for decision in report.decisions
            if not decision.detections
            for cause, flips in (("post-processing", decision.postprocessing), ("drift", decision.drift))
            for table in _flips(report, decision, cause, flips)
        ),
        Line(
            f"Around the cutoffs: {boundary.values:,} raw values, {boundary.flips:,} decisions differ, "
            f"numbers differ by at most {boundary.max_scaled:.2g}\n"
        ),
        *(Remark(f"Note: {remark}.") for remark in report.notes),
        *(() if report.raw_matches else (Remark("Note: RAW is not the model that ARTIFACT was made from."),)),
        *(Remark(f"Warning: {warning}") for warning in report.warnings),
        *_verdict(report),
    ]


def _decisions(report: VerificationReport) -> Iterator[Table]:
    if not report.decisions:
        return
    columns = ["output", "decisions", "flips", "by post-processing", "by drift", "margin of flips (median, max)"]
    rows = [list(_decision_row(decision)) for decision in report.decisions]
    # A class index is neither true nor false.
    if not all(decision.classes for decision in report.decisions):
        columns.insert(2, "anomalous" if scores_anomalies(report.provenance) else "true")
        for row, decision in zip(rows, report.decisions, strict=True):
            row.insert(2, "-" if decision.classes else f"{decision.positive:,}")
    yield Table("Decisions", columns, rows)


def _verdict(report: VerificationReport) -> Iterator[Block]:
    exact = "exact: every decision equals that of the reference on the same raw values"
    own = [
        exact if report.postprocessing_exact else "NOT EXACT",
        *(f"- {each}" for each in report.postprocessing_failures),
    ]
    drifts = [
        f"{drift} ({'' if drift.within_limit else 'TOO MANY, '}"
        f"{'no limit' if drift.limit is None else f'limit {drift.limit}'})"
        for drift in report.drift
    ]
    yield Fields("Verdict", {"Post-processing": "\n".join(own), "Network drift": "\n".join(drifts) or "-"})
    yield Line(report.verdict, bold=True)


def _island(island: dict[str, str]) -> dict[str, str]:
    if not island:
        return {}
    counts = Counter(island.values())
    floating = {precision: count for precision, count in counts.items() if is_floating(precision)}
    text = ", ".join(f"{count} operators in {precision}" for precision, count in sorted(floating.items()))
    others = sum(counts.values()) - sum(floating.values())
    return {"post-processing": text + (f", {others} on booleans" if others else "")}


def _decision_row(decision: DecisionReport) -> tuple[str, ...]:
    margins = np.concatenate([decision.postprocessing.margin, decision.drift.margin])
    margins = margins[np.isfinite(margins)]
    margin = f"{np.median(margins):.2g}, {margins.max():.2g}" if len(margins) else "-"
    return (
        decision.name,
        f"{decision.total:,}",
        f"{decision.flips:,}",
        f"{len(decision.postprocessing):,}",
        f"{len(decision.drift):,}",
        margin,
    )


def _detections(report: VerificationReport, detections: DetectionReport) -> Iterator[Table]:
    sides = (("post-processing", detections.postprocessing), ("drift", detections.drift))
    parts = {"key point error": [each.point_error for _, each in sides]}
    shown = {name: errors for name, errors in parts.items() if None not in errors}
    columns = ("cause of differences", "expected", "found", "lost", "gained", "other class", "box error", "score error")
    yield Table(
        "Detections, matched by an overlap of at least 0.5",
        (*columns, *shown),
        [
            (
                cause,
                f"{each.expected:,}",
                f"{each.found:,}",
                *(f"{each.count(kind):,}" for kind in ("lost", "gained", "class")),
                f"{each.box_error:.3g} pixels",
                f"{each.score_error:.3g}",
                *(f"{errors[place]:.3g} pixels" for errors in shown.values()),
            )
            for place, (cause, each) in enumerate(sides)
        ],
    )
    for cause, each in sides:
        if each.changes:
            yield Table(
                f"Detections that differ by {cause}: the {min(_SHOWN_FLIPS, len(each.changes))} furthest from the "
                f"confidence of {len(each.changes):,}",
                ("image", "change", "class", "score", "above the confidence by", "box"),
                [
                    (
                        report.image_names[change.image],
                        {"class": "other class"}.get(change.kind, change.kind),
                        dict(enumerate(detections.class_names)).get(change.class_index, str(change.class_index)),
                        f"{change.score:.4f}",
                        f"{change.distance:.3g}",
                        ", ".join(f"{corner:.1f}" for corner in change.box),
                    )
                    for change in each.changes[:_SHOWN_FLIPS]
                ],
            )


def _flips(report: VerificationReport, decision: DecisionReport, cause: str, flips: Flips) -> Iterator[Table]:
    if not len(flips):
        return
    rows = [
        (each["image"], place_text(each), _number(each["raw_value"]), _number(each["margin"]))
        for each in flips.listed(report.image_names)[:_SHOWN_FLIPS]
    ]
    yield Table(
        f"{decision.name}, flips by {cause}: the {len(rows)} with the largest margins of {len(flips):,}",
        (
            "image",
            "place",
            "raw value",
            "margin to the next class"
            if decision.classes
            else "margin (of max - min)"
            if decision.scale != 1
            else "margin",
        ),
        rows,
    )


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6g}"
