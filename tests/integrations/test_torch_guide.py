"""Post-processors as Anomalib's guide writes them: a module that is a callback, and a `forward` of one's own."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'pp_graph[torch]'")
pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: pip install 'pp_graph[lightning]'")

import pp_graph as pp  # noqa: E402
from pp_graph.errors import DataError, PostProcessorError  # noqa: E402
from pp_graph.integrations.torch import (  # noqa: E402
    InferenceBatch,
    OneClassModule,
    OneClassPostProcessor,
    PostProcessor,
    PostProcessorModule,
    export,
)
from pp_graph.integrations.torch.metrics import F1AdaptiveThreshold, MinMax  # noqa: E402
from tests.models import STATS, conv_model, run, run_openvino, score_and_map  # noqa: E402

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(0, 1, (5, 3, 12, 8)).astype(np.float32)


class Custom(PostProcessor):
    """As in the guide: it changes the predictions in place."""

    def __init__(self) -> None:
        super().__init__()
        self._image_threshold, self._pixel_threshold = F1AdaptiveThreshold(), F1AdaptiveThreshold()
        self._image_normalization, self._pixel_normalization = MinMax(), MinMax()

    def forward(self, predictions: Any) -> Any:
        if predictions.pred_score is None and predictions.anomaly_map is None:
            raise ValueError("At least one of pred_score or anomaly_map must be provided")
        if predictions.pred_score is not None:
            low, high = self._image_normalization.min, self._image_normalization.max
            predictions.pred_score = (predictions.pred_score - low) / (high - low)
            predictions.pred_label = predictions.pred_score > self._image_threshold.value
        if predictions.anomaly_map is not None:
            low, high = self._pixel_normalization.min, self._pixel_normalization.max
            predictions.anomaly_map = (predictions.anomaly_map - low) / (high - low)
            predictions.pred_mask = predictions.anomaly_map > self._pixel_threshold.value
        return predictions


def custom() -> Custom:
    post = Custom()
    for metric, (low, high) in ((post._image_normalization, (0.1, 3.3)), (post._pixel_normalization, (-0.7, 2.9))):
        metric.min, metric.max = torch.tensor(low), torch.tensor(high)
    post._image_threshold.value, post._pixel_threshold.value = torch.tensor(0.37), torch.tensor(0.53)
    return post


def test_a_forward_of_ones_own_is_fused_exactly() -> None:
    post = custom()
    fused = pp.fuse(conv_model(), post)
    assert set(fused.provenance.cutoffs) == {"pred_label", "pred_mask"}
    artifact = pp.convert(fused)
    report = pp.verify(pp.RawModel.open(conv_model()), artifact, IMAGE)
    assert report.passed
    assert report.boundary.values > 15
    raw = run(conv_model(), {"image": IMAGE})
    expected = post(InferenceBatch(torch.from_numpy(raw["pred_score"]), None, torch.from_numpy(raw["anomaly_map"])))
    assert isinstance(expected, InferenceBatch)
    for found in (run(fused, {"image": IMAGE}), run_openvino(fused, {"image": IMAGE})):
        assert np.array_equal(found["pred_mask"], expected.pred_mask.numpy())
        assert np.array_equal(found["pred_label"], expected.pred_label.numpy())
        np.testing.assert_allclose(found["pred_score"], expected.pred_score.numpy(), rtol=1e-6)


def test_decisions_around_the_threshold_are_those_of_the_module() -> None:
    """No runtime rounds the normalisation differently, because the cutoff was found with the module."""
    post = custom()
    fused = pp.fuse(score_and_map(), post)
    for output, role, shape in (("pred_label", "level", (-1, 1)), ("pred_mask", "image", (-1, 1, 1, 1))):
        cutoff = np.float32(fused.provenance.cutoffs[output])
        near = [cutoff]
        for direction in (np.inf, -np.inf):
            number = cutoff
            for _ in range(50):
                number = np.nextafter(number, np.float32(direction))
                near.append(number)
        values = np.array([*near, np.nan, np.inf, -np.inf], np.float32)
        field = "pred_score" if output == "pred_label" else "anomaly_map"
        expected = post(InferenceBatch(**{field: torch.from_numpy(values.reshape(shape))}))
        feeds = {"level": np.zeros((len(values), 1), np.float32), "image": np.zeros((len(values), 1, 4, 4), np.float32)}
        feeds[role] = feeds[role] + values.reshape(shape)
        found = run(fused, feeds)[output].reshape(len(values), -1)[:, 0]
        assert np.array_equal(found, getattr(expected, output).numpy().ravel()), output


def test_a_carried_module_survives_the_file(tmp_path: Path) -> None:
    path = pp.convert(pp.fuse(conv_model(), custom())).save(tmp_path / "model.xml")
    import onnx

    onnx.save(conv_model(), tmp_path / "raw.onnx")
    np.savez(tmp_path / "images.npz", image=IMAGE)
    # In another process the module is not there, and neither is torch imported.
    command = ["verify", str(tmp_path / "raw.onnx"), str(path), "--data", str(tmp_path / "images.npz")]
    done = subprocess.run([sys.executable, "-m", "pp_graph", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "PASSED" in done.stdout
    with pytest.raises(PostProcessorError, match="has no image_sensitivity"):
        pp.retune(path, image_sensitivity=0.6)


class Smoothed(PostProcessor):
    def forward(self, predictions: Any) -> Any:
        smooth = torch.nn.functional.avg_pool2d(predictions.anomaly_map, 3, 1, 1)
        return InferenceBatch(smooth.amax((2, 3)), smooth.amax((2, 3)) > 0.4, smooth, smooth > 0.3)


def test_what_reads_neighbours_is_carried_as_it_is() -> None:
    fused = pp.fuse(conv_model(18), Smoothed())
    assert fused.provenance.cutoffs == {}
    assert pp.verify(pp.RawModel.open(conv_model(18)), pp.convert(fused), IMAGE).postprocessing_flips == 0


class Wrong(PostProcessor):
    def forward(self, predictions: Any) -> Any:
        return {"pred_score": 3}


def test_what_cannot_be_traced_is_said() -> None:
    with pytest.raises(PostProcessorError, match="Wrong.forward returns int as 'pred_score', expected predictions"):
        pp.fuse(conv_model(), Wrong())


class Net(torch.nn.Module):
    def __init__(self, post: Any = None) -> None:
        super().__init__()
        self.net = torch.nn.Conv2d(3, 1, 3, padding=1)
        self.post = post

    def forward(self, image: Any) -> Any:
        anomaly_map = self.net(image).abs()
        raw = {"pred_score": anomaly_map.amax((2, 3)), "anomaly_map": anomaly_map}
        return raw if self.post is None else self.post(raw)


@pytest.mark.slow
def test_export_takes_the_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = export(Net(), custom(), torch.rand(4, 3, 32, 32), tmp_path / "model.xml")
    assert result.verification.passed


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_openvino_gives_the_names_of_the_outputs() -> None:
    openvino = pytest.importorskip("openvino")
    model = openvino.convert_model(Net(OneClassModule(statistics=STATS)).eval(), example_input=torch.rand(2, 3, 16, 16))
    assert [next(iter(each.names)) for each in model.outputs] == list(InferenceBatch._fields)


class Written(PostProcessor):
    """A `forward` given as a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, predictions: Any) -> Any:
        return self.function(predictions)


