"""The size of a model's images, given where the model leaves it open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import pp_graph as pp
from pp_graph.cli import run as run_cli
from pp_graph.errors import ModelError
from tests.detector_scenes import COUNTS
from tests.detectors import greedy
from tests.models import from_text, run

F32 = np.float32


def cells(layout: str = "N,3,H,W") -> onnx.ModelProto:
    """Image -> scores and boxes of cells of strides 8, 16 and 32, whose number inference does not find.

    Each cell is a box of twice its stride, and its score is the mean of a channel.
    """
    nchw = layout.startswith("N,3")
    head = "" if nchw else "image = Transpose<perm=[0,3,1,2]>(frames)"
    levels, names = "", []
    for stride in (8, 16, 32):
        levels += f"""
            pooled{stride} = AveragePool<kernel_shape=[{stride},{stride}], strides=[{stride},{stride}]>(image)
            rows{stride} = Transpose<perm=[0,2,3,1]>(pooled{stride})
            sizes{stride} = Shape(rows{stride})
            batch{stride} = Slice(sizes{stride}, zero, one, zero)
            flat{stride} = Concat<axis=0>(batch{stride}, minus_one, three)
            scores{stride} = Reshape(rows{stride}, flat{stride})
            ones{stride} = CastLike(rows{stride}, rows{stride})
            grid{stride} = Mul(ones{stride}, none)
            many{stride} = Reshape(grid{stride}, flat{stride})
            wide{stride} = Concat<axis=2>(many{stride}, many{stride})
            four{stride} = Slice(wide{stride}, zero, last, two)
            box{stride} = Add(four{stride}, corners{stride})"""
        names.append(stride)
    constants = ", ".join(f"float[1,1,4] corners{stride} = {{0,0,{2 * stride},{2 * stride}}}" for stride in names)
    return from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        cells (float[{layout}] {"image" if nchw else "frames"}) => (float[N,K,C] scores, float[N,K,P] boxes)
        <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] last = {{4}}, int64[1] three = {{3}},
         int64[1] minus_one = {{-1}}, float none = {{0}}, {constants}> {{
            {head}{levels}
            scores = Concat<axis=1>(scores8, scores16, scores32)
            boxes = Concat<axis=1>(box8, box16, box32)
        }}"""
    )


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("layout", ["N,3,H,W", "N,H,W,3"])
def test_a_head_that_needs_the_size(layout: str, tmp_path: Path) -> None:
    proto = cells(layout)
    post = pp.DetectionPostProcessor(confidence=0.3)
    with pytest.raises(
        pp.errors.OutputRoleError, match=r"fit 2 heads, for images of unknown size(?s:.*)input_size=\(640, 640\)"
    ):
        pp.fuse(proto, post)
    fused = pp.fuse(proto, post, input_size=(64, 64))
    assert fused.provenance.parameters["head"] == "yolo-nas"
    name = proto.graph.input[0].name
    image = np.random.default_rng(2).random((2, 64, 64, 3)).astype(F32)
    image[:, 32:40, 8:16, 1] = 1
    image = image.transpose(0, 3, 1, 2).copy() if layout == "N,3,H,W" else image
    raw, found = run(proto, {name: image}), run(fused, {name: image})
    assert raw["scores"].shape[1] == COUNTS["yolo-nas"]
    for place in range(2):
        kept = greedy(raw["boxes"][place], raw["scores"][place], 0.3, 0.45)
        count = found["count"][place]
        assert len(kept) == count > 0
        assert np.array_equal(found["boxes"][place, :count], raw["boxes"][place, kept])
    assert pp.strip(fused).to_proto() == proto
    tuned = pp.retune(fused, confidence=0.5)
    assert tuned.network.inputs == fused.network.inputs
    assert all(size == 64 for size in tuned.network.inputs[0].shape[1:] if size != 3)
    packed = fused.with_program(fused.program.replace(pack=True))
    assert packed.network.inputs == fused.network.inputs
    report = pp.verify(proto, pp.convert(proto, post=post, input_size=(64, 64)), {name: image})
    assert report.postprocessing_exact, report.failures


def test_inspect_names_the_size_and_the_command_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(cells(), tmp_path / "raw.onnx")
    assert run_cli(["inspect", str(tmp_path / "raw.onnx")]) == 0
    assert "--task detection --input-size 640x640 -o" in " ".join(capsys.readouterr().out.split())
    options = ["--task", "detection", "--input-size", "64x96", "-o"]
    assert run_cli(["convert", str(tmp_path / "raw.onnx"), *options, str(tmp_path / "model.xml")]) == 0
    assert pp.open(tmp_path / "model.xml").provenance.raw.input_size == (64, 96)
    assert run_cli(["fuse", str(tmp_path / "raw.onnx"), *options[:3], "64", "-o", str(tmp_path / "f.onnx")]) == 2
    assert "'64' is not a size, expected height and width such as" in capsys.readouterr().err
    assert not (tmp_path / "f.onnx").exists()


def test_sizes_that_cannot_be_given() -> None:
    post, fixed = pp.DetectionPostProcessor(), cells("N,3,64,64")
    with pytest.raises(
        ModelError, match=r"Input size 32x64 was given, and input 'image' is \(N, 3, 64, 64\), expected"
    ):
        pp.fuse(fixed, post, input_size=(32, 64))
    with pytest.raises(ModelError, match="Input size 0x64 is below 1"):
        pp.fuse(cells(), post, input_size=(0, 64))
    flat = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "flat",
            [helper.make_tensor_value_info("x", 1, ["N", 7, 84])],
            [helper.make_tensor_value_info("y", 1, ["N", 7, 84])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    with pytest.raises(ModelError, match="the model has 0 inputs of four axes, expected one that takes images"):
        pp.fuse(flat, post, input_size=(64, 64))
    with pytest.raises(pp.errors.TargetError, match="input_size was given without a post-processor"):
        pp.convert(pp.fuse(fixed, post, input_size=(64, 64)), input_size=(64, 64))
