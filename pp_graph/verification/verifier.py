"""Run the raw model with the NumPy reference, and the artifact on its device, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.data import ImageSource, choose_batch_size, feed_model, open_images, read_ahead
from pp_graph.errors import DataError, ModelError, TargetError
from pp_graph.fusion import Provenance
from pp_graph.model import ModelInput, RawModel, Shape, batch_places, format_shape
from pp_graph.model.batch import output_axes
from pp_graph.model.shapes import declared_shape
from pp_graph.model.weights import weights_record
from pp_graph.opening import open_artifact
from pp_graph.openvino import OpenVINOModel, OpenVINOSession
from pp_graph.openvino.devices import OWN, chosen_precision
from pp_graph.openvino.preprocessing import extract_preprocessing
from pp_graph.plausibility import describe_warnings, range_warnings
from pp_graph.preprocessing import Preprocessing, feed_by_hand
from pp_graph.preprocessing.placement import FRAME, in_frame, maps_in_frame
from pp_graph.program import Predictions, region_map_size
from pp_graph.progress import expect, shows_progress
from pp_graph.raw_values import open_raw_values
from pp_graph.sessions import OnnxSession, Session, run_in_batches
from pp_graph.verification.boundary import run_boundary
from pp_graph.verification.comparison import Comparison, ErrorSum, Side, check_form, checked_predictions
from pp_graph.verification.parts import BoundaryReport, FlipLimit
from pp_graph.verification.report import MAX_LABEL_FLIPS, MAX_PIXEL_FLIPS, VerificationReport

if TYPE_CHECKING:
    import numpy.typing as npt

    from pp_graph.fusion import Artifact
    from pp_graph.program import Program
    from pp_graph.steps import Array

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
    """
    label_limit = FlipLimit.parse(max_label_flips, "max_label_flips")
    pixel_limit = FlipLimit.parse(max_pixel_flips, "max_pixel_flips")
    opened = RawModel.open(raw)
    if isinstance(artifact, str | Path):
        artifact = open_artifact(artifact)
    provenance = artifact.provenance
    if inference_precision == OWN:
        inference_precision = chosen_precision(provenance, device) or "f32"
    _check_raw(opened, provenance, other_raw=other_raw)
    opened_images = open_images(images)
    reference = _Reference(opened, artifact)
    # The artifact runs twice, as it ships and with its raw values exposed, as exposing them might hide a flip.
    session = _shipped_session(artifact, device, inference_precision, cache_dir)
    raw_values = (
        open_raw_values(artifact, device=device, inference_precision=inference_precision)
        if isinstance(artifact, OpenVINOModel)
        else open_raw_values(artifact)
    )
    preprocessing = _preprocessing_session(artifact, device, inference_precision)
    boundary = _verify_boundary(artifact, device, inference_precision)
    comparison = Comparison(provenance, artifact.program)
    wanted = _joint_inputs(reference.session, session, provenance.preprocessing)
    source = feed_model(opened_images, wanted, fixed_inputs)
    size = choose_batch_size(wanted, 1 if provenance.signature.of_one_image else batch_size)
    expect(progress, len(opened_images))
    frame_range = (np.inf, -np.inf)
    for start, stop, feeds in read_ahead(source, wanted, size):
        if provenance.preprocessing is not None:
            frames = feeds[provenance.preprocessing.input or ""]
            frame_range = (min(frame_range[0], float(frames.min())), max(frame_range[1], float(frames.max())))
        shipped = checked_predictions(provenance, run_in_batches(session, feeds, reference.output_axes))
        expected, own = (
            _in_frame(each, artifact.program, provenance, feeds)
            for each in (reference.run(feeds), reference.side(raw_values.run(feeds)))
        )
        comparison.add(expected, own, shipped, start)
        if preprocessing is not None:
            name = preprocessing.inputs[0].name
            (preprocessed,) = run_in_batches(preprocessing, {name: feeds[name]}).values()
            comparison.add_preprocessed(preprocessed, feed_by_hand(feeds, provenance.preprocessing)[name])
        if callable(progress):
            progress(stop - start)
    return comparison.report(
        boundary=boundary,
        artifact=session.description,
        reference=f"{reference.session.description} and the NumPy reference",
        names=source.names,
        island=session.island,
        raw_matches=opened.sha256 == provenance.raw.sha256 and _has_weights(opened, provenance),
        max_label_flips=label_limit,
        max_pixel_flips=pixel_limit,
        warnings=(*describe_warnings(provenance), *range_warnings(provenance.preprocessing, *frame_range)),
        notes=source.notes,
    )


def _in_frame(side: Side, program: Program, provenance: Provenance, feeds: Mapping[str, Array]) -> Side:
    """Return a side with the coordinates and sizes that the artifact returns."""
    preprocessing = provenance.preprocessing
    if preprocessing is None or FRAME not in (preprocessing.box_coordinates, preprocessing.map_size):
        return side
    size = region_map_size(program, {name: array.shape for name, array in side.raw.items()})
    moved = in_frame(side.predictions, preprocessing, feeds, size)
    axes = {name: output.axes for name, output in provenance.predicted.items()}
    return replace(side, predictions=Predictions(maps_in_frame(moved, axes, preprocessing, feeds)))


