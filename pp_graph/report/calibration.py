"""`write_calibration_report`: a calibration as pictures and numbers, for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pp_graph.errors import OutputFileError
from pp_graph.extras import check_extra
from pp_graph.files import written_together
from pp_graph.report.page import calibration_page
from pp_graph.report.panels import save_png

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pp_graph.calibration import CalibrationResult


def check_calibration_report(path: Path) -> None:
    """Make sure that a report can be drawn, before the work is done that it is to show.

    Raises:
        ExtraError: matplotlib is not installed.
        OutputFileError: The path has another ending than `.html` or `.png`.
    """
    if path.suffix.lower() not in (".html", ".png"):
        raise OutputFileError(
            f"Calibration report '{path}' ends in '{path.suffix}', expected '.html' or '.png'. Name it report.html."
        )
    check_extra("matplotlib", "report", "a calibration report")


def write_calibration_report(
    result: CalibrationResult,
    path: str | Path,
    *,
    overwrite: bool = False,
    title: str | None = None,
    inputs: Iterable[Path] = (),
) -> Path:
    """Write histogram, precision-recall and F1 curves of each level, with the numbers.

    Args:
        result: The calibration.
        path: A file that ends in `.png`, for one picture with a row a level; or in `.html`, for one page that needs
            nothing else, with the same panels, all numbers, warnings and where they come from.
        overwrite: Whether the file may be replaced.
        title: Heading; None for one that names the model.
        inputs: Files that must not be replaced whatever `overwrite` says.

    Returns:
        The path.

    Raises:
        ExtraError: matplotlib is not installed.
        OutputFileError: The path has another ending, is an input, exists and may not be replaced, or cannot be
            written.
    """
    path = Path(path)
    check_calibration_report(path)
    if title is None:
        title = f"Calibration of {result.record.model}" if result.record.model else "Calibration"
    with written_together(path, overwrite=overwrite, inputs=inputs) as (draft,):
        if path.suffix.lower() == ".png":
            save_png(result, draft, title)
        else:
            draft.write_bytes(calibration_page(result, title).encode("utf-8", "replace"))
    return path
