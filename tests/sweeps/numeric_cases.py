"""Cases of the sweep of decisions: options, statistics, raw values beside cutoffs, models, and the reference.

The reference is written from docs/semantics.md and calls nothing of pp_graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import pp_graph as pp

Array = np.ndarray[Any, Any]
Triple = tuple[float | None, float, float]
F32 = np.float32
SMALLEST_NORMAL: Final = np.finfo(F32).smallest_normal

STATISTICS: Final[dict[str, Triple]] = {
    "ordinary": (1.25, 0.5, 3.0),
    "percent": (0.1, 0.0, 0.7),
    "small range": (1000.0, 999.9999, 1000.0001),
    "huge": (1e37, -1e38, 2e38),
    "whole of float32": (0.0, -1.7e38, 1.7e38),
    "range far above the threshold": (1e-30, 0.0, 1e30),
    "negative": (-5.5, -9.0, -1.0),
    "outside its range": (10.0, 0.0, 1.0),
    "tiny": (2e-38, 1.5e-38, 5e-38),
    "subnormal": (1e-40, 0.0, 3e-40),
    "subnormal range": (1.5e-38, 1.5e-38, 1.6e-38),
    "zero range": (2.5, 2.5, 2.5),
    "zero": (0.0, 0.0, 0.0),
    "no threshold": (None, 0.5, 3.0),
}
CHOICES: Final[dict[str, tuple[Any, ...]]] = {
    "dtype": ("float32", "float16", "bfloat16", "float64"),
    "network": ("copied", "cast", "computed"),
    "outputs": ("score and map", "score", "map"),
    "score": ("N", "N1"),
    "map": ("NHW", "N1HW", "NHW1"),
    "sizes": ("open", "fixed"),
    "opset": (11, 13, 17, 21),
    "weights": ("f32", "f16"),
    "image": tuple(STATISTICS),
    "pixel": tuple(STATISTICS),
    "image_sensitivity": (0.0, 1e-8, 0.1, 0.3, 0.5, 0.731, 0.999999, 1.0),
    "pixel_sensitivity": (0.0, 1e-8, 0.1, 0.3, 0.5, 0.731, 0.999999, 1.0),
    "normalize": (True, True, False),
    "match_thresholds": (True, False),
    "on_nan": ("anomalous", "normal"),
    "mask_dtype": ("bool", "u8", "u8_255", "f32"),
    "form": ("separate", "separate", "pack", "map_size"),
    "thresholds": ("fixed", "runtime"),
    "keep_raw": (True, False),
}
_SIDE: Final = 4


@dataclass(frozen=True)
class Case:
    """One value of each of `CHOICES`."""

    dtype: str
    network: str
    outputs: str
    score: str
    map: str
    sizes: str
    opset: int
    weights: str
    image: str
    pixel: str
    image_sensitivity: float
    pixel_sensitivity: float
    normalize: bool
    match_thresholds: bool
    on_nan: str
    mask_dtype: str
    form: str
    thresholds: str
    keep_raw: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Case:
        """Draw a case, and replace what excludes each other."""
        drawn = {name: values[rng.integers(len(values))] for name, values in CHOICES.items()}
        if drawn["dtype"] == "bfloat16":  # NumPy cannot hand it to onnxruntime
            drawn["network"], drawn["opset"] = "cast", max(13, drawn["opset"])
        # Raw values that runtimes may compute otherwise are read from them.
        drawn["keep_raw"] |= drawn["network"] == "computed" or drawn["dtype"] == "bfloat16"
        if drawn["outputs"] == "score":
            drawn["form"] = "separate"
        if drawn["form"] == "map_size" and drawn["dtype"] in ("float16", "bfloat16"):
            drawn["dtype"] = "float32"  # runtimes may resize before they round, and a resized map is not exact
        if drawn["outputs"] == "score" or drawn["form"] == "pack":
            drawn["mask_dtype"] = "bool"
        if not drawn["normalize"]:
            drawn["image_sensitivity"] = drawn["pixel_sensitivity"] = 0.5
        return cls(**drawn)

    @property
    def post(self) -> pp.OneClassPostProcessor:
        """The post-processor under test."""
        names = ("normalize", "match_thresholds", "on_nan", "mask_dtype", "thresholds")
        return pp.OneClassPostProcessor(
            pp.Statistics(**{
                level: pp.LevelStatistics(**dict(zip(("threshold", "min", "max"), self.triple(level), strict=True)))
                for level in ("image", "pixel")
            }),
            self.image_sensitivity,
            self.pixel_sensitivity,
            pack=self.form == "pack",
            map_size=(_SIDE, _SIDE) if self.form == "map_size" else None,
            **{name: getattr(self, name) for name in names},
        )  # fmt: skip

    def triple(self, level: str) -> Triple:
        """Threshold, minimum and maximum of a level."""
        return STATISTICS[getattr(self, level)]

    def threshold(self, level: str) -> np.float32:
        """The threshold that applies: the level's, the other one's, or the middle of the range."""
        own, low, high = self.triple(level)
        other = self.triple("pixel" if level == "image" else "image")[0]
        if own is None and other is not None and self.match_thresholds:
            own = other
        return (F32(high) + F32(low)) / F32(2) if own is None else F32(own)

    def normalised(self, x: Array, level: str) -> Array:
        """`clip((x - threshold) / (max - min) + 0.5, 0, 1)` in float32."""
        threshold, (_, low, high) = self.threshold(level), self.triple(level)
        span = F32(high) - F32(low)
        with np.errstate(all="ignore"):
            if span == 0:
                value = np.where(x > threshold, F32(1), np.where(x < threshold, F32(0), F32(0.5)))
            else:
                value = np.clip((x - threshold) / span + F32(0.5), F32(0), F32(1))
        return np.where(np.isnan(x), F32(self.on_nan == "anomalous"), value)

    def decide(self, x: Array, level: str, sensitivity: float) -> Array:
        """Decide about raw values, float32."""
        if self.normalize:
            decision = self.normalised(x, level) > F32(1) - F32(sensitivity)
        else:
            decision = x > self.threshold(level)
        return np.where(np.isnan(x), self.on_nan == "anomalous", decision)


def cutoff(decide: Callable[[Array], Array]) -> np.float32:
    """Smallest float32 about which a monotone decision is true, by bisection over bit patterns; inf if there is none."""

    def number(key: int) -> np.float32:
        return np.uint32(key if key >= 0 else 0x80000000 - key).view(F32)

    low, high = -0x7F800001, 0x7F800000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decide(np.array([number(middle)]))[0] else (middle, high)
    return number(high)


def rounded(x: Array, dtype: str) -> Array:
    """Round to an element type, then to float32."""
    with np.errstate(all="ignore"):
        return x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype).astype(F32)


def beside(number: np.float32, dtype: str) -> list[float]:
    """Return a number, its neighbours in float32 and in an element type, and what lies halfway between those."""
    with np.errstate(all="ignore"):
        if dtype == "bfloat16":
            top = int(F32(number).view(np.uint32)) >> 16
            grid = [float(np.uint32(((top + step) & 0xFFFF) << 16).view(F32)) for step in (-1, 0, 1, 2)]
        elif dtype == "float16":
            centre = np.float16(number)
            grid = [float(np.nextafter(centre, np.float16(end))) for end in (-np.inf, np.inf)] + [float(centre)]
        else:
            ends = (F32(-np.inf), F32(np.inf))
            grid = [float(number), *(float(np.nextafter(number, end)) for end in ends)]
        grid = sorted(each for each in grid if np.isfinite(each))
        halfway = [(low + high) / 2 for low, high in itertools.pairwise(grid)]
        near = [float(np.nextafter(F32(each), F32(end))) for each in (*grid, *halfway) for end in (-np.inf, np.inf)]
        fine = [float(np.nextafter(each, end)) for each in halfway for end in (-np.inf, np.inf)]
    return [float(number), *grid, *halfway, *near, *fine]


def raw_values(case: Case, level: str, sensitivities: tuple[float, ...]) -> Array:
    """Return raw values of a level in ascending order, without NaN, in the element type that the model is fed."""
    threshold, low, high = case.triple(level)
    points = [case.threshold(level), F32(low), F32(high)]
    points += [cutoff(lambda x, s=s: case.decide(x, level, s)) for s in sensitivities]  # type: ignore[misc]
    numbers = [each for point in points for each in beside(point, case.dtype)]
    span = high - low or 1.0
    numbers += list((threshold or low) + span * np.random.default_rng(0).normal(0, 1, 24))
    numbers += [
        0.0,
        -0.0,
        1e-45,
        -1e-45,
        5e-39,
        -5e-39,
        float(SMALLEST_NORMAL),
        -float(SMALLEST_NORMAL),
        1.0,
        -1.0,
        6e4,
        -6e4,
    ]
    numbers += [3.4028235e38, -3.4028235e38]
    if case.form != "map_size":  # a resize multiplies neighbours with 0, which is NaN for infinity
        numbers += [np.inf, -np.inf]
    fed = case.dtype if case.network != "cast" else "float32"
    with np.errstate(all="ignore"):
        values = np.unique(np.array(numbers, np.float64).astype(fed))
    return values[np.isfinite(rounded(values, case.dtype))] if case.form == "map_size" else values


def feeds_of(case: Case, sensitivities: tuple[float, ...]) -> dict[str, Array]:
    """Scores and maps; the largest value of map i is the i-th value, so that its maximum is beside cutoffs too."""
    rng = np.random.default_rng(1)
    scores, pixels = (raw_values(case, level, sensitivities) for level in ("image", "pixel"))
    if case.outputs == "map":
        scores = pixels = np.unique(np.concatenate([scores, pixels]))
    count = max(len(scores), len(pixels)) + 2
    nan = case.form != "map_size"
    score = np.resize(scores, count)
    maps = np.empty((count, _SIDE * _SIDE), pixels.dtype)
    for place in range(count):
        largest = place % len(pixels)
        maps[place] = pixels[rng.integers(0, largest + 1, maps.shape[1])]
        maps[place, rng.integers(maps.shape[1])] = pixels[largest]
    if nan:
        score[-1] = maps[-1, 3] = np.nan
    blocks = maps.reshape(count, _SIDE, _SIDE)
    if case.form == "map_size":  # every third pixel lies on a pixel of the map
        blocks = blocks.repeat(3, 1).repeat(3, 2)
    shapes = {"NHW": blocks, "N1HW": blocks[:, None], "NHW1": blocks[..., None]}
    feeds = {"score": score[:, None] if case.score == "N1" else score, "heat": shapes[case.map]}
    return {name: feeds[name] for name in names_of(case)}


def names_of(case: Case) -> list[str]:
    return {"score": ["score"], "map": ["heat"]}.get(case.outputs, ["score", "heat"])


def raw_model(case: Case, feeds: Mapping[str, Array]) -> onnx.ModelProto:
    """A model that returns its inputs as they are, cast to the element type, or multiplied by 2."""
    kind = getattr(TensorProto, {"float32": "FLOAT", "float64": "DOUBLE"}.get(case.dtype, case.dtype.upper()))
    nodes, inputs, outputs, weights = [], [], [], []
    for name, array in feeds.items():
        axes = case.map if name == "heat" else case.score
        shape = [1 if axis == "1" else axis if case.sizes == "open" else size
                 for axis, size in zip(axes, array.shape, strict=True)]  # fmt: skip
        fed = helper.np_dtype_to_tensor_dtype(array.dtype)
        inputs.append(helper.make_tensor_value_info(f"{name}_in", fed, shape))
        outputs.append(helper.make_tensor_value_info(name, kind, shape))
        if case.network == "cast":
            nodes.append(helper.make_node("Cast", [f"{name}_in"], [name], to=kind))
        elif case.network == "copied":
            nodes.append(helper.make_node("Identity", [f"{name}_in"], [name]))
        else:
            nodes.append(helper.make_node("Mul", [f"{name}_in", "two"], [name]))
            weights = [numpy_helper.from_array(np.array(2, array.dtype), "two")]
    graph = helper.make_graph(nodes, "raw", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=8)
