"""A step written as an onnxscript function; its eager mode is the reference.

Some scenes are brighter in the map as a whole, and every pixel of them comes close to the threshold. Where the score
says that the image is normal anyway, the map is taken relative to its own mean.

python examples/onnxscript_step.py OUTPUT_FOLDER
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxscript import opset18 as op
from onnxscript import script

import pp_graph as pp
from pp_graph.demo import IMAGES, RAW, STATISTICS
from pp_graph.integrations.onnxscript import OnnxScriptStep
from pp_graph.steps import Compare, MinMaxNormalize, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pp_graph.program import Signature


# onnxscript takes tensors without annotations, and numbers with a type for attributes.
@script()
def calm_normal_images(heat, score, threshold: float):
    """Take (N,1,H,W) relative to its mean where the score (N,1) lies below a threshold."""
    mean = op.ReduceMean(heat, op.Constant(value_ints=[1, 2, 3]), keepdims=1)
    normal = op.Less(op.Unsqueeze(score, op.Constant(value_ints=[2, 3])), threshold)
    return op.Where(normal, heat - mean, heat)


@dataclass(frozen=True)
class CalmPostProcessor(pp.PostProcessor):
    """Calm the maps of normal images, then normalise and compare."""

    statistics: pp.Statistics | None = None
    pixel_sensitivity: float = 0.5

    def steps(self, raw: Signature) -> Sequence[Step]:
        """The onnxscript step reads map and score; the rest are steps of pp_graph."""
        del raw
        image, pixel = self.statistics.image, self.statistics.pixel
        return [
            OnnxScriptStep(
                "raw_map", "calmed_map", calm_normal_images, {"threshold": image.threshold}, others=("raw_score",)
            ),
            MinMaxNormalize("raw_score", "pred_score", image.threshold, image.min, image.max),
            Compare("pred_score", "pred_label", 0.5),
            MinMaxNormalize("calmed_map", "anomaly_map", pixel.threshold, pixel.min, pixel.max),
            Compare("anomaly_map", "pred_mask", 1 - self.pixel_sensitivity),
        ]


def main(folder: Path, inference_precision: str | None = "f32") -> dict[str, object]:
    """Fuse, convert, verify and retune; arguments are those of `custom_step.main`."""
    statistics = pp.Statistics.load(STATISTICS)
    fused = pp.fuse(RAW, CalmPostProcessor(statistics))
    fused.save(folder / "fused.onnx")
    model = pp.convert(fused).save(folder / "model.xml")
    verified = pp.verify(RAW, model, IMAGES, inference_precision=inference_precision)
    retuned = pp.retune(model, pixel_sensitivity=0.4, output=folder / "retuned.xml")
    verified_again = pp.verify(RAW, retuned.path, IMAGES, inference_precision=inference_precision)
    timed = pp.benchmark(RAW, [model], inference_precisions=["f32"], against=[], seconds=0.3, memory=False)
    return {
        "verified": verified.passed,
        "errors": {error.name: error.max_scaled for error in verified.postprocessing_errors},
        "retuned": verified_again.passed,
        "way": retuned.way,
        "milliseconds": {Path(result.name).name: result.median_ms for result in timed.results},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args().folder
    chosen.mkdir(parents=True, exist_ok=True)
    print(json.dumps(main(chosen), indent=1))
