"""What a post-processor returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pp_graph.steps import Array


@dataclass(frozen=True)
class Predictions:
    """Post-processed outputs of a batch; None for what the model or the settings do not give.

    Attributes:
        pred_score: Score an image, float32, (N,) or (N,1); in [0, 1] when normalised.
        pred_label: Whether each image is anomalous, bool, shape of `pred_score`.
        anomaly_map: Score a pixel, float32, (N,H,W), (N,1,H,W) or (N,H,W,1); in [0, 1] when normalised.
        pred_mask: Whether each pixel is anomalous, bool, shape of `anomaly_map`.
    """

    pred_score: Array | None = None
    pred_label: Array | None = None
    anomaly_map: Array | None = None
    pred_mask: Array | None = None
