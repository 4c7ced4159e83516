"""Recipes: any composition of steps as data, from a file or in Python, checked with line and field."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.errors import PostProcessorError, RecipeError, StatisticsError
from pp_graph.postprocessors.lookup import step_name
from pp_graph.program import Signature
from pp_graph.steps import STEPS, Compare, Keep, MaxOverMap, MinMaxNormalize, ValueType
from tests.conftest import DEMO, ROOT
from tests.models import run as run_onnx

ONE_CLASS = """\
schema_version: 1
steps:
  - step: max_over_map
    source: raw_map
    target: peak
  - step: min_max_normalize
    source: peak
    target: pred_score
    threshold: $image.threshold
    minimum: $image.min
    maximum: $image.max
  - {step: compare, source: pred_score, target: pred_label, level: 0.5}
  - step: min_max_normalize
    source: raw_map
    target: anomaly_map
    threshold: $pixel.threshold
    minimum: $pixel.min
    maximum: $pixel.max
  - {step: compare, source: anomaly_map, target: pred_mask, level: 0.5}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "post.yaml"
    path.write_text(ONE_CLASS)
    return path


@pytest.fixture(scope="module")
def stats() -> pp.Statistics:
    return pp.Statistics.load(DEMO / "stats.json")


def test_recipe_decides_as_the_one_class_post_processor(
    recipe: Path, stats: pp.Statistics, demo_images: np.ndarray, demo_fused_path: Path
) -> None:
    fused = pp.fuse(DEMO / "raw.onnx", pp.RecipePostProcessor.load(recipe, stats))
    ours = run_onnx(fused, {"image": demo_images[-6:]})
    theirs = run_onnx(str(demo_fused_path), {"image": demo_images[-6:]})
    # No step reads the model's score, so it stays an output.
    assert list(ours) == [*theirs, "raw_pred_score"]
    assert theirs["pred_mask"].any()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
    assert fused.provenance.cutoffs == pp.FusedModel.load(demo_fused_path).provenance.cutoffs


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_recipe_is_converted_verified_and_retuned(
    recipe: Path, stats: pp.Statistics, demo_images: np.ndarray, tmp_path: Path, precision: str
) -> None:
    post = pp.RecipePostProcessor.load(recipe, stats)
    path = pp.convert(DEMO / "raw.onnx", post=post).save(tmp_path / "model.xml")
    assert pp.verify(DEMO / "raw.onnx", path, demo_images[:4], inference_precision=precision).passed
    moved = pp.Statistics(
        image=pp.LevelStatistics(threshold=(stats.image.threshold or 0) + 1, min=stats.image.min, max=stats.image.max),
        pixel=stats.pixel,
    )
    pp.retune(path, moved)
    report = pp.verify(DEMO / "raw.onnx", path, demo_images[:4], inference_precision=precision)
    assert report.postprocessing_exact
    assert report.provenance.cutoffs["pred_label"] > post.bind(report.provenance.signature).cutoffs["pred_label"]


def test_recipe_in_python(stats: pp.Statistics) -> None:
    post = pp.RecipePostProcessor(
        stats,
        (
            Keep("raw_score", "pred_score"),
            {"step": "compare", "source": "pred_score", "target": "pred_label", "level": "$image.threshold"},
        ),
    )
    again = pp.RecipePostProcessor.from_parameters(stats, json.loads(json.dumps(post.parameters())))
    scores = np.array([stats.image.threshold, np.nextafter(np.float32(stats.image.threshold), np.float32(np.inf))])
    assert again({"pred_score": scores}).pred_label.tolist() == [False, True]


def test_decisions_move_in_front_of_monotone_steps() -> None:
    post = pp.RecipePostProcessor(
        None,
        (
            MinMaxNormalize("raw_score", "half", 5.0, 0.0, 10.0),
            MinMaxNormalize("half", "pred_score", 0.25, 0.0, 1.0),
            Compare("pred_score", "pred_label", 0.5),
        ),
    )
    program = post.bind(Signature({"raw_score": ValueType("N")}))
    (compare,) = program.comparisons.values()
    assert compare.source == "raw_score"
    x = np.linspace(-1, 11, 4001, dtype=np.float32)
    found = post({"pred_score": x})
    assert np.array_equal(found.pred_label, found.pred_score > 0.5)
    assert np.array_equal(found.pred_label, ~(x < compare.cutoff))
    assert program.intermediates == ("half",)


def test_what_no_output_needs_is_not_computed() -> None:
    steps = (Keep("raw_score", "pred_score"), Keep("raw_map", "unused"), MaxOverMap("raw_map", "peak"))
    post = pp.RecipePostProcessor(None, steps)
    both = Signature({"raw_score": ValueType("N"), "raw_map": ValueType("NHW")})
    assert [step.target for step in post.bind(both).steps] == ["pred_score"]


