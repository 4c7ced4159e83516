"""Run the raw model with the NumPy reference, and the artifact on its device, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from pp_graph.data import ImageSource, choose_batch_size, feed_model, open_images
from pp_graph.errors import DataError, ModelError, TargetError
from pp_graph.fusion import FusedModel, Provenance
from pp_graph.model import ModelInput, RawModel, Shape, batch_places, format_shape
from pp_graph.model.batch import batch_axes_of
from pp_graph.model.shapes import declared_shape
from pp_graph.postprocessors import OUTPUT_NAMES
from pp_graph.postprocessors.layout import DECISION_NAMES
from pp_graph.preprocessing import Preprocessing, feed_by_hand
from pp_graph.targets import (
    OnnxSession,
    OpenVINOModel,
    OpenVINOSession,
    RawValues,
    Session,
    open_raw_values,
    run_in_batches,
)
from pp_graph.targets.preprocessing import extract_preprocessing
from pp_graph.targets.session import with_batch_axes
from pp_graph.verification.boundary import run_boundary
from pp_graph.verification.comparison import Comparison, ErrorSum, Side, check_form, checked_predictions
from pp_graph.verification.report import BoundaryReport, VerificationReport

if TYPE_CHECKING:
    import numpy.typing as npt

    from pp_graph.steps import Array

Progress = Callable[[int], None]
"""Called with the number of images just done."""


def verify(
    raw: str | Path | RawModel,
    artifact: OpenVINOModel | FusedModel | str | Path,
    inputs: ImageSource,
    *,
    device: str = "CPU",
    inference_precision: str | None = "f32",
    max_flips: int | None = None,
    batch_size: int | None = None,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
    progress: Progress | None = None,
) -> VerificationReport:
    """Compare an artifact's decisions with those of the raw model and its statistics in float32.

    The reference is the raw model in onnxruntime, followed by the post-processor in NumPy. The
    artifact runs on the device. Every decision that differs is counted under its cause: the
    post-processing (which must cause none), or drift of the network in the artifact's precision.

    Args:
        raw: The raw ONNX model.
        artifact: A converted model, a fused one, or the path of an `.xml` or `.onnx` file.
        inputs: Images: a folder, an `.npz`, or arrays; see `pp_graph.data.open_images`.
        device: Device to run an OpenVINO model on.
        inference_precision: Precision to run an OpenVINO model in: `f32`, `bf16`, `f16`; None leaves
            it to the device.
        max_flips: Drift flips to tolerate; None for any number.
        batch_size: Images a batch, where the model leaves it open.
        fixed_inputs: Values for inputs that are no images and not in the data, such as `{"sr": 16000}`; see
            `pp_graph.data.fix_inputs`.
        progress: Called after each batch.

    Returns:
        The report.

    Raises:
        ProvenanceError: The artifact was not made by pp_graph.
        ModelError: The raw model cannot be used, or lacks an output that the artifact was made from.
        StatisticsError: The provenance holds statistics that its post-processor cannot use.
        DataError: The images do not fit.
        TargetError: A runtime cannot load or run a model; `DeviceError` where the device is absent.
    """
    opened = RawModel.open(raw)
    if isinstance(artifact, str | Path):
        artifact = _open_artifact(Path(artifact))
    if max_flips is not None and max_flips < 0:
        raise DataError(f"max_flips is {max_flips}, expected at least 0. Leave it out to tolerate any number.")
    opened_images = open_images(inputs)
    provenance = artifact.provenance
    reference = _Reference(opened, provenance)
    runs = _sessions(artifact, device, inference_precision)
    for session in (runs.shipped, runs.raw_values.session):
        session.inputs = with_batch_axes(session.inputs, provenance)
    boundary = _verify_boundary(artifact, reference, device, inference_precision)
    comparison = Comparison(provenance, reference.post)
    wanted = _joint_inputs(reference.session, runs.shipped, provenance.preprocessing)
    images = feed_model(opened_images, wanted, fixed_inputs)
    size = choose_batch_size(wanted, batch_size)
    for start in range(0, len(images), size):
        stop = min(start + size, len(images))
        feeds = images.read(start, stop, wanted)
        comparison.add(*_run_batch(feeds, reference, runs), start)
        if runs.preprocessing is not None:
            name = runs.preprocessing.inputs[0].name
            (preprocessed,) = run_in_batches(runs.preprocessing, {name: feeds[name]}).values()
            comparison.add_preprocessed(preprocessed, feed_by_hand(feeds, provenance.preprocessing)[name])
        if progress is not None:
            progress(stop - start)
    return comparison.report(
        boundary=boundary,
        artifact=runs.shipped.description,
        reference=f"{reference.session.description} and the NumPy reference",
        names=images.names,
        island=runs.shipped.island if isinstance(runs.shipped, OpenVINOSession) else {},
        raw_matches=opened.sha256 == provenance.raw.sha256,
        max_flips=max_flips,
    )


def _open_artifact(path: Path) -> OpenVINOModel | FusedModel:
    return OpenVINOModel.load(path) if path.suffix.lower() == ".xml" else FusedModel.load(path)


def _verify_boundary(
    artifact: OpenVINOModel | FusedModel, reference: _Reference, device: str, inference_precision: str | None
) -> BoundaryReport:
    provenance = artifact.provenance
    raw, found = run_boundary(artifact, reference.post, device, inference_precision)
    expected = reference.post.predictions(reference.values(raw))
    steps = {step.target: step for step in reference.post.compiled(provenance.layout).steps}
    flips = 0
    errors = ErrorSum()
    for name in OUTPUT_NAMES:
        wanted = getattr(expected, name)
        if wanted is None:
            continue
        check_form(name, found, wanted)
        if name in DECISION_NAMES:
            flips += int((found[name] != wanted).sum())
        elif steps[name].exact or steps[name].pointwise:
            # Sums over neighbours that are NaN or infinite differ between runtimes; images are compared for these.
            errors.add(found[name], wanted)
    return BoundaryReport(len(next(iter(raw.values()))), flips, errors.scaled)


@dataclass(frozen=True)
class _Runs:
    """The artifact as it ships, and once more with its raw values made visible.

    Both are run: what counts are the decisions of the former, and showing inner values must not be
    able to hide a flip.
    """

    shipped: Session
    raw_values: RawValues
    preprocessing: Session | None = None


def _sessions(artifact: OpenVINOModel | FusedModel, device: str, inference_precision: str | None) -> _Runs:
    if isinstance(artifact, OpenVINOModel):
        return _Runs(
            OpenVINOSession(artifact, device=device, inference_precision=inference_precision),
            open_raw_values(artifact, device=device, inference_precision=inference_precision),
            _preprocessing_session(artifact, device, inference_precision),
        )
    if device != "CPU" or inference_precision not in (None, "f32"):
        raise TargetError(
            f"An ONNX file was given with device {device} and precision {inference_precision}, expected CPU and f32: "
            "it is run by onnxruntime. Convert it to OpenVINO first."
        )
    return _Runs(OnnxSession(artifact.opened), open_raw_values(artifact))


def _preprocessing_session(
    artifact: OpenVINOModel, device: str, inference_precision: str | None
) -> OpenVINOSession | None:
    if artifact.provenance.preprocessing is None:
        return None
    model = extract_preprocessing(artifact.model, artifact.provenance)
    # It decides nothing.
    alone = OpenVINOModel(model, msgspec.structs.replace(artifact.provenance, cutoffs={}), artifact.precision)
    return OpenVINOSession(alone, device=device, inference_precision=inference_precision)


class _Reference:
    """The raw model in float32, fed by hand where the artifact preprocesses, and the post-processor in NumPy."""

    def __init__(self, raw: RawModel, provenance: Provenance) -> None:
        self._preprocessing = provenance.preprocessing
        self.post = provenance.build_post_processor()
        self.provenance = provenance
        self.session = OnnxSession(raw)
        self._inner = tuple(provenance.inner)
        self._outputs = {role: record.name for role, record in provenance.raw.read.items()}
        present = {output.name for output in raw.model.graph.outputs}
        for name in self._outputs.values():
            if name not in present:
                raise ModelError(
                    f"The raw model has no output '{name}', which the artifact was made from; it has "
                    f"{', '.join(repr(each) for each in present)}. Give the raw model that was fused."
                )
        declared = {output.name or "": declared_shape(output) for output in raw.model.graph.outputs}
        axes = batch_axes_of(raw.inputs, declared)
        fused_names = {old: new for new, old in provenance.raw.renamed.items()}
        self._passed_through = {fused_names.get(name, name): name for name in provenance.raw.outputs if name in present}
        self.output_axes = {kept: axes[name] for kept, name in self._passed_through.items() if name in axes}

    def run(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Raw and inner values by name, and all outputs by the names that they have in the artifact if kept there."""
        outputs = run_in_batches(self.session, feed_by_hand(feeds, self._preprocessing))
        raw = {role: outputs[name].astype(np.float32) for role, name in self._outputs.items()}
        computed = self.values(raw)
        raw |= {name: computed[name] for name in self._inner}
        return raw, {kept: outputs[name] for kept, name in self._passed_through.items()}

    def values(self, raw: Mapping[str, Array]) -> dict[str, Array]:
        """All that follows from raw values, and from inner ones where these are given."""
        return self.post.run(raw, self.provenance.layout)

    def side(self, raw: dict[str, Array], passed_through: dict[str, Array]) -> Side:
        """What the reference makes of raw and inner values."""
        values = self.values(raw)
        if self._inner:
            # What an inner value follows from is compared as well.
            values = {**self.values({role: raw[role] for role in self._outputs}), **values}
        return Side(raw, values, self.post.predictions(values), passed_through)


