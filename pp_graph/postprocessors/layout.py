"""What a raw model gives to its post-processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.steps import Array, MapLayout

RAW_SCORE: Final = "raw_score"
RAW_MAP: Final = "raw_map"

DECISION_NAMES: Final = ("pred_label", "pred_mask")
"""Outputs that say normal or anomalous; the others are numbers."""


@dataclass(frozen=True)
class RawLayout:
    """What a raw model gives to its post-processor.

    Attributes:
        score: Whether there is a raw score.
        map: Whether there is a raw map.
        map_rank: Rank of the map, 3 or 4; None where there is none or it is not known.
        score_rank: Rank of the score, 1 or 2; None where there is none or it is not known.
        channels_last: Whether a map of rank 4 is (N,H,W,1).
        map_size: Height and width of the map; None where they are not known.
        input_size: Height and width of the images that the model takes; None where they are not known.
    """

    score: bool
    map: bool
    map_rank: int | None = None
    score_rank: int | None = None
    channels_last: bool = False
    map_size: tuple[int, int] | None = None
    input_size: tuple[int, int] | None = None

    @property
    def map_layout(self) -> MapLayout | None:
        """Axes of the map; None where they are not known."""
        if self.map_rank == 3:
            return "NHW"
        if self.map_rank == 4:
            return "NHWC" if self.channels_last else "NCHW"
        return None

    @property
    def pred_score_rank(self) -> int | None:
        """Rank of the post-processed score; one that is reduced from a map of rank 4 keeps an axis."""
        return self.score_rank if self.score else {3: 1, 4: 2}.get(self.map_rank or 0)


def channels_are_last(shape: tuple[object, ...] | None) -> bool:
    """Whether a map of this shape is (N,H,W,1)."""
    return shape is not None and len(shape) == 4 and shape[3] == 1 and shape[1] != 1


def map_size_of(shape: tuple[object, ...] | None) -> tuple[int, int] | None:
    """Height and width of a map; None where they are not known."""
    if shape is None or len(shape) not in (3, 4):
        return None
    height, width = shape[1:3] if len(shape) == 3 or channels_are_last(shape) else shape[2:4]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def layout_of(values: Mapping[str, Array]) -> RawLayout:
    """The layout of a batch of raw values, under `raw_score` and `raw_map`."""
    score, anomaly_map = values.get(RAW_SCORE), values.get(RAW_MAP)
    shape = None if anomaly_map is None else anomaly_map.shape
    return RawLayout(
        score=score is not None,
        map=anomaly_map is not None,
        map_rank=None if anomaly_map is None else anomaly_map.ndim,
        score_rank=None if score is None else score.ndim,
        channels_last=channels_are_last(shape),
        map_size=map_size_of(shape),
    )
