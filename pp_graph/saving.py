"""`save_result`: what `save` of all results shares; `Saved`: a result that is written as its tables."""

from __future__ import annotations

import importlib
import json
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pp_graph.errors import OutputFileError
from pp_graph.files import written_together
from pp_graph.summary import Summarised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


def save_result(
    path: str | Path,
    forms: Mapping[str, Callable[[], str]],
    *,
    overwrite: bool = False,
    inputs: Iterable[Path] = (),
) -> Path:
    """Write a result in the form that the ending of the path names, atomically.

    Args:
        path: The file to write.
        forms: Makes the text, by ending, such as `.html`.
        overwrite: Replace an existing file.
        inputs: Files that are never replaced.

    Returns:
        The path.

    Raises:
        OutputFileError: The path has another ending, is an input, exists, or cannot be written.
    """
    path = Path(path)
    form = forms.get(path.suffix.lower())
    if form is None:
        endings = " or ".join(f"'{ending}'" for ending in forms)
        first = path.with_suffix(next(iter(forms))).name
        raise OutputFileError(f"File '{path}' ends in '{path.suffix}', expected {endings}. Name it {first}.")
    with written_together(path, overwrite=overwrite, inputs=inputs) as (draft,):
        draft.write_bytes(form().encode("utf-8", "replace"))
    return path


def indented(values: Any) -> str:
    """Return JSON values as text."""
    return json.dumps(values, indent=1) + "\n"


def page_of(function: str, result: object) -> Callable[[], str]:
    """Return what makes a page of a result, with a function of `pp_graph.report` such as `benchmark.benchmark_page`."""

    def make() -> str:
        module, _, name = function.rpartition(".")
        # Packages import downwards, and pages are above results.
        text: str = getattr(importlib.import_module(f"pp_graph.report.{module}"), name)(result)
        return text

    return make


class Saved(Summarised):
    """A result that is written as JSON, or as a page with its tables."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""

    def save(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> Path:
        """Write JSON or an HTML page, by the ending of the path.

        Raises:
            OutputFileError: The path has another ending, is an input, exists, or cannot be written.
        """
        forms = {".json": lambda: indented(self.to_dict()), ".html": page_of("page.tables_page", self)}
        return save_result(path, forms, overwrite=overwrite, inputs=inputs)
