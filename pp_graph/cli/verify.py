"""`pp-graph verify`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.options import (
    PATH,
    cache_option,
    check_report,
    examples,
    force_option,
    image_options,
    image_settings,
    input_option,
    json_option,
    letterbox_option,
    report_option,
)
from pp_graph.cli.output import note, print_fields, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.verification import DecisionReport, VerificationReport
    from pp_graph.verification.detections import DetectionReport
    from pp_graph.verification.report import Flips


@click.command(
    epilog=examples(
        "pp-graph verify raw.onnx model.xml --data images/",
        "pp-graph verify raw.onnx model.xml --data images/ --inference-precision bf16 --max-pixel-flips 0.05%",
    )
)
@click.argument("raw", type=PATH)
@click.argument("artifact", type=PATH)
@click.option("--data", type=PATH, required=True, metavar="FILE.npz|FOLDER",
              help="Images: an .npz with an array 'image' (N,C,H,W or N,H,W,C), or a folder of images. For several "
              "inputs, an .npz with one array per input, by name.")  # fmt: skip
@click.option("--device", default="CPU", show_default=True, metavar="CPU|GPU|NPU|AUTO|...", help="OpenVINO device.")
@click.option("--inference-precision", type=click.Choice(["own", "f32", "bf16", "f16", "default"]), default="own",
              show_default=True, help="Precision to run in; 'own' is the one that convert --precision auto chose, "
              "otherwise f32; 'default' leaves it to the device.")  # fmt: skip
@click.option("--max-label-flips", default="0", show_default=True, metavar="N|P%",
              help="Fail if drift of the network flips more labels.")  # fmt: skip
@click.option("--max-pixel-flips", default="0.1%", show_default=True, metavar="N|P%",
              help="Fail if drift of the network flips more pixels.")  # fmt: skip
@click.option("--other-raw", is_flag=True, help="Accept a RAW that is not the model ARTIFACT was made from.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Images per batch, if the model leaves it open.")
@cache_option
@input_option
@image_options
@letterbox_option
@report_option
@force_option
@json_option
def verify(
    raw: Path,
    artifact: Path,
    data: Path,
    device: str,
    inference_precision: str,
    max_label_flips: str,
    max_pixel_flips: str,
    other_raw: bool,
    batch: int | None,
    cache_dir: Path | None,
    fixed_inputs: dict[str, Any] | None,
    report: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Check that ARTIFACT makes the same decisions as RAW.

    RAW is the raw ONNX model. It runs in onnxruntime in float32, followed by ARTIFACT's post-processing in NumPy.
    ARTIFACT is an OpenVINO IR (.xml) or a fused .onnx, which runs in onnxruntime.

    The verdict has two parts. The post-processing is exact if no decision differs from the reference on the artifact's
    own raw values. Drift of the network counts decisions that changed because the network in ARTIFACT computes slightly
    different raw values. Exit status 1 if the post-processing is not exact or drift exceeds a limit.
    """
    from pp_graph import verification
    from pp_graph.data import open_images

    inputs = [raw, artifact, artifact.with_suffix(".bin"), *([] if data.is_dir() else [data])]
    check_report(report, inputs, force=force)
    images = open_images(data, **image_settings(options))
    with progress_bar("Verifying", len(images)) as progress:
        result = verification.verify(
            raw,
            artifact,
            images,
            device=device,
            inference_precision=None if inference_precision == "default" else inference_precision,
            max_label_flips=max_label_flips,
            max_pixel_flips=max_pixel_flips,
            other_raw=other_raw,
            batch_size=batch,
            cache_dir=cache_dir,
            fixed_inputs=fixed_inputs,
            progress=progress,
        )
    if report is not None:
        from pp_graph.report import write_verification_report

        write_verification_report(result, report, overwrite=force, inputs=inputs)
        note(f"Wrote {report}")
    if as_json:
        print_json(result.to_dict())
    else:
        print_report(result)
    if not result.passed:
        raise click.exceptions.Exit(1)


