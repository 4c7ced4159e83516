"""Anchors of a detector: read from a file or from the model, and kept with the model as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from pp_graph.errors import DataError, PostProcessorError
from pp_graph.model.constants import read_constant_node
from pp_graph.steps import levels_as_text
from pp_graph.steps.compare_many import levels_from_text

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    import onnx_ir as ir

    from pp_graph.model import RawModel

Background = Literal["first", "last", "none"]
"""Which class score of SSD means that there is no object."""

_MOST_SHARE: Final = 2.0
"""Largest coordinate of a centre that is a share of the image; larger ones are in pixels."""
_EXPECTED = "centre x, centre y, width and height of each anchor as shares of the image, (K,4), finite"


def anchors_as_text(given: Any) -> str:
    """Encode anchors; text stays as it is.

    Args:
        given: Centre and size of each anchor as shares of the image, (K,4), or a result of this function.

    Raises:
        PostProcessorError: These are not anchors.
    """
    text = given if isinstance(given, str) else ""
    array = levels_from_text(text) if text else np.asarray(given)
    if array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] != 4 or not np.isfinite(array).all():
        raise PostProcessorError(f"anchors are {array.dtype} of shape {array.shape}, expected {_EXPECTED}.")
    return text or levels_as_text(array)


def anchors_in_pixels(text: str, height: int, width: int) -> npt.NDArray[np.float32]:
    """Return centre and size of each anchor in pixels, (K,4)."""
    return levels_from_text(text) * np.array([width, height, width, height], np.float32)


def stored_anchors(raw: RawModel, count: int | None, size: tuple[int, int] | None) -> npt.NDArray[np.float32] | None:
    """Return the anchors that a model holds as an output or a weight: centre and size as shares of the image.

    Args:
        raw: The model.
        count: Number of its candidates.
        size: Height and width of its images.

    Returns:
        The anchors, (K,4); None if the model holds no constant of their shape, or several different ones.
    """
    graph = raw.model.graph
    values = [_constant(value) for value in (*graph.outputs, *graph.initializers.values())]
    shapes = ((count, 4), (1, count, 4))
    found = [array.reshape(-1, 4).astype(np.float32) for array in values if array is not None and array.shape in shapes]
    if not found or any(not np.array_equal(each, found[0]) for each in found):
        return None
    anchors: npt.NDArray[Any] = found[0]
    # Anchors at the right and lower edges are smaller than their distance from the opposite ones, unless the last two
    # numbers are corners.
    if (anchors[:, 2:] > anchors[:, :2]).all():
        low, high = anchors[:, :2], anchors[:, 2:]
        anchors = np.zeros(anchors.shape, np.float32)
        anchors[:, :2], anchors[:, 2:] = (low + high) / 2, high - low
    if anchors[:, :2].max() <= _MOST_SHARE:
        return anchors
    if size is None:
        return None
    shares: npt.NDArray[Any] = anchors / np.array([size[1], size[0], size[1], size[0]], np.float32)
    return shares


def _constant(value: ir.Value) -> npt.NDArray[Any] | None:
    """Numbers of a weight, or of an output that is one."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    if node is not None:
        return read_constant_node(node) if node.op_type == "Constant" else None
    tensor = value.const_value
    # A shape is known before the numbers are read from the file.
    return None if tensor is None or tuple(tensor.shape.numpy())[-1:] != (4,) else np.asarray(tensor.numpy())


def read_anchors(file: Path) -> npt.NDArray[Any]:
    """Read anchors from a `.npy`, or from a `.npz` that holds one array.

    Raises:
        DataError: The file cannot be read, or holds several arrays.
    """
    try:
        loaded = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"'{file}' cannot be read as anchors ({error}), expected a .npy or .npz of {_EXPECTED}."
        ) from None
    if isinstance(loaded, np.ndarray):
        return loaded
    if len(loaded.files) != 1:
        raise DataError(f"'{file}' holds {len(loaded.files)} arrays, expected one: {_EXPECTED}. Save them alone.")
    array: npt.NDArray[Any] = loaded[loaded.files[0]]
    return array
