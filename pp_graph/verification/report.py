"""What verification found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from pp_graph.openvino.island.float32 import is_floating

if TYPE_CHECKING:
    from pp_graph.fusion.provenance import Provenance

# Resizing as Pillow does differs most from its twin: by 3e-3 of 255 on noise, measured in OpenVINO 2026.4.
PREPROCESSING_TOLERANCE: Final = 1e-4
TOLERANCE: Final = 1e-5
"""Error of the post-processing's numbers that is still rounding: thirty times the largest one measured, 3e-7 (see
`pp_graph.steps.min_max`), and far below what a wrong constant makes."""

_LISTED_FLIPS: Final = 1000
"""Flips that `to_dict` lists for each output and cause, those furthest from the cutoff first."""


@dataclass(frozen=True)
class ErrorReport:
    """How far the numbers of one output are off.

    Attributes:
        name: The output; `raw_score` and `raw_map` for what the network itself computes.
        max_abs: Largest absolute difference.
        mean_abs: Mean absolute difference.
        max_scaled: Largest difference, divided by the expected number where that is above 1.
        count: Numbers compared. Where both are NaN or the same infinity the difference is 0; where
            only one is, it is infinite.
    """

    name: str
    max_abs: float
    mean_abs: float
    max_scaled: float
    count: int


@dataclass(frozen=True)
class BoundaryReport:
    """What the post-processing alone makes of raw values at and around its cutoffs.

    Attributes:
        values: Raw values it was run on.
        flips: Decisions about them that differ from the reference; must be none.
        max_scaled: Largest error of its numbers; see `ErrorReport`.
    """

    values: int
    flips: int
    max_scaled: float


@dataclass(frozen=True)
class Flips:
    """Decisions that came out differently, for one output and one cause.

    Attributes:
        image: Index of the image of each.
        pixel: Index of each within its image, flattened; 0 for labels.
        raw_value: The raw value that was decided about.
        margin: Distance of the raw value from the cutoff, divided by the calibrated range where
            there is one. NaN where the raw value is NaN, or no comparison was made at that place.
    """

    image: npt.NDArray[np.int64]
    pixel: npt.NDArray[np.int64]
    raw_value: npt.NDArray[np.float32]
    margin: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.image)

    def summary(self) -> dict[str, Any]:
        """Count, and smallest, median and largest margin."""
        finite = self.margin[np.isfinite(self.margin)]
        if len(finite) == 0:
            return {"count": len(self), "margin_min": None, "margin_median": None, "margin_max": None}
        return {
            "count": len(self),
            "margin_min": float(finite.min()),
            "margin_median": float(np.median(finite)),
            "margin_max": float(finite.max()),
        }

    def listed(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """The flips one by one, those furthest from the cutoff first, as far as they are listed."""
        order = np.argsort(-np.nan_to_num(self.margin, nan=np.inf), kind="stable")[:_LISTED_FLIPS]
        return [
            {
                "image": names[self.image[i]],
                "pixel": int(self.pixel[i]),
                "raw_value": _finite(float(self.raw_value[i])),
                "margin": _finite(float(self.margin[i])),
            }
            for i in order
        ]


@dataclass(frozen=True)
class DecisionReport:
    """How the decisions of one output compare.

    Attributes:
        name: `pred_label` or `pred_mask`.
        total: Decisions compared.
        positive: Of these, how many the reference calls anomalous.
        compare: Name of the comparison by which margins are measured; None where there is none.
        cutoff: The smallest value that this calls anomalous; None where none is, or where there are several.
        scale: What margins are divided by: `max - min` of the level, 1 where there is none.
        flips: Decisions of the artifact that differ from the float32 reference, whatever the cause.
        postprocessing: Flips by the post-processing: the artifact's decision differs from the
            reference applied to the artifact's own raw value. Must be none.
        drift: Flips by drift of the network: the reference itself decides differently about the
            artifact's raw value and the float32 one.
    """

    name: str
    total: int
    positive: int
    compare: str | None
    cutoff: float | None
    scale: float
    flips: int
    postprocessing: Flips
    drift: Flips


@dataclass(frozen=True)
class VerificationReport:
    """What verification found.

    Attributes:
        provenance: The post-processing that the artifact was made with; the reference is built from it.
        artifact: The artifact and how it was run.
        reference: The raw model and how it was run.
        images: Images compared.
        image_names: Their names.
        errors: Differences of the numbers, against the float32 reference.
        postprocessing_errors: Differences of the artifact's normalised numbers from the reference
            applied to its own raw values: what rounding in the post-processing alone amounts to.
        decisions: Differences of the decisions.
        boundary: The post-processing alone, at and around its cutoffs.
        island: Operators of the post-processing in the compiled model, and the precision each runs
            in; empty for ONNX.
        distinct_map_values: The fewest different values that the artifact's raw map holds in the first image of a
            batch: a few hundred tell of a map that was quantised. None where there is no map.
        preprocessing_error: Largest difference between what the artifact's preprocessing makes of frames and the same
            computed by hand, as a part of the largest number; None where there is no preprocessing.
        raw_matches: Whether the raw model is, byte for byte, the one that the artifact was made from.
        max_flips: Drift flips that are tolerated; None for any number.
    """

    provenance: Provenance = field(repr=False)
    artifact: str
    reference: str
    images: int
    image_names: tuple[str, ...] = field(repr=False)
    errors: tuple[ErrorReport, ...]
    postprocessing_errors: tuple[ErrorReport, ...]
    decisions: tuple[DecisionReport, ...]
    boundary: BoundaryReport
    island: dict[str, str] = field(repr=False)
    distinct_map_values: int | None
    preprocessing_error: float | None
    raw_matches: bool
    max_flips: int | None

    @property
    def postprocessing_flips(self) -> int:
        """Flips by the post-processing, over all outputs."""
        return sum(len(decision.postprocessing) for decision in self.decisions)

    @property
    def drift_flips(self) -> int:
        """Flips by drift of the network, over all outputs."""
        return sum(len(decision.drift) for decision in self.decisions)

    @property
    def postprocessing_error(self) -> float:
        """Largest error that rounding in the post-processing alone makes; see `ErrorReport.max_scaled`."""
        return max((error.max_scaled for error in self.postprocessing_errors), default=0.0)

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the artifact did not pass; empty where it did."""
        narrow = [kind for kind in self.island.values() if is_floating(kind) and kind != "f32"]
        found = [
            (self.postprocessing_flips, f"the post-processing flips {self.postprocessing_flips:,} decisions"),
            (
                self.boundary.flips,
                f"the post-processing alone flips {self.boundary.flips:,} decisions about values around its cutoffs",
            ),
            (
                self.postprocessing_error > TOLERANCE,
                f"the post-processing's numbers are off by {self.postprocessing_error:.3g}, more than {TOLERANCE:g}",
            ),
            (
                self.boundary.max_scaled > TOLERANCE,
                f"the post-processing alone is off by {self.boundary.max_scaled:.3g}, more than {TOLERANCE:g}",
            ),
            (
                (self.preprocessing_error or 0.0) > PREPROCESSING_TOLERANCE,
                (
                    f"the preprocessing is off by {self.preprocessing_error or 0:.3g} of what it gives, more than "
                    f"{PREPROCESSING_TOLERANCE:g}"
                ),
            ),
            (narrow, f"{len(narrow)} operators of the post-processing do not run in f32"),
            (
                self.max_flips is not None and self.drift_flips > self.max_flips,
                f"drift of the network flips {self.drift_flips:,} decisions, more than {self.max_flips}",
            ),
        ]
        return tuple(reason for failed, reason in found if failed)

    @property
    def passed(self) -> bool:
        """Whether the post-processing is faithful and drift flipped no more than `max_flips` decisions."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values; numbers that are not finite become None."""
        return {
            "passed": self.passed,
            "failures": list(self.failures),
            "artifact": self.artifact,
            "reference": self.reference,
            "images": self.images,
            "distinct_map_values": self.distinct_map_values,
            "preprocessing_error": self.preprocessing_error,
            "raw_matches": self.raw_matches,
            "max_flips": self.max_flips,
            "postprocessing_flips": self.postprocessing_flips,
            "drift_flips": self.drift_flips,
            "errors": [_error(error) for error in self.errors],
            "postprocessing_errors": [_error(error) for error in self.postprocessing_errors],
            "decisions": [
                {
                    "name": each.name,
                    "total": each.total,
                    "positive": each.positive,
                    "compare": each.compare,
                    "cutoff": None if each.compare is None else self.provenance.cutoffs.get(each.compare),
                    "scale": each.scale,
                    "flips": each.flips,
                    "postprocessing": {
                        **each.postprocessing.summary(),
                        "flips": each.postprocessing.listed(self.image_names),
                    },
                    "drift": {**each.drift.summary(), "flips": each.drift.listed(self.image_names)},
                }
                for each in self.decisions
            ],
            "boundary": {
                "values": self.boundary.values,
                "flips": self.boundary.flips,
                "max_scaled": _finite(self.boundary.max_scaled),
            },
            "island": self.island,
            "provenance": msgspec.to_builtins(self.provenance),
        }


def _error(error: ErrorReport) -> dict[str, Any]:
    return {
        "name": error.name,
        "max_abs": _finite(error.max_abs),
        "mean_abs": _finite(error.mean_abs),
        "max_scaled": _finite(error.max_scaled),
        "count": error.count,
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