def print_report(report: VerificationReport) -> None:
    """Write a report for people."""
    distinct = report.distinct_map_values
    print_fields(
        f"Verified on {report.images} images",
        {
            "artifact": report.artifact,
            "reference": report.reference,
            **_island(report.island),
            **({} if distinct is None else {"raw map": f"at least {distinct:,} different values per image"}),
            **{key: line for key, line in report.provenance.summary().items() if not key.startswith("raw ")},
        },
    )
    own = {error.name: error for error in report.postprocessing_errors}
    print_table(
        "Numbers",
        ("output", "max error", "mean error", "max error of post-processing"),
        [
            (
                error.name,
                f"{error.max_abs:.3g}",
                f"{error.mean_abs:.3g}",
                f"{own[error.name].max_abs:.3g}" if error.name in own else "-",
            )
            for error in report.errors
        ],
    )
    print_table(
        "Decisions",
        (
            "output",
            "decisions",
            "anomalous",
            "flips",
            "by post-processing",
            "by drift",
            "margin of flips (median, max)",
        ),
        [_decision_row(decision) for decision in report.decisions],
    )
    if report.detections is not None:
        _print_detections(report, report.detections)
    for decision in report.decisions:
        if decision.detections:
            continue
        for cause, flips in (("post-processing", decision.postprocessing), ("drift", decision.drift)):
            _print_flips(report, decision, cause, flips)
    boundary = report.boundary
    click.echo(
        f"Around the cutoffs: {boundary.values:,} raw values, {boundary.flips:,} decisions differ, "
        f"numbers differ by at most {boundary.max_scaled:.2g}\n"
    )
    for remark in report.notes:
        note(f"Note: {remark}.")
    if not report.raw_matches:
        note("Note: RAW is not the model that ARTIFACT was made from.")
    for warning in report.warnings:
        note(f"Warning: {warning}")
    _print_verdict(report)


def _print_verdict(report: VerificationReport) -> None:
    exact = "exact: every decision equals that of the reference on the same raw values"
    click.echo("Verdict")
    click.echo(f"  Post-processing  {exact if report.postprocessing_exact else 'NOT EXACT'}")
    for failure in report.postprocessing_failures:
        click.echo(f"                   - {failure}")
    for index, drift in enumerate(report.drift):
        limit = "no limit" if drift.limit is None else f"limit {drift.limit}"
        head = "Network drift" if index == 0 else ""
        click.echo(f"  {head:<15}  {drift} ({'' if drift.within_limit else 'TOO MANY, '}{limit})")
    click.secho(report.verdict, bold=True)


def _island(island: dict[str, str]) -> dict[str, str]:
    from pp_graph.openvino.island.float32 import is_floating

    if not island:
        return {}
    counts = Counter(island.values())
    floating = {precision: count for precision, count in counts.items() if is_floating(precision)}
    text = ", ".join(f"{count} operators in {precision}" for precision, count in sorted(floating.items()))
    others = sum(counts.values()) - sum(floating.values())
    return {"post-processing": text + (f", {others} on booleans" if others else "")}


def _decision_row(decision: DecisionReport) -> tuple[str, ...]:
    import numpy as np

    margins = np.concatenate([decision.postprocessing.margin, decision.drift.margin])
    margins = margins[np.isfinite(margins)]
    margin = f"{np.median(margins):.2g}, {margins.max():.2g}" if len(margins) else "-"
    return (
        decision.name,
        f"{decision.total:,}",
        "-" if decision.classes else f"{decision.positive:,}",
        f"{decision.flips:,}",
        f"{len(decision.postprocessing):,}",
        f"{len(decision.drift):,}",
        margin,
    )


_SHOWN_FLIPS = 5


def _print_detections(report: VerificationReport, detections: DetectionReport) -> None:
    sides = (("post-processing", detections.postprocessing), ("drift", detections.drift))
    print_table(
        "Detections, matched by an overlap of at least 0.5",
        ("cause of differences", "expected", "found", "lost", "gained", "other class", "box error", "score error"),
        [
            (
                cause,
                f"{each.expected:,}",
                f"{each.found:,}",
                *(f"{each.count(kind):,}" for kind in ("lost", "gained", "class")),
                f"{each.box_error:.3g} pixels",
                f"{each.score_error:.3g}",
            )
            for cause, each in sides
        ],
    )
    for cause, each in sides:
        if each.changes:
            print_table(
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


def _print_flips(report: VerificationReport, decision: DecisionReport, cause: str, flips: Flips) -> None:
    if not len(flips):
        return
    rows = [
        (each["image"], str(each["pixel"]), _number(each["raw_value"]), _number(each["margin"]))
        for each in flips.listed(report.image_names)[:_SHOWN_FLIPS]
    ]
    print_table(
        f"{decision.name}, flips by {cause}: the {len(rows)} with the largest margins of {len(flips):,}",
        (
            "image",
            "place" if decision.classes else "pixel",
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
