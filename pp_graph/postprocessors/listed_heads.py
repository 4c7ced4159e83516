"""Outputs of detectors that suppress overlaps themselves, and heads of one level with anchors: roles, and how to tell.

Axes, element types and sizes decide; names only between outputs that have the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pp_graph.errors import OutputRoleError
from pp_graph.model import format_shape, image_input
from pp_graph.postprocessors.head_finding import (
    RAW_BOXES,
    RAW_CANDIDATES,
    RAW_CLASSES,
    RAW_COUNT,
    RAW_POINTS,
    RAW_SCORES,
    Reading,
    Size,
)
from pp_graph.program import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pp_graph.model import OutputInfo, RawModel
    from pp_graph.postprocessors.detection_heads import Head
    from pp_graph.values import DType

_FLOATS: Final = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
_WHOLE: Final = ("INT32", "INT64")
BACKGROUND: Final = ("background", "n/a")
"""Names of class 0 where classes count from 1."""
_ROW: Final = 7
"""Numbers of a detection that comes as a row."""


def _list_roles(axes: str, classes: DType, count: str = "") -> tuple[Role, ...]:
    """Roles of boxes, scores and classes, and of their number with the axes `count`."""
    varying = "" if axes.startswith("N") else "K"
    roles = (
        Role(RAW_BOXES, (f"{axes}P",), {"P": 4}, required=True, noun="boxes", meaning="a box for each detection",
             varying=varying),
        Role(RAW_SCORES, (axes,), required=True, noun="scores", meaning="a score for each detection", varying=varying),
        Role(RAW_CLASSES, (axes,), dtype=classes, required=True, noun="classes",
             meaning="a class for each detection", varying=varying),
    )  # fmt: skip
    if not count:
        return roles
    number = Role(RAW_COUNT, (count,), {"P": 1}, classes, required=True, noun="number of detections")
    return (*roles, number)


TORCHVISION: Final = _list_roles("K", "int64")
TORCHVISION_POINTS: Final = (
    *TORCHVISION,
    Role(RAW_POINTS, ("KJP",), {"P": 3}, required=True, noun="key points", varying="K"),
)
TENSORFLOW: Final = _list_roles("NK", "float32", "N")
EFFICIENT_NMS: Final = _list_roles("NK", "int64", "NP")
LISTED_QUERIES: Final = _list_roles("NK", "int64")
SCORED_BOXES: Final = (
    Role(RAW_BOXES, ("NKP",), {"P": 5}, required=True, noun="boxes", meaning="corners and score of each detection",
         varying="K"),
    Role(RAW_CLASSES, ("NK",), dtype="int64", required=True, noun="classes", meaning="a class for each detection",
         varying="K"),
)  # fmt: skip
CAFFE_ROWS: Final = (
    Role(RAW_CANDIDATES, ("NCKP",), {"C": 1, "P": _ROW}, required=True, noun="detections",
         meaning="image, class, score and corners of each detection"),
)  # fmt: skip
YOLO_ROWS: Final = (
    Role(RAW_CANDIDATES, ("KP",), {"P": _ROW}, required=True, noun="detections",
         meaning="image, corners, class and score of each detection", varying="K"),
)  # fmt: skip
ANCHORED: Final = (
    Role(RAW_SCORES, ("NKC",), {"C": 1}, required=True, noun="scores", meaning="a score for each anchor"),
    Role(RAW_BOXES, ("NKP",), required=True, noun="boxes", meaning="a box for each anchor"),
)


def require_one_image(raw: RawModel, head: Head) -> None:
    """Raise `OutputRoleError` unless a model takes one image at a time, because its outputs list those of one."""
    images = image_input(raw.inputs)
    shape = None if images is None else images.shape
    if images is not None and shape is not None and (len(shape) < 4 or shape[0] != 1):
        raise OutputRoleError(
            f"Input '{images.name}' is {format_shape(shape)}, and head '{head.name}' lists the detections of one "
            "image, without saying which, expected (1,3,H,W). Export the model for a batch of one, such as "
            "torch.onnx.export(model, torch.rand(1, 3, 480, 640), ...), without a dynamic batch; torchvision's "
            "detectors take such a batch as well as a list of images."
        )


def _of(outputs: Sequence[OutputInfo], kinds: Sequence[str], rank: int, last: int | None = None) -> list[str]:
    """Names of the outputs of an element type and rank, and of a last size; an open one counts as another."""
    return [
        each.name
        for each in outputs
        if each.dtype in kinds
        and each.shape is not None
        and len(each.shape) == rank
        and (last is None or each.shape[-1] == last)
    ]


def _named(found: Sequence[str], *parts: str) -> list[str]:
    """Outputs whose names have all of these parts, if there are several."""
    return [name for name in found if all(part in name.lower() for part in parts)] if len(found) > 1 else list(found)


def _read(why: str, **found: list[str]) -> Reading | None:
    """Return a reading if one output was found for each role."""
    names = [each[0] for each in found.values() if len(each) == 1]
    if len(names) < len(found) or len({*names}) < len(names):
        return None
    return Reading({f"raw_{role}": each[0] for role, each in found.items()}, why)


def find_torchvision(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find boxes (K,4), labels (K,) of whole numbers and scores (K,) of one image."""
    del size
    return _read(
        "boxes (K,4), labels of whole numbers (K,) and scores (K,) of one image",
        boxes=_named(_of(outputs, _FLOATS, 2, 4), "box"),
        scores=_of(outputs, _FLOATS, 1),
        classes=_of(outputs, _WHOLE, 1),
    )


