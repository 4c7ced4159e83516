"""A segmentation from logits to named classes of pixels: convert, verify, retune, draw.

Run it with `python examples/segmentation.py [FOLDER]`. The model finds the colour of each pixel; yours comes from a
file. The pictures are in FOLDER/predictions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import pp_graph as pp
from pp_graph.report import write_predictions

COLOURS = {"ground": (0.8, 0.8, 0.8), "leaf": (0.1, 0.6, 0.2), "berry": (0.8, 0.1, 0.2)}


def raw_model() -> onnx.ModelProto:
    """A small network: image (N,3,64,64) in [0, 1] -> logits (N,3,64,64), larger the closer the colour is."""
    colours = np.array(list(COLOURS.values()), np.float32)
    # -|x - c|^2 / 2 is x.c - |c|^2 / 2 plus a term that is the same for all classes.
    weights = {"w": 20 * colours[:, :, None, None], "b": -10 * (colours**2).sum(1)}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w", "b"], ["logits"])],
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 64, 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(COLOURS), 64, 64])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def pictures(count: int = 4) -> np.ndarray:
    """Noisy pictures of leaves and berries, (N,3,64,64)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    classes = np.zeros((count, 64, 64), int)
    for image in classes:
        for label, radius in ((1, 14), (1, 12), (2, 6), (2, 4)):
            centre = rng.integers(10, 54, 2)
            image[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = label
    colours = np.array(list(COLOURS.values()))[classes].transpose(0, 3, 1, 2)
    return np.clip(colours + rng.normal(0, 0.08, colours.shape), 0, 1).astype(np.float32)


def main(folder: Path) -> dict[str, Any]:
    """Go through the verbs, and return what they found."""
    raw, model, images = folder / "raw.onnx", folder / "model.xml", pictures()
    onnx.save(raw_model(), raw)

    pp.convert(raw, post=pp.SegmentationPostProcessor(labels=tuple(COLOURS))).save(model, overwrite=True)
    report = pp.verify(raw, model, images)
    print(report.verdict)
    predictions = pp.load(model)(images)
    for areas in predictions.class_area:
        print(", ".join(f"{name}: {area} pixels" for name, area in zip(COLOURS, areas, strict=True)))
    write_predictions(pp.load(model), images, folder / "predictions", overwrite=True)

    # A mask of each class instead, where its probability exceeds a threshold that can be retuned.
    masks = folder / "masks.xml"
    post = pp.SegmentationPostProcessor(activation="softmax", class_thresholds=0.5)
    pp.convert(raw, post=post).save(masks, overwrite=True)
    before = pp.load(masks)(images)
    retuned = pp.retune(masks, class_thresholds=[0.5, 0.5, 0.99])
    stricter = pp.load(masks)(images)
    return {
        "verified": report.passed and pp.verify(raw, masks, images).passed,
        "retuned": bool((stricter.class_area <= before.class_area).all()),
        "way": retuned.way,
        "areas": predictions.class_area.tolist(),
    }


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "segmentation_example")
    target.mkdir(parents=True, exist_ok=True)
    print(main(target))
