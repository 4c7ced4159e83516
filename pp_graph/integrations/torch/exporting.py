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
from pp_graph.files import check_targets
from pp_graph.fusion import fuse
from pp_graph.integrations.export_result import ExportResult
from pp_graph.integrations.torch.module import PostProcessor as PostProcessorBase
from pp_graph.integrations.torch.raw_export import (
    OPSET,
    Example,
    export_raw,
    largest_difference,
    named_inputs,
    run_model,
)
from pp_graph.model import RawModel
from pp_graph.openvino.usage import usage_path
from pp_graph.postprocessors import PostProcessor
from pp_graph.sessions import OnnxSession, Session, run_in_batches
from pp_graph.verification import VerificationReport, verify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.data.images import ImageSource
    from pp_graph.quantization import Quantization

RAW_TOLERANCE: Final = 1e-4
"""Difference between torch and onnxruntime, as a part of the largest number, that is still rounding: sums of a deep
network in another order differ by 1e-6 to 1e-5."""


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

    Nothing is written unless everything agrees: the raw ONNX export with the torch model, and the decisions of the
    converted model with those of the raw export and the NumPy reference. The model is run in evaluation mode, and is
    left as it was.

    Args:
        model: A model that returns what the post-processor reads, such as raw scores, maps or both: a tensor, or a
            tuple, dict, dataclass or named tuple of tensors, whose names become those of the ONNX outputs.
        post: The post-processor, with statistics.
        example: The model's inputs, with at least one image: a tensor, several in order, or by name. Real images prove
            more than noise.
        path: The `.xml` to write; the `.bin` and `.usage.md` of the same name go beside it.
        device: Device to convert for; see `pp_graph.convert`.
        precision: Precision of the weights: `f32`, `f16` or `int8`.
        images: Further images to verify with; see `pp_graph.data.open_images`. With `preprocessing` they are frames,
            and must be given.
        raw: Where to write the raw ONNX export as well, for `pp-graph verify` later on; None not to keep it.
        opset: Opset of the raw export.
        dynamic_batch: Leave the batch size open.
        roles: Names of the model's outputs by the role that the post-processor reads them in, where axes and sizes
            leave a choice.
        score_output: Short form of `roles={"raw_score": ...}`.
        map_output: Short form of `roles={"raw_map": ...}`.
        raw_tolerance: Difference between torch and its ONNX export to tolerate, as a part of the largest number.
        verify_device: Device to verify on, where `device` is not on this machine; None for `device`.
        inference_precision: Precision to verify in; see `pp_graph.verify`.
        max_label_flips: Labels that drift of the network may flip; see `pp_graph.verify`.
        max_pixel_flips: Pixels that it may flip; see `pp_graph.verify`.
        overwrite: Replace existing files.
        quantization: How to quantise, for `int8`.
        conversion: Further arguments of `pp_graph.convert`: `input_shape`, `preprocessing`, `model_info`.

    Returns:
        The artifact and the reports.

    Raises:
        VerificationError: The export computes other numbers than the model, or the artifact decides otherwise.
        ModelError: The model returns something else, torch cannot export it, or roles cannot be told apart.
        DataError: The example or the images do not fit the model.
        StatisticsError: The post-processor lacks a number that it needs.
        PostProcessorError: `post` is no post-processor.
        TargetError: OpenVINO cannot take the model, or the device is not there.
        OutputFileError: A file exists and may not be replaced, or cannot be written.
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
            "preprocessing is given, and no images, expected frames to verify with: the example is what the model "
            "takes behind the preprocessing. Give frames with images=..."
        )
    path = Path(path)
    kept = None if raw is None else Path(raw)
    check_targets(files_of(path, kept), overwrite=overwrite)
    given = named_inputs(model, example)
    _check_dtypes(given)
    expected = run_model(model, given)
    with tempfile.TemporaryDirectory(prefix="pp_graph_", ignore_cleanup_errors=True) as folder:
        draft = Path(folder) / ("raw.onnx" if kept is None else kept.name)
        export_raw(model, given, list(expected), draft, opset=opset, dynamic_batch=dynamic_batch)
        opened = RawModel.open(draft)
        _check_inputs(opened, given)
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in given.items()}
        session = OnnxSession(opened)
        errors = _compare(expected, run_in_batches(session, arrays), "the example", raw_tolerance)
        fused = fuse(opened, described, roles=roles, score_output=score_output, map_output=map_output)
        artifact = convert(fused, device=device, precision=precision, quantization=quantization, **conversion)
        settings: dict[str, Any] = {
            "device": verify_device or device, "inference_precision": inference_precision,
            "max_label_flips": max_label_flips, "max_pixel_flips": max_pixel_flips,
        }  # fmt: skip
        images_report = None
        if images is not None:
            if not frames:
                found = _compare_images(model, session, images, raw_tolerance)
                errors = {name: max(error, found[name]) for name, error in errors.items()}
            images_report = _passed(verify(opened, artifact, images, **settings), "the images")
        # The example is what the model itself takes; an artifact that preprocesses takes frames.
        report = images_report if frames else _passed(verify(opened, artifact, arrays, **settings), "the example")
        assert report is not None
        if kept is not None:
            opened.save(kept, overwrite=overwrite)
        saved = artifact.save(path, overwrite=overwrite)
    return ExportResult(saved, artifact, report, raw_path=kept, images_verification=images_report, raw_errors=errors)


