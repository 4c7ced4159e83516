"""Packages of all families and forms of inputs and outputs predict as the runner does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.benchmarking import load_report
from pp_graph.packaging import read_manifest
from pp_graph.preprocessing import Preprocessing
from tests import classifiers
from tests.cell_detector import cells, save_scenes
from tests.conftest import DEMO
from tests.models import STATS, conv_model
from tests.packaging.conftest import program

pytestmark = pytest.mark.slow
Case = tuple[pp.OpenVINOModel, Any, Path]


def demo(work: Path, preprocessing: Preprocessing | None = None, **settings: Any) -> Case:
    post = pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"), **settings)
    raw = DEMO / "raw.onnx"
    return pp.convert(pp.fuse(raw, post), preprocessing=preprocessing), DEMO / "images", raw


def packed(work: Path) -> Case:
    return demo(work, pack=True)


def regions(work: Path) -> Case:
    return demo(work, mask_dtype="u8", regions=5)


def frames(work: Path) -> Case:
    return demo(
        work,
        Preprocessing(dtype="u8", layout="NHWC", channel_order="BGR", scale=(255.0,), resize="bilinear_pillow"),
    )


def open_sizes(work: Path) -> Case:
    onnx.save(conv_model(), work / "raw.onnx")
    images = np.random.default_rng(0).random((4, 3, 24, 32), np.float32)
    images[0] *= 0.01
    return pp.convert(pp.fuse(work / "raw.onnx", pp.OneClassPostProcessor(STATS))), images, work / "raw.onnx"


def classifier(work: Path) -> Case:
    onnx.save(classifiers.classifier(), work / "raw.onnx")
    post = pp.ClassificationPostProcessor(unknown_below=0.4, top=3, thresholds="runtime")
    return pp.convert(pp.fuse(work / "raw.onnx", post)), classifiers.images(), work / "raw.onnx"


def detector(work: Path) -> Case:
    onnx.save(cells(), work / "raw.onnx")
    save_scenes(work / "images", 6)
    post = pp.DetectionPostProcessor(head="yolov8", confidence=0.5, max_detections=20)
    letterboxed = Preprocessing(
        dtype="u8", layout="NHWC", channel_order="BGR", scale=(255.0,), resize="letterbox", box_coordinates="frame"
    )
    artifact = pp.convert(pp.fuse(work / "raw.onnx", post), preprocessing=letterboxed)
    return artifact, work / "images", work / "raw.onnx"


@pytest.mark.parametrize(
    "case", [packed, regions, frames, open_sizes, classifier, detector], ids=lambda case: case.__name__
)
def test_predicts_as_the_runner_does(case: Callable[[Path], Case], tmp_path: Path) -> None:
    artifact, images, raw = case(tmp_path)
    folder = tmp_path / "deploy"
    pp.package(artifact, folder, images, raw=raw)
    assert program(folder, "check.py").returncode == 0
    runner = pp.load(artifact)
    manifest = read_manifest(folder)
    files = [f"golden/{index}/input_0.npy" for index in range(len(manifest.golden.images))]
    rows = []
    for file in files:
        done = program(folder, "predict.py", file)
        assert done.returncode == 0, done.stderr
        rows.append(json.loads(done.stdout))
        expected = runner(np.load(folder / file))
        for name, value in rows[-1].items():
            if name == "picture":
                continue
            wanted = np.asarray(expected[name])[0]
            if isinstance(value, dict):
                assert np.prod(value["shape"]) == wanted.size
                if "true" in value:
                    assert value["true"] == np.count_nonzero(wanted)
                else:
                    np.testing.assert_allclose([value["min"], value["max"]], [wanted.min(), wanted.max()], atol=1e-5)
            else:  # lists end with the last candidate
                found = np.asarray(value)
                wanted = wanted[: len(found)] if found.ndim else wanted
                np.testing.assert_allclose(found.reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-5)
    assert len({str({**row, "picture": ""}) for row in rows}) > 1
    done = program(folder, "bench.py", "--seconds", "0.2", "--precision", "f32", "-o", "bench.json")
    assert done.returncode == 0, done.stderr
    assert [each.name for each in load_report(folder / "bench.json").results] == [
        "raw",
        "raw + host-openvino",
        "model.xml",
    ]


def test_the_split_model_decides_as_the_whole(tmp_path: Path) -> None:
    """What `bench.py` times as post-processing on the host is the post-processing of the model."""
    artifact, images, raw = demo(tmp_path)
    folder = tmp_path / "deploy"
    pp.package(artifact, folder, images, raw=raw)
    done = program(folder, "-c", SPLIT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"True": True, "False": True}


SPLIT = """
import json
import numpy as np, openvino as ov
from bench import FOLDER, MANIFEST, load, without_post_processing
core = ov.Core()
expected = [np.load(FOLDER / f"golden/0/output_{place}.npy") for place in range(4)]
same = {}
for packaged in (True, False):
    raw = core.read_model(FOLDER / MANIFEST["raw"]["model"]) if packaged else without_post_processing(core)
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    values = core.compile_model(raw, "CPU", hint)({place: each.data for place, each in load("golden/0").items()})
    post = core.compile_model(core.read_model(FOLDER / MANIFEST["raw"]["post"]), "CPU", hint)
    found = post({place: values[place] for place in range(len(values))})
    named = {name: found[port] for port in post.outputs for name in port.get_names()}
    wanted = {spec["name"]: array for spec, array in zip(MANIFEST["outputs"], expected)}
    same[str(packaged)] = all(
        np.array_equal(named[name], array) if array.dtype == bool else np.allclose(named[name], array, atol=1e-4)
        for name, array in wanted.items()
    )
print(json.dumps(same))
"""
