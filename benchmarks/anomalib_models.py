"""Export Anomalib's models as cases for `runtime_ratios.py --cases`. Needs Anomalib (extra `anomalib`), but no network.

    python benchmarks/anomalib_models.py FOLDER [--models Padim] [--exporters dynamo,legacy] [--batches open,1,2]

Weights are random but fixed: speed does not depend on them. Memory banks and statistics are fitted to random images.
Each case is a folder with `raw.onnx`, `full.onnx` (Anomalib's own export, with its post-processing) and `stats.json`.
A model that cannot be built or exported is printed with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGES: Final = 16
PASSES: Final = {"MHPatchcore": 3}
"""Passes over the images to fit what follows the network, if it takes several."""
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "AnomalyDINO": {},
    "Cfa": {},
    "Cflow": {"pre_trained": False},
    "Csflow": {},
    "Dfkde": {"pre_trained": False, "n_pca_components": 8},
    "Dfm": {"pre_trained": False},
    "Dinomaly": {},
    "Draem": {},
    "Dsr": {},
    "EfficientAd": {},
    "Fastflow": {"pre_trained": False},
    "Fre": {"pre_trained": False},
    "Ganomaly": {},
    "GeneralAD": {},
    "Glass": {"pre_trained": False},
    "InpFormer": {},
    "L2BT": {},
    "MHPatchcore": {"pre_trained": False},
    "Padim": {"pre_trained": False},
    "Patchcore": {"pre_trained": False},
    "Patchflow": {"pre_trained": False},
    "Rad": {"pre_trained": False},
    "ReverseDistillation": {"pre_trained": False},
    "Stfpm": {},
    "SuperADD": {},
    "Supersimplenet": {},
    "Uflow": {},
    "UniNet": {},
}


@contextlib.contextmanager
def random_weights() -> Iterator[None]:
    """Build backbones of timm and torchvision without downloading their weights."""
    import timm
    import torchvision
    from anomalib.models.image.csflow import torch_model as csflow

    places = [(timm, "create_model"), (torchvision.models, "wide_resnet50_2"), (csflow, "efficientnet_b5")]
    saved = [(module, name, getattr(module, name)) for module, name in places]

    def without_weights(create: Any) -> Any:
        return lambda *args, **settings: create(*args, **{**settings, **{
            key: value for key, value in (("pretrained", False), ("weights", None)) if key in settings
        }})  # fmt: skip

    for module, name, create in saved:
        setattr(module, name, without_weights(create))
    try:
        yield
    finally:
        for module, name, create in saved:
            setattr(module, name, create)


def build(name: str) -> tuple[Any, tuple[int, int]]:
    """Build a model and fit its memory bank, if it has one. Returns it with the size of its images."""
    from anomalib import models

    torch.manual_seed(0)
    kind = getattr(models, name)
    with random_weights():
        settings = {**SETTINGS[name], **({} if name == "Ganomaly" else {"visualizer": False})}
        if name == "Draem":  # a folder that exists is not downloaded
            settings["dtd_dir"] = Path(__file__).parent
        model = kind(**settings)
    height, width = getattr(model, "input_size", None) or (256, 256)
    images = torch.rand((IMAGES, 3, int(height), int(width)), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        batches = [SimpleNamespace(image=model.pre_processor(each)) for each in images.split(4)]
        if name == "Cfa":
            model.model.initialize_centroid(batches)
        if hasattr(model, "fit"):
            model.model.train()
            for _ in range(PASSES.get(name, 1)):
                for each in batches:
                    model.training_step(each)
                model.fit()
    return model.eval(), (int(height), int(width))


def set_statistics(model: Any, images: torch.Tensor) -> dict[str, dict[str, float]]:
    """Give the post-processor statistics of the model's own values, and return them."""
    with torch.no_grad():
        values = model.model(model.pre_processor(images))
    stats: dict[str, dict[str, float]] = {}
    for level, found in (("image", values.pred_score), ("pixel", values.anomaly_map)):
        if found is None:
            continue
        low, middle, high = np.quantile(found.float().numpy(), [0.0, 0.9, 1.0]).astype(np.float32).tolist()
        stats[level] = {"threshold": middle, "min": low, "max": high}
        for key, number in ((f"_{level}_threshold", middle), (f"{level}_min", low), (f"{level}_max", high)):
            setattr(model.post_processor, key, torch.tensor(number))
    return stats


def export(model: Any, size: tuple[int, int], path: Path, *, dynamo: bool, batch: str) -> None:
    """Export a model as Anomalib does, with an open or a fixed batch."""
    example = torch.zeros((1 if batch == "open" else int(batch), 3, *size))
    names = [name for name, value in model(example)._asdict().items() if value is not None]
    settings: dict[str, Any] = {"opset_version": 18, "input_names": ["input"], "output_names": names, "dynamo": dynamo}
    if batch == "open" and dynamo:
        settings["dynamic_shapes"] = ({0: torch.export.Dim.DYNAMIC},)
    elif batch == "open":
        settings["dynamic_axes"] = {"input": {0: "batch"}, **{name: {0: "batch"} for name in names}}
    if dynamo:
        settings |= {"external_data": False, "verbose": False}
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(model, (example,), str(path), **settings)


def write_case(model: Any, size: tuple[int, int], folder: Path, *, dynamo: bool, batch: str) -> None:
    """Write one case."""
    stats = set_statistics(model, torch.rand((4, 3, *size), generator=torch.Generator().manual_seed(1)))
    folder.mkdir(parents=True, exist_ok=True)
    post = model.post_processor
    export(model, size, folder / "full.onnx", dynamo=dynamo, batch=batch)
    model.post_processor = None
    try:
        export(model, size, folder / "raw.onnx", dynamo=dynamo, batch=batch)
    finally:
        model.post_processor = post
    # Last, because a folder with this file counts as a case.
    (folder / "stats.json").write_text(json.dumps(stats))


def main() -> None:
    """Export and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default=",".join(SETTINGS))
    parser.add_argument("--exporters", default="dynamo,legacy")
    parser.add_argument("--batches", default="open,1,2")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for name in options.models.split(","):
        try:
            model, size = build(name)
        except Exception as error:  # many types, from Anomalib and timm
            print(f"{name}: not built: {type(error).__name__}: {str(error).strip().splitlines()[:1]}", flush=True)
            continue
        for exporter in options.exporters.split(","):
            for batch in options.batches.split(","):
                folder = options.folder / f"{name}_{exporter}_{batch}"
                if (folder / "stats.json").is_file():
                    continue
                try:
                    with torch.no_grad():
                        write_case(model, size, folder, dynamo=exporter == "dynamo", batch=batch)
                except Exception as error:  # torch raises many types
                    reason = str(error).strip().splitlines()[:1]
                    print(f"{folder.name}: not exported: {type(error).__name__}: {reason}", flush=True)
                else:
                    print(f"{folder.name}: written", flush=True)


if __name__ == "__main__":
    main()
