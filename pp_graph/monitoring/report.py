"""`DriftReport`: what a comparison of later scores with those of the calibration found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.errors import counted
from pp_graph.monitoring.two_samples import (
    KolmogorovSmirnov,
    equal_parts,
    kolmogorov_smirnov,
    more_often,
    population_stability_index,
    wilson_interval,
)
from pp_graph.saving import indented, page_of, save_result
from pp_graph.summary import Fields, Line, Remark, Summarised, Table

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pp_graph.monitoring.reference import Reference
    from pp_graph.monitoring.two_samples import Counts
    from pp_graph.summary import Block

FEW_SCORES: Final = 20
"""Fewest scores of either side for figures that say something."""
_SMALL, _LARGE = 0.1, 0.25
"""Usual limits of the population stability index."""


@dataclass(frozen=True)
class Alarms:
    """Scores that are called anomalous.

    Attributes:
        alarms: Their number; for a calibration with another threshold, the largest that its histogram allows.
        least: The smallest number that it allows; equal to `alarms` where it is known exactly.
        scores: Number of all scores.
        rate: `alarms / scores`.
        interval: Its 95 % interval, by Wilson.
    """

    alarms: int
    least: int
    scores: int
    rate: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, alarms: int, scores: int, least: int | None = None) -> Alarms:
        """Compute rate and interval."""
        least = alarms if least is None else least
        return cls(alarms, least, scores, alarms / scores, wilson_interval(alarms, scores))


@dataclass(frozen=True)
class Part:
    """Scores in one part of the calibrated scale, which holds about a tenth of the calibration's.

    Attributes:
        above: Lower end, not included; None for the first part.
        up_to: Upper end, included; None for the last part.
        calibration: Number of calibration scores.
        scores: Number of new scores.
    """

    above: float | None
    up_to: float | None
    calibration: int
    scores: int


@dataclass(frozen=True, repr=False)
class DriftReport(Summarised):
    """Comparison of new scores with those of the calibration.

    Attributes:
        name: Name of the model or file of statistics.
        of: What the scores are: `scores` of images, or the largest value of each map, `maps`.
        scale: Scale of the scores, `raw` or `normalized`.
        against: Calibration scores that they were compared with, `normal` or `all`.
        cutoff: Smallest score that is called anomalous, on that scale; None if none is.
        calibration: Alarms among the calibration scores.
        found: Alarms among the new scores.
        parts: Numbers of scores in up to ten parts of the scale.
        psi: Population stability index of the parts.
        psi_by_chance: Mean of the index for as many scores from one distribution.
        shape: Kolmogorov-Smirnov test of the scores.
        alarms_p_value: Fisher's exact test, one-sided: probability of as many more alarms by chance.
        level: Share of comparisons that may report drift though there is none. Each of the two tests gets half of it.
        defect_rate: Share of the new images that may be anomalous without being drift.
        not_finite: Number of new scores that are NaN or infinite.
        left_out: Number of new scores of images labelled anomalous.
        warnings: Warnings for the user.
    """

    name: str
    of: str
    scale: str
    against: str
    cutoff: float | None
    calibration: Alarms
    found: Alarms
    parts: tuple[Part, ...]
    psi: float
    psi_by_chance: float
    shape: KolmogorovSmirnov
    alarms_p_value: float
    level: float
    defect_rate: float
    not_finite: int
    left_out: int
    warnings: tuple[str, ...]

    @property
    def shifted(self) -> bool:
        """True if the distribution of the scores differs."""
        return self.shape.p_value < self.level / 2

    @property
    def more_alarms(self) -> bool:
        """True if there are more alarms than at calibration."""
        return self.alarms_p_value < self.level / 2

    @property
    def drifted(self) -> bool:
        """True if there is drift."""
        return self.shifted or self.more_alarms

    @property
    def verdict(self) -> str:
        """A sentence."""
        if not self.drifted:
            return f"NO DRIFT found in {counted(self.found.scores, 'new score')}."
        signs = []
        if self.shifted:
            what = "largest values of maps" if self.of == "maps" else "scores"
            signs.append(f"{what} are {'higher' if self.shape.higher else 'lower'} (PSI {self.psi:.2f}, {self.size})")
        if self.more_alarms:
            signs.append(f"{self.found.rate:.2%} alarms instead of {self.calibration.rate:.2%}")
        return f"DRIFT: {' and '.join(signs)}."

    @property
    def size(self) -> str:
        """Size of the population stability index by its usual limits: `small`, `moderate` or `large`.

        `within chance` if it is no more than its mean without drift.
        """
        if self.psi <= self.psi_by_chance:
            return "within chance"
        return "small" if self.psi < _SMALL else "moderate" if self.psi < _LARGE else "large"

    @property
    def advice(self) -> str:
        """What to do."""
        if not self.drifted:
            return "Nothing to do. Compare again with the next logs."
        again = (
            "Then calibrate on recent labelled images, and write the statistics into the model: pp-graph calibrate "
            "MODEL --data IMAGES --retune NEW."
        )
        if self.more_alarms:
            return (
                "Look at the images that raised alarms. If they show as many defects as expected, give their share as "
                "the defect rate. If they are good, look for what changed: light, focus, position, camera, "
                f"preprocessing, product. {again}"
            )
        if self.shape.higher:
            return (
                "Scores rise, and false alarms follow. Look at the images with the highest scores, and for what "
                f"changed: light, focus, position, camera, preprocessing, product. {again}"
            )
        return (
            "Scores fall, so defects may be missed. Check that images are sharp, lit and preprocessed as at "
            f"calibration, and that the model still finds known defects. {again}"
        )

    def summary(self) -> list[Block]:
        """Return figures, verdict and advice as tables."""
        rows = [
            (name, _of(each), f"{each.rate:.2%}", f"{each.interval[0]:.2%} to {each.interval[1]:.2%}")
            for name, each in (("calibration", self.calibration), ("new scores", self.found))
        ]
        compared = "the normal ones" if self.against == "normal" else "all"
        of_each, heading = "", "Scores called anomalous"
        if self.of == "maps":
            of_each, heading = "the largest value of each, ", "Maps with anomalous pixels"
        tested = {
            self.of: f"{of_each}{self.scale}, compared with {compared} of the calibration",
            "Kolmogorov-Smirnov": f"D {self.shape.statistic:.4f}, p {p_text(self.shape.p_value)} (exact for ties)",
            "population stability": f"PSI {self.psi:.4f}, {self.size} (mean by chance {self.psi_by_chance:.4f})",
            "more alarms": f"p {p_text(self.alarms_p_value)} (Fisher's exact test, one-sided)",
            "drift if": f"a p is below {self.level / 2:g}, half of the level {self.level:g}",
        }
        if self.defect_rate:
            tested["expected defects"] = f"up to {self.defect_rate:.2%} of the new images"
        return [
            Fields(f"Drift of {self.name}", tested),
            Table(
                heading,
                ("", "number", "rate", "95 % interval"),
                rows,
            ),
            *(Remark(f"Warning: {warning}.") for warning in self.warnings),
            Line(self.verdict, bold=True),
            Line(self.advice),
        ]

    def __repr__(self) -> str:
        """Return the verdict."""
        return f"<DriftReport, {self.verdict}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        said = {"drifted": self.drifted, "verdict": self.verdict, "advice": self.advice}
        return {**said, **asdict(self), "parts": [asdict(part) for part in self.parts]}

    def save(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> Path:
        """Write JSON or an HTML page, by the ending of the path.

        Raises:
            OutputFileError: The path has another ending, is an input, exists, or cannot be written.
        """
        forms = {".json": lambda: indented(self.to_dict()), ".html": page_of("drift.drift_page", self)}
        return save_result(path, forms, overwrite=overwrite, inputs=inputs)


def _of(each: Alarms) -> str:
    number = f"{each.alarms:,}" if each.least == each.alarms else f"{each.least:,} to {each.alarms:,}"
    return f"{number} of {each.scores:,}"


def p_text(p_value: float) -> str:
    """Return a p-value with two digits; below 1e-9 only that."""
    return "below 1e-9" if p_value < 1e-9 else f"{p_value:.2g}"


def compare(
    reference: Reference,
    counts: Counts,
    *,
    alarms: int,
    not_finite: int,
    left_out: int,
    extent: tuple[float, float],
    level: float,
    defect_rate: float,
) -> DriftReport:
    """Compare counts of new scores with a reference.

    Args:
        reference: Scores of the calibration.
        counts: Number of new scores in each of its cells, not all 0.
        alarms: Number of them that are called anomalous.
        not_finite: Number of scores that are not counted, because they are NaN or infinite.
        left_out: Number of scores that are not counted, because their images are labelled anomalous.
        extent: The smallest and the largest new score.
        level: See `DriftReport`.
        defect_rate: See `DriftReport`.
    """
    total = int(counts.sum())
    calibration = Alarms.of(reference.alarms[1], reference.total, reference.alarms[0])
    # Of the new alarms, as many as there may be defects are expected.
    unexpected = max(0, alarms - int(np.ceil(defect_rate * total)))
    starts = equal_parts(reference.counts)
    first, second = np.add.reduceat(reference.counts, starts), np.add.reduceat(counts, starts)
    psi, by_chance = population_stability_index(first, second)
    ends = [None, *(float(str(reference.ends[start - 1])) for start in starts[1:]), None]
    parts = tuple(
        Part(above, up_to, int(one), int(two))
        for above, up_to, one, two in zip(ends[:-1], ends[1:], first, second, strict=True)
    )
    return DriftReport(
        name=reference.name,
        of=reference.of,
        scale=reference.scale,
        against=reference.against,
        cutoff=reference.cutoff if np.isfinite(reference.cutoff) else None,
        calibration=calibration,
        found=Alarms.of(alarms, total),
        parts=parts,
        psi=psi,
        psi_by_chance=by_chance,
        shape=kolmogorov_smirnov(reference.counts, counts, tolerance=defect_rate),
        alarms_p_value=more_often((calibration.alarms, calibration.scores), (unexpected, total)),
        level=level,
        defect_rate=defect_rate,
        not_finite=not_finite,
        left_out=left_out,
        warnings=tuple(_warnings(reference, total, not_finite, left_out, extent)),
    )


def _warnings(
    reference: Reference, total: int, not_finite: int, left_out: int, extent: tuple[float, float]
) -> Iterable[str]:
    if not_finite:
        yield (
            f"{counted(not_finite, 'new score')} missing, NaN or infinite; left out here, but a model calls NaN "
            "anomalous unless on_nan says otherwise. Find out what computes them"
        )
    if left_out:
        yield (
            f"{counted(left_out, 'new score')} of images labelled anomalous left out; --no-labels (labels=False) "
            "counts them"
        )
    for number, name in ((reference.total, "calibration"), (total, "new")):
        if number < FEW_SCORES:
            yield (
                f"only {counted(number, f'{name} score')}, and a comparison of fewer than {FEW_SCORES} finds "
                "nothing but large drift"
            )
    outside = reference.raw_ends[0] < 0 or reference.raw_ends[1] > 1
    if reference.scale == "raw" and outside and extent[0] >= 0 and extent[1] <= 1:
        yield (
            "all new scores are within 0 and 1, and those of the calibration are not "
            f"({reference.raw_ends[0]:.6g} to {reference.raw_ends[1]:.6g}): they look normalised. Compare them as "
            "such: --scale normalized (scale='normalized'), or name the model instead of its statistics"
        )
