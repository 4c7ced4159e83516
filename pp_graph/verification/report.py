"""`VerificationReport`: the result of a verification."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from pp_graph.errors import DataError, counted
from pp_graph.openvino.island.float32 import is_floating

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pp_graph.fusion.provenance import Provenance
    from pp_graph.verification.detections import DetectionReport

# Pillow-like resizing differs most from its NumPy reference: by 3e-3 of 255 on noise, measured in OpenVINO 2026.4.
PREPROCESSING_TOLERANCE: Final = 1e-4
TOLERANCE: Final = 1e-5
"""Largest error of the post-processing's numbers that counts as rounding. The largest measured one is 3e-7 (see
`pp_graph.steps.min_max`); a wrong constant causes far larger ones."""

MAX_LABEL_FLIPS: Final = 0
"""Default limit of labels that drift flips. A flipped label is a bad part shipped, or a line stopped."""
MAX_PIXEL_FLIPS: Final = "0.1%"
"""Default limit of pixels that drift flips. In bf16, 0.02 % to 0.03 % flip along the borders of regions on the demo
model, within 1 % of the range from the threshold; more points to a cause other than rounding."""
LARGE_DRIFT: Final = 0.01
"""Largest drift of a raw value, as a share of the calibrated range, that gives no warning."""

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
        per_pixel: True for a mask, False for labels.
        total: Decisions compared.
        positive: Decisions that are anomalous in the reference; 0 for class indices.
        compare: Name of the comparison whose cutoff margins are measured from; None if there is none.
        cutoff: The smallest anomalous value; None if no value is anomalous, or if there are several cutoffs.
        scale: Divisor of the margins: `max - min` of the level, or 1 without a range.
        flips: Decisions of the artifact that differ from the float32 reference, for any cause.
        postprocessing: Flips caused by the post-processing: the artifact's decision differs from that of the NumPy
            reference on the artifact's own raw value. Must be empty.
        drift: Flips caused by drift of the network: the NumPy reference decides differently on the artifact's raw value
            and on the float32 one.
        classes: True for class indices. A margin is then the distance from the next smaller number of a class.
        detections: True for the classes of detections. Flips by drift are then lost, gained and otherwise classified
            detections, and a margin is the distance of the score from the confidence.
    """

    name: str
    per_pixel: bool
    total: int
    positive: int
    compare: str | None
    cutoff: float | None
    scale: float
    flips: int
    postprocessing: Flips
    drift: Flips
    classes: bool = False
    detections: bool = False


@dataclass(frozen=True)
class FlipLimit:
    """Largest number or share of decisions that drift may flip.

    Attributes:
        number: A number of decisions, or a share in percent.
        percent: True if `number` is a share.
    """

    number: float
    percent: bool = False

    @classmethod
    def parse(cls, given: int | str | None, name: str) -> FlipLimit | None:
        """Read a limit such as 5, `"5"` or `"0.1%"`; None for any number.

        Raises:
            DataError: It is neither a number nor a share.
        """
        if given is None:
            return None
        text = str(given).strip()
        percent = text.endswith("%")
        try:
            number = float(text.removesuffix("%"))
            if not (0 <= number < math.inf) or (percent and number > 100) or not (percent or number.is_integer()):
                raise ValueError
        except ValueError:
            raise DataError(
                f"{name} is '{given}', expected a number of decisions such as 5, or a share such as 0.1%. Use None for "
                "any number."
            ) from None
        return cls(number, percent)

    def allows(self, flips: int, total: int) -> bool:
        """Return True if so many flips of so many decisions are within the limit."""
        return flips <= (self.number * total / 100 if self.percent else self.number)

    def __str__(self) -> str:
        return f"{self.number:g}{'%' if self.percent else ''}"


