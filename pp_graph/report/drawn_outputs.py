"""Choose the outputs of a model to draw, and read their values for an image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pp_graph.data.boxes import DETECTION_PARTS
from pp_graph.fusion.runtime_cutoffs import scores_anomalies
from pp_graph.model import image_input
from pp_graph.postprocessors import OUTPUTS
from pp_graph.program import DETECTION_OUTPUTS, detects
from pp_graph.report.drawn_regions import DrawnRegions
from pp_graph.report.pictures import palette
from pp_graph.report.prediction_table import COLUMNS, plain
from pp_graph.values import axes_of_shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pp_graph.fusion import Provenance
    from pp_graph.program import OutputDescription, Predictions
    from pp_graph.running import Runner

Array = npt.NDArray[Any]

_AXES: Final = {output.name: output.axes for output in OUTPUTS}
_MAX_TABLE_VALUES: Final = 1024
"""Outputs with more values per image than this are left out of the table."""


class Picture(NamedTuple):
    """Content of a folder of pictures.

    Attributes:
        kind: One of `PICTURES`.
        output: Name of the output; None for an overlay, which shows mask and map.
    """

    kind: str
    output: str | None


@dataclass(frozen=True)
class DrawnOutputs:
    """Post-processed outputs of a model, and the masks and maps among them.

    Attributes:
        outputs: Descriptions of the outputs that have a batch axis, by name.
        masks: Names of per-pixel decisions, `pred_mask` first.
        maps: Names of the other per-pixel outputs, `anomaly_map` first.
        class_maps: Names of per-pixel classes.
        class_masks: Names of decisions for each pixel and class.
        mattes: Names of per-pixel opacities, 0 to 255.
        regions: Outputs about regions; None without them.
        anomalies: True if the decisions are about anomalies.
        captioned: True if overlays have a caption: the classes or the text of the image.
    """

    outputs: Mapping[str, OutputDescription]
    masks: tuple[str, ...]
    maps: tuple[str, ...]
    class_maps: tuple[str, ...] = ()
    class_masks: tuple[str, ...] = ()
    mattes: tuple[str, ...] = ()
    regions: DrawnRegions | None = None
    anomalies: bool = True
    captioned: bool = False

    @classmethod
    def of(cls, runner: Runner) -> DrawnOutputs:
        """Choose the outputs of a model."""
        known = runner.provenance.predicted
        outputs = {name: known[name] for name in runner.outputs if (known[name].axes or "N").startswith("N")}
        pixels = [output for output in outputs.values() if _per_pixel(output)]
        pixels.sort(key=lambda output: output.name not in _AXES)
        kinds: dict[str, list[str]] = {"masks": [], "maps": [], "class_maps": [], "class_masks": [], "mattes": []}
        anomalies = scores_anomalies(runner.provenance)
        for output in pixels:
            kind = "class_maps" if output.classifies else "mattes" if output.meaning == "picture" else "maps"
            if output.decides:
                count = (output.type.size("C") if output.type is not None else 1) or 1
                # A palette has a colour for each byte, and 0 is for no class.
                kind = "masks" if anomalies or not 1 < count < 256 else "class_masks"
            if kind != "mattes" or output.dtype == "uint8":
                kinds[kind].append(output.name)
        boxes = any(output.meaning == "box" for output in outputs.values())
        return cls(
            outputs,
            **{kind: tuple(names) for kind, names in kinds.items()},
            regions=DrawnRegions.of(runner.provenance.bind(), runner.provenance.preprocessing) if boxes else None,
            anomalies=anomalies,
            captioned=_takes_pictures(runner) and any(name in outputs for name in ("pred_class", "token_ids")),
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of a detector's classes; empty if unknown."""
        classes = self.outputs.get("classes")
        return () if classes is None else classes.class_names

    @property
    def detects(self) -> bool:
        """True if the model returns detections."""
        return detects(self.outputs.values())

    @property
    def mask(self) -> str | None:
        """The mask for tables and overlays."""
        return self.masks[0] if self.masks else None

    @property
    def map(self) -> str | None:
        """The map for overlays."""
        return self.maps[0] if self.maps else None

    @property
    def pixel_classes(self) -> str | None:
        """The output whose pictures show a class of each pixel: a class map, or the masks of classes."""
        return next(iter((*self.class_maps, *self.class_masks)), None)

    @property
    def legend(self) -> dict[str, Any]:
        """Class, its name, colour and number in the pictures of classes, as JSON; empty without such pictures."""
        shown = self.pixel_classes
        names = () if shown is None else self.outputs[shown].class_names
        kinds = [output.type for name, output in self.outputs.items() if name in (shown, "class_area")]
        count = len(names) or max((kind.size("C") or 0 for kind in kinds if kind is not None), default=0)
        if not count or shown is None:
            return {}
        first = int(shown in self.class_masks)
        return {
            "classes": [
                {"class": index, "name": names[index] if names else None, "pixel": index + first, "color": list(colour)}
                for index, colour in enumerate(palette(first + count)[first:])
            ]
        }

    def folders(self, save: Sequence[str]) -> dict[str, Picture]:
        """Return the folders of pictures to write, with their content.

        Args:
            save: Kinds of pictures; see `PICTURES`.
        """
        folders: dict[str, Picture] = {}
        if "masks" in save:
            folders |= self._folders("masks", (*self.masks, *self.class_maps, *self.class_masks, *self.mattes))
        drawn = self.masks or self.maps or self.regions or self.pixel_classes or self.mattes or self.detects
        drawn = drawn or self.captioned
        if "overlays" in save and drawn:
            folders["overlays"] = Picture("overlays", None)
        if "maps" in save:
            folders |= self._folders("maps", self.maps)
        return folders

    def _folders(self, kind: str, names: Iterable[str]) -> dict[str, Picture]:
        folders: dict[str, Picture] = {}
        for name in names:
            folder = re.sub(r"[^\w.-]", "_", f"{kind}_{name}") if folders else kind
            while folder.lower() in {taken.lower() for taken in folders}:
                folder += "_"
            folders[folder] = Picture(kind, name)
        return folders

    def of_image(self, predictions: Predictions, index: int, count: int) -> dict[str, Array]:
        """Return the values for one image of a batch by output name; maps and masks as (H,W).

        Maps and masks with several classes are reduced to their maximum, and masks of classes to 0 for none, or 1 plus
        the last class of the pixel.

        Args:
            predictions: Predictions of the batch.
            index: Index of the image.
            count: Number of images.
        """
        values: dict[str, Array] = {}
        for name, output in self.outputs.items():
            array = predictions.get(name)
            if array is None or array.ndim == 0 or len(array) != count:
                continue
            values[name] = array[index]
            if _per_pixel(output):
                axes = output.axes or axes_of_shape(array.shape, _AXES[name]) or "NHW"
                others = tuple(place for place, axis in enumerate(axes[1:]) if axis not in "HW")
                if name in self.class_masks:
                    numbers = np.arange(1, 1 + array.shape[axes.index("C")], dtype=np.uint8)
                    values[name] = values[name] * numbers.reshape([-1 if axis == "C" else 1 for axis in axes[1:]])
                values[name] = values[name].max(axis=others)
        return values

    def caption(self, values: Mapping[str, Array]) -> str:
        """Name the class of an image and its probability, or the text in it; empty for other models."""
        if "token_ids" in values:
            tokens, names = values["token_ids"].ravel(), self.outputs["token_ids"].class_names
            text = _named(tokens, self.outputs["token_ids"]) if names else " ".join(map(str, tokens[tokens >= 0]))
            return f"{text} ({values['confidence']:.2f})" if "confidence" in values else str(text)
        if "pred_class" not in values:
            return ""
        names, index = self.outputs["pred_class"].class_names, int(values["pred_class"])
        text = names[index] if index < len(names) else f"class {index}"
        unknown = "unknown, nearest " if bool(values.get("unknown", np.False_)) else ""
        return f"{unknown}{text}" + (f" {values['pred_prob']:.2f}" if "pred_prob" in values else "")

    def further(self, values: Mapping[str, Array], files: Mapping[str, str]) -> dict[str, Any]:
        """Return the values of outputs that have no fixed column, by column name.

        Args:
            values: Result of `of_image`.
            files: Files of pictures, by output.
        """
        further: dict[str, Any] = {}
        for name, array in values.items():
            if name in (self.mask, self.map) or (name in ("pred_score", "pred_label") and self.anomalies):
                continue
            if self.detects and name in (*DETECTION_OUTPUTS[:3], *DETECTION_PARTS):
                continue
            column = f"output_{name}" if name in COLUMNS else name
            if _per_pixel(self.outputs[name]):
                if name in files:
                    further[column] = files[name]
                if name in self.mattes:
                    further[f"{name}_mean"] = round(float(array.mean()) / 255, 4)
            elif array.size <= _MAX_TABLE_VALUES:
                single = array.size == 1 and len(self.outputs[name].axes or "NC") <= 2
                further[column] = plain(array.reshape(()) if single else array)
            if name == "class_area" and array.ndim == 1 and self.pixel_classes is not None:
                names = self.outputs[self.pixel_classes].class_names
                further |= {f"pixels_{_name(names, index)}": int(count) for index, count in enumerate(array)}
            named = None if _per_pixel(self.outputs[name]) else _named(array, self.outputs[name])
            if named is not None and self.outputs[name].meaning == "token":
                further["text" if name == "token_ids" else f"{name}_text"] = named
            elif named is not None:
                further[f"{name}_name{'s' if isinstance(named, list) else ''}"] = named
        return further

    def shown_map(self, values: Mapping[str, Array], provenance: Provenance) -> Array | None:
        """Scale the map to [0, 1] with the threshold at 0.5; None if there is no map.

        A raw map is scaled with the pixel statistics. Other maps without a scale use their own range.
        """
        if self.map is None or self.map not in values:
            return None
        shown, scale = values[self.map], self.outputs[self.map].scale
        if self.outputs[self.map].bounded:
            return shown
        if scale is not None:
            low, high, threshold = scale
            if threshold is not None and low < threshold < high:
                return np.interp(shown, (low, threshold, high), (0, 0.5, 1))
            return _between(shown, low, high)
        raw = self.outputs[self.map].unchanged is not None
        level = provenance.statistics.pixel if raw and provenance.statistics is not None else None
        if level is not None and level.min is not None and level.max is not None:
            threshold = level.threshold
            if threshold is None and self.mask is not None:
                cutoff = provenance.cutoffs.get(self.mask)
                threshold = cutoff if isinstance(cutoff, float) else None
            if threshold is not None:
                half = (level.max - level.min) / 2
                return _between(shown, threshold - half, threshold + half)
        finite = shown[np.isfinite(shown)]
        return _between(shown, float(finite.min()), float(finite.max())) if finite.size else shown


