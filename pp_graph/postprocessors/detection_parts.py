"""What detectors return besides boxes, and the steps that find it for each detection: key points and masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.postprocessors.detection_heads import HEADS, Head
from pp_graph.postprocessors.head_finding import (
    RAW_BOXES,
    RAW_CANDIDATES,
    RAW_POINTS,
    RAW_PROTOTYPES,
    grid_levels,
)
from pp_graph.steps import (
    CropMasks,
    FlattenMap,
    FoundPlaces,
    GatherCandidates,
    KeyPoints,
    MaskLogits,
    ResizeMap,
    Step,
    TakeParts,
)
from pp_graph.steps.box_decoding import grid

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from pp_graph.postprocessors.detection import DetectionPostProcessor
    from pp_graph.program import Meaning, Signature

PRIOR_VARIANCES: Final = (0.1, 0.2)
"""Factors of RetinaFace's offsets of centres and key points, and of sizes."""
MaskSize = Literal["prototypes", "input"]
"""Size of instance masks: that of the prototypes, or of the model's images."""

PART_OUTPUTS: Final[tuple[tuple[str, tuple[str, ...], Meaning, str], ...]] = (
    ("masks", ("NKHW",), "decision", "pixels of each detection"),
    ("keypoints", ("NKJP",), "number", "x, y and possibly visibility of each key point, in pixels of the input"),
)
"""Name, axes, meaning and description of each output."""


def part_names(head: str) -> tuple[str, ...]:
    """Names of the outputs that a head has besides boxes; those of a head that is not known yet are empty."""
    known = HEADS.get(head)
    has = {"keypoints": known is not None and known.points is not None, "masks": known is not None and known.masks}
    return tuple(name for name, given in has.items() if given)


def checked_key_points(given: Any) -> tuple[int, int]:
    """Return the number of key points and of the numbers of each.

    Raises:
        PostProcessorError: These are not two such numbers.
    """
    try:
        count, numbers = given
    except (TypeError, ValueError):
        count = numbers = None
    if not isinstance(count, int) or isinstance(count, bool) or count < 1 or numbers not in (2, 3):
        raise PostProcessorError(
            f"key_points is {given!r}, expected their number, and 2 or 3 numbers for each, such as (17, 3)."
        )
    return count, numbers


def further_parts(post: DetectionPostProcessor, raw: Signature) -> int | None:
    """Number of the parts of a candidate after its class scores; None if open.

    Raises:
        PostProcessorError: The head has key points, and nothing says how many.
    """
    head = HEADS[post.head]
    if head.bins:
        parts = raw[RAW_CANDIDATES].size("P")
        return 4 * head.bins if post.class_count is None or parts is None else parts - post.class_count
    if head.masks:
        return raw[RAW_PROTOTYPES].size("C")
    if head.points != "parts":
        return int(head.oriented)
    if post.key_points is None:
        raise PostProcessorError(
            f"key_points is missing, expected the number of key points and of the numbers of each for head "
            f"'{head.name}', because the model's metadata does not say (kpt_shape). Give key_points=(17, 3) "
            "(--key-points 17,3)."
        )
    return post.key_points[0] * post.key_points[1]


def default_detections(post: DetectionPostProcessor) -> int:
    """Number of detections in the outputs where the user gives none: fewer with masks, which take memory."""
    if "masks" not in part_names(post.head):
        return 300
    return 100 if post.mask_size == "prototypes" else 20


def blazeface_anchors(head: Head, height: int) -> tuple[tuple[float, float], ...]:
    """Centre of each anchor in pixels; the same cells for each size of images."""
    levels = [
        (grid([(side, side, 1)], count)[:, :2] + np.float32(head.centre)) * np.float32(height / side)
        for side, count in zip(head.cells, head.per_cell, strict=False)
    ]
    centres = np.concatenate(levels)
    return tuple((float(x), float(y)) for x, y in centres)


