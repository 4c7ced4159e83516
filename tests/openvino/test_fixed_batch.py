"""The batch fixed when converting: nothing else changes, and every verb takes the result."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.errors import TargetError
from tests.conftest import DEMO
from tests.models import STATS, conv_model, from_text

POST = pp.OneClassPostProcessor(STATS)
STATE = from_text(
    """<ir_version: 8, opset_import: ["": 17]>
    raw (float[N,1,H,W] image, float[2,N,4] state, float[3] shared) => (float[N,1,H,W] heat, float[2,N,4] next) {
        heat = Identity(image)
        total = ReduceSum<keepdims = 0>(shared)
        next = Add(state, total)
    }"""
)


def sizes(artifact: pp.OpenVINOModel) -> dict[str, tuple]:
    return {each.name: each.shape for each in artifact.session().inputs}


def test_other_sizes_stay_open() -> None:
    fused = pp.fuse(conv_model(), POST)
    assert sizes(pp.convert(fused, batch=2)) == {"image": (2, 3, None, None)}
    assert sizes(pp.convert(fused, batch=2, input_shape=[None, 3, 32, None])) == {"image": (2, 3, 32, None)}
    assert sizes(pp.convert(fused, batch=2, input_shape=[2, 3, 32, 48])) == {"image": (2, 3, 32, 48)}


def test_every_input_with_the_batch() -> None:
    artifact = pp.convert(pp.fuse(STATE, POST), batch=3)
    assert sizes(artifact) == {"image": (3, 1, None, None), "state": (2, 3, 4), "shared": (3,)}
    feeds = {
        "image": np.random.default_rng(0).normal(1, 1, (7, 1, 5, 6)).astype(np.float32),
        "state": np.random.default_rng(1).normal(1, 1, (2, 7, 4)).astype(np.float32),
    }
    report = pp.verify(pp.RawModel.open(STATE), artifact, feeds, fixed_inputs={"shared": [1, 2, 3]})
    assert report.passed
    assert report.drift_flips == 0


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("kind", ["plain", "frames", "f16"])
def test_verbs_take_it(tmp_path: Path, demo_fused_path: Path, demo_images: np.ndarray, kind: str) -> None:
    frames = pp.Preprocessing(dtype="u8", scale=(255,), resize="bilinear_pillow") if kind == "frames" else None
    artifact = pp.convert(demo_fused_path, batch=4, precision="f16" if kind == "f16" else "f32", preprocessing=frames)
    assert artifact.notes == ()
    path = artifact.save(tmp_path / "model.xml")
    runner = pp.load(path)
    assert runner.inputs[0].shape is not None
    assert runner.inputs[0].shape[0] == 4
    pp.retune(path, image_sensitivity=0.7)
    assert pp.verify(
        DEMO / "raw.onnx", path, DEMO / "images", max_label_flips=None, max_pixel_flips=None
    ).postprocessing_exact
    retuned = pp.load(path)
    assert retuned.provenance.parameters["image_sensitivity"] == 0.7
    assert len(retuned(DEMO / "images").pred_label) == len(demo_images)
    described = pp.inspect(path)
    assert described.inputs[0].shape is not None
    assert described.inputs[0].shape[0] == 4


@pytest.mark.parametrize(
    ("model", "batch", "shape", "message"),
    [
        ("[2,1,H,W]", 3, None, r"Batch 3 was asked for, but input 'image' is \(2, .*fixed to 2. Leave out --batch"),
        ("[N,1,H,W]", 3, [2, 1, 8, 8], "fixed to 2"),
        ("[N,1,H,W]", 0, None, "Batch is 0, expected at least 1"),
        ("[]", 1, None, "no known batch axis: 'image'"),
    ],
)
def test_refusals(model: str, batch: int, shape: list | None, message: str) -> None:
    heat = "[N,1,H,W]" if model != "[]" else "[1,1,2,2]"
    body = "heat = Identity(image)" if model != "[]" else "heat = Expand(image, sizes)"
    proto = from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        raw (float{model} image) => (float{heat} heat) <int64[4] sizes = {{1, 1, 2, 2}}> {{ {body} }}"""
    )
    with pytest.raises(TargetError, match=message):
        pp.convert(pp.fuse(proto, POST), batch=batch, input_shape=shape)


def test_a_batch_that_is_fixed_already_is_no_error() -> None:
    proto = conv_model()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    artifact = pp.convert(pp.fuse(proto, POST), batch=2)
    assert sizes(artifact)["image"][0] == 2
    assert artifact.notes == ()


def test_an_open_batch_is_noted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw.onnx"
    onnx.save(conv_model(), raw)
    STATS.save(tmp_path / "stats.json")
    given = ["convert", str(raw), "--stats", str(tmp_path / "stats.json"), "--json"]
    assert run([*given, "-o", str(tmp_path / "open.xml")]) == 0
    out, err = capfd.readouterr()
    assert any("1.2 to 1.36 times slower" in each for each in json.loads(out)["notes"])
    assert err.count("--batch 1") == 1
    assert run([*given, "-o", str(tmp_path / "fixed.xml"), "--batch", "1"]) == 0
    out, err = capfd.readouterr()
    assert not any("slower" in each for each in json.loads(out)["notes"])
    assert "slower" not in err
    assert any("1.2 to 1.36" in each for each in pp.convert(raw, post=POST).notes)
