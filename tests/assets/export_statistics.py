"""Write files that hold statistics, as Anomalib and Lightning write them; run by hand when they change.

python tests/assets/export_statistics.py     (needs torch and onnxscript)

The arithmetic is that of Anomalib's PostProcessor: `Processor` that of 2.7, `EarlierProcessor` that of 2.0 to 2.6.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

FOLDER = Path(__file__).parent / "statistics"
SIZE = 16
NAN = float("nan")
BUFFERS = {
    "_image_threshold": 9.959613800048828,
    "_pixel_threshold": 7.9113240242004395,
    "image_min": 7.425710201263428,
    "image_max": 15.979560852050781,
    "pixel_min": 1.5876535177230835,
    "pixel_max": 15.979560852050781,
}
CONFIG = {
    "enable_normalization": True,
    "enable_thresholding": True,
    "enable_threshold_matching": True,
    "image_sensitivity": 0.5,
    "pixel_sensitivity": 0.5,
}


class Processor(nn.Module):
    """Anomalib 2.7: everything in tensors."""

    def __init__(self, **given: float | bool) -> None:
        super().__init__()
        for name, value in BUFFERS.items():
            self.register_buffer(name, torch.tensor(float(given.pop(name, value))))
        for name, setting in CONFIG.items():
            setattr(self, name, given.pop(name, setting))
        assert not given, given

    def threshold(self, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        fallback = other if self.enable_threshold_matching else torch.full_like(own, NAN)
        return torch.where(torch.isnan(own), fallback, own)

    def normalize(self, x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        at = torch.where(torch.isnan(at), (high + low) / 2, at)
        extent = high - low
        flat = extent == 0
        normalized = (((x - at) / torch.where(flat, torch.ones_like(extent), extent)) + 0.5).clamp(min=0, max=1)
        step = torch.where(x > at, 1.0, torch.where(x < at, 0.0, 0.5))
        normalized = torch.where(flat, step, normalized)
        return torch.where(~torch.isnan(low) & ~torch.isnan(high), normalized, x)

    def compare(self, x: torch.Tensor, sensitivity: float) -> torch.Tensor:
        return x > torch.tensor(1.0) - sensitivity

    def forward(self, score: torch.Tensor, anomaly_map: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.enable_normalization:
            image = self.threshold(self._image_threshold, self._pixel_threshold)
            pixel = self.threshold(self._pixel_threshold, self._image_threshold)
            score = self.normalize(score, self.image_min, self.image_max, image)
            anomaly_map = self.normalize(anomaly_map, self.pixel_min, self.pixel_max, pixel)
        if not self.enable_thresholding:
            return score, anomaly_map
        label = self.compare(score, self.image_sensitivity)
        return score, label, anomaly_map, self.compare(anomaly_map, self.pixel_sensitivity)


class EarlierProcessor(Processor):
    """Anomalib 2.0 to 2.6: what is unknown is settled in Python, and a range of zero is not looked for."""

    def threshold(self, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if not own.isnan():
            return own
        return other if self.enable_threshold_matching else torch.tensor(NAN)

    def normalize(self, x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        if low.isnan() or high.isnan():
            return x
        if at.isnan():
            at = (high + low) / 2
        return (((x - at) / (high - low)) + 0.5).clamp(min=0, max=1)


class Network(nn.Module):
    """Something that gives a score and a map, and a post-processor behind it."""

    def __init__(self, processor: Processor, outputs: tuple[str, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.post_processor, self.outputs = nn.Conv2d(3, 1, 3, padding=1), processor, outputs

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        anomaly_map = self.stem(image).abs() * 12 + 2
        found = self.post_processor(torch.amax(anomaly_map, dim=(-2, -1)), anomaly_map)
        names = ("pred_score", "pred_label", "anomaly_map", "pred_mask")[:: 1 if len(found) == 4 else 2]
        by_name = dict(zip(names, found, strict=True))
        return tuple(by_name[name] for name in self.outputs)


ALL = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
FLOATS = ("pred_score", "anomaly_map")
EXPORTS: dict[str, tuple[type[Processor], dict[str, float | bool], tuple[str, ...]]] = {
    "plain": (Processor, {}, ALL),
    "sensitive": (Processor, {"image_sensitivity": 0.7, "pixel_sensitivity": 0.2}, ALL),
    "matched": (Processor, {"_pixel_threshold": NAN}, ALL),
    "centred": (Processor, {"_image_threshold": NAN, "enable_threshold_matching": False}, ALL),
    "zero_range": (Processor, {"image_min": 10.0, "image_max": 10.0}, ALL),
    "no_pixel_range": (Processor, {"pixel_min": NAN, "pixel_max": NAN}, ALL),
    "not_normalized": (Processor, {"enable_normalization": False, "image_sensitivity": 0.3}, ALL),
    "not_thresholded": (Processor, {"enable_thresholding": False}, FLOATS),
    "floats_only": (Processor, {}, FLOATS),
    "score_only": (Processor, {"image_sensitivity": 0.6}, ("pred_score", "pred_label")),
    "earlier": (EarlierProcessor, {"image_sensitivity": 0.7}, ALL),
}


def export_onnx(folder: Path, name: str, dynamo: bool) -> Path:
    """Export one of `EXPORTS` with one of torch's exporters."""
    kind, given, outputs = EXPORTS[name]
    model = Network(kind(**given), outputs).eval()
    path = folder / f"{name}{'' if dynamo else '_torchscript'}.onnx"
    names = {"input_names": ["input"], "output_names": list(outputs)}
    image = torch.rand(2, 3, SIZE, SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            torch.onnx.export(
                model, (image,), path, opset_version=18, dynamo=True, external_data=False, verbose=False,
                dynamic_shapes=({0: "batch_size"},), **names,
            )  # fmt: skip
        else:
            axes = {each: {0: "batch_size"} for each in ("input", *outputs)}
            torch.onnx.export(model, (image,), path, opset_version=14, dynamo=False, dynamic_axes=axes, **names)
    model = onnx.load(path)
    # Where each operator stands in this very file is of no use to anyone else.
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    onnx.save(model, path)
    return path


def lightning(processor: Processor, *, config: bool) -> dict[str, Any]:
    """What Lightning saves of an Anomalib model; `hyper_parameters` held the components before 2.7."""
    checkpoint = {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": Network(processor, ALL).state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1, "completed": 0}}}},
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(4)}}, "param_groups": [{"lr": 1e-3}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": OrderedDict(layers=["layer1", "layer2"], pre_trained=True),
    }
    if config:
        checkpoint["anomalib_components_enabled"] = {"post_processor": True, "evaluator": True}
        checkpoint["anomalib_post_processor_config"] = {name: getattr(processor, name) for name in CONFIG}
    else:
        checkpoint["hyper_parameters"]["post_processor"] = Processor(**dict.fromkeys(BUFFERS, NAN))
    return checkpoint


