"""From a torch model to a verified OpenVINO model in one call."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from pp_graph.conversion import convert
from pp_graph.data import choose_batch_size, open_images
from pp_graph.errors import DataError, ModelError, PostProcessorError, VerificationError
from pp_graph.fusion import fuse
from pp_graph.integrations.exporting import OPSET, ExportResult, check_output_files, check_verified
from pp_graph.integrations.torch.module import PostProcessor as PostProcessorBase
from pp_graph.integrations.torch.raw_export import Example, export_raw, largest_difference, named_inputs, run_model
from pp_graph.model import RawModel
from pp_graph.postprocessors import PostProcessor
from pp_graph.sessions import OnnxSession, Session, run_in_batches
from pp_graph.verification import verify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.data.images import ImageSource
    from pp_graph.quantization import Quantization

RAW_TOLERANCE: Final = 1e-4
"""Largest difference between torch and onnxruntime to accept as rounding, as a fraction of the largest absolute value.
Deep networks differ by 1e-6 to 1e-5 because the runtimes sum in different orders."""


def export(
    model: nn.Module,
    post: PostProcessor | PostProcessorBase,
    example: Example,
    path: str | Path,
    *,
    device: str = "CPU",
    precision: str = "f32",
    images: ImageSource | None = None,
    raw: str | Path | None = None,
    opset: int = OPSET,
    dynamic_batch: bool = True,
    roles: Mapping[str, str] | None = None,
    score_output: str | None = None,
    map_output: str | None = None,
    raw_tolerance: float = RAW_TOLERANCE,
    verify_device: str | None = None,
    inference_precision: str | None = "f32",
    max_label_flips: int | str | None = 0,
    max_pixel_flips: int | str | None = "0.1%",
    overwrite: bool = False,
    quantization: Quantization | None = None,
    **conversion: Any,
) -> ExportResult:
    """Export a torch model, fuse a post-processor into it, convert it to OpenVINO, verify it, and save it.

    Files are written only if the raw ONNX export computes the same values as the torch model, and the converted model
    decides like the raw export with the NumPy reference. The model runs in evaluation mode and is not changed.

    Args:
        model: A model that returns the raw values, such as scores, maps or both: a tensor, or a tuple, dict, dataclass
            or named tuple of tensors. Names become the names of the ONNX outputs.
        post: The post-processor, with statistics.
        example: The model's inputs, with at least one image: a tensor, a sequence of tensors, or a mapping by name.
            Prefer real images; decisions on noise prove little.
        path: The `.xml` to write, next to a `.bin` and a `.usage.md` of the same name.
        device: Device to convert for; see `pp_graph.convert`.
        precision: Precision of the weights: `f32`, `f16` or `int8`.
        images: More images to verify with; see `pp_graph.data.open_images`. With `preprocessing`, frames, and required.
        raw: The raw ONNX export to write as well, for `pp-graph verify`; None to discard it.
        opset: Opset of the raw export.
        dynamic_batch: Leave the batch size open.
        roles: Output name for each role, if axes and sizes are ambiguous.
        score_output: Short form of `roles={"raw_score": ...}`.
        map_output: Short form of `roles={"raw_map": ...}`.
        raw_tolerance: Largest difference to accept between torch and its ONNX export, as a fraction of the largest
            absolute value.
        verify_device: Device to verify on if this machine lacks `device`; None for `device`.
        inference_precision: Precision to verify in; see `pp_graph.verify`.
        max_label_flips: Labels that drift of the network may flip; see `pp_graph.verify`.
        max_pixel_flips: Pixels that it may flip; see `pp_graph.verify`.
        overwrite: Replace existing files.
        quantization: Settings for `precision="int8"`.
        conversion: Further arguments of `pp_graph.convert`: `input_shape`, `preprocessing`, `model_info`.

    Returns:
        The artifact and the reports.

    Raises:
        VerificationError: The export computes other values than the model, or the artifact makes other decisions.
        ModelError: The model returns other types, torch cannot export it, or roles are ambiguous.
        DataError: The example or the images do not fit the model.
        StatisticsError: The post-processor needs statistics that are unknown.
        PostProcessorError: `post` is not a post-processor.
        TargetError: OpenVINO cannot convert the model, or the device is missing.
        OutputFileError: A file exists and must not be replaced, or cannot be written.
        ExtraError: onnxscript is not installed.
        PPGraphError: See `pp_graph.fuse`, `pp_graph.convert` and `pp_graph.verify`.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"The model is {type(model).__name__}, expected a torch.nn.Module.")
    described = post.to_post_processor() if isinstance(post, PostProcessorBase) else post
    if not isinstance(described, PostProcessor):
        raise PostProcessorError(
            f"The post-processor is {type(post).__name__}, expected a pp_graph.PostProcessor, or a PostProcessor of "
            "pp_graph.integrations.torch. Inherit from one of them."
        )
    frames = conversion.get("preprocessing") is not None
    if frames and images is None:
        raise DataError(
            "preprocessing is given, and no images, expected frames to verify with: the example is already "
            "preprocessed. Pass frames with images=..."
        )
    path = Path(path)
    raw_path = None if raw is None else Path(raw)
    check_output_files(path, raw_path, overwrite=overwrite)
    inputs = named_inputs(model, example)
    _check_dtypes(inputs)
    expected = run_model(model, inputs)
    with tempfile.TemporaryDirectory(prefix="pp_graph_", ignore_cleanup_errors=True) as folder:
        draft = Path(folder) / ("raw.onnx" if raw_path is None else raw_path.name)
        export_raw(model, inputs, list(expected), draft, opset=opset, dynamic_batch=dynamic_batch)
        raw_model = RawModel.open(draft)
        _check_inputs(raw_model, inputs)
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in inputs.items()}
        session = OnnxSession(raw_model)
        errors = _compare(expected, run_in_batches(session, arrays), "the example", raw_tolerance)
        fused = fuse(raw_model, described, roles=roles, score_output=score_output, map_output=map_output)
        artifact = convert(fused, device=device, precision=precision, quantization=quantization, **conversion)
        settings: dict[str, Any] = {
            "device": verify_device or device, "inference_precision": inference_precision,
            "max_label_flips": max_label_flips, "max_pixel_flips": max_pixel_flips,
        }  # fmt: skip
        images_report = None
        if images is not None:
            if not frames:
                image_errors = _compare_images(model, session, images, raw_tolerance)
                errors = {name: max(error, image_errors[name]) for name, error in errors.items()}
            images_report = verify(raw_model, artifact, images, **settings)
            check_verified(images_report.failures, "the images")
        # The example is already preprocessed, so an artifact with preprocessing cannot read it.
        if images_report is not None and frames:
            report = images_report
        else:
            report = verify(raw_model, artifact, arrays, **settings)
            check_verified(report.failures, "the example")
        if raw_path is not None:
            raw_model.save(raw_path, overwrite=overwrite)
        saved = artifact.save(path, overwrite=overwrite)
    return ExportResult(
        saved, artifact, report, raw_path=raw_path, images_verification=images_report, raw_errors=errors
    )


