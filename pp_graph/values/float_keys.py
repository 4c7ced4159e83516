"""Map float32 numbers to integers in the same order.

The bit pattern of a positive float32, read as an integer, grows with the number; that of a negative one shrinks.
Inverting all bits of negative numbers, and only the sign bit of the others, gives an unsigned integer, the key, that
orders all numbers including infinities. -0 and +0 have the same key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

Keys = np.ndarray[Any, np.dtype[np.uint32]]

_SIGN: Final = np.uint32(0x80000000)
LOWEST_KEY: Final = 0x00800000 - 1
"""Key of -inf."""
HIGHEST_KEY: Final = 0xFF800000
"""Key of +inf."""


def to_keys(numbers: npt.NDArray[np.float32], out: Keys | None = None, scratch: Keys | None = None) -> Keys:
    """Convert numbers to keys; NaN is not allowed.

    Args:
        numbers: The numbers, float32, any shape.
        out: Array for the keys; None allocates one.
        scratch: Working memory of the same shape; None allocates it. For many pixels allocation is the main cost.

    Returns:
        The keys.
    """
    keys = np.empty(numbers.shape, np.uint32) if out is None else out
    mask = np.empty(numbers.shape, np.uint32) if scratch is None else scratch
    np.add(numbers, np.float32(0), out=keys.view(np.float32))
    # An arithmetic shift gives all ones for negative numbers.
    np.right_shift(keys.view(np.int32), np.int32(31), out=mask.view(np.int32))
    mask |= _SIGN
    keys ^= mask
    return keys


def from_keys(keys: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Convert keys of any shape to float32 numbers."""
    bits = np.asarray(keys, np.uint32)
    return np.where(bits & _SIGN, bits ^ _SIGN, ~bits).view(np.float32)


def to_key(number: float) -> int:
    """Return the key of one number, rounded to float32."""
    return int(to_keys(np.array([number], np.float32))[0])


def from_key(key: int) -> np.float32:
    """Return the float32 number of one key."""
    return np.float32(from_keys(np.array([key]))[0])
