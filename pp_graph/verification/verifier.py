"""Run the raw model with the NumPy reference, and the artifact on its device, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pp_graph.data import ImageSource, open_images
from pp_graph.errors import ModelError
from pp_graph.fusion import Provenance
from pp_graph.model import RawModel
from pp_graph.model.weights import weights_record
from pp_graph.opening import open_artifact
from pp_graph.openvino.devices import OWN, chosen_precision
from pp_graph.plausibility import describe_warnings, range_warnings
from pp_graph.progress import expect, shows_progress
from pp_graph.verification.boundary import run_boundary
from pp_graph.verification.comparison import Comparison, check_form
from pp_graph.verification.on_workers import VerificationWork, verify_on_workers
from pp_graph.verification.parts import BoundaryReport, FlipLimit
from pp_graph.verification.report import MAX_LABEL_FLIPS, MAX_PIXEL_FLIPS, VerificationReport
from pp_graph.verification.running import VerificationRun
from pp_graph.verification.totals import ErrorSum
from pp_graph.workers.models import SentModel

if TYPE_CHECKING:
    import numpy.typing as npt
    from distributed import Client

    from pp_graph.fusion import Artifact

Progress = Callable[[int], None]
"""Called with the number of images just done."""


@shows_progress("Verifying")
def verify(
    raw: str | Path | RawModel,
    artifact: Artifact | str | Path,
    images: ImageSource,
    *,
    device: str = "CPU",
    inference_precision: str | None = OWN,
    max_label_flips: int | str | None = MAX_LABEL_FLIPS,
    max_pixel_flips: int | str | None = MAX_PIXEL_FLIPS,
    other_raw: bool = False,
    batch_size: int | None = None,
    cache_dir: str | Path | None = None,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
    client: Client | None = None,
    progress: Progress | bool | None = None,
) -> VerificationReport:
    """Compare an artifact's decisions with those of the raw model and its statistics in float32.

    The reference is the raw model in onnxruntime, followed by the post-processor in NumPy. The artifact runs on the
    device. Every flip is attributed to its cause: the post-processing, which must cause none, or drift of the network
    in the artifact's precision.

    Args:
        raw: The raw ONNX model.
        artifact: A converted model, a fused one, or the path of one.
        images: Images: a folder, an `.npz`, or arrays; see `pp_graph.data.open_images`.
        device: Device to run an OpenVINO model on.
        inference_precision: Inference precision of an OpenVINO model: `f32`, `bf16` or `f16`; `own` is the one that a
            search for this model chose, otherwise f32. None means the device's default.
        max_label_flips: Labels that drift may flip: a number, or a share such as `"1%"`; None for any number.
        max_pixel_flips: Pixels that drift may flip, likewise.
        other_raw: Compare with a raw model that is not the one the artifact was made from.
        batch_size: Images per batch, if the model leaves the batch open.
        cache_dir: Folder to read the compiled IR from, or to keep it in, so that what a cache returns is verified.
        fixed_inputs: Values for inputs that are not images and not in the data, such as `{"sr": 16000}`; see
            `pp_graph.data.fix_inputs`.
        client: A `distributed.Client`, to share the images among the workers of a Dask cluster. The report is the same,
            bit for bit. None runs in this process.
        progress: Called after each batch; True shows a progress bar.

    Returns:
        The report.

    Raises:
        ProvenanceError: The artifact was not made by pp_graph.
        ModelError: The raw model cannot be used, is a fused model, is not the one that was fused and `other_raw` is
            False, or lacks an output that the artifact was made from.
        StatisticsError: The provenance's statistics do not suit its post-processor.
        DataError: The images do not fit.
        TargetError: A runtime cannot load or run a model; `DeviceError` where the device is absent.
        OutputFileError: The cache's folder cannot be written.
        ClusterError: The cluster cannot share the work.
    """
    label_limit = FlipLimit.parse(max_label_flips, "max_label_flips")
    pixel_limit = FlipLimit.parse(max_pixel_flips, "max_pixel_flips")
    opened = RawModel.open(raw)
    given = artifact
    if isinstance(artifact, str | Path):
        artifact = open_artifact(artifact)
    provenance = artifact.provenance
    if inference_precision == OWN:
        inference_precision = chosen_precision(provenance, device) or "f32"
    _check_raw(opened, provenance, other_raw=other_raw)
    opened_images = open_images(images)
    run = VerificationRun(opened, artifact, device, inference_precision, cache_dir, fixed_inputs)
    boundary = _verify_boundary(artifact, device, inference_precision)
    comparison = Comparison(provenance, artifact.program)
    source = run.fed(opened_images)
    size = run.batch_size(batch_size)
    expect(progress, len(opened_images))
    tell = progress if callable(progress) else None
    if client is None:
        for start, stop in run.compare(comparison, opened_images, 0, size):
            if tell is not None:
                tell(stop - start)
    else:
        work = VerificationWork(
            SentModel.of(raw), SentModel.of(given), device, inference_precision, cache_dir, fixed_inputs, size
        )
        comparison.totals.merge(verify_on_workers(client, work, opened_images, tell))
        if opened_images.seen is not None:
            opened_images.seen.merge(comparison.totals.seen)
    return comparison.report(
        boundary=boundary,
        artifact=run.session.description,
        reference=f"{run.reference.session.description} and the NumPy reference",
        names=source.names,
        island=run.session.island,
        raw_matches=opened.sha256 == provenance.raw.sha256 and _has_weights(opened, provenance),
        max_label_flips=label_limit,
        max_pixel_flips=pixel_limit,
        warnings=(*describe_warnings(provenance), *range_warnings(provenance.preprocessing, *comparison.totals.frames)),
        notes=source.notes,
    )


def _check_raw(raw: RawModel, provenance: Provenance, *, other_raw: bool) -> None:
    """Raise if the raw model is a fused one, or another than the artifact was made from."""
    name = "The raw model" if raw.source is None else f"Raw model '{raw.source}'"
    if Provenance.from_metadata(raw.model.metadata_props) is not None:
        raise ModelError(
            f"{name} is a fused model, expected the raw export that it was fused from. pp-graph strip restores that."
        )
    if not other_raw and raw.sha256 != provenance.raw.sha256:
        file = "" if provenance.raw.file is None else f" ('{provenance.raw.file}')"
        raise ModelError(
            f"{name} (sha256 {raw.sha256[:12]}) is not the one that the artifact was made from{file}, expected sha256 "
            f"{provenance.raw.sha256[:12]}. Give that model, or compare with this one with --other-raw "
            "(other_raw=True)."
        )
    weights = provenance.raw.weights
    if not other_raw and weights is not None and not _has_weights(raw, provenance):
        raise ModelError(
            f"{name} has the graph of the model that the artifact was made from, and other external weights, expected "
            f"{weights.size:,} bytes with hash {weights.sample[:12]}. Copy the weights that belong to it beside it, or "
            "compare with these with --other-raw (other_raw=True)."
        )


def _has_weights(raw: RawModel, provenance: Provenance) -> bool:
    """Return True if the external weights are those of the raw model that was fused, as far as it had any."""
    weights = provenance.raw.weights
    return weights is None or weights_record(raw.external_tensors()) == weights


def _verify_boundary(artifact: Artifact, device: str, precision: str | None) -> BoundaryReport:
    program = artifact.program
    raw, found = run_boundary(artifact, device, precision)
    expected = program.predictions(program.run(raw))
    steps = {step.target: step for step in program.steps}
    flips = 0
    errors = ErrorSum()
    for name, wanted in expected.items():
        check_form(name, found, wanted)
        if name in program.decisions:
            flips += int((found[name] != wanted).sum())
        elif steps[name].exact or steps[name].pointwise:
            # Runtimes differ in sums over NaN or infinite neighbours, so such steps are compared on images only.
            errors.add(found[name], wanted)
    return BoundaryReport(len(next(iter(raw.values()))), flips, errors.scaled)
