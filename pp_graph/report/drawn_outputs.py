"""Which outputs of a model are drawn, and what they say about an image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pp_graph.postprocessors import OUTPUTS
from pp_graph.report.prediction_table import COLUMNS
from pp_graph.values import axes_of_shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pp_graph.fusion import Provenance
    from pp_graph.program import OutputDescription, Predictions
    from pp_graph.running import Runner

Array = npt.NDArray[Any]

_AXES: Final = {output.name: output.axes for output in OUTPUTS}
_LONGEST_LIST: Final = 1024
"""Numbers an image up to which an output stands in the table."""


class Picture(NamedTuple):
    """What is drawn in a folder of pictures.

    Attributes:
        kind: One of `PICTURES`.
        output: The output; None for an overlay, which is of mask and map.
    """

    kind: str
    output: str | None


@dataclass(frozen=True)
class DrawnOutputs:
    """The post-processed outputs of a model, and which of them are drawn.

    Attributes:
        outputs: What is known of each output that says something about each image, by name.
        masks: Those that decide about pixels, the most important one first.
        maps: Those with other numbers a pixel, likewise.
    """

    outputs: Mapping[str, OutputDescription]
    masks: tuple[str, ...]
    maps: tuple[str, ...]

    @classmethod
    def of(cls, runner: Runner) -> DrawnOutputs:
        """The outputs of a model."""
        known = runner.provenance.predicted
        outputs = {name: known[name] for name in runner.outputs if (known[name].axes or "N").startswith("N")}
        pixels = [each for each in outputs.values() if _per_pixel(each) and each.meaning != "picture"]
        pixels.sort(key=lambda each: each.name not in _AXES)
        masks = tuple(each.name for each in pixels if each.decides)
        return cls(outputs, masks, tuple(each.name for each in pixels if not each.decides))

    @property
    def mask(self) -> str | None:
        """The mask that is in the table and in overlays."""
        return self.masks[0] if self.masks else None

    @property
    def map(self) -> str | None:
        """The map that is in overlays."""
        return self.maps[0] if self.maps else None

    def folders(self, save: Sequence[str]) -> dict[str, Picture]:
        """Folders of pictures to write, and what is in each.

        Args:
            save: Kinds that are wanted.
        """
        found: dict[str, Picture] = {}
        if "masks" in save:
            found |= self._folders("masks", self.masks)
        if "overlays" in save and (self.masks or self.maps):
            found["overlays"] = Picture("overlays", None)
        if "maps" in save:
            found |= self._folders("maps", self.maps)
        return found

    def _folders(self, kind: str, names: Iterable[str]) -> dict[str, Picture]:
        found: dict[str, Picture] = {}
        for name in names:
            folder = re.sub(r"[^\w.-]", "_", f"{kind}_{name}") if found else kind
            while folder.lower() in {each.lower() for each in found}:
                folder += "_"
            found[folder] = Picture(kind, name)
        return found

    def of_image(self, predictions: Predictions, index: int, count: int) -> dict[str, Array]:
        """What is said about one image of a batch: values by output, maps as (H,W).

        Of several classes a map holds what holds of any: the largest number, and whether one of them is anomalous.

        Args:
            predictions: Those of the batch.
            index: Index of the image.
            count: Number of images.
        """
        found: dict[str, Array] = {}
        for name, output in self.outputs.items():
            array = predictions.get(name)
            if array is None or array.ndim == 0 or len(array) != count:
                continue
            found[name] = array[index]
            if _per_pixel(output):
                axes = output.axes or axes_of_shape(array.shape, _AXES[name]) or "NHW"
                others = tuple(place for place, axis in enumerate(axes[1:]) if axis not in "HW")
                found[name] = found[name].max(axis=others)
        return found

    def further(self, found: Mapping[str, Array], files: Mapping[str, str]) -> dict[str, Any]:
        """What outputs without a column of their own say about an image, by the column that they get.

        Args:
            found: What is said about the image.
            files: Files of pictures, by output.
        """
        further: dict[str, Any] = {}
        for name, array in found.items():
            if name in ("pred_score", "pred_label", self.mask, self.map):
                continue
            column = f"output_{name}" if name in COLUMNS else name
            if _per_pixel(self.outputs[name]):
                if name in files:
                    further[column] = files[name]
            elif array.size <= _LONGEST_LIST:
                single = array.size == 1 and len(self.outputs[name].axes or "NC") <= 2
                further[column] = plain(array.reshape(()) if single else array)
        return further

    def shown_map(self, found: Mapping[str, Array], provenance: Provenance) -> Array | None:
        """The map in [0, 1] with the decision at 0.5, to be shown; None where there is none.

        A raw map is shown by the statistics, which are those of raw maps; any other without a scale by its own range.
        """
        if self.map is None or self.map not in found:
            return None
        values, scale = found[self.map], self.outputs[self.map].scale
        if self.outputs[self.map].bounded:
            return values
        if scale is not None:
            low, high, threshold = scale
            if threshold is not None and low < threshold < high:
                return np.interp(values, (low, threshold, high), (0, 0.5, 1))
            return _between(values, low, high)
        raw = self.outputs[self.map].unchanged is not None
        level = provenance.statistics.pixel if raw and provenance.statistics is not None else None
        if level is not None and level.min is not None and level.max is not None:
            threshold = level.threshold
            if threshold is None and self.mask is not None:
                cutoff = provenance.cutoffs.get(self.mask)
                threshold = cutoff if isinstance(cutoff, float) else None
            if threshold is not None:
                half = (level.max - level.min) / 2
                return _between(values, threshold - half, threshold + half)
        finite = values[np.isfinite(values)]
        return _between(values, float(finite.min()), float(finite.max())) if finite.size else values


def _between(values: Array, low: float, high: float) -> Array:
    return (values - np.float32(low)) / np.float32(max(high - low, 1e-12))


def _per_pixel(output: OutputDescription) -> bool:
    """Whether there is a value for each pixel; of an output whose rank is not known, by its name."""
    return output.per_pixel or (output.axes is None and any("H" in axes for axes in _AXES.get(output.name, ())))


def plain(array: Array) -> Any:
    """Values for a table; of a float32 the shortest decimal that is this number, and not its digits as a double."""
    if array.ndim:
        return [plain(each) for each in array]
    return float(str(array[()])) if array.dtype == np.float32 else array.item()
