"""Small detectors, to fuse and run in tests, and candidates as trained ones return them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F32 = np.float32
SIZE = 64
CELLS = 8 * 8 + 4 * 4 + 2 * 2
"""Cells of strides 8, 16 and 32 in an image of 64x64 pixels."""


def detector(
    *shapes: tuple[int | str, ...],
    batch: int | str = "N",
    opset: int = 17,
    size: int = SIZE,
    names: Sequence[str] = (),
) -> onnx.ModelProto:
    """Image (N,3,H,W) -> outputs `out0`, `out1`, ... of these shapes without the batch; `in0`, ... are what they return.

    Other names of the outputs may be given.

    An image changes the outputs a little, so that they depend on it.
    """
    names = names or [f"out{place}" for place in range(len(shapes))]
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("ReduceMean", ["pooled"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "none"], ["nothing"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, size, size])]
    outputs = []
    for place, shape in enumerate(shapes):
        nodes.append(helper.make_node("Reshape", ["nothing", f"shape{place}"], [f"zero{place}"]))
        # Only the image has four axes, so that its size is known.
        given = [batch, *shape] if len(shape) < 3 else [batch, shape[0], int(np.prod(shape[1:]))]  # type: ignore[arg-type]
        nodes.append(helper.make_node("Reshape", [f"in{place}", f"whole{place}"], [f"values{place}"]))
        nodes.append(helper.make_node("Add", [f"values{place}", f"zero{place}"], [names[place]]))
        inputs.append(helper.make_tensor_value_info(f"in{place}", TensorProto.FLOAT, given))
        outputs.append(helper.make_tensor_value_info(names[place], TensorProto.FLOAT, [batch, *shape]))
    weights = [numpy_helper.from_array(np.zeros((), F32), "none")]
    weights += [
        numpy_helper.from_array(np.array([-1] + [1] * len(shape)), f"shape{p}") for p, shape in enumerate(shapes)
    ]
    for place, shape in enumerate(shapes):
        kept = [0, *(size if isinstance(size, int) else -1 for size in shape)]
        weights.append(numpy_helper.from_array(np.array(kept), f"whole{place}"))
    graph = helper.make_graph(nodes, "detector", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def scene(
    rng: np.random.Generator, images: int, count: int, classes: int, size: int = SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N,K,4), centre and size, around a few objects, and scores (N,K,C), most of them small; some tie."""
    objects = rng.uniform(0.2 * size, 0.8 * size, (images, 6, 2))
    which = rng.integers(0, 6, (images, count))
    centre = np.take_along_axis(objects, which[..., None], 1) + rng.normal(0, size / 40, (images, count, 2))
    extent = size * (0.15 + 0.02 * which[..., None]) + rng.normal(0, size / 60, (images, count, 2))
    scores = rng.uniform(0, 0.2, (images, count, classes))
    found = rng.random((images, count)) < 0.3
    kind = which % classes
    np.put_along_axis(
        scores, kind[..., None], np.where(found, rng.integers(4, 20, found.shape) / 20, 0.05)[..., None], 2
    )
    return np.concatenate([centre, extent], 2).astype(F32), scores.astype(F32)


def greedy(boxes: np.ndarray, scores: np.ndarray, confidence: float, iou: float, *, aware: bool = True) -> list[int]:
    """Indices of the boxes (K,4), corners, that plain greedy suppression keeps, one image at a time, in float64."""
    kinds, best = scores.argmax(1), scores.max(1)
    order = [int(place) for place in np.argsort(-best, kind="stable") if best[place] > F32(confidence)]
    kept: list[int] = []
    x = boxes.astype(np.float64)
    for place in order:
        clear = True
        for other in kept:
            low, high = np.maximum(x[place, :2], x[other, :2]), np.minimum(x[place, 2:], x[other, 2:])
            shared = np.prod(np.maximum(high - low, 0))
            areas = sum(np.prod(x[each, 2:] - x[each, :2]) for each in (place, other))
            same = not aware or kinds[place] == kinds[other]
            clear &= not (same and shared > iou * (areas - shared))
        if clear:
            kept.append(place)
    return kept
