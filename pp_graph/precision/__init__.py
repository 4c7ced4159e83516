"""Choose the fastest precision for each part of a network that keeps its decisions."""

from __future__ import annotations

from pp_graph.precision.choice import PrecisionChoice
from pp_graph.precision.choosing import choose_precision

__all__ = ["PrecisionChoice", "choose_precision"]
