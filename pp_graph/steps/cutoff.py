"""Turn a decision on a monotone function of x into a comparison of x itself with one float32 number.

Where `f` is monotone in float32, the decision `f(x) > level` is false up to some x and true from
there on. That x, the cutoff, is found by bisection over the float32 numbers in their order. A
comparison of raw values with it needs none of the arithmetic of `f`, so no runtime can round it
differently.

A subnormal cutoff is not written into a graph: OpenVINO takes such a constant for 0 in some graphs, and devices may
take such a raw value for 0. The nearest number that is not subnormal is written instead. It decides the same about
every raw value that is not subnormal either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.values.float_keys import HIGHEST_KEY, LOWEST_KEY, from_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from pp_graph.steps.step import Array

Cutoff = np.float32 | None
"""The smallest float32 for which a decision is true; None where it is never true."""

NEVER: Final = None

SMALLEST_NORMAL: Final = np.finfo(np.float32).smallest_normal


def find_cutoff(decide: Callable[[Array], Array]) -> Cutoff:
    """Find the smallest float32 for which a monotone decision is true.

    Args:
        decide: Takes a float32 array of shape (1,), returns booleans of that shape. Must be
            monotone: true for every number above one for which it is true. NaN is never asked.

    Returns:
        The cutoff, which may be an infinity, or `NEVER`.
    """
    cutoff = find_cutoffs(decide, (1,))[0]
    return NEVER if np.isnan(cutoff) else np.float32(cutoff)


def find_cutoffs(decide: Callable[[Array], Array], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Find a cutoff for each of several monotone decisions at once.

    Args:
        decide: Takes a float32 array of `shape`, returns booleans of that shape: what each decision makes of the
            number at its place. See `find_cutoff`.
        shape: As many decisions as an array of this shape has places.

    Returns:
        The cutoffs, float32 of `shape`; NaN where a decision is never true.
    """
    below = np.full(shape, LOWEST_KEY, np.int64)
    above = np.full(shape, HIGHEST_KEY, np.int64)
    never, always = ~decide(from_keys(above)), decide(from_keys(below))
    while np.any(above - below > 1):
        middle = (below + above) // 2
        holds = decide(from_keys(middle))
        above, below = np.where(holds, middle, above), np.where(holds, below, middle)
    cutoffs = np.where(always, np.float32(-np.inf), from_keys(above))
    return np.where(never, np.float32(np.nan), cutoffs).astype(np.float32)


def is_subnormal(numbers: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which float32 numbers are nearer to 0 than every normal one, and not 0."""
    magnitudes = np.abs(np.asarray(numbers, np.float32))
    return (magnitudes > 0) & (magnitudes < SMALLEST_NORMAL)


def highest_below(subnormal_cutoffs: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The highest number below each of some subnormal cutoffs that is not subnormal itself."""
    return np.where(np.asarray(subnormal_cutoffs) > 0, np.float32(0), -SMALLEST_NORMAL)


def is_blurred(cutoffs: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which cutoffs have subnormal numbers between `highest_below` and them, which graphs decide about otherwise."""
    apart: npt.NDArray[np.bool_] = np.nextafter(highest_below(cutoffs), np.float32(np.inf)) != np.asarray(cutoffs)
    return is_subnormal(cutoffs) & apart