@dataclass(frozen=True)
class Drift:
    """Decisions that drift of the network flips, of all labels or of all pixels.

    Attributes:
        kind: `labels` or `pixels`; `detections` for the labels of a detector.
        flips: Flipped decisions.
        total: Decisions compared.
        margin: Largest distance of a flipped raw value from its cutoff, as a share of the calibrated range; None
            without flips.
        limit: What is tolerated; None for any number.
        scaled: True if margins are shares of a range, False if they are differences of raw values.
    """

    kind: str
    flips: int
    total: int
    margin: float | None
    limit: FlipLimit | None
    scaled: bool = True

    @property
    def option(self) -> str:
        """Name of the limit's argument."""
        return "max_pixel_flips" if self.kind == "pixels" else "max_label_flips"

    @property
    def share(self) -> float:
        """Flipped share of the decisions, from 0 to 1."""
        return self.flips / self.total if self.total else 0.0

    @property
    def within_limit(self) -> bool:
        """True if the limit allows these flips."""
        return self.limit is None or self.limit.allows(self.flips, self.total)

    def __str__(self) -> str:
        if self.kind == "detections":
            text = f"{counted(self.flips, 'detection')} lost, gained or classified otherwise, of {self.total:,}"
            if self.margin is None:
                return text
            return f"{text}, with scores at most {self.margin:.3g} from the confidence"
        text = f"{self.flips:,} of {self.total:,} {self.kind} flipped"
        if self.flips and self.kind == "pixels":
            text += f" ({100 * self.share:.2g} %)"
        if self.margin is None:
            return text
        if not self.scaled:
            return f"{text}, with a margin of at most {self.margin:.3g}"
        return f"{text}, at most {100 * self.margin:.2g} % of the range from the cutoff"

    def to_dict(self) -> dict[str, Any]:
        """Return the drift as JSON values."""
        return {
            "flips": self.flips,
            "total": self.total,
            "share": self.share,
            "margin_max": self.margin,
            "limit": None if self.limit is None else str(self.limit),
            "within_limit": self.within_limit,
        }


