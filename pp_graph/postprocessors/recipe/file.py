"""Read a recipe from a YAML file. Errors name line and field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import PostProcessorError, RecipeError
from pp_graph.postprocessors.lookup import find_post_processor, post_processor_names
from pp_graph.postprocessors.recipe.declarations import read_outputs, read_roles
from pp_graph.postprocessors.recipe.entries import did_you_mean
from pp_graph.postprocessors.recipe.post_processor import RecipePostProcessor

if TYPE_CHECKING:
    import yaml

    from pp_graph.postprocessors.post_processor import PostProcessor
    from pp_graph.statistics import Statistics

SCHEMA_VERSION: Final = 1
_KEYS: Final = ("schema_version", "roles", "steps", "outputs", "pack", "post_processor", "parameters")
_DEEPEST: Final = 20
_LARGEST: Final = 16 * 2**20


def read_recipe(path: str | Path, statistics: Statistics | None = None) -> PostProcessor:
    """Read a recipe.

    A recipe lists steps under `steps`, or names a class under `post_processor` with its `parameters`. Import a class of
    your own first (`pp-graph --plugin FILE`).

    Args:
        path: The YAML file.
        statistics: The calibrated numbers that the recipe refers to.

    Raises:
        RecipeError: The file cannot be read or is invalid; the message names file, line and field.
        StatisticsError: The statistics lack a number that a class needs.
    """
    path = Path(path)
    document = _Document(path, _text(path))
    root = document.root
    for key in root:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS)
            raise document.error((key,), f"is not known, expected some of: {', '.join(_KEYS)}.{hint}")
    if root.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise document.error(
            ("schema_version",),
            f"is {root['schema_version']!r}, expected {SCHEMA_VERSION}. Upgrade pp_graph, or write the recipe for this "
            "version.",
        )
    if ("steps" in root) == ("post_processor" in root):
        raise document.error((), "expected either 'steps' or 'post_processor'. Give one of both.")
    if "steps" not in root:
        return _of_class(document, statistics)
    if "parameters" in root:
        raise document.error(("parameters",), "belongs to 'post_processor', and 'steps' is given. Leave it out.")
    if not isinstance(root["steps"], list):
        raise document.error(("steps",), f"is {root['steps']!r}, expected a list: one '- step: ...' a step.")
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


def _check_declarations(document: _Document) -> None:
    """Read roles and outputs one by one, so that errors name the line of the entry."""
    for key, read in (("roles", read_roles), ("outputs", read_outputs)):
        entries = document.root.get(key)
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            try:
                read([entry])
            except RecipeError as error:
                place: tuple[str | int, ...] = (key, index, error.field or "")
                raise document.error(place if place in document.lines else place[:2], error.problem) from error


def _of_class(document: _Document, statistics: Statistics | None) -> PostProcessor:
    root = document.root
    name, parameters = root["post_processor"], root.get("parameters") or {}
    kind = find_post_processor(name) if isinstance(name, str) else None
    if kind is None:
        raise document.error(
            ("post_processor",),
            f"is {name!r}, expected one of: {', '.join(post_processor_names())}. Import the module of your own class "
            "first: pp-graph --plugin FILE.py.",
        )
    for key in ("pack", "roles", "outputs"):
        if key in root:
            raise document.error(
                (key,), "belongs to 'steps'. Give it among the 'parameters' of the class, if it has it."
            )
    if not isinstance(parameters, dict):
        raise document.error(("parameters",), f"is {parameters!r}, expected a mapping of names to values.")
    try:
        return kind.from_parameters(statistics, parameters)
    except (TypeError, PostProcessorError) as error:
        field = next((parameter for parameter in parameters if str(parameter) in str(error)), None)
        place = ("parameters",) if field is None else ("parameters", field)
        raise document.error(place if place in document.lines else (), str(error)) from error


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise RecipeError(f"Recipe '{path}' has {path.stat().st_size:,} bytes, expected at most {_LARGEST:,}.")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"Recipe '{path}' cannot be read: {error.strerror or error}. Give a YAML file.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"Recipe '{path}' is no text in UTF-8: {error.reason}. Give a YAML file.") from error


class _Document:
    """A YAML document as plain values, with the line of each."""

    def __init__(self, path: Path, text: str) -> None:
        import yaml

        self.path = path
        self.lines: dict[tuple[str | int, ...], int] = {}
        try:
            # Aliases are rejected: nested ones grow exponentially, and they make line numbers ambiguous.
            depth = 0
            for event in yaml.parse(text, yaml.SafeLoader):
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if depth > _DEEPEST:
                    raise self._error(_line(event), "is nested too deeply. Flatten it.")
                if isinstance(event, yaml.AliasEvent):
                    raise self._error(_line(event), "aliases (*name) are not supported. Write it out.")
            node = yaml.compose(text, yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = 1 if error.problem_mark is None else error.problem_mark.line + 1
            raise self._error(line, f"is no YAML: {error.problem}.") from error
        except yaml.YAMLError as error:
            raise self._error(1, f"is no YAML: {error}.") from error
        found = None if node is None else self._value(node, ())
        if not isinstance(found, dict):
            raise self._error(1, "expected a mapping with 'steps'. See pp-graph fuse --help.")
        self.root: dict[Any, Any] = found

    def error(self, place: tuple[str | int, ...], problem: str) -> RecipeError:
        """Build an error about a value, given by the keys and indices that lead to it."""
        line = next(self.lines[place[:end]] for end in range(len(place), -1, -1) if place[:end] in self.lines)
        field = next((str(key) for key in reversed(place) if isinstance(key, str)), None)
        known = field is not None and place and place[-1] == field and field != "steps"
        return self._error(line, problem, field if known else None)

    def _error(self, line: int, problem: str, field: str | None = None) -> RecipeError:
        about = "" if field is None else f", field '{field}'"
        return RecipeError(f"Recipe '{self.path}', line {line}{about}: {problem}", field=field)

    def _value(self, node: yaml.Node, place: tuple[str | int, ...]) -> Any:
        import yaml

        self.lines.setdefault(place, _line(node))
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*place, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(line, "a key is not a string. Write 'name: value'.")
            key = str(key_node.value)
            if key in found:
                raise self._error(line, "is given twice. Leave one out.", key)
            self.lines[(*place, key)] = line
            found[key] = self._value(value_node, (*place, key))
        return found


def _line(node: yaml.Node | yaml.Event) -> int:
    return 1 if node.start_mark is None else int(node.start_mark.line) + 1


def _scalar(node: yaml.ScalarNode) -> Any:
    """Convert a scalar. Unlike YAML 1.1, 1e-3 is a number and `no` is text."""
    text = str(node.value)
    if node.style in ("'", '"', "|", ">"):
        return text
    words = {"": None, "~": None, "null": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
