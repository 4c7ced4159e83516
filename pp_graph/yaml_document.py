"""A YAML file as plain values, with errors that name line and field."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pp_graph.errors import RecipeError, SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    import yaml

_T = TypeVar("_T")

_DEEPEST: Final = 20
_LARGEST: Final = 16 * 2**20


class Document:
    """A YAML file as plain values.

    Attributes:
        path: The file.
        root: Its content, a mapping.
        lines: Line of each value, by the keys and indices that lead to it.

    Raises:
        RecipeError: The file is to be a recipe, and cannot be read, is not YAML, or does not hold a mapping.
        SettingsError: The same for any other file.
    """

    def __init__(self, path: Path, what: str = "Recipe", holds: str = "'steps'. See pp-graph fuse --help.") -> None:
        """Read a file.

        Args:
            path: The file.
            what: What it is, for messages.
            holds: What its mapping holds, for messages.
        """
        import yaml

        self.path = path
        self.lines: dict[tuple[str | int, ...], int] = {}
        self._what = what
        text = self._read_text()
        try:
            # Aliases are rejected: nested ones grow exponentially, and they make line numbers ambiguous.
            depth = 0
            for event in yaml.parse(text, yaml.SafeLoader):
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if depth > _DEEPEST:
                    raise self._error(_line(event), "is nested too deeply. Flatten it.")
                if isinstance(event, yaml.AliasEvent):
                    raise self._error(_line(event), "aliases (*name) are not supported. Write the value out.")
            node = yaml.compose(text, yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = 1 if error.problem_mark is None else error.problem_mark.line + 1
            raise self._error(line, f"is not YAML: {error.problem}.") from error
        except yaml.YAMLError as error:
            raise self._error(1, f"is not YAML: {error}.") from error
        root = None if node is None else self._value(node, ())
        if not isinstance(root, dict):
            raise self._error(1, f"expected a mapping with {holds}")
        self.root: dict[Any, Any] = root

    def error(self, place: tuple[str | int, ...], problem: str) -> RecipeError | SettingsError:
        """Build an error about a value, given by the keys and indices that lead to it."""
        line = next(self.lines[place[:end]] for end in range(len(place), -1, -1) if place[:end] in self.lines)
        field = next((str(key) for key in reversed(place) if isinstance(key, str)), None)
        names_field = place and place[-1] == field and field != "steps"
        return self._error(line, problem, field if names_field else None)

    def _error(self, line: int, problem: str, field: str | None = None) -> RecipeError | SettingsError:
        about = "" if field is None else f", field '{field}'"
        return self._failure(f"{self._what} '{self.path}', line {line}{about}: {problem}", field)

    def _failure(self, message: str, field: str | None = None) -> RecipeError | SettingsError:
        return RecipeError(message, field=field) if self._what == "Recipe" else SettingsError(message)

    def converted(self, kind: type[_T]) -> _T:
        """Return the content as a `msgspec.Struct`.

        Raises:
            SettingsError: A field is unknown, missing, or of another kind; the message names line and field.
        """
        import msgspec

        try:
            return msgspec.convert(self.root, kind)
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `$")
            place: list[str | int] = [
                int(index) if index else key for key, index in re.findall(r"\.(\w+)|\[(\d+)\]", path.rstrip("`"))
            ]
            unknown = re.search(r"unknown field `(\w+)`", message)
            if unknown:
                place.append(unknown[1])
                known = ", ".join(_fields_at(kind, place[:-1]))
                raise self.error(tuple(place), f"is not known, expected some of: {known}.") from error
            raise self.error(tuple(place), f"{message.replace('`', '')}.") from error

    def _read_text(self) -> str:
        try:
            size = self.path.stat().st_size
            if size > _LARGEST:
                raise self._failure(f"{self._what} '{self.path}' has {size:,} bytes, expected at most {_LARGEST:,}.")
            return self.path.read_text(encoding="utf-8")
        except OSError as error:
            raise self._failure(
                f"{self._what} '{self.path}' cannot be read: {error.strerror or error}. Give a YAML file."
            ) from error
        except UnicodeDecodeError as error:
            raise self._failure(
                f"{self._what} '{self.path}' is not UTF-8 text: {error.reason}. Give a YAML file."
            ) from error

    def _value(self, node: yaml.Node, place: tuple[str | int, ...]) -> Any:
        import yaml

        self.lines.setdefault(place, _line(node))
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*place, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        values: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(line, "a key is not a string. Write 'name: value'.")
            key = str(key_node.value)
            if key in values:
                raise self._error(line, "is given twice. Leave one out.", key)
            self.lines[(*place, key)] = line
            values[key] = self._value(value_node, (*place, key))
        return values


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


def _fields_at(kind: Any, place: list[str | int]) -> list[str]:
    """Return the names of the fields of a struct, found by the keys and indices that lead to it."""
    import msgspec

    found: Any = msgspec.inspect.type_info(kind)
    for key in place:
        if isinstance(found, msgspec.inspect.UnionType):
            found = next(each for each in found.types if not isinstance(each, msgspec.inspect.NoneType))
        if isinstance(found, msgspec.inspect.StructType):
            found = next(field.type for field in found.fields if field.encode_name == key)
        else:
            found = getattr(found, "item_type", None) or getattr(found, "value_type", found)
    if isinstance(found, msgspec.inspect.UnionType):
        found = next(each for each in found.types if isinstance(each, msgspec.inspect.StructType))
    return [field.encode_name for field in found.fields] if isinstance(found, msgspec.inspect.StructType) else []