@dataclass(frozen=True)
class VerificationReport:
    """Result of a verification.

    The verdict has two parts. The post-processing is exact or not (`postprocessing_exact`): the artifact decides as the
    NumPy reference on the artifact's own raw values. Drift of the network (`drift`) is within its limits or not: the
    network in the artifact computes raw values slightly different from those of the raw model.

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
        max_label_flips: Tolerated flips of labels by drift; None for any number.
        max_pixel_flips: Tolerated flips of pixels by drift; None for any number.
        tolerance: Largest error of the post-processing's numbers that counts as rounding.
        warnings: What looks wrong although it may pass: large drift, results that are all alike, numbers that do not
            fit each other.
        notes: Remarks about the images, such as skipped files.
        detections: Comparison of detections; None for a model that does not detect.
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
    max_label_flips: FlipLimit | None
    max_pixel_flips: FlipLimit | None
    tolerance: float = TOLERANCE
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    detections: DetectionReport | None = field(default=None, repr=False)

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
    def drift(self) -> tuple[Drift, ...]:
        """Flips by drift of the network: those of labels, then those of pixels, as far as there are any decisions."""
        found = []
        for kind, per_pixel, limit in (
            ("labels", False, self.max_label_flips),
            ("pixels", True, self.max_pixel_flips),
        ):
            decisions = [decision for decision in self.decisions if decision.per_pixel == per_pixel]
            if decisions:
                margins = np.concatenate([decision.drift.margin for decision in decisions])
                margins = margins[np.isfinite(margins)]
                flips, total = sum(len(each.drift) for each in decisions), sum(each.total for each in decisions)
                largest = float(margins.max()) if len(margins) else None
                scaled = not any(decision.classes for decision in decisions)
                named = "detections" if any(decision.detections for decision in decisions) else kind
                found.append(Drift(named, flips, total, largest, limit, scaled))
        return tuple(found)

    @property
    def postprocessing_failures(self) -> tuple[str, ...]:
        """Reasons why the post-processing is not exact; empty if it is."""
        narrow = [kind for kind in self.island.values() if is_floating(kind) and kind != "f32"]
        found = [
            (self.postprocessing_flips, f"the post-processing flips {self.postprocessing_flips:,} decisions"),
            (
                self.boundary.flips,
                f"the post-processing alone flips {self.boundary.flips:,} decisions about values around its cutoffs",
            ),
            (
                self.postprocessing_error > self.tolerance,
                (
                    f"the post-processing's numbers are off by {self.postprocessing_error:.3g}, more than "
                    f"{self.tolerance:.3g}"
                ),
            ),
            (
                self.boundary.max_scaled > TOLERANCE,
                f"the post-processing alone is off by {self.boundary.max_scaled:.3g}, more than {TOLERANCE:g}",
            ),
            (
                (self.preprocessing_error or 0.0) > PREPROCESSING_TOLERANCE,
                (
                    f"the preprocessing is off by {self.preprocessing_error or 0:.3g} of its largest number, more than "
                    f"{PREPROCESSING_TOLERANCE:g}"
                ),
            ),
            (narrow, f"{len(narrow)} operators of the post-processing do not run in f32"),
        ]
        return tuple(reason for failed, reason in found if failed)

    @property
    def failures(self) -> tuple[str, ...]:
        """Reasons why the artifact failed; empty if it passed."""
        return (
            *self.postprocessing_failures,
            *(
                f"drift of the network: {drift}, more than the limit of {drift.limit} ({drift.option})"
                for drift in self.drift
                if not drift.within_limit
            ),
        )

    @property
    def postprocessing_exact(self) -> bool:
        """True if the post-processing decides as the NumPy reference, and runs in float32."""
        return not self.postprocessing_failures

    @property
    def passed(self) -> bool:
        """True if the post-processing is exact and drift is within its limits."""
        return not self.failures

    @property
    def verdict(self) -> str:
        """One sentence that explains the result."""
        drifted = [drift for drift in self.drift if drift.flips]
        if self.postprocessing_failures:
            return (
                "FAILED: the post-processing in the artifact is not that of its statistics. Do not ship it: fuse and "
                "convert again, and report it if that does not help."
            )
        if self.failures:
            return (
                "FAILED: the post-processing is exact, but the network in the artifact computes different raw values, "
                "and that changes more decisions than allowed. Run or convert it in a higher precision "
                "(--inference-precision f32, --precision f32), or calibrate on this artifact (pp-graph calibrate "
                "ARTIFACT --data ... --retune ...)."
            )
        if not self.decisions:
            return "PASSED: the numbers agree. The artifact makes no decisions."
        if drifted:
            return (
                "PASSED: the post-processing is exact. The network in the artifact computes slightly different raw "
                f"values: {' and '.join(f'{drift.flips:,} of {drift.total:,} {drift.kind}' for drift in drifted)} "
                "changed, within the limit."
            )
        return f"PASSED: all decisions about {counted(self.images, 'image')} are those of the raw model."

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; numbers that are not finite become None."""
        return {
            "passed": self.passed,
            "verdict": self.verdict,
            "postprocessing_exact": self.postprocessing_exact,
            "drift": {drift.kind: drift.to_dict() for drift in self.drift},
            "failures": list(self.failures),
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "artifact": self.artifact,
            "reference": self.reference,
            "images": self.images,
            "distinct_map_values": self.distinct_map_values,
            "preprocessing_error": self.preprocessing_error,
            "raw_matches": self.raw_matches,
            "postprocessing_flips": self.postprocessing_flips,
            "drift_flips": self.drift_flips,
            "errors": [_error(error) for error in self.errors],
            "postprocessing_errors": [_error(error) for error in self.postprocessing_errors],
            "decisions": [
                {
                    "name": decision.name,
                    "per_pixel": decision.per_pixel,
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
            **({} if self.detections is None else {"detections": self.detections.to_dict(self.image_names)}),
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
