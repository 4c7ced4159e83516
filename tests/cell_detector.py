"""A small detector that works: it finds coloured squares in the cells of a grid."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.conftest import ROOT

HEIGHT, WIDTH, CELL = 64, 96, 16
COLORS = ("red", "green", "blue")
ROWS, COLUMNS = HEIGHT // CELL, WIDTH // CELL
CELLS = ROWS * COLUMNS
CORNERS = np.array(
    [[CELL * x, CELL * y, CELL * (x + 1), CELL * (y + 1)] for y in range(ROWS) for x in range(COLUMNS)], np.float32
)
"""Corners of the cells in pixels of the model's input."""


GUIDE = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
LISTED = next(text for text in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL) if "listed.yaml" in text)
"""Recipe of a model that lists its detections itself."""


def cells(form: str = "yolov8", gain: float = 1.0) -> onnx.ModelProto:
    """Image (N,3,64,96) in [0,1] -> what a detector finds; a class for each colour, its score the cell's mean.

    The output is `output0`, (N,7,24) as of YOLOv8 or (N,24,6) as of `end2end` models; or, if `listed`, `boxes`,
    `scores`, `classes` and `count` of scores above 0.25. The last two list the highest score first. Scores are
    multiplied by `gain`.
    """
    centred = np.concatenate([(CORNERS[:, :2] + CORNERS[:, 2:]) / 2, CORNERS[:, 2:] - CORNERS[:, :2]], 1)
    constants = {
        "flat": np.array([0, 3, CELLS]),
        "centred": centred.T[None].copy(),
        "corners": CORNERS,
        "all": np.array([CELLS]),
        "least": np.float32(0.25),
        "gain": np.float32(gain),
        "one": np.array([1]),
        "two": np.array([2]),
    }
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Reshape", ["pooled", "flat"], ["means"]),
        helper.make_node("Mul", ["means", "gain"], ["each"]),
    ]
    n, floats, whole = "N", TensorProto.FLOAT, TensorProto.INT64
    if form != "yolov8":
        nodes += [
            helper.make_node("ReduceMax", ["each"], ["best"], axes=[1], keepdims=0),
            helper.make_node("ArgMax", ["each"], ["kind"], axis=1, keepdims=0),
            helper.make_node("TopK", ["best", "all"], ["scores", "order"], axis=1),
            helper.make_node("GatherElements", ["kind", "order"], ["classes"], axis=1),
            helper.make_node("Gather", ["corners", "order"], ["boxes"]),
            helper.make_node("Greater", ["scores", "least"], ["kept"]),
            helper.make_node("Cast", ["kept"], ["ones"], to=whole),
            helper.make_node("ReduceSum", ["ones", "one"], ["count"], keepdims=0),
        ]
    if form == "end2end":
        nodes += [
            helper.make_node("Cast", ["classes"], ["kinds"], to=floats),
            *(helper.make_node("Unsqueeze", [name, "two"], [f"{name}_column"]) for name in ("scores", "kinds")),
            helper.make_node("Concat", ["boxes", "scores_column", "kinds_column"], ["output0"], axis=2),
        ]
        outputs = [helper.make_tensor_value_info("output0", floats, [n, CELLS, 6])]
    elif form == "listed":
        outputs = [
            helper.make_tensor_value_info("boxes", floats, [n, CELLS, 4]),
            helper.make_tensor_value_info("scores", floats, [n, CELLS]),
            helper.make_tensor_value_info("classes", whole, [n, CELLS]),
            helper.make_tensor_value_info("count", whole, [n]),
        ]
    else:
        nodes += [
            helper.make_node("ReduceSum", ["each", "one"], ["summed"], keepdims=1),
            helper.make_node("Sub", ["summed", "summed"], ["zeros"]),
            helper.make_node("Add", ["zeros", "centred"], ["repeated"]),
            helper.make_node("Concat", ["repeated", "each"], ["output0"], axis=1),
        ]
        outputs = [helper.make_tensor_value_info("output0", floats, [n, 7, CELLS])]
    graph = helper.make_graph(
        nodes,
        "cells",
        [helper.make_tensor_value_info("image", floats, [n, 3, HEIGHT, WIDTH])],
        outputs,
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def painted(squares: dict[int, tuple[int, float]], size: tuple[int, int] = (HEIGHT, WIDTH)) -> Image.Image:
    """An image with coloured cells: class and brightness by cell, resized to a height and width."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for cell, (color, brightness) in squares.items():
        left, top, right, bottom = CORNERS[cell].astype(int)
        pixels[top:bottom, left:right, color] = round(255 * brightness)
    return Image.fromarray(pixels).resize(size[::-1], Image.Resampling.NEAREST)


def save_scenes(
    folder: Path, count: int = 12, size: tuple[int, int] = (128, 192)
) -> list[dict[int, tuple[int, float]]]:
    """Save images with random squares, and return what is in each."""
    rng = np.random.default_rng(4)
    folder.mkdir(parents=True, exist_ok=True)
    scenes = []
    for index in range(count):
        places = rng.permutation(CELLS)[: rng.integers(0, 6)]
        scene = {int(cell): (int(rng.integers(0, 3)), round(float(rng.uniform(0.3, 1)), 2)) for cell in places}
        painted(scene, size).save(folder / f"{index:02}.png")
        scenes.append(scene)
    return scenes


def save_boxes(folder: Path, scenes: list[dict[int, tuple[int, float]]], above: float = 0.6) -> None:
    """Save YOLO's texts of the squares that are brighter than that."""
    for index, scene in enumerate(scenes):
        lines = []
        for cell, (color, brightness) in scene.items():
            if brightness > above:
                box = CORNERS[cell]
                numbers = np.concatenate([(box[:2] + box[2:]) / 2, box[2:] - box[:2]]) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
                lines.append(f"{color} {' '.join(map(str, numbers))}")
        (folder / f"{index:02}.txt").write_text("\n".join(lines))
