"""From an Anomalib model or checkpoint to a verified artifact in one call."""

from __future__ import annotations

import sys
import tempfile
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import numpy as np

from pp_graph.conversion import convert
from pp_graph.data import ImageSource, open_images
from pp_graph.errors import ModelError, PostProcessorError, StatisticsError, TargetError, VerificationError
from pp_graph.fusion import fuse
from pp_graph.integrations.anomalib.comparison import (
    EXPORT_TOLERANCE,
    ModelComparison,
    batch_is_open,
    compare_with_model,
)
from pp_graph.integrations.anomalib.loading import load_model
from pp_graph.integrations.anomalib.raw_export import (
    export_raw,
    preprocessed_size,
    resizes_with_antialiasing,
    size_of_example,
)
from pp_graph.integrations.anomalib.settings import NOT_VALIDATED, read_post_processor, settings_of
from pp_graph.integrations.exporting import ExportResult, check_output_files, check_verified, evaluating
from pp_graph.model import RawModel
from pp_graph.one_class_options import OPTIONS
from pp_graph.opening import open_artifact
from pp_graph.postprocessors import OneClassPostProcessor, PostProcessor
from pp_graph.statistics import Statistics
from pp_graph.verification import VerificationReport, verify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.fusion import Artifact
    from pp_graph.quantization import Quantization

