"""Metrics that find the statistics of a post-processor, with torchmetrics' interface.

They keep every score until `compute`, and give the numbers that `pp_graph.calibrate` and Anomalib give, to the bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pp_graph.calibration import Calibrator
from pp_graph.errors import DataError
from pp_graph.extras import require_extra

if TYPE_CHECKING:
    from pp_graph.calibration.level import Placement

_torchmetrics: Any = require_extra("torchmetrics", "lightning", "metrics of post-processors")
Metric: Any = _torchmetrics.Metric


class F1AdaptiveThreshold(Metric):  # type: ignore[misc]
    """The threshold with the highest F1 score, as Anomalib's metric of that name finds it.

    Args:
        placement: `observed` puts it at a score, as Anomalib does; `midpoint` halfway to the next lower one, so that
            `score > value` decides as it was counted.
        kwargs: See `torchmetrics.Metric`.

    Attributes:
        value: The threshold, float32, (); NaN until `compute`. It is part of the state dict.
    """

    full_state_update = False
    higher_is_better = None
    value: torch.Tensor

    def __init__(self, placement: Placement = "observed", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.placement = placement
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")
        self.register_buffer("value", torch.tensor(float("nan")))

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Add scores, float, of any shape, and labels or masks of that shape: 0 for normal, others anomalous.

        Raises:
            DataError: The two have different numbers of items.
        """
        if preds.numel() != target.numel():
            raise DataError(
                f"preds have shape {tuple(preds.shape)} and target {tuple(target.shape)}, expected one label for each "
                "score. Give both for the same images or pixels."
            )
        self.scores.append(preds.detach().float().flatten())
        self.labels.append((target.detach() != 0).flatten())

    def compute(self) -> torch.Tensor:
        """Return the threshold, and keep it as `value`.

        Raises:
            CalibrationError: There are no scores.
            DataError: A score is not finite.
        """
        scores, labels = (_joined(state) for state in (self.scores, self.labels))
        calibrator = Calibrator(image="f1", placement=self.placement)
        calibrator.update(scores=scores.numpy().astype(np.float32), labels=labels.numpy())
        found = calibrator.result(resamples=0).image
        assert found is not None
        self.value = torch.tensor(found.statistics.threshold, dtype=torch.float32, device=self.value.device)
        return self.value


class MinMax(Metric):  # type: ignore[misc]
    """The smallest and the largest score.

    Attributes:
        min: The smallest, float32, (); infinity until `update`. It is part of the state dict.
        max: The largest; minus infinity until `update`.
    """

    full_state_update = True
    higher_is_better = None
    min: torch.Tensor
    max: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("min", default=torch.tensor(float("inf")), dist_reduce_fx="min", persistent=True)
        self.add_state("max", default=torch.tensor(float("-inf")), dist_reduce_fx="max", persistent=True)

    def update(self, preds: torch.Tensor, *_: Any) -> None:
        """Add scores, float, of any shape.

        Raises:
            DataError: A score is not finite.
        """
        values = preds.detach().float()
        if values.numel() and not torch.isfinite(values).all():
            raise DataError("preds hold NaN or infinity, expected finite scores. Does the model compute NaN?")
        if values.numel():
            self.min = torch.minimum(self.min, values.min())
            self.max = torch.maximum(self.max, values.max())

    def compute(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the smallest and the largest score."""
        return self.min, self.max


def _joined(state: Any) -> torch.Tensor:
    """Join a list state, which torchmetrics may have joined before."""
    if isinstance(state, torch.Tensor):
        return state.cpu()
    return torch.cat(state).cpu() if state else torch.zeros(0)
