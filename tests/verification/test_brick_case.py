"""A real Anomalib model, against Anomalib's own post-processor in torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import pp_graph as pp
from tests.models import run


@pytest.fixture(scope="module")
def images(brick: Path) -> np.ndarray:
    return np.load(brick / "images.npz")["image"].astype(np.float32) / 255


@pytest.fixture(scope="module")
def untouched(brick: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fused with the raw model's own tail as it was."""
    post = pp.OneClassPostProcessor(pp.Statistics.load(brick / "stats.json"))
    return pp.fuse(brick / "raw.onnx", post, tail=False).save(tmp_path_factory.mktemp("brick") / "untouched.onnx")


@pytest.fixture(scope="module")
def fused(brick: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    post = pp.OneClassPostProcessor(pp.Statistics.load(brick / "stats.json"))
    return pp.fuse(brick / "raw.onnx", post).save(tmp_path_factory.mktemp("brick") / "fused.onnx")


def test_no_decision_differs_from_anomalibs(brick: Path, untouched: Path, images: np.ndarray) -> None:
    reference = np.load(brick / "ref.npz")
    masks = np.unpackbits(reference["pred_mask"]).reshape(80, 1, 256, 256).astype(bool)
    onnx.checker.check_model(str(untouched), full_check=True)
    for start in range(0, 80, 16):
        stop = start + 16
        found = run(str(untouched), {"input": images[start:stop]})
        assert np.array_equal(found["pred_label"].ravel(), reference["pred_label"][start:stop].ravel())
        assert np.array_equal(found["pred_mask"], masks[start:stop])
        np.testing.assert_allclose(found["pred_score"].ravel(), reference["pred_score"][start:stop].ravel(), atol=1e-6)
        np.testing.assert_allclose(
            found["anomaly_map"].mean(axis=(1, 2, 3)), reference["map_mean"][start:stop].ravel(), atol=1e-6
        )


@pytest.mark.slow
def test_a_rewritten_tail_decides_alike(brick: Path, fused: Path, images: np.ndarray) -> None:
    onnx.checker.check_model(str(fused), full_check=True)
    report = pp.verify(brick / "raw.onnx", fused, images)
    assert report.passed
    assert report.postprocessing_flips == 0
    # Of 5.2 million pixels; the raw model itself differs by one between runtimes.
    assert report.drift_flips <= 2
    assert {error.name: error.max_scaled < 1e-5 for error in report.errors}["raw_map"]


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("weights", ["f32", "f16"])
@pytest.mark.parametrize("execution", ["f32", "bf16"])
def test_post_processing_flips_nothing_in_openvino(
    brick: Path, fused: Path, images: np.ndarray, tmp_path: Path, weights: str, execution: str
) -> None:
    path = pp.convert(fused, precision=weights).save(tmp_path / "model.xml")
    report = pp.verify(brick / "raw.onnx", path, images[32:48], inference_precision=execution)
    assert report.postprocessing_exact
    assert set(report.island.values()) == {"f32"}
    assert report.decisions[0].flips == 0


def test_strip_gives_the_raw_file_back(brick: Path, fused: Path, tmp_path: Path) -> None:
    again = pp.strip(fused).save(tmp_path / "again.onnx")
    assert again.read_bytes() == (brick / "raw.onnx").read_bytes()


def test_anomalibs_own_export_is_recognised_as_processed(brick: Path) -> None:
    with pytest.raises(pp.PPGraphError, match="has an output 'pred_label', .* seems to contain post-processing"):
        pp.fuse(brick / "full.onnx", pp.OneClassPostProcessor(pp.Statistics.load(brick / "stats.json")))
