"""`OneClassPostProcessor`: normalise, compare and mask, as one-class anomaly models are deployed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np

from pp_graph.errors import OutputRoleError, PostProcessorError, StatisticsError
from pp_graph.one_class_options import OPTIONS
from pp_graph.postprocessors.anomaly import OUTPUTS, RAW_MAP, RAW_SCORE, REGION_OUTPUTS
from pp_graph.postprocessors.post_processor import PostProcessor
from pp_graph.statistics import LevelStatistics, Statistics
from pp_graph.steps import (
    Compare,
    DecisionType,
    Keep,
    MaxOverMap,
    MinMaxNormalize,
    OnNaN,
    RegionPart,
    RegionTable,
    ResizeMap,
    Step,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.program import Signature
    from pp_graph.steps.region_table import Part

RESIZED_MAP: Final = "resized_map"
REGION_MASK: Final = "region_mask"

_CALIBRATE = (
    "Calibrate on validation data: the threshold and the smallest and largest raw value of each level go "
    "into the statistics JSON."
)


@dataclass(frozen=True)
class OneClassPostProcessor(PostProcessor):
    """Post-processing for models trained on normal images only.

    It computes the same as Anomalib 2.7's `PostProcessor`, so its calibrated statistics apply:

    - normalise: `clip((x - threshold) / (max - min) + 0.5, 0, 1)` in float32;
    - decide: `normalized > 1 - sensitivity`, strictly. With `normalize=False`: `raw > threshold`;
    - a model without a score gets the maximum of its raw map as one;
    - an unknown threshold is taken from the other level (`match_thresholds`), else `(max + min) / 2`.

    Attributes:
        statistics: The calibrated numbers; may be None until the post-processor is used.
        image_sensitivity: In [0, 1]. 0 flags no image (except NaN), 0.5 those above the threshold, 1 all whose
            normalised score is above 0.
        pixel_sensitivity: The same for pixels.
        normalize: Normalise scores and maps; otherwise return them raw.
        threshold: Return labels and masks.
        match_thresholds: Use the other level's threshold for a level whose own is unknown.
        on_nan: Classify NaN among the raw values as `anomalous` or `normal`. The default stops a production line rather
            than ship a bad part; Anomalib treats NaN as normal.
        outputs: Outputs to compute, from `pred_score`, `pred_label`, `anomaly_map` and `pred_mask`; None for all.
        mask_dtype: Element type of `pred_mask`: `bool`, `u8` (0 and 1), `u8_255` (0 and 255) or `f32` (0 and 1).
        map_size: Height and width to which the raw map is resized before it is normalised and compared; `input` for
            the size of the model's input, None for no resizing. A score is reduced from the original map.
        regions: Number of the largest connected regions of the mask to return as `region_boxes`, `region_areas`,
            `region_scores`, `region_centroids` and `region_count`; None for none. See `RegionTable`.
        pack: Return one tensor named `predictions`, float32, (N,H,W,4), instead of four: `[..., 0]` is the map,
            `[..., 1]` the score, `[..., 2]` the label, `[..., 3]` the mask.
        thresholds: `fixed` writes the cutoffs of label and mask into the model as constants; `runtime` makes them
            inputs with defaults (in OpenVINO states) that can be changed while the model runs.

    Raises:
        PostProcessorError: An option is outside its range, two exclude each other, or a sensitivity is set with
            `normalize=False`, where it has no meaning.
    """

    replaces_unread: ClassVar[bool] = True
    tunable: ClassVar[tuple[str, ...]] = ("image_sensitivity", "pixel_sensitivity")
    statistics: Statistics | None = None
    image_sensitivity: float = OPTIONS["image_sensitivity"].default
    pixel_sensitivity: float = OPTIONS["pixel_sensitivity"].default
    normalize: bool = OPTIONS["normalize"].default
    threshold: bool = OPTIONS["threshold"].default
    match_thresholds: bool = OPTIONS["match_thresholds"].default
    on_nan: OnNaN = OPTIONS["on_nan"].default
    outputs: tuple[str, ...] | None = OPTIONS["outputs"].default
    mask_dtype: DecisionType = OPTIONS["mask_dtype"].default
    map_size: tuple[int, int] | Literal["input"] | None = OPTIONS["map_size"].default
    regions: int | None = OPTIONS["regions"].default
    pack: bool = OPTIONS["pack"].default
    thresholds: Literal["fixed", "runtime"] = OPTIONS["thresholds"].default

    def __post_init__(self) -> None:
        """Check each option, then their combinations."""
        if self.statistics is not None and not isinstance(self.statistics, Statistics):
            raise PostProcessorError(
                f"statistics is {type(self.statistics).__name__}, expected Statistics. "
                "Read a file with Statistics.load(path)."
            )
        for name, option in OPTIONS.items():
            object.__setattr__(self, name, option.check(getattr(self, name)))
        self._check_combinations()
        if self.regions is not None:
            written = tuple(output for output in OUTPUTS if self._writes(output.name))
            object.__setattr__(self, "declared_outputs", (*written, *REGION_OUTPUTS))

    def _check_combinations(self) -> None:
        for name in ("image_sensitivity", "pixel_sensitivity"):
            value = getattr(self, name)
            if not self.normalize and self.threshold and value != 0.5:
                raise PostProcessorError(
                    f"{name} is {value:g} with normalize=False, expected 0.5: sensitivity shifts the decision on "
                    "the normalised scale. Move the threshold in the statistics, or leave normalisation on."
                )
        if self.outputs is not None and not self.threshold and not self._writes("pred_score", "anomaly_map"):
            raise PostProcessorError(
                f"outputs holds {', '.join(self.outputs)} only, and threshold=False writes none of these. "
                "Use one or the other."
            )
        if self.mask_dtype != "bool" and not (self.threshold and self._writes("pred_mask")):
            raise PostProcessorError(
                f"mask_dtype is {self.mask_dtype!r}, but no pred_mask is written. Use one or the other."
            )
        if self.regions is not None and not self.threshold:
            raise PostProcessorError(
                "regions is given together with threshold=False, expected one of them: regions are those of the mask."
            )
        if self.map_size is not None and not (self.regions or self._writes("anomaly_map", "pred_mask")):
            raise PostProcessorError("map_size is given, but neither map nor mask is written. Use one or the other.")
        decides = self.threshold and (self.regions is not None or self._writes("pred_label", "pred_mask"))
        if self.thresholds == "runtime" and not decides:
            raise PostProcessorError(
                "thresholds='runtime' is given, but neither label nor mask is written. Use one or the other."
            )
        if self.pack:
            excluded = {
                "threshold=False": not self.threshold,
                "outputs": self.outputs is not None,
                "mask_dtype": self.mask_dtype != "bool",
                "regions": self.regions is not None,
            }
            reason = next((name for name, given in excluded.items() if given), None)
            if reason is not None:
                raise PostProcessorError(
                    f"pack is given together with {reason}, expected one of them: the packed tensor holds map, score, "
                    "label and mask, all float32."
                )

    def settled(self, raw: Signature) -> OneClassPostProcessor:
        """Resolve `map_size` to numbers; None if the map has that size already."""
        if self.regions is not None and RAW_MAP not in raw:
            raise PostProcessorError("regions is given, but the raw model has no map to find them in. Leave it out.")
        if self.map_size is None:
            return self
        if RAW_MAP not in raw:
            raise PostProcessorError("map_size is given, but the raw model has no map. Leave it out.")
        size = raw.input_size if self.map_size == "input" else self.map_size
        if size is None:
            raise PostProcessorError(
                "map_size is 'input', but the height and width of the model's input are not known. Give numbers: "
                "map_size=(256, 256) (--map-size 256x256), or export the model with a fixed input size."
            )
        return dataclasses.replace(self, map_size=None if size == raw[RAW_MAP].map_size else size)

    def parameters(self) -> dict[str, Any]:
        """Return the options as JSON values; options of the output form only if they are not the default."""
        values = {name: getattr(self, name) for name in OPTIONS}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if not OPTIONS[name].output_form or value != OPTIONS[name].default
        }

    @property
    def sensitivities(self) -> Mapping[str, str]:
        """Both sensitivities, if scores are normalised and compared."""
        moves = {option.name: option.moves for option in OPTIONS.values() if option.moves is not None}
        return moves if self.normalize and self.threshold else {}

    def steps(self, raw: Signature) -> tuple[Step, ...]:
        """Reduce the map to a score if the model has none, then normalise and compare each level that is written."""
        steps: list[Step] = []
        if self._writes("pred_score", "pred_label"):
            if RAW_SCORE not in raw:
                _check_rank(raw)
                steps.append(MaxOverMap(RAW_MAP, RAW_SCORE))
            steps += self._level("image", RAW_SCORE, "pred_score", "pred_label", self.image_sensitivity)
        if RAW_MAP in raw and (self.regions or self._writes("anomaly_map", "pred_mask")):
            source = RAW_MAP
            if isinstance(self.map_size, tuple):
                source = RESIZED_MAP
                steps.append(ResizeMap(RAW_MAP, source, *self.map_size))
            steps += self._level("pixel", source, "anomaly_map", "pred_mask", self.pixel_sensitivity)
        if self.pack and RAW_MAP not in raw:
            raise PostProcessorError(
                "pack is given, but the raw model has no map: the packed tensor has one value per pixel. Leave it out."
            )
        if self.regions is not None:
            # Binding drops the steps that no declared output needs.
            return (*steps, *self._region_steps(self.regions))
        wanted = [step for step in steps if self._writes(step.target) or step.target in (RAW_SCORE, RESIZED_MAP)]
        if not wanted:
            raise PostProcessorError(
                f"outputs holds {', '.join(self.outputs or ())} only, and the raw model has no map to compute "
                "it from. Ask for pred_score or pred_label."
            )
        return tuple(wanted)

    def _region_steps(self, k: int) -> list[Step]:
        parts: dict[str, Part] = {
            "region_boxes": "boxes",
            "region_areas": "areas",
            "region_scores": "max",
            "region_centroids": "centroids",
            "region_count": "count",
        }
        mask = "pred_mask" if self.mask_dtype == "bool" else REGION_MASK
        table = RegionTable(mask, "regions", k, map="anomaly_map")
        return [table, *(RegionPart(table.target, name, part) for name, part in parts.items())]

    def _writes(self, *names: str) -> bool:
        return self.outputs is None or any(name in self.outputs for name in names)

    def _level(self, level: str, source: str, value: str, decision: str, sensitivity: float) -> list[Step]:
        normalizer = None
        # Subtract in float32, as Anomalib does; float64 rounds differently.
        cut = float(np.float32(1) - np.float32(sensitivity))
        steps: list[Step] = []
        if self.normalize:
            statistics = self._level_statistics(level)
            if statistics.min is None or statistics.max is None:
                missing = " and ".join(f"'{level}.{n}'" for n in ("min", "max") if getattr(statistics, n) is None)
                raise StatisticsError(
                    f"Statistics lack {missing}, expected numbers to normalise {value} with. {_CALIBRATE} "
                    "Or turn normalisation off with normalize=False (--no-normalize)."
                )
            threshold = self._threshold(level)
            normalizer = MinMaxNormalize(source, value, threshold, statistics.min, statistics.max, self.on_nan)
            steps.append(normalizer)
        else:
            steps.append(Keep(source, value))
            if self.threshold:
                cut = self._threshold(level)
        if self.threshold:
            dtype: DecisionType = "f32" if self.pack else self.mask_dtype if decision == "pred_mask" else "bool"
            runtime = self.thresholds == "runtime"
            steps.append(Compare(source, decision, cut, normalizer, self.on_nan, dtype, runtime))
            if self.regions and decision == "pred_mask" and dtype != "bool":
                steps.append(Compare(source, REGION_MASK, cut, normalizer, self.on_nan, runtime=runtime))
        return steps

    def _level_statistics(self, level: str) -> LevelStatistics:
        if self.statistics is None:
            raise StatisticsError(
                "The post-processor has no statistics, expected calibrated numbers. Give them with --stats FILE "
                f"(statistics=Statistics.load('stats.json')). {_CALIBRATE}"
            )
        statistics: LevelStatistics = getattr(self.statistics, level)
        return statistics

    def _threshold(self, level: str) -> float:
        """Threshold of a level; if unknown, the other level's or the middle of the range, as in Anomalib 2.7."""
        statistics = self._level_statistics(level)
        if statistics.threshold is not None:
            return statistics.threshold
        other = self._level_statistics("pixel" if level == "image" else "image").threshold
        if self.match_thresholds and other is not None:
            return other
        if statistics.min is None or statistics.max is None:
            raise StatisticsError(
                f"Statistics lack '{level}.threshold', and there is neither another level's nor a range to take it "
                f"from. {_CALIBRATE}"
            )
        with np.errstate(over="ignore"):
            middle = float((np.float32(statistics.max) + np.float32(statistics.min)) / np.float32(2))
        if not np.isfinite(middle):
            raise StatisticsError(
                f"The middle of '{level}.min' and '{level}.max' overflows float32. Give '{level}.threshold' itself."
            )
        return middle


def _check_rank(raw: Signature) -> None:
    """Raise if a score would be reduced from a map of unknown rank."""
    match = raw.matches.get(RAW_MAP)
    if match is not None and not match.type.rank_known:
        raise OutputRoleError(
            f"Output '{match.output.name}' has no known rank, expected 3 (N,H,W) or 4 (N,1,H,W) to reduce it to a "
            "score. Export the model with its output shapes, or name a score with score_output=..."
        )
