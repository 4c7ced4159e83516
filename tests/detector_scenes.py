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


def _cells(size: int, strides: tuple[int, ...], per_cell: tuple[int, ...]) -> np.ndarray:
    """Column, row and stride of each candidate."""
    found = []
    for stride, each in zip(strides, per_cell, strict=True):
        columns, rows = np.meshgrid(np.arange(size // stride), np.arange(size // stride))
        cells = np.stack([columns, rows, np.full_like(rows, stride)], -1).reshape(-1, 3)
        found.append(np.repeat(cells, each, 0))
    return np.concatenate(found)


def points_of(boxes: np.ndarray) -> np.ndarray:
    """Five key points of each box, (N,K,5,2): its centre and four others."""
    away = np.array([[0, 0], [-0.25, 0.1], [0.2, -0.3], [0.5, 0.5], [-0.4, 0.4]], F32)
    return boxes[:, :, None, :2] + away * boxes[:, :, None, 2:]


def yolo_nas(boxes: np.ndarray, scores: np.ndarray, size: int) -> Case:
    del size
    return (scores, corners(boxes)), corners(boxes), scores


def ultraface(boxes: np.ndarray, scores: np.ndarray, size: int) -> Case:
    # A softmax rounds: no two candidates tie.
    faces = F32(0.9) * scores.max(2, keepdims=True) + np.arange(scores.shape[1], dtype=F32)[:, None] / 8192
    return (np.log(np.concatenate([1 - faces, faces], 2)), corners(boxes) / F32(size)), corners(boxes), faces


def ultraface_raw(boxes: np.ndarray, scores: np.ndarray, size: int) -> Case:
    (logs, _), found, faces = ultraface(boxes, scores, size)
    cells = _cells(size, (8, 16, 32, 64), (3, 2, 2, 3))
    centres = (cells[:, :2] + 0.5) * cells[:, 2:]
    kinds = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
    sides = np.concatenate([kind * (size // 8 // 2**level) ** 2 for level, kind in enumerate(kinds)])[:, None]
    deltas = np.concatenate([(boxes[..., :2] - centres) / sides / 0.1, np.log(boxes[..., 2:] / sides) / 0.2], 2)
    return (logs, deltas.astype(F32)), found, faces


def retinaface(boxes: np.ndarray, scores: np.ndarray, size: int) -> Case:
    (logs, _), found, faces = ultraface(boxes, scores, size)
    cells = _cells(size, (8, 16, 32), (2, 2, 2))
    centres = (cells[:, :2] + 0.5) * cells[:, 2:]
    # Two priors a cell, of 16 and 32 pixels in the first level, four times as large in the next ones.
    sides = cells[:, 2:] ** 2 / 4 * np.where(np.arange(len(cells)) % 2 == 0, 1, 2)[:, None]
    deltas = np.concatenate([(boxes[..., :2] - centres) / sides / 0.1, np.log(boxes[..., 2:] / sides) / 0.2], 2)
    points = (points_of(boxes) - centres[:, None]) / sides[:, None] / 0.1
    return (deltas.astype(F32), logs, points.reshape(*boxes.shape[:2], 10).astype(F32)), found, faces


def _levels(*joined: np.ndarray, counts: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Arrays (N,K,P) by kind, then by level."""
    places = np.cumsum(counts)[:-1]
    return tuple(level.astype(F32) for each in joined for level in np.split(each, places, 1))


def scrfd(boxes: np.ndarray, scores: np.ndarray, size: int) -> Case:
    cells = _cells(size, (8, 16, 32), (2, 2, 2))
    centres, stride = cells[:, :2] * cells[:, 2:], cells[:, 2:]
    found = corners(boxes)
    distances = np.concatenate([centres - found[..., :2], found[..., 2:] - centres], 2) / stride
    points = ((points_of(boxes) - centres[:, None]) / stride[:, None]).reshape(*boxes.shape[:2], 10)
    faces = scores.max(2, keepdims=True)
    counts = tuple(2 * (size // each) ** 2 for each in (8, 16, 32))
    return _levels(faces, distances, points, counts=counts), found, faces


def yunet(boxes: np.ndarray, scores: np.ndarray, size: int) -> Case:
    cells = _cells(size, (8, 16, 32), (1, 1, 1))
    column_row, stride = cells[:, :2], cells[:, 2:]
    offsets = np.concatenate([boxes[..., :2] / stride - column_row, np.log(boxes[..., 2:] / stride)], 2)
    points = (points_of(boxes) / stride[:, None] - column_row[:, None]).reshape(*boxes.shape[:2], 10)
    classes, objects = (
        scores.max(2, keepdims=True),
        np.where(np.arange(scores.shape[1]) % 3 == 0, F32(0.25), F32(1))[:, None],
    )
    objects = np.broadcast_to(objects, classes.shape)
    counts = tuple((size // each) ** 2 for each in (8, 16, 32))
    return _levels(classes, objects, offsets, points, counts=counts), corners(boxes), np.sqrt(classes * objects)


def nanodet_plus(boxes: np.ndarray, scores: np.ndarray, size: int) -> Case:
    cells = _cells(size, (8, 16, 32, 64), (1, 1, 1, 1))
    centres, stride = cells[:, :2] * cells[:, 2:], cells[:, 2:]
    found = corners(boxes)
    distances = np.concatenate([centres - found[..., :2], found[..., 2:] - centres], 2) / stride
    distances = np.clip(distances, 0.01, 6.99)
    reach = distances * stride
    found = np.concatenate([centres - reach[..., :2], centres + reach[..., 2:]], 2).astype(F32)
    # All of it at the two nearest distances.
    weights = np.maximum(1 - np.abs(distances[..., None] - np.arange(8)), 1e-9)
    rows = np.concatenate([scores, np.log(weights).reshape(*scores.shape[:2], 32)], 2)
    return (rows.astype(F32),), found, scores


SCENES = {
    "rfdetr": rfdetr,
    "yolo-nas": yolo_nas,
    "nanodet-plus": nanodet_plus,
    "ultraface": ultraface,
    "ultraface-raw": ultraface_raw,
    "retinaface": retinaface,
    "scrfd": scrfd,
    "yunet": yunet,
}
"""Functions of centre and size (N,K,4), scores (N,K,C) and the size of the images, by head."""
COUNTS = {
    "rfdetr": 40,
    "yolo-nas": 84,
    "nanodet-plus": 85,
    "ultraface": 3 * 64 + 2 * 16 + 2 * 4 + 3,
    "ultraface-raw": 3 * 64 + 2 * 16 + 2 * 4 + 3,
    "retinaface": 168,
    "scrfd": 168,
    "yunet": 84,
}
"""Number of candidates for images of 64x64 pixels."""
NAMES = {"rfdetr": ("dets", "labels")}
"""Names of the outputs, where they tell the head."""
