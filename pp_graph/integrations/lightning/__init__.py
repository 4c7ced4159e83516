"""Post-processing in training: `PostProcessorCallback`, for `lightning` and `pytorch_lightning` alike."""

from __future__ import annotations

from pp_graph.integrations.lightning.callback import PostProcessorCallback

__all__ = ["PostProcessorCallback"]
