"""The C++ program compiles against the wheel of OpenVINO, and decides as Python does."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.preprocessing import Preprocessing
from tests.cell_detector import cells, save_scenes
from tests.conftest import DEMO
from tests.packaging.conftest import program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("c++") is None, reason="cmake or c++ is missing"),
]


def built(artifact: pp.OpenVINOModel, folder: Path, images: Path) -> Path:
    """Write a C++ package and compile its program, warnings being errors."""
    pp.package(artifact, folder, images, target="cpp")
    cmake = Path(ov.__path__[0]) / "cmake"
    for command in (
        ["cmake", "-B", "build", f"-DOpenVINO_DIR={cmake}", "-DCMAKE_CXX_FLAGS=-Werror", "-DCMAKE_BUILD_TYPE=Debug"],
        ["cmake", "--build", "build", "--parallel", "2"],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def predict(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [folder / "build" / "predict", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def anomaly(tmp_path_factory: pytest.TempPathFactory, adjustable_ir: Path) -> Path:
    return built(pp.OpenVINOModel.load(adjustable_ir), tmp_path_factory.mktemp("cpp") / "deploy", DEMO / "images")


def saved(folder: Path) -> dict[str, np.ndarray]:
    return {file.name: np.load(file) for file in sorted(folder.glob("*.npy"))}


def test_every_decision_is_that_of_python(anomaly: Path, adjustable_ir: Path, tmp_path: Path) -> None:
    pictures = []
    for index, picture in enumerate(sorted((DEMO / "images").rglob("*.png"))):
        pixels = Image.open(picture).convert("RGB")
        path = tmp_path / f"{index}.{'ppm' if index % 2 else 'npy'}"
        pixels.save(path) if index % 2 else np.save(path, np.asarray(pixels))
        pictures.append(str(path))
    runner = pp.load(adjustable_ir)
    labels = []
    for place, settings in enumerate(({}, {"image_sensitivity": 0.9, "pixel_sensitivity": 0.7})):
        runner.set_thresholds(**settings)
        cutoffs = pp.cutoffs_for(runner.provenance, **settings) if settings else {}
        options = [f"--cutoff={name}={float(value):.9g}" for name, value in cutoffs.items()]
        done = predict(anomaly, *options, "--save", str(tmp_path / f"cpp{place}"), *pictures)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        arrays = saved(tmp_path / f"cpp{place}")
        assert len(rows) == len(pictures)
        labels.append([row["pred_label"] for row in rows])
        for index, picture in enumerate(pictures):
            expected = runner(np.load(picture) if picture.endswith(".npy") else Image.open(picture))
            assert rows[index]["pred_label"] == expected.pred_label[0].tolist()
            assert rows[index]["pred_mask"]["true"] == int(expected.pred_mask.sum())
            np.testing.assert_array_equal(arrays[f"{index}.pred_mask.npy"], expected.pred_mask)
            np.testing.assert_allclose(arrays[f"{index}.anomaly_map.npy"], expected.anomaly_map, atol=1e-6)
    assert labels[0] != labels[1]
    gray = tmp_path / "gray.pgm"
    Image.open(next((DEMO / "images" / "grass").iterdir())).convert("L").save(gray)
    found = json.loads(predict(anomaly, str(gray)).stdout)
    assert found["pred_mask"]["true"] == int(pp.load(adjustable_ir)(gray).pred_mask.sum())


def test_a_packed_tensor_is_taken_apart(tmp_path: Path) -> None:
    post = pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"), pack=True)
    artifact = pp.convert(pp.fuse(DEMO / "raw.onnx", post))
    folder = built(artifact, tmp_path / "deploy", DEMO / "images")
    assert predict(folder, "--check").returncode == 0
    found = json.loads(predict(folder, "golden/1/input_0.npy").stdout)
    expected = pp.load(artifact)(np.load(folder / "golden/1/input_0.npy"))
    assert found["pred_label"] == expected.pred_label[0].tolist() == [True]
    assert found["pred_mask"]["true"] == int(expected.pred_mask.sum())


def test_checks_itself(anomaly: Path, adjustable_ir: Path, tmp_path: Path) -> None:
    assert predict(anomaly, "--check").returncode == 0
    assert program(anomaly, "check.py").returncode == 0
    other = tmp_path / "other"
    shutil.copytree(anomaly / "golden", other / "golden")
    pp.retune(adjustable_ir, image_sensitivity=0.0, pixel_sensitivity=0.9, output=other / "model.xml")
    done = predict(anomaly, "--check", "--package", str(other))
    assert done.returncode == 1
    assert "pred_label differs in 1 of 1 decisions" in done.stdout
    assert predict(anomaly, "--check", "--package", str(other), "--pixels", "1").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Usage: predict"),
        (["nowhere.npy"], "'nowhere.npy' cannot be read"),
        (["src/main.cpp"], "bytes, expected 786432 of one image"),
        (["golden/0/output_0.npy"], "is float32 [1,1], expected float32 [?,3,256,256]"),
        (
            ["golden/0/input_0.npy", "--cutoff", "x=1"],
            "Cutoff 'x' is not in the model, expected one of: pred_mask_cutoff",
        ),
        (["golden/0/input_0.npy", "--cutoff", "pred_label_cutoff=1,2"], "is given 2 values, expected 1 or 1"),
        (["golden/0/input_0.npy", "--cutoff", "pred_label_cutoff=high"], "'high' is not a number"),
        (["golden/0/input_0.npy", "--device", "NONE"], "Devices of this machine (--device): "),
        (["golden/0/input_0.npy", "--nonsense", "1"], "Option --nonsense is not known"),
        (["--check", "--package", "/nowhere"], "Name the folder of the package with --package"),
    ],
    ids=lambda each: str(each)[:30],
)
def test_bad_input(anomaly: Path, arguments: list[str], message: str) -> None:
    done = predict(anomaly, *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_detector_that_takes_frames(tmp_path: Path) -> None:
    onnx.save(cells(), tmp_path / "raw.onnx")
    save_scenes(tmp_path / "images", 6)
    post = pp.DetectionPostProcessor(head="yolov8", confidence=0.5, max_detections=20, thresholds="runtime")
    frames = Preprocessing(
        dtype="u8", layout="NHWC", channel_order="BGR", scale=(255.0,), resize="letterbox", box_coordinates="frame"
    )
    artifact = pp.convert(pp.fuse(tmp_path / "raw.onnx", post), preprocessing=frames)
    folder = built(artifact, tmp_path / "deploy", tmp_path / "images")
    assert predict(folder, "--check").returncode == 0
    picture = min((tmp_path / "images").glob("*.png"))
    Image.open(picture).convert("RGB").save(tmp_path / "frame.ppm")
    runner = pp.load(artifact)
    counts = []
    for confidence in (None, 0.2, 0.85):
        runner.set_thresholds(confidence=confidence)
        given = {} if confidence is None else pp.cutoffs_for(artifact.provenance, confidence=confidence)
        options = [
            f"--cutoff={name}={','.join(f'{each:.9g}' for each in value.ravel())}" for name, value in given.items()
        ]
        done = predict(folder, str(tmp_path / "frame.ppm"), *options)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        python = json.loads(program(folder, "-c", PYTHON, str(tmp_path / "frame.ppm"), *options).stdout)
        expected = runner(Image.open(picture))
        count = int(expected["count"][0])
        counts.append(count)
        assert found["count"] == python["count"] == count
        assert found["classes"] == python["classes"] == expected["classes"][0, :count].tolist()
        np.testing.assert_allclose(found["boxes"], expected["boxes"][0, :count], atol=1e-4)
    assert len(set(counts)) > 1


PYTHON = """
import json, sys
from packaged_model import MANIFEST, Model, as_json, read_picture, to_input
cutoffs = {}
for text in sys.argv[2:]:
    _, name, values = text.split("=")
    cutoffs[name] = [float(each) for each in values.split(",")]
spec = MANIFEST["inputs"][0]
print(json.dumps(as_json(Model(cutoffs=cutoffs)({spec["name"]: to_input(read_picture(sys.argv[1]), spec)}))))
"""