def find_torchvision_points(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find also key points (K,J,3)."""
    found, points = find_torchvision(outputs, size), _of(outputs, _FLOATS, 3, 3)
    if found is None or len(points) != 1:
        return None
    return Reading({**found.roles, RAW_POINTS: points[0]}, f"{found.why}, and key points (K,J,3)")


def find_tensorflow(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find boxes (N,K,4), and scores, classes (N,K) and their number (N,), all floating point; names tell them."""
    del size
    # An export may return all boxes before suppression, too.
    kept = [each for each in outputs if "raw" not in each.name.lower()]
    two = _of(kept, _FLOATS, 2)
    if len(two) < 2:
        return None
    return _read(
        "boxes (N,K,4), scores and classes (N,K), told by their names, and their number (N,)",
        boxes=_named(_of(kept, _FLOATS, 3, 4), "box"),
        scores=_named(two, "score"),
        classes=_named(two, "class"),
        count=_named(_of(kept, _FLOATS, 1), "num"),
    )


def find_efficient_nms(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find boxes (N,K,4), scores (N,K), classes of whole numbers (N,K) and their number (N,1)."""
    del size
    number = _of(outputs, _WHOLE, 2, 1)
    return _read(
        "boxes (N,K,4), scores (N,K), classes of whole numbers (N,K) and their number (N,1)",
        boxes=_of(outputs, _FLOATS, 3, 4),
        scores=_of(outputs, _FLOATS, 2),
        classes=[name for name in _of(outputs, _WHOLE, 2) if name not in number],
        count=number,
    )


def find_listed_queries(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find boxes (N,K,4), scores (N,K) and labels of whole numbers (N,K), without their number."""
    del size
    if _of(outputs, _WHOLE, 1):
        return None
    return _read(
        "boxes (N,K,4), scores (N,K) and labels of whole numbers (N,K)",
        boxes=_of(outputs, _FLOATS, 3, 4),
        scores=_of(outputs, _FLOATS, 2),
        classes=_of(outputs, _WHOLE, 2),
    )


def find_scored_boxes(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find corners and score (N,K,5), and labels of whole numbers (N,K)."""
    del size
    return _read(
        "corners and score (N,K,5), and labels of whole numbers (N,K)",
        boxes=_of(outputs, _FLOATS, 3, 5),
        classes=_of(outputs, _WHOLE, 2),
    )


def find_caffe_rows(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find rows (1,1,K,7)."""
    del size
    rows = {each.name: each.shape or () for each in outputs if each.name in _of(outputs, _FLOATS, 4, _ROW)}
    found = [name for name, shape in rows.items() if shape[:2] == (1, 1)]
    return _read("rows (1,1,K,7): image, class, score and corners of each detection", candidates=found)


def find_yolo_rows(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find rows (K,7)."""
    del size
    rows = [each for each in outputs if each.name in _of(outputs, _FLOATS, 2, _ROW)]
    # A classifier of seven classes has the batch on its first axis.
    found = [each.name for each in rows if each.other_batch or (each.proven or ("N",))[0] is None]
    return _read("rows (K,7): image, corners, class and score of each detection", candidates=found)


def find_flat_rows(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find rows (K,7) called `flat_predictions`, as YOLO-NAS exports them: the score comes before the class."""
    found = find_yolo_rows(outputs, size)
    if found is None or "flat_predictions" not in found.roles[RAW_CANDIDATES]:
        return None
    why = "rows (K,7) called 'flat_predictions': image, corners, score and class of each detection"
    return Reading(found.roles, why, own=True)


def find_anchored(
    cells: Sequence[int], per_cell: Sequence[int], parts: int
) -> Callable[[Sequence[OutputInfo], Size], Reading | None]:
    """Return a function that finds logits (N,K,1) and boxes (N,K,P) of as many anchors as all cells have."""
    count = sum(side * side * each for side, each in zip(cells, per_cell, strict=True))

    def find(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
        del size
        fitting = [each for each in outputs if each.shape is not None and each.shape[1:2] == (count,)]
        return _read(
            f"logits and {parts} numbers of each of {count:,} anchors",
            scores=_of(fitting, _FLOATS, 3, 1),
            boxes=_of(fitting, _FLOATS, 3, parts),
        )

    return find
