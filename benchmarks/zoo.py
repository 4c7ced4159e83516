"""Models to measure on: anomaly detectors as Anomalib 2.7 writes them, and models without a blur at their end.

    python benchmarks/zoo.py FOLDER [--models padim_resnet18,unet] [--list]

Each is exported by `torch.onnx.export` as `<name>.onnx`, raw, and as `<name>_full.onnx` with Anomalib's post-processing
in torch after it, as Anomalib's own exports have it. Weights are random but fixed: speed does not depend on them.
Heads follow the sources of Anomalib 2.7 operator by operator; backbones are ResNets in plain torch, because
torchvision and timm are not needed for anything else here. Needs torch and onnxscript.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

SIZE = 256
OPSET = 18


class ResNet(nn.Module):
    """ResNet of basic blocks up to layer 3; returns the outputs of its layers."""

    def __init__(self, blocks: tuple[int, ...] = (2, 2, 2), width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        layers, channels = [], width
        for index, count in enumerate(blocks):
            out = width * 2**index
            parts = [BasicBlock(channels, out, 1 if index == 0 else 2)]
            parts += [BasicBlock(out, out, 1) for _ in range(count - 1)]
            layers.append(nn.Sequential(*parts))
            channels = out
        self.layers = nn.ModuleList(layers)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        features, x = [], self.stem(image)
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return features


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class GaussianBlur(nn.Module):
    """Anomalib's GaussianBlur2d: reflect padding and one two-dimensional convolution."""

    def __init__(self, sigma: float = 4) -> None:
        super().__init__()
        size = 2 * int(4.0 * sigma + 0.5) + 1
        x = torch.arange(size, dtype=torch.float32) - size // 2
        kernel = torch.exp(-(x**2) / (2 * sigma**2))
        kernel = kernel / kernel.sum()
        kernel = torch.outer(kernel, kernel)
        self.register_buffer("kernel", (kernel / kernel.abs().sum())[None, None])
        self.padding = size // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channel, height, width = x.size()
        x = F.pad(x, [self.padding] * 4, mode="reflect")
        return F.conv2d(x, self.kernel).view(batch, channel, height, width)


class Padim(nn.Module):
    """Mahalanobis distance of 100 random channels to a Gaussian a position."""

    def __init__(self, backbone: ResNet, channels: int, features: int = 100) -> None:
        super().__init__()
        self.backbone = backbone
        side = SIZE // 4
        self.register_buffer("index", torch.randperm(channels)[:features])
        self.register_buffer("mean", torch.randn(features, side * side) * 0.1)
        half = torch.randn(side * side, features, features) / features**0.5
        self.register_buffer("inverse_covariance", half @ half.transpose(1, 2) + 0.1 * torch.eye(features))
        self.blur = GaussianBlur()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.backbone(image)
        embedding = features[0]
        for feature in features[1:]:
            embedding = torch.cat((embedding, F.interpolate(feature, size=embedding.shape[-2:], mode="nearest")), 1)
        embedding = torch.index_select(embedding, 1, self.index)
        batch, channel, height, width = embedding.shape
        embedding = embedding.reshape(batch, channel, height * width)
        delta = (embedding - self.mean).permute(2, 0, 1)
        distances = (torch.matmul(delta, self.inverse_covariance) * delta).sum(2).permute(1, 0)
        distances = distances.reshape(batch, 1, height, width).clamp(0).sqrt()
        distances = F.interpolate(distances, size=image.shape[-2:], mode="bilinear", align_corners=False)
        anomaly_map = self.blur(distances)
        return torch.amax(anomaly_map, dim=(-2, -1)), anomaly_map


