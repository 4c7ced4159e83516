"""Post-processors composed in a YAML file that lists steps, without writing code."""

from __future__ import annotations

from pp_graph.postprocessors.recipe.post_processor import RecipePostProcessor

__all__ = ["RecipePostProcessor"]
