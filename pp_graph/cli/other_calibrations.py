"""Calibrate classifiers and detectors, and check the files that `calibrate` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.detector_calibration import calibrate_boxes
from pp_graph.cli.options import refuse_given
from pp_graph.cli.retune import check_ending

if TYPE_CHECKING:
    from pathlib import Path


def _refuse_other_models(model: Path) -> None:
    """Raise for an artifact of another family, which has no scores."""
    from pp_graph.errors import PPGraphError
    from pp_graph.fusion.runtime_cutoffs import WITHOUT_STATISTICS
    from pp_graph.opening import open_artifact

    try:
        kind = open_artifact(model).provenance.post_processor
    except PPGraphError:
        return  # a raw model, or a file that is refused later
    if kind in WITHOUT_STATISTICS:
        raise click.UsageError(
            f"'{model}' was made with {kind}, expected an anomaly model. A detector is calibrated with --boxes, a "
            "classifier with --task classification; the others have nothing to calibrate."
        )


def calibrated_otherwise(
    ctx: click.Context,
    model: Path | None,
    data: Path | None,
    boxes: Path | None,
    outputs: tuple[Path | None, Path | None],
    options: dict[str, Any],
    *,
    force: bool,
    as_json: bool,
) -> bool:
    """Calibrate a classifier or detector; False for other models."""
    output, retuned = outputs
    if options["task"] == "classification":
        from pp_graph.cli.classifier_calibration import calibrate_classifier

        calibrate_classifier(ctx, model, data, output, retuned, options, force=force, as_json=as_json)
        return True
    if boxes is not None:
        if model is None or data is None:
            raise click.UsageError("--boxes needs the MODEL to run, and its images with --data FOLDER.")
        inputs = [model, boxes, *further_files(model)]
        check_outputs(model, [each for each in outputs if each is not None], retuned, (), inputs, force)
        calibrate_boxes(ctx, model, data, boxes, outputs, inputs, options, force=force, as_json=as_json)
        return True
    refuse_given(ctx, ("letterbox",), "applies only to detectors. Add --boxes, or leave out --letterbox.")
    refuse_given(ctx, ("labels", "false_accepts"), "applies only to --task classification. Add it.")
    if model is not None:
        _refuse_other_models(model)
    return False


def check_outputs(
    model: Path | None,
    outputs: list[Path],
    retuned: Path | None,
    reports: tuple[Path, ...],
    inputs: list[Path],
    force: bool,
) -> None:
    """Check the output paths before the work starts."""
    from pp_graph.files import check_targets

    if reports:
        from pp_graph.report.calibration import check_calibration_report

        for report in reports:
            check_calibration_report(report)
    if retuned is not None:
        assert model is not None
        check_ending(model, retuned)
        # Only what pp_graph has written can be retuned.
        from pp_graph.opening import open_artifact
        from pp_graph.openvino import OpenVINOModel
        from pp_graph.openvino.usage import usage_path

        if isinstance(open_artifact(model), OpenVINOModel):
            outputs = [*outputs, retuned.with_suffix(".bin"), usage_path(retuned)]
    if len({path.absolute() for path in outputs}) < len(outputs):
        raise click.UsageError("Two outputs have the same name, expected one file for each.")
    check_targets(outputs, overwrite=force, inputs=inputs)


def further_files(model: Path) -> list[Path]:
    """Files beside a model that belong to it."""
    from pathlib import Path

    from pp_graph.model import RawModel
    from pp_graph.opening import kind_of

    if kind_of(model) == "ir":
        return [model.with_suffix(".bin")]
    return [Path(tensor.path) for tensor in RawModel.open(model).external_tensors()]