def _check_dtypes(inputs: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in inputs.items():
        if tensor.dtype in (torch.bfloat16, torch.float64):
            raise DataError(
                f"Example input '{name}' is {tensor.dtype}, expected float32: `precision` applies to the conversion. "
                "Export model.float() with an example in float32."
            )


def _compare_images(model: nn.Module, session: Session, source: ImageSource, tolerance: float) -> dict[str, float]:
    images = open_images(source)
    size = choose_batch_size(session.inputs, None)
    errors: dict[str, float] = {}
    for start in range(0, len(images), size):
        feeds = images.read(start, min(start + size, len(images)), session.inputs)
        expected = run_model(model, {name: torch.from_numpy(array) for name, array in feeds.items()})
        batch_errors = _compare(expected, run_in_batches(session, feeds), "the images", tolerance)
        errors = {name: max(error, errors.get(name, 0.0)) for name, error in batch_errors.items()}
    return errors


def _check_inputs(raw: RawModel, inputs: Mapping[str, torch.Tensor]) -> None:
    exported = [value.name for value in raw.inputs]
    for name in inputs:
        if name not in exported:
            raise DataError(
                f"Example input '{name}' has no effect on the model's outputs: the export has only the inputs "
                f"{', '.join(map(repr, exported)) or 'none'}. Omit it from the example."
            )


def _compare(expected: Mapping[str, Any], found: Mapping[str, Any], images: str, tolerance: float) -> dict[str, float]:
    errors = {}
    for name, array in expected.items():
        errors[name] = largest_difference(array, found[name].astype(array.dtype))
        if not errors[name] <= tolerance:
            raise VerificationError(
                f"Output '{name}' of the ONNX export differs from the torch model's on {images} by {errors[name]:.3g} "
                f"of its largest value, expected at most {tolerance:g}. Is something in the model random, or does it "
                "branch on the data, of which the export keeps one branch? If the difference is rounding, raise "
                "raw_tolerance=..."
            )
    return errors
