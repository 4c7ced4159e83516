"""Entries of a recipe: a step's name and fields, which may refer to statistics or input sizes."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pp_graph.errors import PostProcessorError, RecipeError, StatisticsError
from pp_graph.postprocessors.lookup import step_name
from pp_graph.steps import Step

if TYPE_CHECKING:
    from pp_graph.program import Signature
    from pp_graph.statistics import Level, Statistics

LEVELS: Final[tuple[Level, ...]] = ("image", "pixel")
REFERENCES: Final = (
    *(f"${level}.{number}" for level in LEVELS for number in ("threshold", "min", "max")),
    "$input.height",
    "$input.width",
)
"""References that a field may hold instead of a number."""

_PLAUSIBLE: Final = ((0.5, 0.0, 1.0), (5.0, 4.0, 6.0), (50.0, 10.0, 100.0), (-5.0, -10.0, -1.0), (5e3, 1e3, 1e4))
"""Plausible threshold, min and max with which to check a step."""
_NAMED_FIELD: Final = re.compile(r"(\w+)\b")


class Entry(msgspec.Struct, frozen=True):
    """A step of a recipe.

    Attributes:
        kind: Class of the step.
        fields: Fields of the step as JSON values; lists are tuples.
    """

    kind: type[Step]
    fields: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the entry as a mapping, as in a file."""
        return {"step": step_name(self.kind), **self.fields}

    def references(self) -> dict[str, str]:
        """Return the fields that hold a reference, with the reference."""
        return {name: value for name, value in self.fields.items() if isinstance(value, str) and value.startswith("$")}

    def levels(self) -> set[Level]:
        """Return the levels whose statistics the entry refers to."""
        places = {to[1:].partition(".")[0] for to in self.references().values()}
        return {level for level in LEVELS if level in places}

    def build(self, statistics: Statistics | None, raw: Signature) -> Step:
        """Build the step, with references resolved.

        Raises:
            StatisticsError: A number that a field refers to is unknown.
            PostProcessorError: A field does not fit.
        """
        resolved = {name: self._resolve(name, to, statistics, raw) for name, to in self.references().items()}
        return self._construct(resolved)

    def try_out(self) -> Step:
        """Build the step with plausible numbers instead of references.

        Raises:
            RecipeError: A field does not fit; `field` is its name.
        """
        refusals = []
        for threshold, low, high in _PLAUSIBLE if self.references() else _PLAUSIBLE[:1]:
            numbers = {"threshold": threshold, "min": low, "max": high, "height": 256, "width": 256}
            try:
                step = self._construct({name: numbers[to.rpartition(".")[2]] for name, to in self.references().items()})
            except PostProcessorError as error:
                refusals.append(error)
                continue
            if not all(isinstance(name, str) for name in step.reads):
                raise RecipeError(f"step '{step_name(self.kind)}' reads {step.reads}, expected names.")
            return step
        named = _NAMED_FIELD.match(str(refusals[0]))
        field = named.group(1) if named is not None and named.group(1) in self.fields else None
        raise RecipeError(str(refusals[0]), field=field) from refusals[0]

    def _construct(self, resolved: Mapping[str, Any]) -> Step:
        try:
            return self.kind(**{**self.fields, **resolved})
        except (TypeError, ValueError) as error:
            if isinstance(error, PostProcessorError):
                raise
            raise PostProcessorError(f"Fields of step '{step_name(self.kind)}' do not fit: {error}.") from error

    def _resolve(self, field: str, to: str, statistics: Statistics | None, raw: Signature) -> float:
        place, _, name = to[1:].partition(".")
        where = f"field '{field}' of step '{self.fields['target']}' refers to"
        if place == "input":
            if raw.input_size is None:
                raise PostProcessorError(
                    f"The height and width of the model's input are not known, and {where} {to}. Write numbers "
                    "instead, or export the model with a fixed input size."
                )
            return raw.input_size[0 if name == "height" else 1]
        if statistics is None:
            raise StatisticsError(
                f"The recipe has no statistics, and {where} {to}. Pass --stats FILE, or "
                "statistics=Statistics.load(...)."
            )
        number: float | None = getattr(getattr(statistics, place), name)
        if number is None:
            raise StatisticsError(
                f"Statistics lack '{to[1:]}', and {where} it. Calibrate on validation data, or write a number instead."
            )
        return number