def _takes_pictures(runner: Runner) -> bool:
    images = image_input(runner.inputs)
    return images is not None and images.shape is not None and len(images.shape) == 4


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else str(index)


def _named(array: Array, output: OutputDescription) -> str | list[str] | None:
    """Names of the classes that an output of an image lists, or that it decides are present; None if unknown.

    Tokens are joined to a text.
    """
    names = output.class_names
    if not names:
        return None
    if output.meaning == "token":
        return "".join(names[index] for index in array.ravel() if index >= 0)
    if output.decides:
        return [name for name, present in zip(names, array.ravel(), strict=True) if present]
    if array.ndim == 0:
        return names[int(array)]
    # -1 is no class, and the head of a detector may return an index without a name.
    return [_name(names, index) for index in array.ravel() if index >= 0]


def _between(values: Array, low: float, high: float) -> Array:
    return (values - np.float32(low)) / np.float32(max(high - low, 1e-12))


def _per_pixel(output: OutputDescription) -> bool:
    """Return True if there is a value for each pixel; decided by name if the rank is unknown.

    Masks of detections are drawn with their boxes.
    """
    if output.axes is not None and "K" in output.axes:
        return False
    return output.per_pixel or (output.axes is None and any("H" in axes for axes in _AXES.get(output.name, ())))
