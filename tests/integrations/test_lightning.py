"""The Lightning callback in trainers of both Lightning packages."""

from __future__ import annotations

import dataclasses
import importlib.util
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pl = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

import pp_graph as pp  # noqa: E402 - what is optional first
from pp_graph.errors import DataError, OutputFileError, PostProcessorError, StatisticsError  # noqa: E402
from pp_graph.integrations.lightning import PostProcessorCallback  # noqa: E402
from pp_graph.integrations.lightning.validation import Collector  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.integrations.lightning_models import loader, replayed, replaying_module, trainer, training_module  # noqa: E402

pytestmark = [
    # From Lightning itself: a deprecated PyTorch name, and the number of cores.
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # Tests that read a checkpoint do not write one.
    pytest.mark.filterwarnings("ignore:.*Please add the following callbacks. ..ModelCheckpoint"),
]

RAW = ("pred_score", "anomaly_map")


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def package(request: pytest.FixtureRequest) -> ModuleType:
    return pytest.importorskip(request.param, reason=f"{request.param} is not installed")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = np.arange(11) % 3 == 1
    maps = rng.gamma(2, size=(11, 1, 6, 5)).astype(np.float32)
    masks = np.zeros((11, 6, 5), bool)
    masks[labels, 1:4, 2:4] = True
    masks[labels, 5, 0] = True
    maps[masks[:, None]] += 2
    scores = (maps.max((1, 2, 3)) * np.float32(1.1)).astype(np.float32)
    return {"pred_score": scores, "anomaly_map": maps, "label": labels, "mask": masks}


def expected(folder: Path, arrays: dict[str, np.ndarray], **settings: object) -> pp.Statistics:
    np.savez(folder / "dumped.npz", **arrays)
    return pp.calibrate_scores(folder / "dumped.npz", resamples=0, **settings).statistics


def numbers(statistics: pp.Statistics) -> tuple:
    return statistics.image, statistics.pixel


def validated(
    callback: PostProcessorCallback, data: object, outputs: object = None, pl: ModuleType = pl
) -> pp.Statistics:
    module = replaying_module(pl, outputs or (lambda batch: {name: batch[name] for name in RAW if name in batch}))
    trainer(pl, callback).validate(module, data, verbose=False)
    return callback.statistics


# --- training --------------------------------------------------------------------------------------------------------


def test_training_finds_what_calibrating_finds(package: ModuleType, tmp_path: Path) -> None:
    callback = PostProcessorCallback()
    assert isinstance(callback, package.Callback)
    assert callback.statistics is None
    module = training_module(package)
    found = []

    class Watch(package.Callback):
        def on_train_start(self, *_: object) -> None:
            assert callback.statistics is None, "the sanity check does not count"

        def on_validation_end(self, running: object, *_: object) -> None:
            if not running.sanity_checking:
                seen = {name: np.concatenate([part[name] for part in module.seen]) for name in module.seen[0]}
                assert numbers(callback.statistics) == numbers(expected(tmp_path, seen))
                found.append(callback.statistics)

    trainer(package, callback, Watch(), max_epochs=2).fit(module, loader(), loader())
    assert len(found) == 2
    assert numbers(found[0]) != numbers(found[1])
    assert callback.result.exact
    record = callback.statistics.provenance.calibration
    assert (record.images, record.anomalous_images, record.device, record.precision) == (12, 6, "CPU", "32-true")


@pytest.mark.sample(every=2)
def test_checkpoints_bring_the_same_decisions_back(package: ModuleType, tmp_path: Path) -> None:
    saving = package.callbacks.ModelCheckpoint(tmp_path, filename="last")
    first = PostProcessorCallback(pp.OneClassPostProcessor(image_sensitivity=0.6))
    module = training_module(package)
    running = trainer(package, first, saving, max_epochs=1, enable_checkpointing=True)
    running.fit(module, loader(), loader())
    checkpoint = tmp_path / "last.ckpt"
    state = torch.load(checkpoint, weights_only=True)["callbacks"]["PostProcessorCallback"]
    assert state["statistics"]["image"]["threshold"] == first.statistics.image.threshold
    decisions = running.predict(module, loader())

    again = PostProcessorCallback(pp.OneClassPostProcessor(image_sensitivity=0.6))
    tested = []

    class Watch(package.Callback):
        def on_test_batch_end(self, running: object, module: object, outputs: dict, *_: object) -> None:
            tested.append(outputs)

    other = trainer(package, again, Watch())
    # Weights and statistics both come from the file.
    other.test(training_module(package), loader(), ckpt_path=checkpoint, verbose=False)
    assert again.statistics == first.statistics
    for before, after in zip(decisions, tested, strict=True):
        assert list(before) == list(after)
        for name in before:
            assert torch.equal(before[name], after[name])

    resumed = PostProcessorCallback(pp.OneClassPostProcessor(image_sensitivity=0.6))

    class Resumed(package.Callback):
        def on_train_start(self, *_: object) -> None:
            assert resumed.statistics == first.statistics

    trainer(package, resumed, Resumed(), max_epochs=2).fit(
        training_module(package), loader(), loader(), ckpt_path=checkpoint
    )
    assert numbers(resumed.statistics) != numbers(first.statistics)


