"""Statistics in an IR's `rt_info`: Model API's `model_info`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pp_graph.errors import StatisticsError
from pp_graph.statistics.source import STAND_IN, StatisticsFormat, as_number

if TYPE_CHECKING:
    from pp_graph.statistics.source import StatisticsFile
    from pp_graph.statistics.statistics import Statistics

_DEFAULTS: Final = {"image_threshold": 0.5, "pixel_threshold": 0.5, "normalization_scale": 1.0}
"""Defaults of Model API 0.4."""

_LEVELS: Final = ("image", "pixel")
MODEL_INFO: Final = "model_info"
MODEL_TYPE: Final = "AnomalyDetection"
OWN_KEY: Final = "post_processing"
"""Entry that marks a `model_info` written by pp_graph. Its thresholds are on the scale of the outputs."""
OWN_VALUE: Final = "pp_graph"


class ModelAPI(StatisticsFormat):
    """An IR that Anomalib 1.x, OTX or Geti wrote for OpenVINO's Model API."""

    title = "Model API model_info"

    def recognises(self, file: StatisticsFile) -> bool:
        """True for any IR. `read` finds out if it holds statistics."""
        return file.rt_info is not None

    def read(self, file: StatisticsFile) -> Statistics:
        """Read the thresholds and the range, which both levels share."""
        info = {names[-1]: text for names, text in (file.rt_info or {}).items() if names[:1] == (MODEL_INFO,)}
        kind = info.get("model_type", MODEL_TYPE)
        if kind.lower() != MODEL_TYPE.lower():
            raise StatisticsError(f"its model_info is for a model of type '{kind}', expected '{MODEL_TYPE}'.")
        if info.get(OWN_KEY) == OWN_VALUE:
            # `ArtifactProvenance` reads an IR that still has its provenance.
            raise StatisticsError(
                "its model_info was written by pp_graph and has thresholds on the scale of the outputs, but the "
                "provenance with the statistics was removed. Use the IR as pp-graph convert wrote it."
            )
        if not _DEFAULTS.keys() & info.keys():
            raise StatisticsError(
                f"the IR has neither pp_graph's provenance nor an rt_info model_info with {', '.join(_DEFAULTS)}. For "
                "an Anomalib 2.x export, use its checkpoint or its .onnx file."
            )
        numbers = dict(_DEFAULTS)
        for name in _DEFAULTS:
            if name not in info:
                continue
            value = as_number(name, info[name])
            if value is None:
                raise StatisticsError(f"'{name}' is NaN, expected a number. Export the model again.")
            numbers[name] = value
        extent = numbers["normalization_scale"]
        if extent < 0:
            raise StatisticsError(f"'normalization_scale' is {extent:g}, expected 0 or more. Export the model again.")
        notes = [
            f"Model API keeps only the difference max - min, {extent:.9g} for both levels; {STAND_IN}",
            "Model API counts a pixel at the threshold itself as anomalous (>=), pp_graph counts it as normal (>).",
        ]
        notes += [
            f"'{name}' is not in the file; {default:g} is what Model API takes then."
            for name, default in _DEFAULTS.items()
            if name not in info
        ]
        image, pixel = ({"threshold": numbers[f"{level}_threshold"], "min": 0.0, "max": extent} for level in _LEVELS)
        return self.statistics(file, image, pixel, notes=notes)
