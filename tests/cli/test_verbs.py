"""What all verbs share: help, spellings, several errors at once, the log, and numbers instead of a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest

import pp_graph as pp
from pp_graph.calibration.thresholds import THRESHOLDS
from pp_graph.cli import COMMANDS, run
from pp_graph.cli.calibrate import METHODS, PIXEL_METHODS
from pp_graph.cli.output import on_command_line
from tests.conftest import DEMO

RAW = DEMO / "raw.onnx"
VERBS = [each for each in COMMANDS if not isinstance(each, click.Group)]
NUMBERS = [
    *("--image-threshold", "14.97", "--image-min", "9.25", "--image-max", "27.5"),
    *("--pixel-threshold", "12.62", "--pixel-min", "2.5", "--pixel-max", "27.5"),
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_help_opens_with_an_example(verb: click.Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([str(verb.name), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(rf"Usage: pp-graph {verb.name}\b", lines[0])
    first = next(line.strip() for line in lines[1:] if line.strip())
    assert first in ("Example:", "Examples:")


def test_help_groups_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "--help"]) == 0
    text = capsys.readouterr().out
    general, detection = text.index("\nOptions:"), text.index("\nOptions for --task detection:")
    assert general < text.index("\n  --device") < detection < text.index("\n  --iou")
    assert "detection:" not in text[detection + 30 : text.index("\n\n", detection)]
    assert "Options for camera frames:" in text


def test_help_lists_the_parameters_of_each_estimator() -> None:
    listed = dict(re.findall(r"([a-z0-9-]+)(?::([a-z0-9.=,]+?))?(?:, |$)", f"{METHODS}, {PIXEL_METHODS}"))
    found = {}
    for kind in THRESHOLDS:
        defaults = kind().parameters()
        found[kind.name] = ",".join(
            f"{name}={str(value).lower() if isinstance(value, bool) else f'{value:g}'}"
            for name, value in defaults.items()
        )
    assert listed == found


def test_all_wrong_options_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fuse", "raw.onnx", "--top", "x", "--stat", "s.json", "--task", "none", "--nonsense=3"]) == 2
    error = capsys.readouterr().err
    for part in (
        "5 things are wrong", "No such option '--stat'", "No such option '--nonsense'", "'--top': 'x' is no whole number",
        "'--task': 'none' is not one of", "Missing option '-o'",
    ):  # fmt: skip
        assert part in error


def test_other_spellings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb = ["convert", str(RAW), *NUMBERS, "--device", "cpu", "--precision", "FP16", "--mask-dtype", "uint8"]
    frames = ["--input-dtype", "UINT8", "--channel-order", "bgr", "--scale", "255"]
    assert run([*verb, *frames, "-o", str(tmp_path / "m.xml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["device"], found["precision"]) == ("CPU", "f16")
    assert (found["preprocessing"]["dtype"], found["preprocessing"]["channel_order"]) == ("u8", "BGR")


def test_numbers_instead_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fused = tmp_path / "fused.onnx"
    assert run(["fuse", str(RAW), *NUMBERS, "-o", str(fused)]) == 0
    levels = (
        pp.LevelStatistics(threshold=14.97, min=9.25, max=27.5),
        pp.LevelStatistics(threshold=12.62, min=2.5, max=27.5),
    )
    assert (pp.Statistics.load(fused).image, pp.Statistics.load(fused).pixel) == levels
    # On top of a file, and in a model that exists.
    over = tmp_path / "over.onnx"
    assert run(["fuse", str(RAW), "--stats", str(DEMO / "stats.json"), "--image-threshold", "16", "-o", str(over)]) == 0
    stored = pp.Statistics.load(DEMO / "stats.json")
    found = pp.Statistics.load(over)
    assert (found.image.threshold, found.image.min, found.pixel) == (16, stored.image.min, stored.pixel)
    assert run(["retune", str(fused), "--pixel-threshold", "13", "--image-threshold", "15"]) == 0
    again = pp.Statistics.load(fused)
    assert (again.pixel.threshold, again.image.threshold, again.image.min) == (13, 15, 9.25)
    capsys.readouterr()
    assert run(["retune", str(fused), "--image-min", "99"]) == 2
    assert "--image-threshold, --image-min and --image-max: 'max' is 27.5, expected at least" in capsys.readouterr().err
    wrong = ["fuse", str(RAW), "--task", "classification", "--image-min", "1", "-o", str(tmp_path / "x.onnx")]
    assert run(wrong) == 2
    assert "--image-min applies only to anomaly models, and the task is classification" in capsys.readouterr().err


def test_short_forms_of_estimators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb = ["calibrate", str(RAW), "--data", str(DEMO / "images"), "--no-masks", "--bootstrap", "0", "--json"]
    assert run([*verb, "--recall", "0.5"]) == 0
    short = json.loads(capsys.readouterr().out)
    assert run([*verb, "--image-method", "recall:recall=0.5", "--pixel-method", "recall:recall=0.5"]) == 0
    assert short["statistics"]["image"] == json.loads(capsys.readouterr().out)["statistics"]["image"]
    assert run([*verb, "--recall", "0.5", "--fpr", "0.1"]) == 2
    assert "Found --recall and --fpr, expected one of them" in capsys.readouterr().err
    assert run([*verb, "--fpr", "2"]) == 2
    assert "--fpr: 2 is not a share, expected a number from 0 to 1, such as 0.01" in capsys.readouterr().err


def test_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, log = tmp_path / "fused.onnx", tmp_path / "log.txt"
    verb = ["fuse", str(RAW), *NUMBERS, "-o", str(target), "--log-file", str(log)]
    assert run([*verb, "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert run(verb) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert "openvino 2" in log.read_text()
    assert "Next: pp-graph convert" in log.read_text()
    assert "Traceback (most recent call last)" in log.read_text()
    assert re.search(r"took \d+\.\d\d s", log.read_text())
    assert run([*verb, "--force", "-v"]) == 0
    assert "took" in capsys.readouterr().err
    assert run([*verb, "-v", "-q"]) == 2
    assert "-v and -q contradict each other" in capsys.readouterr().err
    assert run(["fuse", str(RAW), "-o", str(target), "--log-file", str(tmp_path / "no" / "log")]) == 2
    assert "cannot be used: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Use --force (overwrite=True) to replace it.", "Use --force to replace it."),
        ("turn it off with normalize=False (--no-normalize).", "turn it off with --no-normalize."),
        ("Name it with head=... (--head NAME), or leave it.", "Name it with --head NAME, or leave it."),
        ("give --input a=VALUE (fixed_inputs={'a': ...}).", "give --input a=VALUE."),
        ("such as (256, 256) (--map-size 256x256)", "such as (256, 256) (--map-size 256x256)"),
        ("such as map_size=(256, 256) (--map-size 256x256).", "such as --map-size 256x256."),
        ("name the labels (--labels FILE)", "name the labels (--labels FILE)"),
    ],
)
def test_messages_use_the_words_of_the_command_line(message: str, shown: str) -> None:
    assert on_command_line(message) == shown