def test_other_parameters_than_the_checkpoints_are_named() -> None:
    saved = PostProcessorCallback(pp.OneClassPostProcessor(pixel_sensitivity=0.7)).state_dict()
    callback = PostProcessorCallback()
    with pytest.warns(UserWarning, match=r"decisions may differ: pixel_sensitivity was 0.7 and is 0.5\. The"):
        callback.load_state_dict(saved)
    assert callback.statistics is None
    with pytest.raises(StatisticsError, match="has version 2, expected 1. Upgrade pp_graph"):
        callback.load_state_dict({**saved, "version": 2})


def test_a_checkpoint_without_statistics_leaves_those_that_were_given(arrays: dict) -> None:
    given = pp.Statistics(image=pp.LevelStatistics(threshold=1.0, min=0.0, max=2.0))
    callback = PostProcessorCallback(pp.OneClassPostProcessor(given))
    assert validated(callback, replayed(**arrays)) != given
    callback.load_state_dict(PostProcessorCallback().state_dict())
    assert callback.statistics == given


def test_statistics_of_older_weights_warn_and_are_not_exported(tmp_path: Path) -> None:
    callback, module = PostProcessorCallback(), training_module(pl)
    running = trainer(pl, callback, max_epochs=3, check_val_every_n_epoch=2)
    running.fit(module, loader(), loader())
    assert callback.outdated
    with pytest.warns(UserWarning, match="trained further after the validation"):
        running.predict(module, loader())
    with pytest.raises(StatisticsError, match=r"Run trainer.validate\(model\)"):
        callback.export(module, tmp_path / "model.xml")
    loaded = PostProcessorCallback()
    loaded.load_state_dict(callback.state_dict())
    assert loaded.outdated
    running.validate(module, loader(), verbose=False)
    assert not callback.outdated
    running.predict(module, loader())


# --- what a step may return ------------------------------------------------------------------------------------------


class Named(NamedTuple):
    pred_score: object
    anomaly_map: object
    pred_label: object = None
    pred_mask: object = None


@dataclasses.dataclass
class Fields:
    pred_score: object
    anomaly_map: object
    pred_label: object = None
    pred_mask: object = None


@pytest.mark.parametrize("kind", [dict, Named, Fields, SimpleNamespace])
def test_outputs_of_any_kind_are_read(arrays: dict, tmp_path: Path, kind: type) -> None:
    found = validated(
        PostProcessorCallback(), replayed(**arrays), lambda batch: kind(**{name: batch[name] for name in RAW})
    )
    assert numbers(found) == numbers(expected(tmp_path, arrays))


