"""`RecipePostProcessor`: a composition of steps given as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pp_graph.errors import PostProcessorError, RecipeError
from pp_graph.postprocessors.anomaly import CLASS_ROLES, OUTPUTS, ROLES
from pp_graph.postprocessors.post_processor import PostProcessor
from pp_graph.postprocessors.recipe.declarations import outputs_to_json, read_outputs, read_roles, roles_to_json
from pp_graph.postprocessors.recipe.entries import Entry, parse_entry
from pp_graph.program.compilation import CompiledSteps, check_steps, compile_steps
from pp_graph.steps import Keep, Step

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.program import Output, Role, Signature
    from pp_graph.statistics import Level, Statistics


@dataclass(frozen=True)
class RecipePostProcessor(PostProcessor):
    """Post-processing composed of steps that are given as data, in a file or in Python.

    A field of a step may hold a reference instead of a number: `$image.threshold`, `$image.min`, `$image.max` and
    the same for `$pixel` refer to the statistics, `$input.height` and `$input.width` to the model's input size.

    Attributes:
        statistics: The calibrated numbers; may be None if no step refers to them.
        recipe: The steps in order: mappings with the step's name under `step` and its fields, or `Step`s.
        pack: Return one tensor named `predictions`, float32, (N,H,W,4), instead of four.
        roles: Roles that the steps read: `Role`s, or mappings with `name`, `axes` and optionally its other fields. By
            default the score and map of an anomaly model, as far as the steps read them.
        declared_outputs: Outputs: `Output`s, names, or mappings with its fields. By default the four outputs of an
            anomaly model.

    Raises:
        RecipeError: A step or a field is unknown or does not fit; `index` and `field` say which.
        PostProcessorError: The steps do not fit each other.
    """

    statistics: Statistics | None = None
    recipe: tuple[Mapping[str, Any] | Step, ...] = ()
    pack: bool = False
    roles: tuple[Role, ...] = ()
    declared_outputs: tuple[Output, ...] = ()

    def __post_init__(self) -> None:
        """Check each step, then all together."""
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
        own_roles, own_outputs = read_roles(self.roles), read_outputs(self.declared_outputs)
        classes = _reads_classes(entries)
        roles = own_roles or tuple(
            with_classes if with_classes.name in classes else one
            for one, with_classes in zip(ROLES, CLASS_ROLES, strict=True)
        )
        outputs = own_outputs or OUTPUTS
        # References may not be resolvable yet.
        check_steps(lambda _: [entry.try_out() for entry in entries], roles, outputs)
        written = {entry.fields["target"] for entry in entries}
        idle = next((output.name for output in own_outputs if output.name not in written), None)
        if idle is not None:
            raise RecipeError(
                f"outputs lists '{idle}', which no step writes, expected some of: {', '.join(sorted(written))}. Let a "
                "step write it, or leave it out.",
                field="outputs",
            )
        read = {name for entry in entries for name in entry.try_out().reads}
        object.__setattr__(self, "_own_roles", own_roles)
        object.__setattr__(self, "_own_outputs", own_outputs)
        # Outputs that no step reads have no role.
        object.__setattr__(self, "roles", tuple(role for role in roles if role.name in read))
        object.__setattr__(self, "declared_outputs", outputs)

    @classmethod
    def load(cls, path: str | Path, statistics: Statistics | None = None) -> PostProcessor:
        """Read a recipe from a YAML file; see `read_recipe`."""
        from pp_graph.postprocessors.recipe.file import read_recipe

        return read_recipe(path, statistics)

    def steps(self, raw: Signature) -> tuple[Step, ...]:
        """Build the steps, with references resolved."""
        return tuple(entry.build(self.statistics, raw) for entry in self._entries)

    def calibrated_names(self, raw: Signature) -> dict[Level, str]:
        """Return the inputs of the steps that refer to statistics; raw values for other levels.

        Raises:
            PostProcessorError: Steps with different inputs refer to the same level.
        """
        return {**super().calibrated_names(raw), **self._calibrated()}

    def bind_calibration(self, raw: Signature) -> CompiledSteps:
        """Compile the steps before those that refer to statistics.

        Raises:
            PostProcessorError: A value to calibrate depends on statistics itself.
        """
        names = tuple(self._calibrated().values())
        # None of the steps that are kept refers to statistics, so any numbers will do.
        steps = [entry.try_out() if entry.levels() else entry.build(None, raw) for entry in self._entries]
        compiled = compile_steps(steps, raw, wanted=names)
        referring = {entry.fields["target"] for entry in self._entries if entry.levels()}
        for step in compiled.steps:
            if step.target in referring:
                raise PostProcessorError(
                    f"Step '{step.target}' refers to statistics, and what is to be calibrated follows from it. "
                    "Calibrate what comes before it first, and write those numbers into the recipe."
                )
        return compiled

    def _calibrated(self) -> dict[Level, str]:
        """Inputs of the steps that refer to statistics, by level."""
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
        """Return the steps, roles and outputs as JSON values."""
        own: Any = self.__dict__
        return {
            "recipe": list(self.recipe),
            **({"pack": True} if self.pack else {}),
            **({"roles": roles_to_json(own["_own_roles"])} if own["_own_roles"] else {}),
            **({"declared_outputs": outputs_to_json(own["_own_outputs"])} if own["_own_outputs"] else {}),
        }


def _reads_classes(entries: Iterable[Entry]) -> set[str]:
    """Names of the values that need an axis of classes, because a step that depends on them does."""
    entries = list(entries)
    writes = {entry.fields["target"]: entry for entry in entries}
    found: set[str] = set()
    pending = [entry.fields["source"] for entry in entries if any("C" in accepts.needs for accepts in _accepts(entry))]
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        if name in writes:
            pending.append(writes[name].fields["source"])
    return found


def _accepts(entry: Entry) -> Iterable[Any]:
    accepts: Any = entry.kind.accepts
    return accepts if isinstance(accepts, tuple) else ()
