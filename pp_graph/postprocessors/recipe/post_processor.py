"""`RecipePostProcessor`: any composition of steps, given as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pp_graph.errors import PostProcessorError, RecipeError
from pp_graph.postprocessors.compilation import check_steps, compile_steps
from pp_graph.postprocessors.post_processor import PostProcessor
from pp_graph.postprocessors.recipe.entries import Entry, parse_entry
from pp_graph.steps import Keep, Step

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.postprocessors.layout import RawLayout
    from pp_graph.statistics import Statistics
    from pp_graph.steps import Array
    from pp_graph.steps.form import Level


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
        return tuple(entry.build(self.statistics, layout) for entry in self._entries)

    def values_to_calibrate(self, values: Mapping[str, Array], layout: RawLayout) -> dict[Level, Array]:
        """What the steps read that refer to statistics; raw values of a level to which none refers.

        Raises:
            PostProcessorError: Steps that read different values refer to one level, or what they read follows from
                statistics itself.
        """
        names = self._calibrated()
        # What is computed here refers to no statistics.
        steps = [entry.try_out() if entry.levels() else entry.build(None, layout) for entry in self._entries]
        bound = compile_steps(steps, layout, wanted=tuple(names.values()))
        found = dict(values)
        referring = {entry.fields["target"] for entry in self._entries if entry.levels()}
        for step in bound.needed(names.values(), values):
            if step.target in referring:
                raise PostProcessorError(
                    f"Step '{step.target}' refers to statistics, and what is to be calibrated follows from it. "
                    "Calibrate what comes before it first, and write those numbers into the recipe."
                )
            found[step.target] = step.reference(*(found[name] for name in step.reads))
        return {**super().values_to_calibrate(values, layout), **{level: found[name] for level, name in names.items()}}

    def _calibrated(self) -> dict[Level, str]:
        """Names of the values that steps read that refer to statistics, by level."""
        kept = {entry.fields["target"]: entry.fields["source"] for entry in self._entries if entry.kind is Keep}
        found: dict[Level, str] = {}
        for entry in self._entries:
            source = entry.fields.get("source", "")
            while source in kept:
                source = kept[source]
            for level in entry.levels():
                if found.setdefault(level, source) != source:
                    raise PostProcessorError(
                        f"Steps refer to ${level} that read '{found[level]}' and '{source}', expected one value to "
                        "calibrate. Write the numbers of one of them into the recipe."
                    )
        return found

    @property
    def _entries(self) -> tuple[Entry, ...]:
        return tuple(map(parse_entry, self.recipe))

    def parameters(self) -> dict[str, Any]:
        """The steps as data."""
        return {"recipe": list(self.recipe), **({"pack": True} if self.pack else {})}
