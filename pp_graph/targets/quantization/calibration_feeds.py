"""Images as NNCF wants them: one run after the other, as often as it asks."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import DataError
from pp_graph.model import ModelInput, batch_places, fixed_batch
from pp_graph.model.batch import further_axes
from pp_graph.targets.openvino_ports import partial_shape, port_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import openvino as ov

    from pp_graph.data import Images
    from pp_graph.sessions.session import Array


class CalibrationFeeds:
    """Images for NNCF, read when they are asked for.

    Args:
        images: The images.
        inputs: What the model is fed.
        most: Most images to use.
        progress: Called with the number of images just read.

    Attributes:
        used: Number of images in use.
        sha256: Hash of the numbers that the model is fed.

    Raises:
        DataError: An image does not fit, or holds numbers that are not finite.
    """

    def __init__(
        self, images: Images, inputs: Sequence[ModelInput], most: int, progress: Callable[[int], None] | None
    ) -> None:
        self._images = images
        self._inputs = inputs
        # Where the batch is open, NNCF sees each image by itself.
        self._batch = fixed_batch(inputs) or 1
        self._progress: Callable[[int], None] | None = None
        self._kept = {each.name for each in inputs}
        self._indices = np.unique(np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)).tolist()
        self.used = len(self._indices)
        digest = hashlib.sha256()
        for feed in self:
            for name, array in sorted(feed.items()):
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise DataError(
                        f"Calibration data for input '{name}' hold NaN or infinite numbers, expected finite ones: they "
                        "would become the ranges. Take those images out."
                    )
                digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
                digest.update(np.ascontiguousarray(array).data)
        self.sha256 = digest.hexdigest()
        self._progress = progress

    def keep(self, names: set[str]) -> None:
        """Feed only these inputs: others lead past the layers."""
        self._kept = names

    def __len__(self) -> int:
        return math.ceil(self.used / self._batch)

    def __getitem__(self, at: int) -> Mapping[str, Array]:
        indices = self._indices[at * self._batch : (at + 1) * self._batch]
        if not indices:
            raise IndexError(at)
        feed = read_some(self._images, indices, self._inputs, self._batch)
        if self._progress is not None:
            self._progress(len(indices))
        return {name: array for name, array in feed.items() if name in self._kept}

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        return (self[at] for at in range(len(self)))


def read_some(images: Images, indices: Sequence[int], inputs: Sequence[ModelInput], batch: int) -> dict[str, Array]:
    """Read some images for a model; a batch that they do not fill is filled up with the last one."""
    filled = [*indices, *[indices[-1]] * (batch - len(indices))]
    parts = [images.read(index, index + 1, inputs) for index in filled]
    places = batch_places(inputs)
    joined = {}
    for each in inputs:
        arrays = [part[each.name] for part in parts]
        axis = places[each.name].axis_of(arrays[0].shape, 1) if len(arrays) > 1 and each.name in places else None
        joined[each.name] = arrays[0] if axis is None else np.concatenate(arrays, axis)
    return joined


def model_inputs(model: ov.Model, declared: Sequence[ModelInput]) -> tuple[ModelInput, ...]:
    """What a model is fed.

    Args:
        model: The model.
        declared: The same inputs with the raw model's names of their sizes.
    """
    axes = further_axes(declared)
    return tuple(
        ModelInput(
            port_name(port),
            np.dtype(port.get_element_type().to_dtype()).name,
            partial_shape(port),
            batch_axis=axes.get(port_name(port)),
        )
        for port in model.inputs
    )
