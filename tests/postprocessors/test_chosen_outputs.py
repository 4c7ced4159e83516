"""`--outputs` of classifiers, segmentation models, regions and text recognisers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.errors import PostProcessorError

RNG = np.random.default_rng(6)
FAMILIES: dict[str, tuple[list[Any], Any, list[tuple[str, ...]], list[str]]] = {
    "classification": (
        ["N", 5],
        pp.ClassificationPostProcessor(top=2, unknown_below=0.5, multi_label=0.3),
        [("pred_class",), ("unknown",), ("probabilities", "pred_label"), ("top_probs", "pred_prob")],
        ["--unknown-below", "0.5"],
    ),
    "segmentation": (
        ["N", 3, 8, 10],
        pp.SegmentationPostProcessor(),
        [("class_map",), ("class_area",), ("class_scores", "class_map")],
        [],
    ),
    "regions": (
        ["N", 1, 8, 10],
        pp.RegionsPostProcessor(min_area=1, regions=4, pixel_threshold=0.5, box_threshold=0.5),
        [("region_boxes", "region_count"), ("pred_mask",), ("region_candidates",)],
        ["--regions", "4"],
    ),
    "sequence": (
        ["N", 6, 5],
        pp.SequencePostProcessor(layout="NTC"),
        [("token_ids", "length"), ("confidence",)],
        ["--layout", "NTC"],
    ),
}


def copies(shape: list[Any], batch: Any = "N") -> onnx.ModelProto:
    """Image (N,3,16,20) -> random numbers of this shape, which depend on the image."""
    flat = int(np.prod(shape[1:]))
    weights = {
        "w": RNG.normal(0, 1, (960, flat)).astype(np.float32),
        "shape": np.array([-1, *shape[1:]]),
    }
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["product"]),
        helper.make_node("Reshape", ["product", "shape"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "copies",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 16, 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("task", list(FAMILIES))
def test_chosen_outputs_are_those_of_all(task: str) -> None:
    shape, post, choices, _ = FAMILIES[task]
    raw = copies(shape)
    images = RNG.normal(0, 1, (3, 3, 16, 20)).astype(np.float32)
    whole = pp.fuse(raw, post)
    converted = pp.convert(whole)
    for wanted in choices:
        chosen = pp.fuse(raw, post.changed(None, {"outputs": wanted}))
        assert set(chosen.output_names) == set(wanted)
        assert len(chosen.provenance.cutoffs) <= len(whole.provenance.cutoffs)
        for artifact, other in ((chosen, whole), (pp.convert(chosen), converted)):
            found, expected = (each.session().run({"image": images}) for each in (artifact, other))
            assert set(wanted) <= set(found)
            for name in set(wanted) & set(expected):
                assert np.array_equal(found[name], expected[name]), name
            report = pp.verify(raw, artifact, {"image": images})
            assert report.postprocessing_exact, report.failures


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("task", list(FAMILIES))
def test_on_the_command_line(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape, _, choices, options = FAMILIES[task]
    onnx.save(copies(shape), tmp_path / "raw.onnx")
    (tmp_path / "images").mkdir()
    for place in range(3):
        Image.fromarray(RNG.integers(0, 256, (16, 20, 3), np.uint8)).save(tmp_path / "images" / f"{place}.png")
    raw, images = str(tmp_path / "raw.onnx"), str(tmp_path / "images")
    for place, wanted in enumerate(choices):
        model = str(tmp_path / f"{place}.xml")
        further = ["--multi-label", "0.3", "--top", "2"] if task == "classification" else []
        arguments = ["--task", task, *options, *further, "--outputs", ",".join(wanted), "-o", model]
        assert run(["convert", raw, *arguments]) == 0
        assert run(["verify", raw, model, "--data", images]) == 0, capsys.readouterr()
        assert run(["run", model, images, "-o", str(tmp_path / f"out{place}")]) == 0, capsys.readouterr()
        assert json.loads((tmp_path / f"out{place}" / "predictions.json").read_text())["predictions"]
        capsys.readouterr()


@pytest.mark.parametrize("task", list(FAMILIES))
def test_outputs_that_are_not_written(task: str) -> None:
    shape, post, _, _ = FAMILIES[task]
    for unknown in ((), ("boxes",)):
        with pytest.raises(PostProcessorError, match=r"outputs is .*, expected some of: "):
            post.changed(None, {"outputs": unknown})
    if task == "classification":
        with pytest.raises(PostProcessorError, match=r"outputs holds unknown, .* writes pred_class, expected"):
            pp.fuse(copies(shape), pp.ClassificationPostProcessor(outputs=("unknown", "pred_class")))