_NOISE_IMAGES: Final = 8
_RULE_TOLERANCE: Final = 1e-5
"""Largest difference of a score or map between two post-processors with the same rules, as a fraction of its scale."""


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
    batch: int | None = None,
    batch_size: int | None = None,
    weights_only: bool = True,
    model_arguments: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    **form: Any,
) -> ExportResult:
    """Export an Anomalib 2.x model to ONNX, fuse post-processing into it, convert, verify and save it.

    The artifact contains the model's pre-processor. Our post-processor, with the model's statistics, replaces
    Anomalib's. The artifact is verified against the raw export (see `pp_graph.verify`) and compared with the model in
    torch. Files are written only if both pass. The model is not changed.

    Args:
        model: A trained and validated `AnomalibModule`, or the path of its `.ckpt`.
        output: The `.xml` to write, with its `.bin` and `.usage.md`, or an `.onnx`.
        model_class: Class of the model in a checkpoint, or its name in `anomalib.models`; None if only one class has
            the checkpoint's hyperparameters.
        images: Images to verify with; see `pp_graph.verify`. None for noise, which runs the artifact but proves
            little about decisions.
        device: Device to convert for; see `pp_graph.convert`.
        precision: Precision of the network's weights.
        input_size: Height and width of the images. `model` for the size to which the pre-processor resizes, so that the
            graph does not resize; None for any size, which the graph resizes.
        statistics: Statistics, or a file of them, to use instead of the model's.
        image_sensitivity: Sensitivity to use instead of the model's.
        pixel_sensitivity: The same for pixels.
        post: A post-processor to use instead of the model's settings. If it has no statistics, it gets the model's.
        quantization: Settings for `precision="int8"`.
        raw_output: The raw ONNX export to write as well, for `pp_graph.calibrate` and `pp_graph.verify`; None to
            discard it.
        match_model: Raise if the model's post-processor decides differently from ours for any raw value of the images.
            Ignored if another argument changes the settings.
        max_label_flips: Labels that drift of the network may flip, against either reference: a number, or a share such
            as `"1%"`; None for any number. Anomalib's threshold is the score of a validation image, so rounding may
            flip that one.
        max_pixel_flips: Pixels that drift of the network may flip, likewise.
        verify_device: Device to verify on.
        inference_precision: Precision to verify in: `f32`, `bf16`, `f16`; None for the device's default.
        batch: Number of images to fix in the export. None leaves it open if onnxruntime then computes batches of other
            sizes as torch does; otherwise it is 1, and a note reports it.
        batch_size: Images per batch in verification, if the export leaves it open.
        weights_only: Refuse checkpoints that contain more than tensors and plain values. Checkpoints of Anomalib before
            2.7 do: pass False for files you trust.
        model_arguments: Keyword arguments of the model's class, for a checkpoint.
        overwrite: Replace existing files.
        form: Other options of `OneClassPostProcessor`, such as `pack=True`, `mask_dtype="u8"` or `on_nan="normal"`.

    Returns:
        The artifact and both reports.

    Raises:
        ExtraError: A checkpoint is given, and Anomalib is not installed.
        ModelError: The model is not an Anomalib model, has another class, or cannot be exported.
        StatisticsError: There are no statistics yet.
        PostProcessorError: A setting is out of range.
        VerificationError: The artifact makes other decisions than the raw export or the model, or computes other
            values.
        DataError: The images do not fit.
        TargetError: OpenVINO cannot convert the model, or the device is missing.
        OutputFileError: A file exists and must not be replaced, or cannot be written.
        PPGraphError: See `pp_graph.fuse` and `pp_graph.convert`.
    """
    output = Path(output)
    raw_output = None if raw_output is None else Path(raw_output)
    checkpoint = Path(model) if isinstance(model, str | Path) else None
    inputs = [] if checkpoint is None else [checkpoint]
    _check_suffixes(output, raw_output)
    _check_batch(batch)
    _check_options(form)
    check_output_files(output, raw_output, overwrite=overwrite, inputs=inputs)
    if checkpoint is not None:
        model = load_model(checkpoint, model_class, weights_only=weights_only, arguments=dict(model_arguments or {}))
    _check_model(model)
    same_rules = all(name in OPTIONS and (OPTIONS[name].output_form or name == "on_nan") for name in form)
    match_model &= same_rules and all(
        argument is None for argument in (statistics, post, image_sensitivity, pixel_sensitivity)
    )
    form |= {
        name: value
        for name, value in (("image_sensitivity", image_sensitivity), ("pixel_sensitivity", pixel_sensitivity))
        if value is not None
    }
    post = _post_processor(model, statistics, form, post, checkpoint)
    with tempfile.TemporaryDirectory(prefix="pp_graph_", ignore_cleanup_errors=True) as folder, evaluating(model):
        size, notes = _input_size(model, input_size)
        raw, batch_notes = _export(model, Path(folder), size, None if batch is None else int(batch))
        fused = fuse(raw, post)
        artifact: Artifact = fused
        if output.suffix.lower() == ".xml":
            artifact = convert(fused, device=device, precision=precision, quantization=quantization)
        provenance = None if post.statistics is None else post.statistics.provenance
        notes = [*(() if provenance is None else provenance.notes), *fused.notes, *notes, *batch_notes]
        if images is None:
            images = _noise(model, size)
            notes.append("No images were given: verified on noise, which proves little about decisions.")
        images = open_images(images)
        settings: Any = {
            "device": verify_device, "inference_precision": inference_precision, "batch_size": batch_size,
        }  # fmt: skip
        verification = verify(
            raw, artifact, images, max_label_flips=max_label_flips, max_pixel_flips=max_pixel_flips, **settings
        )
        comparison = compare_with_model(model, raw, artifact, images, **settings)
        _check_comparison(model, verification, comparison, match_model=match_model)
        notes += _differences(model, comparison, match_model=match_model)
        if raw_output is not None:
            raw_output = raw.save(raw_output, overwrite=overwrite)
        artifact.save(output, overwrite=overwrite, inputs=inputs)
    return ExportResult(
        output,
        open_artifact(output),
        verification,
        raw_path=raw_output,
        comparison=comparison,
        notes=tuple(dict.fromkeys(notes)),
    )