def test_a_band_is_not_taken_for_a_threshold() -> None:
    """No sampled number falls into the band."""
    post = Written(
        lambda p: InferenceBatch(
            p.pred_score, (p.pred_score > 5) & ~((p.pred_score > 6.1) & (p.pred_score < 6.4)), p.anomaly_map, None
        )
    )
    fused = pp.fuse(score_and_map(), post)
    assert not fused.provenance.cutoffs
    scores = np.array([[4], [5.5], [6.05], [6.2], [6.39], [6.45], [9]], np.float32)
    feeds = {"level": scores, "image": RNG.random((7, 1, 6, 7)).astype(np.float32)}
    wanted = [False, True, True, False, False, True, True]
    for found in (run(fused, feeds), run_openvino(fused, feeds)):
        assert found["pred_label"].ravel().tolist() == wanted
    for artifact in (fused, pp.convert(fused)):
        report = pp.verify(pp.RawModel.open(score_and_map()), artifact, feeds)
        assert report.passed, report.failures


def test_a_forward_that_works_in_place_is_its_own_reference() -> None:
    def forward(p: Any) -> Any:
        p.anomaly_map.sub_(0.3)
        p.pred_score.sub_(0.5)
        return InferenceBatch(p.pred_score, p.pred_score > 0, p.anomaly_map, p.anomaly_map > 0)

    report = pp.verify(pp.RawModel.open(conv_model()), pp.fuse(conv_model(), Written(forward)), IMAGE)
    assert report.passed, report.failures


