"""`OneClassPostProcessor`: normalise, compare and mask, as one-class anomaly models are deployed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, SupportsFloat, get_args

import numpy as np

from pp_graph.errors import OutputRoleError, PostProcessorError, StatisticsError
from pp_graph.postprocessors.anomaly import OUTPUT_NAMES, RAW_MAP, RAW_SCORE
from pp_graph.postprocessors.post_processor import PostProcessor
from pp_graph.statistics import LevelStatistics, Statistics
from pp_graph.steps import (
    DECISION_VALUES,
    Compare,
    DecisionType,
    Keep,
    MaxOverMap,
    MinMaxNormalize,
    OnNaN,
    ResizeMap,
    Step,
)

if TYPE_CHECKING:
    from pp_graph.program import Signature

RESIZED_MAP: Final = "resized_map"
_MOST_PIXELS: Final = 2**27

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
        mask_dtype: Element type of `pred_mask`: `bool`, `u8` (0 and 1), `u8_255` (0 and 255) or `f32` (0 and 1).
        map_size: Height and width to resize the raw map to before it is normalised and compared; `input` for the
            size of the images that the model takes. None leaves the map as it is. A score that is reduced from the
            map is that of the map as it was.
        pack: Return one tensor named `predictions`, float32, (N,H,W,4), instead of four: `[..., 0]` is the map,
            `[..., 1]` the score, `[..., 2]` the label, `[..., 3]` the mask.
        thresholds: `fixed` writes the cutoffs of label and mask into the model as constants; `runtime` makes them
            inputs with defaults (in OpenVINO states), which can be changed while the model runs.

    Raises:
        PostProcessorError: A parameter is outside its range, two contradict each other, or a sensitivity is set with
            `normalize=False`, where it has no meaning.
    """

    replaces_unread: ClassVar[bool] = True
    statistics: Statistics | None = None
    image_sensitivity: float = 0.5
    pixel_sensitivity: float = 0.5
    normalize: bool = True
    threshold: bool = True
    match_thresholds: bool = True
    on_nan: OnNaN = "anomalous"
    outputs: tuple[str, ...] | None = None
    mask_dtype: DecisionType = "bool"
    map_size: tuple[int, int] | Literal["input"] | None = None
    pack: bool = False
    thresholds: Literal["fixed", "runtime"] = "fixed"

    def __post_init__(self) -> None:
        """Refuse parameters outside their ranges."""
        if self.statistics is not None and not isinstance(self.statistics, Statistics):
            raise PostProcessorError(
                f"statistics is {type(self.statistics).__name__}, expected Statistics. "
                "Read a file with Statistics.load(path)."
            )
        for name in ("normalize", "threshold", "match_thresholds", "pack"):
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
        self._check_form()

    def _check_form(self) -> None:
        if self.mask_dtype not in DECISION_VALUES:
            raise PostProcessorError(
                f"mask_dtype is {self.mask_dtype!r}, expected one of: {', '.join(DECISION_VALUES)}."
            )
        if self.thresholds not in ("fixed", "runtime"):
            raise PostProcessorError(f"thresholds is {self.thresholds!r}, expected 'fixed' or 'runtime'.")
        if self.map_size is not None and self.map_size != "input":
            object.__setattr__(self, "map_size", _checked_size(self.map_size))
        if self.mask_dtype != "bool" and not (self.threshold and self._wants("pred_mask")):
            raise PostProcessorError(
                f"mask_dtype is {self.mask_dtype!r}, and no pred_mask is written. Leave out one of both."
            )
        if self.map_size is not None and not self._wants("anomaly_map", "pred_mask"):
            raise PostProcessorError("map_size is given, and neither map nor mask is written. Leave out one of both.")
        if self.thresholds == "runtime" and not (self.threshold and self._wants("pred_label", "pred_mask")):
            raise PostProcessorError(
                "thresholds='runtime' is given, and neither label nor mask is written. Leave out one of both."
            )
        if self.pack and (self.outputs is not None or not self.threshold or self.mask_dtype != "bool"):
            reason = (
                "threshold=False" if not self.threshold else "outputs" if self.outputs is not None else "mask_dtype"
            )
            raise PostProcessorError(
                f"pack is given together with {reason}, expected it alone: the packed tensor holds map, score, label "
                "and mask, all float32. Leave out one of both."
            )

    def settled(self, raw: Signature) -> OneClassPostProcessor:
        """This post-processor with `map_size` as numbers; None where the map has that size already."""
        if self.map_size is None:
            return self
        if RAW_MAP not in raw:
            raise PostProcessorError("map_size is given, and the raw model has no map. Leave it out.")
        size = raw.input_size if self.map_size == "input" else self.map_size
        if size is None:
            raise PostProcessorError(
                "map_size is 'input', and the height and width of the model's input are not known. Give numbers: "
                "map_size=(256, 256) (--map-size 256x256), or export the model with a fixed input size."
            )
        return dataclasses.replace(self, map_size=None if size == raw[RAW_MAP].map_size else size)

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
            **({} if self.mask_dtype == "bool" else {"mask_dtype": self.mask_dtype}),
            **({} if self.map_size is None else {"map_size": _plain(self.map_size)}),
            **({"pack": True} if self.pack else {}),
            **({} if self.thresholds == "fixed" else {"thresholds": self.thresholds}),
        }

    @property
    def sensitivities(self) -> Mapping[str, str]:
        """Those of images and pixels, where scores are normalised and decided about."""
        moved = {"image_sensitivity": "pred_label", "pixel_sensitivity": "pred_mask"}
        return moved if self.normalize and self.threshold else {}

    def steps(self, raw: Signature) -> tuple[Step, ...]:
        """Reduce the map if there is no score, then normalise and compare each level, as far as it is wanted."""
        steps: list[Step] = []
        if self._wants("pred_score", "pred_label"):
            if RAW_SCORE not in raw:
                _check_rank(raw)
                steps.append(MaxOverMap(RAW_MAP, RAW_SCORE))
            steps += self._level("image", RAW_SCORE, "pred_score", "pred_label", self.image_sensitivity)
        if RAW_MAP in raw and self._wants("anomaly_map", "pred_mask"):
            source = RAW_MAP
            if isinstance(self.map_size, tuple):
                source = RESIZED_MAP
                steps.append(ResizeMap(RAW_MAP, source, *self.map_size))
            steps += self._level("pixel", source, "anomaly_map", "pred_mask", self.pixel_sensitivity)
        if self.pack and RAW_MAP not in raw:
            raise PostProcessorError(
                "pack is given, and the raw model has no map: the packed tensor has one value a pixel. Leave it out."
            )
        wanted = [step for step in steps if self._wants(step.target) or step.target in (RAW_SCORE, RESIZED_MAP)]
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
            dtype: DecisionType = "f32" if self.pack else self.mask_dtype if decision == "pred_mask" else "bool"
            runtime = self.thresholds == "runtime"
            steps.append(Compare(source, decision, cut, normalizer, self.on_nan, dtype, runtime))
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


