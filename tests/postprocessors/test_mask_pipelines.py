"""Steps on masks and loops in whole models: fused, converted, verified, retuned and stripped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy import ndimage

import pp_graph as pp
from pp_graph.errors import PostProcessorError
from pp_graph.postprocessors import RAW_MAP, RAW_SCORE, ROLES
from pp_graph.program import Signature, compile_steps
from pp_graph.steps import (
    MAP,
    Compare,
    Emitter,
    Hysteresis,
    MaskByLabel,
    OpenMask,
    RemoveSmallRegions,
    Step,
)
from tests.models import run

F32 = np.float32


@dataclass(frozen=True)
class Cleaned(pp.PostProcessor):
    """Two thresholds; thin parts, specks and the masks of normal images are removed."""

    statistics: pp.Statistics | None = None
    pixel_sensitivity: float = 0.5
    runtime: bool = False
    pack: bool = False

    def steps(self, raw: Signature) -> tuple[Step, ...]:
        assert self.statistics is not None
        level = self.statistics.pixel.threshold
        return (
            Compare(RAW_SCORE, "pred_label", self.statistics.image.threshold, runtime=self.runtime),
            Compare(RAW_MAP, "strong", level + 1 - self.pixel_sensitivity, runtime=self.runtime),
            Compare(RAW_MAP, "weak", level - 0.5),
            Hysteresis("weak", "strong", "whole"),
            OpenMask("whole", "opened", 3, "cross"),
            RemoveSmallRegions("opened", "large", 6, 4),
            MaskByLabel("large", "pred_label", "pred_mask"),
        )


def network(axes: str, opset: int) -> onnx.ModelProto:
    """A small network whose map has these axes: image (N,3,H,W) -> score (N,1), heat."""
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.normal(0, 0.3, (8, 3, 5, 5)).astype(F32),
        "w2": rng.normal(0, 0.3, (1, 8, 5, 5)).astype(F32),
    }
    heat = "heat" if axes == "NCHW" else "inner"
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["h1"], pads=[2] * 4),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("Conv", ["h2", "w2"], [heat], pads=[2] * 4),
        helper.make_node("GlobalMaxPool", [heat], ["top"]),
        helper.make_node("Flatten", ["top"], ["score"]),
    ]
    if axes == "NHWC":
        nodes.append(helper.make_node("Transpose", [heat], ["heat"], perm=[0, 2, 3, 1]))
    if axes == "NHW":
        constants["channel"] = np.array([1])
        nodes.append(helper.make_node("Squeeze", [heat, "channel"], ["heat"]))
    sizes = {"NHW": ["N", "H", "W"], "NCHW": ["N", 1, "H", "W"], "NHWC": ["N", "H", "W", 1]}[axes]
    graph = helper.make_graph(
        nodes,
        "raw",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1]),
            helper.make_tensor_value_info("heat", TensorProto.FLOAT, sizes),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def pictures() -> np.ndarray:
    rng = np.random.default_rng(1)
    return (ndimage.gaussian_filter(rng.normal(0, 1, (4, 3, 40, 52)), (0, 0, 2, 2)) * 6).astype(F32)


def fused_network(axes: str, opset: int, *, runtime: bool = False) -> tuple[onnx.ModelProto, pp.FusedModel]:
    raw = network(axes, opset)
    values = run(raw, {"image": pictures()})
    scores = np.sort(values["score"].ravel())
    middle = float(scores[1:3].mean())
    level = float(np.quantile(values["heat"], 0.85))
    statistics = pp.Statistics(
        image=pp.LevelStatistics(threshold=middle, min=0.0, max=10.0),
        pixel=pp.LevelStatistics(threshold=level, min=0.0, max=10.0),
    )
    return raw, pp.fuse(raw, Cleaned(statistics, runtime=runtime))


CASES = [("NHW", 17, False), ("NCHW", 18, False), ("NHWC", 18, True), ("NCHW", 13, True)]


@pytest.mark.slow
@pytest.mark.parametrize(("axes", "opset", "runtime"), CASES)
def test_a_sentence_of_masks_holds_end_to_end(axes: str, opset: int, runtime: bool) -> None:
    raw, fused = fused_network(axes, opset, runtime=runtime)
    onnx.checker.check_model(fused.to_proto(), full_check=True)
    images = pictures()
    report = pp.verify(raw, fused, images)
    assert report.postprocessing_exact
    found = run(fused, {"image": images})
    assert found["pred_mask"].any(axis=tuple(range(1, found["pred_mask"].ndim))).tolist() == (
        found["pred_label"].ravel().tolist()
    )
    assert 0 < found["pred_label"].sum() < len(images)
    for precision, size, hint in (("f32", None, "f32"), ("f16", None, "bf16"), ("f32", (1, 3, 40, 52), "bf16")):
        artifact = pp.convert(fused, precision=precision, input_shape=size)
        report = pp.verify(raw, artifact, images, inference_precision=hint)
        assert report.postprocessing_exact, report
        assert report.postprocessing_flips == 0


@pytest.mark.slow
def test_masks_are_stripped_and_retuned(tmp_path: Path) -> None:
    raw, fused = fused_network("NHW", 17)
    fused.save(tmp_path / "fused.onnx")
    for each in (fused, tmp_path / "fused.onnx"):
        stripped = pp.strip(each).to_proto().SerializeToString(deterministic=True)
        assert stripped == raw.SerializeToString(deterministic=True)
    artifact = pp.convert(fused, precision="f16")
    artifact.save(tmp_path / "model.xml")
    images = pictures()
    before = run(fused, {"image": images})["pred_mask"]
    statistics = fused.provenance.statistics
    assert statistics is not None
    higher = pp.Statistics(image=statistics.image, pixel=pp.LevelStatistics(threshold=3.5, min=0.0, max=10.0))
    for change in ({"statistics": higher}, {"pixel_sensitivity": 0.9}):
        retuned = pp.retune(pp.open(tmp_path / "fused.onnx"), **change)
        assert isinstance(retuned, pp.FusedModel)
        assert not np.array_equal(run(retuned, {"image": images})["pred_mask"], before)
        assert pp.verify(raw, retuned, images).passed
        again = pp.retune(pp.open(tmp_path / "model.xml"), **change)
        report = pp.verify(raw, again, images, inference_precision="bf16")
        assert report.postprocessing_exact, report


@pytest.mark.parametrize("name", ["fused.onnx", "model.xml"])
def test_cutoffs_in_front_of_loops_are_changed_in_the_file(tmp_path: Path, name: str) -> None:
    raw, fused = fused_network("NCHW", 18)
    path = tmp_path / name
    (fused if name.endswith(".onnx") else pp.convert(fused)).save(path)
    retuned = pp.retune(path, output=tmp_path / f"other_{name}", pixel_sensitivity=0.9)
    assert retuned.way == "constants"
    kind = pp.FusedModel if name.endswith(".onnx") else pp.OpenVINOModel
    assert pp.verify(raw, kind.load(tmp_path / f"other_{name}"), pictures()).passed


@dataclass(frozen=True)
class Raised(Step):
    """Add a number to a map three times, in a loop that alone reads the number."""

    accepts = (MAP,)
    source: str
    target: str

    def reference(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(array, F32) + F32(1.5) + F32(1.5) + F32(1.5)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        truth = op.constant(np.bool_(True), "go_on")

        def body(state: ir.Value) -> tuple[ir.Value, ir.Value]:
            again = op.node("Identity", [truth], {}, np.dtype(np.bool_), ())
            return again, op.add(state, op.constant(F32(1.5), "raise_by"))

        return op.loop(3, value, body)


@dataclass(frozen=True)
class RaisedMap(pp.PostProcessor):
    """A map that a loop changes."""

    statistics: pp.Statistics | None = None
    pack: bool = False

    def steps(self, raw: Signature) -> tuple[Step, ...]:
        return (Raised(RAW_MAP, "anomaly_map"), Compare("anomaly_map", "pred_mask", 5.0))


def test_a_step_of_ones_own_may_loop() -> None:
    raw = network("NCHW", 13)
    fused = pp.fuse(raw, RaisedMap())
    assert pp.verify(raw, fused, pictures()).passed
    report = pp.verify(raw, pp.convert(fused), pictures(), inference_precision="f32")
    assert report.postprocessing_exact, report
    assert pp.strip(fused).to_proto().SerializeToString(deterministic=True) == raw.SerializeToString(deterministic=True)


def test_a_recipe_has_steps_on_masks() -> None:
    recipe = pp.RecipePostProcessor(
        recipe=(
            {"step": "compare", "source": "raw_map", "target": "weak", "level": 1.0},
            {"step": "compare", "source": "raw_map", "target": "strong", "level": 2.0},
            {"step": "hysteresis", "source": "weak", "strong": "strong", "target": "whole", "connectivity": 4},
            {"step": "close_mask", "source": "whole", "target": "closed", "size": 5, "shape": "disk"},
            {"step": "remove_small_regions", "source": "closed", "target": "pred_mask", "min_area": 9},
        )
    )
    raw = network("NHW", 18)
    assert pp.verify(raw, pp.fuse(raw, recipe), pictures()).passed


def test_masks_of_other_sizes_do_not_meet() -> None:
    signature = Signature.of_shapes({RAW_SCORE: (None, 1), RAW_MAP: (None, 1, 8, 8)}, ROLES)
    steps = (
        Compare(RAW_MAP, "weak", 1.0),
        pp.steps.ResizeMap(RAW_MAP, "large", 16, 16),
        Compare("large", "strong", 2.0),
        Hysteresis("weak", "strong", "pred_mask"),
    )
    with pytest.raises(PostProcessorError, match=r"'weak' is bool \(N,1,8,8\) and 'strong' is bool \(N,1,16,16\)"):
        compile_steps(steps, signature)


def test_a_sensitivity_moves_a_mask_that_a_later_step_writes() -> None:
    _, fused = fused_network("NCHW", 18)
    assert "pred_mask" not in fused.provenance.cutoffs
    assert pp.retune(fused, pixel_sensitivity=0.9).provenance.cutoffs["strong"] != fused.provenance.cutoffs["strong"]
    with pytest.raises(PostProcessorError, match="has no image_sensitivity"):
        pp.retune(fused, image_sensitivity=0.9)


def test_loops_with_the_same_operators_are_told_apart() -> None:
    """Retuning compares the operators of the old and new post-processing, including bodies of loops."""
    from pp_graph.fusion.emission import emit_alone

    _, fused = fused_network("NCHW", 18)
    program, provenance = fused.program, fused.provenance
    one, same, other = (
        emit_alone(each, provenance.tensors, provenance.prefix, opset=opset, ir_version=8)[0]
        for each, opset in ((program, 18), (program.replace(pixel_sensitivity=0.9), 18), (program, 17))
    )
    assert one.structure == same.structure
    assert one.constants != same.constants
    assert one.structure != other.structure
