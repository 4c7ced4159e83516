"""Read statistics, whichever format they come in. A new format is one file and one entry in `FORMATS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pp_graph.errors import StatisticsError
from pp_graph.statistics.anomalib_checkpoint import AnomalibCheckpoint
from pp_graph.statistics.anomalib_onnx import AnomalibONNX
from pp_graph.statistics.artifact import ArtifactProvenance
from pp_graph.statistics.json_files import AnomalibMetadata, OwnJSON, TiledEnsemble
from pp_graph.statistics.model_api import ModelAPI
from pp_graph.statistics.source import StatisticsFile, StatisticsFormat

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.statistics.statistics import Statistics

FORMATS: Final[tuple[StatisticsFormat, ...]] = (
    AnomalibCheckpoint(),
    AnomalibMetadata(),
    TiledEnsemble(),
    # Before the two that take any model of their kind.
    ArtifactProvenance(),
    ModelAPI(),
    AnomalibONNX(),
    # Last: it takes any JSON, and names what is wrong with it.
    OwnJSON(),
)


def read_statistics(path: Path) -> Statistics:
    """Read statistics from a file of any format in `FORMATS`, recognised by content.

    Args:
        path: The file.

    Returns:
        The statistics; their provenance says which format they were read from.

    Raises:
        StatisticsError: The file cannot be read, is of no known format, lacks what its format promises, or a number
            in it is impossible. The message names the file.
    """
    try:
        file = StatisticsFile(path)
        for each in FORMATS:
            if each.recognises(file):
                return each.read(file)
    except StatisticsError as error:
        raise StatisticsError(f"Statistics file '{path}': {error}") from error.__cause__
    except OSError as error:
        raise StatisticsError(
            f"Statistics file '{path}' cannot be read: {error.strerror or error}. Check the path."
        ) from error
    known = "; ".join(each.title for each in FORMATS)
    raise StatisticsError(
        f"Statistics file '{path}' is of no known format, expected one of: {known}. It begins with {file.head[:8]!r}."
    )
