"""`RecipePostProcessor`: steps given as data, read from a YAML file or passed in Python."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import PostProcessorError, RecipeError
from pp_graph.postprocessors.anomaly import CLASS_ROLES, OUTPUTS, ROLES
from pp_graph.postprocessors.lookup import find_post_processor, find_steps, post_processor_names
from pp_graph.postprocessors.post_processor import PostProcessor
from pp_graph.postprocessors.recipe.declarations import outputs_to_json, read_outputs, read_roles, roles_to_json
from pp_graph.postprocessors.recipe.entries import Entry, did_you_mean, parse_entry
from pp_graph.program.compilation import CompiledSteps, check_steps, compile_steps
from pp_graph.steps import Keep, Step
from pp_graph.yaml_document import Document

if TYPE_CHECKING:
    from pp_graph.program import Output, Role, Signature
    from pp_graph.statistics import Level, Statistics

SCHEMA_VERSION: Final = 1
_KEYS: Final = ("schema_version", "roles", "steps", "outputs", "pack", "post_processor", "parameters")


@dataclass(frozen=True)
class RecipePostProcessor(PostProcessor):
    """Post-processing composed of steps that are given as data, in a file or in Python.

    A field of a step may hold a reference instead of a number: `$image.threshold`, `$image.min`, `$image.max` and
    the same for `$pixel` refer to the statistics, `$input.height` and `$input.width` to the model's input size.

    Attributes:
        statistics: The calibrated numbers; may be None if no step refers to them.
        recipe: The steps in order: mappings with the step's name under `step` and its fields, or `Step`s.
        pack: Return one tensor named `predictions`, float32, (N,H,W,4), instead of four.
        roles: Roles that the steps read: `Role`s, or mappings with `name`, `axes` and optionally the other fields of
            `Role`. By default the score and map of an anomaly model, if the steps read them.
        declared_outputs: `Output`s, names, or mappings with the fields of `Output`. By default the four outputs of an
            anomaly model.

    Raises:
        RecipeError: A step or a field is unknown or does not fit; `index` and `field` locate it.
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
        entries: list[Entry] = []
        known = find_steps()
        for index, given in enumerate(self.recipe):
            try:
                entries.append(parse_entry(given, known))
                entries[-1].try_out()
            except RecipeError as error:
                raise RecipeError(error.problem, field=error.field, index=index) from error
        if not entries:
            raise RecipeError("The recipe lists no steps, expected at least one.", field="steps")
        object.__setattr__(self, "recipe", tuple(entry.to_json() for entry in entries))
        own_roles, own_outputs = read_roles(self.roles), read_outputs(self.declared_outputs)
        classes = _values_with_classes(entries)
        roles = own_roles or tuple(
            with_classes if with_classes.name in classes else one
            for one, with_classes in zip(ROLES, CLASS_ROLES, strict=True)
        )
        outputs = own_outputs or OUTPUTS
        # Statistics and input size may be unknown, so references get plausible numbers.
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
        object.__setattr__(self, "_parsed", tuple(entries))  # not read again at each use, which took most of the time
        object.__setattr__(self, "_own_outputs", own_outputs)
        # Outputs that no step reads have no role.
        object.__setattr__(self, "roles", tuple(role for role in roles if role.name in read))
        object.__setattr__(self, "declared_outputs", outputs)

    @classmethod
    def load(cls, path: str | Path, statistics: Statistics | None = None) -> PostProcessor:
        """Read a recipe from a YAML file.

        A recipe lists steps under `steps`, or names a class under `post_processor` with its `parameters`. Import custom
        classes first (`pp-graph --plugin FILE`).

        Args:
            path: The YAML file.
            statistics: The calibrated numbers that the recipe refers to.

        Raises:
            RecipeError: The file cannot be read or is invalid; the message names file, line and field.
            StatisticsError: The statistics lack a number that a class needs.
        """
        document = Document(Path(path))
        root = document.root
        for key in root:
            if key not in _KEYS:
                hint = did_you_mean(key, _KEYS)
                raise document.error((key,), f"is not known, expected some of: {', '.join(_KEYS)}.{hint}")
        if root.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise document.error(
                ("schema_version",),
                f"is {root['schema_version']!r}, expected {SCHEMA_VERSION}. Upgrade pp_graph, or write the recipe "
                "for this version.",
            )
        if ("steps" in root) == ("post_processor" in root):
            raise document.error((), "expected either 'steps' or 'post_processor'. Give one of them.")
        if "steps" not in root:
            return _load_class(document, statistics)
        if "parameters" in root:
            raise document.error(("parameters",), "belongs to 'post_processor', but 'steps' is given. Leave it out.")
        if not isinstance(root["steps"], list):
            raise document.error(("steps",), f"is {root['steps']!r}, expected a list with '- step: ...' for each step.")
        _check_declarations(document)
        try:
            return RecipePostProcessor(
                statistics,
                tuple(root["steps"]),
                root.get("pack", False),
                root.get("roles") or (),
                root.get("outputs") or (),
            )
        except RecipeError as error:
            place: tuple[str | int, ...] = () if error.index is None else ("steps", error.index)
            if error.field is not None and (*place, error.field) in document.lines:
                place = (*place, error.field)
            raise document.error(place, error.problem) from error
        except PostProcessorError as error:
            named = re.match(r"Step '([^']*)'", str(error))
            targets = [entry.get("target") for entry in root["steps"]]
            about = (targets.index(named.group(1)),) if named is not None and named.group(1) in targets else ()
            raise document.error(("steps", *about), str(error)) from error

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
        # Steps that refer to statistics are not kept, so their numbers do not matter.
        steps = [entry.try_out() if entry.levels() else entry.build(None, raw) for entry in self._entries]
        compiled = compile_steps(steps, raw, wanted=names)
        referring = {entry.fields["target"] for entry in self._entries if entry.levels()}
        for step in compiled.steps:
            if step.target in referring:
                raise PostProcessorError(
                    f"Step '{step.target}' refers to statistics, and a value to calibrate depends on it. Calibrate its "
                    "input first, and write those numbers into the recipe."
                )
        return compiled

    def _calibrated(self) -> dict[Level, str]:
        """Inputs of the steps that refer to statistics, by level."""
        kept = {entry.fields["target"]: entry.fields["source"] for entry in self._entries if entry.kind is Keep}
        sources: dict[Level, str] = {}
        for entry in self._entries:
            source = entry.fields.get("source", "")
            while source in kept:
                source = kept[source]
            for level in entry.levels():
                if sources.setdefault(level, source) != source:
                    raise PostProcessorError(
                        f"Steps that read '{sources[level]}' and '{source}' refer to ${level}, expected one value to "
                        "calibrate. Write the numbers of one of them into the recipe."
                    )
        return sources

    @property
    def _entries(self) -> tuple[Entry, ...]:
        own: Any = self.__dict__
        entries: tuple[Entry, ...] = own["_parsed"]
        return entries

    def parameters(self) -> dict[str, Any]:
        """Return the steps, roles and outputs as JSON values."""
        own: Any = self.__dict__
        return {
            "recipe": list(self.recipe),
            **({"pack": True} if self.pack else {}),
            **({"roles": roles_to_json(own["_own_roles"])} if own["_own_roles"] else {}),
            **({"declared_outputs": outputs_to_json(own["_own_outputs"])} if own["_own_outputs"] else {}),
        }


