"""`load` and `Runner`: run a model as deployed, images in and predictions out."""

from __future__ import annotations

from pp_graph.running.frames import run_frames
from pp_graph.running.runner import Runner, load
from pp_graph.running.sources import RunnerInput, Source, open_source

__all__ = ["Runner", "RunnerInput", "Source", "load", "open_source", "run_frames"]
