"""A classifier through every verb: names of classes, limits and errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.errors import PostProcessorError
from tests.classifiers import classifier, images, two_outputs

NAMES = ("ant", "bee", "cat", "hot dog")
OPTIONS = ["--task", "classification", "--labels", "names.txt"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(classifier(), tmp_path / "raw.onnx")
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    np.savez(tmp_path / "images.npz", image=images())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_the_raw_model_to_named_predictions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--unknown-below", "0.6", "--top", "2"]
    assert run(["fuse", "raw.onnx", *OPTIONS, *limits, "-o", "fused.onnx"]) == 0
    assert run(["convert", "raw.onnx", *OPTIONS, *limits, "-o", "model.xml"]) == 0
    assert run(["verify", "raw.onnx", "model.xml", "--data", "images.npz"]) == 0
    assert run(["inspect", "model.xml"]) == 0
    assert "hot dog" in capsys.readouterr().out
    assert run(["run", "model.xml", "images.npz", "-o", "out"]) == 0
    shown = capsys.readouterr().out
    assert "anomalous" not in shown
    with (folder / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    listed = json.loads((folder / "out" / "predictions.json").read_text())["predictions"]
    expected = pp.load("fused.onnx")(images())
    for index, (row, entry) in enumerate(zip(rows, listed, strict=True)):
        assert int(row["pred_class"]) == entry["pred_class"] == expected.pred_class[index]
        assert row["pred_class_name"] == entry["pred_class_name"] == NAMES[entry["pred_class"]]
        assert row["top_classes_names"] == "; ".join(entry["top_classes_names"])
        assert entry["top_classes_names"] == [NAMES[each] for each in entry["top_classes"]]
        assert row["unknown"] == str(bool(expected.unknown[index])).lower()
    usage = (folder / "model.usage.md").read_text()
    assert "pp-graph retune model.xml --unknown-below 0.8 -o retuned.xml" in usage
    assert "--stats" not in usage
    assert "ant bee cat hot_dog" in (folder / "model.xml").read_text()


def test_labels_of_several_classes_are_listed_by_name(folder: Path) -> None:
    assert run(["convert", "raw.onnx", *OPTIONS, "--multi-label", "0.3,0.5,0.5,0.9", "-o", "model.xml"]) == 0
    assert run(["run", "model.xml", "images.npz", "-o", "out"]) == 0
    listed = json.loads((folder / "out" / "predictions.json").read_text())
    labels = pp.load("model.xml")(images()).pred_label
    assert [entry["pred_label_names"] for entry in listed["predictions"]] == [
        [name for name, present in zip(NAMES, row, strict=True) if present] for row in labels
    ]
    assert listed["anomalous_images"] is None


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("name", ["fused.onnx", "model.xml"])
def test_retuned_limits_decide_as_fused_again(folder: Path, name: str) -> None:
    verb = "fuse" if name.endswith(".onnx") else "convert"
    limits = ["--unknown-below", "0.9", "--multi-label", "0.5", "--temperature", "2"]
    assert run([verb, "raw.onnx", *OPTIONS, *limits, "-o", name]) == 0
    assert run(["retune", name, "--unknown-below", "0.6", "--multi-label", "0.1,0.2,0.3,0.4"]) == 0
    assert pp.retune(folder / name, temperature=3.0).way == "constants"
    again = pp.ClassificationPostProcessor(
        unknown_below=0.6, multi_label=(0.1, 0.2, 0.3, 0.4), temperature=3.0, labels=NAMES
    )
    expected = pp.load(pp.fuse("raw.onnx", again))(images())
    found = pp.load(name)(images())
    for output in ("pred_class", "unknown", "pred_label"):
        assert np.array_equal(found[output], expected[output])
    assert pp.verify("raw.onnx", folder / name, images()).passed


def test_what_the_model_lacks_cannot_be_retuned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "raw.onnx", *OPTIONS, "-o", "model.xml"]) == 0
    before = (folder / "model.xml").read_bytes()
    assert run(["retune", "model.xml", "--unknown-below", "0.9"]) == 2
    assert "--unknown-below would add the output unknown" in capsys.readouterr().err
    (folder / "stats.json").write_text('{"image": {"threshold": 1, "min": 0, "max": 2}}')
    assert run(["retune", "model.xml", "--stats", "stats.json"]) == 2
    assert "ClassificationPostProcessor uses none" in capsys.readouterr().err
    assert (folder / "model.xml").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "classification", "--labels", "two.txt"], "2 labels, and output 'logits'.*has 4 classes"),
        (["--task", "classification", "--labels", "missing.txt"], "Labels 'missing.txt' cannot be read"),
        (["--task", "classification", "--unknown-below", "60"], "--unknown-below is 60.0, expected a number"),
        (["--task", "classification", "--multi-label", "high"], "'high' is neither a threshold"),
        (["--task", "classification", "--pack"], "--pack applies only to anomaly models.*Leave out --pack"),
        (["--task", "classification", "--stats", "s.json"], "'s.json' is not the calibration of a classifier"),
        (["--top", "3"], "--top applies only to classifiers.*Add --task classification"),
        (["--labels", "names.txt"], "--labels names classes.*Add --task classification"),
    ],
)
def test_mistakes(folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "two.txt").write_text("a\nb\n")
    (folder / "s.json").write_text('{"image": {"threshold": 1, "min": 0, "max": 2}}')
    assert run(["fuse", "raw.onnx", *arguments, "-o", "fused.onnx"]) == 2
    import re

    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not (folder / "fused.onnx").exists()


def test_a_classifier_without_the_task_is_recognised(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hint = "classifier ('logits' (N, 4) holds a number for each class), use --task classification"
    (folder / "s.json").write_text('{"image": {"threshold": 1, "min": 0, "max": 2}}')
    assert run(["fuse", "raw.onnx", "--stats", "s.json", "-o", "fused.onnx"]) == 2
    assert hint in capsys.readouterr().err
    assert [family.task for family in pp.inspect("raw.onnx").families] == ["classification"]


def test_several_outputs_are_listed_with_the_option_that_chooses(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(two_outputs(), folder / "two.onnx")
    assert run(["fuse", "two.onnx", "--task", "classification", "-o", "fused.onnx"]) == 2
    error = capsys.readouterr().err
    assert "'colour'" in error
    assert "--role raw_logits=NAME" in error
    assert run(["fuse", "two.onnx", *OPTIONS[:2], "--role", "raw_logits=kind", "-o", "fused.onnx"]) == 0


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "ant\n bee \n", ("ant", "bee")),
        ("a.json", '["ant", "bee"]', ("ant", "bee")),
        ("a.json", '{"1": "bee", "0": "ant"}', ("ant", "bee")),
    ],
)
def test_files_of_class_names(tmp_path: Path, name: str, text: str, expected: tuple[str, ...]) -> None:
    from pp_graph.postprocessors.class_names import read_class_names

    (tmp_path / name).write_text(text)
    assert read_class_names(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "ant\n\nbee\n", "hold no name for each class .line or entry 2 holds none"),
        ("a.txt", "", "hold no name"),
        ("a.json", '{"cat": 0}', "are not JSON of class names"),
        ("a.json", "[1, 2]", "hold no name"),
    ],
)
def test_files_that_hold_no_class_names(tmp_path: Path, name: str, text: str, message: str) -> None:
    from pp_graph.postprocessors.class_names import read_class_names

    (tmp_path / name).write_text(text)
    with pytest.raises(PostProcessorError, match=message):
        read_class_names(tmp_path / name)


def test_tables_of_classes_have_no_empty_columns_and_are_replaced(folder: Path) -> None:
    assert run(["fuse", "raw.onnx", *OPTIONS, "-o", "fused.onnx"]) == 0
    for _ in range(2):
        assert run(["run", "fused.onnx", "images.npz", "-o", "out", "--force"]) == 0
        with (folder / "out" / "predictions.csv").open() as file:
            assert csv.DictReader(file).fieldnames == ["image", "overlay", "pred_class", "pred_class_name", "pred_prob"]
    assert set(json.loads((folder / "out" / "predictions.json").read_text())["predictions"][0]) == {
        "image", "overlay", "pred_class", "pred_class_name", "pred_prob",
    }  # fmt: skip
    # A table of an earlier version had columns about anomalies; a run that writes no CSV removes it.
    row = ["image,pred_score,pred_label,anomalous_pixels,anomalous_share,mask,overlay,map,pred_class", "0,,,,,,,,1", ""]
    for header in (row, ["image,pred_class", "0,1", ""]):
        (folder / "out" / "predictions.csv").write_text("\n".join(header))
        assert run(["run", "fused.onnx", "images.npz", "-o", "out", "--force", "--format", "json"]) == 0
        assert not (folder / "out" / "predictions.csv").exists()


def test_limits_are_called_what_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fuse", "raw.onnx", *OPTIONS, "--unknown-below", "0.6", "-o", "fused.onnx"]) == 0
    capsys.readouterr()
    assert run(["inspect", "fused.onnx"]) == 0
    shown = capsys.readouterr().out
    assert "true from a value of 0.6" in shown
    assert "raw value of" not in shown


def test_a_limit_that_changes_while_the_model_runs(folder: Path) -> None:
    limits = ["--unknown-below", "0.6", "--thresholds", "runtime"]
    assert run(["convert", "raw.onnx", *OPTIONS, *limits, "-o", "model.xml"]) == 0
    assert pp.open("model.xml").provenance.adjustable == ["known_cutoff"]
    assert "unknown_below=0.8" in (folder / "model.usage.md").read_text()
    assert run(["retune", "model.xml", "--unknown-below", "0.9"]) == 0
    assert pp.verify("raw.onnx", "model.xml", images()).passed
