"""`OneClassPostProcessor`: normalise, compare and mask, as one-class anomaly models are deployed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, SupportsFloat, get_args

import numpy as np

from pp_graph.errors import PostProcessorError, StatisticsError
from pp_graph.postprocessors.post_processor import OUTPUT_NAMES, RAW_MAP, RAW_SCORE, PostProcessor, RawLayout
from pp_graph.statistics import LevelStatistics, Statistics
from pp_graph.steps import Compare, Keep, MaxOverMap, MinMaxNormalize, OnNaN, Step

_CALIBRATE = (
    "Calibrate on validation data: the threshold and the smallest and largest raw value of each level go "
    "into the statistics JSON."
)


@dataclass(frozen=True)
class OneClassPostProcessor(PostProcessor):
    """Post-processing for models trained on normal images only.

    The semantics are those of Anomalib 2.7's `PostProcessor`, with which users calibrated:

    - normalise: `clip((x - threshold) / (max - min) + 0.5, 0, 1)` in float32;
    - decide: `normalized > 1 - sensitivity`, strictly. With `normalize=False`: `raw > threshold`;
    - a model without a score gets the maximum of its raw map as one;
    - an unknown threshold is taken from the other level (`match_thresholds`), else `(max + min) / 2`.

    Attributes:
        statistics: The calibrated numbers; may be None until the post-processor is used.
        image_sensitivity: Within [0, 1]: 0 flags no image, 0.5 flags above the threshold, 1 flags every
            score that normalises above 0.
        pixel_sensitivity: The same for pixels.
        normalize: Whether scores and maps are normalised; otherwise they come out raw.
        threshold: Whether labels and masks come out.
        match_thresholds: Whether a level with an unknown threshold takes the other level's.
        on_nan: What a NaN among the raw values counts as. The default makes a line stop rather than
            a bad part ship; Anomalib treats it as normal.
        outputs: Names of the outputs that are wanted, of `pred_score`, `pred_label`, `anomaly_map`,
            `pred_mask`; None for all. What only the others need is not computed.

    Raises:
        PostProcessorError: A parameter is outside its range, or a sensitivity is set with
            `normalize=False`, where it has no meaning.
    """

    statistics: Statistics | None = None
    image_sensitivity: float = 0.5
    pixel_sensitivity: float = 0.5
    normalize: bool = True
    threshold: bool = True
    match_thresholds: bool = True
    on_nan: OnNaN = "anomalous"
    outputs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse parameters outside their ranges."""
        if self.statistics is not None and not isinstance(self.statistics, Statistics):
            raise PostProcessorError(
                f"statistics is {type(self.statistics).__name__}, expected Statistics. "
                "Read a file with Statistics.load(path)."
            )
        for name in ("normalize", "threshold", "match_thresholds"):
            flag = getattr(self, name)
            if not isinstance(flag, bool | np.bool_):
                raise PostProcessorError(f"{name} is {flag!r}, expected True or False.")
            object.__setattr__(self, name, bool(flag))
        for name in ("image_sensitivity", "pixel_sensitivity"):
            value = getattr(self, name)
            if isinstance(value, bool | str) or not isinstance(value, SupportsFloat) or not 0 <= float(value) <= 1:
                raise PostProcessorError(
                    f"{name} is {value!r}, expected a number from 0 (flag nothing) to 1 (flag all above 0)."
                )
            object.__setattr__(self, name, float(value))
            if not self.normalize and self.threshold and value != 0.5:
                raise PostProcessorError(
                    f"{name} is {value:g} with normalize=False, expected 0.5: sensitivity shifts the decision on "
                    "the normalised scale. Move the threshold in the statistics, or leave normalisation on."
                )
        if self.on_nan not in get_args(OnNaN):
            raise PostProcessorError(f"on_nan is {self.on_nan!r}, expected {' or '.join(map(repr, get_args(OnNaN)))}.")
        if self.outputs is not None:
            self._check_outputs()

    def _check_outputs(self) -> None:
        given: Any = self.outputs  # whatever a file said
        if not isinstance(given, Iterable):
            raise PostProcessorError(f"outputs is {given!r}, expected names, some of: {', '.join(OUTPUT_NAMES)}.")
        names = (self.outputs,) if isinstance(self.outputs, str) else tuple(self.outputs or ())
        unknown = [name for name in names if name not in OUTPUT_NAMES]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise PostProcessorError(f"outputs holds {twice[0]!r} twice, expected each name once.")
        if unknown or not names:
            raise PostProcessorError(
                f"outputs holds {unknown[0] if unknown else 'nothing'!r}, expected some of: {', '.join(OUTPUT_NAMES)}."
            )
        if not self.threshold and not {"pred_score", "anomaly_map"} & set(names):
            raise PostProcessorError(
                f"outputs holds {', '.join(names)} only, and threshold=False writes none of these. "
                "Leave out one of both."
            )
        object.__setattr__(self, "outputs", names)

    def parameters(self) -> dict[str, Any]:
        """Everything but the statistics."""
        return {
            "image_sensitivity": self.image_sensitivity,
            "pixel_sensitivity": self.pixel_sensitivity,
            "normalize": self.normalize,
            "threshold": self.threshold,
            "match_thresholds": self.match_thresholds,
            "on_nan": self.on_nan,
            **({} if self.outputs is None else {"outputs": list(self.outputs)}),
        }

    def steps(self, layout: RawLayout) -> tuple[Step, ...]:
        """Reduce the map if there is no score, then normalise and compare each level, as far as it is wanted."""
        steps: list[Step] = []
        if self._wants("pred_score", "pred_label"):
            if not layout.score:
                steps.append(MaxOverMap(RAW_MAP, RAW_SCORE, layout.map_rank or 4))
            steps += self._level("image", RAW_SCORE, "pred_score", "pred_label", self.image_sensitivity)
        if layout.map and self._wants("anomaly_map", "pred_mask"):
            steps += self._level("pixel", RAW_MAP, "anomaly_map", "pred_mask", self.pixel_sensitivity)
        wanted = [step for step in steps if self._wants(step.target) or step.target == RAW_SCORE]
        if not wanted:
            raise PostProcessorError(
                f"outputs holds {', '.join(self.outputs or ())} only, and the raw model has no map to compute "
                "it from. Ask for pred_score or pred_label."
            )
        return tuple(wanted)

    def _wants(self, *names: str) -> bool:
        return self.outputs is None or any(name in self.outputs for name in names)

    def _level(self, level: str, source: str, value: str, decision: str, sensitivity: float) -> list[Step]:
        normalizer = None
        # 1 - sensitivity is subtracted in float32, as Anomalib does; in float64 it rounds otherwise.
        cut = float(np.float32(1) - np.float32(sensitivity))
        steps: list[Step] = []
        if self.normalize:
            numbers = self._numbers(level)
            if numbers.min is None or numbers.max is None:
                missing = " and ".join(f"'{level}.{n}'" for n in ("min", "max") if getattr(numbers, n) is None)
                raise StatisticsError(
                    f"Statistics lack {missing}, expected numbers to normalise {value} with. {_CALIBRATE} "
                    "Or turn normalisation off with normalize=False (--no-normalize)."
                )
            threshold = self._threshold(level)
            normalizer = MinMaxNormalize(source, value, threshold, numbers.min, numbers.max, self.on_nan)
            steps.append(normalizer)
        else:
            steps.append(Keep(source, value))
            if self.threshold:
                cut = self._threshold(level)
        if self.threshold:
            steps.append(Compare(source, decision, cut, normalizer, self.on_nan))
        return steps

    def _numbers(self, level: str) -> LevelStatistics:
        if self.statistics is None:
            raise StatisticsError(
                "The post-processor has no statistics, expected calibrated numbers. Pass --stats FILE, or "
                f"OneClassPostProcessor(statistics=Statistics.load('stats.json')). {_CALIBRATE}"
            )
        numbers: LevelStatistics = getattr(self.statistics, level)
        return numbers

    def _threshold(self, level: str) -> float:
        """Threshold of a level, matched or centred where it is unknown; source: Anomalib 2.7."""
        numbers = self._numbers(level)
        if numbers.threshold is not None:
            return numbers.threshold
        other = self._numbers("pixel" if level == "image" else "image").threshold
        if self.match_thresholds and other is not None:
            return other
        if numbers.min is None or numbers.max is None:
            raise StatisticsError(
                f"Statistics lack '{level}.threshold', and there is neither another level's nor a range to take it "
                f"from. {_CALIBRATE}"
            )
        with np.errstate(over="ignore"):
            middle = float((np.float32(numbers.max) + np.float32(numbers.min)) / np.float32(2))
        if not np.isfinite(middle):
            raise StatisticsError(
                f"The middle of '{level}.min' and '{level}.max' overflows float32. Give '{level}.threshold' itself."
            )
        return middle
