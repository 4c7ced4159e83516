"""Read statistics in any format. A new format is one file and one entry in `FORMATS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pp_graph.errors import StatisticsError
from pp_graph.statistics.anomalib_checkpoint import AnomalibCheckpoint
from pp_graph.statistics.anomalib_onnx import AnomalibONNX
from pp_graph.statistics.artifact import ArtifactProvenance
from pp_graph.statistics.flat_numbers import FlatNumbers
from pp_graph.statistics.json_files import AnomalibMetadata, OwnJSON, TiledEnsemble
from pp_graph.statistics.model_api import ModelAPI
from pp_graph.statistics.other_files import STATISTICS, other_kind
from pp_graph.statistics.source import StatisticsFile, StatisticsFormat

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.statistics.statistics import Statistics

FORMATS: Final[tuple[StatisticsFormat, ...]] = (
    AnomalibCheckpoint(),
    FlatNumbers(),
    AnomalibMetadata(),
    TiledEnsemble(),
    # Before the two formats that recognise any IR and any ONNX model.
    ArtifactProvenance(),
    ModelAPI(),
    AnomalibONNX(),
    # Last, because it recognises any JSON and reports what is wrong with it.
    OwnJSON(),
)


def read_statistics(path: Path) -> Statistics:
    """Read statistics from a file in any format of `FORMATS`, recognised by its content.

    Args:
        path: The file.

    Returns:
        The statistics. Their provenance names the format.

    Raises:
        StatisticsError: The file cannot be read, has no known format, lacks an entry, or a number is invalid. The
            message names the file.
    """
    try:
        file = StatisticsFile(path)
        for format_ in FORMATS:
            if format_.recognises(file):
                return format_.read(file)
    except StatisticsError as error:
        other = other_kind(path, STATISTICS)
        raise StatisticsError(f"Statistics file '{path}': {error}{other}") from error.__cause__
    except OSError as error:
        raise StatisticsError(
            f"Statistics file '{path}' cannot be read: {error.strerror or error}. Check the path."
        ) from error
    known = "; ".join(format_.title for format_ in FORMATS)
    raise StatisticsError(
        f"Statistics file '{path}' has no known format, expected one of: {known}. It begins with {file.head[:8]!r}."
    )
