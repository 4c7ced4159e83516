"""Run the raw model with the NumPy reference, and the artifact on its device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pp_graph.data import choose_batch_size, feed_model, read_ahead
from pp_graph.errors import DataError, ModelError, TargetError
from pp_graph.model import ModelInput, Shape, batch_places, format_shape
from pp_graph.model.batch import output_axes
from pp_graph.model.shapes import declared_shape
from pp_graph.openvino import OpenVINOModel, OpenVINOSession
from pp_graph.openvino.preprocessing import extract_preprocessing
from pp_graph.preprocessing import Preprocessing, feed_by_hand
from pp_graph.preprocessing.placement import FRAME, in_frame, maps_in_frame
from pp_graph.program import Predictions, region_map_size
from pp_graph.raw_values import open_raw_values
from pp_graph.sessions import OnnxSession, Session, run_in_batches
from pp_graph.verification.comparison import Side, checked_predictions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from pp_graph.data import Images
    from pp_graph.fusion import Artifact, Provenance
    from pp_graph.model import RawModel
    from pp_graph.program import Program
    from pp_graph.steps import Array
    from pp_graph.verification.comparison import Comparison


class VerificationRun:
    """The raw model with the NumPy reference, and the artifact, ready to run on images; see `verify` for arguments.

    Attributes:
        reference: The reference.
        session: The artifact as it ships.
    """

    def __init__(
        self,
        raw: RawModel,
        artifact: Artifact,
        device: str,
        precision: str | None,
        cache_dir: str | Path | None,
        fixed_inputs: Mapping[str, npt.ArrayLike] | None,
    ) -> None:
        self._artifact = artifact
        self._fixed_inputs = fixed_inputs
        self.reference = Reference(raw, artifact)
        # The artifact runs twice, as it ships and with its raw values exposed, as exposing them might hide a flip.
        self.session = _shipped_session(artifact, device, precision, cache_dir)
        self._raw_values = (
            open_raw_values(artifact, device=device, inference_precision=precision)
            if isinstance(artifact, OpenVINOModel)
            else open_raw_values(artifact)
        )
        self._preprocessing = _preprocessing_session(artifact, device, precision)
        self._inputs = _joint_inputs(self.reference.session, self.session, artifact.provenance.preprocessing)

    def batch_size(self, asked: int | None) -> int:
        """Return the number of images in a batch."""
        return choose_batch_size(self._inputs, 1 if self._artifact.provenance.signature.of_one_image else asked)

    def fed(self, images: Images) -> Images:
        """Return images with the model's other inputs."""
        return feed_model(images, self._inputs, self._fixed_inputs)

    def compare(
        self, comparison: Comparison, images: Images, offset: int, size: int, span: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, int]]:
        """Run both on images, and compare.

        Args:
            comparison: What to add the results to.
            images: The images.
            offset: Index of the first of them among all.
            size: Images in a batch.
            span: First and exclusive last image to run, counted from the first of `images`; None for all.

        Yields:
            Index of the first image of each batch, and index after the last one, among all.
        """
        program, given = self._artifact.program, self._artifact.provenance.preprocessing
        for start, stop, feeds in read_ahead(self.fed(images), self._inputs, size, span):
            if given is not None:
                comparison.totals.add_frames(feeds[given.input or ""])
            shipped = checked_predictions(
                self._artifact.provenance, run_in_batches(self.session, feeds, self.reference.output_axes)
            )
            expected, own = (
                _in_frame(each, program, self._artifact.provenance, feeds)
                for each in (self.reference.run(feeds), self.reference.side(self._raw_values.run(feeds)))
            )
            comparison.add(expected, own, shipped, offset + start)
            if self._preprocessing is not None:
                name = self._preprocessing.inputs[0].name
                (preprocessed,) = run_in_batches(self._preprocessing, {name: feeds[name]}).values()
                comparison.add_preprocessed(preprocessed, feed_by_hand(feeds, given)[name])
            yield offset + start, offset + stop


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


class Reference:
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
