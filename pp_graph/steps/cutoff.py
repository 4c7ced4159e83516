"""Turn a decision on a monotone function of x into a comparison of x itself with one float32 number.

Where `f` is monotone in float32, the decision `f(x) > level` is false up to some x and true from
there on. That x, the cutoff, is found by bisection over the float32 numbers in their order. A
comparison of raw values with it needs none of the arithmetic of `f`, so no runtime can round it
differently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.steps.float_keys import HIGHEST_KEY, LOWEST_KEY, from_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from pp_graph.steps.step import Array

Cutoff = np.float32 | None
"""The smallest float32 for which a decision is true; None where it is never true."""

NEVER: Final = None


def find_cutoff(decide: Callable[[Array], Array]) -> Cutoff:
    """Find the smallest float32 for which a monotone decision is true.

    Args:
        decide: Takes a float32 array of shape (1,), returns booleans of that shape. Must be
            monotone: true for every number above one for which it is true. NaN is never asked.

    Returns:
        The cutoff, which may be an infinity, or `NEVER`.
    """

    def holds(key: int) -> bool:
        return bool(decide(np.array([from_key(key)], np.float32))[0])

    if not holds(HIGHEST_KEY):
        return NEVER
    if holds(LOWEST_KEY):
        return np.float32(-np.inf)
    below, above = LOWEST_KEY, HIGHEST_KEY
    while above - below > 1:
        middle = (below + above) // 2
        if holds(middle):
            above = middle
        else:
            below = middle
    return from_key(above)
