"""Detectors that suppress overlaps themselves: every runtime returns what plain NumPy finds in their lists."""

from __future__ import annotations

import numpy as np
import pytest

import pp_graph as pp
from tests.listed_detectors import OUTPUTS, listed_detector, pictures, plain
from tests.models import run, run_openvino

F32 = np.float32


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert np.array_equal(found[name], array), name


@pytest.mark.parametrize("head", OUTPUTS)
def test_every_runtime_returns_what_the_model_lists(head: str) -> None:
    proto, most = listed_detector(head), 6
    fused = pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.3125, max_detections=most, candidates=50))
    assert fused.provenance.parameters["head"] == head
    counts = []
    for image in pictures()[:, None]:
        expected = plain(head, run(proto, {"image": image}), 0.3125, most)
        counts.append(int(expected["candidates"][0]))
        assert_equal(run(fused, {"image": image}), expected)
        there = plain(head, run_openvino(proto, {"image": image}), 0.3125, most)
        assert_equal(run_openvino(fused, {"image": image}), there)
    # No detection at all, and more than fit.
    assert counts[0] == 0
    assert max(counts) > most
    model = pp.convert(fused)
    for precision in ("f32", "bf16"):
        report = pp.verify(proto, model, {"image": pictures()}, inference_precision=precision)
        assert report.postprocessing_exact, report.failures
