"""Run a fused or converted model as it is deployed: images in, predictions out."""

from __future__ import annotations

from pp_graph.running.runner import Runner, load
from pp_graph.running.sources import RunnerInput, Source, open_source

__all__ = ["Runner", "RunnerInput", "Source", "load", "open_source"]
