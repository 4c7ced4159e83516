"""Post-processors of all families as torch modules: outputs equal those of NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import pp_graph as pp
from pp_graph.errors import PostProcessorError
from pp_graph.integrations.torch import PostProcessorModule

RNG = np.random.default_rng(0)
CANDIDATES = RNG.random((2, 7, 84)) * np.array([64, 64, 30, 30, 1, 1, 1])[:, None]
QUERIES = {"raw_scores": RNG.normal(0, 2, (2, 30, 4)), "raw_boxes": RNG.random((2, 30, 4))}
LOGITS, PIXELS = RNG.normal(0, 2, (5, 6)), RNG.normal(0, 2, (2, 4, 16, 20))

FAMILIES: dict[str, tuple[pp.PostProcessor, dict[str, Any]]] = {
    "classification": (pp.ClassificationPostProcessor(unknown_below=0.5, top=3), {"raw_logits": LOGITS}),
    "several labels": (pp.ClassificationPostProcessor(multi_label=0.5), {"raw_logits": LOGITS}),
    "class map": (pp.SegmentationPostProcessor(), {"raw_logits": PIXELS}),
    "masks of classes": (pp.SegmentationPostProcessor(class_thresholds=0.5), {"raw_logits": PIXELS}),
    "matte": (pp.SegmentationPostProcessor(stretch=True), {"raw_logits": PIXELS[:, :1]}),
    "regions": (pp.RegionsPostProcessor(), {"anomaly_map": RNG.random((2, 1, 24, 20))}),
    "sequence": (pp.SequencePostProcessor(), {"raw_logits": RNG.normal(0, 2, (3, 12, 7))}),
    "detection": (pp.DetectionPostProcessor(head="yolov8"), {"raw_candidates": CANDIDATES}),
    "detection without loops": (
        pp.DetectionPostProcessor(head="yolov8", loop_free=True, max_detections=20), {"raw_candidates": CANDIDATES}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_outputs_are_those_of_numpy(name: str) -> None:
    post, values = FAMILIES[name]
    raw = {role: array.astype(np.float32) for role, array in values.items()}
    module = PostProcessorModule(post)
    for part in (slice(None), slice(0, 1)):  # any batch
        expected = post({role: array[part] for role, array in raw.items()})
        found = module({role: torch.from_numpy(array[part]) for role, array in raw.items()})
        assert set(found) == set(expected)
        for output, wanted in expected.items():
            array = found[output].numpy()
            assert array.dtype == wanted.dtype
            if wanted.dtype == np.float32:
                # torch rounds exponentials differently, as every runtime does.
                np.testing.assert_allclose(array, wanted, atol=2e-7)
            else:
                assert np.array_equal(array, wanted), output


def test_a_module_is_fused_like_its_post_processor() -> None:
    from tests.models import identity_model, run

    post = pp.ClassificationPostProcessor(top=2)
    raw = identity_model({"logits": ["N", 6]})
    feeds = {"logits_in": LOGITS.astype(np.float32)}
    by_module, by_post = (run(pp.fuse(raw, each), feeds) for each in (PostProcessorModule(post), post))
    assert all(np.array_equal(by_module[name], by_post[name]) for name in by_post)


def test_a_head_that_needs_a_model_is_an_error() -> None:
    module = PostProcessorModule(pp.DetectionPostProcessor())
    with pytest.raises((PostProcessorError, ValueError), match="head is 'auto'|expected"):
        module({"raw_candidates": torch.zeros(1, 7, 84)})
