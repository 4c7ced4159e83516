"""From an Anomalib model or checkpoint to a verified artifact in one call."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import numpy as np

from pp_graph.conversion import convert
from pp_graph.data import ImageSource, open_images
from pp_graph.errors import ModelError, PostProcessorError, StatisticsError, TargetError, VerificationError
from pp_graph.files import check_targets
from pp_graph.fusion import fuse
from pp_graph.integrations.anomalib.comparison import EXPORT_TOLERANCE, ModelComparison, compare_with_model
from pp_graph.integrations.anomalib.loading import load_model
from pp_graph.integrations.anomalib.raw_export import evaluating, export_raw, own_size, raw_form, resizes_smoothly
from pp_graph.integrations.anomalib.settings import NOT_VALIDATED, read_post_processor, settings_of
from pp_graph.integrations.export_result import ExportResult
from pp_graph.model import RawModel
from pp_graph.opening import open_artifact
from pp_graph.openvino.usage import usage_path
from pp_graph.postprocessors import OneClassPostProcessor, PostProcessor
from pp_graph.statistics import Statistics
from pp_graph.verification import VerificationReport, verify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.fusion import Artifact
    from pp_graph.quantization import Quantization

_NOISE_IMAGES: Final = 8


def export(
    model: Any,
    output: str | Path = "model.xml",
    *,
    model_class: type | str | None = None,
    images: ImageSource | None = None,
    device: str = "CPU",
    precision: str = "f32",
    input_size: tuple[int, int] | Literal["model"] | None = "model",
    statistics: Statistics | str | Path | None = None,
    image_sensitivity: float | None = None,
    pixel_sensitivity: float | None = None,
    post: PostProcessor | None = None,
    quantization: Quantization | None = None,
    raw_output: str | Path | None = None,
    match_model: bool = True,
    max_label_flips: int | str | None = None,
    max_pixel_flips: int | str | None = None,
    verify_device: str = "CPU",
    inference_precision: str | None = "f32",
    batch_size: int | None = None,
    weights_only: bool = True,
    model_arguments: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> ExportResult:
    """Export an Anomalib 2.x model: raw to ONNX, post-processing fused in, converted, and verified.

    The pre-processor becomes part of the model, Anomalib's post-processor is left out, and ours decides by its
    statistics. The artifact is verified against the raw export (see `pp_graph.verify`), and compared with the model
    itself in torch. It is written when all that has passed; the model is left as it was.

    Args:
        model: An `AnomalibModule`, trained and validated, or the path of its `.ckpt`.
        output: The `.xml` to write, with its `.bin` and `.usage.md`, or an `.onnx`.
        model_class: Class of the model in a checkpoint, or the name of one in `anomalib.models`; not needed where its
            hyperparameters are those of one class only.
        images: Images to verify with, as `pp_graph.verify` takes them; None for noise, which proves that the parts fit
            and says little about decisions.
        device: Device to convert for; see `pp_graph.convert`.
        precision: Precision of the network's weights.
        input_size: Height and width of the images that the artifact takes. `model` is the size that the pre-processor
            resizes to, so that nothing is resized in the graph; None leaves it open, and the graph resizes.
        statistics: Statistics, or a file of them, in place of the model's own.
        image_sensitivity: Sensitivity in place of the model's own.
        pixel_sensitivity: The same for pixels.
        post: A post-processor in place of all settings of the model; without statistics it gets the model's.
        quantization: How to quantise, for `precision="int8"`.
        raw_output: Where to keep the raw ONNX export, for `pp_graph.calibrate` and `pp_graph.verify`; None for nowhere.
        match_model: Whether the rules of the model's own post-processor must be ours too, wherever no argument changes
            them: if it decides otherwise about any raw value of the images, nothing is written.
        max_label_flips: Labels that drift of the network may flip, against either reference: a number, or a share such
            as `"1%"`; None for any number. Anomalib's threshold is the score of a validation image, so rounding may
            flip that one.
        max_pixel_flips: Pixels that drift of the network may flip, likewise.
        verify_device: Device to verify on.
        inference_precision: Precision to verify in: `f32`, `bf16`, `f16`; None leaves it to the device.
        batch_size: Images a batch.
        weights_only: Whether a checkpoint may hold tensors and plain values only. Those of Anomalib before 2.7 hold
            more: switch it off for files you trust.
        model_arguments: Keyword arguments of the model's class, for a checkpoint.
        overwrite: Whether files may be replaced.

    Returns:
        The artifact and both reports.

    Raises:
        ExtraError: Anomalib is needed for a checkpoint, and not installed.
        ModelError: This is no Anomalib model, the checkpoint is not of that class, or it cannot be exported.
        StatisticsError: There are no statistics yet.
        PostProcessorError: A setting is out of range.
        VerificationError: The artifact decides otherwise than the raw export or the model, or computes something else.
        DataError: The images do not fit.
        TargetError: OpenVINO cannot take the model, or the device is not there.
        OutputFileError: A file cannot be written there.
        PPGraphError: See `pp_graph.fuse` and `pp_graph.convert`.
    """
    output = Path(output)
    raw_output = None if raw_output is None else Path(raw_output)
    checkpoint = Path(model) if isinstance(model, str | Path) else None
    _check_outputs(output, raw_output, overwrite, [] if checkpoint is None else [checkpoint])
    if checkpoint is not None:
        model = load_model(checkpoint, model_class, weights_only=weights_only, arguments=dict(model_arguments or {}))
    _check_model(model)
    changed = statistics is not None or post is not None or (image_sensitivity, pixel_sensitivity) != (None, None)
    post = _post_processor(model, statistics, image_sensitivity, pixel_sensitivity, post, checkpoint)
    with tempfile.TemporaryDirectory(prefix="pp_graph_", ignore_cleanup_errors=True) as folder, evaluating(model):
        size, notes = _input_size(model, input_size)
        with raw_form(model):
            raw_file = export_raw(model, Path(folder), size)
        raw = RawModel.open(raw_file)
        fused = fuse(raw, post)
        artifact: Artifact = fused
        if output.suffix.lower() == ".xml":
            artifact = convert(fused, device=device, precision=precision, quantization=quantization)
        notes = [*_notes_of(post), *fused.notes, *notes]
        if images is None:
            images = _noise(model, size)
            notes.append("No images were given: verified on noise, which says little about decisions.")
        opened = open_images(images)
        settings: Any = {
            "device": verify_device, "inference_precision": inference_precision, "batch_size": batch_size,
        }  # fmt: skip
        verification = verify(
            raw, artifact, opened, max_label_flips=max_label_flips, max_pixel_flips=max_pixel_flips, **settings
        )
        comparison = compare_with_model(model, raw, artifact, opened, **settings)
        _refuse(model, verification, comparison, required=match_model and not changed)
        if raw_output is not None:
            raw_output = raw.save(raw_output, overwrite=overwrite)
        artifact.save(output, overwrite=overwrite, inputs=[] if checkpoint is None else [checkpoint])
    return ExportResult(
        output,
        open_artifact(output),
        verification,
        raw_path=raw_output,
        comparison=comparison,
        notes=tuple(dict.fromkeys(notes)),
    )


def _check_outputs(output: Path, raw_output: Path | None, overwrite: bool, inputs: list[Path]) -> None:
    if output.suffix.lower() not in (".xml", ".onnx"):
        raise TargetError(
            f"Output '{output}' ends in '{output.suffix}', expected '.xml' for OpenVINO or '.onnx'. Rename it."
        )
    targets = [output]
    if output.suffix.lower() == ".xml":
        targets += [output.with_suffix(".bin"), usage_path(output)]
    if raw_output is not None:
        if raw_output.suffix.lower() != ".onnx" or raw_output.absolute() == output.absolute():
            raise TargetError(
                f"raw_output is '{raw_output}', expected the name of another file that ends in '.onnx'. Rename it."
            )
        targets.append(raw_output)
    check_targets(targets, overwrite=overwrite, inputs=inputs)


def _check_model(model: Any) -> None:
    base = getattr(sys.modules.get("anomalib.models.components"), "AnomalibModule", None)
    if base is None or not isinstance(model, base):
        raise ModelError(
            f"The model is {type(model).__name__}, expected an AnomalibModule or the path of its checkpoint. Give the "
            "model of Anomalib that was trained, not its inner torch model."
        )


def _post_processor(
    model: Any,
    statistics: Statistics | str | Path | None,
    image_sensitivity: float | None,
    pixel_sensitivity: float | None,
    post: PostProcessor | None,
    checkpoint: Path | None,
) -> PostProcessor:
    """The post-processor to fuse: the model's own settings, as far as no argument replaces them."""
    given = {"image_sensitivity": image_sensitivity, "pixel_sensitivity": pixel_sensitivity}
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(statistics, str | Path):
        statistics = Statistics.load(statistics)
    if post is not None:
        if given or (statistics is not None and post.statistics is not None):
            raise PostProcessorError(
                "A post-processor was given together with statistics or sensitivities, expected one or the other. Set "
                "them in the post-processor."
            )
        if post.statistics is not None:
            return post
        return post.with_statistics(statistics or _own(model.post_processor, None, checkpoint).statistics)
    own = _own(model.post_processor, statistics, checkpoint)
    return own.from_parameters(own.statistics, {**own.parameters(), **given})


