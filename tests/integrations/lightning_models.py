"""Lightning modules and data for tests, for either Lightning package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

SIZE = 16


class Squares(Dataset):
    """Dim noise; every other image has a bright square."""

    def __init__(self, images: int = 12) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(index)) * 0.2
        mask = torch.zeros(SIZE, SIZE)
        if index % 2:
            image[:, 4:9, 4:9] += 0.6
            mask[4:9, 4:9] = 1
        return {"image": image, "label": index % 2, "mask": mask}


def loader(images: int = 12, batch: int = 5) -> DataLoader:
    return DataLoader(Squares(images), batch_size=batch)


class AutoEncoder(nn.Module):
    """image (N,3,H,W) -> pred_score (N,1), anomaly_map (N,1,H,W): the reconstruction error."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU())
        self.decoder = nn.ConvTranspose2d(4, 3, 2, stride=2)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        error = (self.decoder(self.encoder(image)) - image).square().mean(1, keepdim=True)
        return error.amax((2, 3)), error


def training_module(pl: Any) -> Any:
    """A trainable module; `seen` holds the raw outputs of its last validation."""

    class Trained(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoEncoder()
            self.example_input_array = torch.zeros(2, 3, SIZE, SIZE)
            self.seen: list[dict[str, np.ndarray]] = []

        def raw(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
            return dict(zip(("pred_score", "anomaly_map"), self.model(batch["image"]), strict=True))

        def training_step(self, batch: dict[str, Any], index: int) -> torch.Tensor:
            return self.raw(batch)["anomaly_map"].mean()

        def on_validation_start(self) -> None:
            self.seen = []

        def validation_step(self, batch: dict[str, Any], index: int) -> dict[str, torch.Tensor]:
            outputs = self.raw(batch)
            kept = {**outputs, "label": batch["label"], "mask": batch["mask"]}
            self.seen.append({name: value.detach().numpy().copy() for name, value in kept.items()})
            return outputs

        def test_step(self, batch: dict[str, Any], index: int) -> dict[str, torch.Tensor]:
            return self.raw(batch)

        predict_step = test_step

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.05)

    torch.manual_seed(1)
    return Trained()


def replaying_module(pl: Any, outputs: Callable[[Any], Any]) -> Any:
    """A module whose steps return `outputs(batch)`."""

    class Replaying(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self.weight.sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

        def validation_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> Any:
            return outputs(batch)

        def test_step(self, batch: Any, index: int) -> Any:
            return outputs(batch)

        def predict_step(self, batch: Any, index: int) -> Any:
            return outputs(batch)

    return Replaying()


class Arrays(Dataset):
    """Items of arrays, as a dict or as a tuple."""

    def __init__(self, *, as_tuple: bool = False, **arrays: np.ndarray) -> None:
        self.arrays = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
        self.as_tuple = as_tuple

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> Any:
        item = {name: tensor[index] for name, tensor in self.arrays.items()}
        return tuple(item.values()) if self.as_tuple else item


def replayed(batch: int = 4, *, as_tuple: bool = False, **arrays: np.ndarray) -> DataLoader:
    return DataLoader(Arrays(as_tuple=as_tuple, **arrays), batch_size=batch)


def trainer(pl: Any, *callbacks: Any, **settings: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    settings = {"accelerator": "cpu", "devices": 1, "enable_checkpointing": False, **quiet, **settings}
    return pl.Trainer(callbacks=list(callbacks), **settings)
