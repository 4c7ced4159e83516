"""Calibrate a model on labelled images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from pp_graph.calibration.bootstrap import RESAMPLES
from pp_graph.calibration.calibrator import Calibrator
from pp_graph.calibration.on_workers import CalibrationWork, calibrate_on_workers
from pp_graph.calibration.running import CalibrationRun, recount
from pp_graph.calibration.spilled_maps import SpilledMaps
from pp_graph.data import (
    DumpedPredictions,
    LabelledImages,
    open_labelled,
    open_predictions,
)
from pp_graph.postprocessors import ROLES, merged_roles
from pp_graph.progress import expect, shows_progress
from pp_graph.raw_values import open_raw_values
from pp_graph.workers.models import SentModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt
    from distributed import Client

    from pp_graph.calibration.estimator import RangeEstimator, ThresholdEstimator
    from pp_graph.calibration.level import Placement
    from pp_graph.calibration.result import CalibrationResult
    from pp_graph.data import LabelledSource
    from pp_graph.fusion import Artifact, Provenance
    from pp_graph.model import RawModel
    from pp_graph.postprocessors import PostProcessor
    from pp_graph.raw_values import RawValues


Progress = Callable[[int], None]
"""Called with the number of images in the batch that was just processed."""


class CalibratorSettings(TypedDict, total=False):
    """Keyword arguments of `Calibrator`."""

    image: str | ThresholdEstimator
    pixel: str | ThresholdEstimator
    image_range: str | RangeEstimator
    pixel_range: str | RangeEstimator
    placement: Placement
    ignore_nonfinite: bool


@shows_progress("Calibrating")
def calibrate(
    model: str | Path | RawModel | Artifact,
    images: LabelledSource,
    *,
    post: PostProcessor | None = None,
    device: str | None = None,
    inference_precision: str | None = "f32",
    roles: Mapping[str, str] | None = None,
    score_output: str | None = None,
    map_output: str | None = None,
    batch_size: int | None = None,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
    one_pass: bool = False,
    resamples: int = RESAMPLES,
    client: Client | None = None,
    progress: Progress | bool | None = None,
    **settings: Unpack[CalibratorSettings],
) -> CalibrationResult:
    """Run a model on labelled images and calibrate the values that its decisions compare.

    Calibrate the artifact you deploy, on its device and in its precision, so that thresholds fit its values.

    Args:
        model: A raw ONNX model, or an artifact.
        images: Labelled images; see `pp_graph.data.open_labelled`.
        post: Post-processor of a raw model. Needed if its decisions compare processed values, such as a smoothed map;
            see `PostProcessor.calibrated_names`. An artifact has its own.
        device: OpenVINO device. None runs an ONNX model in onnxruntime, in float32, and an IR on the CPU.
        inference_precision: OpenVINO's inference precision: `f32`, `bf16`, `f16`; None means the device's default.
        roles: Names of a raw model's outputs by role, such as `raw_score`; needed if several outputs fit a role.
        score_output: Short form of `roles={"raw_score": ...}`.
        map_output: Short form of `roles={"raw_map": ...}`.
        batch_size: Images per batch, if the model's batch size is open.
        fixed_inputs: Values of inputs other than the images, such as `{"sr": 16000}`, if the data do not contain them;
            see `pp_graph.data.fix_inputs`.
        one_pass: True bounds the pixel level after one pass. False keeps the maps in a temporary file for a second
            pass, which makes it exact.
        resamples: Number of draws for the image level's confidence intervals; 0 for none.
        client: A `distributed.Client`, to share the images among the workers of a Dask cluster. The result is the same,
            bit for bit. None runs in this process.
        progress: Called after each batch; True shows a progress bar.
        **settings: Keyword arguments of `Calibrator`: estimators, ranges, placement.

    Returns:
        Statistics with their provenance, metrics and warnings.

    Raises:
        ModelError: The model cannot be used.
        DataError: Images or labels do not fit, or the model computes values that are not finite.
        CalibrationError: The scores do not allow an estimate, or an estimator is not known.
        TargetError: A runtime cannot run the model; `DeviceError` if the device is absent.
        OutputFileError: The disk is full.
        ClusterError: The cluster cannot share the work.
        ExtraError: A library that an estimator needs is not installed.
    """
    calibrator = Calibrator(**settings)
    labelled = open_labelled(images)
    values = open_raw_values(
        model,
        device=device,
        inference_precision=inference_precision,
        roles=merged_roles(roles, score_output=score_output, map_output=map_output),
        declared=ROLES if post is None else post.roles,
    )
    run = CalibrationRun(values, post, fixed_inputs)
    size = run.batch_size(labelled, batch_size)
    expect(progress, len(labelled))
    tell = progress if callable(progress) else None
    if client is not None:
        work = CalibrationWork(
            model=SentModel.of(model),
            reading={
                "device": device,
                "inference_precision": inference_precision,
                "roles": merged_roles(roles, score_output=score_output, map_output=map_output),
                "declared": ROLES if post is None else post.roles,
            },
            post=post,
            fixed_inputs=fixed_inputs,
            batch_size=size,
            one_pass=one_pass,
        )
        calibrator = calibrate_on_workers(client, work, calibrator, labelled, tell)
    else:
        with SpilledMaps() as spilled:
            kept = None if one_pass else spilled
            for start, stop in run.count(calibrator, labelled, 0, size, kept):
                if tell is not None:
                    tell(stop - start)
            while not one_pass and (further := calibrator.refine()) is not None:
                recount(further, labelled, 0, spilled.read())
                calibrator = further
    result = _with_model(calibrator.result(resamples=resamples), values, labelled)
    if post is not None:
        return result
    own: dict[str, Any] = {
        "roles": merged_roles(roles, score_output=score_output, map_output=map_output),
        "fixed_inputs": fixed_inputs,
        **({} if device is None else {"device": device, "inference_precision": inference_precision}),
    }
    return dataclasses.replace(result, subject=(model, labelled, own))


def _with_model(result: CalibrationResult, values: RawValues, labelled: LabelledImages) -> CalibrationResult:
    result = result.with_warnings(_sensitivity_warnings(values.provenance))
    result = dataclasses.replace(result, notes=labelled.notes)
    return result.with_record(
        model=values.file,
        model_sha256=values.raw_sha256,
        model_weights=None if values.raw_weights is None else values.raw_weights.sample,
        runtime=values.session.description,
        device=values.device,
        precision=values.precision,
        weights=values.weights,
        data=labelled.name,
        data_sha256=labelled.sha256(),
    )


def _sensitivity_warnings(provenance: Provenance | None) -> dict[str, str]:
    """Warnings by level if the artifact decides with another sensitivity than the metrics."""
    parameters = {} if provenance is None else provenance.parameters
    sensitivities = {level: parameters.get(f"{level}_sensitivity", 0.5) for level in ("image", "pixel")}
    return {
        level: f"the model decides with {level}_sensitivity={value:g}, and the figures here are for 0.5"
        for level, value in sensitivities.items()
        if value != 0.5
    }


@shows_progress("Calibrating")
def calibrate_scores(
    predictions: str | Path | DumpedPredictions,
    *,
    one_pass: bool = False,
    resamples: int = RESAMPLES,
    progress: Progress | bool | None = None,
    **settings: Unpack[CalibratorSettings],
) -> CalibrationResult:
    """Calibrate on raw scores and maps in a file.

    Args:
        predictions: An `.npz`, `.csv` or `.parquet`; see `pp_graph.data.open_predictions`. It is read once per pass.
        one_pass: True bounds the pixel level after one pass, instead of reading the file again for the exact answer.
        resamples: Number of draws for the image level's confidence intervals; 0 for none.
        progress: Called after each batch of the first pass; True shows a progress bar.
        **settings: Keyword arguments of `Calibrator`: estimators, ranges, placement.

    Returns:
        Statistics with their provenance, metrics and warnings.

    Raises:
        DataError: The file cannot be read, lacks scores and maps, or has values that are not finite.
        CalibrationError: The scores do not allow an estimate, or an estimator is not known.
        ExtraError: A library that an estimator or the file needs is not installed.
    """
    calibrator = Calibrator(**settings)
    dumped = predictions if isinstance(predictions, DumpedPredictions) else open_predictions(predictions)
    expect(progress, len(dumped))
    first_pass = True
    while True:
        for batch in dumped.batches():
            calibrator.update(
                scores=batch.scores, maps=batch.maps, labels=batch.labels, masks=batch.masks, names=batch.names
            )
            if callable(progress) and first_pass:
                progress(len(batch))
        first_pass = False
        further = None if one_pass else calibrator.refine()
        if further is None:
            break
        calibrator = further
    result = calibrator.result(resamples=resamples)
    return result.with_record(data=dumped.path.name, data_sha256=dumped.sha256())