def _own(module: Any, statistics: Statistics | None, checkpoint: Path | None) -> PostProcessor:
    """Return the model's own post-processor, with other statistics if given."""
    described = getattr(module, "post", None)
    if isinstance(described, PostProcessor):
        # One of ours, as a torch module.
        if statistics is None and described.statistics is None:
            raise StatisticsError(f"The post-processor of the model has no statistics yet. {NOT_VALIDATED}")
        return described if statistics is None else described.with_statistics(statistics)
    if statistics is not None:
        return OneClassPostProcessor(statistics, **settings_of(module)[0])
    if module is None:
        raise StatisticsError(f"The model has no post-processor to take statistics from, expected one. {NOT_VALIDATED}")
    found = read_post_processor(module)
    provenance = found.provenance
    assert provenance is not None, "it was just written"
    if checkpoint is not None:
        source = provenance.source.replace("in memory", "in a checkpoint")
        provenance = msgspec.structs.replace(provenance, source=source, file=checkpoint.name)
        found = msgspec.structs.replace(found, provenance=provenance)
    return OneClassPostProcessor(found, **provenance.settings)


def _input_size(
    model: Any, input_size: tuple[int, int] | Literal["model"] | None
) -> tuple[tuple[int, int] | None, list[str]]:
    """Height and width to export with, and a note about them."""
    size = own_size(model) if input_size == "model" else input_size
    notes = []
    if size is None and input_size == "model":
        notes.append(
            "The pre-processor fixes no size, or crops as well as resizes: the artifact takes images of any size."
        )
    if resizes_smoothly(model):
        if size is not None and size == own_size(model):
            notes.append(
                f"The model was validated on images that were resized to {size[0]}x{size[1]} with antialiasing "
                "(bilinear, as Pillow does): resize alike before you feed it."
            )
        else:
            notes.append(
                "The model was validated on images that were resized with antialiasing, and the exported graph resizes "
                "without, as Anomalib's own export does: scores shift. Calibrate on the raw export "
                "(raw_output=..., pp_graph.calibrate), or keep input_size='model' and resize before."
            )
    return size, notes


