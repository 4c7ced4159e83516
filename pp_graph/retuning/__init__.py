"""Change the statistics or sensitivities of a fused or converted model; only constants are written."""

from __future__ import annotations

from pp_graph.retuning.files import RetunedFile, Retuning, prepare_retuning, retune

__all__ = ["RetunedFile", "Retuning", "prepare_retuning", "retune"]
