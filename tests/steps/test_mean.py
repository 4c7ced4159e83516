"""Sums over large maps, and over nothing."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

import pp_graph as pp
from tests.models import identity_model, run, run_openvino

RNG = np.random.default_rng(0)


def post(step: str, **settings: object) -> pp.RecipePostProcessor:
    return pp.RecipePostProcessor(None, ({"step": step, "source": "raw_map", "target": "pred_score", **settings},))


def maps(height: int, width: int) -> np.ndarray:
    shape = (1, height, width)
    two = np.where(RNG.random(shape) < 0.55, 0.9998766, 1.2e-4)
    slope = np.linspace(0, 1, height * width).reshape(shape)
    return np.stack([two, np.full(shape, 0.7), np.full(shape, 0.9998766), RNG.random(shape), slope]).astype(np.float32)


@pytest.mark.parametrize(
    ("height", "width"),
    [(2, 3), (7, 9), (63, 65), (512, 512), (1024, 768), pytest.param(4096, 4096, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("kind", ["mean", "top_k"])
def test_means_are_within_a_millionth(height: int, width: int, kind: str) -> None:
    described = post("mean_over_map") if kind == "mean" else post("top_k_mean", fraction=0.5)
    fused = pp.fuse(identity_model({"m": ["N", 1, height, width]}), described)
    feeds = {"m_in": maps(height, width)}
    flat = np.sort(feeds["m_in"].reshape(5, -1).astype(np.float64), axis=1)
    exact = (flat if kind == "mean" else flat[:, -max(1, flat.shape[1] // 2) :]).mean(axis=1)
    for found in (run(fused, feeds), run_openvino(fused, feeds)):
        np.testing.assert_allclose(found["pred_score"].ravel(), exact, rtol=1e-6)


@pytest.mark.parametrize("form", [["N", "H", "W"], ["N", 1, "H", "W"], ["N", "H", "W", 1]])
def test_means_of_maps_of_any_size(form: list) -> None:
    fused = pp.fuse(identity_model({"m": form}), post("mean_over_map"))
    for height, width in ((1, 1), (5, 7), (600, 900)):
        array = maps(height, width)
        array = array[:, 0] if len(form) == 3 else array.transpose(0, 2, 3, 1) if form[-1] == 1 else array
        exact = array.reshape(5, -1).astype(np.float64).mean(axis=1)
        for found in (run(fused, {"m_in": array}), run_openvino(fused, {"m_in": array})):
            np.testing.assert_allclose(found["pred_score"].ravel(), exact, rtol=5e-6)


@pytest.mark.parametrize(
    "steps",
    [
        [{"step": "mean_over_map", "source": "raw_map", "target": "pred_score"}],
        [{"step": "top_k_mean", "source": "raw_map", "target": "pred_score", "fraction": 0.1}],
        [{"step": "gaussian_blur", "source": "raw_map", "target": "anomaly_map", "sigma": 1.0}],
        [{"step": "per_image_min_max", "source": "raw_map", "target": "anomaly_map"}],
        [
            {"step": "compare", "source": "raw_map", "target": "above", "level": 0.5},
            {"step": "remove_small_regions", "source": "above", "target": "pred_mask", "min_area": 4},
        ],
    ],
)
def test_an_empty_batch(steps: list) -> None:
    """A camera may have nothing to show; onnxruntime takes a batch of no images."""
    described = pp.RecipePostProcessor(None, tuple(steps))
    fused = pp.fuse(identity_model({"m": ["N", 1, 8, 8]}), described)
    empty = np.zeros((0, 1, 8, 8), np.float32)
    expected = described({"anomaly_map": empty})
    session = ort.InferenceSession(fused.to_proto().SerializeToString())
    found = dict(zip([each.name for each in session.get_outputs()], session.run(None, {"m_in": empty}), strict=True))
    assert {name: (array.shape, array.dtype) for name, array in expected.items()} == {
        name: (array.shape, array.dtype) for name, array in found.items()
    }