def parse_entry(given: object, known: Mapping[str, type[Step]]) -> Entry:
    """Read an entry: a mapping as in a file, or a step.

    Args:
        given: The entry.
        known: Steps by name, from `find_steps`.

    Raises:
        RecipeError: The entry is invalid; `field` is the name of the wrong field, if there is one.
    """
    if isinstance(given, Step):
        kind = type(given)
        if known.get(step_name(kind)) is not kind:
            raise RecipeError(
                f"Step '{given.target}' is a {kind.__module__}.{kind.__qualname__}, and the name '{step_name(kind)}' "
                "means another step, expected a name of its own. Rename the class."
            )
        given = _described(given)
    if not isinstance(given, Mapping):
        raise RecipeError(
            f"A step is {given!r}, expected a mapping such as {{step: sigmoid, source: raw_score, target: pred_score}}."
        )
    name = given.get("step")
    if not isinstance(name, str) or name not in known:
        found = "is missing" if name is None else f"is {name!r}"
        raise RecipeError(
            f"step {found}, expected one of: {', '.join(sorted(known))}.{did_you_mean(name, known)}", field="step"
        )
    kind = known[name]
    hints = _hints(kind)
    allowed = [field for field in _fields(kind) if field.name not in kind.settled]
    names = [field.name for field in allowed]
    for field, value in given.items():
        if field == "step":
            continue
        if field not in names:
            raise RecipeError(
                f"step '{name}' has no such field, expected some of: {', '.join(names)}.{did_you_mean(field, names)}",
                field=field,
            )
        _check_value(field, value, hints)
    for field in ("source", "target"):
        name_given = given.get(field, field)
        if not isinstance(name_given, str) or not name_given or name_given.startswith("$"):
            raise RecipeError(f"{name_given!r} is not the name of a value, expected one such as raw_map.", field=field)
    for declared in allowed:
        optional = declared.default is not dataclasses.MISSING or declared.default_factory is not dataclasses.MISSING
        if declared.name not in given and not optional:
            raise RecipeError(f"step '{name}' lacks the field '{declared.name}'. Add it.", field="step")
    return Entry(kind, {str(field): _plain(value) for field, value in given.items() if field != "step"})


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return a sentence that suggests the closest known name; empty if none is close."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def _fields(kind: type[Step]) -> tuple[dataclasses.Field[Any], ...]:
    return tuple(field for field in dataclasses.fields(kind) if field.init)  # type: ignore[arg-type]


def _described(step: Step) -> dict[str, Any]:
    described: dict[str, Any] = {"step": step_name(type(step))}
    for field in _fields(type(step)):
        value = getattr(step, field.name)
        if field.name not in step.settled and (value != field.default or field.default is dataclasses.MISSING):
            described[field.name] = value
        elif field.name == "normalizer" and value is not None:
            raise RecipeError(
                f"Step '{step.target}' has a normalizer, expected none in a recipe. Let an earlier step normalise, and "
                "compare its output."
            )
    return described


def _check_value(field: str, value: object, hints: Mapping[str, Any]) -> None:
    if isinstance(value, str) and value.startswith("$"):
        if value not in REFERENCES:
            raise RecipeError(f"{value} refers to nothing, expected one of: {', '.join(REFERENCES)}.", field=field)
        return
    if field not in hints:
        return
    try:
        msgspec.convert(_plain(value), hints[field])
    except msgspec.ValidationError as error:
        raise RecipeError(f"{value!r} does not fit: {error}.", field=field) from error
    except TypeError:
        # msgspec does not support this type; the step checks the field itself.
        return


@lru_cache(maxsize=128)
def _hints(kind: type[Step]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except NameError:
        # Types imported under TYPE_CHECKING only; the step checks its fields itself.
        return {}


def _plain(value: object) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value
