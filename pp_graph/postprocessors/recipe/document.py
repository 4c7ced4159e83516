"""A YAML file as plain values, with errors that name line and field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

    import yaml

_DEEPEST: Final = 20
_LARGEST: Final = 16 * 2**20


class Document:
    """A YAML file as plain values.

    Attributes:
        path: The file.
        root: Its content, a mapping.
        lines: Line of each value, by the keys and indices that lead to it.

    Raises:
        RecipeError: The file cannot be read, is not YAML, or does not hold a mapping.
    """

    def __init__(self, path: Path) -> None:
        import yaml

        self.path = path
        self.lines: dict[tuple[str | int, ...], int] = {}
        text = _read_text(path)
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
            raise self._error(1, "expected a mapping with 'steps'. See pp-graph fuse --help.")
        self.root: dict[Any, Any] = root

    def error(self, place: tuple[str | int, ...], problem: str) -> RecipeError:
        """Build an error about a value, given by the keys and indices that lead to it."""
        line = next(self.lines[place[:end]] for end in range(len(place), -1, -1) if place[:end] in self.lines)
        field = next((str(key) for key in reversed(place) if isinstance(key, str)), None)
        names_field = place and place[-1] == field and field != "steps"
        return self._error(line, problem, field if names_field else None)

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


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise RecipeError(f"Recipe '{path}' has {path.stat().st_size:,} bytes, expected at most {_LARGEST:,}.")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"Recipe '{path}' cannot be read: {error.strerror or error}. Give a YAML file.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"Recipe '{path}' is not UTF-8 text: {error.reason}. Give a YAML file.") from error
