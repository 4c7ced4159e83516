"""Class maps and mattes as bytes, and areas of classes: as NumPy, in both runtimes."""

from __future__ import annotations

import numpy as np
import pytest

from pp_graph.errors import OpsetError, PostProcessorError
from pp_graph.steps import ClassAreas, ClassMap, MaskAreas, Matte, Step, ValueType
from tests.steps.test_region_table import graph_of, runtimes

F32 = np.float32
RNG = np.random.default_rng(0)
TYPES = {"float32": 1, "uint8": 2, "int64": 7, "bool": 9}
OPEN = {"NHW": [None] * 3, "NCHW": [None, 1, None, None], "NHWC": [None, None, None, 1]}
SHAPES = {"NHW": (3, 7, 9), "NCHW": (3, 1, 7, 9), "NHWC": (3, 7, 9, 1)}


def check(step: Step, x: np.ndarray, shape: list[int | None], opset: int) -> np.ndarray:
    """Compare graph and reference, and return the result."""
    expected = step.reference(x)
    for runtime in runtimes(graph_of(step, {"x": (shape, TYPES[x.dtype.name])}, opset)):
        found = runtime({"x": x})
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)
    return expected


@pytest.mark.parametrize(("axes", "opset"), [("NHW", 9), ("NCHW", 17), ("NHWC", 21)])
def test_classes_as_bytes(axes: str, opset: int) -> None:
    classes = RNG.integers(-3, 300, SHAPES[axes])
    found = check(ClassMap("x", "y", axes=axes), classes, OPEN[axes], opset)
    assert np.array_equal(found, np.clip(classes.reshape(3, 7, 9), 0, 255))


@pytest.mark.parametrize("opset", [11, 18])
def test_mattes_as_bytes(opset: int) -> None:
    halves = (np.arange(189) + 0.5).astype(F32) / 255
    x = RNG.permutation(np.concatenate([halves, [np.nan, np.inf, -np.inf, 2, -1, 1]])).astype(F32)[:189]
    found = check(Matte("x", "y"), x.reshape(SHAPES["NCHW"]), OPEN["NCHW"], opset)
    assert found.min() == 0
    with pytest.raises(OpsetError, match="opset 10, expected 11 or later to write the matte 'y'"):
        graph_of(Matte("x", "y"), {"x": (OPEN["NCHW"], 1)}, 10)


@pytest.mark.parametrize(("classes", "opset"), [(1, 16), (4, 18), (256, 21)])
def test_areas_of_classes(classes: int, opset: int) -> None:
    x = RNG.integers(0, 6, SHAPES["NHW"]).astype(np.uint8)
    found = check(ClassAreas("x", "y", classes), x, OPEN["NHW"], opset)
    assert found.tolist() == [[int((image == place).sum()) for place in range(classes)] for image in x]


@pytest.mark.parametrize(("axes", "opset"), [("NHW", 9), ("NCHW", 13), ("NHWC", 18)])
def test_areas_of_masks(axes: str, opset: int) -> None:
    found = check(MaskAreas("x", "y", axes=axes), RNG.random(SHAPES[axes]) < 0.4, OPEN[axes], opset)
    assert found.dtype == np.int32


def test_impossible_parameters() -> None:
    with pytest.raises(PostProcessorError, match="classes of 'y' is 300, expected a whole number from 1 to 256"):
        ClassAreas("x", "y", 300)
    with pytest.raises(OpsetError, match="opset 15, expected 16 or later to count"):
        graph_of(ClassAreas("x", "y", 3), {"x": (OPEN["NHW"], 2)}, 15)
    assert ClassAreas("x", "y", 3).output_type(ValueType("NHW", dtype="uint8")).axes == "NC"
