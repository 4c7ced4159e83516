"""The command line as a user meets it: exit codes, one JSON object, no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import onnx
import pytest

from pp_graph.cli import COMMANDS, run
from pp_graph.cli.output import on_command_line
from tests.conftest import DEMO
from tests.models import conv_model, identity_model


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_fused_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(DEMO / "raw.onnx", tmp_path)
    shutil.copy(DEMO / "stats.json", tmp_path)
    shutil.copy(demo_fused_path, tmp_path / "ready.onnx")
    for name in ("good/00.png", "grass/00.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        shutil.copy(DEMO / "images" / name, tmp_path / "images" / name)
    return tmp_path


class Result:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> dict:
        return json.loads(self.out)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]):
    def call(*arguments: str) -> Result:
        capfd.readouterr()
        status = run(arguments)
        captured = capfd.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Result(status, captured.out, captured.err)

    return call


def test_from_raw_to_proven(work: Path, cli) -> None:
    assert cli("inspect", "raw.onnx").status == 0
    done = cli("fuse", "raw.onnx", "--stats", "stats.json", "-o", "fused.onnx")
    assert done.status == 0
    assert "pred_mask" in done.out
    onnx.checker.check_model("fused.onnx", full_check=True)
    assert cli("convert", "fused.onnx", "-o", "model.xml").status == 0
    for artifact in ("fused.onnx", "model.xml"):
        done = cli("verify", "raw.onnx", artifact, "--data", "images")
        assert done.status == 0
        assert "PASSED" in done.out
    assert cli("strip", "fused.onnx", "-o", "raw_again.onnx").status == 0
    assert (work / "raw_again.onnx").read_bytes() == (work / "raw.onnx").read_bytes()
    for model in ("fused.onnx", "model.xml"):
        done = cli("inspect", model)
        assert "OneClassPostProcessor" in done.out
        assert "pred_label cutoff" in done.out


def test_fuse_and_convert_in_one_go(work: Path, cli) -> None:
    shape = "--input-shape=image:1,3,256,256"
    done = cli("convert", "raw.onnx", "--stats", "stats.json", "-o", "m.xml", "--device", "NPU", shape, "--json")
    assert done.status == 0
    assert done.json["device"] == "NPU"
    assert cli("verify", "raw.onnx", "m.xml", "--data", "images").status == 0


def test_json_is_one_object_on_stdout(work: Path, cli) -> None:
    np.savez("images.npz", image=np.zeros((3, 256, 256, 3), np.uint8))
    Path("limits.yaml").write_text("checks: [{raw: raw.onnx, model: model.xml, data: images.npz}]")
    Path("new.csv").write_text("score\n9.5\n10\n")
    Path("fleet.yaml").write_text(
        "{output: fleet, models: [{path: raw.onnx, statistics: stats.json, data: images.npz}]}"
    )
    verbs = [
        ("inspect", "raw.onnx"),
        ("stats", "show", "stats.json"),
        ("stats", "convert", "ready.onnx", "-o", "again.json"),
        ("fuse", "raw.onnx", "--stats", "stats.json", "-o", "fused.onnx"),
        ("convert", "fused.onnx", "-o", "model.xml", "--precision", "f16"),
        ("verify", "raw.onnx", "model.xml", "--data", "images.npz"),
        ("run", "model.xml", "images", "-o", "predictions"),
        ("calibrate", "raw.onnx", "--data", "images", "-o", "own.json"),
        ("explore", "model.xml", "--data", "images"),
        ("drift", "own.json", "--scores", "new.csv"),
        ("ci", "--limits", "limits.yaml"),
        ("fleet", "fleet.yaml"),
        ("fleet", "diff", "fleet", "fleet"),
        ("fleet", "retune", "fleet", "--pixel-sensitivity", "0.6"),
        ("benchmark", "raw.onnx", "model.xml", "--seconds", "0.1", "--no-memory", "--against", "host-numpy"),
        ("package", "model.xml", "--images", "images", "-o", "deploy"),
        ("retune", "model.xml", "--image-sensitivity", "0.6", "-o", "tuned.xml"),
        ("strip", "fused.onnx", "-o", "again.onnx"),
        ("devices",),
        ("inspect", "model.xml"),
        ("inspect", "raw.onnx", "--tail"),
        ("demo", "-o", "demo"),
    ]
    for arguments in verbs:
        done = cli(*arguments, "--json")
        assert done.status == 0, done.err
        assert isinstance(done.json, dict)
    assert {arguments[0] for arguments in verbs} == {command.name for command in COMMANDS}


BAD = [
    (("inspect", "nowhere.onnx"), "Model file 'nowhere.onnx' "),
    (("inspect", "."), "is a folder, expected an "),
    (("inspect", "images/good/00.png"), "an ONNX model"),
    (("inspect", "nowhere.xml"), "Model file 'nowhere.xml' "),
    (("fuse", "raw.onnx", "-o", "f.onnx"), "has no statistics, expected calibrated numbers"),
    (("fuse", "raw.onnx", "--stats", "nowhere.json", "-o", "f.onnx"), "'nowhere.json' cannot be read"),
    (("fuse", "raw.onnx", "--stats", "images", "-o", "f.onnx"), "'images' cannot be read: Is a directory"),
    (("fuse", "raw.onnx", "--stats", "raw.onnx", "-o", "f.onnx"), "has no known post-processing"),
    (("fuse", "raw.onnx", "--stats", "images/good/00.png", "-o", "f.onnx"), "has no known format, expected one of"),
    (("stats", "show", "nowhere.json"), "'nowhere.json' cannot be read"),
    (("stats", "show", "raw.onnx"), "has no known post-processing"),
    (("stats", "convert", "stats.json", "-o", "stats.json", "--force"), "is an input of this command"),
    (("stats", "convert", "ready.onnx", "-o", "stats.json"), "exists already. Use --force"),
    (("stats", "convert", "ready.onnx"), "Missing option '-o'"),
    (("stats", "bogus"), "No such command 'bogus'"),
    (("fuse", "raw.onnx", "--stats", "stats.json", "-o", "raw.onnx"), "is an input of this command"),
    (("fuse", "raw.onnx", "--stats", "stats.json", "-o", "raw.onnx", "--force"), "is an input of this command"),
    (("fuse", "raw.onnx", "--stats", "stats.json", "-o", "stats.json", "--force"), "is an input of this command"),
    (("fuse", "raw.onnx", "--stats", "stats.json", "-o", "images"), "is a folder"),
    (("fuse", "raw.onnx", "--stats", "stats.json", "-o", "raw.onnx/x.onnx"), "cannot be written"),
    (
        ("fuse", "raw.onnx", "--stats", "stats.json", "-o", "f.onnx", "--image-sensitivity", "2"),
        "--image-sensitivity is 2",
    ),
    (("fuse", "raw.onnx", "--stats", "stats.json", "-o", "f.onnx", "--on-nan", "maybe"), "'maybe' is not one of"),
    (
        ("fuse", "raw.onnx", "--stats", "stats.json", "-o", "f.onnx", "--score-output", "x"),
        "Output 'x' given as --score",
    ),
    (("fuse", "raw.onnx", "--stats", "stats.json"), "Missing option '-o'"),
    (("fuse", "raw.onnx", "--stats", "stats.json", "-o", "f.onnx", "--role", "x"), "'x' is not a role with its output"),
    (("inspect", "raw.onnx", "--role", "raw_map=x", "--role", "raw_map=y"), "'raw_map' is given twice, expected ROLE="),
    (("inspect", "raw.onnx", "--role", "heat=x"), "Role 'heat' is not known, expected one of: raw_score, raw_map"),
    (
        ("inspect", "raw.onnx", "--role", "raw_map=x", "--map-output", "y"),
        "Role 'raw_map' is given as 'x' and --map-output",
    ),
    (
        ("convert", "ready.onnx", "-o", "m.xml", "--role", "raw_map=x"),
        "--role applies only when convert fuses a raw MODEL",
    ),
    (("convert", "raw.onnx", "-o", "m.xml"), "has no post-processing by pp_graph"),
    (("convert", "raw.onnx", "-o", "m.xml", "--keep-raw"), "--keep-raw applies only when convert fuses a raw MODEL"),
    (
        ("convert", "raw.onnx", "-o", "m.xml", "--no-normalize"),
        "--no-normalize applies only when convert fuses a raw MODEL",
    ),
    (("convert", "raw.onnx", "-o", "m.xml", "--threshold"), "--threshold applies only when convert fuses a raw MODEL"),
    (("convert", "raw.onnx", "--stats", "stats.json", "-o", "m.onnx"), "expected '.xml'"),
    (("convert", "raw.onnx", "--stats", "stats.json", "-o", "m.xml", "--device", "TPU"), "Device 'TPU' is not known"),
    (("convert", "raw.onnx", "--stats", "stats.json", "-o", "m.xml", "--input-shape", "1,a"), "'1,a' is not a shape"),
    (
        ("convert", "raw.onnx", "--stats", "stats.json", "-o", "m.xml", "--input-shape", "1,3"),
        "has 2 sizes, expected 4",
    ),
    (("verify", "raw.onnx", "raw.onnx", "--data", "images"), "has no post-processing by pp_graph"),
    (("verify", "raw.onnx", "raw.onnx", "--data", "nowhere"), "Image data 'nowhere' does not exist"),
    (("verify", "raw.onnx", "ready.onnx", "--data", "images", "--device", "XPU"), "given with device XPU"),
    (("verify", "raw.onnx", "ready.onnx", "--data", "images", "--inference-precision", "bf16"), "expected CPU and f32"),
    (
        ("convert", "ready.onnx", "-o", "m.xml", "--input-shape", "99999999999999999999,3,256,256"),
        "cannot take the input",
    ),
    (("convert", "ready.onnx", "-o", "m.xml", "--device", "CPU.x"), "Device 'CPU.x' is not known"),
    (("strip", "raw.onnx", "-o", "x.onnx"), "nothing to strip"),
    (("demo", "-o", "stats.json"), "cannot be written"),
    (("bogus",), "No such command 'bogus'"),
    (("inspect",), "Missing argument 'MODEL'"),
]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("image_sensitivity is 2.0, expected less.", "--image-sensitivity is 2.0, expected less."),
        ("regions is 0. Use overwrite=True.", "--regions is 0. Use overwrite=True."),
        ("raise_opset (--raise-opset) is 99.", "--raise-opset is 99."),
        ("Use --force (overwrite=True).", "Use --force."),
        ("Write it with pp_graph.fuse (pp-graph fuse).", "Write it with pp-graph fuse."),
        ("Fleet 'my fleet.yaml', line 2, field 'a': is not known, expected some of: input_shape, batch.", None),
        ("'map_size' of 'a/map_size.json', pred_label, key_points, image_threshold.", None),
    ],
)
def test_messages_name_options_as_they_are_typed(message: str, expected: str | None) -> None:
    assert on_command_line(message) == (expected or message)


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(
    ("arguments", "message"), BAD, ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else ""
)
def test_bad_input(work: Path, cli, arguments: tuple[str, ...], message: str, as_json: bool) -> None:
    before = {file: file.read_bytes() for file in work.rglob("*") if file.is_file()}
    done = cli(*arguments, *(["--json"] if as_json else []))
    assert done.status == 2
    assert message in done.err
    if as_json:
        assert message in done.json["error"]["message"]
    else:
        assert done.out == ""
    assert {file: file.read_bytes() for file in work.rglob("*") if file.is_file()} == before


def test_retune_says_what_it_wrote_and_how(work: Path, cli) -> None:
    done = cli("retune", "ready.onnx", "--image-sensitivity", "0.6", "-o", "tuned.onnx", "--json")
    assert (done.json["output"], done.json["path"], done.json["way"]) == ("tuned.onnx", "tuned.onnx", "constants")
    done = cli("retune", "ready.onnx", "--image-sensitivity", "0.6", "--dry-run", "--json")
    assert done.json["path"] is done.json["way"] is None


def test_existing_output_needs_force(work: Path, cli) -> None:
    (work / "fused.onnx").write_text("precious")
    command = ("fuse", "raw.onnx", "--stats", "stats.json", "-o", "fused.onnx")
    assert cli(*command).status == 2
    assert (work / "fused.onnx").read_text() == "precious"
    assert cli(*command, "--force").status == 0
    assert cli("fuse", "fused.onnx", "--stats", "stats.json", "-o", "again.onnx").status == 2
    assert cli("fuse", "fused.onnx", "--stats", "stats.json", "-o", "again.onnx", "--replace").status == 0
    assert (work / "again.onnx").read_bytes() == (work / "fused.onnx").read_bytes()


def test_a_failed_check_exits_with_1(work: Path, cli) -> None:
    proto = onnx.load(work / "raw.onnx")
    cli("fuse", "raw.onnx", "--stats", "stats.json", "-o", "fused.onnx")
    proto = onnx.load("fused.onnx")
    cutoff = next(each for each in proto.graph.initializer if each.name == "pp_graph/pred_mask/cutoff")
    cutoff.CopyFrom(onnx.numpy_helper.from_array(np.array(5, np.float32), cutoff.name))
    onnx.save(proto, "tampered.onnx")
    done = cli("verify", "raw.onnx", "tampered.onnx", "--data", "images")
    assert done.status == 1
    assert "NOT EXACT" in done.out
    assert "- the post-processing flips" in done.out
    assert "FAILED: the post-processing in the artifact is not that of its statistics." in done.out
    assert "pred_mask, flips by post-processing" in done.out
    as_json = cli("verify", "raw.onnx", "tampered.onnx", "--data", "images", "--json")
    assert as_json.status == 1
    assert as_json.json["passed"] is False


def test_options_reach_the_model(work: Path, cli) -> None:
    onnx.save(identity_model({"a": ["N", 1, "H", "W"], "b": ["N", 1, "H", "W"], "c": ["N"]}), "three.onnx")
    command = ["fuse", "three.onnx", "--stats", "stats.json", "-o", "f.onnx", "--json", "--map-output", "b"]
    options = [
        "--image-sensitivity",
        "0.7",
        "--pixel-sensitivity",
        "0.2",
        "--on-nan",
        "normal",
        "--no-match-thresholds",
    ]
    done = cli(*command, *options, "--keep-raw")
    assert done.status == 0
    assert done.json["raw_map"] == "b"
    assert done.json["raw_score"] == "c"
    assert done.json["roles"] == {"raw_score": "c", "raw_map": "b"}
    by_role = [option if option != "--map-output" else "--role" for option in command]
    by_role[by_role.index("b")] = "raw_map=b"
    assert cli(*by_role, *options, "--keep-raw", "--force").json == done.json
    assert done.json["outputs"] == ["pred_score", "pred_label", "anomaly_map", "pred_mask", "a", "b", "c"]
    assert cli("inspect", "f.onnx", "--json").json["provenance"]["parameters"] == {
        "image_sensitivity": 0.7,
        "pixel_sensitivity": 0.2,
        "normalize": True,
        "threshold": True,
        "match_thresholds": False,
        "on_nan": "normal",
    }
    raw = cli(*command, "--force", "--no-normalize", "--no-threshold")
    assert raw.json["cutoffs"] == {}


def test_unexpected_errors_are_one_line(work: Path, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("pp_graph.inspection.inspect", explode)
    done = cli("inspect", "raw.onnx")
    assert done.status == 2
    assert "Unexpected ZeroDivisionError: boom" in done.err
    monkeypatch.setenv("PP_GRAPH_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(["inspect", "raw.onnx"])


def test_output_pipes_may_close(work: Path) -> None:
    command = f"{sys.executable} -m pp_graph inspect raw.onnx --json | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, cwd=work)
    assert done.stdout == "{"
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_version_and_help(cli) -> None:
    assert "pp-graph" in cli("--version").out
    done = cli("--help")
    assert done.status == 0
    for command in COMMANDS:
        assert command.name in done.out
        assert cli(command.name, "--help").status == 0


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_read_only_folder(work: Path, cli) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    folder = work / "locked"
    folder.mkdir(mode=0o500)
    done = cli("fuse", "raw.onnx", "--stats", "stats.json", "-o", "locked/f.onnx")
    assert done.status == 2
    assert "cannot be written" in done.err


def test_opset_error_names_the_mend(work: Path, cli) -> None:
    onnx.save(conv_model(opset=8, ir_version=3), "old.onnx")
    done = cli("fuse", "old.onnx", "--stats", "stats.json", "-o", "f.onnx")
    assert done.status == 2
    assert "opset 8, expected 9 or later" in done.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", ["inspect raw.onnx --json", "inspect raw.onnx", "inspect nowhere.onnx --json"])
def test_standard_output_may_be_full(work: Path, arguments: str) -> None:
    command = f"{sys.executable} -m pp_graph {arguments} > /dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, cwd=work)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Standard output cannot be written: No space left on device" in done.stderr


def test_a_reader_that_goes_away_changes_no_exit_status(work: Path) -> None:
    for arguments in ("inspect raw.onnx", "inspect raw.onnx --json"):
        command = f"{sys.executable} -m pp_graph {arguments} | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=work)
        assert (done.returncode, done.stderr) == (0, "")


def test_no_standard_output(work: Path) -> None:
    command = f"{sys.executable} -m pp_graph inspect raw.onnx >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=work)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_too_long_for_the_file_system(work: Path, cli) -> None:
    name = "x" * 300 + ".onnx"
    assert cli("inspect", name).status == 2
    done = cli("fuse", "raw.onnx", "--stats", "stats.json", "-o", name)
    assert done.status == 2
    assert "File name too long" in done.err
    assert "defect" not in done.err


def test_statistics_that_are_no_text(work: Path, cli) -> None:
    (work / "bad.json").write_bytes(b'{"image": {"thr\xff": 1}}')
    done = cli("fuse", "raw.onnx", "--stats", "bad.json", "-o", "f.onnx")
    assert done.status == 2
    assert "not valid JSON" in done.err


def commands(group: click.Group, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*above, name))


def test_every_verb_has_examples_that_parse() -> None:
    group = click.Group(commands={command.name: command for command in COMMANDS})
    found = dict(commands(group))
    assert ("stats", "show") in found
    for path, command in found.items():
        lines = [line.split() for line in (command.epilog or "").splitlines() if "pp-graph" in line]
        assert lines, path
        for line in lines:
            assert line[0] == "pp-graph"
            rest, verb, context = line[1:], click.Command("pp-graph"), None
            at: click.Command = group
            while isinstance(at, click.Group):
                # `pp-graph fleet fleet.yaml` leaves `run` out.
                at = at.commands[rest.pop(0) if rest[0] in at.commands else "run"]
            verb, context = at, at.make_context(at.name, list(rest), resilient_parsing=True)
            known = {flag for parameter in verb.params for flag in (*parameter.opts, *parameter.secondary_opts)}
            assert {word for word in rest if word.startswith("-") and word != "-"} <= known, line
            assert not context.args or isinstance(verb, click.Group), line


def test_summaries_fit_the_list_of_commands() -> None:
    for command in COMMANDS:
        assert not command.get_short_help_str(limit=65).endswith("..."), command.name
