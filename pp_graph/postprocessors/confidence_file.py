"""Read the confidence of each class from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pp_graph.errors import PostProcessorError
from pp_graph.statistics.other_files import CONFIDENCES, other_kind

if TYPE_CHECKING:
    from collections.abc import Sequence


def read_confidence(path: str | Path, class_names: Sequence[str] = ()) -> float | tuple[float, ...]:
    """Read the confidence of each class, in order; a number if it is the same for all.

    Args:
        path: JSON with an object `confidence` that holds a number for each class name, as `pp-graph calibrate --boxes`
            writes it.
        class_names: Name of each class of the model. Confidences are matched with them by name; without names, their
            order is that of the classes.

    Raises:
        PostProcessorError: The file cannot be read, holds something else, or has no number for a class.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise PostProcessorError(
            f"Confidences '{file}' cannot be read: {error}. Expected JSON that pp-graph calibrate --boxes wrote."
        ) from error
    by_name = content.get("confidence") if isinstance(content, dict) else None
    if not isinstance(by_name, dict) or not all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in by_name.values()
    ):
        raise PostProcessorError(
            f"'{file}' has no object 'confidence' with a number for each class, expected JSON that pp-graph calibrate "
            f"--boxes wrote. Name that file.{other_kind(file, CONFIDENCES)}"
        )
    missing = [name for name in class_names if name not in by_name]
    if missing:
        raise PostProcessorError(
            f"'{file}' has no confidence of class '{missing[0]}', expected one of each class of the model; it has "
            f"{', '.join(map(repr, by_name))}. Calibrate with the model's labels (--labels FILE)."
        )
    numbers = tuple(float(by_name[name]) for name in class_names or by_name)
    return numbers[0] if len(set(numbers)) == 1 else numbers
