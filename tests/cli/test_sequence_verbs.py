"""A text recogniser through the verbs: characters, text in the tables, state, and errors."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.cli import run
from tests.models import run as run_onnx
from tests.recognisers import CHARACTERS, lines, recogniser

TASK = ["--task", "sequence", "--labels", "characters.txt"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(recogniser(), tmp_path / "raw.onnx")
    (tmp_path / "characters.txt").write_text("\n".join(CHARACTERS) + "\n")
    np.savez(tmp_path / "images.npz", image=lines())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_the_raw_model_to_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "raw.onnx", *TASK, "-o", "model.xml"]) == 0
    assert run(["verify", "raw.onnx", "model.xml", "--data", "images.npz"]) == 0
    assert run(["inspect", "model.xml"]) == 0
    assert "tokens of the text, -1 after the last" in capsys.readouterr().out
    assert run(["run", "model.xml", "images.npz", "-o", "out"]) == 0
    shown = capsys.readouterr().out
    assert "anomalous" not in shown
    tokens = pp.load("model.xml")(lines()).token_ids
    texts = ["".join(["", *CHARACTERS][token] for token in row if token >= 0) for row in tokens]
    assert texts[0].split()[0] in shown
    with (folder / "out" / "predictions.csv").open(newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == texts
    listed = json.loads((folder / "out" / "predictions.json").read_text())["predictions"]
    assert [entry["text"] for entry in listed] == texts
    assert listed[0]["token_ids"] == tokens[0].tolist()
    usage = (folder / "model.usage.md").read_text()
    assert "token_ids" in usage
    assert "retune" not in usage
    assert "label" not in usage


def test_state_passes_through(folder: Path) -> None:
    model = recogniser(batch=1)
    value = onnx.helper.make_tensor_value_info
    model.graph.input.append(value("state", 1, [2, 1, 8]))
    model.graph.output.append(value("new_state", 1, [2, 1, 8]))
    model.graph.node.append(onnx.helper.make_node("Add", ["state", "state"], ["new_state"]))
    onnx.save(model, "recurrent.onnx")
    assert run(["fuse", "recurrent.onnx", *TASK, "-o", "fused.onnx"]) == 0
    feeds = {"image": lines(1), "state": np.ones((2, 1, 8), np.float32)}
    found = run_onnx("fused.onnx", feeds)
    assert np.array_equal(found["new_state"], 2 * feeds["state"])
    assert {"token_ids", "length"} < set(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TASK, "--top", "3"], "--top applies only to classifiers, and the task is sequence"),
        (["--blank", "0"], "--blank applies only to text recognisers, and the task is anomaly. Add --task sequence"),
        ([*TASK, "--stats", "s.json"], "--stats does not apply to --task sequence"),
        ([*TASK, "--pack"], "--pack applies only to anomaly models, and the task is sequence"),
        ([*TASK, "--blank", "9"], "blank is 9, and output 'logits'"),
        ([*TASK, "--activation", "sigmoid"], "activation is 'sigmoid', expected 'softmax' or 'none'"),
    ],
)
def test_mistakes(folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "s.json").write_text('{"image": {"threshold": 1, "min": 0, "max": 2}}')
    assert run(["fuse", "raw.onnx", *arguments, "-o", "fused.onnx"]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not (folder / "fused.onnx").exists()
