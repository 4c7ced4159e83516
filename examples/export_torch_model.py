"""From a torch model to a verified OpenVINO model in one call.

python examples/export_torch_model.py model.xml

The model stands for one of your own: it compares the features of an image with those of normal ones, and returns a map
of distances. Its threshold and range are calibrated on a validation set, then everything goes into one file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import pp_graph as pp
from pp_graph.integrations.torch import OneClassPostProcessor, export


class FeatureDistance(nn.Module):
    """Distance of each pixel's features from their mean over normal images."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 8, 3, padding=1)
        )
        self.register_buffer("mean", torch.zeros(1, 8, 1, 1))

    def fit(self, normal: torch.Tensor) -> None:
        """Remember the mean features of normal images, (N,3,H,W)."""
        with torch.no_grad():
            self.mean = self.features(normal).mean(dim=(0, 2, 3), keepdim=True)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map and score of a batch, (N,3,H,W)."""
        distance = (self.features(image) - self.mean).square().sum(dim=1, keepdim=True).sqrt()
        anomaly_map = functional.interpolate(distance, scale_factor=2.0, mode="bilinear")
        return {"pred_score": anomaly_map.amax(dim=(2, 3)), "anomaly_map": anomaly_map}


def make_images(generator: torch.Generator, count: int, *, defective: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of noise, with a bright square where they are defective; and the mask of that."""
    images = 0.4 + 0.05 * torch.randn(count, 3, 64, 64, generator=generator)
    masks = torch.zeros(count, 64, 64, dtype=torch.bool)
    if defective:
        for image, mask in zip(images, masks, strict=True):
            top, left = torch.randint(4, 44, (2,), generator=generator).tolist()
            image[:, top : top + 14, left : left + 14] += 0.5
            mask[top : top + 14, left : left + 14] = True
    return images, masks


def main() -> None:
    """Train, calibrate and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, metavar="FILE.xml")
    output = parser.parse_args().output
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)

    model = FeatureDistance().eval()
    model.fit(make_images(generator, 16, defective=False)[0])

    good, _ = make_images(generator, 16, defective=False)
    bad, masks = make_images(generator, 16, defective=True)
    with torch.no_grad():
        raw = model(torch.cat([good, bad]))
    calibrator = pp.Calibrator()
    calibrator.update(
        scores=raw["pred_score"].numpy(),
        labels=np.repeat([0, 1], 16),
        maps=raw["anomaly_map"].numpy(),
        masks=torch.cat([torch.zeros_like(masks), masks]).numpy(),
    )
    statistics = calibrator.result().statistics

    post_processor = OneClassPostProcessor(image_sensitivity=0.5, statistics=statistics)
    exported = export(model, post_processor, bad, output)
    verification = exported.verification
    flips = verification.postprocessing_flips + verification.drift_flips
    print(f"{exported.path}: {flips} of {verification.images} images' decisions differ from the torch model's export")

    # The module decides in torch as the file does in OpenVINO.
    predictions = post_processor(model(bad))
    shipped = pp.load(output)({"image": bad.numpy()})
    same = np.array_equal(predictions.pred_label.numpy(), shipped.pred_label)
    print(f"{int(predictions.pred_label.sum())} of 16 bad images are found, in torch and in OpenVINO alike: {same}")


if __name__ == "__main__":
    main()
