"""`RecipePostProcessor`: any composition of steps, given as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pp_graph.errors import RecipeError
from pp_graph.postprocessors.compilation import check_steps
from pp_graph.postprocessors.post_processor import PostProcessor
from pp_graph.postprocessors.recipe.entries import Entry, parse_entry

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.postprocessors.layout import RawLayout
    from pp_graph.statistics import Statistics
    from pp_graph.steps import Step


@dataclass(frozen=True)
class RecipePostProcessor(PostProcessor):
    """Post-processing composed of steps that are given as data, in a file or in Python.

    A field of a step may refer to a number that is known later: `$image.threshold`, `$image.min`, `$image.max` and
    the same of `$pixel`, which come from the statistics; `$input.height` and `$input.width`, the size of the images
    that the model takes.

    Attributes:
        statistics: The calibrated numbers; may be None where no step refers to them.
        recipe: The steps in order: mappings with the step's name under `step` and its fields, or steps themselves.
        pack: Return one tensor named `predictions`, float32, (N,H,W,4), instead of four.

    Raises:
        RecipeError: A step or a field is not known or does not fit; `index` and `field` say which.
        PostProcessorError: The steps do not fit each other.
    """

    statistics: Statistics | None = None
    recipe: tuple[Mapping[str, Any] | Step, ...] = ()
    pack: bool = False

    def __post_init__(self) -> None:
        """Read and try out each step, then all together."""
        if not isinstance(self.recipe, Iterable) or isinstance(self.recipe, str | Mapping):
            raise RecipeError(f"recipe is {self.recipe!r}, expected a list of steps.", field="steps")
        if not isinstance(self.pack, bool):
            raise RecipeError(f"pack is {self.pack!r}, expected true or false.", field="pack")
        entries = []
        for index, given in enumerate(self.recipe):
            try:
                entries.append(parse_entry(given))
                entries[-1].try_out()
            except RecipeError as error:
                raise RecipeError(error.problem, field=error.field, index=index) from error
        if not entries:
            raise RecipeError("The recipe lists no steps, expected at least one.", field="steps")
        object.__setattr__(self, "recipe", tuple(entry.to_json() for entry in entries))
        object.__setattr__(self, "_entries", tuple(entries))
        classes = any(accepts.classes_only for entry in entries for accepts in entry.kind.accepts)
        object.__setattr__(self, "takes_classes", classes)
        # Numbers that are referred to may come later.
        check_steps(lambda _: [entry.try_out() for entry in entries], classes=classes)

    @classmethod
    def load(cls, path: str | Path, statistics: Statistics | None = None) -> PostProcessor:
        """Read a recipe from a YAML file; see `read_recipe`."""
        from pp_graph.postprocessors.recipe.file import read_recipe

        return read_recipe(path, statistics)

    def steps(self, layout: RawLayout) -> tuple[Step, ...]:
        """The steps, with what their fields refer to."""
        entries: tuple[Entry, ...] = self._entries  # type: ignore[attr-defined]
        return tuple(entry.build(self.statistics, layout) for entry in entries)

    def parameters(self) -> dict[str, Any]:
        """The steps as data."""
        return {"recipe": list(self.recipe), **({"pack": True} if self.pack else {})}
