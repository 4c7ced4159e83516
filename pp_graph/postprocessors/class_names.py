"""Read the names of classes, or the characters of a text recogniser, from a file."""

from __future__ import annotations

import json
from pathlib import Path

from pp_graph.errors import PostProcessorError


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Read the name of each class, in order.

    Args:
        path: A text file with one name a line, or JSON: a list of names, or an object with names by class index, such
            as `id2label` of a Transformers model.

    Raises:
        PostProcessorError: The file cannot be read or holds something else.
    """
    file = Path(path)
    text = _read(file, "a text file with one class name a line")
    names: object = [line.strip() for line in text.rstrip().splitlines()]
    if file.suffix.lower() == ".json":
        try:
            names = json.loads(text)
            if isinstance(names, dict):
                by_index = {int(index): name for index, name in names.items()}
                names = [by_index[index] for index in range(len(by_index))]
        except (ValueError, KeyError) as error:
            raise PostProcessorError(
                f"Labels '{file}' are not JSON of class names: {error}. Expected a list of names, or an object with a "
                "name for each class index from 0."
            ) from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        wrong = next((place for place, name in enumerate(names) if not name), None) if isinstance(names, list) else None
        where = "" if wrong is None else f" (line or entry {wrong + 1} holds none)"
        raise PostProcessorError(f"Labels '{file}' hold no name for each class{where}, expected one name a line.")
    return tuple(name.strip() for name in names)


def read_characters(path: str | Path) -> tuple[str, ...]:
    """Read the character or token of each class of a text recogniser, in order.

    Args:
        path: A text file with one a line, where spaces count, as PP-OCR's dictionaries; or JSON: a list, or an object
            with the index of each, such as `vocab.json` of a Transformers model.

    Raises:
        PostProcessorError: The file cannot be read or holds something else.
    """
    file = Path(path)
    text = _read(file, "a text file with one character a line")
    if file.suffix.lower() != ".json":
        # Some characters, such as U+2028, would end a line for splitlines.
        lines = text.removesuffix("\n").replace("\r\n", "\n").split("\n")
        return tuple(line.removesuffix("\r") for line in lines)
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            by_index = {int(index): name for name, index in found.items()}
            found = [by_index[index] for index in range(len(by_index))]
    except (ValueError, KeyError, TypeError) as error:
        raise PostProcessorError(
            f"Labels '{file}' are not JSON of characters: {error}. Expected a list of characters, or an object with an "
            "index from 0 for each."
        ) from error
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        raise PostProcessorError(f"Labels '{file}' hold no characters, expected a list of texts.")
    return tuple(found)


def _read(file: Path, expected: str) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PostProcessorError(f"Labels '{file}' cannot be read: {error}. Expected {expected}.") from error
