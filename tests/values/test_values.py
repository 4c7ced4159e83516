"""Types of values: element type, named axes, sizes, and axes inferred from an array's shape."""

from __future__ import annotations

import pytest

from pp_graph.values import ValueType, axes_of_shape
from pp_graph.values.value_type import pattern, spatial_axes

SEVERAL_CLASSES = ("NCHW", "NHW", "NHWC")


def test_what_is_known_of_a_map() -> None:
    value = ValueType("NHWC", (None, 5, 6, 3))
    assert value.rank == 4
    assert value.dtype == "float32"
    assert value.per_pixel
    assert value.map_size == (5, 6)
    assert value.known_axes == "NHWC"
    assert [value.size(axis) for axis in "NCHWK"] == [None, 3, 5, 6, 1]
    assert spatial_axes(value.axes) == (1, 2)


@pytest.mark.parametrize("axes", ["N", "NC", "NK", "NKP", "NPK", "NT", "NCT"])
def test_what_is_no_map(axes: str) -> None:
    value = ValueType(axes)
    assert value.sizes == (None,) * len(axes)
    assert not value.per_pixel
    assert value.map_size is None
    assert value.size("H") == 1


def test_an_open_side_leaves_the_size_of_a_map_open() -> None:
    assert ValueType("NHW").map_size is None
    assert ValueType("NHW", (None, 8, None)).map_size is None


def test_changed_in_one_thing() -> None:
    value = ValueType("NCHW", (None, 4, 5, 6))
    assert value.resized(C=1, H=None) == ValueType("NCHW", (None, 1, None, 6))
    assert value.resized(K=9) == value
    assert value.reduced("HW") == ValueType("NC", (None, 4))
    assert value.reduced("C") == ValueType("NHW", (None, 5, 6))
    assert value.as_dtype("bool") == ValueType("NCHW", (None, 4, 5, 6), "bool")
    assert value.as_dtype("bool") != value


def test_shape_of_an_example() -> None:
    value = ValueType("NKP", (None, None, 4))
    assert value.example_shape() == (1, 1, 4)
    assert value.example_shape(batch=3, K=7, P=9) == (3, 7, 4)


def test_unknown_rank() -> None:
    value = ValueType("NCHW", (None, 1, None, None), rank_known=False)
    assert value.known_axes is None
    assert value.resized(H=3).known_axes is None
    assert str(value) == "float32 of unknown rank"
    assert spatial_axes(value.known_axes) == (2, 3)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ValueType("N"), "float32 (N,)"),
        (ValueType("NCHW", (None, 1, 8, None)), "float32 (N,1,8,W)"),
        (ValueType("NPK", (None, 84, 8400), "int64"), "int64 (N,84,8400)"),
    ],
)
def test_in_messages(value: ValueType, text: str) -> None:
    assert str(value) == text


def test_patterns() -> None:
    assert pattern("N") == "(N,)"
    assert pattern("NKP", [None, None, 4]) == "(N,K,4)"


@pytest.mark.parametrize(
    ("axes", "sizes", "message"),
    [
        ("NQ", (), "Axes are 'NQ', expected some of N, C, H, W, K, P, J, T, each once"),
        ("NHH", (), "Axes are 'NHH'"),
        ("NC", (None,), r"Axes 'NC' have sizes \(None,\), expected one size for each axis"),
    ],
)
def test_axes_that_cannot_be(axes: str, sizes: tuple[int | None, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ValueType(axes, sizes)


@pytest.mark.parametrize(
    ("shape", "alternatives", "axes"),
    [
        ((2,), ("NC", "N"), "N"),
        ((2, 7), ("NC", "N"), "NC"),
        ((2, 7), ("NK",), "NK"),
        ((2, 5, 6), SEVERAL_CLASSES, "NHW"),
        ((2, 1, 5, 6), SEVERAL_CLASSES, "NCHW"),
        ((2, 5, 6, 1), SEVERAL_CLASSES, "NHWC"),
        ((2, 1, 6, 1), SEVERAL_CLASSES, "NCHW"),
        # Two neighbouring sizes agree in a square map.
        ((2, 3, 8, 8), SEVERAL_CLASSES, "NCHW"),
        ((2, 8, 8, 3), SEVERAL_CLASSES, "NHWC"),
        ((2, 40, 8, 8), SEVERAL_CLASSES, "NCHW"),
        # Else there are fewer classes than rows and columns.
        ((2, 3, 8, 9), SEVERAL_CLASSES, "NCHW"),
        ((2, 9, 8, 3), SEVERAL_CLASSES, "NHWC"),
        (("N", "C", "H", "W"), SEVERAL_CLASSES, "NCHW"),
        # Classes are known where rows and columns are open.
        (("N", 3, "H", "W"), SEVERAL_CLASSES, "NCHW"),
        (("N", "H", "W", 3), SEVERAL_CLASSES, "NHWC"),
        ((None, None, None, 3), SEVERAL_CLASSES, "NHWC"),
        ((None, None, 8, 8), SEVERAL_CLASSES, "NCHW"),
        ((2, 3, 4), ("NC", "N"), None),
    ],
    ids=str,
)
def test_axes_of_an_array(shape: tuple[object, ...], alternatives: tuple[str, ...], axes: str | None) -> None:
    assert axes_of_shape(shape, alternatives) == axes
