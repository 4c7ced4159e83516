"""`VerificationReport`: the result of a verification."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from pp_graph.errors import counted
from pp_graph.openvino.island.float32 import is_floating
from pp_graph.saving import indented, page_of, save_result
from pp_graph.summary import Summarised
from pp_graph.verification.parts import (
    BoundaryReport,
    DecisionReport,
    Drift,
    ErrorReport,
    FlipLimit,
    error_values,
    finite,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pp_graph.fusion.provenance import Provenance
    from pp_graph.summary import Block
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


@dataclass(frozen=True, repr=False)
class VerificationReport(Summarised):
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

    def summary(self) -> list[Block]:
        """Return the report as tables, the verdict last."""
        from pp_graph.verification.summary import blocks_of

        return blocks_of(self)

    def __repr__(self) -> str:
        """Return the verdict in a line."""
        verdict = "passed" if self.passed else "failed"
        return (
            f"<VerificationReport {verdict}: {self.images:,} images, {self.postprocessing_flips:,} flips by "
            f"post-processing, {self.drift_flips:,} by drift>"
        )

    def save(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> Path:
        """Write JSON or an HTML page, by the ending of the path.

        Raises:
            OutputFileError: The path has another ending, is an input, exists, or cannot be written.
        """
        forms = {".json": lambda: indented(self.to_dict()), ".html": page_of("verification.verification_page", self)}
        return save_result(path, forms, overwrite=overwrite, inputs=inputs)

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
            "errors": [error_values(error) for error in self.errors],
            "postprocessing_errors": [error_values(error) for error in self.postprocessing_errors],
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
                "max_scaled": finite(self.boundary.max_scaled),
            },
            "island": self.island,
            "provenance": msgspec.to_builtins(self.provenance),
        }
