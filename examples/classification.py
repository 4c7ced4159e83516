"""A classifier from logits to named classes: fuse, convert, verify, retune, time.

Run it with `python examples/classification.py [FOLDER]`. The model names the colour of a picture; yours comes from a
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

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "gray": (0.5, 0.5, 0.5)}


def raw_model() -> onnx.ModelProto:
    """A small network: image (N,3,32,32) in [0, 1] -> logits (N,4), larger the closer the mean colour is."""
    colours = np.array(list(COLOURS.values()), np.float32)
    # -|x - c|^2 / 2 is x.c - |c|^2 / 2 plus a term that is the same for all classes.
    weights = {"w": 20 * colours.T, "b": -10 * (colours**2).sum(1)}
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["colour"]),
        helper.make_node("Gemm", ["colour", "w", "b"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(COLOURS)])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def pictures(count: int = 40) -> np.ndarray:
    """Noisy pictures of one colour each, (N,3,32,32); some are between two colours."""
    rng = np.random.default_rng(0)
    colours = np.array(list(COLOURS.values()))
    mixed = colours[np.arange(count) % 4] * 0.8 + colours[rng.integers(0, 4, count)] * 0.2
    noise = rng.normal(0, 0.1, (count, 3, 32, 32))
    return np.clip(mixed[:, :, None, None] + noise, 0, 1).astype(np.float32)


def main(folder: Path) -> dict[str, Any]:
    """Go through all verbs, and return what they found."""
    raw, model, images = folder / "raw.onnx", folder / "model.xml", pictures()
    onnx.save(raw_model(), raw)

    post = pp.ClassificationPostProcessor(labels=tuple(COLOURS), temperature=1.5, unknown_below=0.6, top=2)
    pp.convert(raw, post=post).save(model, overwrite=True)
    report = pp.verify(raw, model, images)
    print(report.verdict)

    predictions = pp.load(model)(images)
    names = list(COLOURS)
    for index in range(4):
        known = "unknown" if predictions.unknown[index] else names[predictions.pred_class[index]]
        print(f"{known}: {predictions.pred_prob[index]:.2f}, then {names[predictions.top_classes[index, 1]]}")

    write_predictions(pp.load(model), images[:4], folder / "predictions", overwrite=True)

    retuned = pp.retune(model, unknown_below=0.9)  # milliseconds, whatever the size of the model
    stricter = pp.load(model)(images)
    timing = pp.benchmark(raw, [model], inference_precisions=["f32"], seconds=0.5)
    return {
        "verified": report.passed,
        "retuned": bool((stricter.unknown >= predictions.unknown).all() and stricter.unknown.sum()),
        "way": retuned.way,
        "classes": [names[index] for index in predictions.pred_class],
        "milliseconds": {Path(each.name).name: each.median_ms for each in timing.results if "host" not in each.name},
    }


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "classification_example")
    target.mkdir(parents=True, exist_ok=True)
    print(main(target))
