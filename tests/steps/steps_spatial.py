"""Steps over the neighbours of a pixel, and maps to try them on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from pp_graph.steps import CropBorder, GaussianBlur, MedianFilter, Step

F32 = np.float32
SHAPES: dict[str, tuple[int, ...]] = {"NHW": (3, 9, 11), "NCHW": (3, 2, 9, 11), "NHWC": (3, 9, 11, 1)}

axes = st.sampled_from(list(SHAPES))
sources = {"source": st.just("raw_map"), "target": st.just("smooth"), "axes": axes}
borders = st.integers(0, 4) | st.tuples(*[st.integers(0, 4)] * 2, *[st.integers(0, 5)] * 2)

SPATIAL_STRATEGIES: dict[type[Step], st.SearchStrategy[Step]] = {
    # A kernel of 17 pixels mirrors 8, of which a height of 9 has just enough.
    GaussianBlur: st.builds(
        GaussianBlur,
        sigma=st.floats(0.05, 2.0),
        kernel_size=st.none() | st.sampled_from([1, 3, 5, 17]),
        **sources,
    ),
    MedianFilter: st.builds(MedianFilter, size=st.sampled_from([3, 3, 3, 5]), **sources),
    CropBorder: st.builds(CropBorder, border=borders, **sources),
}


def plain_map(step: Step, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, 3, SHAPES[step.axes]).astype(F32)


def map_with_special_numbers(step: Step, rng: np.random.Generator) -> np.ndarray:
    """A map with many equal numbers, and one with NaN and infinities at some places."""
    x = plain_map(step, rng)
    x[0] = np.round(x[0])
    for number in (np.nan, np.inf, np.inf, -np.inf, -0.0, 3.4028235e38):
        x[1].ravel()[rng.integers(x[1].size)] = number
    return x


SPATIAL_INPUTS: dict[type[Step], Callable[[Step, np.random.Generator], np.ndarray]] = {
    GaussianBlur: plain_map,
    MedianFilter: map_with_special_numbers,
    CropBorder: map_with_special_numbers,
}
