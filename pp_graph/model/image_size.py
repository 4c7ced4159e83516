"""Height and width of a model's images: where they are in an input's shape, and how to give open ones."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pp_graph.errors import ModelError
from pp_graph.model.opset_trial import outputs_of_random_inputs
from pp_graph.model.shapes import declared_shape, format_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.model.raw_model import RawModel
from pp_graph.model.shapes import Shape

_IMAGE_RANK = 4


def image_axes(shape: Shape) -> tuple[int, int]:
    """Axes of height and width in a shape (N,C,H,W) or (N,H,W,C)."""
    return (1, 2) if shape[3] in (1, 3) and shape[1] not in (1, 3) else (2, 3)


def image_size(raw: RawModel) -> tuple[int, int] | None:
    """Height and width of the only image input of a raw model; None if open, or if there are several or none."""
    images = [info.shape for info in raw.inputs if info.shape is not None and len(info.shape) == _IMAGE_RANK]
    if len(images) != 1:
        return None
    height, width = (images[0][axis] for axis in image_axes(images[0]))
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def fix_image_size(raw: RawModel, size: tuple[int, int]) -> RawModel:
    """Declare the height and width of a model's images, and measure the sizes of its outputs. Changes the graph.

    See `declare_image_size` for arguments, results and errors.
    """
    raw = declare_image_size(raw, size)
    _declare_outputs(raw)
    return dataclasses.replace(raw, edited=True, exact=False)


def declare_image_size(raw: RawModel, size: tuple[int, int] | None) -> RawModel:
    """Declare the height and width of a model's images where it leaves them open. Changes the graph in place.

    Args:
        raw: The model.
        size: Height and width in pixels; None to change nothing.

    Returns:
        The model.

    Raises:
        ModelError: The model has another size, or not one image input; or a size is below 1.
    """
    if size is None or image_size(raw) == tuple(size):
        return raw
    wanted = "x".join(map(str, size))
    if any(each < 1 for each in size):
        raise ModelError(f"Input size {wanted} is below 1, expected height and width in pixels, such as 640x640.")
    images = _image_inputs(raw)
    if len(images) != 1:
        raise ModelError(
            f"Input size {wanted} was given, and the model has {len(images)} inputs of four axes, expected one that "
            "takes images. Leave the size out."
        )
    shape = list(declared_shape(images[0]) or ())
    for axis, pixels in zip(image_axes(tuple(shape)), size, strict=True):
        if isinstance(shape[axis], int) and shape[axis] != pixels:
            raise ModelError(
                f"Input size {wanted} was given, and input '{images[0].name}' is {format_shape(tuple(shape))}, "
                "expected a size that it leaves open. Leave the size out (--input-size)."
            )
        shape[axis] = pixels
    _declare(images[0], tuple(shape))
    return dataclasses.replace(raw, edited=True, exact=False)


def _image_inputs(raw: RawModel) -> list[ir.Value]:
    inputs = [value for value in raw.model.graph.inputs if not value.is_initializer()]
    return [value for value in inputs if len(declared_shape(value) or ()) == _IMAGE_RANK]


def _declare_outputs(raw: RawModel) -> None:
    """Declare sizes of outputs that onnxruntime returns for one image and for two, except of the first axis.

    Inference does not find them where an operator computes sizes, as in a Resize to the size of another map.
    """
    results = [result for batch in (1, 2) if (result := outputs_of_random_inputs(raw, batch)) is not None]
    for output in raw.model.graph.outputs:
        declared = declared_shape(output)
        shapes = [result[output.name or ""].shape for result in results]
        same = len({shape[1:] for shape in shapes}) == 1 and 0 not in shapes[0]
        if same and shapes[0] and (declared is None or len(declared) == len(shapes[0])):
            _declare(output, ((declared or (None,))[0], *shapes[0][1:]))


def _declare(value: ir.Value, shape: Shape) -> None:
    import onnx_ir as ir

    value.shape = ir.Shape(shape)
