"""Train a small autoencoder with Lightning; the callback finds the thresholds and exports to OpenVINO at the end.

Needs the extra `lightning`: pip install 'pp_graph[lightning]'. Run it:

    python examples/train_with_lightning.py --output exported

It takes a minute or less and downloads nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import pp_graph as pp
from pp_graph.integrations.lightning import PostProcessorCallback

SIZE = 32


class Stripes(Dataset[dict[str, Tensor]]):
    """Images of stripes; with ``anomalous``, every other one has a patch in which they run the other way.

    Args:
        seed: Seed of the first image.
        images: How many.
        anomalous: Whether there are anomalies.
    """

    def __init__(self, seed: int, images: int, *, anomalous: bool) -> None:
        self.seed, self.images, self.anomalous = seed, images, anomalous

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``image`` [3, 32, 32] in [0, 1], ``label`` [] and ``mask`` [32, 32]."""
        generator = torch.Generator().manual_seed(self.seed + index)
        phase = torch.rand((), generator=generator) * 6.28
        stripes = torch.sin(torch.arange(SIZE) * 0.8 + phase).expand(SIZE, SIZE)
        mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        if self.anomalous and index % 2:
            top, left = torch.randint(2, SIZE - 12, (2,), generator=generator).tolist()
            mask[top : top + 10, left : left + 10] = True
        pattern = torch.where(mask, stripes.T, stripes)
        noise = torch.randn(3, SIZE, SIZE, generator=generator) * 0.02
        return {"image": (0.5 + 0.4 * pattern + noise).clamp(0, 1), "label": mask.any(), "mask": mask}


class AutoEncoder(nn.Module):
    """Draws an image again through a bottleneck; what it has not learned to draw, it draws badly."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 8, stride=4, padding=2), nn.ReLU(), nn.Conv2d(8, 4, 1))
        self.decoder = nn.ConvTranspose2d(4, 3, 8, stride=4, padding=2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Raw ``pred_score`` [batch] and ``anomaly_map`` [batch, 1, 32, 32]."""
        error = (self.decoder(self.encoder(image)) - image).square().mean(1, keepdim=True)
        anomaly_map = nn.functional.avg_pool2d(error, 5, stride=1, padding=2)
        return anomaly_map.amax((1, 2, 3)), anomaly_map


class Inspection(pl.LightningModule):
    """Steps return raw values by name; there is no post-processing here."""

    def __init__(self) -> None:
        super().__init__()
        self.model = AutoEncoder()
        self.example_input_array = torch.rand(2, 3, SIZE, SIZE)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Raw score and map; the model summary of the default trainer calls it."""
        score, anomaly_map = self.model(image)
        return score, anomaly_map

    def raw(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Raw values of a batch."""
        score, anomaly_map = self(batch["image"])
        return {"pred_score": score, "anomaly_map": anomaly_map}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """How badly normal images are drawn."""
        return self.raw(batch)["anomaly_map"].mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Raw values; the callback finds labels and masks in the batch."""
        return self.raw(batch)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Raw values, to which the callback writes predictions."""
        return self.raw(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer."""
        return torch.optim.Adam(self.parameters(), 0.01)


def train(output: Path, epochs: int = 10, **trainer: Any) -> tuple[PostProcessorCallback, list[Any]]:
    """Train, calibrate and export to ``model.xml``; return the callback and predictions of new images."""
    torch.manual_seed(7)
    training = DataLoader(Stripes(0, 256, anomalous=False), batch_size=16, shuffle=True)
    validation = DataLoader(Stripes(10_000, 60, anomalous=True), batch_size=20)
    unseen = DataLoader(Stripes(20_000, 40, anomalous=True), batch_size=20)
    callback = PostProcessorCallback(
        pp.OneClassPostProcessor(image_sensitivity=0.5, pixel_sensitivity=0.5),
        export_to=output / "model.xml",
        export_module="model",
    )
    module = Inspection()
    running = pl.Trainer(max_epochs=epochs, accelerator="cpu", devices=1, callbacks=[callback], logger=False, **trainer)
    running.fit(module, training, validation)
    return callback, running.predict(module, unseen) or []


def main() -> None:
    """Train, and print what was found."""
    parser = argparse.ArgumentParser(description="Train with the callback and export to OpenVINO.")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for model.xml (default: this one)")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    callback, batches = train(output, enable_checkpointing=False)
    assert callback.statistics is not None
    assert callback.result is not None
    for name, level in callback.result.levels.items():
        assert level.metrics is not None
        print(f"{name}: threshold {level.statistics.threshold:.6f}, F1 {level.metrics.f1:.3f} in validation")
    labels = torch.cat([batch["pred_label"] for batch in batches])
    print(f"{int(labels.sum())} of {len(labels)} new images are anomalous; 20 are")
    print(f"exported: {output / 'model.xml'}")


if __name__ == "__main__":
    main()
