"""`VerificationReport`: the result of a verification."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from pp_graph.openvino.island.float32 import is_floating

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pp_graph.fusion.provenance import Provenance

# Pillow-like resizing differs most from its NumPy reference: by 3e-3 of 255 on noise, measured in OpenVINO 2026.4.
PREPROCESSING_TOLERANCE: Final = 1e-4
TOLERANCE: Final = 1e-5
"""Largest error of the post-processing's numbers that counts as rounding. The largest measured one is 3e-7 (see
`pp_graph.steps.min_max`); a wrong constant causes far larger ones."""

_MAX_LISTED_FLIPS: Final = 1000
"""Flips that `to_dict` lists for each output and cause, the furthest from the cutoff first."""


@dataclass(frozen=True)
class ErrorReport:
    """Errors of the numbers of one output.

    Attributes:
        name: The output, or `raw_score` or `raw_map` for a raw value.
        max_abs: Largest absolute difference.
        mean_abs: Mean absolute difference.
        max_scaled: Largest difference, divided by the expected number if that is above 1.
        count: Numbers compared. The difference is 0 if both are NaN or the same infinity, and infinite if only one is.
    """

    name: str
    max_abs: float
    mean_abs: float
    max_scaled: float
    count: int


@dataclass(frozen=True)
class BoundaryReport:
    """Result of the post-processing alone, on raw values at and around its cutoffs.

    Attributes:
        values: Number of raw values.
        flips: Decisions that differ from the NumPy reference; must be 0.
        max_scaled: Largest error of the numbers; see `ErrorReport`.
    """

    values: int
    flips: int
    max_scaled: float


@dataclass(frozen=True)
class Flips:
    """Flipped decisions of one output and one cause.

    Attributes:
        image: Index of the image, (flips,).
        pixel: Flattened index within the image, (flips,); 0 for labels.
        raw_value: The raw value that was compared, (flips,).
        margin: Distance of the raw value from the cutoff, (flips,), divided by the calibrated range if there is one.
            NaN if the raw value is NaN, or if no comparison was made at that place.
    """

    image: npt.NDArray[np.int64]
    pixel: npt.NDArray[np.int64]
    raw_value: npt.NDArray[np.float32]
    margin: npt.NDArray[np.float64]

    @classmethod
    def joined(cls, parts: Sequence[Flips]) -> Flips:
        """Concatenate flips."""
        empty = cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0))
        arrays = ([getattr(part, attribute.name) for part in (empty, *parts)] for attribute in fields(cls))
        return cls(*map(np.concatenate, arrays))

    def __len__(self) -> int:
        return len(self.image)

    def summary(self) -> dict[str, Any]:
        """Return the count, and smallest, median and largest margin."""
        finite = self.margin[np.isfinite(self.margin)]
        low, middle, high = (
            (float(finite.min()), float(np.median(finite)), float(finite.max())) if len(finite) else (None,) * 3
        )
        return {"count": len(self), "margin_min": low, "margin_median": middle, "margin_max": high}

    def listed(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """List up to 1000 flips, the furthest from the cutoff first."""
        order = np.argsort(-np.nan_to_num(self.margin, nan=np.inf), kind="stable")[:_MAX_LISTED_FLIPS]
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
    """Comparison of the decisions of one output.

    Attributes:
        name: Name of the output, such as `pred_label`.
        total: Decisions compared.
        positive: Decisions that are anomalous in the reference.
        compare: Name of the comparison whose cutoff margins are measured from; None if there is none.
        cutoff: The smallest anomalous value; None if no value is anomalous, or if there are several cutoffs.
        scale: Divisor of the margins: `max - min` of the level, or 1 without a range.
        flips: Decisions of the artifact that differ from the float32 reference, for any cause.
        postprocessing: Flips caused by the post-processing: the artifact's decision differs from that of the NumPy
            reference on the artifact's own raw value. Must be empty.
        drift: Flips caused by drift of the network: the NumPy reference decides differently on the artifact's raw value
            and on the float32 one.
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
    """Result of a verification.

    Attributes:
        provenance: Provenance of the artifact, from which the reference is built.
        artifact: Description of the artifact and its runtime.
        reference: Description of the raw model and its runtime.
        images: Number of images compared.
        image_names: Their names.
        errors: Errors of the numbers, against the float32 reference.
        postprocessing_errors: Errors of the artifact's numbers against the NumPy reference on the artifact's own raw
            values: the rounding of the post-processing alone.
        decisions: Comparison of the decisions.
        boundary: The post-processing alone, at and around its cutoffs.
        island: Precision of each operator of the post-processing in the compiled model; empty for ONNX.
        distinct_map_values: Smallest number of distinct values in the artifact's raw map of an image; a few hundred
            indicate a quantised map. Only the first image of each batch is counted. None without a map.
        preprocessing_error: Largest difference of the artifact's preprocessing from its NumPy reference, relative to
            the largest number; None without preprocessing.
        raw_matches: True if the raw model is, byte for byte, the one that the artifact was made from.
        max_flips: Tolerated drift flips; None for any number.
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
        """Flips caused by the post-processing, over all outputs."""
        return sum(len(decision.postprocessing) for decision in self.decisions)

    @property
    def drift_flips(self) -> int:
        """Flips caused by drift of the network, over all outputs."""
        return sum(len(decision.drift) for decision in self.decisions)

    @property
    def postprocessing_error(self) -> float:
        """Largest error of the post-processing alone; see `ErrorReport.max_scaled`."""
        return max((error.max_scaled for error in self.postprocessing_errors), default=0.0)

    @property
    def failures(self) -> tuple[str, ...]:
        """Reasons why the artifact failed; empty if it passed."""
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
        """True if the post-processing is faithful and drift flipped at most `max_flips` decisions."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; numbers that are not finite become None."""
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
                    "name": decision.name,
                    "total": decision.total,
                    "positive": decision.positive,
                    "compare": decision.compare,
                    "cutoff": None if decision.compare is None else self.provenance.cutoffs.get(decision.compare),
                    "scale": decision.scale,
                    "flips": decision.flips,
                    "postprocessing": {
                        **decision.postprocessing.summary(),
                        "flips": decision.postprocessing.listed(self.image_names),
                    },
                    "drift": {**decision.drift.summary(), "flips": decision.drift.listed(self.image_names)},
                }
                for decision in self.decisions
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
    return {name: _finite(value) if isinstance(value, float) else value for name, value in asdict(error).items()}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
