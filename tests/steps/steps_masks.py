"""Masks, and steps on masks with their parameters."""

from __future__ import annotations

import numpy as np

from pp_graph.steps import (
    CloseMask,
    DilateMask,
    ErodeMask,
    Hysteresis,
    MaskByLabel,
    OpenMask,
    RemoveSmallRegions,
    Step,
)

_MORPHOLOGY = (
    {"size": 3},
    {"size": 5, "shape": "cross"},
    {"size": 7, "shape": "disk"},
)

MASK_STEPS: dict[type[Step], tuple[dict[str, object], ...]] = {
    MaskByLabel: ({"label": "b"},),
    ErodeMask: _MORPHOLOGY,
    DilateMask: _MORPHOLOGY,
    OpenMask: _MORPHOLOGY,
    CloseMask: _MORPHOLOGY,
    RemoveSmallRegions: ({"min_area": 7}, {"min_area": 3, "connectivity": 4}),
    Hysteresis: ({"strong": "b"}, {"strong": "b", "connectivity": 4}),
}
"""Steps that read masks, and parameters with which each is tested."""

OPEN_SIZES = {"NHW": [None, None, None], "NCHW": [None, 1, None, None], "NHWC": [None, None, None, 1]}


def with_axes(images: np.ndarray, axes: str | None) -> np.ndarray:
    """Masks (N,H,W) as a step of these axes reads them."""
    return {"NHW": images, "NCHW": images[:, None], "NHWC": images[..., None]}[axes or "NCHW"]


def mask_inputs(step: Step, images: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Inputs of a step, with these images as the first mask; labels are (N,1) for masks of rank 4."""
    found = [with_axes(images, step.axes)]
    if isinstance(step, Hysteresis):
        found.append(with_axes(rng.random(images.shape) < 0.05, step.axes))
    if isinstance(step, MaskByLabel):
        labels = rng.random(len(images)) < 0.5
        found.append(labels[:, None] if step.axes == "NCHW" else labels)
    return found


def mask_shapes(step: Step) -> list[list[int | None]]:
    """Input shapes of a step, with open sizes."""
    second = {Hysteresis: OPEN_SIZES[step.axes], MaskByLabel: [None, 1] if step.axes == "NCHW" else [None]}
    return [OPEN_SIZES[step.axes], *([second[type(step)]] if type(step) in second else [])]


def serpentine(height: int, width: int) -> np.ndarray:
    """One winding region with the longest possible path between its first and last pixel."""
    mask = np.zeros((height, width), bool)
    mask[::2] = True
    for turn, row in enumerate(range(1, height, 2)):
        mask[row, 0 if turn % 2 else -1] = True
    return mask


def hilbert(order: int) -> np.ndarray:
    """A region one pixel wide along a Hilbert curve, with turns at all scales."""
    side, before = 2**order, None
    mask = np.zeros((2 * side - 1, 2 * side - 1), bool)
    for distance in range(side * side):
        x = y = 0
        left, scale = distance, 1
        while scale < side:
            right = 1 & (left // 2)
            up = 1 & (left ^ right)
            if not up:
                if right:
                    x, y = scale - 1 - x, scale - 1 - y
                x, y = y, x
            x, y, left, scale = x + scale * right, y + scale * up, left // 4, scale * 2
        mask[2 * y, 2 * x] = True
        if before is not None:
            mask[y + before[0], x + before[1]] = True
        before = (y, x)
    return mask


def masks(rng: np.random.Generator) -> list[np.ndarray]:
    """Batches of masks where regions are hard to find: windings, spirals of all scales, noise, nothing, everything."""
    curve, board = hilbert(4), np.indices((20, 31)).sum(0) % 2 == 0
    winding = serpentine(33, 40)
    found = [rng.random((3, 24, 37)) < share for share in (0, 0.2, 0.41, 0.5, 0.593, 0.7, 1)]
    found += [np.ones((1, 1, 1), bool), rng.random((2, 1, 7)) < 0.6, rng.random((3, 9, 1)) < 0.6]
    found += [np.stack([curve, curve.T, curve[::-1]]), np.stack([board, ~board]), np.stack([winding, winding[::-1]])]
    return [*found, winding.T[None]]