def _run_batch(feeds: Mapping[str, Array], reference: _Reference, runs: _Runs) -> tuple[Side, Side, dict[str, Array]]:
    reference_raw, passed_through = reference.run(feeds)
    outputs = run_in_batches(runs.shipped, feeds, reference.output_axes)
    shipped = checked_predictions(reference.provenance, outputs)
    own_raw = runs.raw_values.run(feeds)
    return (
        reference.side(reference_raw, passed_through),
        reference.side(own_raw, {}),
        shipped,
    )


def _joint_inputs(raw: Session, artifact: Session, preprocessing: Preprocessing | None) -> tuple[ModelInput, ...]:
    """The inputs of the raw model, with the sizes that the artifact fixed; frames where it takes these.

    Either may fix the batch, and `run_in_batches` cuts to it: it stays that of the raw model, whose names say where
    each input has it.
    """
    theirs = {each.name: each for each in artifact.inputs}
    places = batch_places(raw.inputs)
    joint = []
    for each in raw.inputs:
        if each.name not in theirs:
            raise ModelError(
                f"Raw model has an input '{each.name}', the artifact has {', '.join(map(repr, theirs))}. "
                "Give the raw model that was fused."
            )
        batch = places[each.name].axes if each.name in places else ()
        if preprocessing is not None and preprocessing.input == each.name:
            _joint_shape(each.shape, preprocessing.model_shape, batch, each.name)
            frames = theirs[each.name]
            joint.append(replace(frames, shape=((each.shape or (None,))[0], *(frames.shape or ())[1:])))
            continue
        shape = _joint_shape(each.shape, theirs[each.name].shape, batch, each.name)
        joint.append(ModelInput(each.name, each.dtype, shape))
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
