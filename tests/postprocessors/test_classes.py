"""Models with several classes, and steps over whole maps, from the raw model to decisions in OpenVINO."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pp_graph as pp
from pp_graph.errors import PostProcessorError
from pp_graph.postprocessors import CLASS_ROLES, RAW_MAP, RAW_SCORE
from pp_graph.program import Signature
from pp_graph.raw_values import open_raw_values
from pp_graph.steps import (
    Compare,
    ComparePerClass,
    ComparePerPixel,
    Keep,
    MaxOverMap,
    MeanOverMap,
    PerImageMinMax,
    SelectClass,
    Softmax,
    Step,
    TopKMean,
    levels_as_text,
)
from pp_graph.verification.boundary import boundary_arrays
from tests.models import run

F32 = np.float32
CLASSES, SIDE = 4, 16


def class_model(
    layout: str = "NCHW", *, classes: int = CLASSES, open_size: bool = False, opset: int = 17
) -> onnx.ModelProto:
    """A small network: image (N,3,16,16) -> logits (N,C), heat (N,C,16,16), or in another `layout`."""
    rng = np.random.default_rng(3)
    side = ["H", "W"] if open_size else [SIDE, SIDE]
    w1 = numpy_helper.from_array(rng.normal(0, 0.3, (8, 3, 3, 3)).astype(F32), "w1")
    w2 = numpy_helper.from_array(rng.normal(0, 0.5, (classes, 8, 3, 3)).astype(F32), "w2")
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["h1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("Conv", ["h2", "w2"], ["whole"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["whole"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    shape: list[str | int] = ["N", classes, *side]
    if layout == "NCHW":
        nodes.append(helper.make_node("Identity", ["whole"], ["heat"]))
    elif layout == "NHWC":
        nodes.append(helper.make_node("Transpose", ["whole"], ["heat"], perm=[0, 2, 3, 1]))
        shape = ["N", *side, classes]
    else:
        nodes.append(helper.make_node("Squeeze", ["whole"], ["heat"], axes=[1]))
        shape = ["N", *side]
    if layout == "NHW" and opset >= 13:
        nodes[-1] = helper.make_node("Squeeze", ["whole", "one"], ["heat"])
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes]),
        helper.make_tensor_value_info("heat", TensorProto.FLOAT, shape),
    ]
    one = [numpy_helper.from_array(np.array([1]), "one")] if layout == "NHW" else []
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, *side])
    graph = helper.make_graph(nodes, "raw", [image], outputs, [w1, w2, *one])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@dataclass(frozen=True)
class Probabilities(pp.PostProcessor):
    """Softmax over the classes, and a threshold a class, of images and of pixels."""

    statistics: pp.Statistics | None = None
    thresholds: tuple[float, ...] = (0.2, 0.25, 0.3, 0.35)
    roles = CLASS_ROLES

    def steps(self, raw: Signature) -> Sequence[Step]:
        return (
            Softmax(RAW_SCORE, "pred_score"),
            ComparePerClass("pred_score", "pred_label", self.thresholds),
            Softmax(RAW_MAP, "anomaly_map"),
            ComparePerClass("anomaly_map", "pred_mask", self.thresholds),
        )


@dataclass(frozen=True)
class Logits(pp.PostProcessor):
    """Raw numbers of each class, compared as they are."""

    statistics: pp.Statistics | None = None
    thresholds: tuple[float, ...] = (-0.5, 0.0, 0.25, 1.0)
    roles = CLASS_ROLES

    def steps(self, raw: Signature) -> Sequence[Step]:
        return (
            Keep(RAW_SCORE, "pred_score"),
            ComparePerClass("pred_score", "pred_label", self.thresholds, on_nan="normal"),
            Keep(RAW_MAP, "anomaly_map"),
            ComparePerClass("anomaly_map", "pred_mask", self.thresholds),
        )


@dataclass(frozen=True)
class OneOfMany(pp.PostProcessor):
    """The map of one class, with a threshold a pixel, and the mean of its largest pixels as score."""

    statistics: pp.Statistics | None = None
    levels: str = ""
    index: int = 2
    roles = CLASS_ROLES

    def steps(self, raw: Signature) -> Sequence[Step]:
        return (
            SelectClass(RAW_MAP, "anomaly_map", self.index),
            ComparePerPixel("anomaly_map", "pred_mask", self.levels),
            TopKMean("anomaly_map", "pred_score", fraction=0.05),
            Compare("pred_score", "pred_label", 8.0),
        )


@dataclass(frozen=True)
class Spread(pp.PostProcessor):
    """Maps normalised by image, their mean as score, and a threshold for each pixel."""

    statistics: pp.Statistics | None = None
    levels: str = ""
    k: int = 7

    def steps(self, raw: Signature) -> Sequence[Step]:
        return (
            PerImageMinMax(RAW_MAP, "anomaly_map"),
            ComparePerPixel("anomaly_map", "pred_mask", self.levels),
            TopKMean(RAW_MAP, "top", k=self.k),
            MeanOverMap("anomaly_map", "pred_score"),
            Compare("top", "pred_label", 8.0),
        )


@dataclass(frozen=True)
class Calibrated(pp.PostProcessor):
    """Thresholds a class and a pixel that follow from the statistics."""

    statistics: pp.Statistics | None = None
    roles = CLASS_ROLES

    def steps(self, raw: Signature) -> Sequence[Step]:
        assert self.statistics is not None
        image, pixel = self.statistics.image.threshold, self.statistics.pixel.threshold
        levels = np.linspace(pixel - 1, pixel + 1, SIDE * SIDE).reshape(SIDE, SIDE)
        return (
            ComparePerClass(RAW_SCORE, "pred_label", tuple(image + each for each in range(CLASSES))),
            ComparePerPixel(RAW_MAP, "pred_mask", levels),
        )


LEVELS = levels_as_text(np.random.default_rng(5).uniform(0.3, 0.7, (SIDE, SIDE)))
POSTS = [Probabilities(), Logits(), OneOfMany(levels=LEVELS), Spread(levels=LEVELS)]


@pytest.fixture
def images() -> np.ndarray:
    strength = np.array([0.2, 0.5, 1.0, 2.0])[:, None, None, None]
    return (np.random.default_rng(1).normal(0, 1, (4, 3, SIDE, SIDE)) * strength).astype(F32)


def raw_model(post: pp.PostProcessor, layout: str) -> onnx.ModelProto:
    return class_model(layout, classes=CLASSES if post.roles is CLASS_ROLES else 1)


def layouts_of(post: pp.PostProcessor) -> tuple[str, ...]:
    return ("NCHW", "NHWC") if post.roles is CLASS_ROLES else ("NHW", "NCHW", "NHWC")


CASES = [(post, layout) for post in POSTS for layout in layouts_of(post)]


@pytest.mark.sample(every=7)
@pytest.mark.parametrize("weights", ["f32", "f16"])
@pytest.mark.parametrize(
    ("post", "layout"), CASES, ids=lambda each: each if isinstance(each, str) else type(each).__name__
)
def test_no_decision_changes(
    post: pp.PostProcessor, layout: str, weights: str, images: np.ndarray, tmp_path: Path
) -> None:
    raw = raw_model(post, layout)
    fused = pp.fuse(raw, post)
    for shape in (None, {"image": (2, 3, SIDE, SIDE)}):
        artifact = pp.convert(fused, precision=weights, input_shape=shape)
        for precision in ("f32", "bf16"):
            report = pp.verify(raw, artifact, images, inference_precision=precision)
            assert report.postprocessing_exact, f"{report}"
            for decision in report.decisions:
                assert decision.postprocessing.image.size == 0
                assert 0 < decision.positive < decision.total, decision.name
            assert report.boundary.flips == 0
    assert pp.verify(raw, fused, images).passed


def deployed(raw: onnx.ModelProto, post: pp.PostProcessor, tmp_path: Path) -> tuple[Path, Path]:
    """The raw model and its IR on disk."""
    path = tmp_path / "raw.onnx"
    onnx.save(raw, path)
    return path, pp.convert(pp.fuse(path, post)).save(tmp_path / "model.xml")


@pytest.mark.parametrize("post", POSTS, ids=lambda post: type(post).__name__)
def test_deployed(post: pp.PostProcessor, images: np.ndarray, tmp_path: Path) -> None:
    raw, xml = deployed(raw_model(post, "NCHW"), post, tmp_path)
    found = pp.load(xml)(images)
    outputs = run(onnx.load(raw), {"image": images})
    expected = post({"pred_score": outputs["logits"], "anomaly_map": outputs["heat"]})
    for name, array in expected.items():
        got = found[name]
        assert got.shape == array.shape, name
        assert got.dtype == array.dtype, name
        assert np.allclose(got, array, atol=1e-5) if array.dtype == F32 else np.array_equal(got, array), name
    usage = xml.with_suffix(".usage.md").read_text()
    assert len(usage) < 20_000
    mask = next(line for line in usage.splitlines() if line.startswith("| `pred_mask`"))
    assert "true where" in mask
    assert ("class" in mask) == (found.pred_mask.shape[1] == CLASSES)
    assert all(len(line) < 1000 for line in pp.OpenVINOModel.load(xml).provenance.summary().values())


@pytest.mark.parametrize("post", POSTS, ids=lambda post: type(post).__name__)
def test_stripped_and_retuned(post: pp.PostProcessor, images: np.ndarray, tmp_path: Path) -> None:
    raw, xml = deployed(raw_model(post, "NHWC"), post, tmp_path)
    fused = pp.fuse(raw, post)
    assert [output.name for output in pp.strip(fused).model.graph.outputs] == ["logits", "heat"]
    statistics = pp.Statistics(
        image=pp.LevelStatistics(threshold=1.0, min=0.0, max=2.0),
        pixel=pp.LevelStatistics(threshold=1.0, min=0.0, max=2.0),
    )
    for model in (fused, pp.OpenVINOModel.load(xml)):
        artifact = pp.retune(model, statistics=statistics)
        assert artifact.provenance.statistics == statistics
        assert pp.verify(raw, artifact, images).passed


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_files_are_retuned_in_place_of_their_numbers(suffix: str, images: np.ndarray, tmp_path: Path) -> None:
    def statistics(threshold: float) -> pp.Statistics:
        level = pp.LevelStatistics(threshold=threshold, min=-5.0, max=5.0)
        return pp.Statistics(image=level, pixel=level)

    raw, xml = deployed(class_model(), Calibrated(statistics(0.5)), tmp_path)
    fused = pp.fuse(raw, Calibrated(statistics(0.5))).save(tmp_path / "fused.onnx")
    target = tmp_path / f"retuned{suffix}"
    source = xml if suffix == ".xml" else fused
    retuned = pp.retune(source, statistics(0.125), output=target)
    assert retuned.way == "constants"
    report = pp.verify(raw, target, images)
    assert report.postprocessing_exact
    outputs = run(onnx.load(raw), {"image": images})
    expected = Calibrated(statistics(0.125))({"pred_score": outputs["logits"], "anomaly_map": outputs["heat"]})
    assert [each.positive for each in report.decisions] == [expected.pred_label.sum(), expected.pred_mask.sum()]


def test_pictures_show_the_most_anomalous_class(images: np.ndarray, tmp_path: Path) -> None:
    from PIL import Image

    from pp_graph.report.prediction_folder import write_predictions

    _, xml = deployed(class_model("NHWC"), Logits(), tmp_path)
    runner = pp.load(xml)
    found = runner(images)
    written = write_predictions(runner, images, tmp_path / "out", save=("masks", "overlays", "maps"))
    for index, row in enumerate(written.predictions):
        assert row.pred_score == pytest.approx(float(found.pred_score[index].max()), rel=1e-6)
        assert row.pred_label == found.pred_label[index].any()
        assert row.anomalous_pixels == found.pred_mask[index].any(axis=2).sum()
        assert np.array_equal(np.array(Image.open(tmp_path / "out" / row.map)), found.anomaly_map[index].max(axis=2))


def boundary_of(post: pp.PostProcessor, layout: str) -> tuple[dict[str, np.ndarray], dict]:
    fused = pp.fuse(raw_model(post, layout), post)
    return boundary_arrays(fused.provenance, fused.program), fused.program.comparisons


def sides(cutoffs: np.ndarray) -> list[np.ndarray]:
    return [cutoffs, np.nextafter(cutoffs, F32(-np.inf)), np.nextafter(cutoffs, F32(np.inf))]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_every_class_meets_its_cutoff_and_both_neighbours(layout: str) -> None:
    arrays, compares = boundary_of(Logits(), layout)
    for role, name in ((RAW_SCORE, "pred_label"), (RAW_MAP, "pred_mask")):
        for wanted in sides(compares[name].cutoffs):
            assert (arrays[role] == wanted).any(axis=0).all(), name


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_every_pixel_meets_its_cutoff_and_both_neighbours(layout: str) -> None:
    arrays, compares = boundary_of(OneOfMany(levels=LEVELS), layout)
    # The cutoffs are for one class; the inputs have all classes.
    for wanted in sides(compares["pred_mask"].cutoffs):
        assert (arrays[RAW_MAP] == wanted).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize("post", [Logits(), OneOfMany(levels=LEVELS)], ids=lambda post: type(post).__name__)
def test_one_shifted_cutoff_among_many_is_found(post: pp.PostProcessor, images: np.ndarray, tmp_path: Path) -> None:
    proto = pp.fuse(class_model(), post).to_proto()
    (tensor,) = [each for each in proto.graph.initializer if each.name.endswith("pred_mask/cutoffs")]
    cutoffs = numpy_helper.to_array(tensor).copy()
    cutoffs.reshape(-1)[2] = np.nextafter(cutoffs.reshape(-1)[2], F32(np.inf))
    tensor.CopyFrom(numpy_helper.from_array(cutoffs, tensor.name))
    onnx.save(proto, tmp_path / "changed.onnx")
    report = pp.verify(class_model(), pp.FusedModel.load(tmp_path / "changed.onnx"), images)
    assert not report.postprocessing_exact
    assert report.boundary.flips > 0


def test_raw_values_of_a_model_with_classes(images: np.ndarray, tmp_path: Path) -> None:
    raw, xml = deployed(class_model(), Probabilities(), tmp_path)
    outputs = run(onnx.load(raw), {"image": images})
    for model in (pp.fuse(raw, Probabilities()), xml):
        values = open_raw_values(model).run({"image": images})
        assert np.allclose(values[RAW_SCORE], outputs["logits"], atol=1e-5)
        assert np.allclose(values[RAW_MAP], outputs["heat"], atol=1e-5)


@dataclass(frozen=True)
class Listed(pp.PostProcessor):
    """A post-processor of any steps."""

    statistics: pp.Statistics | None = None
    listed: tuple[Step, ...] = ()
    roles = CLASS_ROLES

    def steps(self, raw: Signature) -> Sequence[Step]:
        return self.listed


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (SelectClass(RAW_SCORE, "pred_score", 4), r"index is 4, and float32 \(N,4\) has 4 classes, expected at most 3"),
        (ComparePerClass(RAW_SCORE, "pred_label", (0.5,)), r"there are 1 class_levels for 4 classes"),
        (ComparePerPixel(RAW_MAP, "pred_mask", [[0.5, 1.0]]), r"has 16x16 pixels, expected 1x2 like pixel_levels"),
        (TopKMean(RAW_MAP, "pred_score", k=257), r"k is 257, and float32 \(N,4,16,16\) has 256 pixels"),
        (MaxOverMap(RAW_MAP, "pred_score"), r"expected one channel: choose a class first, with SelectClass"),
    ],
)
def test_steps_that_do_not_fit(step: Step, message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        pp.fuse(class_model(), Listed(listed=(step,)))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (TopKMean(RAW_MAP, "pred_score", fraction=0.1), "is open, expected a known one. Export the model with a fixed"),
        (ComparePerPixel(RAW_MAP, "pred_mask", [[0.5]]), "has an open size, expected 1x1 like pixel_levels"),
    ],
)
def test_an_open_size_is_refused(step: Step, message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        pp.fuse(class_model(open_size=True), Listed(listed=(step,)))


def test_one_number_has_no_classes() -> None:
    for step in (Softmax(RAW_SCORE, "pred_score"), SelectClass(RAW_SCORE, "pred_score", 0)):
        with pytest.raises(PostProcessorError, match=r"has no (axis of )?classes"):
            Listed(listed=(step,))({"pred_score": np.zeros(3, F32)})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TopKMean("a", "b"), "Neither k nor fraction of 'b' are given"),
        (lambda: TopKMean("a", "b", k=1, fraction=0.5), "Both k and fraction of 'b' are given"),
        (lambda: TopKMean("a", "b", k=0), "k of 'b' is 0, expected a whole number from 1"),
        (lambda: TopKMean("a", "b", fraction=1.5), "fraction of 'b' is 1.5, expected a number above 0 and at most 1"),
        (lambda: SelectClass("a", "b", -1), "index of 'b' is -1, expected a whole number from 0"),
        (lambda: ComparePerClass("a", "b", ()), "class_levels of 'b' is .*, expected a number for each class"),
        (lambda: ComparePerClass("a", "b", (0.5, np.nan)), r"class_levels\[1\] of 'b' is nan"),
        (lambda: ComparePerPixel("a", "b", [[1.0, 2.0], [3.0]]), "pixel_levels of 'b': Levels are .*, expected rows"),
        (lambda: ComparePerPixel("a", "b", [[1.0, 1e39]]), "Level in row 0, column 1 is inf, expected a number"),
        (lambda: ComparePerPixel("a", "b", "2x2:AAAA"), "Levels of 2x2 pixels hold 3 bytes, expected 16"),
        (lambda: ComparePerPixel("a", "b", "levels.npy"), "Levels are 'levels.npy', expected rows of numbers"),
        (lambda: PerImageMinMax("a", "b", on_nan="high"), "on_nan of 'b' is 'high', expected 'anomalous' or 'normal'"),
    ],
)
def test_impossible_parameters(build: Callable[[], Step], message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        build()


def test_levels_survive_as_text() -> None:
    levels = np.random.default_rng(0).normal(0, 1, (256, 256)).astype(F32)
    step = ComparePerPixel("a", "b", json.loads(json.dumps(levels_as_text(levels))))
    assert np.array_equal(step.levels, levels)
    assert step == ComparePerPixel("a", "b", levels.tolist())
    assert np.array_equal(step.cutoffs, np.nextafter(levels, F32(np.inf)))


def test_softmax_takes_or_leaves_all_at_infinity() -> None:
    x = np.array([[np.inf, 0, 0], [np.inf, np.inf, 0], [-np.inf, -np.inf, -np.inf], [0, np.nan, 0]], F32)
    found = Softmax("a", "b", "NC").reference(x)
    assert found[:3].tolist() == [[1, 0, 0], [0.5, 0.5, 0], [F32(1 / 3)] * 3]
    assert np.isnan(found[3]).all()


def test_range_of_each_image() -> None:
    x = np.array([[[1, 2, 5]], [[3, 3, 3]], [[np.nan, 1, 2]], [[np.inf, 0, -np.inf]]], F32)
    expected = [[[0, 0.25, 1]], [[0, 0, 0]], [[1, 0, 1]], [[1, 0.5, 0]]]
    assert PerImageMinMax("a", "b", axes="NHW").reference(x).tolist() == expected


def test_classes_cannot_be_packed() -> None:
    @dataclass(frozen=True)
    class Packed(Logits):
        pack: bool = True

    with pytest.raises(PostProcessorError, match=r"cannot be packed: anomaly_map is float32 \(N,4,16,16\)"):
        pp.fuse(class_model(), Packed())