def _shipped_session(artifact: Artifact, device: str, precision: str | None, cache_dir: str | Path | None) -> Session:
    if isinstance(artifact, OpenVINOModel):
        return artifact.session(device, precision=precision, cache_dir=cache_dir)
    if cache_dir is not None:
        raise TargetError(
            f"A cache is given for the fused model '{artifact.file or '(in memory)'}', expected an IR: a fused .onnx "
            "is verified in onnxruntime, which keeps no compiled models. Leave out --cache-dir (cache_dir=...)."
        )
    return artifact.session(device, precision=precision)


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


def _preprocessing_session(artifact: Artifact, device: str, precision: str | None) -> OpenVINOSession | None:
    provenance = artifact.provenance
    if provenance.preprocessing is None or not isinstance(artifact, OpenVINOModel):
        return None
    return OpenVINOSession(
        extract_preprocessing(artifact.network, provenance),
        device=device,
        precision=precision,
        preprocessing=provenance.preprocessing,
    )


class _Reference:
    """The raw model in float32 and the post-processor in NumPy, with the artifact's preprocessing in NumPy."""

    def __init__(self, raw: RawModel, artifact: Artifact) -> None:
        provenance = artifact.provenance
        self._preprocessing = provenance.preprocessing
        self._program = artifact.program
        self._outputs = {role: record.name for role, record in provenance.raw.read.items()}
        present = {output.name for output in raw.model.graph.outputs}
        # Post-processing may read values inside the raw model.
        inner = [name for name in self._outputs.values() if name not in provenance.raw.outputs]
        self.session = OnnxSession(raw, probes=inner)
        for name in self._outputs.values():
            if name not in present and name not in inner:
                raise ModelError(
                    f"The raw model has no output '{name}', which the artifact was made from; it has "
                    f"{', '.join(repr(output) for output in present)}. Give the raw model that was fused."
                )
        declared = {output.name or "": declared_shape(output) for output in raw.model.graph.outputs}
        axes = output_axes(raw.inputs, declared, named_only=True)
        fused_names = {old: new for new, old in provenance.raw.renamed.items()}
        self._passed_through = {fused_names.get(name, name): name for name in provenance.raw.outputs if name in present}
        # The inputs of intermediates are compared too.
        behind = [step for step in self._program.steps if step.target in provenance.intermediates]
        self._wanted = {output.name for output in self._program.predicted} | set(provenance.intermediates)
        self._wanted |= {name for step in behind for name in step.reads}
        self.output_axes = {kept: axes[name] for kept, name in self._passed_through.items() if name in axes}

    def run(self, feeds: Mapping[str, Array]) -> Side:
        """Run the raw model and the NumPy reference."""
        outputs = run_in_batches(self.session, feed_by_hand(feeds, self._preprocessing))
        types = self._program.signature
        raw = {role: outputs[name].astype(types[role].dtype) for role, name in self._outputs.items()}
        side = self.side(raw)
        side.raw.update({name: side.values[name] for name in self._program.intermediates})
        side.passed_through.update({kept: outputs[name] for kept, name in self._passed_through.items()})
        return side

    def side(self, raw: dict[str, Array]) -> Side:
        """Run the NumPy reference on raw values and known intermediates."""
        types = self._program.types
        typed = {name: array.astype(types[name].dtype, copy=False) for name, array in raw.items()}
        values = self._program.compute(typed, self._wanted)
        return Side(raw, values, self._program.predictions(values), {})


def _joint_inputs(raw: Session, artifact: Session, preprocessing: Preprocessing | None) -> tuple[ModelInput, ...]:
    """Return the raw model's inputs with the sizes that the artifact fixes, and frames if it preprocesses.

    The batch stays that of the raw model; `run_in_batches` splits it if the artifact fixes another.
    """
    theirs = {model_input.name: model_input for model_input in artifact.inputs}
    places = batch_places(raw.inputs)
    joint = []
    for model_input in raw.inputs:
        if model_input.name not in theirs:
            raise ModelError(
                f"Raw model has an input '{model_input.name}', the artifact has {', '.join(map(repr, theirs))}. "
                "Give the raw model that was fused."
            )
        batch = places[model_input.name].axes if model_input.name in places else ()
        if preprocessing is not None and preprocessing.input == model_input.name:
            _joint_shape(model_input.shape, preprocessing.model_shape, batch, model_input.name)
            frames = theirs[model_input.name]
            joint.append(replace(frames, shape=((model_input.shape or (None,))[0], *(frames.shape or ())[1:])))
            continue
        shape = _joint_shape(model_input.shape, theirs[model_input.name].shape, batch, model_input.name)
        joint.append(ModelInput(model_input.name, model_input.dtype, shape))
    return tuple(joint)


def _joint_shape(raw: Shape | None, artifact: Shape | None, batch: Sequence[int], name: str) -> Shape | None:
    if raw is None or artifact is None or len(raw) != len(artifact):
        return raw if artifact is None else artifact
    joint = list(raw)
    for axis, (ours, theirs) in enumerate(zip(raw, artifact, strict=True)):
        if axis in batch or not isinstance(theirs, int):
            continue
        if isinstance(ours, int) and ours != theirs:
            raise DataError(
                f"Input '{name}' is {format_shape(raw)} in the raw model and {format_shape(artifact)} in the artifact, "
                "expected images of one size for both. Convert without --input-shape, or with the raw model's."
            )
        joint[axis] = theirs
    return tuple(joint)
