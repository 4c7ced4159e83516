"""Exporting a torch model to a verified OpenVINO model."""

from __future__ import annotations

import dataclasses
import runpy
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; it is optional")

import pp_graph as pp  # noqa: E402
from pp_graph.errors import (  # noqa: E402
    DataError,
    ExtraError,
    ModelError,
    OutputFileError,
    PostProcessorError,
    StatisticsError,
    VerificationError,
)
from pp_graph.integrations.torch import InferenceBatch, OneClassPostProcessor, export  # noqa: E402
from pp_graph.integrations.torch.raw_export import largest_difference, named_outputs  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.models import STATS  # noqa: E402

POST = pp.OneClassPostProcessor(STATS)


class Network(torch.nn.Module):
    def __init__(self, form: str = "batch") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1),
            torch.nn.BatchNorm2d(8),
            torch.nn.Dropout(0.5),
            torch.nn.Conv2d(8, 1, 3, padding=1),
        )

    def forward(self, image: torch.Tensor, unread: torch.Tensor | None = None) -> object:
        anomaly_map = self.layers(image) + 0.7
        score = anomaly_map.amax(dim=(2, 3))
        if self.form == "batch":
            return InferenceBatch(pred_score=score, anomaly_map=anomaly_map)
        if self.form == "random":
            return anomaly_map + torch.rand_like(anomaly_map)
        return score, anomaly_map


IMAGES = torch.rand(3, 3, 20, 24, generator=torch.Generator().manual_seed(1))


def test_a_model_becomes_a_verified_file(tmp_path: Path) -> None:
    network = Network().train()
    network.layers[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    module = OneClassPostProcessor(pixel_sensitivity=0.6, statistics=STATS)
    more = torch.rand(5, 3, 20, 24, generator=torch.Generator().manual_seed(2))
    path, raw = tmp_path / "out" / "model.xml", tmp_path / "out" / "network.onnx"
    exported = export(network, module, IMAGES, path, images={"image": more.numpy()}, raw=raw)
    # The model is not changed, including the mode of each module.
    assert [each.training for each in network.modules()] == [True, True, True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    assert exported.path == path
    assert exported.verification.passed
    assert (exported.verification.images, exported.images_verification.images) == (3, 5)
    assert set(exported.raw_errors) == {"pred_score", "anomaly_map"}
    assert 0 <= max(exported.raw_errors.values()) < 1e-5
    assert exported.artifact.provenance.raw.file == "network.onnx"
    assert {file.name for file in path.parent.iterdir()} == {"model.xml", "model.bin", "model.usage.md", "network.onnx"}
    assert pp.verify(raw, path, {"image": more.numpy()}).raw_matches

    # torch and OpenVINO agree on a batch that the export has not seen.
    network.eval()
    with torch.no_grad():
        expected = module(network(more))
    found = pp.load(path)({"image": more.numpy()})
    assert np.array_equal(found.pred_label, expected.pred_label.numpy())
    assert (found.pred_mask != expected.pred_mask.numpy()).mean() < 1e-3
    np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map.numpy(), atol=1e-5)


def test_a_single_image_and_half_weights(tmp_path: Path) -> None:
    exported = export(Network("tuple"), POST, (IMAGES[:1],), tmp_path / "model.xml", precision="f16")
    assert set(exported.raw_errors) == {"output_0", "output_1"}
    assert pp.load(tmp_path / "model.xml")({"image": IMAGES.numpy()}).pred_mask.shape == (3, 1, 20, 24)
    with pytest.raises(OutputFileError, match="exists"):
        export(Network("tuple"), POST, IMAGES, tmp_path / "model.xml", overwrite=False)


@pytest.mark.slow
def test_a_fixed_batch(tmp_path: Path) -> None:
    export(Network("tuple"), POST, {"image": IMAGES}, tmp_path / "model.xml", dynamic_batch=False, opset=20)
    assert pp.OpenVINOModel.load(tmp_path / "model.xml").network.input(0).get_partial_shape().is_static


def test_an_artifact_that_takes_frames(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), np.uint8)
    asked = pp.Preprocessing(channel_order="BGR", scale=(255,))
    with pytest.raises(DataError, match="preprocessing is given, and no images"):
        export(Network(), POST, IMAGES, tmp_path / "model.xml", preprocessing=asked)
    exported = export(
        Network(), POST, IMAGES, tmp_path / "model.xml", preprocessing=asked, input_shape=(None, 3, 20, 24),
        images={"image": frames},
    )  # fmt: skip
    assert exported.verification is exported.images_verification
    assert exported.verification.preprocessing_error < 1e-4


