"""Steps over the neighbours of a pixel: against SciPy, on broken numbers and small maps, and in whole models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import scipy.ndimage
from onnx import TensorProto, helper, numpy_helper

import pp_graph as pp
from pp_graph.errors import PostProcessorError
from pp_graph.openvino.island.float32 import island_constants
from pp_graph.postprocessors import PostProcessor
from pp_graph.program import Signature
from pp_graph.statistics import Statistics
from pp_graph.steps import (
    Compare,
    CropBorder,
    GaussianBlur,
    MaxOverMap,
    MedianFilter,
    MinMaxNormalize,
    ResizeMap,
    Step,
    ValueType,
)
from tests.models import STATS, conv_model, run, run_openvino
from tests.steps.steps_spatial import SHAPES
from tests.steps.test_steps import RUNTIMES, emit

F32 = np.float32
IMAGES = np.random.default_rng(1).random((3, 3, 40, 48), dtype=F32)


@dataclass(frozen=True)
class Chain(PostProcessor):
    """Steps by name, then a score, a label and a mask."""

    statistics: Statistics | None = None
    names: str = "blur"

    def steps(self, raw: Signature) -> Sequence[Step]:
        del raw
        image, pixel = self.statistics.image, self.statistics.pixel
        steps: list[Step] = []
        source = "raw_map"
        for name in self.names.split("+"):
            build = {
                "blur": lambda a, b: GaussianBlur(a, b, 1.5),
                "median": lambda a, b: MedianFilter(a, b, 5),
                "crop": lambda a, b: CropBorder(a, b, (1, 2, 3, 4)),
                "resize": lambda a, b: ResizeMap(a, b, 50, 61),
            }[name]
            steps.append(build(source, f"{name}_map"))
            source = f"{name}_map"
        return [
            *steps,
            MaxOverMap(source, "score"),
            MinMaxNormalize("score", "pred_score", image.threshold, image.min, image.max),
            Compare("pred_score", "pred_label", 0.5),
            MinMaxNormalize(source, "anomaly_map", pixel.threshold, pixel.min, pixel.max),
            Compare("anomaly_map", "pred_mask", 0.5),
        ]


def map_model(axes: str, opset: int = 17, size: tuple[int | str, int | str] = ("H", "W")) -> onnx.ModelProto:
    """A network with convolutions, whose only output is a map."""
    model = conv_model(opset)
    graph = model.graph
    graph.node.pop()
    graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, *size]))
    nodes = {
        "NCHW": helper.make_node("Identity", ["anomaly_map"], ["heat"]),
        "NHW": helper.make_node("Squeeze", ["anomaly_map", "channel"], ["heat"]),
        "NHWC": helper.make_node("Transpose", ["anomaly_map"], ["heat"], perm=[0, 2, 3, 1]),
    }
    graph.node.append(nodes[axes])
    if axes == "NHW":
        graph.initializer.append(numpy_helper.from_array(np.array([1]), "channel"))
    sizes = {"N": "N", "C": 1, "H": size[0], "W": size[1]}
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("heat", TensorProto.FLOAT, [sizes[axis] for axis in axes]))
    return model


def statistics_of(raw: onnx.ModelProto) -> Statistics:
    """Statistics for which about half of all decisions are positive."""
    heat = run(raw, {"image": IMAGES})["heat"]
    level = pp.LevelStatistics(threshold=float(np.median(heat)), min=float(heat.min()), max=float(heat.max()))
    scores = np.sort([scipy.ndimage.gaussian_filter(each.squeeze(), 1.5).max() for each in heat])
    return Statistics(image=pp.LevelStatistics(threshold=float(scores[1]), min=0.0, max=1.0), pixel=level)


def per_channel(axes: str, x: np.ndarray, compute) -> np.ndarray:
    """Apply a SciPy filter to each channel of each image."""
    last = np.moveaxis(x, 3, 1) if axes == "NHWC" else x
    flat = last.reshape(-1, *last.shape[-2:])
    found = np.stack([compute(each) for each in flat]).reshape(last.shape)
    return np.moveaxis(found, 1, 3) if axes == "NHWC" else found


@pytest.mark.parametrize("axes", SHAPES)
@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.0])
def test_blur_is_that_of_scipy(axes: str, sigma: float) -> None:
    x = np.random.default_rng(0).normal(0, 3, SHAPES[axes]).astype(F32)
    found = GaussianBlur("a", "b", sigma, axes=axes).reference(x)
    expected = per_channel(
        axes, x.astype(np.float64), lambda each: scipy.ndimage.gaussian_filter(each, sigma, mode="mirror")
    )
    assert found.dtype == F32
    assert np.abs(found - expected).max() < 2e-6


def test_blur_keeps_a_constant_and_the_sum_of_weights() -> None:
    for step in (GaussianBlur("a", "b", 4.0), GaussianBlur("a", "b", 1.0, 15), GaussianBlur("a", "b", 0.05)):
        assert step._weights[0] + 2 * step._weights[1:].sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    assert GaussianBlur("a", "b", 4.0).least_size == 17
    # Weights far outside are 0 in float32, and must not make NaN of an infinity.
    assert GaussianBlur("a", "b", 0.05, 17).least_size == 1


@pytest.mark.parametrize("size", [3, 5, 7, 9])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_median_is_that_of_scipy(runtime: str, size: int) -> None:
    x = np.random.default_rng(size).integers(-40, 40, (2, 1, 14, 17)).astype(F32)
    step = MedianFilter("a", "b", size, axes="NCHW")
    expected = per_channel("NCHW", x, lambda each: scipy.ndimage.median_filter(each, size, mode="nearest"))
    assert np.array_equal(step.reference(x), expected)
    assert np.array_equal(RUNTIMES[runtime](emit(step, x.shape, 17, 8), {"x": x})["y"], expected)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_median_of_a_map_smaller_than_its_window(runtime: str) -> None:
    x = np.array([[[3.0, 1.0]]], F32)
    step = MedianFilter("a", "b", 5, axes="NHW")
    assert step.reference(x).tolist() == [[[3.0, 1.0]]]
    assert RUNTIMES[runtime](emit(step, x.shape, 17, 8), {"x": x})["y"].tolist() == [[[3.0, 1.0]]]


def test_a_nan_reaches_every_window_that_holds_it() -> None:
    x = np.zeros((1, 9, 9), F32)
    x[0, 4, 4] = np.nan
    for step in (MedianFilter("a", "b", 3, axes="NHW"), GaussianBlur("a", "b", 0.4, 3, axes="NHW")):
        nan = np.isnan(step.reference(x))
        assert nan[0, 3:6, 3:6].all()
        assert nan.sum() == 9


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("axes", SHAPES)
def test_blur_spreads_broken_numbers_alike(axes: str, runtime: str) -> None:
    step = GaussianBlur("a", "b", 0.5, axes=axes)
    x = np.random.default_rng(0).normal(0, 3, SHAPES[axes]).astype(F32)
    for image, numbers in enumerate(([np.nan], [np.inf], [np.inf, -np.inf])):
        x[image].ravel()[37 : 37 + len(numbers)] = numbers
    expected = step.reference(x)
    found = RUNTIMES[runtime](emit(step, x.shape, 17, 8), {"x": x})["y"]
    assert np.isnan(expected).any()
    assert np.isinf(expected).any()
    assert np.isfinite(expected).any()
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    with np.errstate(invalid="ignore"):
        assert np.all((found == expected) | np.isnan(expected) | (np.abs(found - expected) < 1e-5))


SMALL = [(GaussianBlur("a", "b", 2.0, axes="NCHW"), 8), (CropBorder("a", "b", (3, 5, 0, 0), axes="NCHW"), 8)]


@pytest.mark.parametrize(("step", "height"), SMALL, ids=["blur", "crop"])
@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_map_that_is_too_small_fails(step: Step, height: int, opset: int, runtime: str) -> None:
    """A map of open size that is too small must fail at run time, never return an empty or wrong map."""
    model = emit(step, ("N", 1, "H", "W"), opset, 8)
    fitting, small = (np.ones((2, 1, rows, 20), F32) for rows in (height + 1, height))
    assert np.array_equal(RUNTIMES[runtime](model, {"x": fitting})["y"], step.reference(fitting))
    with pytest.raises(Exception, match=r"pp_graph/b/Pad"):
        RUNTIMES[runtime](model, {"x": small})
    with pytest.raises(PostProcessorError, match=f"'b' is computed from {height}x20 pixels, expected at least 9x"):
        step.reference(small)


def test_a_known_size_that_is_too_small_is_refused_before_anything_runs() -> None:
    blur = GaussianBlur("raw_map", "b", 4.0)
    small, large = (ValueType("NHW", (None, 40, width)) for width in (16, 17))
    assert blur.bind(large).axes == "NHW"
    with pytest.raises(
        PostProcessorError, match="computed from 40x16 pixels, expected at least 17x17 to be mirrored by 16"
    ):
        blur.bind(small)
    with pytest.raises(PostProcessorError, match="expected at least 3x17 for one to be left"):
        CropBorder("a", "b", (1, 1, 8, 8)).bind(small)
    with pytest.raises(PostProcessorError, match=r"Step 'blur_map' \(GaussianBlur\) does not fit .* 4x48 pixels"):
        pp.fuse(map_model("NCHW", size=(4, 48)), Chain(STATS, "blur"))
    assert CropBorder("a", "b", (1, 2, 3, 4)).output_type(large).map_size == (37, 10)
    assert CropBorder("a", "b", 2).output_type(ValueType("NHW")).map_size is None


@pytest.mark.parametrize(("build", "message"), [
    (lambda: GaussianBlur("a", "b", 0.0), "sigma of 'b' is 0.0, expected a number above 0"),
    (lambda: GaussianBlur("a", "b", float("nan")), "sigma of 'b' is nan"),
    (lambda: GaussianBlur("a", "b", 40.0), "sigma of 'b' is 40.0, which needs a kernel of 321 pixels"),
    (lambda: GaussianBlur("a", "b", 1.0, 4), "kernel_size of 'b' is 4, expected an odd whole number from 1 to 255"),
    (lambda: MedianFilter("a", "b", 4), "size of 'b' is 4, expected an odd whole number from 3 to 9"),
    (lambda: MedianFilter("a", "b", 3.0), "size of 'b' is 3.0, expected an odd whole number"),
    (lambda: CropBorder("a", "b", -1), "border of 'b' at the top is -1, expected a whole number from 0"),
    (lambda: CropBorder("a", "b", [1, 2, 3]), "expected one number of pixels, or four: top, bottom, left, right"),
    (lambda: CropBorder("a", "b", "3"), "border of 'b' at the top is '3'"),
])  # fmt: skip
def test_impossible_parameters(build, message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        build()


def test_crop_of_masks_keeps_their_type() -> None:
    for dtype in (np.bool_, np.uint8, F32):
        mask = np.random.default_rng(0).integers(0, 2, (2, 7, 8)).astype(dtype)
        cut = CropBorder("a", "b", [1, 2, 3, 0], axes="NHW").reference(mask)
        assert cut.dtype == dtype
        assert np.array_equal(cut, mask[:, 1:5, 3:])


@dataclass(frozen=True)
class CroppedMask(PostProcessor):
    """A mask of which the border is left out."""

    statistics: Statistics | None = None
    dtype: str = "bool"

    def steps(self, raw: Signature) -> Sequence[Step]:
        del raw
        return [Compare("raw_map", "whole", 0.2, dtype=self.dtype), CropBorder("whole", "pred_mask", 3)]


@pytest.mark.parametrize("size", [("H", "W"), (40, 48)], ids=["open", "fixed"])
@pytest.mark.parametrize("dtype", ["bool", "u8_255"])
def test_cropped_masks(dtype: str, size: tuple[int | str, int | str]) -> None:
    raw = map_model("NCHW", size=size)
    fused = pp.fuse(raw, CroppedMask(STATS, dtype))
    expected = CroppedMask(STATS, dtype)({"anomaly_map": run(raw, {"image": IMAGES})["heat"]}).pred_mask
    for found in (run(fused, {"image": IMAGES}), run_openvino(fused, {"image": IMAGES})):
        assert found["pred_mask"].dtype == expected.dtype
        assert found["pred_mask"].shape == (3, 1, 34, 42)
    assert pp.verify(raw, fused, IMAGES).passed
    assert pp.verify(raw, pp.convert(fused), IMAGES, inference_precision="bf16").passed


@pytest.mark.sample(every=6)
@pytest.mark.parametrize(("names", "axes", "size", "input_shape"), [
    ("blur", "NHWC", ("H", "W"), None),
    ("blur+resize", "NCHW", ("H", "W"), None),
    ("blur+resize", "NHW", (40, 48), (3, 3, 40, 48)),
    ("median+resize", "NHWC", (40, 48), None),
    ("resize+median+crop", "NHW", ("H", "W"), None),
    ("crop+blur+resize", "NHWC", ("H", "W"), (3, 3, 40, 48)),
])  # fmt: skip
def test_in_whole_models(names: str, axes: str, size, input_shape) -> None:
    raw = map_model(axes, size=size)
    fused = pp.fuse(raw, Chain(statistics_of(raw), names))
    assert pp.verify(raw, fused, IMAGES).passed
    for weights in ("f32", "f16"):
        artifact = pp.convert(fused, precision=weights, input_shape=input_shape)
        assert set(island_constants(artifact.network, artifact.provenance.prefix).values()) == {"f32"}
        for precision in ("f32", "bf16"):
            report = pp.verify(raw, artifact, IMAGES, inference_precision=precision)
            assert report.postprocessing_exact
            assert not any(decision.postprocessing.image.size for decision in report.decisions)
            mask = report.decisions[1]
            assert mask.total / 4 < mask.positive < mask.total * 3 / 4
            assert "bf16" not in report.island.values()


def test_other_thresholds_and_none() -> None:
    raw = map_model("NCHW")
    calibrated = statistics_of(raw)
    fused = pp.fuse(raw, Chain(calibrated, "median+blur+resize"))
    pixel = calibrated.pixel
    higher = pp.LevelStatistics(threshold=pixel.threshold + 0.01, min=pixel.min, max=pixel.max)
    moved = Statistics(image=calibrated.image, pixel=higher)
    artifact = pp.retune(pp.convert(fused, precision="f16"), statistics=moved)
    assert artifact.provenance.cutoffs["pred_mask"] != fused.provenance.cutoffs["pred_mask"]
    for precision in ("f32", "bf16"):
        report = pp.verify(raw, artifact, IMAGES, inference_precision=precision)
        assert report.postprocessing_exact
        assert "bf16" not in report.island.values()
    assert pp.strip(fused).to_proto().graph == pp.RawModel.open(raw).to_proto().graph


def test_the_models_own_blur_is_rewritten_and_ours_is_not() -> None:
    from tests.fusion.test_tail import applied, blur, rewrite

    raw = blur(["N", 1, 64, 64])
    alone = applied(rewrite(raw)[1])
    fused = pp.fuse(raw, Chain(STATS, "blur"))
    assert alone
    assert [record.rule for record in fused.provenance.tail] == alone
    ours = [node.op_type for node in fused.network.model.graph if (node.name or "").startswith("pp_graph/blur_map/")]
    assert ours.count("Pad") == 2
    x = np.random.default_rng(0).random((2, 1, 64, 64), dtype=F32) * 3
    for precision in ("f32", "bf16"):
        report = pp.verify(raw, pp.convert(fused), {"x": x}, inference_precision=precision)
        assert report.postprocessing_exact
        assert "bf16" not in report.island.values()
