"""What models with heads that are told by their numbers of candidates or by names return for a scene."""

from __future__ import annotations

import numpy as np

F32 = np.float32
Case = tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]
"""Outputs of the model; corners (N,K,4) and scores (N,K,C) of the scene."""


def corners(boxes: np.ndarray) -> np.ndarray:
    half = boxes[..., 2:] * F32(0.5)
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def logits(scores: np.ndarray) -> np.ndarray:
    return np.log(scores / (1 - scores.astype(np.float64))).astype(F32)


def rfdetr(boxes: np.ndarray, scores: np.ndarray, size: int) -> Case:
    return ((boxes / size).astype(F32), logits(scores)), corners(boxes), scores


SCENES = {"rfdetr": rfdetr}
"""Functions of centre and size (N,K,4), scores (N,K,C) and the size of the images, by head."""
NAMES = {"rfdetr": ("dets", "labels")}
"""Names of the outputs, where they tell the head."""
