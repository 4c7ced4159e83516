"""Packages run, check and time themselves without pp_graph."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.benchmarking import load_report
from pp_graph.cli import run
from pp_graph.cli.package import package as package_verb
from pp_graph.files import folder_replaced
from pp_graph.packaging import TARGETS, read_manifest
from tests.conftest import DEMO
from tests.models import identity_model
from tests.packaging.conftest import program

IMAGES = str(DEMO / "images")


def test_the_verb_offers_every_target() -> None:
    (option,) = [each for each in package_verb.params if each.name == "target"]
    assert list(option.type.choices) == [target.name for target in TARGETS]


def test_programs_import_nothing_of_pp_graph(python_package: Path) -> None:
    allowed = "import check, bench, predict, sys; print([n for n in sys.modules if n.split('.')[0] in ('pp_graph', 'onnx', 'onnxruntime', 'onnx_ir', 'msgspec', 'click', 'PIL')])"
    done = program(python_package, "-c", allowed)
    assert done.stdout.strip() == "[]", done.stderr


def test_predicts_as_the_runner_does(python_package: Path, adjustable_ir: Path, tmp_path: Path) -> None:
    pictures = sorted((DEMO / "images").rglob("*.png"))[::2]
    for index, picture in enumerate(pictures):
        Image.open(picture).convert("RGB").save(tmp_path / f"{index}.ppm")
    np.save(tmp_path / "array.npy", np.asarray(Image.open(pictures[0]).convert("RGB")))
    files = [str(tmp_path / f"{index}.ppm") for index in range(len(pictures))]
    done = program(python_package, "predict.py", *files, str(tmp_path / "array.npy"), "--save", str(tmp_path / "all"))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    runner = pp.load(adjustable_ir)
    for index, picture in enumerate(pictures):
        expected = runner(picture)
        assert rows[index]["pred_label"] == expected.pred_label[0].tolist()
        assert rows[index]["pred_score"] == pytest.approx(expected.pred_score[0].tolist(), abs=1e-6)
        np.testing.assert_array_equal(np.load(tmp_path / "all" / f"{index}.pred_mask.npy"), expected.pred_mask)
    assert {**rows[-1], "picture": ""} == {**rows[0], "picture": ""}


def test_reads_pictures_as_the_runner_does(python_package: Path, adjustable_ir: Path, tmp_path: Path) -> None:
    picture = Image.open(next((DEMO / "images" / "grass").iterdir())).convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=turned)
    picture.convert("L").save(tmp_path / "gray.pgm")
    picture.convert("P").save(tmp_path / "palette.png")
    files = [tmp_path / name for name in ("turned.png", "gray.pgm", "palette.png")]
    done = program(python_package, "predict.py", *map(str, files), "--save", str(tmp_path / "all"))
    assert done.returncode == 0, done.stderr
    runner = pp.load(adjustable_ir)
    for file in files:
        found = np.load(tmp_path / "all" / f"{file.stem}.pred_mask.npy")
        np.testing.assert_array_equal(found, runner(file).pred_mask)
    Image.fromarray(np.full((256, 256), 3000, np.uint16)).save(tmp_path / "deep.png")
    deep = program(python_package, "predict.py", str(tmp_path / "deep.png"))
    assert (deep.returncode, "deep.png' cannot be read: it has more than 8 bits" in deep.stderr) == (2, True)


def test_a_model_that_takes_nv12(tmp_path: Path) -> None:
    post = pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"))
    how = pp.Preprocessing(dtype="u8", channel_order="NV12", resize="letterbox", scale=(255,), map_size="frame")
    artifact = pp.convert(pp.fuse(DEMO / "raw.onnx", post), preprocessing=how)
    (tmp_path / "images").mkdir()
    for place, file in enumerate((DEMO / "images").rglob("00.png")):
        Image.open(file).convert("RGB").resize((160, 90)).save(tmp_path / "images" / f"{place}.png")
    pp.package(artifact, tmp_path / "deploy", tmp_path / "images")
    assert "| NV12: the bytes of a camera's frame" in (tmp_path / "deploy" / "README.md").read_text()
    done = program(tmp_path / "deploy", "predict.py", "golden/2/input_0.npy")
    expected = pp.Runner(artifact)(np.load(tmp_path / "deploy" / "golden" / "2" / "input_0.npy"))
    assert expected.pred_mask.shape[-2:] == (90, 160)
    assert json.loads(done.stdout)["pred_mask"] == {"shape": [1, 90, 160], "true": int(expected.pred_mask.sum())}
    wrong = program(tmp_path / "deploy", "predict.py", str(tmp_path / "images" / "0.png"))
    assert wrong.returncode == 2
    assert "takes the bytes of NV12 frames, and the picture is RGB" in wrong.stderr


def test_gray_pictures_and_gray_models(tmp_path: Path, python_package: Path) -> None:
    code = (
        "import sys, numpy as np; from packaged_model import read_picture, to_input\n"
        "spec = {'name': 'x', 'dtype': 'uint8', 'shape': [None, 1, None, None], 'layout': 'NCHW', "
        "'channel_order': 'RGB', 'scaled': False}\n"
        "np.save(sys.argv[2], to_input(read_picture(sys.argv[1]), spec))"
    )
    file = next((DEMO / "images" / "grass").iterdir())
    done = program(python_package, "-c", code, str(file), str(tmp_path / "x.npy"))
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy")[0, 0], np.asarray(Image.open(file).convert("L")))


def test_cutoffs_are_those_of_the_runner(python_package: Path, adjustable_ir: Path) -> None:
    runner = pp.load(adjustable_ir)
    runner.set_thresholds(image_sensitivity=0.95, pixel_sensitivity=0.9)
    cutoffs = pp.cutoffs_for(runner.provenance, image_sensitivity=0.95, pixel_sensitivity=0.9)
    options = [f"--cutoff={name}={float(value):.9g}" for name, value in cutoffs.items()]
    golden = "golden/0/input_0.npy"
    found = json.loads(program(python_package, "predict.py", golden, *options).stdout)
    expected = runner(np.load(python_package / golden))
    plain = np.load(python_package / "golden/0/output_3.npy")
    assert found["pred_label"] == expected.pred_label[0].tolist()
    assert found["pred_mask"]["true"] == int(expected.pred_mask.sum()) != int(plain.sum())
    wrong = program(python_package, "predict.py", golden, "--cutoff", "nonsense=1")
    assert (wrong.returncode, "Cutoff 'nonsense' is not in the model" in wrong.stderr) == (2, True)


def test_check_says_what_differs(python_package: Path, adjustable_ir: Path, tmp_path: Path) -> None:
    done = program(python_package, "check.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("as expected") == 3
    # The same network with other thresholds, as if a wrong model was copied.
    folder = tmp_path / "copy"
    shutil.copytree(python_package, folder)
    pp.retune(adjustable_ir, image_sensitivity=0.0, pixel_sensitivity=0.9, output=folder / "tuned.xml")
    for ending in (".xml", ".bin"):
        (folder / "tuned").with_suffix(ending).replace((folder / "model").with_suffix(ending))
    done = program(folder, "check.py")
    assert done.returncode == 1
    assert "pred_label is False, expected True" in done.stdout
    assert "pred_mask differs in " in done.stdout
    assert program(folder, "check.py", "--device", "NONE").returncode == 2


def test_bench_writes_a_report_that_compares(
    python_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "bench.json"
    done = program(python_package, "bench.py", "--seconds", "0.3", "--precision", "f32", "-o", str(target))
    assert done.returncode == 0, done.stderr
    report = load_report(target)
    assert [each.name for each in report.results] == ["raw", "raw + host-openvino", "model.xml"]
    assert all(each.median_ms > 0 and each.precision == "f32" for each in report.results)
    assert run(["benchmark", "--compare", str(target), str(target), "--json"]) == 0
    assert {each["verdict"] for each in json.loads(capsys.readouterr().out)["changes"]} == {"same"}
    assert program(python_package, "bench.py", "-o", str(target)).returncode == 2


def test_inspect_reads_a_package(python_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(python_package)]) == 0
    text = capsys.readouterr().out
    assert "OneClassPostProcessor" in text
    assert "all as written" in text
    folder = tmp_path / "copy"
    shutil.copytree(python_package, folder)
    (folder / "golden/1/output_0.npy").unlink()
    found = pp.inspect(folder)
    assert found.package is not None
    assert found.package.changed_files(folder) == ["golden/1/output_0.npy"]
    content = json.loads((folder / "package.json").read_text())
    (folder / "package.json").write_text(json.dumps({**content, "model": "../model.xml"}))
    assert run(["inspect", str(folder)]) == 2
    assert "names '../model.xml', expected files in it" in " ".join(capsys.readouterr().err.split())
    (folder / "package.json").write_text("{}")
    assert run(["inspect", str(folder)]) == 2
    assert "has schema version None, expected 1" in capsys.readouterr().err
    (folder / "package.json").write_text('{"schema_version": 9}')
    assert run(["inspect", str(folder)]) == 2
    assert "has schema version 9, expected 1" in capsys.readouterr().err


@pytest.mark.slow
def test_fixed_inputs_and_models_of_a_fixed_batch(tmp_path: Path) -> None:
    raw = tmp_path / "raw.onnx"
    onnx.save(identity_model({"score": [2, 1], "heat": [2, 1, 8, 8]}), raw)
    post = pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"))
    artifact = pp.convert(pp.fuse(raw, post))
    images = {"heat_in": np.random.default_rng(0).uniform(0, 30, (5, 1, 8, 8)).astype(np.float32)}
    done = pp.package(artifact, tmp_path / "deploy", images, fixed_inputs={"score_in": 20.0}, raw=raw)
    assert done.images == ("0", "2", "4")
    manifest = read_manifest(tmp_path / "deploy")
    assert [each.shape for each in manifest.inputs] == [[2, 1], [2, 1, 8, 8]]
    found = program(tmp_path / "deploy", "predict.py", "golden/1/input_1.npy")
    assert json.loads(found.stdout)["pred_label"] == [True], found.stderr


BAD = [
    (["raw.onnx"], "has no post-processing by pp_graph"),
    (["nowhere.xml"], "'nowhere.xml' does not exist"),
    (["lost.xml"], "IR file 'lost.bin' does not exist"),
    (["model.xml", "--images", "empty"], "holds no images"),
    (["model.xml", "--images", "small.npz"], "Images have shape (1, 3, 16, 16), expected"),
    (["model.xml", "--raw", "other.onnx"], "Raw model 'other.onnx' has sha256"),
    (["model.xml", "--name", "../up"], "Name '../up' is not one for a model"),
    (["model.xml", "-o", "full"], "'full' is not empty. Use --force to replace it"),
    (["model.xml", "-o", "full", "--force"], "has no package.json, expected a folder that this command wrote"),
    (["model.xml", "-o", "model.xml"], "Output 'model.xml' is a file, expected a folder"),
    (["full/model.xml", "-o", "full", "--force"], "holds 'full/model.xml', an input of this command"),
]


@pytest.fixture(scope="module")
def bad_inputs(tmp_path_factory: pytest.TempPathFactory, adjustable_ir: Path) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    for name in ("model.xml", "model.bin"):
        shutil.copy(adjustable_ir.with_name(name), folder / name)
    shutil.copy(adjustable_ir, folder / "lost.xml")
    shutil.copy(DEMO / "raw.onnx", folder)
    onnx.save(identity_model({"score": ["N", 1], "heat": ["N", 1, 8, 8]}), folder / "other.onnx")
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "diary.txt").write_text("dear diary")
    for name in ("model.xml", "model.bin"):
        shutil.copy(adjustable_ir.with_name(name), folder / "full" / name)
    np.savez(folder / "small.npz", image=np.zeros((1, 3, 16, 16), np.float32))
    return folder


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda each: str(each)[:40])
def test_bad_input(
    bad_inputs: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(bad_inputs)
    before = sorted(bad_inputs.rglob("*"))
    rest = [] if "--images" in arguments else ["--images", IMAGES]
    rest += [] if "-o" in arguments else ["-o", "out"]
    assert run(["package", *arguments, *rest]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(bad_inputs.rglob("*")) == before


@pytest.mark.slow
def test_force_replaces_the_whole_package(python_package: Path, adjustable_ir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    shutil.copytree(python_package, folder)
    (folder / "bench.json").write_text("{}")
    arguments = ["package", str(adjustable_ir), "--images", IMAGES, "-o", str(folder)]
    assert run(arguments) == 2
    assert run([*arguments, "--force", "-q"]) == 0
    assert not (folder / "bench.json").exists()
    assert [each.name for each in tmp_path.iterdir()] == ["deploy"]


def fill(folder: Path, name: str, *, overwrite: bool, fail: bool = False) -> None:
    with folder_replaced(folder, marker="mark", overwrite=overwrite) as draft:
        (draft / name).touch()
        if fail:
            raise KeyError(name)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "deploy"
    with pytest.raises(KeyError):
        fill(folder, "mark", overwrite=False, fail=True)
    assert list(tmp_path.iterdir()) == []
    fill(folder, "mark", overwrite=False)
    with pytest.raises(KeyError):
        fill(folder, "other", overwrite=True, fail=True)
    assert [each.name for each in folder.iterdir()] == ["mark"]
    fill(folder, "other", overwrite=True)
    assert [each.name for each in folder.iterdir()] == ["other"]
    assert [each.name for each in folder.parent.iterdir()] == ["deploy"]
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777