def write_checkpoints(folder: Path) -> None:
    """Write checkpoints as Anomalib 2.0 to 2.7 have them, and what people make of them."""
    torch.save(lightning(Processor(image_sensitivity=0.7), config=True), folder / "anomalib_2_7.ckpt")
    torch.save(lightning(Processor(), config=False), folder / "anomalib_2_2.ckpt")
    alone = Processor(_pixel_threshold=NAN).state_dict()
    torch.save(alone, folder / "post_processor.pt")
    torch.save(alone, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    nested = {f"model.{name}": value for name, value in Network(Processor(), ALL).state_dict().items()}
    torch.save({"state_dict": nested}, folder / "deeper_prefix.ckpt")
    dtypes = dict(zip(BUFFERS, (torch.float16, torch.float64, torch.bfloat16) * 2, strict=True))
    state = Processor().state_dict()
    torch.save({name: state[name].to(dtype) for name, dtype in dtypes.items()}, folder / "dtypes.pt")
    # The way of Anomalib's weights/torch/model.pt: the whole module.
    torch.save({"model": Network(Processor(image_sensitivity=0.6), ALL)}, folder / "model.pt")


def write_json(folder: Path) -> None:
    """Write what Anomalib writes as JSON."""
    transform = {"__version__": "1.3.1", "transform": {"__class_fullname__": "Compose", "p": 1.0, "transforms": []}}
    common = {"task": "segmentation", "transform": transform, "image_threshold": 13.5, "pixel_threshold": 11.25}
    ranges = {"anomaly_maps.min": 1.5, "anomaly_maps.max": 20.0, "pred_scores.min": 6.5, "pred_scores.max": 21.0}
    tiled = {
        "minmax": {"pred_score": {"min": 6.5, "max": 21.0}, "anomaly_map": {"min": NAN, "max": NAN}},
        "image_threshold": 13.5,
        "pixel_threshold": 13.5,
    }
    for name, content in {
        "metadata_0_7": {**common, "min": 1.5, "max": 21.0},
        "metadata_1_x": {**common, **ranges, "box_scores.min": 2.0, "box_scores.max": 3.0},
        "tiled_ensemble": tiled,
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=4))


def main() -> None:
    """Write every file."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    FOLDER.mkdir(exist_ok=True)
    for name, (kind, _, _) in EXPORTS.items():
        for dynamo in (True, False):
            # Its branches on buffers are settled while torch.jit traces; torch.export refuses them.
            if not (dynamo and kind is EarlierProcessor):
                export_onnx(FOLDER, name, dynamo)
    write_checkpoints(FOLDER)
    write_json(FOLDER)


if __name__ == "__main__":
    main()
