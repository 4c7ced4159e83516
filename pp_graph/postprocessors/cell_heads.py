"""Heads told by how many candidates the cells of each level have: YOLO-NAS, NanoDet-Plus and detectors of faces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pp_graph.postprocessors.head_finding import (
    PICODET_STRIDES,
    RAW_BOXES,
    RAW_CANDIDATES,
    RAW_POINTS,
    RAW_SCORES,
    STRIDES,
    Reading,
    Size,
    grid_levels,
)
from pp_graph.program import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pp_graph.model import OutputInfo

RAW_OBJECTS: Final = "raw_objectness"
DFL_BINS: Final = 8
"""Distances of which NanoDet-Plus and PicoDet return logits, 0 to 7 strides."""
FACE_PRIORS: Final = ((16, 32), (64, 128), (256, 512))
"""Sides of RetinaFace's priors in pixels, of each level."""
ULTRAFACE_PRIORS: Final = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
_FACE_POINTS: Final = 10
_FLOATS: Final = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
_NOUNS: Final = {RAW_SCORES: "scores", RAW_OBJECTS: "objectness", RAW_BOXES: "boxes", RAW_POINTS: "key points"}


def face_levels(*first: str) -> tuple[Role, ...]:
    """Roles of three levels: one number a candidate each for `first`, then boxes, and possibly five key points."""
    sizes = {**dict.fromkeys(first, ("C", 1)), RAW_BOXES: ("P", 4), RAW_POINTS: ("P", _FACE_POINTS)}
    return tuple(
        Role(f"{role}_{level}", (f"NK{axis}", f"K{axis}"), {axis: size}, required=role != RAW_POINTS,
             noun=f"{_NOUNS[role]} of level {level + 1}")
        for level in range(len(STRIDES))
        for role, (axis, size) in sizes.items()
    )  # fmt: skip


RETINAFACE: Final = (
    Role(RAW_SCORES, ("NKC",), {"C": 2}, required=True, noun="scores", meaning="background and face of each prior"),
    Role(RAW_BOXES, ("NKP",), {"P": 4}, required=True, noun="boxes", meaning="a box for each prior"),
    Role(RAW_POINTS, ("NKP",), {"P": _FACE_POINTS}, required=True, noun="key points"),
)


@dataclass(frozen=True)
class Cells:
    """Number of candidates in each cell of each level, by which a head is told."""

    per_cell: tuple[int, ...]
    strides: tuple[int, ...] = STRIDES

    def counts(self, size: tuple[int, int]) -> list[int]:
        """Number of candidates of each level, for images of a size."""
        levels = grid_levels(size, self.strides)
        return [rows * columns * each for (rows, columns, _), each in zip(levels, self.per_cell, strict=True)]

    def find_joined(self, outputs: Sequence[OutputInfo], size: Size, scores: int | None = None) -> Reading | None:
        """Find boxes (N,K,4) and scores (N,K,C), all levels joined; `scores` is C if only one number fits."""
        if size is None:
            return None
        found = _of_count(outputs, sum(self.counts(size)), (3,))
        boxes = [name for name, parts in found if parts == 4]
        others = [(name, parts) for name, parts in found if parts != 4]
        if len(boxes) != 1 or len(others) != 1 or scores not in (None, others[0][1]):
            return None
        why = f"boxes, and {others[0][1]} class scores, of {sum(self.counts(size)):,} candidates"
        return Reading({RAW_SCORES: others[0][0], RAW_BOXES: boxes[0]}, why, own=True)

    def find_ultraface(self, outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
        """Find boxes and the scores of background and face."""
        return self.find_joined(outputs, size, 2)

    def find_retinaface(self, outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
        """Find boxes, the scores of background and face, and five key points."""
        count = 0 if size is None else sum(self.counts(size))
        found = _of_count(outputs, count, (3,))
        if len(found) != 3 or {parts for _, parts in found} != {2, 4, _FACE_POINTS}:
            return None
        names = {parts: name for name, parts in found}
        roles = {RAW_SCORES: names[2], RAW_BOXES: names[4], RAW_POINTS: names[_FACE_POINTS]}
        return Reading(roles, f"boxes, two scores and five key points of {count:,} priors", own=True)

    def find_rows(self, outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
        """Find one output (N,K,P) with class scores and logits of distances."""
        count = 0 if size is None else sum(self.counts(size))
        found = [(name, parts) for name, parts in _of_count(outputs, count, (3,)) if parts > 4 * DFL_BINS]
        if len(found) != 1:
            return None
        name, parts = found[0]
        why = f"{parts - 4 * DFL_BINS} class scores and distances of {count:,} candidates"
        return Reading({RAW_CANDIDATES: name}, why, own=True)

    def find_scrfd(self, outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
        """Find scores, distances and possibly key points of each level."""
        return self._find_levels(outputs, size, RAW_SCORES)

    def find_yunet(self, outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
        """Find scores, objectness, boxes and possibly key points of each level."""
        # Which of the two scores is which does not matter: they are multiplied.
        return self._find_levels(outputs, size, RAW_SCORES, RAW_OBJECTS)

    def _find_levels(self, outputs: Sequence[OutputInfo], size: Size, *first: str) -> Reading | None:
        counts = [] if size is None else self.counts(size)
        roles: dict[str, str] = {}
        for level, count in enumerate(counts):
            found = _of_count(outputs, count, (2, 3))
            single = [name for name, parts in found if parts == 1]
            boxes, points = ([name for name, parts in found if parts == size] for size in (4, _FACE_POINTS))
            if len(single) != len(first) or len(boxes) != 1 or len(points) > 1:
                return None
            roles |= {f"{role}_{level}": name for role, name in zip(first, single, strict=True)}
            roles[f"{RAW_BOXES}_{level}"] = boxes[0]
            roles |= {f"{RAW_POINTS}_{level}": name for name in points}
        if not roles or len(roles) % len(counts):
            return None
        kinds = ", ".join(_NOUNS[role] for role in (*first, RAW_BOXES, RAW_POINTS) if f"{role}_0" in roles)
        return Reading(roles, f"{kinds} of {len(counts)} levels, with {counts[0]:,} candidates in the first", own=True)


ONE_A_CELL: Final = Cells((1, 1, 1))
TWO_A_CELL: Final = Cells((2, 2, 2))
ULTRAFACE: Final = Cells((3, 2, 2, 3), PICODET_STRIDES)
NANODET: Final = Cells((1, 1, 1, 1), PICODET_STRIDES)


def _of_count(outputs: Sequence[OutputInfo], count: int, ranks: tuple[int, ...]) -> list[tuple[str, int]]:
    """Name and last size of each floating-point output of a rank with as many candidates."""
    return [
        (each.name, each.shape[-1])
        for each in outputs
        if each.dtype in _FLOATS
        and each.shape is not None
        and len(each.shape) in ranks
        and each.shape[-2] == count
        and isinstance(each.shape[-1], int)
    ]
