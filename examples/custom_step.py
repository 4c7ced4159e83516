"""A post-processor of your own, with a step of your own: decisions on a logarithmic scale.

Distances of memory-bank models spread over orders of magnitude, and min-max normalisation squeezes all normal parts
into the lowest few percent. Here raw values go through `log(1 + x / scale)` first. The step is monotone, so labels and
masks still compile to one comparison of the raw value each.

python examples/custom_step.py OUTPUT_FOLDER
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import pp_graph as pp
from pp_graph.demo import IMAGES, RAW, STATISTICS
from pp_graph.errors import PostProcessorError, StatisticsError
from pp_graph.steps import Array, Compare, MaxOverMap, MinMaxNormalize, MonotoneStep, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from pp_graph.program import Signature
    from pp_graph.steps import Emitter


@dataclass(frozen=True)
class LogScale(MonotoneStep):
    """Map raw values to `log(1 + max(x, 0) / scale)`; NaN stays NaN.

    Attributes:
        source: Name of the value read; any shape, float32.
        target: Name of the value written; same shape, float32, at least 0.
        scale: Raw value that maps to log(2), above 0.
    """

    source: str
    target: str
    scale: float

    def __post_init__(self) -> None:
        """Refuse a scale that divides by zero, or reverses the order."""
        if not 0 < self.scale < np.inf:
            raise PostProcessorError(f"scale of '{self.target}' is {self.scale!r}, expected a number above 0.")

    def reference(self, array: Array) -> Array:
        """Compute in float64 and round once, so that the result never decreases."""
        x = np.asarray(array, np.float64)
        with np.errstate(invalid="ignore"):
            return np.log1p(np.where(x < 0, 0.0, x) / self.scale).astype(np.float32)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the same operators. `Emitter` has no method for Log, so it is written with `node`."""
        zero, one = op.constant(np.float32(0), "zero"), op.constant(np.float32(1), "one")
        positive = op.where(op.less(value, zero), zero, value)
        shifted = op.add(op.div(positive, op.constant(np.float32(self.scale), "scale")), one)
        return op.node("Log", [shifted], {}, np.dtype(np.float32), op.shape_of(value))


@dataclass(frozen=True)
class LogPostProcessor(pp.PostProcessor):
    """Normalise and decide on a logarithmic scale.

    All fields except `statistics` are plain numbers: the provenance stores them, so verify and retune can rebuild this
    class.

    Attributes:
        statistics: The calibrated raw values; thresholds, minima and maxima of both levels.
        scale: See `LogScale`.
        image_sensitivity: Within [0, 1]; 0.5 decides at the calibrated threshold.
        pixel_sensitivity: The same for pixels.
    """

    statistics: pp.Statistics | None = None
    scale: float = 1.0
    image_sensitivity: float = 0.5
    pixel_sensitivity: float = 0.5

    def steps(self, raw: Signature) -> Sequence[Step]:
        """Logarithm, normalisation and comparison of each level that the raw model has."""
        steps: list[Step] = []
        if "raw_score" not in raw:
            steps.append(MaxOverMap("raw_map", "raw_score"))
        steps += self._level("image", "raw_score", "pred_score", "pred_label", self.image_sensitivity)
        if "raw_map" in raw:
            steps += self._level("pixel", "raw_map", "anomaly_map", "pred_mask", self.pixel_sensitivity)
        return steps

    def _level(self, level: str, source: str, value: str, decision: str, sensitivity: float) -> list[Step]:
        numbers = getattr(self.statistics, level, None)
        if numbers is None or None in (numbers.threshold, numbers.min, numbers.max):
            raise StatisticsError(f"Statistics lack numbers of level '{level}', expected threshold, min and max.")
        log = LogScale(source, f"log_{level}", self.scale)
        threshold, low, high = (
            float(log.reference(np.float32(number))) for number in (numbers.threshold, numbers.min, numbers.max)
        )
        return [
            log,
            MinMaxNormalize(log.target, value, threshold, low, high),
            Compare(value, decision, 1 - sensitivity),
        ]


def main(folder: Path, inference_precision: str | None = "f32") -> dict[str, object]:
    """Fuse, convert, verify, retune and time the model that comes with pp_graph.

    Args:
        folder: Where to write the models.
        inference_precision: Precision to verify in.

    Returns:
        Results: whether each artifact was verified, the cutoffs, and the latency in milliseconds.
    """
    statistics = pp.Statistics.load(STATISTICS)
    post = LogPostProcessor(statistics, scale=2.0)
    fused = pp.fuse(RAW, post)
    fused.save(folder / "fused.onnx")
    model = pp.convert(fused, device="CPU").save(folder / "model.xml")
    verified = pp.verify(RAW, model, IMAGES, inference_precision=inference_precision)

    # A cutoff is a constant in the file: no new conversion, and the network is not touched.
    retuned = pp.retune(model, pixel_sensitivity=0.4, output=folder / "retuned.xml")
    verified_again = pp.verify(RAW, retuned.path, IMAGES, inference_precision=inference_precision)

    timed = pp.benchmark(RAW, [model], inference_precisions=["f32"], against=[], seconds=0.3, memory=False)
    return {
        "verified": verified.passed,
        "cutoffs": verified.provenance.cutoffs,
        "retuned": verified_again.passed,
        "retuned_cutoffs": verified_again.provenance.cutoffs,
        "way": retuned.way,
        "milliseconds": {Path(result.name).name: result.median_ms for result in timed.results},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args().folder
    chosen.mkdir(parents=True, exist_ok=True)
    print(json.dumps(main(chosen), indent=1))
