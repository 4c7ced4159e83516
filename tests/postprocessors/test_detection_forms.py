"""Forms in which a detector's outputs are returned: packed as by Ultralytics, named as by TensorRT's plugin, or some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pp_graph as pp
from pp_graph.errors import PostProcessorError
from tests.models import run
from tests.postprocessors.test_inner_scores import fed, joined

OPTIONS: dict[str, Any] = {"confidence": 0.3, "max_detections": 40}


def checked(fused: pp.FusedModel, feeds: dict[str, np.ndarray], path: Path) -> pp.Predictions:
    """Verify in both runtimes, and return what a runner gives."""
    model = pp.convert(fused)
    for precision in ("f32", "bf16"):
        report = pp.verify(joined(), model, feeds, inference_precision=precision)
        assert report.postprocessing_exact, report.failures
    assert pp.verify(joined(), fused, feeds).passed
    model.save(path / "model.xml")
    return pp.load(path / "model.xml")(feeds)


@pytest.mark.slow
def test_packed(tmp_path: Path) -> None:
    feeds = fed()
    own = run(pp.fuse(joined(), pp.DetectionPostProcessor(**OPTIONS)), feeds)
    fused = pp.fuse(joined(), pp.DetectionPostProcessor(**OPTIONS, pack=True))
    assert fused.output_names == ("detections",)
    found = run(fused, feeds)["detections"]
    assert (found.dtype, found.shape) == (np.float32, (3, 40, 6))
    assert np.array_equal(found[..., :4], own["boxes"])
    assert np.array_equal(found[..., 4], own["scores"])
    assert np.array_equal(found[..., 5], own["classes"])
    predictions = checked(fused, feeds, tmp_path)
    for name in ("boxes", "classes", "count"):
        assert np.array_equal(predictions[name], own[name]), name
        assert predictions[name].dtype == own[name].dtype
    tuned = pp.retune(fused, confidence=0.8)
    assert (run(tuned, feeds)["detections"][..., 4] > 0).sum() < own["count"].sum()


def test_names_of_efficient_nms(tmp_path: Path) -> None:
    feeds = fed()
    own = run(pp.fuse(joined(), pp.DetectionPostProcessor(**OPTIONS)), feeds)
    fused = pp.fuse(joined(), pp.DetectionPostProcessor(**OPTIONS, names="efficient-nms"))
    assert fused.output_names == ("num_dets", "det_boxes", "det_scores", "det_classes")
    found = run(fused, feeds)
    assert {name: (str(each.dtype), each.shape) for name, each in found.items()} == {
        "num_dets": ("int32", (3, 1)),
        "det_boxes": ("float32", (3, 40, 4)),
        "det_scores": ("float32", (3, 40)),
        "det_classes": ("int32", (3, 40)),
    }
    assert np.array_equal(found["num_dets"][:, 0], own["count"])
    for name in ("boxes", "scores", "classes"):
        assert np.array_equal(found[f"det_{name}"], own[name])
    predictions = checked(fused, feeds, tmp_path)
    assert np.array_equal(predictions["boxes"], own["boxes"])
    assert np.array_equal(predictions["count"], own["count"])
    assert pp.strip(fused).to_proto() == joined()


@pytest.mark.slow
def test_some_outputs(tmp_path: Path) -> None:
    fused = pp.fuse(joined(), pp.DetectionPostProcessor(**OPTIONS, outputs=("boxes", "count")))
    assert fused.output_names == ("boxes", "count")
    assert set(checked(fused, fed(), tmp_path)) == {"boxes", "count"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pack": True, "box_format": "xywh"}, "pack is given together with box_format='xywh'"),
        ({"pack": True, "names": "efficient-nms"}, "pack is given together with names"),
        ({"names": "efficient-nms", "outputs": ("boxes",)}, "names is given together with outputs"),
        ({"outputs": ("box",)}, r"outputs is \('box',\), expected some of: boxes, scores"),
    ],
)
def test_options_that_exclude_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        pp.DetectionPostProcessor(**options)
