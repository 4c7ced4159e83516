"""Export the tails of real anomaly models with both exporters of torch, for the tests; run by hand when they change.

python tests/assets/export_tails.py     (needs torch and onnxscript)
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

FOLDER = Path(__file__).parent / "tails"
SIZE = 96


class Blur(nn.Module):
    """Anomalib's GaussianBlur2d, sigma 2."""

    def __init__(self) -> None:
        super().__init__()
        x = torch.arange(17, dtype=torch.float32) - 8
        row = torch.exp(-(x**2) / 8)
        kernel = torch.outer(row, row)
        self.register_buffer("kernel", (kernel / kernel.sum())[None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channel, height, width = x.size()
        return F.conv2d(F.pad(x, [8] * 4, mode="reflect"), self.kernel).view(batch, channel, height, width)


class Stem(nn.Module):
    """Three feature maps of 24, 12 and 6 a side."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1) for i, o in ((3, 4), (4, 4), (4, 8), (8, 8)))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        x, features = image, []
        for stage in self.stages:
            x = F.relu(stage(x))
            features.append(x)
        return features[1:]


class Tail(nn.Module):
    """A stem, and a head that makes a map of the image's size."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.stem, self.blur, self.head = Stem(), Blur(), head
        self.maps = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in (4, 8, 8))
        self.register_buffer("index", torch.tensor([13, 2, 7, 19, 0, 11]))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.stem(image)
        maps = [head(x).abs() for head, x in zip(self.maps, features, strict=True)]
        anomaly_map = getattr(self, f"_{self.head}")(maps, features)
        return torch.amax(anomaly_map, dim=(-2, -1)), anomaly_map

    def _blurred_bilinear(self, maps: list[torch.Tensor], _: list[torch.Tensor]) -> torch.Tensor:
        return self.blur(F.interpolate(maps[0], size=(SIZE, SIZE), mode="bilinear"))

    def _blurred_nearest(self, maps: list[torch.Tensor], _: list[torch.Tensor]) -> torch.Tensor:
        return self.blur(F.interpolate(maps[1], size=(SIZE, SIZE)))

    def _blurred_bicubic(self, maps: list[torch.Tensor], _: list[torch.Tensor]) -> torch.Tensor:
        return self.blur(F.interpolate(maps[1], size=(SIZE, SIZE), mode="bicubic"))

    def _sum_of_maps(self, maps: list[torch.Tensor], _: list[torch.Tensor]) -> torch.Tensor:
        total = torch.zeros([maps[0].shape[0], 1, SIZE, SIZE])
        for each in maps:
            total = total + F.interpolate(each, size=(SIZE, SIZE), mode="bilinear", align_corners=True)
        return self.blur(total)

    def _product_of_maps(self, maps: list[torch.Tensor], _: list[torch.Tensor]) -> torch.Tensor:
        total = torch.ones([maps[0].shape[0], 1, SIZE, SIZE])
        for each in maps:
            total = total * F.interpolate(each, size=(SIZE, SIZE), mode="bilinear", align_corners=True)
        return self.blur(total)

    def _mean_of_maps(self, maps: list[torch.Tensor], _: list[torch.Tensor]) -> torch.Tensor:
        each = [F.interpolate(x, size=(SIZE, SIZE), mode="bilinear") for x in maps]
        return self.blur(torch.cat(each, dim=1).mean(dim=1, keepdim=True))

    def _stacked_maps(self, maps: list[torch.Tensor], _: list[torch.Tensor]) -> torch.Tensor:
        each = [F.interpolate(x, size=(SIZE, SIZE), mode="bilinear") for x in maps]
        return torch.mean(torch.stack(each, dim=-1), dim=-1)

    def _selected_channels(self, _: list[torch.Tensor], features: list[torch.Tensor]) -> torch.Tensor:
        joined = features[0]
        for feature in features[1:]:
            joined = torch.cat((joined, F.interpolate(feature, size=joined.shape[-2:], mode="nearest")), 1)
        chosen = torch.index_select(joined, 1, self.index)
        norm = (chosen**2).sum(1, keepdim=True).sqrt()
        return self.blur(F.interpolate(norm, size=(SIZE, SIZE), mode="bilinear"))


HEADS = [name.removeprefix("_") for name in vars(Tail) if name.startswith("_") and not name.startswith("__")]


def main() -> None:
    """Export every head with both exporters."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    FOLDER.mkdir(exist_ok=True)
    for head in HEADS:
        torch.manual_seed(0)
        model = Tail(head).eval()
        image = torch.rand(2, 3, SIZE, SIZE)
        names = {"input_names": ["input"], "output_names": ["pred_score", "anomaly_map"]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model, (image,), FOLDER / f"{head}.onnx", opset_version=18, dynamo=True, external_data=False,
                dynamic_shapes=({0: "batch_size"},), verbose=False, **names,
            )  # fmt: skip
            torch.onnx.export(
                model, (image,), FOLDER / f"{head}_torchscript.onnx", opset_version=14, dynamo=False,
                dynamic_axes={"input": {0: "batch_size"}, "anomaly_map": {0: "batch_size"}}, **names,
            )  # fmt: skip


if __name__ == "__main__":
    main()
