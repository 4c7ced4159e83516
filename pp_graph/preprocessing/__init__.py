"""Preprocessing of camera frames: its description, and its reference in NumPy."""

from __future__ import annotations

from pp_graph.preprocessing.placement import LETTERBOX, Placement
from pp_graph.preprocessing.preprocessing import DTYPES, LAYOUTS, METHODS, Preprocessing, feed_by_hand
from pp_graph.preprocessing.resizing import RESIZES, resize
from pp_graph.preprocessing.yuv import YUV_ORDERS

__all__ = [
    "DTYPES",
    "LAYOUTS",
    "LETTERBOX",
    "METHODS",
    "RESIZES",
    "YUV_ORDERS",
    "Placement",
    "Preprocessing",
    "feed_by_hand",
    "resize",
]
