"""Export an Anomalib model to ONNX with its pre-processor and without its post-processor."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import ModelError
from pp_graph.integrations.exporting import OPSET, reason_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MAX_EMBEDDED_BYTES: Final = 3 << 29
"""Bytes of weights that an .onnx contains itself. A protobuf file is limited to 2 GiB."""

Size = tuple[int, int]


@contextlib.contextmanager
def without_post_processor(model: Any) -> Iterator[None]:
    """Remove a model's post-processor, and restore it afterwards."""
    post = model.post_processor
    model.post_processor = None
    try:
        yield
    finally:
        model.post_processor = post


def export_raw(model: Any, folder: Path, input_size: Size | None, batch: int | None = None) -> Path:
    """Export a model without its post-processor. Call it inside `evaluating`.

    Args:
        model: An `AnomalibModule`.
        folder: Folder for the `.onnx`.
        input_size: Height and width of the images; None leaves them open.
        batch: Number of images to fix; None leaves it open where torch can.

    Returns:
        Path of the `.onnx`.

    Raises:
        ModelError: The model cannot be exported.
    """
    kind = type(model).__name__
    weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    try:
        # torch's exporter prints its progress.
        with without_post_processor(model), contextlib.redirect_stdout(io.StringIO()):
            settings: Any = {
                "opset_version": OPSET,
                "external_data": weight_bytes > _MAX_EMBEDDED_BYTES,
                "verbose": False,
            }
            if batch is None:
                path = model.to_onnx(folder, input_size=input_size, **settings)
            else:
                path = _export_fixed(model, folder, input_size, batch, settings)
    except Exception as error:  # torch raises many types
        hint = "" if input_size is not None else " Try a fixed size: input_size=(256, 256)."
        raise ModelError(
            f"Model {kind} cannot be exported to ONNX: {reason_for(error)}. Anomalib's own model.to_onnx(...) fails in "
            f"the same way.{hint}"
        ) from error
    if not isinstance(path, str | Path) or not Path(path).is_file():
        raise ModelError(
            f"Model {kind} cannot be exported to ONNX: its to_onnx wrote no file, expected one. Anomalib does not "
            "support the export of this model."
        )
    return Path(path)


def _export_fixed(model: Any, folder: Path, size: Size | None, batch: int, settings: Mapping[str, Any]) -> Path:
    """Export with a fixed batch, as `AnomalibModule.to_onnx` does with an open one."""
    import torch

    device = next(model.parameters(), torch.zeros(())).device
    example = torch.zeros((batch, 3, *size_of_example(model, size)), device=device)
    names = [name for name, value in model.eval()(example)._asdict().items() if value is not None]
    open_axes = None if size is not None else ({2: torch.export.Dim("height"), 3: torch.export.Dim("width")},)
    path = folder / "fixed.onnx"
    torch.onnx.export(
        model, (example,), str(path), input_names=["input"], output_names=names, dynamo=True,
        dynamic_shapes=open_axes, **settings,
    )  # fmt: skip
    return path


def size_of_example(model: Any, size: Size | None) -> Size:
    """Return height and width of an image to run a model with, if its export takes images of this or any size."""
    height, width = size or getattr(model, "input_size", None) or (256, 256)
    return int(height), int(width)


def preprocessed_size(model: Any) -> Size | None:
    """Return the size to which a model's pre-processor resizes; None if it also crops or moves pixels.

    The pre-processor then changes only the colours of an image of this size, so users can resize beforehand and the
    graph need not. If it crops after resizing, its output size is not a size to feed.
    """
    import torch

    size = getattr(model, "input_size", None)
    if size is None:
        return None
    height, width = map(int, size)
    image = torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(0))
    pre_processor = model.pre_processor
    with torch.no_grad():
        output = pre_processor(image.to(next(pre_processor.buffers(), image).device))
    if output.shape != image.shape:
        return None
    # Shifting and scaling a channel leaves the correlation of its pixels at 1.
    pairs = zip(image[0].double(), output[0].cpu().double(), strict=True)
    aligned = all(torch.corrcoef(torch.stack((a.ravel(), b.ravel())))[0, 1] > 1 - 1e-6 for a, b in pairs)
    return (height, width) if aligned else None


def resizes_with_antialiasing(model: Any) -> bool:
    """Return True if the pre-processor resizes with antialiasing, which exported graphs omit."""
    pending = [getattr(getattr(model, "pre_processor", None), "transform", None)]
    while pending:
        transform = pending.pop()
        if type(transform).__name__ == "Resize" and getattr(transform, "antialias", False):
            return True
        # A composition of torchvision keeps its transforms in a plain list.
        pending += getattr(transform, "transforms", ())
    return False
