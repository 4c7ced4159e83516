"""`inspect` names the family of a raw model and the command; other verbs say when a model is of another family."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.model import format_shape

Shape = list[int | str]


def model(image: Shape, output: Shape, *, last: str = "Identity", dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A model whose output does not depend on its image: only shapes matter here."""
    nodes = [helper.make_node(last, ["numbers"], ["y"])]
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, image),
        helper.make_tensor_value_info("numbers", dtype, output),
    ]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", dtype, output)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


PHOTO: Shape = ["N", 3, 320, 320]


@pytest.mark.parametrize(
    ("image", "output", "settings", "options"),
    [
        (PHOTO, ["N", 10], {}, ["--task classification"]),
        (PHOTO, ["N", 1], {}, ["--stats stats.json"]),
        (PHOTO, ["N", 22, 2100], {}, ["--task detection --head yolov8"]),
        (PHOTO, ["N", 21, 80, 80], {}, ["--task segmentation"]),
        (PHOTO, ["N", 320, 320], {"dtype": TensorProto.INT64}, ["--task segmentation"]),
        (PHOTO, ["N", 1, 320, 320], {"last": "Sigmoid"},
         ["--stats stats.json", "--task regions --raise-opset 18", "--task segmentation"]),
        (["N", 3, 48, "W"], ["N", "T", 6625], {}, ["--task sequence --labels characters.txt"]),
        (["N", 3, 32, 100], [26, "N", 37], {}, ["--task sequence --labels characters.txt"]),
        (["N", "samples"], ["N", "T", 32], {}, ["--task sequence --labels characters.txt"]),
        (["N", 3, 12, 16], ["N", 12, 16], {}, ["--stats stats.json", "--task regions --raise-opset 18",
                                               "--task segmentation"]),
    ],
)  # fmt: skip
def test_families_and_their_options(image: Shape, output: Shape, settings: dict[str, int], options: list[str]) -> None:
    assert [family.options for family in pp.inspect(model(image, output, **settings)).families] == options  # type: ignore[arg-type]


def test_the_commands_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw.onnx"
    onnx.save(model(["N", 3, 48, "W"], ["unk__7", "T", 6625]), raw)
    assert run(["inspect", str(raw)]) == 0
    told = capsys.readouterr().out
    assert "a text recogniser (CTC): 'y' (?, T, 6625) holds a number for each time and class" in told
    assert f"pp-graph convert {raw} --task sequence --labels characters.txt -o model.xml" in told
    assert "detector" not in told
    onnx.save(model(PHOTO, ["N", 1, 320, 320]), raw)
    assert run(["inspect", str(raw)]) == 0
    assert "Likely family (several fit; choose by what the model was trained for)" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["regions", "segmentation"])
def test_a_task_that_the_model_does_not_look_like_is_noted(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(model(PHOTO, ["N", 22, 2100]), tmp_path / "raw.onnx")
    run(["fuse", str(tmp_path / "raw.onnx"), "--task", task, "--raise-opset", "18", "-o", str(tmp_path / "f.onnx")])
    assert "Note: The model looks like a detector like YOLOv8" in capsys.readouterr().err


def test_names_of_sizes_that_exporters_make_up_are_not_shown() -> None:
    shape = ("batch", "unk__12", "DynamicDimension.0", "2*height", "floor(floor(height/2 - 1/2)/2)", None, 3)
    assert format_shape(shape) == "(batch, ?, ?, 2*height, ?, ?, 3)"