def _values_with_classes(entries: list[Entry]) -> set[str]:
    """Names of the values that need an axis of classes, because a step that depends on them needs one."""
    writes = {entry.fields["target"]: entry for entry in entries}
    # In a GraphStep, `accepts` is a property.
    needing = [entry for entry in entries if isinstance(entry.kind.accepts, tuple)]
    pending = [
        entry.fields["source"] for entry in needing if any("C" in accepts.needs for accepts in entry.kind.accepts)
    ]
    values: set[str] = set()
    while pending:
        name = pending.pop()
        if name in values:
            continue
        values.add(name)
        if name in writes:
            pending.append(writes[name].fields["source"])
    return values


def _check_declarations(document: Document) -> None:
    """Read roles and outputs one by one, so that errors name the line of the entry."""
    for key, read in (("roles", read_roles), ("outputs", read_outputs)):
        entries = document.root.get(key)
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            try:
                read([entry])
            except RecipeError as error:
                place: tuple[str | int, ...] = (key, index, error.field or "")
                raise document.error(place if place in document.lines else place[:2], error.problem) from error


def _load_class(document: Document, statistics: Statistics | None) -> PostProcessor:
    root = document.root
    name, parameters = root["post_processor"], root.get("parameters") or {}
    kind = find_post_processor(name) if isinstance(name, str) else None
    if kind is None:
        raise document.error(
            ("post_processor",),
            f"is {name!r}, expected one of: {', '.join(post_processor_names())}. Import the module of a custom class "
            "first: pp-graph --plugin FILE.py.",
        )
    for key in ("pack", "roles", "outputs"):
        if key in root:
            raise document.error(
                (key,), "belongs to 'steps'. Move it to 'parameters' if the class has such a parameter."
            )
    if not isinstance(parameters, dict):
        raise document.error(("parameters",), f"is {parameters!r}, expected a mapping of names to values.")
    try:
        return kind.from_parameters(statistics, parameters)
    except (TypeError, PostProcessorError) as error:
        field = next((parameter for parameter in parameters if str(parameter) in str(error)), None)
        place = ("parameters",) if field is None else ("parameters", field)
        raise document.error(place if place in document.lines else (), str(error)) from error