def _check_suffixes(output: Path, raw_output: Path | None) -> None:
    if output.suffix.lower() not in (".xml", ".onnx"):
        raise TargetError(
            f"Output '{output}' ends in '{output.suffix}', expected '.xml' for OpenVINO or '.onnx'. Rename it."
        )
    if raw_output is not None and (raw_output.suffix.lower() != ".onnx" or raw_output.absolute() == output.absolute()):
        raise TargetError(
            f"raw_output is '{raw_output}', expected the name of another file that ends in '.onnx'. Rename it."
        )


def _check_model(model: Any) -> None:
    base = getattr(sys.modules.get("anomalib.models.components"), "AnomalibModule", None)
    if base is None or not isinstance(model, base):
        raise ModelError(
            f"The model is {type(model).__name__}, expected an AnomalibModule or the path of its checkpoint. Pass the "
            "trained Anomalib model, not its inner torch model."
        )


def _check_options(options: Mapping[str, Any]) -> None:
    unknown = next((name for name in options if name not in OPTIONS), None)
    if unknown is not None:
        raise PostProcessorError(
            f"export() has no argument '{unknown}', expected options of OneClassPostProcessor: {', '.join(OPTIONS)}."
        )


def _post_processor(
    model: Any,
    statistics: Statistics | str | Path | None,
    settings: Mapping[str, Any],
    post: PostProcessor | None,
    checkpoint: Path | None,
) -> PostProcessor:
    """Return the post-processor to fuse: the model's settings, replaced by the given ones."""
    if isinstance(statistics, str | Path):
        statistics = Statistics.load(statistics)
    if post is not None:
        if settings or (statistics is not None and post.statistics is not None):
            raise PostProcessorError(
                "post is given together with statistics, sensitivities or options, expected one or the other. Set "
                "them in the post-processor."
            )
        if post.statistics is not None:
            return post
        return post.with_statistics(statistics or _converted(model.post_processor, None, checkpoint).statistics)
    converted = _converted(model.post_processor, statistics, checkpoint)
    return converted.from_parameters(converted.statistics, {**converted.parameters(), **settings})


def _converted(module: Any, statistics: Statistics | None, checkpoint: Path | None) -> PostProcessor:
    """Convert the model's post-processor to ours, with other statistics if given."""
    described = getattr(module, "post", None)
    if isinstance(described, PostProcessor):
        # The module is an `AnomalibPostProcessor`.
        if statistics is None and described.statistics is None:
            raise StatisticsError(f"The post-processor of the model has no statistics yet. {NOT_VALIDATED}")
        return described if statistics is None else described.with_statistics(statistics)
    if statistics is not None:
        return OneClassPostProcessor(statistics, **settings_of(module)[0])
    if module is None:
        raise StatisticsError(f"The model has no post-processor to take statistics from, expected one. {NOT_VALIDATED}")
    found = read_post_processor(module)
    provenance = found.provenance
    assert provenance is not None, "read_post_processor sets it"
    if checkpoint is not None:
        source = provenance.source.replace("in memory", "in a checkpoint")
        provenance = msgspec.structs.replace(provenance, source=source, file=checkpoint.name)
        found = msgspec.structs.replace(found, provenance=provenance)
    return OneClassPostProcessor(found, **provenance.settings)


def _input_size(
    model: Any, input_size: tuple[int, int] | Literal["model"] | None
) -> tuple[tuple[int, int] | None, list[str]]:
    """Return height and width to export with, and notes about them."""
    size = preprocessed_size(model) if input_size == "model" else input_size
    notes = []
    if size is None and input_size == "model":
        notes.append(
            "The pre-processor has no fixed size, or crops as well as resizes: the artifact accepts images of any size."
        )
    if resizes_with_antialiasing(model):
        if size is not None and size == preprocessed_size(model):
            notes.append(
                f"The model was validated on images resized to {size[0]}x{size[1]} with antialiasing (bilinear, as in "
                "Pillow): resize images in the same way before inference."
            )
        else:
            notes.append(
                "The model was validated on images resized with antialiasing, but the exported graph resizes without, "
                "like Anomalib's own export: scores shift. Calibrate on the raw export (raw_output=..., "
                "pp_graph.calibrate), or keep input_size='model' and resize beforehand."
            )
    return size, notes


