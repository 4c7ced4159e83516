"""A text recogniser from logits to text: fuse, convert, verify, read.

Run it with `python examples/sequence.py [FOLDER]`. The model reads bars of four heights as letters, one column after
the other; yours comes from a file. The pictures are in FOLDER/predictions.
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

CHARACTERS = ("h", "e", "l", "o")
TEXTS = ("hello", "hole", "eel")


def raw_model() -> onnx.ModelProto:
    """A small network: picture (N,1,8,T) -> logits (N,T,5), the larger the closer a column's bar is to a class."""
    heights = np.arange(5, dtype=np.float32)  # the blank has no bar
    weights = {"w": 8 * heights, "b": -4 * heights**2, "rows": np.array([1, 2])}
    nodes = [
        helper.make_node("ReduceSum", ["picture", "rows"], ["bars"], keepdims=0),
        helper.make_node("Unsqueeze", ["bars", "last"], ["columns"]),
        helper.make_node("Mul", ["columns", "w"], ["slopes"]),
        helper.make_node("Add", ["slopes", "b"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bars",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["N", 1, 8, "T"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "T", 5])],
        [numpy_helper.from_array(array, name) for name, array in (*weights.items(), ("last", np.array([2])))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def pictures(width: int = 40) -> np.ndarray:
    """Bars for the letters of each text, (N,1,8,T): two columns a letter, and one without a bar between two."""
    drawn = np.zeros((len(TEXTS), 1, 8, width), np.float32)
    for picture, text in zip(drawn, TEXTS, strict=True):
        for place, letter in enumerate(text):
            height = CHARACTERS.index(letter) + 1
            picture[0, 8 - height :, 3 * place : 3 * place + 2] = 1
    noise = np.random.default_rng(0).normal(0, 0.05, drawn.shape)
    return (drawn + noise).astype(np.float32)


def main(folder: Path) -> dict[str, Any]:
    """Go through the verbs, and return what they found."""
    raw, model, images = folder / "raw.onnx", folder / "model.xml", pictures()
    onnx.save(raw_model(), raw)

    # There is one label less than classes: the blank is class 0.
    pp.convert(raw, post=pp.SequencePostProcessor(labels=CHARACTERS)).save(model, overwrite=True)
    report = pp.verify(raw, model, images)
    print(report.verdict)

    artifact = pp.open(model)
    characters = artifact.provenance.predicted["token_ids"].class_names
    predictions = pp.load(artifact)(images)
    texts = ["".join(characters[token] for token in row if token >= 0) for row in predictions.token_ids]
    for text, confidence in zip(texts, predictions.confidence, strict=True):
        print(f"{text} ({confidence:.3f})")
    write_predictions(pp.load(artifact), images, folder / "predictions", overwrite=True)
    return {"verified": report.passed, "texts": texts}


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "sequence_example")
    target.mkdir(parents=True, exist_ok=True)
    print(main(target))
