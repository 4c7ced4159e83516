"""`Reference`: what later scores are compared with, on the scale they have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from pp_graph.errors import SettingsError, StatisticsError
from pp_graph.one_class_options import OPTIONS
from pp_graph.postprocessors import OneClassPostProcessor
from pp_graph.postprocessors.anomaly import RAW_SCORE
from pp_graph.program import Signature
from pp_graph.statistics import Statistics
from pp_graph.statistics.histogram import KINDS
from pp_graph.steps import Compare, MinMaxNormalize
from pp_graph.values import ValueType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.fusion import Artifact
    from pp_graph.monitoring.two_samples import Counts

Scale = Literal["raw", "normalized"]
Of = Literal["scores", "maps"]
"""What is compared: scores of images, or the largest value of each map."""
Against = Literal["normal", "all"]
SCALES: Final[tuple[Scale, ...]] = ("raw", "normalized")
OF: Final[tuple[Of, ...]] = ("scores", "maps")
AGAINST: Final[tuple[Against, ...]] = ("normal", "all")
_DECIDING: Final = ("image_sensitivity", "normalize", "match_thresholds", "on_nan")
"""Options of the one-class post-processor that scores and labels of images follow from."""


@dataclass(frozen=True)
class Reference:
    """Scores of a calibration, counted in cells.

    Attributes:
        name: Name of the model or file.
        of: What the scores are: those of images, or the largest value of each map.
        scale: Scale of the scores: `raw`, or `normalized` as a model returns them.
        against: Scores that count: `normal` ones, or `all`.
        ends: Upper end of each cell, on that scale; a further cell is above the last. Float32, (cells - 1,).
        counts: Number of scores in each cell, (cells,).
        cutoff: Smallest score that is called anomalous, on that scale; infinity if none is.
        alarms: Smallest and largest number of scores that are called anomalous; equal where it is known exactly.
        raw_ends: Smallest and largest raw score.
    """

    name: str
    of: Of
    scale: Scale
    against: Against
    ends: npt.NDArray[np.float32]
    counts: Counts
    cutoff: float
    alarms: tuple[int, int]
    raw_ends: tuple[float, float]

    @property
    def total(self) -> int:
        """Number of scores."""
        return int(self.counts.sum())

    def same_as(self, other: Reference) -> bool:
        """Return True if scores counted in the cells of both may be added."""
        return (
            (self.of, self.scale, self.against, self.cutoff) == (other.of, other.scale, other.against, other.cutoff)
            and np.array_equal(self.ends, other.ends)
            and np.array_equal(self.counts, other.counts)
        )


def reference_of(
    model: str | Path | Statistics | Artifact,
    *,
    of: Of = "scores",
    scale: Scale | None = None,
    against: Against | None = None,
) -> Reference:
    """Return the scores that a model was calibrated with.

    Args:
        model: A fused ONNX file, an IR, an artifact, or statistics.
        of: What to compare: `scores` of images, or the largest value of each of the `maps`.
        scale: Scale of the scores to compare; None means as the model returns them, and raw for statistics.
        against: Scores that count; None means the normal ones, if any has that label.

    Raises:
        StatisticsError: There are no statistics, or they have no histogram.
        SettingsError: An option is not known, or the model does not normalise, or resizes its maps.
    """
    for option, value, known in (("of", of, OF), ("scale", scale, SCALES), ("against", against, AGAINST)):
        if value is not None and value not in known:
            raise SettingsError(f"{option} is {value!r}, expected one of: {', '.join(known)}.")
    name, statistics, settings, returned = _read(model)
    if of == "maps":
        statistics, settings = _of_maps(name, statistics, settings)
    histogram = statistics.histogram
    if histogram is None:
        raise StatisticsError(
            f"'{name}' holds no histogram of the {of} it was calibrated with, expected one to compare with: the "
            "calibration is of an earlier version, or was done elsewhere. Calibrate again: pp-graph calibrate RAW.onnx "
            "--data IMAGES -o stats.json, and for a model then pp-graph retune MODEL --stats stats.json."
        )
    against = against or ("normal" if histogram.total("normal") else "all")
    kinds = ("normal",) if against == "normal" else KINDS
    counts = sum((np.array(getattr(histogram, kind) or (0,) * len(histogram.ends), np.int64) for kind in kinds),
                 np.zeros(len(histogram.ends), np.int64))  # fmt: skip
    if not counts.any():
        raise StatisticsError(
            f"'{name}' was calibrated without normal scores, expected some to compare with. Compare with all: "
            "--against all (against='all')."
        )
    normalizer, cutoff = _decision(statistics, settings)
    if scale == "normalized" and normalizer is None:
        raise SettingsError(
            f"scale is 'normalized', and '{name}' does not say how scores are normalised, expected 'raw'. Compare raw "
            "scores."
        )
    scale = scale or ("normalized" if returned and normalizer is not None else "raw")
    ends = np.array(histogram.ends, np.float32)
    alarms = _alarms(ends, counts, cutoff)
    raw_ends = (float(ends[0]), float(ends[-1]))
    if scale == "normalized" and normalizer is not None:
        ends, counts = _normalized(ends, counts, normalizer)
        # The cutoff is the smallest raw value of its decision, so its normalised value is the smallest, too.
        cutoff = cutoff if cutoff == np.inf else np.float32(normalizer.reference(np.array([cutoff]))[0])
    return Reference(name, of, scale, against, ends, np.append(counts, 0), float(cutoff), alarms, raw_ends)


def _of_maps(name: str, statistics: Statistics, settings: Mapping[str, Any]) -> tuple[Statistics, Mapping[str, Any]]:
    """Return statistics and settings with which scores of images are treated as the map's pixels are.

    Both levels are normalised and compared alike, so they change places.
    """
    if settings.get("map_size") is not None:
        raise SettingsError(
            f"of is 'maps', and '{name}' resizes its maps, expected maps as they were calibrated: their largest values "
            "differ. Compare scores of images."
        )
    swapped = msgspec.structs.replace(
        statistics, image=statistics.pixel, pixel=statistics.image, histogram=statistics.map_histogram
    )
    own, other = (settings.get(key) for key in ("pixel_sensitivity", "image_sensitivity"))
    exchanged = {"image_sensitivity": own, "pixel_sensitivity": other}
    kept = {key: value for key, value in settings.items() if key not in exchanged}
    return swapped, {**kept, **{key: value for key, value in exchanged.items() if value is not None}}


def _read(model: str | Path | Statistics | Artifact) -> tuple[str, Statistics, Mapping[str, Any], bool]:
    """Return a name for messages, statistics, settings, and True if the scores are those that a model returns."""
    if isinstance(model, str | Path):
        name, statistics = str(model), Statistics.load(model)
    elif isinstance(model, Statistics):
        name, statistics = "statistics", model
    else:
        record = model.provenance
        if record.statistics is None:
            raise StatisticsError(
                f"Post-processor '{record.post_processor}' was fused without statistics, expected those of an anomaly "
                "model. Give one, or a file that pp-graph calibrate wrote."
            )
        return "model in memory", record.statistics, record.parameters, True
    origin = statistics.provenance
    return name, statistics, {} if origin is None else origin.settings, bool(origin and origin.raw_sha256)


def _decision(statistics: Statistics, settings: Mapping[str, Any]) -> tuple[MinMaxNormalize | None, np.float32]:
    """Return how image scores are normalised, None if they are not, and their cutoff."""
    if set(settings) <= set(OPTIONS):
        known = {name: settings[name] for name in _DECIDING if name in settings}
    else:
        known = {"normalize": False}  # a recipe or class of somebody's own, which compares as it likes
    steps = OneClassPostProcessor(statistics, **known).steps(Signature({RAW_SCORE: ValueType("NC", (None, 1))}))
    cutoff = next(step.cutoff for step in steps if isinstance(step, Compare))
    normalizer = next((step for step in steps if isinstance(step, MinMaxNormalize)), None)
    return normalizer, np.float32(np.inf) if cutoff is None else cutoff


def _alarms(ends: npt.NDArray[np.float32], counts: Counts, cutoff: np.float32) -> tuple[int, int]:
    """Return the smallest and the largest number of scores from the cutoff on."""
    first = int(np.searchsorted(ends, cutoff))
    if first == len(ends):
        return 0, 0
    below = ends[first - 1] if first else np.float32(-np.inf)
    known = np.nextafter(below, np.float32(np.inf)) >= cutoff
    above, inside = int(counts[first + 1 :].sum()), int(counts[first])
    return above + (inside if known else 0), above + inside


def _normalized(
    ends: npt.NDArray[np.float32], counts: Counts, normalizer: MinMaxNormalize
) -> tuple[npt.NDArray[np.float32], Counts]:
    """Return ends and counts of normalised scores.

    The normaliser is monotone, so intervals map to intervals. Those that it maps to one number become one; so does the
    interval above those at 0 with them, because part of it may map to 0.
    """
    mapped = normalizer.reference(ends)
    last_at_zero = int(np.searchsorted(mapped, np.float32(0), side="right")) - 1
    joined = np.append(mapped[1:] == mapped[:-1], False)
    joined[:-1][: last_at_zero + 1] = True
    kept = ~joined
    starts = np.flatnonzero(np.concatenate([[True], kept[:-1]]))
    return mapped[kept], np.add.reduceat(counts, starts)
