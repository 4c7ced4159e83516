"""Classifiers from logits to decisions: the reference against NumPy, and artifacts against the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import pp_graph as pp
from pp_graph.errors import OutputRoleError, PostProcessorError, TargetError
from pp_graph.postprocessors import RAW_LOGITS
from tests.classifiers import classifier, images, two_outputs
from tests.conftest import ROOT
from tests.models import identity_model, run, run_openvino

F32 = np.float32
NAMES = ("ant", "bee", "cat", "dog")
EVERYTHING: dict[str, Any] = {"unknown_below": 0.5, "multi_label": 0.3, "top": 3, "labels": NAMES}
FORMS: list[dict[str, Any]] = [
    {},
    {"unknown_below": 0.5, "top": 3, "labels": NAMES, "temperature": 1.7},
    EVERYTHING,
    {"activation": "softmax", "multi_label": (0.1, 0.2, 0.3, 0.4)},
    {"activation": "none", "unknown_below": 0.2, "on_nan": "normal", "top": 2},
]


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_predicts_as_numpy_does() -> None:
    x = np.random.default_rng(0).normal(0, 2, (50, 4)).astype(F32)
    post = pp.ClassificationPostProcessor(unknown_below=0.6, top=2, temperature=2.0)
    found, probabilities = post({RAW_LOGITS: x}), softmax(x.astype(np.float64) / 2)
    assert np.array_equal(found.pred_class, x.argmax(1))
    assert found.pred_class.dtype == np.int64
    assert np.allclose(found.pred_prob, probabilities.max(1), atol=1e-6)
    assert np.array_equal(found.unknown, found.pred_prob < F32(0.6))
    assert np.array_equal(found.top_classes, np.argsort(-x, axis=1)[:, :2])
    assert np.allclose(found.top_probs, -np.sort(-probabilities, axis=1)[:, :2], atol=1e-6)


def test_labels_of_several_classes_and_limits_are_cutoffs_on_logits() -> None:
    x = np.array([[0.0, 1e-6, -1e-6, 3.0]], F32)
    post = pp.ClassificationPostProcessor(multi_label=0.5, unknown_below=0.9)
    found = post({RAW_LOGITS: x})
    assert found.pred_label.tolist() == [[False, True, False, True]]
    program = post.bind(pp.RawModel.open(classifier()))
    assert {step.source for step in program.comparisons.values()} == {RAW_LOGITS, "top_logit"}
    two = pp.ClassificationPostProcessor(unknown_below=0.9).bind(pp.RawModel.open(classifier(2)))
    assert not two.intermediates
    assert two.comparisons["known"].source == "margin"


def test_a_probability_equal_to_the_limit_is_known() -> None:
    x = np.array([[0.25, 0.5], [0.25, np.nextafter(F32(0.5), F32(0))]], F32)
    found = pp.ClassificationPostProcessor(activation="none", unknown_below=0.5)({RAW_LOGITS: x})
    assert found.unknown.tolist() == [False, True]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_nan_counts_as_asked(activation: str) -> None:
    x = np.array([[1, np.nan, 3, 0], [9, 0, 0, 0]], F32)
    for on_nan, alarm in (("anomalous", True), ("normal", False)):
        options = {"activation": activation, "unknown_below": 0.5, "on_nan": on_nan}
        found = pp.ClassificationPostProcessor(**options)({RAW_LOGITS: x})  # type: ignore[arg-type]
        assert found.unknown.tolist() == [alarm, False]
        assert found.pred_class.tolist() == [1, 0]
        label = pp.ClassificationPostProcessor(activation="sigmoid", multi_label=0.7, on_nan=on_nan)({RAW_LOGITS: x})
        assert label.pred_label[0].tolist() == [True, alarm, True, False]


LOWEST_BFLOAT16 = F32(-3.3895314e38)
special = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 88.0, 3.4028235e38])
logits = hnp.arrays(F32, (6, 4), elements=st.one_of(special, st.floats(-20, 20, width=32, allow_subnormal=False)))


@pytest.fixture(scope="module")
def tails(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[pp.ClassificationPostProcessor, onnx.ModelProto]]:
    """The post-processing of each form alone, as a model whose input is the logits."""
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Identity", ["x"], ["logits"])
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph([node], "g", [value("x", kind, ["N", 4])], [value("logits", kind, ["N", 4])])
    raw = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    posts = [pp.ClassificationPostProcessor(**form) for form in FORMS]
    return [(post, pp.fuse(raw, post).to_proto()) for post in posts]


@pytest.mark.hypothesis
def test_twins_agree_on_any_logits(tails: list[tuple[pp.ClassificationPostProcessor, onnx.ModelProto]]) -> None:
    @settings(max_examples=15)
    @given(logits)
    def check(x: np.ndarray) -> None:
        for post, model in tails:
            expected = post({RAW_LOGITS: x})
            for found in (run(model, {"x": x}), run_openvino(model, {"x": x}, "bf16")):
                for name, array in expected.items():
                    assert found[name].dtype == array.dtype
                    if array.dtype == F32:
                        # With the bf16 hint, OpenVINO saturates constants below the lowest bfloat16.
                        got, want = (np.maximum(each, LOWEST_BFLOAT16) for each in (found[name], array))
                        assert np.allclose(got, want, rtol=1e-5, atol=1e-5, equal_nan=True), (name, post)
                    elif name == "unknown" and post.activation == "softmax":
                        # The softmax of several classes is the runtime's own: a limit compares that.
                        assert np.array_equal(found[name], ~(found["pred_prob"] >= F32(0.5))), (name, post)
                    elif name != "pred_label" or post.activation != "softmax":
                        assert np.array_equal(found[name], array), (name, post)

    check()


@pytest.mark.sample(every=3)
@pytest.mark.parametrize(
    ("classes", "layout", "batch"),
    [(4, "NC", "N"), (4, "NHWC", 1), (4, "NCHW", "N"), (2, "NC", 3), (1, "NC", "N"), (1000, "NHWC", "N")],
)
def test_artifacts_decide_as_the_reference(classes: int, layout: str, batch: int | str) -> None:
    raw = classifier(classes, layout=layout, batch=batch)
    activation = "sigmoid" if classes == 1 else "softmax"
    post = pp.ClassificationPostProcessor(activation=activation, unknown_below=0.5, top=min(classes, 5))  # type: ignore[arg-type]
    fused = pp.fuse(raw, post)
    for artifact, precision in ((fused, "f32"), (pp.convert(fused), "f32"), (pp.convert(fused), "bf16")):
        report = pp.verify(raw, artifact, images(), inference_precision=precision, max_label_flips=None)
        assert report.passed, report.failures
        assert report.boundary.flips == 0
        if precision == "f32":
            assert report.drift_flips == 0
        assert {decision.name for decision in report.decisions} == {"pred_class", "unknown", "top_classes"}


def test_float16_logits() -> None:
    raw = classifier(dtype=np.float16)
    x = images().astype(np.float16)
    post = pp.ClassificationPostProcessor(**EVERYTHING)
    expected = post({RAW_LOGITS: run(raw, {"image": x})["logits"]})
    found = run(pp.fuse(raw, post), {"image": x})
    for name in ("pred_class", "pred_label", "unknown", "top_classes"):
        assert np.array_equal(found[name], expected[name])


def test_float16_logits_that_tie_after_rounding(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Logits around 1000 are multiples of 0.5 in float16, so they often tie; onnxruntime computes them in float32.
    constants = {"w": rng.normal(0, 30, (16, 50)).astype(np.float16), "b": np.full(50, 1000, np.float16)}
    value, half = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT16
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["x", "w", "b"], ["logits"])],
        "half",
        [value("x", half, ["N", 16])],
        [value("logits", half, ["N", 50])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    raw = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(raw, tmp_path / "raw.onnx")
    x = rng.normal(0, 1, (1000, 16)).astype(np.float16)
    fused = pp.fuse(tmp_path / "raw.onnx", pp.ClassificationPostProcessor(top=5, unknown_below=0.5))
    logits = run(raw, {"x": x})["logits"].astype(F32)
    assert (np.sort(logits, 1)[:, -1] == np.sort(logits, 1)[:, -2]).any()
    found = run(fused, {"x": x})
    assert np.array_equal(found["pred_class"], logits.argmax(1))
    assert np.array_equal(found["top_classes"], np.argsort(-logits, axis=1, kind="stable")[:, :5])
    assert pp.verify(raw, fused, {"x": x}).decisions[0].flips == 0
    assert pp.verify(raw, pp.convert(fused), {"x": x}, max_label_flips=None).postprocessing_exact
    file = fused.save(tmp_path / "fused.onnx")
    pp.retune(file, unknown_below=0.7)
    assert pp.verify(raw, file, {"x": x}).decisions[0].flips == 0
    pp.strip(file).save(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "raw.onnx").read_bytes()


def test_drift_of_classes_is_reported_with_the_margin_between_the_first_two() -> None:
    raw = classifier(200)
    artifact = pp.convert(pp.fuse(raw, pp.ClassificationPostProcessor(top=5)))
    report = pp.verify(raw, artifact, images(200), inference_precision="bf16", max_label_flips=None)
    decisions = {decision.name: decision for decision in report.decisions}
    assert report.postprocessing_exact
    drift = decisions["top_classes"].drift
    if not len(drift):
        pytest.skip("this CPU runs bf16 as f32")
    assert (drift.margin >= 0).all()
    assert np.nanmax(drift.margin) < 0.1
    assert "with a margin of at most" in str(report.drift[0])


def test_strip_returns_the_raw_file(tmp_path: Path) -> None:
    onnx.save(classifier(), tmp_path / "raw.onnx")
    fused = pp.fuse(tmp_path / "raw.onnx", pp.ClassificationPostProcessor(**EVERYTHING)).save(tmp_path / "fused.onnx")
    pp.strip(fused).save(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "raw.onnx").read_bytes()


def test_a_recipe_of_the_same_steps_decides_the_same() -> None:
    recipe = pp.RecipePostProcessor(
        recipe=(
            {"step": "arg_max", "source": "logits", "target": "pred_class"},
            {"step": "softmax", "source": "logits", "target": "probabilities"},
            {"step": "max_over_classes", "source": "probabilities", "target": "pred_prob"},
            {"step": "compare", "source": "pred_prob", "target": "known", "level": 0.5, "on_nan": "normal"},
            {"step": "invert_decision", "source": "known", "target": "unknown"},
        ),
        roles=({"name": "logits", "axes": "NC"},),  # type: ignore[arg-type]
        declared_outputs=(  # type: ignore[arg-type]
            {"name": "pred_class", "meaning": "class"},
            "pred_prob",
            {"name": "unknown", "meaning": "decision"},
        ),
    )
    raw = classifier()
    ours = run(pp.fuse(raw, pp.ClassificationPostProcessor(unknown_below=0.5)), {"image": images()})
    theirs = run(pp.fuse(raw, recipe), {"image": images()})
    for name in ("pred_class", "pred_prob", "unknown"):
        assert np.array_equal(ours[name], theirs[name])


def test_the_recipe_in_the_docs_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "families.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    (tmp_path / "classifier.yaml").write_text(text)
    raw = classifier()
    fused = pp.fuse(raw, pp.RecipePostProcessor.load(tmp_path / "classifier.yaml"))
    logits, found = run(raw, {"image": images()})["logits"], run(fused, {"image": images()})
    ordered = np.sort(logits, axis=1)
    assert np.array_equal(found["pred_class"], logits.argmax(1))
    assert np.array_equal(found["known"], ordered[:, -1] - ordered[:, -2] > 1.5)
    assert pp.verify(raw, pp.convert(fused), images()).passed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholds": "runtime"}, "thresholds='runtime' is given without unknown_below"),
        ({"activation": "relu"}, "activation is 'relu', expected 'softmax' or 'sigmoid' or 'none'"),
        ({"unknown_below": 50}, "unknown_below is 50, expected a number from 0 to 1"),
        ({"multi_label": (0.5, 1.5)}, r"multi_label\[1\] is 1.5, expected a number from 0 to 1"),
        ({"temperature": 0}, "temperature is 0, expected a number above 0"),
        ({"activation": "none", "temperature": 2}, "temperature is 2 with activation='none'"),
        ({"top": 0}, "top is 0, expected a whole number from 1 to 100"),
        ({"labels": ("a", "")}, r"labels\[1\] is '', expected a name"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        pp.ClassificationPostProcessor(**options)


@pytest.mark.parametrize(
    ("raw", "options", "message"),
    [
        (classifier(), {"labels": ("a", "b")}, "2 labels, and output 'logits'.* has 4 classes.*--labels FILE"),
        (classifier(), {"multi_label": (0.5, 0.5)}, "2 thresholds.*4 classes.*--multi-label"),
        (classifier(), {"top": 5}, "top is 5.*4 classes"),
        (classifier(1), {}, "softmax of one class is always 1. Use .*--activation sigmoid"),
    ],
)
def test_options_that_do_not_fit_the_model(raw: onnx.ModelProto, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        pp.fuse(raw, pp.ClassificationPostProcessor(**options))


@pytest.mark.parametrize("head", ["Softmax", "Sigmoid"])
def test_probabilities_are_not_activated_twice(head: str) -> None:
    raw = classifier(head=head)
    fused = pp.fuse(raw, pp.ClassificationPostProcessor(unknown_below=0.5))
    assert fused.provenance.parameters["activation"] == "none"
    found, probabilities = run(fused, {"image": images()}), run(raw, {"image": images()})["logits"]
    assert np.array_equal(found["pred_prob"], probabilities.max(1))
    with pytest.raises(PostProcessorError, match=f"ends in a {head.lower()}, expected none.*--activation none"):
        pp.fuse(raw, pp.ClassificationPostProcessor(activation="softmax"))


def test_outputs_that_do_not_fit_or_several_that_do() -> None:
    with pytest.raises(OutputRoleError, match=r"(?s)2 outputs can be read.*'colour'.*'kind'.*--role raw_logits=NAME"):
        pp.fuse(two_outputs(), pp.ClassificationPostProcessor())
    fused = pp.fuse(two_outputs(), pp.ClassificationPostProcessor(), roles={RAW_LOGITS: "kind"})
    assert "colour" in run(fused, {"image": images()})
    maps = identity_model({"maps": ["N", 4, 8, 8]})
    with pytest.raises(OutputRoleError, match=r"'maps'.*is not one number per image and class \(N,C\)"):
        pp.fuse(maps, pp.ClassificationPostProcessor())


@pytest.mark.parametrize("classes", [2, 4])
def test_the_limit_of_unknown_changes_while_the_model_runs(classes: int) -> None:
    raw = classifier(classes)
    fused = pp.fuse(raw, pp.ClassificationPostProcessor(unknown_below=0.5, thresholds="runtime"))
    assert pp.verify(raw, fused, images()).passed
    for artifact in (fused, pp.convert(fused)):
        runner = pp.load(artifact)
        before = runner(images()).unknown
        seen = set()
        for limit in (0.3, 0.9):
            runner.set_thresholds(unknown_below=limit)
            anew = pp.load(pp.convert(pp.fuse(raw, pp.ClassificationPostProcessor(unknown_below=limit))))
            found = runner(images()).unknown
            assert np.array_equal(found, anew(images()).unknown)
            seen.add(int(found.sum()))
        assert len(seen) > 1
        runner.set_thresholds()
        assert np.array_equal(runner(images()).unknown, before)


def test_a_classifier_that_returns_a_map_on_larger_images_is_refused_there(tmp_path: Path) -> None:
    """A network of convolutions alone: (N,1,1,4) on the images that it was trained on, (N,h,w,4) on others.

    OpenVINO's `Model.reshape` does not count elements: it returned the classes of the first pixels.
    """
    nodes = [
        onnx.helper.make_node("Conv", ["image", "weight"], ["map"]),
        onnx.helper.make_node("Transpose", ["map"], ["logits"], perm=[0, 2, 3, 1]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", "h", "w", 4])],
        [onnx.numpy_helper.from_array(np.random.default_rng(0).normal(0, 1, (4, 3, 8, 8)).astype(F32), "weight")],
    )
    raw = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    fused = pp.fuse(raw, pp.ClassificationPostProcessor(labels=NAMES))
    runner = pp.load(pp.convert(fused))
    small, large = (np.random.default_rng(1).uniform(0, 1, (2, 3, side, side)).astype(F32) for side in (8, 12))
    assert runner(small).pred_class.shape == (2,)
    with pytest.raises(TargetError, match=r"reshape: the shape of input data \(2.5.5.4\) conflicts"):
        runner(large)
    with pytest.raises(TargetError, match=r"cannot take the input shape .*cannot make \(2, 4\) of the \(2, 5, 5, 4\)"):
        pp.convert(fused, input_shape=(2, 3, 12, 12))
    with pytest.raises(PostProcessorError, match=r"shape \(2, 5, 5, 4\), expected a height and width of 1.*--task seg"):
        fused.program.run({RAW_LOGITS: np.zeros((2, 5, 5, 4), F32)})
