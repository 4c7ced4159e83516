"""Anomalib models: trained, exported, and with our post-processor inside."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

import pp_graph as pp

with warnings.catch_warnings():
    # Anomalib and its dependencies warn at import.
    warnings.simplefilter("ignore")
    pytest.importorskip("anomalib", reason="Anomalib is not installed: pip install 'pp_graph[anomalib]'")
    torch = pytest.importorskip("torch")
    from anomalib.data import Folder, ImageBatch, InferenceBatch
    from anomalib.engine import Engine
    from anomalib.models import Padim
    from anomalib.post_processing import MEBinPostProcessor, PostProcessor

from pp_graph.integrations.anomalib import OneClassPostProcessor, export

pytestmark = [
    # Internals of Lightning, torchmetrics, torch and torchvision.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.rank_zero.LightningDeprecationWarning"),
]

SIZE = (32, 32)
STATISTICS = pp.Statistics(
    image=pp.LevelStatistics(threshold=5, min=1, max=9), pixel=pp.LevelStatistics(threshold=4, min=0.5, max=9)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for kind, count in (("normal", 12), ("abnormal", 6)):
        (root / kind).mkdir()
        for index in range(count):
            image = np.clip(120 + rng.normal(0, 6, (*SIZE, 3)), 0, 255).astype(np.uint8)
            if kind == "abnormal":
                image[8:18, 6:20] = rng.integers(0, 255, 3)
            Image.fromarray(image).save(root / kind / f"{index:02}.png")
    return root


def build(**settings: Any) -> Padim:
    torch.manual_seed(0)
    return Padim(
        backbone="resnet18", layers=["layer1"], pre_trained=False, n_features=10,
        pre_processor=Padim.configure_pre_processor(image_size=SIZE), visualizer=False, **settings,
    )  # fmt: skip


def trained(folder: Path, root: Path, **settings: Any) -> tuple[Padim, Engine, Folder]:
    data = Folder(
        name="toy", root=folder, normal_dir="normal", abnormal_dir="abnormal", train_batch_size=4, eval_batch_size=4,
        num_workers=0, seed=0,
    )  # fmt: skip
    engine = Engine(
        accelerator="cpu", devices=1, default_root_dir=root, max_epochs=1, enable_progress_bar=False, logger=False,
        enable_model_summary=False,
    )  # fmt: skip
    model = build(**settings)
    engine.fit(model, datamodule=data)
    return model, engine, data


@pytest.fixture(scope="module")
def theirs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Padim, Path]:
    """A model with Anomalib's own post-processor, and its checkpoint."""
    root = tmp_path_factory.mktemp("theirs")
    model, engine, _ = trained(folder, root)
    engine.trainer.save_checkpoint(root / "model.ckpt")
    return model, root / "model.ckpt"


@pytest.fixture(scope="module")
def ours(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Padim, Engine, Folder, Path]:
    """A model with our post-processor, validated by Anomalib's metrics."""
    root = tmp_path_factory.mktemp("ours")
    model, engine, data = trained(folder, root, post_processor=OneClassPostProcessor(image_sensitivity=0.6))
    engine.trainer.save_checkpoint(root / "model.ckpt")
    return model, engine, data, root / "model.ckpt"


def images(folder: Path) -> np.ndarray:
    files = sorted(folder.rglob("*.png"))
    return np.stack([np.asarray(Image.open(file)) for file in files]).transpose(0, 3, 1, 2).astype(np.float32) / 255


def test_a_model_becomes_a_verified_artifact(theirs: tuple[Padim, Path], folder: Path, tmp_path: Path) -> None:
    model, _ = theirs
    model.train()
    post, trainer = model.post_processor, model._trainer
    result = export(model, tmp_path / "model.xml", images=folder, raw_output=tmp_path / "raw.onnx")
    assert model.post_processor is post
    assert model.training
    assert model._trainer is trainer
    assert {file.name for file in tmp_path.iterdir()} == {"model.xml", "model.bin", "model.usage.md", "raw.onnx"}
    assert result.verification.passed
    assert result.comparison.images == 18
    assert result.comparison.rule_flips == 0
    assert result.comparison.export_error < 1e-4
    for each in result.comparison.decisions:
        assert each.flips == len(each.drift) <= 3
        assert np.all(each.drift.margin < 1e-5)
    assert result.statistics.image.threshold == float(post.image_threshold)
    assert "antialiasing" in str(result)
    assert result.to_dict()["comparison"]["images"] == 18
    model.eval()
    found = pp.load(result.path)(images(folder))
    with torch.no_grad():
        wanted = model(torch.from_numpy(images(folder)))
    np.testing.assert_allclose(found.pred_score, wanted.pred_score.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map.numpy(), atol=1e-5)


