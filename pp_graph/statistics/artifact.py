"""Statistics in the provenance of an artifact: a fused ONNX model or a converted IR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from pp_graph.errors import StatisticsError
from pp_graph.statistics.source import StatisticsFormat
from pp_graph.statistics.statistics import HISTOGRAMS, Statistics

if TYPE_CHECKING:
    from pp_graph.statistics.source import StatisticsFile


class _Weights(msgspec.Struct):
    sample: str


class _Raw(msgspec.Struct):
    sha256: str
    weights: _Weights | None = None


class _Provenance(msgspec.Struct):
    """The fields of `fusion.Provenance` that contain statistics and settings."""

    post_processor: str
    parameters: dict[str, Any]
    statistics: Statistics | None
    raw: _Raw | None = None


class ArtifactProvenance(StatisticsFormat):
    """A fused ONNX model or a converted IR."""

    title = "model fused by pp_graph"

    def recognises(self, file: StatisticsFile) -> bool:
        """True if the file has pp_graph's provenance."""
        return _provenance(file) is not None

    def read(self, file: StatisticsFile) -> Statistics:
        """Read statistics and parameters from the provenance."""
        try:
            fused = msgspec.json.decode(_provenance(file) or "", type=_Provenance)
        except (msgspec.DecodeError, RecursionError) as error:
            raise StatisticsError(f"its provenance cannot be read: {error}. Fuse the raw model again.") from None
        if fused.statistics is None:
            raise StatisticsError(
                f"its post-processor '{fused.post_processor}' was fused without statistics, expected those of an "
                "anomaly model. Give one, or a file that pp-graph calibrate wrote."
            )
        image, pixel = (msgspec.structs.asdict(level) for level in (fused.statistics.image, fused.statistics.pixel))
        origin = fused.statistics.provenance
        imported = self.statistics(
            file, image, pixel, settings=fused.parameters, notes=[] if origin is None else origin.notes
        )
        assert imported.provenance is not None
        provenance = msgspec.structs.replace(
            imported.provenance,
            calibration=None if origin is None else origin.calibration,
            raw_sha256=None if fused.raw is None else fused.raw.sha256,
            raw_weights=None if fused.raw is None or fused.raw.weights is None else fused.raw.weights.sample,
        )
        return msgspec.structs.replace(
            imported, provenance=provenance, **{name: getattr(fused.statistics, name) for name in HISTOGRAMS}
        )


def _provenance(file: StatisticsFile) -> str | None:
    from pp_graph.model import METADATA_KEY

    if file.rt_info is not None:
        return file.rt_info.get((METADATA_KEY, "provenance"))
    return None if file.onnx is None else file.onnx.model.metadata_props.get(METADATA_KEY)
