"""Monotone normalisers with any parameters that they take."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from pp_graph.steps import (
    GaussianCDF,
    MonotoneStep,
    PiecewiseLinear,
    PlainMinMax,
    PlattScaling,
    QuantileMap,
    Sigmoid,
    SquareRoot,
    Step,
    Temperature,
    ZScore,
)

NAMES = ("raw_score", "pred_score")

on_nan = st.sampled_from(["anomalous", "normal"])
locations = st.one_of(
    st.sampled_from([0.0, 1.0, -3.5, 1234.567, -1e6]), st.floats(-1e6, 1e6), st.floats(-(2.0**60), 2.0**60)
)
widths = st.one_of(st.sampled_from([1.0, 0.01, 300.0]), st.floats(-30, 30).map(lambda power: 2.0**power))


@st.composite
def plain_min_max(draw: st.DrawFn) -> PlainMinMax:
    low = draw(locations)
    high = max(low + draw(widths), float(np.nextafter(np.float32(low), np.float32(np.inf))))
    return PlainMinMax(*NAMES, low, max(high, 2.0**-100 + low), draw(on_nan))


@st.composite
def platt_scaling(draw: st.DrawFn) -> PlattScaling:
    slope = 1 / draw(widths)
    # With a larger intercept, even float64 cancels its digits near the center.
    furthest = 2.0**32 / slope
    center = min(max(draw(locations), -furthest), furthest)
    return PlattScaling(*NAMES, slope, -slope * center, draw(on_nan))


@st.composite
def knots(draw: st.DrawFn) -> tuple[float, ...]:
    """Places that do not fall: spread, close to each other in float32, or the same several times."""
    count = draw(st.one_of(st.integers(2, 9), st.sampled_from([31, 32, 33, 257])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["spread", "close", "tied", "wide"]))
    first = draw(locations)
    if kind == "close":
        gaps = rng.integers(0, 3, count - 1) * float(np.spacing(np.float32(abs(first) + 1)))
    elif kind == "tied":
        gaps = rng.integers(0, 2, count - 1) * rng.exponential(1, count - 1)
    else:
        gaps = rng.exponential(1, count - 1) * (10.0 ** rng.uniform(-6, 6, count - 1) if kind == "wide" else 1)
    return tuple(np.concatenate([[first], first + np.cumsum(gaps)]).tolist())


@st.composite
def piecewise_linear(draw: st.DrawFn) -> PiecewiseLinear:
    inputs = draw(knots())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    outputs = np.sort(rng.uniform(*draw(st.sampled_from([(0, 1), (-5, 3), (0, 255)])), len(inputs)))
    return PiecewiseLinear(*NAMES, inputs, tuple(outputs.tolist()), draw(on_nan))


MONOTONE_STRATEGIES: dict[type[Step], st.SearchStrategy[MonotoneStep]] = {
    PlainMinMax: plain_min_max(),
    ZScore: st.builds(ZScore, st.just("raw_score"), st.just("pred_score"), locations, widths),
    Sigmoid: st.builds(Sigmoid, st.just("raw_score"), st.just("pred_score"), on_nan),
    SquareRoot: st.builds(SquareRoot, st.just("raw_score"), st.just("pred_score")),
    Temperature: st.builds(Temperature, st.just("raw_score"), st.just("pred_score"), widths),
    PlattScaling: platt_scaling(),
    GaussianCDF: st.builds(GaussianCDF, st.just("raw_score"), st.just("pred_score"), locations, widths, on_nan),
    PiecewiseLinear: piecewise_linear(),
    QuantileMap: st.builds(QuantileMap, st.just("raw_score"), st.just("pred_score"), knots(), on_nan),
}