def cell_centres(head: Head, size: tuple[int, int]) -> tuple[tuple[float, float, float], ...]:
    """Centre of the cell of each candidate, and the unit of its offsets: a stride, or a tenth of its prior's side."""
    per_cell = head.per_cell[0]
    cells = grid(grid_levels(size, head.strides), per_cell)
    centres = (cells[:, :2] + np.float32(head.centre)) * cells[:, 2:]
    sides = priors(head, size)[:, 2] * np.float32(PRIOR_VARIANCES[0]) if head.priors else cells[:, 2]
    return tuple((float(x), float(y), float(unit)) for (x, y), unit in zip(centres, sides, strict=True))


def priors(head: Head, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Centre and size of each prior in pixels, float32, (K,4)."""
    found = []
    for level, sides in zip(grid_levels(size, head.strides), head.priors, strict=True):
        cells = grid([level], len(sides))
        centres = (cells[:, :2] + np.float32(head.centre)) * cells[:, 2:]
        each = np.tile(sides, len(cells) // len(sides))[:, None]
        found.append(np.concatenate([centres, each, each], 1))
    return np.concatenate(found).astype(np.float32)


def part_steps(post: DetectionPostProcessor, raw: Signature, sources: Mapping[str, str]) -> list[Step]:
    """Find what the head returns for each detection besides its box.

    Args:
        post: The post-processor.
        raw: Types of the raw values.
        sources: The values that hold all candidates, by role.
    """
    head = HEADS[post.head]
    given = {"shares": RAW_POINTS in raw, "offsets": RAW_POINTS in sources}
    if not part_names(head.name) or not given.get(head.points or "", True):
        return []
    found: Step = FoundPlaces("order", "found", "kept")
    numbers = "numbers_of_found"
    corners = "boxes" if post.box_format == "xyxy" else "corners"
    if head.masks:
        return [found, *_mask_steps(post, raw, sources, corners)]
    if head.points == "parts":
        start = head.class_part + 1 if head.class_part else (head.class_start or 0) + (post.class_count or 0)
        count, each = post.key_points or (0, 0)
        return [
            found,
            GatherCandidates(sources[RAW_CANDIDATES], "found_candidates", "found"),
            TakeParts("found_candidates", numbers, start, start + count * each),
            KeyPoints(numbers, "keypoints", "kept", each),
        ]
    if head.points == "anchors":
        height, _ = raw.input_size or (0, 0)
        return [
            found,
            GatherCandidates(sources[RAW_BOXES], "found_candidates", "found"),
            TakeParts("found_candidates", numbers, head.box_start + 4),
            KeyPoints(numbers, "keypoints", "kept", places="found", anchors=blazeface_anchors(head, height)),
        ]
    if head.points == "offsets":
        size = raw.input_size or (0, 0)
        return [
            found,
            GatherCandidates(sources[RAW_POINTS], numbers, "found"),
            KeyPoints(numbers, "keypoints", "kept", places="found", anchors=cell_centres(head, size)),
        ]
    return [
        found,
        FlattenMap(RAW_POINTS, "points_of_pixels", parts=True),
        GatherCandidates("points_of_pixels", numbers, "found"),
        KeyPoints(numbers, "keypoints", "kept", y_first=True, boxes=corners),
    ]


def _mask_steps(post: DetectionPostProcessor, raw: Signature, sources: Mapping[str, str], corners: str) -> list[Step]:
    """Compute the masks at the size of the prototypes or of the model's images."""
    pixels = raw[RAW_PROTOTYPES].map_size
    if pixels is None:
        raise PostProcessorError(
            f"The prototypes {raw[RAW_PROTOTYPES]} have an open size, expected a known one. Export the model with a "
            "fixed height and width."
        )
    height, width = raw.input_size or (4 * pixels[0], 4 * pixels[1])
    start = (HEADS[post.head].class_start or 0) + (post.class_count or 0)
    steps: list[Step] = [
        GatherCandidates(sources[RAW_CANDIDATES], "found_candidates", "found"),
        MaskLogits("found_candidates", "mask_logits", RAW_PROTOTYPES, start),
    ]
    logits, scale = "mask_logits", (pixels[1] / width, pixels[0] / height)
    if post.mask_size == "input":
        logits, scale = "resized_logits", (1.0, 1.0)
        steps.append(ResizeMap("mask_logits", logits, height, width))
    return [*steps, CropMasks(logits, "masks", corners, scale)]
