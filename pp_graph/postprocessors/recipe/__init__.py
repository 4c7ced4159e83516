"""Post-processing composed in a file: `recipe.yaml` lists steps, and no code is written."""

from __future__ import annotations

from pp_graph.postprocessors.recipe.post_processor import RecipePostProcessor

__all__ = ["RecipePostProcessor"]