@pytest.mark.parametrize("model_class", [None, "padim", Padim])
def test_a_checkpoint_too(
    theirs: tuple[Padim, Path], folder: Path, tmp_path: Path, model_class: type | str | None
) -> None:
    arguments = {"images": folder} if model_class is None else {"input_size": None if model_class == "padim" else SIZE}
    result = export(theirs[1], tmp_path / "model.onnx", model_class=model_class, image_sensitivity=0.7, **arguments)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert result.artifact.provenance.parameters["image_sensitivity"] == 0.7
    assert result.statistics.provenance.file == "model.ckpt"
    assert any("noise" in note for note in result.notes) == (model_class is not None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_class": "Patchcore"}, "cannot be opened as Patchcore: .* Is it the right class"),
        ({"model_class": "Nonsense"}, "model_class is 'Nonsense', expected one of: .*Padim"),
        ({"model_class": 3}, "model_class is 3, expected a class"),
    ],
)
def test_a_wrong_class_is_refused(theirs: tuple[Padim, Path], tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(pp.PPGraphError, match=message):
        export(theirs[1], tmp_path / "model.xml", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "a.ckpt")
    with pytest.raises(pp.PPGraphError, match="has no 'state_dict'"):
        export(tmp_path / "a.ckpt", tmp_path / "model.xml")
    (tmp_path / "a.ckpt").write_bytes(b"nothing")
    with pytest.raises(pp.PPGraphError, match="cannot be read"):
        export(tmp_path / "a.ckpt", tmp_path / "model.xml")
    with pytest.raises(pp.PPGraphError, match="does not exist"):
        export(tmp_path / "b.ckpt", tmp_path / "model.xml")


def test_a_model_that_was_never_validated(tmp_path: Path) -> None:
    with pytest.raises(pp.PPGraphError, match="has no statistics yet"):
        export(build(), tmp_path / "model.xml")
    with pytest.raises(pp.PPGraphError, match="has no statistics yet"):
        export(build(post_processor=OneClassPostProcessor()), tmp_path / "model.xml")
    with pytest.raises(pp.PPGraphError, match="has no post-processor to take statistics from"):
        export(build(post_processor=False), tmp_path / "model.xml")


def test_a_model_that_cannot_be_exported(
    theirs: tuple[Padim, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = theirs
    post = model.post_processor
    # Like Anomalib models whose export is not supported.
    monkeypatch.setattr(Padim, "to_onnx", lambda *_, **__: None)
    with pytest.raises(pp.PPGraphError, match="its to_onnx wrote no file"):
        export(model, tmp_path / "model.xml")
    assert model.post_processor is post
    assert list(tmp_path.iterdir()) == []


def test_a_post_processor_of_other_rules_is_refused(theirs: tuple[Padim, Path], folder: Path, tmp_path: Path) -> None:
    model, _ = theirs
    own = model.post_processor
    adaptive = MEBinPostProcessor()
    adaptive.load_state_dict(own.state_dict())
    try:
        model.post_processor = adaptive
        with pytest.raises(pp.PPGraphError, match="MEBinPostProcessor has other rules than ours"):
            export(model, tmp_path / "model.onnx", images=folder)
        assert list(tmp_path.iterdir()) == []
        result = export(model, tmp_path / "model.onnx", images=folder, match_model=False)
    finally:
        model.post_processor = own
    assert result.comparison.rule_flips > 0
    assert any("MEBin" in note for note in result.notes)


def test_ours_in_a_model(ours: tuple[Padim, Engine, Folder, Path], folder: Path, tmp_path: Path) -> None:
    model, engine, data, _ = ours
    post = model.post_processor
    assert list(post.state_dict()) == list(PostProcessor().state_dict())
    assert post.post.statistics.image.threshold == float(post.image_threshold)
    engine.test(model, datamodule=data, verbose=False)
    batches = engine.predict(model, data_path=folder / "abnormal")
    model.eval()
    result = export(model, tmp_path / "ours" / "model.xml", images=folder)
    assert result.comparison.rule_flips == 0
    assert result.artifact.provenance.parameters["image_sensitivity"] == 0.6
    batch = images(folder)
    with torch.no_grad():
        wanted = model(torch.from_numpy(batch))
    predicted = torch.cat([each.pred_label for each in batches])
    assert predicted.ravel().tolist() == wanted.pred_label[:6].ravel().tolist()
    # Anomalib's own exports decide alike.
    path = model.to_onnx(tmp_path, input_size=SIZE, opset_version=18, verbose=False)
    session = ort.InferenceSession(str(path))
    found = dict(zip([each.name for each in session.get_outputs()], session.run(None, {"input": batch}), strict=True))
    near = np.abs(np.asarray(wanted.pred_score) - 0.4) < 1e-5
    assert np.array_equal(found["pred_label"] | near, wanted.pred_label.numpy() | near)
    assert (found["pred_mask"] != wanted.pred_mask.numpy()).sum() <= 3
    assert model.to_openvino(tmp_path, input_size=SIZE, onnx_kwargs={"opset_version": 18, "verbose": False}).exists()


def test_a_checkpoint_loads_both_ways(
    ours: tuple[Padim, Engine, Folder, Path], theirs: tuple[Padim, Path], folder: Path
) -> None:
    for checkpoint, sensitivity in ((ours[3], 0.6), (theirs[1], 0.5)):
        plain = Padim.load_from_checkpoint(checkpoint).eval()
        loaded = Padim.load_from_checkpoint(checkpoint, post_processor=OneClassPostProcessor()).eval()
        assert type(plain.post_processor) is PostProcessor
        assert loaded.post_processor.image_sensitivity == sensitivity == plain.post_processor.image_sensitivity
        batch = torch.from_numpy(images(folder))
        with torch.no_grad():
            a, b = plain(batch), loaded(batch)
        assert torch.equal(a.pred_label, b.pred_label)
        assert torch.equal(a.pred_mask, b.pred_mask)


def batch_of(score: torch.Tensor, anomaly_map: torch.Tensor) -> ImageBatch:
    return ImageBatch(image=torch.zeros(len(score), 3, 8, 8), pred_score=score, anomaly_map=anomaly_map)


def test_every_way_decides_alike() -> None:
    post = OneClassPostProcessor(0.55, 0.4, STATISTICS)
    own = PostProcessor(image_sensitivity=0.55, pixel_sensitivity=0.4)
    own.load_state_dict(post.state_dict())
    score, anomaly_map = torch.linspace(0, 10, 64)[:, None], torch.rand(64, 8, 8) * 10
    wanted = own(InferenceBatch(pred_score=score, anomaly_map=anomaly_map))
    found = post(InferenceBatch(pred_score=score, anomaly_map=anomaly_map))
    assert isinstance(found, InferenceBatch)
    batch = batch_of(score, anomaly_map)
    post.post_process_batch(batch)
    numpy = pp.OneClassPostProcessor(STATISTICS, 0.55, 0.4)({"pred_score": score, "anomaly_map": anomaly_map})
    for name in ("pred_label", "pred_mask"):
        expected = getattr(wanted, name)
        assert torch.equal(getattr(found, name), expected)
        assert torch.equal(torch.as_tensor(getattr(batch, name)).ravel(), expected.ravel())
        assert np.array_equal(getattr(numpy, name), expected.numpy())
    assert torch.equal(found.pred_score, wanted.pred_score)


def test_what_differs_from_anomalibs() -> None:
    post = OneClassPostProcessor(statistics=STATISTICS)
    nan = InferenceBatch(pred_score=torch.tensor([float("nan"), 0.0]))
    assert post(nan).pred_label.tolist() == [True, False]
    post.on_nan = "normal"
    assert post(nan).pred_label.tolist() == [False, False]
    post.enable_normalization = False
    assert post(InferenceBatch(pred_score=torch.tensor([4.9, 5.1]))).pred_label.tolist() == [False, True]
    with pytest.raises(ValueError, match="neither 'pred_score' nor 'anomaly_map'"):
        post(InferenceBatch())
    with pytest.raises(pp.PPGraphError, match="no statistics|lack"):
        OneClassPostProcessor()(InferenceBatch(pred_score=torch.tensor([1.0])))
    with pytest.raises(pp.PPGraphError, match="image_sensitivity is 2"):
        OneClassPostProcessor(2)
    with pytest.raises(pp.PPGraphError, match="pixel_sensitivity is -1"):
        OneClassPostProcessor().pixel_sensitivity = -1


def test_statistics_follow_the_buffers() -> None:
    post = OneClassPostProcessor(statistics=STATISTICS)
    score = InferenceBatch(pred_score=torch.tensor([6.0]))
    assert post(score).pred_label.item()
    post._image_threshold.fill_(7)
    assert not post(score).pred_label.item()
    assert post.half().image_min.dtype == torch.float32
    post.load_state_dict(OneClassPostProcessor(statistics=STATISTICS).state_dict())
    assert post(score).pred_label.item()
    post.image_sensitivity = 0.0
    assert not post(score).pred_label.item()


class Doubled(PostProcessor):
    """The same decisions, other scores."""

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        found = super().forward(predictions)
        return found._replace(pred_score=found.pred_score * 2)


class Labels(PostProcessor):
    """No masks and no maps."""

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        found = super().forward(predictions)
        return InferenceBatch(found.pred_score, found.pred_label, None, None)


def with_post_processor(model: Padim, kind: type[PostProcessor]) -> Padim:
    post = kind()
    post.load_state_dict(model.post_processor.state_dict())
    model.post_processor = post
    return model


def test_another_post_processor_is_not_replaced_in_silence(
    theirs: tuple[Padim, Path], folder: Path, tmp_path: Path
) -> None:
    model = theirs[0]
    own = model.post_processor
    try:
        with_post_processor(model, Doubled)
        with pytest.raises(
            pp.PPGraphError, match="Doubled computes another 'pred_score' than ours: .* differ by up to"
        ):
            export(model, tmp_path / "model.xml", images=folder)
        assert list(tmp_path.iterdir()) == []
        result = export(model, tmp_path / "model.xml", images=folder, match_model=False)
        assert any(
            "'pred_score' differs from that of the model's own post-processor Doubled" in n for n in result.notes
        )
        model.post_processor = own
        with_post_processor(model, Labels)
        result = export(model, tmp_path / "labels.xml", images=folder)
        missing = (
            "The model's own post-processor Labels returns no 'pred_mask', or one of another size; the artifact does."
        )
        assert missing in result.notes
    finally:
        model.post_processor = own


def test_output_forms(theirs: tuple[Padim, Path], folder: Path, tmp_path: Path) -> None:
    result = export(theirs[0], tmp_path / "packed.xml", images=folder, pack=True)
    assert result.artifact.provenance.parameters["pack"] is True
    assert [output.name for output in result.artifact.provenance.outputs] == ["predictions"]
    masks = export(
        theirs[0], tmp_path / "masks.xml", images=folder, mask_dtype="u8", outputs=["pred_label", "pred_mask"]
    )
    assert [(each.name, each.dtype) for each in masks.artifact.provenance.outputs][1] == ("pred_mask", "uint8")
    with pytest.raises(pp.PPGraphError, match=r"export\(\) has no argument 'packed', expected options of OneClass"):
        export(theirs[0], tmp_path / "other.xml", packed=True)


def test_a_model_that_fixes_its_batch(folder: Path, tmp_path: Path) -> None:
    from anomalib.models import Dfm

    data = images(folder).repeat(3, axis=2).repeat(3, axis=3)  # Dfm needs larger images than the other tests
    torch.manual_seed(0)
    model = Dfm(
        backbone="resnet18", layer="layer3", pre_trained=False, visualizer=False,
        pre_processor=Dfm.configure_pre_processor(image_size=(96, 96)),
    )  # fmt: skip
    model.model.train()
    with torch.no_grad():
        model.model(model.pre_processor(torch.from_numpy(data)))
    model.fit()
    model.eval()
    result = export(model, tmp_path / "model.xml", images=data, statistics=STATISTICS, raw_output=tmp_path / "raw.onnx")
    assert any(
        "The export of Dfm fixes its batch, so the artifact takes one image at a time" in n for n in result.notes
    )
    assert pp.RawModel.open(tmp_path / "raw.onnx").inputs[0].shape == (1, 3, 96, 96)
    assert len(pp.load(result.path)(data).pred_score) == 18
    result = export(model, tmp_path / "two.xml", images=data, statistics=STATISTICS, batch=2)
    assert result.comparison.export_error < 1e-4
    with pytest.raises(pp.PPGraphError, match="batch is 0, expected a number of images from 1"):
        export(model, tmp_path / "none.xml", batch=0, statistics=STATISTICS)
