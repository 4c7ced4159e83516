"""`inspect` names the family of a raw model and the command; other verbs say when a model is of another family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.model import format_shape
from tests.classifiers import two_outputs
from tests.models import identity_model

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
        # Rows and columns that are open as those of the image are: a class of each pixel, with the channels last.
        (["N", "H", "W", 3], ["N", "h", "w", 5], {}, ["--task segmentation", "--task classification"]),
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


def test_heads_of_a_classifier_are_proposed_with_the_option_that_chooses() -> None:
    """A face detector's last stage returns boxes, landmarks and classes, of which only the classes end in a softmax."""
    proposed = [family.options for family in pp.inspect(two_outputs()).families]
    assert proposed == [f"--task classification --role raw_logits={name}" for name in ("colour", "kind")]
    heads = two_outputs((4, 2))
    heads.graph.output[1].name = "faces"
    heads.graph.node.append(helper.make_node("Softmax", ["kind"], ["faces"]))
    (family,) = pp.inspect(heads).families
    assert (family.options, family.roles) == ("--task classification --role raw_logits=faces", {"faces": "logits"})


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


# --- mistakes ---


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(model(PHOTO, ["N", 1, 320, 320], last="Sigmoid"), "map.onnx")
    onnx.save(model(PHOTO, ["N", 4]), "classifier.onnx")
    (tmp_path / "confidence.json").write_text('{"confidence": {"a": 0.5}}')
    (tmp_path / "stats.json").write_text('{"image": {"threshold": 1, "min": 0, "max": 2}}')
    (tmp_path / "limits.json").write_text('{"task": "classification", "unknown_below": 0.5}')
    return tmp_path


REGIONS = ["--task", "regions", "--raise-opset", "18"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fuse", "map.onnx", *REGIONS, "--pixel-threshold", "2"],
         "map holds probabilities, because the model ends in a sigmoid, expected a number from 0 to 1 (--pixel-thresh"),
        (["fuse", "map.onnx", *REGIONS, "--unclip", "-1"], "unclip is -1, expected a number from 0 (--unclip)"),
        (["fuse", "map.onnx", *REGIONS, "--min-area", "0"], "--min-area is 0, expected a whole number from 1"),
        (["fuse", "map.onnx", *REGIONS, "--regions", "x"], "'x' is not a whole number"),
        (["fuse", "map.onnx", "--stats", "confidence.json"], "holds the confidences of a detector, which calibrate"),
        (["fuse", "map.onnx", "--stats", "limits.json"], "Give it as --stats FILE with --task classification"),
        (["fuse", "classifier.onnx", "--task", "classification", "--stats", "stats.json"],
         "'stats.json' holds the statistics of an anomaly model. Give it as --stats FILE, without --task"),
        (["run", "classifier.onnx", "stats.json"], "use --task classification"),
    ],
)  # fmt: skip
def test_errors_name_the_option(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    del folder
    assert run([*arguments, "-o", "out.onnx"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert message in told
    # Names of steps are unknown to the user.
    assert "'selected'" not in told


def test_what_cannot_be_retuned_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del folder
    assert run(["fuse", "map.onnx", *REGIONS, "-o", "fused.onnx"]) == 0
    for arguments, message in (
        (["--regions", "5"], "--regions cannot be retuned, because it changes operators or names. Fuse or convert the"),
        (["--confidence", "0.5"], "has no --confidence, expected one of: --pixel-threshold"),
        (["--pixel-threshold", "2"], "pixel_threshold is 2, and the map holds probabilities"),
        (["--regoins", "5"], "No such option"),
    ):
        assert run(["retune", "fused.onnx", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert run(["retune", "--help"]) == 0
    assert "is fixed: fuse or convert the raw model again" in " ".join(capsys.readouterr().out.split())


def test_a_threshold_outside_of_probabilities_is_noted_where_the_range_is_unknown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(model(PHOTO, ["N", 1, 320, 320]), folder / "map.onnx")
    assert run(["fuse", "map.onnx", *REGIONS, "--pixel-threshold", "2", "-o", "fused.onnx"]) == 0
    assert "Warning: pixel_threshold is 2, outside of [0, 1]" in capsys.readouterr().err


def test_loop_free_alone_returns_a_hundred_detections(folder: Path) -> None:
    onnx.save(model(PHOTO, ["N", 22, 2100]), folder / "raw.onnx")
    assert run(["fuse", "raw.onnx", "--task", "detection", "--loop-free", "-o", "fused.onnx"]) == 0
    assert pp.open("fused.onnx").provenance.predicted["boxes"].sizes == (None, 100, 4)


def test_nan_of_the_model_is_mentioned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(identity_model({"logits": ["N", 4]}), folder / "raw.onnx")
    numbers = np.zeros((2, 4), np.float32)
    numbers[1, 2] = np.nan
    np.savez("images.npz", image=numbers)
    assert run(["convert", "raw.onnx", "--task", "classification", "-o", "model.xml"]) == 0
    run(["verify", "raw.onnx", "model.xml", "--data", "images.npz"])
    assert "'raw_logits' has NaN in 1 of 2 images" in capsys.readouterr().err
    assert run(["run", "model.xml", "images.npz", "-o", "out", "--save", "none"]) == 0
    assert "'pred_prob' has NaN in 1 of 2 images" in capsys.readouterr().err