def _check_dtypes(given: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in given.items():
        if tensor.dtype in (torch.bfloat16, torch.float64):
            raise DataError(
                f"Example input '{name}' is {tensor.dtype}, expected float32: the precision is chosen when converting. "
                "Export model.float() with an example in float32."
            )


def files_of(path: Path, raw: Path | None) -> list[Path]:
    """Return the paths that `export` writes."""
    return [path, path.with_suffix(".bin"), usage_path(path), *([] if raw is None else [raw])]


def _compare_images(model: nn.Module, session: Session, source: ImageSource, tolerance: float) -> dict[str, float]:
    images = open_images(source)
    size = choose_batch_size(session.inputs, None)
    errors: dict[str, float] = {}
    for start in range(0, len(images), size):
        feeds = images.read(start, min(start + size, len(images)), session.inputs)
        wanted = run_model(model, {name: torch.from_numpy(array) for name, array in feeds.items()})
        found = _compare(wanted, run_in_batches(session, feeds), "the images", tolerance)
        errors = {name: max(error, errors.get(name, 0.0)) for name, error in found.items()}
    return errors


def _check_inputs(raw: RawModel, given: Mapping[str, torch.Tensor]) -> None:
    present = [each.name for each in raw.inputs]
    for name in given:
        if name not in present:
            raise DataError(
                f"Example input '{name}' has no effect on what the model returns: the export has only "
                f"{', '.join(map(repr, present)) or 'none'}. Leave it out of the example."
            )


def _compare(expected: Mapping[str, Any], found: Mapping[str, Any], where: str, tolerance: float) -> dict[str, float]:
    errors = {}
    for name, wanted in expected.items():
        errors[name] = largest_difference(wanted, found[name].astype(wanted.dtype))
        if not errors[name] <= tolerance:
            raise VerificationError(
                f"Output '{name}' of the ONNX export differs from the torch model's on {where} by {errors[name]:.3g} "
                f"of the largest number, expected at most {tolerance:g}. Is something in the model random, or did the "
                "export take one way of several that depend on the data? If it is rounding, allow more with "
                "raw_tolerance=..."
            )
    return errors


def _passed(report: VerificationReport, where: str) -> VerificationReport:
    if report.failures:
        raise VerificationError(
            f"The converted model does not pass verification on {where}: {'; '.join(report.failures)}. Nothing was "
            "saved. Convert with precision='f32' and verify in f32, or allow more drift with "
            "max_label_flips=... and max_pixel_flips=..."
        )
    return report
