"""What a raw model gives to its post-processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pp_graph.model.shapes import channels_are_last, classes_of, map_size_of
from pp_graph.steps import Form

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.steps import Array, MapAxes

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
        score_classes: Numbers an image of the score, (N,C); 1 for a score of its own, None where they are not known.
        map_classes: Numbers a pixel of the map, (N,C,H,W).
    """

    score: bool
    map: bool
    map_rank: int | None = None
    score_rank: int | None = None
    channels_last: bool = False
    map_size: tuple[int, int] | None = None
    input_size: tuple[int, int] | None = None
    score_classes: int | None = 1
    map_classes: int | None = 1

    @property
    def map_layout(self) -> MapAxes | None:
        """Axes of the map; None where they are not known."""
        if self.map_rank == 3:
            return "NHW"
        if self.map_rank == 4:
            return "NHWC" if self.channels_last else "NCHW"
        return None

    @property
    def forms(self) -> dict[str, Form]:
        """What is known of the raw values, by name."""
        forms = {}
        if self.score:
            axes: dict[int | None, Literal["N", "NC"]] = {1: "N", 2: "NC"}
            forms[RAW_SCORE] = Form("image", axes=axes.get(self.score_rank), classes=self.score_classes)
        if self.map:
            forms[RAW_MAP] = Form("pixel", axes=self.map_layout, classes=self.map_classes, size=self.map_size)
        return forms

    @property
    def pred_score_rank(self) -> int | None:
        """Rank of the post-processed score; one that is reduced from a map of rank 4 keeps an axis."""
        return self.score_rank if self.score else {3: 1, 4: 2}.get(self.map_rank or 0)


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
        score_classes=1 if score is None else classes_of(score.shape),
        map_classes=1 if shape is None else classes_of(shape),
    )
