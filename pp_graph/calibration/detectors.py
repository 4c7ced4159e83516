"""Run a detector on images with ground truth, and find the confidence of each class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pp_graph.calibration.box_thresholds import MATCH_OVERLAP, BoxCalibration, ConfidenceGoal, calibrate_boxes
from pp_graph.calibration.per_image import PerImageWork, collect, collect_on_workers
from pp_graph.conversion import convert
from pp_graph.data import Detections, choose_batch_size, feed_model, open_ground_truth, read_ahead
from pp_graph.data.fitting import image_shape
from pp_graph.errors import CalibrationError, TargetError
from pp_graph.fusion import Artifact, FusedModel, Provenance, fuse
from pp_graph.model import RawModel, image_input
from pp_graph.opening import kind_of
from pp_graph.openvino.model import OpenVINOModel
from pp_graph.postprocessors import DetectionPostProcessor
from pp_graph.preprocessing import Placement
from pp_graph.program import detects
from pp_graph.progress import expect, shows_progress
from pp_graph.sessions import run_in_batches
from pp_graph.steps import ExceedsConfidence
from pp_graph.workers.models import SentModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    from distributed import Client

    from pp_graph.data import GroundTruth
    from pp_graph.sessions import Session

FLOOR: Final = 0.001
"""Confidence with which detections are made, as in COCO evaluations of Ultralytics."""
_STRETCHED: Final = 1.05
"""Change of the aspect ratio from which an image counts as stretched."""


@shows_progress("Calibrating")
def calibrate_detector(
    model: str | Path | RawModel | Artifact,
    images: str | Path,
    boxes: str | Path,
    *,
    post: DetectionPostProcessor | None = None,
    goal: ConfidenceGoal | None = None,
    overlap: float = MATCH_OVERLAP,
    device: str | None = None,
    inference_precision: str | None = "f32",
    roles: Mapping[str, str] | None = None,
    letterbox: bool = False,
    batch_size: int | None = None,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
    client: Client | None = None,
    progress: Callable[[int], None] | bool | None = None,
) -> BoxCalibration:
    """Find the confidence of each class of a detector.

    The model runs with a confidence of 0.001 and its own suppression of overlapping boxes. Boxes are compared in
    pixels of the images.

    Args:
        model: A raw ONNX model, or an artifact.
        images: Folder of the images.
        boxes: COCO JSON, or a folder of YOLO's text files; see `pp_graph.data.open_ground_truth`.
        post: Post-processor of a raw model; by default one that recognises the head. An artifact has its own.
        goal: How to choose confidences; the largest F1 by default.
        overlap: Least intersection over union of a detection and a box of the ground truth.
        device: OpenVINO device. None runs an ONNX model in onnxruntime, in float32, and an IR on the CPU.
        inference_precision: OpenVINO's inference precision: `f32`, `bf16`, `f16`; None means the device's default.
        roles: Names of a raw model's outputs by role.
        letterbox: Resize images without changing their aspect ratio, for a model that does not preprocess frames.
        batch_size: Images per batch, if the model's batch size is open.
        fixed_inputs: Values of inputs other than the images; see `pp_graph.data.fix_inputs`.
        client: A `distributed.Client`, to share the images among the workers of a Dask cluster. The result is the same,
            bit for bit. None runs in this process.
        progress: Called after each batch with its number of images; True shows a progress bar.

    Returns:
        Confidences and average precision.

    Raises:
        CalibrationError: The model returns no detections, or the ground truth does not allow a choice.
        DataError: Images or ground truth do not fit.
        ModelError: The model cannot be used.
        PostProcessorError: The post-processor does not fit.
        TargetError: A runtime cannot run the model; `DeviceError` if the device is absent.
        ClusterError: The cluster cannot share the work.
    """
    settings: dict[str, Any] = {"device": device, "precision": inference_precision, "post": post, "roles": roles}
    artifact = _opened(model, **settings)
    provenance = artifact.provenance
    file = provenance.raw.file if artifact.file is None else artifact.file.name
    names = provenance.predicted["classes"].class_names
    truth = open_ground_truth(boxes, images, class_names=names, letterbox=letterbox)
    program = artifact.program
    compared = [program.types[step.target] for step in program.steps if isinstance(step, ExceedsConfidence)]
    # A model that returns one class a box does not tell how many there are.
    count = next((value.size("C") for value in compared if "C" in value.axes), None)
    tunable = "confidence" in provenance.parameters
    single = tunable and count is None
    run = _DetectorRun.of(artifact, device, inference_precision, fixed_inputs)
    size = run.batch_size(truth, batch_size)
    expect(progress, len(truth))
    advance = progress if callable(progress) else None
    if client is None:
        results = collect(run, truth, size, advance)
    else:
        opening = partial(_DetectorRun.open, fixed_inputs=fixed_inputs, **settings)
        results = collect_on_workers(client, PerImageWork(SentModel.of(model), opening, size), truth, advance)
    found = [each for each, _ in results]
    stretched = sum(lost for _, lost in results)
    notes = [*truth.images.notes, *truth.notes]
    if stretched:
        notes.append(
            f"{stretched} of {len(truth)} images were stretched to the model's input. If the model was trained on "
            "letterboxed frames, use --letterbox (letterbox=True), or convert it with --resize letterbox"
        )
    if not tunable:
        notes.append("the confidence of this model is fixed, and detections below it are unknown")
    result = calibrate_boxes(
        found,
        truth.marked,
        names or _class_names(truth, found, count),
        goal=goal,
        overlap=overlap,
        floor=FLOOR if tunable else 0.0,
        one_for_all=single,
        model=file,
        notes=notes,
    )
    if provenance.parameters.get("class_aware") is False and not single:
        note = (
            "boxes of different classes suppress each other in this model, so with one confidence for each class it "
            "may keep boxes that were suppressed here"
        )
        return replace(result, notes=(*result.notes, note))
    return result


def _opened(
    model: str | Path | RawModel | Artifact,
    *,
    device: str | None,
    precision: str | None,
    post: DetectionPostProcessor | None,
    roles: Mapping[str, str] | None,
) -> Artifact:
    """Return a detector with its post-processing, after checking that it is one and that it can run as wanted."""
    artifact = _fused(model, post, roles)
    if isinstance(artifact, FusedModel) and device is None and precision not in (None, "f32"):
        raise TargetError(
            f"Inference precision is {precision} for an ONNX file without a device, expected f32, in which "
            "onnxruntime computes. Name an OpenVINO device with device=... (--device CPU)."
        )
    predicted = artifact.provenance.predicted
    if not detects(predicted.values()):
        raise CalibrationError(
            f"The model returns {', '.join(predicted)}, expected the boxes, scores, classes and count of a "
            "detector. Leave out --boxes to calibrate another model."
        )
    return artifact


def _fused(
    model: str | Path | RawModel | Artifact, post: DetectionPostProcessor | None, roles: Mapping[str, str] | None
) -> Artifact:
    if isinstance(model, str | Path):
        model = OpenVINOModel.load(model) if kind_of(model) == "ir" else RawModel.open(model)
    if isinstance(model, RawModel):
        provenance = Provenance.from_metadata(model.model.metadata_props)
        if provenance is None:
            return fuse(model, post or DetectionPostProcessor(), roles=roles)
        model = FusedModel.of(model, provenance)
    if post is not None:
        raise CalibrationError(
            "A post-processor was given for a fused model, expected a raw model. Leave it out: a fused model has its "
            "own."
        )
    return model


def _class_names(truth: GroundTruth, found: Sequence[Detections], count: int | None) -> tuple[str, ...]:
    """Return the names of the classes of a model without labels: those of the ground truth, or indices."""
    if count is None:
        seen = [each.classes for each in found] + [each.classes for each in truth.marked]
        count = max((int(classes.max()) + 1 for classes in seen if len(classes)), default=0)
        count = max(count, len(truth.class_names))
    if not truth.class_names:
        return tuple(map(str, range(count)))
    if len(truth.class_names) != count:
        raise CalibrationError(
            f"The model has {count} classes and no labels, and the ground truth '{truth.file}' names "
            f"{len(truth.class_names)}: {', '.join(truth.class_names[:10])}, expected a name for each class. Fuse or "
            "convert the model with its labels (--labels FILE)."
        )
    return truth.class_names


@dataclass(frozen=True)
class _DetectorRun:
    """A detector in a runtime, with the least confidence."""

    artifact: Artifact
    session: Session
    fixed_inputs: Mapping[str, npt.ArrayLike] | None

    @classmethod
    def of(
        cls,
        artifact: Artifact,
        device: str | None,
        precision: str | None,
        fixed_inputs: Mapping[str, npt.ArrayLike] | None,
    ) -> _DetectorRun:
        if "confidence" in artifact.provenance.parameters:
            artifact = artifact.with_program(artifact.program.replace(confidence=FLOOR))
        if device is not None and isinstance(artifact, FusedModel):
            artifact = convert(artifact, device=device)
        if isinstance(artifact, OpenVINOModel):
            return cls(artifact, artifact.session(device or "CPU", precision=precision), fixed_inputs)
        return cls(artifact, artifact.session(), fixed_inputs)

    @classmethod
    def open(
        cls,
        model: Path,
        *,
        device: str | None,
        precision: str | None,
        fixed_inputs: Mapping[str, npt.ArrayLike] | None,
        **opening: Any,
    ) -> _DetectorRun:
        artifact = _opened(model, device=device, precision=precision, **opening)
        return cls.of(artifact, device, precision, fixed_inputs)

    def batch_size(self, truth: GroundTruth, asked: int | None) -> int:
        """Return the number of images in a batch, after checking that the images feed the model."""
        if image_input(self.session.inputs) is None:
            raise CalibrationError("The model has no input for images, expected a detector on images.")
        feed_model(truth.images, self.session.inputs, self.fixed_inputs)
        return choose_batch_size(self.session.inputs, asked)

    def batches(
        self, images: GroundTruth, size: int, span: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, int, list[tuple[Detections, bool]]]]:
        """Yield the detections of each image in its own pixels, and whether it lost its aspect ratio."""
        wanted = image_input(self.session.inputs)
        assert wanted is not None
        _, height, width = image_shape(wanted)
        provenance = self.artifact.provenance
        letterbox = images.images.letterbox
        fed = feed_model(images.images, self.session.inputs, self.fixed_inputs)
        for start, stop, feeds in read_ahead(fed, self.session.inputs, size, span):
            outputs = provenance.unpacked(run_in_batches(self.session, feeds))
            found = []
            for place in range(stop - start):
                columns, rows = images.sizes[start + place]
                each = Detections.of_outputs(outputs, place, provenance.parameters)
                at = (rows, columns), (height, width), provenance.preprocessing
                placed = Placement.of(*at, letterbox=letterbox)
                own = Placement.of_outputs(*at, letterbox=letterbox)
                # Rounding to pixels changes the ratio a little.
                ratio = placed.size[0] * columns / (placed.size[1] * rows)
                stretched = not 1 / _STRETCHED < ratio < _STRETCHED
                found.append((replace(each, boxes=own.to_frame(each.boxes)), stretched))
            yield start, stop, found