@pytest.mark.sample(every=3)
@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (
            lambda p: {"pred_score": p.pred_score, "severity": p.pred_score * 3},
            "returns 'severity', expected only pred_",
        ),
        (lambda p: InferenceBatch(pred_label=(p.pred_score > 3).int() + 2 * (p.pred_score > 4).int()), "expected dec"),
        (
            lambda p: InferenceBatch(pred_label=torch.sigmoid(p.pred_score - 3)),
            "pred_label as float32 with values such",
        ),
    ],
)
def test_results_that_would_be_lost_are_refused(forward: Any, message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        pp.fuse(conv_model(), Written(forward))
    mask = Written(lambda p: InferenceBatch(pred_mask=(p.anomaly_map > 1).to(torch.uint8) * 255))
    assert pp.fuse(conv_model(), mask).provenance.predicted["pred_mask"].dtype == "bool"


class Whole(torch.nn.Module):
    def __init__(self, post: torch.nn.Module) -> None:
        super().__init__()
        self.layer, self.post = torch.nn.Conv2d(3, 1, 3, padding=1), post

    def forward(self, image: torch.Tensor) -> Any:
        anomaly_map = self.layer(image)
        return self.post(InferenceBatch(anomaly_map.amax((1, 2, 3)), None, anomaly_map))


@pytest.mark.sample(every=5)
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize(
    ("post", "names"),
    [
        (lambda: OneClassPostProcessor(statistics=STATS), ["pred_score", "pred_label", "anomaly_map", "pred_mask"]),
        (lambda: OneClassPostProcessor(statistics=STATS, pack=True), ["predictions"]),
        (custom, ["pred_score", "pred_label", "anomaly_map", "pred_mask"]),
    ],
    ids=["one class", "packed", "own"],
)
def test_torch_onnx_export_gives_the_names_of_the_outputs(post: Any, names: list[str], dynamo: bool, tmp_path: Path):
    model, images = Whole(post()).eval(), torch.from_numpy(IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the exporters
        torch.onnx.export(
            model, (images,), tmp_path / "model.onnx", input_names=["image"], dynamo=dynamo, verbose=False
        )
    found = run(onnx.load(tmp_path / "model.onnx"), {"image": IMAGE})
    assert list(found) == names
    with torch.no_grad():
        expected = model(images)
    for value, wanted in zip(found.values(), expected if len(names) > 1 else [expected], strict=True):
        np.testing.assert_allclose(value.astype(np.float32), wanted.numpy().astype(np.float32), atol=1e-5)


def test_none_is_the_default_sensitivity() -> None:
    post = OneClassPostProcessor(image_sensitivity=None, pixel_sensitivity=0.3)
    assert (post.image_sensitivity, post.pixel_sensitivity) == (0.5, 0.3)
    post.pixel_sensitivity = None
    assert post.pixel_sensitivity == 0.5


def test_metrics_are_those_of_calibrate() -> None:
    scores = RNG.normal(0, 1, 400).astype(np.float32)
    labels = scores + RNG.normal(0, 0.7, 400) > 0.5
    for placement in ("observed", "midpoint"):
        threshold, ends = F1AdaptiveThreshold(placement), MinMax()
        for part in range(0, 400, 70):
            threshold.update(torch.from_numpy(scores[part : part + 70]), torch.from_numpy(labels[part : part + 70]))
            ends.update(torch.from_numpy(scores[part : part + 70]))
        calibrator = pp.Calibrator(image="f1", placement=placement)
        calibrator.update(scores=scores, labels=labels)
        expected = calibrator.result(resamples=0).image.statistics
        assert float(threshold.compute()) == float(threshold.value) == expected.threshold
        assert tuple(map(float, ends.compute())) == (expected.min, expected.max)
    copied = Custom()
    copied.load_state_dict(custom().state_dict())
    assert float(copied._image_threshold.value) == pytest.approx(0.37)
    assert float(copied._pixel_normalization.max) == pytest.approx(2.9)
    with pytest.raises(DataError, match=r"preds have shape \(3,\) and target \(2,\)"):
        threshold.update(torch.ones(3), torch.ones(2))
    with pytest.raises(DataError, match="preds hold NaN"):
        ends.update(torch.tensor([float("nan")]))


# --- both roles -------------------------------------------------------------------------------------------------------

pl = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed: pip install 'pp_graph[lightning]'")


class Inspection(pl.LightningModule):
    def __init__(self, post: Any, *, applied: bool = False) -> None:
        super().__init__()
        self.model, self.post_processor, self.applied = Net(), post, applied

    def training_step(self, batch: Any, index: int) -> Any:
        return self.model(batch[0])["anomaly_map"].mean()

    def validation_step(self, batch: Any, index: int) -> Any:
        return {**self.model(batch[0]), "label": batch[1]}

    def test_step(self, batch: Any, index: int) -> Any:
        raw = self.model(batch[0])
        self.outputs = self.post_processor(raw)._asdict() if self.applied else raw
        return self.outputs

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1e-3)

    def configure_callbacks(self) -> Any:
        return [self.post_processor]


def loader() -> Any:
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.rand(16, 3, 8, 8), torch.arange(16) % 2 == 1)
    return torch.utils.data.DataLoader(data, 8)


