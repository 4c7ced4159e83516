"""Random steps on classes and whole maps, and inputs at which each could fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pp_graph.steps import (
    ArgMax,
    BatchFirst,
    ClassAreas,
    ClassMap,
    CollapseRepeats,
    Compare,
    ComparePerClass,
    ComparePerPixel,
    CountTokens,
    DecidingStep,
    DropPixelAxes,
    GatherClasses,
    GatherTimes,
    InvertDecision,
    MaskAreas,
    Matte,
    MaxOverClasses,
    MeanOfTokens,
    MeanOverMap,
    MinMaxNormalize,
    PerImageMinMax,
    RegionPart,
    RegionTable,
    SelectClass,
    SelectRegions,
    Softmax,
    Step,
    TopClasses,
    TopKMean,
    TopMargin,
    ValueType,
    is_blurred,
    is_subnormal,
)

F32 = np.float32
CLASSES, HEIGHT, WIDTH = 3, 5, 6
SHAPES = {
    "NC": (8, CLASSES),
    "NHW": (8, HEIGHT, WIDTH),
    "NCHW": (8, CLASSES, HEIGHT, WIDTH),
    "NHWC": (8, HEIGHT, WIDTH, CLASSES),
}
TINY = [0.0, 1e-45, -1e-45, 5e-39, -5e-39, 1.1754942e-38, -1.1754942e-38, 1.1754944e-38, -1.1754944e-38]
MAPS = st.sampled_from(["NHW", "NCHW", "NHWC"])
WITH_CLASSES = st.sampled_from(["NC", "NCHW", "NHWC"])
on_nan = st.sampled_from(["anomalous", "normal"])
# Nothing normalises to more than 1, and tiny levels have subnormal cutoffs.
levels = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from(TINY), st.floats(-2, 2, width=32))
normalizers = st.sampled_from(
    [None, MinMaxNormalize("x", "y", 0.5, 0.0, 1.0), MinMaxNormalize("x", "y", 0.0, 0.0, 0.0)]
)


def type_of(axes: str) -> ValueType:
    return ValueType(axes).resized(C=CLASSES, H=HEIGHT, W=WIDTH)


def _bound(build: Callable[..., Step], axes: st.SearchStrategy[str], **fields: Any) -> st.SearchStrategy[Step]:
    fixed = st.builds(dict, source=st.just("x"), target=st.just("y"), **fields)
    return st.tuples(fixed, axes).map(lambda drawn: build(**drawn[0]).bind(type_of(drawn[1])))


ELSEWHERE = {
    GatherClasses, RegionTable, RegionPart, SelectRegions, ClassMap, ClassAreas, MaskAreas, Matte,
    BatchFirst, CollapseRepeats, GatherTimes, CountTokens, MeanOfTokens,
}  # fmt: skip
"""Steps of other inputs, tested in test_top_classes.py, test_region_table.py, test_class_maps.py and
test_sequence_steps.py."""
CLASS_STRATEGIES: dict[type[Step], st.SearchStrategy[Step]] = {
    PerImageMinMax: _bound(PerImageMinMax, MAPS, on_nan=on_nan),
    Softmax: _bound(Softmax, WITH_CLASSES),
    SelectClass: _bound(SelectClass, WITH_CLASSES, index=st.integers(0, CLASSES - 1)),
    ArgMax: _bound(ArgMax, WITH_CLASSES),
    TopClasses: _bound(TopClasses, st.just("NC"), k=st.integers(1, CLASSES)),
    MaxOverClasses: _bound(MaxOverClasses, WITH_CLASSES),
    TopMargin: _bound(TopMargin, WITH_CLASSES),
    InvertDecision: st.just(InvertDecision("x", "y")),
    DropPixelAxes: st.sampled_from(["NHWC", "NCHW"]).map(
        lambda axes: DropPixelAxes("x", "y").bind(ValueType(axes).resized(C=CLASSES, H=1, W=1))
    ),
    MeanOverMap: _bound(MeanOverMap, MAPS),
    TopKMean: st.one_of(
        _bound(TopKMean, MAPS, k=st.integers(1, HEIGHT * WIDTH)),
        _bound(TopKMean, MAPS, fraction=st.floats(0, 1, exclude_min=True, allow_subnormal=False)),
    ),
    ComparePerClass: _bound(
        ComparePerClass,
        WITH_CLASSES,
        class_levels=st.lists(levels, min_size=CLASSES, max_size=CLASSES),
        normalizer=normalizers,
        on_nan=on_nan,
    ),
    ComparePerPixel: _bound(
        ComparePerPixel,
        MAPS,
        pixel_levels=st.lists(st.lists(levels, min_size=WIDTH, max_size=WIDTH), min_size=HEIGHT, max_size=HEIGHT),
        normalizer=normalizers,
        on_nan=on_nan,
    ),
}


def _shape(step: Any) -> tuple[int, ...]:
    return SHAPES[step.axes]


def ordinary(step: Any, rng: np.random.Generator) -> np.ndarray:
    """Numbers all over, with a few images that hold special ones."""
    x = rng.normal(0, 3, _shape(step)).astype(F32)
    for image, number in enumerate([np.nan, np.inf, -np.inf, 1e-45]):
        # The first place in one image, and another in the next.
        x[image].reshape(-1)[image % CLASSES] = number
    x[4] = 2.5
    x[5] = np.nan
    # All of one sign: if huge numbers cancel, the result depends on the order of summation.
    x[6] = np.abs(x[6]) * F32(1e30)
    return x


def around_cutoffs(step: Any, rng: np.random.Generator) -> np.ndarray:
    """Each cutoff at its place, its neighbours, special numbers, and random ones."""
    x = rng.normal(0, 1, _shape(step)).astype(F32)
    cutoffs = np.broadcast_to(np.nan_to_num(step.cutoffs, nan=1.0, posinf=np.inf, neginf=-np.inf), x.shape[1:])
    x[0], x[1], x[2] = cutoffs, np.nextafter(cutoffs, F32(-np.inf)), np.nextafter(cutoffs, F32(np.inf))
    x[3], x[4], x[5] = np.nan, np.inf, -np.inf
    x[6] = rng.choice(np.array(TINY, F32), x.shape[1:])
    return promised(step, x)


def choices(step: Any, rng: np.random.Generator) -> np.ndarray:
    """Numbers that often tie, with NaN and infinities in any class, and images of nothing else."""
    x = rng.integers(-1, 2, _shape(step)).astype(F32)
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 3.4028235e38, -3.4028235e38], F32)
    replaced = rng.random(x.shape) < 0.3
    x[replaced] = rng.choice(special, int(replaced.sum()))
    x[0], x[1], x[2] = -np.inf, np.inf, np.nan
    x[3] = rng.normal(0, 3, x.shape[1:])
    return x


def one_pixel(step: Any, rng: np.random.Generator) -> np.ndarray:
    del step
    return rng.normal(0, 3, (4, CLASSES)).astype(F32)[:, None, None, :]


def promised(step: DecidingStep, x: np.ndarray) -> np.ndarray:
    """Replace numbers that a graph may decide differently by 0; see docs/semantics.md."""
    adjustable = isinstance(step, Compare) and step.runtime
    return np.where(is_subnormal(x) & (is_subnormal if adjustable else is_blurred)(step.cutoffs), F32(0), x)


CLASS_INPUTS: dict[type[Step], Callable[[Any, np.random.Generator], np.ndarray]] = dict.fromkeys(
    CLASS_STRATEGIES, ordinary
) | {
    ComparePerClass: around_cutoffs,
    ComparePerPixel: around_cutoffs,
    **dict.fromkeys((ArgMax, TopClasses, MaxOverClasses, TopMargin), choices),
    DropPixelAxes: one_pixel,
    InvertDecision: lambda _, rng: rng.random((3, 4)) < 0.5,
}