def test_nan_counts_as_the_normaliser_says() -> None:
    for on_nan, expected in (("anomalous", True), ("normal", False)):
        post = pp.RecipePostProcessor(
            None,
            (
                MinMaxNormalize("raw_score", "pred_score", 1.0, 0.0, 2.0, on_nan),
                Compare("pred_score", "pred_label", 0.5),
            ),
        )
        assert post({"pred_score": np.array([np.nan])}).pred_label.tolist() == [expected]


MISTAKES = {
    "steps:\n  - step: sigmod\n    source: raw_score\n    target: pred_score\n": "line 2, field 'step': step is 'sigmod'",
    "steps:\n  - source: raw_score\n    target: pred_score\n": "line 2: step is missing, expected one of: ",
    "steps:\n  - step: keep\n    source: raw_score\n": "line 2, field 'step': step 'keep' lacks the field 'target'",
    "steps:\n  - {step: compare, source: raw_score,\n     target: pred_label, level: much}\n": (
        "line 3, field 'level': 'much' does not fit: Expected `float`, got `str`"
    ),
    "steps:\n  - step: compare\n    levle: 1\n": "line 3, field 'levle': step 'compare' has no such field.*Did you mean 'level'",
    "steps:\n  - {step: compare, source: raw_score, target: pred_label, level: .inf}\n": "level' *: '.inf' does not fit",
    "steps:\n  - {step: compare, source: raw_score, target: pred_label, level: 1e99}\n": (
        "line 2, field 'level': level of 'pred_label' is 1e.99, expected a number that is finite"
    ),
    "steps:\n  - {step: compare, source: raw_score, target: pred_label, level: $image.treshold}\n": (
        "line 2, field 'level': .image.treshold refers to nothing, expected one of: .image.threshold"
    ),
    "steps:\n  - {step: keep, source: raw_score, target: pred_score}\n  - {step: keep, source: smoth, target: anomaly_map}\n": (
        "line 3: Step 'anomaly_map' .Keep. reads 'smoth', which is not there; there are 'raw_score', 'raw_map'"
    ),
    "steps:\n  - {step: keep, source: raw_score, target: score}\n": "The steps write 'score', expected some of pred_score",
    "steps:\n  - {step: keep, source: raw_map, target: pred_score}\n": "writes .*per pixel, expected one value per image",
    "steps:\n  - {step: max_over_map, source: raw_score, target: pred_score}\n": "expected a map, one value per pixel",
    "steps:\n  - {step: compare, source: raw_score, target: above, level: 1}\n  - {step: keep, source: above, target: pred_score}\n": (
        "line 3: Step 'pred_score' .Keep. reads 'above', which is bool .*, expected float32"
    ),
    "steps:\n  - {step: keep, source: raw_score, target: raw_map}\n": "writes 'raw_map', which the raw model returns",
    "steps: []\n": "line 1, field 'steps'|lists no steps",
    "steps: 3\n": "line 1: is 3, expected a list",
    "stps: []\n": "line 1, field 'stps': is not known.*Did you mean 'steps'",
    "{}": "expected either 'steps' or 'post_processor'",
    "": "expected a mapping",
    "steps:\n  - [\n": "is not YAML",
    "a: 1\na: 2\n": "line 2, field 'a': is given twice",
    "a: &x 1\nb: *x\n": "line 2: aliases",
    "schema_version: 7\nsteps: []\n": "line 1, field 'schema_version': is 7, expected 1",
    "post_processor: Nobody\n": "line 1, field 'post_processor': is 'Nobody', expected one of: ClassificationPostProcessor",
    "post_processor: OneClassPostProcessor\nparameters:\n  image_sensitivity: 3\n": (
        "line 3, field 'image_sensitivity': image_sensitivity is 3, expected a number from 0"
    ),
    "post_processor: OneClassPostProcessor\nparameters:\n  sensitivity: 3\n": "line 3, field 'sensitivity'.*unexpected keyword",
    "steps:\n  - {step: keep, source: raw_score, target: pred_score}\nparameters: {}\n": "line 3, field 'parameters': belongs to",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_named_with_line_and_field(tmp_path: Path, text: str) -> None:
    path = tmp_path / "post.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=f"Recipe '.*post.yaml'.*(?s:{MISTAKES[text]})"):
        pp.RecipePostProcessor.load(path)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        pp.RecipePostProcessor.load(tmp_path / "nothing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not UTF-8 text"):
        pp.RecipePostProcessor.load(tmp_path / "binary.yaml")
    (tmp_path / "deep.yaml").write_text("[" * 5000)
    with pytest.raises(RecipeError, match="not YAML|nested too deeply"):
        pp.RecipePostProcessor.load(tmp_path / "deep.yaml")


def test_mistakes_in_python_name_the_step() -> None:
    with pytest.raises(RecipeError, match="Step 2, field 'level': 'x' does not fit"):
        pp.RecipePostProcessor(None, (Keep("raw_score", "pred_score"), {"step": "compare", "level": "x"}))
    with pytest.raises(RecipeError, match="recipe is 'keep', expected a list of steps"):
        pp.RecipePostProcessor(None, "keep")
    with pytest.raises(RecipeError, match="A step is 3, expected a mapping"):
        pp.RecipePostProcessor(None, (3,))


def test_numbers_that_are_not_known_yet(recipe: Path) -> None:
    post = pp.RecipePostProcessor.load(recipe)
    with pytest.raises(StatisticsError, match="field 'threshold' of step 'pred_score' refers to .image.threshold"):
        post({"anomaly_map": np.zeros((1, 2, 2), np.float32)})
    known = post.with_statistics(pp.Statistics(image=pp.LevelStatistics(threshold=1.0)))
    with pytest.raises(StatisticsError, match="Statistics lack 'image.min', and field 'minimum' of step 'pred_score'"):
        known({"anomaly_map": np.zeros((1, 2, 2), np.float32)})


def test_step_that_does_not_fit_the_model_at_hand() -> None:
    post = pp.RecipePostProcessor(None, (MaxOverMap("raw_map", "pred_score"),))
    with pytest.raises(PostProcessorError, match="Raw outputs hold no 'anomaly_map', expected it"):
        post({"pred_score": np.zeros(2, np.float32)})


class TestCommandLine:
    def test_recipe_drives_fuse_and_convert(
        self, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        raw, stats = str(DEMO / "raw.onnx"), str(DEMO / "stats.json")
        fused, converted = str(tmp_path / "fused.onnx"), str(tmp_path / "model.xml")
        assert run(["fuse", raw, "--stats", stats, "--recipe", str(recipe), "-o", fused, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["outputs"][:2] == ["pred_score", "pred_label"]
        assert run(["convert", raw, "--stats", stats, "--recipe", str(recipe), "-o", converted]) == 0
        assert run(["verify", raw, converted, "--data", str(DEMO / "images" / "good")]) == 0

    def test_recipe_without_statistics(self, tmp_path: Path) -> None:
        recipe = tmp_path / "post.yaml"
        recipe.write_text(
            "steps:\n  - {step: compare, source: raw_map, target: pred_mask, level: 12.5, dtype: u8_255}\n"
        )
        out = tmp_path / "model.xml"
        assert run(["convert", str(DEMO / "raw.onnx"), "--recipe", str(recipe), "-o", str(out)]) == 0
        assert run(["verify", str(DEMO / "raw.onnx"), str(out), "--data", str(DEMO / "images" / "good")]) == 0

    def test_options_of_the_one_class_post_processor_are_refused(
        self, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["fuse", str(DEMO / "raw.onnx"), "--recipe", str(recipe), "-o", str(tmp_path / "x.onnx")]
        assert run([*arguments, "--image-sensitivity", "0.7"]) == 2
        assert "--image-sensitivity applies only to the one-class post-processor" in capsys.readouterr().err

    def test_recipe_is_never_overwritten(self, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = recipe.read_bytes()
        stats = str(DEMO / "stats.json")
        status = run(
            ["fuse", str(DEMO / "raw.onnx"), "--stats", stats, "--recipe", str(recipe), "-o", str(recipe), "--force"]
        )
        assert status == 2
        assert recipe.read_bytes() == before
        capsys.readouterr()


class TestCalibration:
    STEPS = """\
steps:
  - {step: resize_map, source: raw_map, target: small, height: 32, width: 32}
  - {step: max_over_map, source: small, target: peak}
  - {step: compare, source: peak, target: pred_label, level: $image.threshold}
  - step: min_max_normalize
    source: small
    target: anomaly_map
    threshold: $pixel.threshold
    minimum: $pixel.min
    maximum: $pixel.max
"""

    def test_what_the_steps_compare_is_calibrated(self, tmp_path: Path) -> None:
        (tmp_path / "post.yaml").write_text(self.STEPS)
        post = pp.RecipePostProcessor.load(tmp_path / "post.yaml")
        raw, images = DEMO / "raw.onnx", DEMO / "images"
        plain = pp.calibrate(raw, images, pixel="quantile", resamples=0).statistics
        found = pp.calibrate(raw, images, post=post, pixel="quantile", resamples=0).statistics
        assert found.pixel.max < plain.pixel.max
        assert found.image.max == found.pixel.max
        fused = pp.fuse(raw, post.with_statistics(found))
        again = pp.calibrate(fused, images, pixel="quantile", resamples=0).statistics
        # Behind the rewritten tail, and resized by onnxruntime.
        for level in ("image", "pixel"):
            for number in ("threshold", "min", "max"):
                expected = getattr(getattr(found, level), number)
                assert getattr(getattr(again, level), number) == pytest.approx(expected, rel=1e-5)
        labels = pp.verify(raw, fused, images).decisions[0]
        assert 0 < labels.positive < labels.total

    def test_a_fused_model_has_a_post_processor_of_its_own(self, demo_fused_path: Path) -> None:
        post = pp.RecipePostProcessor(None, (Keep("raw_map", "anomaly_map"),))
        with pytest.raises(pp.PPGraphError, match="given for a fused model"):
            pp.calibrate(demo_fused_path, DEMO / "images", post=post)

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            (
                "  - {step: compare, source: raw_map, target: pred_mask, level: $pixel.threshold}\n",
                "Steps that read 'small' and 'raw_map' refer to .pixel, expected one value",
            ),
            (
                (
                    "  - {step: max_over_map, source: anomaly_map, target: top}\n"
                    "  - {step: keep, source: top, target: pred_score}\n"
                    "  - {step: compare, source: peak, target: b, level: $image.min}\n"
                ),
                None,
            ),
        ],
    )
    def test_references_that_contradict(self, tmp_path: Path, extra: str, message: str | None) -> None:
        (tmp_path / "post.yaml").write_text(self.STEPS + extra)
        post = pp.RecipePostProcessor.load(tmp_path / "post.yaml")
        if message is None:
            pp.calibrate(DEMO / "raw.onnx", DEMO / "images", post=post, pixel="quantile", resamples=0)
            return
        with pytest.raises(PostProcessorError, match=message):
            pp.calibrate(DEMO / "raw.onnx", DEMO / "images", post=post, pixel="quantile", resamples=0)

    def test_what_follows_from_statistics_is_not_calibrated(self, tmp_path: Path) -> None:
        (tmp_path / "post.yaml").write_text(
            "steps:\n"
            "  - {step: min_max_normalize, source: raw_map, target: anomaly_map, threshold: $pixel.threshold,\n"
            "     minimum: $pixel.min, maximum: $pixel.max}\n"
            "  - {step: max_over_map, source: anomaly_map, target: top}\n"
            "  - {step: compare, source: top, target: pred_label, level: $image.threshold}\n"
        )
        post = pp.RecipePostProcessor.load(tmp_path / "post.yaml")
        with pytest.raises(PostProcessorError, match="Step 'anomaly_map' refers to statistics"):
            pp.calibrate(DEMO / "raw.onnx", DEMO / "images", post=post, resamples=0)


def test_form_options_on_a_model_fused_with_a_recipe(
    recipe: Path, stats: pp.Statistics, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fused = pp.fuse(DEMO / "raw.onnx", pp.RecipePostProcessor.load(recipe, stats)).save(tmp_path / "fused.onnx")
    assert run(["convert", str(fused), "--mask-dtype", "u8", "-o", str(tmp_path / "model.xml")]) == 2
    assert "has no --mask-dtype, expected one of: pack. Leave it out." in capsys.readouterr().err
    assert run(["convert", str(fused), "--pack", "-o", str(tmp_path / "model.xml")]) == 0
    assert (
        run(["verify", str(DEMO / "raw.onnx"), str(tmp_path / "model.xml"), "--data", str(DEMO / "images/good")]) == 0
    )
    assert run(["retune", str(fused), "--image-sensitivity", "0.7"]) == 2
    assert "no --image-sensitivity" in capsys.readouterr().err


def test_every_step_and_field_is_in_the_docs() -> None:
    rows = {
        line.split("|")[1].strip(" `"): line
        for line in (ROOT / "docs" / "steps.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    }
    absent = {step_name(kind) for kind in STEPS} - set(rows)
    assert not absent, f"docs/steps.md has no row for {absent}"
    assert set(rows) == {step_name(kind) for kind in STEPS}
    for kind in STEPS:
        fields = [field.name for field in dataclasses.fields(kind) if field.name not in kind.settled]
        missing = [
            name
            for name in fields
            if name not in ("source", "target")
            and f"`{name}`" not in rows[step_name(kind)]
            and f"`{name}` =" not in rows[step_name(kind)]
        ]
        assert not missing, f"{step_name(kind)} lacks {missing}"


def test_numbers_beside_references_are_tried_out_with_what_could_come() -> None:
    steps = (
        {"step": "plain_min_max", "source": "raw_score", "target": "pred_score", "minimum": 2, "maximum": "$image.max"},
    )
    stats = pp.Statistics(image=pp.LevelStatistics(threshold=5.0, min=0.0, max=10.0))
    found = pp.RecipePostProcessor(stats, steps)({"pred_score": np.array([6.0], np.float32)})
    assert found.pred_score[0] == np.float32(0.5)