class PatchCore(nn.Module):
    """Distance of each patch to the nearest of a memory bank."""

    def __init__(self, backbone: ResNet, channels: int, memory: int = 2000, neighbors: int = 9) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooler = nn.AvgPool2d(3, 1, 1)
        self.register_buffer("memory_bank", torch.rand(memory, channels))
        self.neighbors = neighbors
        self.blur = GaussianBlur()

    @staticmethod
    def distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x_norm = x.pow(2).sum(dim=-1, keepdim=True)
        y_norm = y.pow(2).sum(dim=-1, keepdim=True)
        result = torch.matmul(x, y.transpose(-2, -1)) * -2 + x_norm + y_norm.transpose(-2, -1)
        return result.clamp_min(0).sqrt()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = [self.pooler(feature) for feature in self.backbone(image)[1:]]
        embedding = features[0]
        for feature in features[1:]:
            embedding = torch.cat((embedding, F.interpolate(feature, size=embedding.shape[-2:], mode="bilinear")), 1)
        batch, channels, height, width = embedding.shape
        embedding = embedding.permute(0, 2, 3, 1).reshape(-1, channels)
        patch_scores, locations = self.distance(embedding, self.memory_bank).min(1)
        patch_scores = patch_scores.reshape((batch, -1))
        locations = locations.reshape((batch, -1))
        score = self.score(patch_scores, locations, embedding)
        patch_scores = patch_scores.reshape((batch, 1, height, width))
        return score, self.blur(F.interpolate(patch_scores, size=image.shape[-2:]))

    def score(self, patch_scores: torch.Tensor, locations: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        batch, patches = patch_scores.shape
        furthest = torch.argmax(patch_scores, dim=1)
        row = torch.arange(batch)
        features = embedding.reshape(batch, patches, -1)[row, furthest]
        score = patch_scores[row, furthest]
        nearest = self.memory_bank[locations[row, furthest], :]
        _, support = self.distance(nearest, self.memory_bank).topk(k=self.neighbors, largest=False, dim=1)
        distances = self.distance(features.unsqueeze(1), self.memory_bank[support])
        return (1 - F.softmax(distances.squeeze(1), 1))[..., 0] * score


class ReverseDistillation(nn.Module):
    """Cosine distance between an encoder and a decoder at three scales, added or multiplied, then blurred."""

    def __init__(self, mode: str = "add", width: int = 64) -> None:
        super().__init__()
        self.encoder = ResNet(width=width)
        self.bottleneck = nn.Sequential(nn.Conv2d(4 * width, 8 * width, 3, 2, 1), nn.ReLU())
        stages, channels = [], 8 * width
        for index in (2, 1, 0):
            out = width * 2**index
            stages.append(nn.Sequential(nn.ConvTranspose2d(channels, out, 2, 2), nn.ReLU(), BasicBlock(out, out, 1)))
            channels = out
        self.decoder = nn.ModuleList(stages)
        self.mode = mode
        self.blur = GaussianBlur()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        teacher = self.encoder(image)
        x, student = self.bottleneck(teacher[-1]), []
        for stage in self.decoder:
            x = stage(x)
            student.insert(0, x)
        make = torch.ones if self.mode == "multiply" else torch.zeros
        anomaly_map = make([image.shape[0], 1, SIZE, SIZE])
        for ours, theirs in zip(student, teacher, strict=True):
            distance = torch.unsqueeze(1 - F.cosine_similarity(ours, theirs), dim=1)
            distance = F.interpolate(distance, size=(SIZE, SIZE), mode="bilinear", align_corners=True)
            anomaly_map = anomaly_map * distance if self.mode == "multiply" else anomaly_map + distance
        anomaly_map = self.blur(anomaly_map)
        return torch.amax(anomaly_map, dim=(-2, -1)), anomaly_map


class MeanOfMaps(nn.Module):
    """Maps of several scales averaged by concatenation, as Dinomaly does, then blurred."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet()
        self.heads = nn.ModuleList(nn.Conv2d(64 * 2**index, 1, 1) for index in range(3))
        self.blur = GaussianBlur()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = [
            F.interpolate(head(feature), size=(SIZE, SIZE), mode="bilinear", align_corners=True)
            for head, feature in zip(self.heads, self.backbone(image), strict=True)
        ]
        anomaly_map = self.blur(torch.cat(maps, dim=1).mean(dim=1, keepdim=True))
        return torch.amax(anomaly_map, dim=(-2, -1)), anomaly_map


class StudentTeacher(nn.Module):
    """STFPM: normalised features compared at three scales, multiplied; no blur."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = ResNet(), ResNet()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        anomaly_map = torch.ones(image.shape[0], 1, SIZE, SIZE)
        for theirs, ours in zip(self.teacher(image), self.student(image), strict=True):
            distance = 0.5 * torch.norm(F.normalize(theirs) - F.normalize(ours), p=2, dim=-3, keepdim=True) ** 2
            anomaly_map = anomaly_map * F.interpolate(distance, size=(SIZE, SIZE), align_corners=False, mode="bilinear")
        return torch.amax(anomaly_map, dim=(-2, -1)), anomaly_map


class UNet(nn.Module):
    """A small U-Net that draws the map itself, as reconstruction and segmentation models do."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.down = nn.ModuleList(BasicBlock(3 if i == 0 else width * 2 ** (i - 1), width * 2**i, 2) for i in range(4))
        self.up = nn.ModuleList(
            BasicBlock(width * 2 ** (i + 1) + width * 2**i, width * 2**i, 1) for i in reversed(range(3))
        )
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        skips, x = [], image
        for stage in self.down:
            x = stage(x)
            skips.append(x)
        for stage, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = stage(torch.cat((F.interpolate(x, scale_factor=2.0, mode="bilinear"), skip), 1))
        anomaly_map = torch.sigmoid(F.interpolate(self.head(x), size=(SIZE, SIZE), mode="bilinear"))
        return torch.amax(anomaly_map, dim=(-2, -1)), anomaly_map


class Scorer(nn.Module):
    """A network with a score and no map."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet()
        self.head = nn.Linear(256, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.head(self.backbone(image)[-1].mean((2, 3))),)


class WithPostProcessing(nn.Module):
    """Anomalib 2.7's PostProcessor in torch after a model, as its own exports have it."""

    def __init__(self, model: nn.Module, stats: dict[str, dict[str, float]]) -> None:
        super().__init__()
        self.model = model
        for level, numbers in stats.items():
            for name, number in numbers.items():
                self.register_buffer(f"{level}_{name}", torch.tensor(number))

    def _normalize(self, x: torch.Tensor, level: str) -> torch.Tensor:
        low, high = getattr(self, f"{level}_min"), getattr(self, f"{level}_max")
        return torch.clamp((x - getattr(self, f"{level}_threshold")) / (high - low) + 0.5, min=0, max=1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        score, *maps = self.model(image)
        score = self._normalize(score, "image")
        outputs = [score, score > 0.5]
        for anomaly_map in maps:
            normalized = self._normalize(anomaly_map, "pixel")
            outputs += [normalized, normalized > 0.5]
        return tuple(outputs)


MODELS: dict[str, tuple[str, Any]] = {
    "padim_resnet18": ("tail", lambda: Padim(ResNet(), 448)),
    "padim_resnet34": ("tail", lambda: Padim(ResNet((3, 4, 6)), 448)),
    "patchcore_resnet18": ("tail", lambda: PatchCore(ResNet(), 384)),
    "reverse_distillation": ("tail", ReverseDistillation),
    "reverse_distillation_multiply": ("tail", lambda: ReverseDistillation("multiply")),
    "mean_of_maps": ("tail", MeanOfMaps),
    "stfpm_resnet18": ("no tail", StudentTeacher),
    "unet": ("no tail", UNet),
    "score_only": ("no tail", Scorer),
}
"""Name to (whether it ends in a blur, how to make it)."""


def export(name: str, folder: Path) -> dict[str, Path]:
    """Export a model raw and full, with statistics that fit it.

    Returns:
        Paths under `raw`, `full` and `stats`.
    """
    torch.manual_seed(0)
    model = MODELS[name][1]().eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    images = torch.rand(4, 3, SIZE, SIZE)
    with torch.no_grad():
        outputs = model(images)
    levels = dict(zip(("image", "pixel"), outputs, strict=False))
    stats = {
        level: {"threshold": float(x.median()), "min": float(x.min()), "max": float(x.max())}
        for level, x in levels.items()
    }
    paths = {kind: folder / f"{name}{suffix}" for kind, suffix in
             (("raw", ".onnx"), ("full", "_full.onnx"), ("stats", ".json"))}  # fmt: skip
    raw_names = ["pred_score", "anomaly_map"][: len(outputs)]
    full_names = ["pred_score", "pred_label", "anomaly_map", "pred_mask"][: 2 * len(outputs)]
    for kind, exported, names in (("raw", model, raw_names), ("full", WithPostProcessing(model, stats), full_names)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                exported.eval(),
                (images[:2],),
                paths[kind],
                input_names=["input"],
                output_names=names,
                opset_version=OPSET,
                dynamic_shapes=({0: "batch_size"},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    for level in ("image", "pixel"):
        stats.setdefault(level, {"threshold": None, "min": None, "max": None})  # type: ignore[dict-item]
    if any(
        not math.isfinite(number) for numbers in stats.values() for number in numbers.values() if number is not None
    ):
        raise ValueError(f"Statistics of '{name}' are not finite: {stats}.")
    paths["stats"].write_text(json.dumps(stats))
    return paths


def main() -> None:
    """Export the requested models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path())
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--list", action="store_true", help="name the models and stop")
    arguments = parser.parse_args()
    for name in arguments.models.split(","):
        print(name if not arguments.list else f"{name:32} {MODELS[name][0]}")
        if not arguments.list:
            arguments.folder.mkdir(parents=True, exist_ok=True)
            export(name, arguments.folder)


if __name__ == "__main__":
    main()
