"""`drift`: compare logged scores with those that a model was calibrated with."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pp_graph.data.score_logs import read_scores
from pp_graph.errors import DataError
from pp_graph.monitoring.monitor import LEVEL, DriftMonitor
from pp_graph.progress import shows_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike

    from pp_graph.fusion import Artifact
    from pp_graph.monitoring.reference import Against, Of, Scale
    from pp_graph.monitoring.report import DriftReport
    from pp_graph.statistics import Statistics


@shows_progress("Reading scores")
def drift(
    model: str | Path | Statistics | Artifact,
    scores: str | Path | Sequence[str | Path] | ArrayLike,
    *,
    of: Of = "scores",
    column: str | None = None,
    labels: ArrayLike | bool = True,
    scale: Scale | None = None,
    against: Against | None = None,
    defect_rate: float = 0.0,
    level: float = LEVEL,
    progress: Callable[[int], None] | bool | None = None,
) -> DriftReport:
    """Compare scores from the field with those that a model was calibrated with.

    Two tests decide, each at half the level: Kolmogorov-Smirnov on the scores, with a p-value that is exact for counts,
    and Fisher's exact test on the share of alarms. They assume scores of separate images: frames of one part that
    follow each other are alike, and show drift where there is none.

    Args:
        model: A fused ONNX file, an IR, an artifact, or statistics (also a file), with a histogram of the calibration.
        scores: Scores of images, or files of them (`.csv`, `.jsonl`, `.parquet`, `.npz`, patterns such as
            `logs/*.csv`), such as `predictions.csv` of `pp-graph run`. Files are read in batches.
        of: `scores` of images, or the largest value of each map (`maps`), which `pp-graph run` logs as `map_max`.
        column: Name of the column or array with the scores; None finds it by its usual names.
        labels: Files: False ignores their labels. Scores: True or 1 for anomalous images. Scores of images labelled
            anomalous are left out of a comparison with normal ones.
        scale: `normalized` or `raw` scores; None means as the model returns them, and raw for statistics.
        against: Calibration scores to compare with: `normal` or `all`; None means the normal ones, if there are any.
        defect_rate: Largest share of the new images that are expected to be anomalous, in [0, 1). They are not drift.
        level: Share of comparisons that may report drift though there is none, in (0, 0.5].
        progress: Called with the number of scores just read; True shows a progress bar.

    Returns:
        Figures, verdict and advice.

    Raises:
        StatisticsError: There are no statistics, or they have no histogram.
        DataError: A file cannot be read, there is no score, or one does not fit the scale.
        SettingsError: An option is not known or out of range.
        ExtraError: A `.parquet` is given, and pyarrow is not installed.
    """
    monitor = DriftMonitor(model, of=of, scale=scale, against=against)
    files = _files(scores)
    if files is None:
        given: Any = scores
        monitor.update(given, labels=None if isinstance(labels, bool) else labels)
        return monitor.report(level=level, defect_rate=defect_rate)
    if not isinstance(labels, bool):
        raise DataError("labels are given for files of scores, expected True or False. Put them into a column.")
    for file in files:
        for batch in read_scores(file, column=column, labels=labels, quantity="map_max" if of == "maps" else "score"):
            try:
                monitor.update(batch.scores, labels=batch.anomalous)
            except DataError as error:
                raise DataError(f"'{file}': {error}") from None
            if callable(progress):
                progress(len(batch.scores))
    return monitor.report(level=level, defect_rate=defect_rate)


def _files(scores: Any) -> list[Path] | None:
    """Return the files that are named; None if scores are given."""
    named = [scores] if isinstance(scores, str | Path) else scores
    if not isinstance(named, list | tuple) or not all(isinstance(each, str | Path) for each in named) or not named:
        return None
    files: list[Path] = []
    for each in map(Path, named):
        # A shell resolves patterns, unless they are quoted or it is that of Windows.
        matches = [] if each.exists() else sorted(map(Path, glob.glob(str(each))))  # noqa: PTH207 - it may be absolute
        files += matches or [each]
    twice = next((file for file in files if files.count(file) > 1), None)
    if twice is not None:
        raise DataError(f"File of scores '{twice}' is given twice, expected each file once.")
    return files