def _notes_of(post: PostProcessor) -> list[str]:
    provenance = None if post.statistics is None else post.statistics.provenance
    return [] if provenance is None else list(provenance.notes)


def _noise(model: Any, size: tuple[int, int] | None) -> np.ndarray[Any, Any]:
    height, width = size or getattr(model, "input_size", None) or (256, 256)
    return np.random.default_rng(0).random((_NOISE_IMAGES, 3, height, width), np.float32)


def _refuse(model: Any, verification: VerificationReport, comparison: ModelComparison, *, required: bool) -> None:
    """Refuse an artifact that decides otherwise for another reason than rounding of the network."""
    if not comparison.export_error <= EXPORT_TOLERANCE:
        raise VerificationError(
            f"The raw ONNX export of {type(model).__name__} differs from the model in torch by "
            f"{comparison.export_error:.1e} of its largest value, expected at most {EXPORT_TOLERANCE:g}. Nothing was "
            "written. The exporter made another model of it: try another torch version."
        )
    failures = list(verification.failures)
    masks = {decision.name for decision in verification.decisions if decision.per_pixel}
    for decision in comparison.decisions:
        limit = verification.max_pixel_flips if decision.name in masks else verification.max_label_flips
        if limit is not None and not limit.allows(len(decision.drift), decision.total):
            failures.append(
                f"{len(decision.drift):,} of {decision.total:,} decisions of {decision.name} differ from the model in "
                f"torch by drift, more than {limit}"
            )
    if failures:
        raise VerificationError(f"The artifact did not pass: {'; '.join(failures)}. Nothing was written.")
    if required and comparison.rule_flips:
        flips = {each.name: len(each.rules) for each in comparison.decisions if each.rules}
        listed = " and ".join(f"{count:,} of {name}" for name, count in flips.items())
        raise VerificationError(
            f"The model's own post-processor {type(model.post_processor).__name__} has other rules than ours: with the "
            f"same raw values and statistics {listed} differ. Nothing was written. Write it as a PostProcessor of "
            "pp_graph and pass post=..., or accept ours with match_model=False."
        )