def _export(
    model: Any, folder: Path, size: tuple[int, int] | None, batch: int | None
) -> tuple[RawModel, tuple[str, ...]]:
    """Export a model, with one image if its batch cannot stay open; return a note about that."""
    if batch is not None:
        return RawModel.open(export_raw(model, folder, size, batch)), ()
    raw, failure = None, None
    try:
        raw = RawModel.open(export_raw(model, folder, size))
        if batch_is_open(model, raw, size_of_example(model, size)):
            return raw, ()
    except ModelError as error:
        if error.__cause__ is None:  # `to_onnx` wrote no file, so one image would not help
            raise
        failure = error
    note = (
        f"The export of {type(model).__name__} fixes its batch, so the artifact takes one image at a time. "
        "pp_graph.load splits larger batches; batch=N fixes another number."
    )
    if raw is not None and raw.inputs[0].shape and raw.inputs[0].shape[0] == 1:
        return raw, (note,)
    try:
        return RawModel.open(export_raw(model, folder, size, 1)), (note,)
    except ModelError as error:
        raise (failure or error) from None


def _check_batch(batch: Any) -> None:
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, Integral) or batch < 1):
        raise ModelError(f"batch is {batch!r}, expected a number of images from 1, or None for an open batch.")


def _noise(model: Any, size: tuple[int, int] | None) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random((_NOISE_IMAGES, 3, *size_of_example(model, size)), np.float32)


def _check_comparison(
    model: Any, verification: VerificationReport, comparison: ModelComparison, *, match_model: bool
) -> None:
    """Raise `VerificationError` if decisions differ for another reason than accepted drift."""
    if not comparison.export_error <= EXPORT_TOLERANCE:
        raise VerificationError(
            f"The raw ONNX export of {type(model).__name__} differs from the model in torch by "
            f"{comparison.export_error:.1e} of its largest value, expected at most {EXPORT_TOLERANCE:g}. Nothing was "
            "written. Try another torch version: the exporter changed the model."
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
    check_verified(failures, "the images")
    if match_model and comparison.rule_flips:
        flips = {decision.name: len(decision.rules) for decision in comparison.decisions if decision.rules}
        listed = " and ".join(f"{count:,} of {name}" for name, count in flips.items())
        raise VerificationError(
            f"The model's own post-processor {type(model.post_processor).__name__} has other rules than ours: for the "
            f"same raw values and statistics, {listed} differ. Nothing was written. Describe it as a PostProcessor of "
            "pp_graph and pass post=..., or accept ours with match_model=False."
        )
    if match_model:
        for error in comparison.rule_errors:
            if error.max_scaled > _RULE_TOLERANCE:
                raise VerificationError(
                    f"The model's own post-processor {type(model.post_processor).__name__} computes another "
                    f"'{error.name}' than ours: for the same raw values and statistics, they differ by up to "
                    f"{error.max_abs:.3g}. Nothing was written. Describe it as a PostProcessor of pp_graph and pass "
                    "post=..., or accept ours with match_model=False."
                )


def _differences(model: Any, comparison: ModelComparison, *, match_model: bool) -> list[str]:
    """Return notes about outputs that differ from those of the model's own post-processor."""
    own = type(model.post_processor).__name__
    notes = [
        f"The model's own post-processor {own} returns no '{name}', or one of another size; the artifact does."
        for name in comparison.incomparable
    ]
    if not match_model:
        notes += [
            f"'{error.name}' differs from that of the model's own post-processor {own} by up to {error.max_abs:.3g}."
            for error in comparison.rule_errors
            if error.max_scaled > _RULE_TOLERANCE
        ]
    return notes