def test_nothing_is_written_unless_everything_agrees(tmp_path: Path) -> None:
    message = r"Output 'output' of the ONNX export differs from the torch model's on the example.*Is something.*random"
    with pytest.raises(VerificationError, match=message):
        export(Network("random"), POST, IMAGES, tmp_path / "model.xml")
    with pytest.raises(
        VerificationError, match=r"does not pass verification on the example: drift of the network: .* flipped"
    ):
        export(
            Network(), POST, torch.randn(4, 3, 40, 40), tmp_path / "model.xml", inference_precision="bf16", max_pixel_flips=0,
            raw=tmp_path / "raw.onnx",
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"model": np.zeros(3)}, ModelError, "The model is ndarray, expected a torch.nn.Module"),
        ({"post": torch.nn.ReLU()}, PostProcessorError, "The post-processor is ReLU, expected a pp_graph.PostProcessor"),
        ({"post": pp.OneClassPostProcessor()}, StatisticsError, "has no statistics"),
        ({"example": {"picture": IMAGES}}, DataError, "holds 'picture', expected the parameters of Network.forward: image"),
        ({"example": (IMAGES, IMAGES, IMAGES)}, DataError, "holds 3 inputs, expected at most 2"),
        ({"example": (IMAGES, IMAGES[:1])}, DataError, "different batches: 'image' 3, 'unread' 1"),
        ({"example": IMAGES.numpy()}, DataError, "The example is ndarray, expected a torch.Tensor"),
        ({"example": IMAGES[:, :2]}, DataError, r"Network does not accept 'image' \(3, 2, 20, 24\): .*channels"),
        ({"example": []}, DataError, "The example is empty"),
        ({"model": torch.nn.LSTM(3, 3), "example": torch.rand(2, 4, 3)}, ModelError, "LSTM returns tuple as 'output_1'"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported(change: dict, kind: type[Exception], message: str, tmp_path: Path) -> None:
    if "post" in change and kind is StatisticsError:
        change = {**change, "model": Network("tuple")}
    given = {"model": Network(), "post": POST, "example": IMAGES, "path": tmp_path / "model.xml", **change}
    with pytest.raises(kind, match=message):
        export(**given)
    assert not list(tmp_path.iterdir())


class Branching(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :1] if image.sum() > 0 else image[:, 1:2]


def test_a_model_that_torch_cannot_export(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"torch cannot export Branching: .*dynamic_batch=False"):
        export(Branching(), POST, IMAGES, tmp_path / "model.xml")


def test_onnxscript_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExtraError, match=r"needs onnxscript, which is not installed.*pp_graph\[torch\]"):
        export(Network(), POST, IMAGES, tmp_path / "model.xml")


def test_torch_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pp_graph.integrations.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ExtraError, match=r"needs torch, which is not installed.*pp_graph\[torch\]"):
        import pp_graph.integrations.torch  # noqa: F401


def test_what_models_return() -> None:
    score, anomaly_map = torch.zeros(2), torch.zeros(2, 4, 4)
    fields = {"score": score, "heat": anomaly_map}
    forms = {
        "tensor": (score, ["output"]),
        "list": ([score, anomaly_map], ["output_0", "output_1"]),
        "dict": (fields, ["score", "heat"]),
        "named tuple": (namedtuple("Two", fields)(**fields), ["score", "heat"]),
        "dataclass": (dataclasses.make_dataclass("Two", [*fields, "no"])(**fields, no=None), ["score", "heat"]),
    }
    for name, (found, names) in forms.items():
        assert list(named_outputs(found, Network())) == names, name
    for found, message in ((3, "returns int"), ({"a": 1.5}, "returns float as 'a'"), ({"a": None}, "returns nothing")):
        with pytest.raises(ModelError, match=message):
            named_outputs(found, Network())


def test_differences_count_nan_and_form() -> None:
    x = np.array([1, -4, np.inf, np.nan], np.float32)
    assert largest_difference(x, x) == 0
    assert largest_difference(x, x + np.array([0.5, 0, 0, 0], np.float32)) == 0.125
    assert largest_difference(x, np.nan_to_num(x)) == np.inf
    assert largest_difference(x, x[:2]) == np.inf
    assert largest_difference(np.array([1.0]), np.array([np.inf])) == np.inf


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["export_torch_model.py", str(tmp_path / "model.xml")])
    runpy.run_path(str(ROOT / "examples" / "export_torch_model.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "0 of 16 images' decisions differ" in said
    assert "16 of 16 bad images are found, in torch and in OpenVINO alike: True" in said
    assert pp.OpenVINOModel.load(tmp_path / "model.xml").provenance.raw.read["raw_score"].name == "pred_score"
