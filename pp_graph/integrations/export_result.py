"""The result of exporting a torch or Anomalib model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pp_graph.fusion import Artifact
    from pp_graph.integrations.anomalib.comparison import ModelComparison
    from pp_graph.statistics import Statistics
    from pp_graph.verification import VerificationReport


@dataclass(frozen=True)
class ExportResult:
    """Files that an export wrote, and the checks they passed.

    Attributes:
        path: The `.xml` or `.onnx` that was written.
        artifact: The model in it.
        verification: The artifact against the raw ONNX export with the NumPy reference.
        raw_path: The raw ONNX export; None if it was not kept.
        images_verification: From a torch model, the same as `verification` on `images`; None without images.
        raw_errors: From a torch model, the raw export against the model itself: largest difference of each output, as
            a fraction of the largest number.
        comparison: From an Anomalib model, the artifact against the model itself in torch.
        notes: Remarks for people.
    """

    path: Path
    artifact: Artifact
    verification: VerificationReport
    raw_path: Path | None = None
    images_verification: VerificationReport | None = None
    raw_errors: Mapping[str, float] = field(default_factory=dict)
    comparison: ModelComparison | None = None
    notes: tuple[str, ...] = ()

    @property
    def statistics(self) -> Statistics | None:
        """Statistics in the artifact."""
        return self.artifact.provenance.statistics

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        images = self.images_verification
        return {
            "path": str(self.path),
            "raw_path": None if self.raw_path is None else str(self.raw_path),
            "statistics": msgspec.to_builtins(self.statistics),
            "verification": self.verification.to_dict(),
            "images_verification": None if images is None else images.to_dict(),
            "raw_errors": dict(self.raw_errors),
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        if self.comparison is None:
            verified = self.images_verification or self.verification
            lines = [f"{self.path}: verified on {verified.images} images"]
            lines += [f"  {name}: ONNX differs by at most {error:.2g}" for name, error in self.raw_errors.items()]
        else:
            lines = [f"{self.path}: {self.comparison.images} images compared with the model in torch"]
            for decision in self.comparison.decisions:
                largest = decision.drift.summary()["margin_max"]
                margin = "" if largest is None else f", at most {largest:.2g} of the range from the cutoff"
                lines.append(
                    f"  {decision.name}: {decision.flips:,} of {decision.total:,} decisions differ; "
                    f"{len(decision.rules or ()):,} by other settings, {len(decision.drift):,} by drift{margin}"
                )
            lines += [f"  {error.name}: largest error {error.max_abs:.2g}" for error in self.comparison.errors]
        return "\n".join([*lines, *(f"  Note: {note}" for note in self.notes)])
