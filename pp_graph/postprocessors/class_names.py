"""Read the names of classes from a file."""

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
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PostProcessorError(
            f"Labels '{file}' cannot be read: {error}. Expected a text file with one class name a line."
        ) from error
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
