"""Steps on candidates and boxes compute the same bits as their references, in both runtimes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pp_graph.errors import OpsetError, PostProcessorError
from pp_graph.steps import GatherCandidates, SelectCandidates, Step, SuppressOverlaps, TakeParts
from pp_graph.values import ValueType
from tests.models import run, run_openvino
from tests.steps.steps_detection import DETECTION_STEPS, assert_agrees, bound, emit

F32 = np.float32


@pytest.mark.sample(every=2)
@pytest.mark.hypothesis
@pytest.mark.parametrize(
    ("runtime", "opset"),
    [
        ("onnxruntime", 17),
        ("openvino", 17),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("onnxruntime", 11), ("openvino", 21))),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("onnxruntime", 13), ("onnxruntime", 18))),
    ],
)
@pytest.mark.parametrize("kind", DETECTION_STEPS, ids=lambda kind: kind.__name__)
def test_twins_agree(kind: type[Step], opset: int, runtime: str) -> None:
    execute = {"onnxruntime": run, "openvino": run_openvino}[runtime]

    @settings(max_examples=6 if runtime == "onnxruntime" else 2)
    @given(st.data(), st.integers(0, 2**32 - 1))
    def check(data: st.DataObject, seed: int) -> None:
        step, arrays = DETECTION_STEPS[kind](data, np.random.default_rng(seed))
        found = execute(emit(step, arrays, opset), {f"x{place}": array for place, array in enumerate(arrays)})["y"]
        assert_agrees(step, arrays, found)

    check()


def test_selects_more_than_there_are_if_padded() -> None:
    x = np.random.default_rng(0).random((2, 30)).astype(F32)
    step = SelectCandidates("x", "y", 20).bind(ValueType("NK", (None, None)))
    model = emit(step, (x,))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "K"
    expected = step.reference(x)
    for execute in (run, run_openvino):
        assert np.array_equal(execute(model, {"x0": x})["y"], expected)


def test_impossible_parameters_and_inputs() -> None:
    boxes = ValueType("NKP", (None, 9, 4))
    with pytest.raises(PostProcessorError, match=r"iou of 'y' is 1.5, expected a number from 0 to 1"):
        SuppressOverlaps("x", "y", "s", 5, 1.5)
    with pytest.raises(PostProcessorError, match=r"most of 'y' is 101, expected a whole number from 1 to 100"):
        SuppressOverlaps("x", "y", "s", 101, 0.5, loop_free=True)
    with pytest.raises(PostProcessorError, match=r"expected the four numbers of a box"):
        SuppressOverlaps("x", "y", "s", 5, 0.5).bind(boxes.resized(P=5))
    with pytest.raises(PostProcessorError, match=r"has 4 parts, expected more than 5"):
        TakeParts("x", "y", 4, 6).bind(boxes)
    arrays = np.zeros((3, 9), F32), np.zeros((3, 2), np.int64)
    with pytest.raises(OpsetError, match=r"opset 9, expected 11 or later to choose candidates for 'y'"):
        emit(bound(GatherCandidates("x", "y", "p"), ["NK", "NK"], arrays), arrays, 9)