def trainer(**settings: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(max_epochs=1, **{"enable_checkpointing": False, **quiet, **settings})


@pytest.mark.filterwarnings("ignore")
def test_both_roles_in_one_class(tmp_path: Path) -> None:
    assert issubclass(OneClassPostProcessor, (pl.Callback, torch.nn.Module))
    post = OneClassPostProcessor(callback={"resamples": 0})
    module = Inspection(post)
    running = trainer(enable_checkpointing=True, default_root_dir=tmp_path)
    running.fit(module, loader(), loader())
    assert post.statistics is not None
    assert post.result is not None
    assert float(post._image_threshold) == post.statistics.image.threshold
    running.test(module, loader(), verbose=False)
    assert module.outputs["pred_label"].dtype == torch.bool
    assert float(module.outputs["pred_score"].max()) <= 1
    again = Inspection(OneClassPostProcessor(), applied=True)
    trainer().test(again, loader(), ckpt_path=running.checkpoint_callback.best_model_path, verbose=False)
    assert again.post_processor.statistics.image == post.statistics.image
    # What the step post-processed itself is not post-processed again.
    expected = module.outputs
    assert torch.equal(again.outputs["pred_score"], expected["pred_score"])


@pytest.mark.filterwarnings("ignore")
def test_a_callback_that_would_do_nothing_is_an_error() -> None:
    with pytest.raises(PostProcessorError, match="Nothing is a Lightning callback that overrides no hook"):
        type("Nothing", (OneClassModule, pl.Callback), {})
    assert type("Something", (OneClassModule, pl.Callback), {"on_fit_end": lambda *_: None})
    with pytest.raises(AttributeError, match="OneClassModule is a torch module and not a Lightning callback. Use"):
        trainer(callbacks=[OneClassModule()])
    with pytest.raises(PostProcessorError, match="has no statistics, and the trainer does not validate"):
        trainer().fit(Inspection(OneClassPostProcessor()), loader())
    trainer().fit(Inspection(OneClassPostProcessor(statistics=STATS)), loader())


@pytest.mark.filterwarnings("ignore")
def test_statistics_of_normalised_values_are_refused() -> None:
    class Applied(Inspection):
        def validation_step(self, batch: Any, index: int) -> Any:
            return {**self.post_processor(self.model(batch[0]))._asdict(), "label": batch[1]}

    with pytest.raises(DataError, match="validation_step returned 'pred_label', so its values are post-processed"):
        trainer(num_sanity_val_steps=0).fit(Applied(OneClassPostProcessor(statistics=STATS)), loader(), loader())


def test_a_described_post_processor_is_used_as_it_is() -> None:
    module = PostProcessorModule(pp.OneClassPostProcessor(STATS))
    assert pp.fuse(conv_model(), module).provenance.cutoffs == pp.fuse(conv_model(), module.post).provenance.cutoffs