@pytest.mark.parametrize("kind", [dict, Fields, SimpleNamespace])
@pytest.mark.parametrize("fn", ["test", "predict"])
def test_predictions_are_those_of_the_reference(arrays: dict, kind: type, fn: str) -> None:
    callback, kept = PostProcessorCallback(pp.OneClassPostProcessor(pixel_sensitivity=0.6)), []
    validated(callback, replayed(**arrays))

    def outputs(batch: dict) -> object:
        kept.append(kind(**{name: batch[name] for name in RAW}))
        return kept[-1]

    running, module = trainer(pl, callback), replaying_module(pl, outputs)
    data = replayed(4, **{name: arrays[name] for name in RAW})
    if fn == "test":
        running.test(module, data, verbose=False)
        results = kept
    else:
        results = running.predict(module, data)
    for start, result in zip(range(0, 11, 4), results, strict=True):
        reference = callback.post({name: arrays[name][start : start + 4] for name in RAW})
        assert len(reference) == 4
        for name, array in reference.items():
            value = result[name] if kind is dict else getattr(result, name)
            wanted = torch.from_numpy(array)
            assert value.dtype == wanted.dtype
            assert torch.equal(value, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_count_as_float32_holds_them(arrays: dict, tmp_path: Path, dtype: torch.dtype) -> None:
    def outputs(batch: dict) -> dict:
        return {name: batch[name].to(dtype) for name in RAW}

    callback = PostProcessorCallback()
    found = validated(callback, replayed(**arrays), outputs)
    rounded = {name: torch.from_numpy(arrays[name]).to(dtype).float().numpy() for name in RAW}
    assert numbers(found) == numbers(expected(tmp_path, {**arrays, **rounded}))
    (result,) = trainer(pl, callback).predict(
        replaying_module(pl, outputs), replayed(11, **{n: arrays[n] for n in RAW})
    )
    assert torch.equal(result["pred_mask"], torch.from_numpy(callback.post(rounded).pred_mask))
    assert result["pred_score"].dtype == torch.float32


@pytest.mark.parametrize(
    "present",
    [("pred_score", "label"), ("anomaly_map", "label", "mask"), ("anomaly_map", "mask"), ("anomaly_map", "label")],
    ids=" ".join,
)
def test_missing_values_are_left_out(arrays: dict, tmp_path: Path, present: tuple) -> None:
    some = {name: arrays[name] for name in present}
    callback = PostProcessorCallback()
    assert numbers(validated(callback, replayed(**some))) == numbers(expected(tmp_path, some))
    module = replaying_module(pl, dict)
    (result,) = trainer(pl, callback).predict(module, replayed(11, **{n: some[n] for n in present if n in RAW}))
    wanted = ("pred_score", "pred_label") if "anomaly_map" not in present else (*RAW, "pred_label", "pred_mask")
    assert set(result) == set(wanted)


def test_labels_decide_whether_there_is_a_threshold(arrays: dict, tmp_path: Path) -> None:
    raw = {name: arrays[name] for name in RAW}
    unlabelled = PostProcessorCallback()
    found = validated(unlabelled, replayed(**raw))
    assert found.image.threshold is found.pixel.threshold is None
    assert (found.image.min, found.image.max) == (arrays["pred_score"].min(), arrays["pred_score"].max())
    assert "no score has a label" in unlabelled.result.image.warnings[0]
    (result,) = trainer(pl, unlabelled).predict(replaying_module(pl, dict), replayed(11, **raw))
    middle = (np.float32(found.image.max) + np.float32(found.image.min)) / np.float32(2)
    assert result["pred_label"].tolist() == (arrays["pred_score"] > middle).tolist()

    normal = {**raw, "label": np.zeros(11, bool)}
    found = validated(PostProcessorCallback(), replayed(**normal))
    assert numbers(found) == numbers(expected(tmp_path, normal))
    assert found.image.threshold == found.image.max


def test_names_and_positions_can_be_chosen(arrays: dict, tmp_path: Path) -> None:
    renamed = {"a": arrays["pred_score"], "b": arrays["anomaly_map"], "bad": arrays["label"], "where": arrays["mask"]}
    wanted = numbers(expected(tmp_path, arrays))
    callback = PostProcessorCallback(score_key="s", map_key="m", label_key="bad", mask_key=3)
    data = replayed(as_tuple=True, **renamed)
    assert numbers(validated(callback, data, lambda batch: {"s": batch[0], "m": batch[1], "bad": batch[2]})) == wanted
    # Predictions keep their usual names.
    (result,) = trainer(pl, callback).predict(
        replaying_module(pl, lambda batch: {"s": batch[0], "m": batch[1]}), replayed(11, as_tuple=True, **renamed)
    )
    assert torch.equal(result["s"], torch.from_numpy(arrays["pred_score"]))
    assert torch.equal(
        result["pred_label"],
        torch.from_numpy(callback.post({name: arrays[name] for name in RAW}).pred_label),
    )

    anomalib = {**{name: arrays[name] for name in RAW}, "gt_label": arrays["label"], "gt_mask": arrays["mask"]}
    assert numbers(validated(PostProcessorCallback(), replayed(**anomalib))) == wanted
    in_list = lambda batch: {**{n: batch[n] for n in RAW}, "mask": [m if m.any() else None for m in batch["mask"]]}  # noqa: E731
    assert numbers(validated(PostProcessorCallback(), replayed(**arrays), in_list)) == wanted


@pytest.mark.parametrize(
    "settings",
    [{"pixel": "pro", "image": "max-normal"}, {"pixel": "sigma", "placement": "observed"}, {"one_pass": True}],
)
def test_settings_are_those_of_calibrating(arrays: dict, tmp_path: Path, settings: dict) -> None:
    found = validated(PostProcessorCallback(**settings), replayed(**arrays))
    assert numbers(found) == numbers(expected(tmp_path, arrays, **settings))


def test_what_a_recipe_decides_about_is_calibrated(
    arrays: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = pp.RecipePostProcessor(
        recipe=(
            {"step": "gaussian_blur", "source": "raw_map", "target": "smooth_map", "sigma": 1.0},
            {"step": "max_over_map", "source": "smooth_map", "target": "highest"},
            {"step": "compare", "source": "highest", "target": "pred_label", "level": "$image.threshold"},
            {"step": "compare", "source": "smooth_map", "target": "pred_mask", "level": "$pixel.threshold"},
        )
    )
    bound, bind = [], pp.RecipePostProcessor.bind_calibration
    monkeypatch.setattr(
        pp.RecipePostProcessor, "bind_calibration", lambda post, raw: bound.append(raw) or bind(post, raw)
    )
    found = validated(PostProcessorCallback(recipe), replayed(**arrays))
    # There are three batches, and the last is smaller: one signature for all.
    (signature,) = bound
    smooth = bind(recipe, signature).compute({"raw_map": arrays["anomaly_map"]}, ("smooth_map", "highest"))
    wanted = {**arrays, "pred_score": smooth["highest"], "anomaly_map": smooth["smooth_map"]}
    assert numbers(found) == numbers(expected(tmp_path, wanted))
    (result,) = trainer(pl, PostProcessorCallback(recipe.with_statistics(found))).predict(
        replaying_module(pl, dict), replayed(11, **{name: arrays[name] for name in RAW})
    )
    assert torch.equal(result["pred_mask"], torch.from_numpy(smooth["smooth_map"] > np.float32(found.pixel.threshold)))
    assert torch.equal(result["pred_score"], torch.from_numpy(arrays["pred_score"])), "an unread value stays"


def test_roles_and_outputs_of_other_names(arrays: dict, tmp_path: Path) -> None:
    post = pp.RecipePostProcessor(
        roles=({"name": "heat", "axes": "NCHW", "sizes": {"C": 1}},),
        declared_outputs=({"name": "defects", "meaning": "decision"},),
        recipe=({"step": "compare", "source": "heat", "target": "defects", "level": "$pixel.threshold"},),
    )
    callback = PostProcessorCallback(post)
    heat = {"heat": arrays["anomaly_map"], "label": arrays["label"], "mask": arrays["mask"]}
    found = validated(callback, replayed(**heat), lambda batch: {"heat": batch["heat"]})
    maps = {"anomaly_map": heat["heat"], "label": arrays["label"], "mask": arrays["mask"]}
    assert numbers(found) == numbers(expected(tmp_path, maps))
    (result,) = trainer(pl, callback).predict(replaying_module(pl, dict), replayed(11, heat=heat["heat"]))
    assert torch.equal(result["defects"], torch.from_numpy(heat["heat"] > np.float32(found.pixel.threshold)))
    with pytest.raises(DataError, match="a dict with 'pred_score', .*expected 'heat' among it, the raw values of"):
        validated(PostProcessorCallback(post), replayed(**arrays))


def test_all_validation_loaders_count(arrays: dict, tmp_path: Path) -> None:
    parts = [{name: array[part] for name, array in arrays.items()} for part in (slice(5), slice(5, None))]
    found = validated(PostProcessorCallback(), [replayed(2, **part) for part in parts])
    assert numbers(found) == numbers(expected(tmp_path, arrays))


def test_maps_are_kept_in_temporary_files(arrays: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened, original = [], tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **how: opened.append(original(**how)) or opened[-1])
    validated(PostProcessorCallback(), replayed(**arrays))
    assert len(opened) == 2
    broken = {**arrays, "anomaly_map": arrays["anomaly_map"].copy()}
    broken["anomaly_map"][9, 0, 2, 2] = np.nan
    with pytest.raises(DataError, match="The map of 'image 9' has 1 of 30 values that are not finite"):
        validated(PostProcessorCallback(), replayed(**broken))
    assert len(opened) == 4
    assert all(file.closed for file in opened)
    validated(PostProcessorCallback(one_pass=True), replayed(**arrays))
    assert len(opened) == 4
    lenient = validated(PostProcessorCallback(ignore_nonfinite=True), replayed(**broken))
    assert numbers(lenient) == numbers(expected(tmp_path, broken, ignore_nonfinite=True))


def test_warnings_are_logged_when_training_ends(arrays: dict, caplog: pytest.LogCaptureFixture) -> None:
    validated(PostProcessorCallback(), replayed(**{name: arrays[name] for name in RAW}))
    assert "image: no score has a label: there is no threshold" in caplog.text


def test_it_can_be_sent_to_another_process(arrays: dict) -> None:
    first = PostProcessorCallback(pp.OneClassPostProcessor(image_sensitivity=0.6), pixel="quantile")
    validated(first, replayed(**arrays))
    callback = PostProcessorCallback(first.post, pixel="quantile")
    again = pickle.loads(pickle.dumps(callback))
    assert again.post == callback.post
    # The copy collects the same values.
    assert validated(again, replayed(**arrays)) == first.statistics


# --- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "outputs", "message"),
    [
        ({}, lambda batch: None, "validation_step returned None, expected 'pred_score' or 'anomaly_map' among it"),
        ({}, lambda batch: batch["pred_score"], r"returned a tensor of shape \(4,\), expected .* Return a dict"),
        ({}, lambda batch: {"loss": 1, "score": 2}, "returned a dict with 'loss', 'score', expected"),
        ({"score_key": "raw"}, lambda batch: batch, "expected 'raw' among it. Return it there, or .* score_key="),
        ({"label_key": "bad"}, lambda batch: batch, "the batch is a dict with 'pred_score'.* expected 'bad' in one"),
        ({"mask_key": 2}, lambda batch: batch, r"position 2 \(mask_key=2\). Pass another position"),
        ({}, lambda batch: {"pred_score": batch["pred_score"][0]}, r"Scores have shape \(\), expected \(N,\)"),
        ({}, lambda batch: {**batch, "mask": 3}, "Masks are a int, expected"),
        ({}, lambda batch: {**batch, "label": batch["pred_score"]}, "Labels: found .*, expected bool, or 0"),
        (
            {},
            lambda batch: {**batch, "mask": batch["mask"][:, :2]},
            r"has shape \(2, 5\), expected \(6, 5\) like its map",
        ),
    ],
)
def test_outputs_that_do_not_fit_are_named(arrays: dict, settings: dict, outputs: object, message: str) -> None:
    callback = PostProcessorCallback(**settings)
    with pytest.raises(DataError, match=message):
        validated(callback, replayed(**arrays), outputs)
    assert callback.statistics is None


def test_outputs_that_cannot_be_changed_are_named(arrays: dict) -> None:
    callback = PostProcessorCallback()
    validated(callback, replayed(**arrays))
    running = trainer(pl, callback)
    module = replaying_module(pl, lambda batch: Named(**{name: batch[name] for name in RAW}))
    message = "predict_step returned a Named with 'pred_score', .*'pred_score' cannot be set, expected a dict .*_asdict"
    with pytest.raises(DataError, match=message):
        running.predict(module, replayed(**arrays))
    # A step that post-processes itself does not need the callback.
    callback = PostProcessorCallback(callback.post, apply_in=())
    assert isinstance(trainer(pl, callback).predict(module, replayed(**arrays))[0], Named)


def test_predicting_needs_statistics(arrays: dict) -> None:
    with pytest.raises(StatisticsError, match="No validation has run yet.*pass ckpt_path="):
        trainer(pl, PostProcessorCallback()).predict(replaying_module(pl, dict), replayed(**arrays))


def test_bad_settings_are_refused_before_training() -> None:
    with pytest.raises(PostProcessorError, match="The post-processor is str, expected a PostProcessor"):
        PostProcessorCallback("f1")
    with pytest.raises(PostProcessorError, match="apply_in is 'test', expected some of"):
        PostProcessorCallback(apply_in="test")
    with pytest.raises(pp.PPGraphError, match="Threshold estimator 'f2' is not known"):
        PostProcessorCallback(image="f2")
    with pytest.raises(DataError, match="expected torch.distributed to connect them"):
        Collector({}, processes=2)
    module = training_module(pl)
    module.example_input_array = None
    for settings, message in (({}, "no example input"), ({"export_module": "net.a"}, "expected one of: 'model'")):
        with pytest.raises(PostProcessorError, match=message):
            trainer(pl, PostProcessorCallback(export_to="x.xml", **settings), max_epochs=1).fit(
                module, loader(), loader()
            )


# --- export ----------------------------------------------------------------------------------------------------------


@pytest.mark.sample(every=2)
def test_the_end_of_training_exports(package: ModuleType, tmp_path: Path) -> None:
    callback = PostProcessorCallback(export_to=tmp_path / "model.xml", export_module="model")
    module = training_module(package)
    running = trainer(package, callback, max_epochs=1)
    running.fit(module, loader(), loader())
    images = next(iter(loader(12, 12)))["image"]
    predictions = pp.load(tmp_path / "model.xml")(images.numpy())
    (result,) = running.predict(module, loader(12, 12))
    assert np.array_equal(np.asarray(predictions.pred_label).ravel(), result["pred_label"].numpy().ravel())
    assert np.array_equal(np.asarray(predictions.pred_mask).ravel(), result["pred_mask"].numpy().ravel())
    assert module.model.training, "the mode is restored"


@pytest.mark.slow
def test_the_example_finds_its_anomalies_and_exports(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("train_with_lightning", ROOT / "examples" / "train_with_lightning.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    callback, batches = example.train(tmp_path, **quiet)
    assert callback.result.image.metrics.f1 > 0.95
    labels = torch.cat([batch["pred_label"] for batch in batches])
    assert (labels == (torch.arange(40) % 2 == 1)).float().mean() > 0.95
    images = np.stack([example.Stripes(20_000, 40, anomalous=True)[index]["image"].numpy() for index in range(40)])
    exported = pp.load(tmp_path / "model.xml")(images)
    assert np.array_equal(np.asarray(exported.pred_label).ravel(), labels.numpy().ravel())


def test_existing_files_stop_training_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_text("mine")
    settings = {"export_to": tmp_path / "model.xml", "export_module": "model"}
    with pytest.raises(OutputFileError, match="model.bin' exists already"):
        trainer(pl, PostProcessorCallback(**settings), max_epochs=1).fit(training_module(pl), loader(), loader())
    assert [file.name for file in tmp_path.iterdir()] == ["model.bin"]
    again = PostProcessorCallback(**settings, export_options={"overwrite": True})
    trainer(pl, again, max_epochs=1).fit(training_module(pl), loader(), loader())
    assert (tmp_path / "model.xml").exists()


def test_a_fast_dev_run_exports_nothing(tmp_path: Path) -> None:
    callback = PostProcessorCallback(export_to=tmp_path / "model.xml")
    trainer(pl, callback, fast_dev_run=True).fit(training_module(pl), loader(), loader())
    assert not list(tmp_path.iterdir())


# --- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this PyTorch cannot connect processes on a CPU",
)
def test_two_processes_find_what_one_finds(arrays: dict, tmp_path: Path) -> None:
    # With eleven images, the last batch of one process repeats the first image.
    np.savez(tmp_path / "data.npz", **arrays)
    command = [sys.executable, "-m", "tests.integrations.distributed_validation", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    for pixel in ("f1", "pro"):
        wanted = expected(tmp_path, arrays, image="sigma", pixel=pixel)
        for rank in range(2):
            found = pp.Statistics.load(tmp_path / f"{pixel}{rank}.json")
            assert numbers(found) == numbers(wanted)
            assert found.provenance.calibration.images == 11


# --- Lightning packages -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_package_is_enough() -> None:
    code = (
        "import sys\n"
        "sys.modules['lightning'] = sys.modules['lightning.pytorch'] = sys.modules['pytorch_lightning'] = None\n"
        "try:\n"
        "    import pp_graph.integrations.lightning\n"
        "except ImportError as error:\n"
        "    print(error)\n"
        "del sys.modules['pytorch_lightning']\n"
        "import pytorch_lightning\n"
        "from pp_graph.integrations.lightning import PostProcessorCallback\n"
        "assert isinstance(PostProcessorCallback(), pytorch_lightning.Callback)\n"
    )
    pytest.importorskip("pytorch_lightning", reason="pytorch_lightning is not installed")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "needs lightning, which is not installed. Install it: pip install 'pp_graph[lightning]'" in done.stdout
