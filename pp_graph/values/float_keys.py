"""Float32 numbers as integers in the same order.

The bit pattern of a positive float32, read as an integer, grows with the number; that of a negative one shrinks.
Turning over the bits of negative numbers, and only the sign of the others, gives an unsigned integer, the key, that
orders all of them, infinities included. Zero has one key: -0 counts as +0.
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
    """Keys of numbers that are not NaN.

    Args:
        numbers: The numbers, float32, any shape.
        out: Where to put the keys; None for a new array.
        scratch: Room for as many more; None for a new array. Over many pixels, new memory costs more than the keys.

    Returns:
        The keys.
    """
    keys = np.empty(numbers.shape, np.uint32) if out is None else out
    turned = np.empty(numbers.shape, np.uint32) if scratch is None else scratch
    np.add(numbers, np.float32(0), out=keys.view(np.float32))
    # All ones where the sign is set, by an arithmetic shift.
    np.right_shift(keys.view(np.int32), np.int32(31), out=turned.view(np.int32))
    turned |= _SIGN
    keys ^= turned
    return keys


def from_keys(keys: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Float32 numbers of keys; any shape."""
    bits = np.asarray(keys, np.uint32)
    return np.where(bits & _SIGN, bits ^ _SIGN, ~bits).view(np.float32)


def to_key(number: float) -> int:
    """Key of one number, rounded to float32."""
    return int(to_keys(np.array([number], np.float32))[0])


def from_key(key: int) -> np.float32:
    """Float32 number of one key."""
    return np.float32(from_keys(np.array([key]))[0])
