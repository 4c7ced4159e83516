"""Identify external weights by a sample, because hashing gigabytes takes longer than anything else."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_ir as ir

_SAMPLE: Final = 256
"""Bytes read at the start, in the middle and at the end of each tensor."""


class WeightsRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Identity of a model's external weights, wherever they are stored.

    Attributes:
        tensors: Number of tensors.
        size: Bytes of all tensors.
        sample: Hash of their sizes, and of some bytes of each.
    """

    tensors: int
    size: int
    sample: str


def weights_record(tensors: Iterable[ir.ExternalTensor]) -> WeightsRecord | None:
    """Record external weights; None if there are none. Names and positions do not count."""
    digests = []
    size = 0
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for tensor in tensors:
            path = str(tensor.path)
            if path not in files:
                files[path] = stack.enter_context(open(path, "rb"))  # noqa: PTH123 - tensor.path is text
            length = tensor.length or tensor.nbytes
            digest = hashlib.sha256(f"{tensor.dtype} {length}".encode())
            for start in sorted({0, max(0, length // 2 - _SAMPLE // 2), max(0, length - _SAMPLE)}):
                files[path].seek((tensor.offset or 0) + start)
                digest.update(files[path].read(min(_SAMPLE, length - start)))
            digests.append(digest.digest())
            size += length
    if not digests:
        return None
    return WeightsRecord(tensors=len(digests), size=size, sample=hashlib.sha256(b"".join(sorted(digests))).hexdigest())