def _check_rank(raw: Signature) -> None:
    """Refuse to reduce a map of unknown rank to a score."""
    match = raw.matches.get(RAW_MAP)
    if match is not None and not match.type.rank_known:
        raise OutputRoleError(
            f"Output '{match.output.name}' has no known rank, expected 3 (N,H,W) or 4 (N,1,H,W) to reduce it to a "
            "score. Export the model with its output shapes, or name a score with score_output=..."
        )


def _checked_size(given: Any) -> tuple[int, int]:
    sizes = tuple(given) if isinstance(given, list | tuple) else ()
    whole = all(isinstance(size, int | np.integer) and not isinstance(size, bool) and size > 0 for size in sizes)
    if len(sizes) != 2 or not whole:
        raise PostProcessorError(
            f"map_size is {given!r}, expected height and width in pixels, such as (256, 256) (--map-size 256x256), or "
            "'input'."
        )
    if sizes[0] * sizes[1] > _MOST_PIXELS:
        raise PostProcessorError(
            f"map_size is {given!r}, {sizes[0] * sizes[1]:,} pixels, expected at most {_MOST_PIXELS:,}. Give a smaller "
            "size."
        )
    return int(sizes[0]), int(sizes[1])


def _plain(size: tuple[int, int] | str) -> list[int] | str:
    """A size as JSON holds it."""
    return list(size) if isinstance(size, tuple) else size
