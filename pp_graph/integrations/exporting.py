"""Shared by the exports of torch and Anomalib models: the result, checks of files and reports, evaluation mode."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pp_graph.errors import VerificationError, counted
from pp_graph.files import check_targets
from pp_graph.openvino.usage import usage_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pp_graph.fusion import Artifact
    from pp_graph.integrations.anomalib.comparison import ModelComparison
    from pp_graph.statistics import Statistics
    from pp_graph.verification import VerificationReport

OPSET: Final = 18
"""Opset that torch's exporter writes. It converts to others afterwards, which can fail."""


@dataclass(frozen=True)
class ExportResult:
    """Files that an export wrote, and the checks they passed.

    Attributes:
        path: The `.xml` or `.onnx`.
        artifact: The model in it.
        verification: The artifact compared with the raw ONNX export and the NumPy reference.
        raw_path: The raw ONNX export; None if it was not kept.
        images_verification: For a torch model, `verification` on `images`; None without images.
        raw_errors: For a torch model, the largest difference of each output between the raw export and the model, as a
            fraction of the output's largest absolute value.
        comparison: For an Anomalib model, the artifact compared with the model in torch.
        notes: Remarks for the user.
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
            lines = [f"{self.path}: verified on {counted(verified.images, 'image')}"]
            lines += [f"  {name}: ONNX differs by at most {error:.2g}" for name, error in self.raw_errors.items()]
        else:
            lines = [f"{self.path}: {counted(self.comparison.images, 'image')} compared with the model in torch"]
            for decision in self.comparison.decisions:
                largest = decision.drift.summary()["margin_max"]
                margin = "" if largest is None else f", at most {largest:.2g} of the range from the cutoff"
                lines.append(
                    f"  {decision.name}: {decision.flips:,} of {decision.total:,} decisions differ; "
                    f"{len(decision.rules or ()):,} by other settings, {len(decision.drift):,} by drift{margin}"
                )
            lines += [f"  {error.name}: largest error {error.max_abs:.2g}" for error in self.comparison.errors]
        return "\n".join([*lines, *(f"  Note: {note}" for note in self.notes)])


def check_output_files(path: Path, raw: Path | None, *, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Raise before the work starts if the files of an export cannot be written.

    Args:
        path: The `.onnx`, or the `.xml` with its `.bin` and `.usage.md`.
        raw: The raw ONNX export; None if it is not kept.
        overwrite: True to allow replacing existing files.
        inputs: Files that must not be replaced.

    Raises:
        OutputFileError: A file exists, is an input, or its folder is not writable.
    """
    files = [path] if path.suffix.lower() == ".onnx" else [path, path.with_suffix(".bin"), usage_path(path)]
    check_targets([*files, *([] if raw is None else [raw])], overwrite=overwrite, inputs=inputs)


def check_verified(failures: Sequence[str], images: str) -> None:
    """Raise `VerificationError` if there are failures on some images, such as "the example"."""
    if failures:
        raise VerificationError(
            f"The converted model does not pass verification on {images}: {'; '.join(failures)}. Nothing was written. "
            "Convert with precision='f32' and verify with inference_precision='f32', or allow more drift with "
            "max_label_flips=... and max_pixel_flips=..."
        )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put a torch module into evaluation mode without gradients; afterwards restore the mode of each submodule."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def reason_for(error: BaseException) -> str:
    """Return the first line of an error's root cause, without the period."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".:")
