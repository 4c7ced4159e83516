"""`explore`: a page on which thresholds and sensitivities move, and images, masks and metrics follow."""

from __future__ import annotations

from pp_graph.exploring.exploration import Exploration, explore

__all__ = ["Exploration", "explore"]
