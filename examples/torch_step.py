"""A step written as a torch module, which is its own reference.

The module smooths the map with a Gaussian of a given width and subtracts a share of the local mean, so that only
contrast to the surroundings remains. `torch.onnx.export` writes it as ONNX; pp_graph writes those operators into the
raw model, which needs opset 18 or later (`raise_opset=18` raises an older one).

python examples/torch_step.py OUTPUT_FOLDER
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

import pp_graph as pp
from pp_graph.demo import IMAGES, RAW, STATISTICS
from pp_graph.integrations.torch.module_step import ModuleStep
from pp_graph.steps import Compare, MaxOverMap, MinMaxNormalize, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pp_graph.program import Signature


class LocalContrast(nn.Module):
    """Smooth (N,1,H,W) with a Gaussian, and subtract a share of the mean over a wide window."""

    def __init__(self, sigma: float, background: float) -> None:
        super().__init__()
        at = torch.arange(-3, 4, dtype=torch.float32)
        kernel = torch.exp(-(at**2) / (2 * sigma**2))
        kernel = kernel / kernel.sum()
        self.register_buffer("kernel", (kernel[:, None] * kernel[None, :])[None, None])
        self.background = background
        self.mean = nn.AvgPool2d(9, stride=1, padding=4, count_include_pad=False)

    def forward(self, heat: torch.Tensor) -> torch.Tensor:
        """(N,1,H,W) float32 to (N,1,H,W) float32."""
        smooth = nn.functional.conv2d(heat, self.kernel, padding=3)
        return smooth - self.background * self.mean(heat)


@dataclass(frozen=True)
class ContrastPostProcessor(pp.PostProcessor):
    """Decide about the local contrast of the map.

    The module is built again from these numbers whenever a model is verified or retuned, and exported once for each.
    """

    statistics: pp.Statistics | None = None
    sigma: float = 1.0
    background: float = 0.25
    pixel_sensitivity: float = 0.5

    def steps(self, raw: Signature) -> Sequence[Step]:
        """The torch step reads the map; the rest are steps of pp_graph."""
        del raw
        pixel = self.statistics.pixel
        keeps = 1 - self.background
        low, middle, high = (keeps * number for number in (pixel.min, pixel.threshold, pixel.max))
        return [
            ModuleStep("raw_map", "contrast", LocalContrast(self.sigma, self.background)),
            MaxOverMap("contrast", "highest"),
            MinMaxNormalize("highest", "pred_score", middle, low, high),
            Compare("pred_score", "pred_label", 0.5),
            MinMaxNormalize("contrast", "anomaly_map", middle, low, high),
            Compare("anomaly_map", "pred_mask", 1 - self.pixel_sensitivity),
        ]


def main(folder: Path, inference_precision: str | None = "f32") -> dict[str, object]:
    """Fuse, convert, verify and retune; arguments are those of `custom_step.main`."""
    statistics = pp.Statistics.load(STATISTICS)
    fused = pp.fuse(RAW, ContrastPostProcessor(statistics))
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
