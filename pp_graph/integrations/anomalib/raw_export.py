"""Export an Anomalib model to ONNX with its pre-processor and without its post-processor."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

OPSET: Final = 18
"""What torch's exporter writes; another is converted to, which can fail."""
_LARGEST_PROTO: Final = 3 << 29
"""Bytes of weights up to which one file holds them; protobuf ends at 2 GiB."""

Size = tuple[int, int]


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put a model into evaluation for a while; afterwards each part of it is in the mode it was in."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was in training.items():
            module.training = was


@contextlib.contextmanager
def raw_form(model: Any) -> Iterator[None]:
    """Take a model's post-processor out for a while."""
    post = model.post_processor
    model.post_processor = None
    try:
        yield
    finally:
        model.post_processor = post


def export_raw(model: Any, folder: Path, input_size: Size | None) -> Path:
    """Export a model whose post-processor was taken out.

    Args:
        model: An `AnomalibModule`.
        folder: Where to write to.
        input_size: Height and width of the images; None leaves them open.

    Returns:
        The `.onnx`.

    Raises:
        ModelError: The model cannot be exported.
    """
    import torch

    kind = type(model).__name__
    weights = sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))
    said = io.StringIO()
    try:
        # torch's exporter prints its progress.
        with torch.no_grad(), contextlib.redirect_stdout(said):
            path = model.to_onnx(
                folder,
                input_size=input_size,
                opset_version=OPSET,
                external_data=weights > _LARGEST_PROTO,
                verbose=False,
            )
    except Exception as error:  # whatever the model's operators make torch raise
        open_sizes = "" if input_size is not None else " With input_size=(256, 256) its sizes would be fixed."
        raise ModelError(
            f"Model {kind} cannot be exported to ONNX: {type(error).__name__}: {_first_line(error)} "
            f"Anomalib's own model.to_onnx(...) fails alike.{open_sizes}"
        ) from error
    if not isinstance(path, str | Path) or not Path(path).is_file():
        raise ModelError(
            f"Model {kind} cannot be exported to ONNX: its to_onnx wrote no file, expected one. Anomalib does not "
            "support exporting this model."
        )
    return Path(path)


def own_size(model: Any) -> Size | None:
    """The size to which a model's pre-processor resizes; None where it does more than that to an image of that size.

    An image of the size then passes through unchanged, but for its colours: it was resized before, as well as one may
    like, and nothing is resized in the graph. Where a border is cut off as well, the size behind the pre-processor is
    none that images should have in front.
    """
    import torch

    size = getattr(model, "input_size", None)
    if size is None:
        return None
    height, width = (int(each) for each in size)
    image = torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(0))
    pre_processor = model.pre_processor
    with torch.no_grad():
        found = pre_processor(image.to(next(pre_processor.buffers(), image).device))
    if found.shape != image.shape:
        return None
    # Colours are shifted and scaled by channel, which leaves the correlation of pixels at 1.
    pairs = zip(image[0].double(), found[0].cpu().double(), strict=True)
    aligned = all(torch.corrcoef(torch.stack((a.ravel(), b.ravel())))[0, 1] > 1 - 1e-6 for a, b in pairs)
    return (height, width) if aligned else None


def resizes_smoothly(model: Any) -> bool:
    """True if validation resized images with antialiasing, which exported graphs omit."""
    pending = [getattr(getattr(model, "pre_processor", None), "transform", None)]
    while pending:
        transform = pending.pop()
        if type(transform).__name__ == "Resize" and getattr(transform, "antialias", False):
            return True
        # torchvision keeps the parts of a composition in a plain list.
        pending += getattr(transform, "transforms", ())
    return False


def _first_line(error: Exception) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return line if not line or line.endswith((".", "!")) else f"{line}."
