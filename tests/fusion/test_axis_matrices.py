"""Matrices of operators along each axis compute the same as the operators in onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pp_graph.fusion.tail.axis_matrices import COORDINATE_MODES, RefusalError, rank_one_factors, slice_matrix
from pp_graph.fusion.tail.linear_operators import read_operator
from pp_graph.fusion.tail.view import GraphView
from tests.conftest import examples
from tests.models import run

sizes = st.integers(1, 9)


def model_of(op_type: str, size: tuple[int, int], constants: list[np.ndarray | None], opset: int = 19, **attributes):
    names = [None if array is None else f"c{index}" for index, array in enumerate(constants)]
    node = helper.make_node(op_type, ["x", *(name or "" for name in names)], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 2, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(array, name)
            for array, name in zip(constants, names, strict=True)
            if array is not None
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def check(model: onnx.ModelProto, size: tuple[int, int], tolerance: float = 3e-6) -> None:
    """Compare the matrices with the operator."""
    x = np.random.default_rng(0).normal(size=(3, 2, *size)).astype(np.float32)
    opened = ir.from_proto(model)
    view = GraphView(opened)
    try:
        read = read_operator(view, opened.graph[0])
    except RefusalError:
        assume(False)
    assert read is not None
    expected = run(model, {"x": x})["y"]
    found = x.astype(np.float64)
    found = found if read.height is None else read.height @ found
    found = found if read.width is None else found @ np.swapaxes(read.width, -1, -2)
    found = found if read.offset is None else found + read.offset
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=tolerance * max(1, np.abs(expected).max()))


@examples(50)
@given(
    st.tuples(sizes, sizes),
    st.tuples(sizes, sizes),
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(COORDINATE_MODES),
    st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]),
    st.booleans(),
)
@example((1, 3), (1, 1), "nearest", "half_pixel_symmetric", "floor", False)  # a third is no float32
def test_resize_to_sizes(size, outputs, mode, coordinates, nearest, exclude_outside) -> None:
    assume(coordinates != "tf_half_pixel_for_nn")  # onnxruntime knows it up to opset 12 only
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        attributes["nearest_mode"] = nearest
    if mode == "cubic" and coordinates != "tf_crop_and_resize":
        attributes["exclude_outside"] = int(exclude_outside)
    roi = np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 0.9], np.float32) if coordinates == "tf_crop_and_resize" else None
    wanted = np.array([3, 2, *outputs], np.int64)
    check(model_of("Resize", size, [roi, None, wanted], **attributes), size)


@examples(30)
@given(
    st.tuples(sizes, sizes),
    st.tuples(st.sampled_from([0.4, 0.5, 1, 1.3, 2, 2.5, 4]), st.sampled_from([0.4, 0.5, 1, 1.3, 2, 2.5, 4])),
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]),
)
def test_resize_by_scales(size, scales, mode, coordinates) -> None:
    assume(all(int(side * scale) >= 1 for side, scale in zip(size, scales, strict=True)))
    constants = [None, np.array([1, 1, *scales], np.float32)]
    check(model_of("Resize", size, constants, mode=mode, coordinate_transformation_mode=coordinates), size)


@pytest.mark.parametrize("opset", [9, 10])
def test_upsample_and_the_first_resize(opset: int) -> None:
    op_type = "Upsample" if opset == 9 else "Resize"
    for mode in ("nearest", "linear"):
        check(model_of(op_type, (4, 5), [np.array([1, 1, 2, 3], np.float32)], opset=opset, mode=mode), (4, 5))


@examples(30)
@given(st.tuples(sizes, sizes), st.tuples(*[st.integers(0, 4)] * 4), st.sampled_from(["constant", "reflect", "edge"]))
def test_pad(size, amounts, mode) -> None:
    top, left, bottom, right = amounts
    if mode == "reflect":
        assume(max(top, bottom) < size[0] and max(left, right) < size[1])
    check(model_of("Pad", size, [np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)], mode=mode), size)


@examples(30)
@given(
    st.tuples(st.integers(4, 9), st.integers(4, 9)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
    st.booleans(),
)
def test_depthwise_convolution(size, kernel, strides, dilations, pads, auto_pad, bias) -> None:
    rng = np.random.default_rng(1)
    weight = np.stack([np.outer(rng.normal(size=kernel[0]), rng.normal(size=kernel[1])) for _ in range(2)])[:, None]
    attributes = {"strides": strides, "dilations": dilations, "group": 2, "auto_pad": auto_pad}
    if auto_pad == "NOTSET":
        attributes["pads"] = pads
    constants = [weight.astype(np.float32), *([np.array([0.5, -2], np.float32)] if bias else [])]
    assume(kernel != (1, 1))  # that is a layer of the network
    assume(auto_pad in ("NOTSET", "VALID") or dilations == (1, 1))  # onnxruntime refuses it
    assume(all(d * (k - 1) + 1 <= side for side, k, d in zip(size, kernel, dilations, strict=True)))
    check(model_of("Conv", size, constants, **attributes), size)


@examples(30)
@given(
    st.tuples(st.integers(4, 9), st.integers(4, 9)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.booleans(),
)
def test_average_pool(size, kernel, strides, pads, count_padding) -> None:
    pads = [pad % kernel[axis % 2] for axis, pad in enumerate(pads)]  # runtimes take no more than the window
    check(
        model_of(
            "AveragePool",
            size,
            [],
            kernel_shape=kernel,
            strides=strides,
            pads=pads,
            count_include_pad=int(count_padding),
        ),
        size,
    )


@examples(30)
@given(st.integers(1, 8), st.integers(-12, 12), st.integers(-12, 12), st.sampled_from([-3, -2, -1, 1, 2, 3]))
def test_slice(size: int, start: int, stop: int, step: int) -> None:
    x = np.arange(size, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Slice", ["x", "start", "stop", "axes", "step"], ["y"])],
        "slice",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.array([number], np.int64), name)
            for name, number in (("start", start), ("stop", stop), ("axes", 0), ("step", step))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert np.array_equal(slice_matrix(size, start, stop, step) @ x, run(model, {"x": x})["y"])


def test_rank_one_is_told_from_nearly_rank_one() -> None:
    column, row = np.array([1.0, -2, 3]), np.array([4.0, 5])
    kernel = np.outer(column, row)
    factors = rank_one_factors(kernel.astype(np.float32).astype(np.float64), 2**-21)
    assert factors is not None
    np.testing.assert_allclose(np.outer(*factors), kernel, rtol=1e-6)
    kernel[0, 0] += 1e-4
    assert rank_one_factors(kernel, 2**-21) is None


REFUSED = [
    ("Pad", [np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), np.float32(2)], {}, "pads with another number than 0"),
    ("Pad", [np.array([0, 1, 1, 1, 0, 0, 1, 1], np.int64)], {}, "other axes than height and width"),
    ("Resize", [None, np.array([1, 2, 2, 2], np.float32)], {"mode": "linear"}, "other axes than height and width"),
    ("Resize", [None, np.array([1, 1, 0.5, 0.5], np.float32)], {"mode": "linear", "antialias": 1}, "aliasing"),
    ("Slice", [np.array([0]), np.array([1]), np.array([1])], {}, "cuts other axes"),
    ("AveragePool", [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, "ceil_mode"),
    ("Conv", [np.zeros((2, 1, 0, 0), np.float32)], {"group": 2}, "its kernel is empty"),
    (
        "Conv",
        [np.ones((2, 1, 3, 3), np.float32)],
        {"group": 2, "dilations": [2**30] * 2, "pads": [2**30] * 4},
        "matrix would have 2,147,483,653 rows and 5 columns",
    ),
    ("Conv", [np.array([[1, 2], [3, 4]], np.float32)[None, None].repeat(2, 0)], {"group": 2}, "not the product"),
]


@pytest.mark.parametrize(("op_type", "constants", "attributes", "reason"), REFUSED)
def test_what_is_not_separable_is_refused(op_type, constants, attributes, reason) -> None:
    model = model_of(op_type, (5, 7), constants, **attributes)
    opened = ir.from_proto(model)
    with pytest.raises(RefusalError, match=reason):
        read_operator(GraphView(opened), opened.graph[0])


def test_open_sizes_are_refused() -> None:
    opened = ir.from_proto(model_of("Pad", ("H", "W"), [np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)]))
    with pytest.raises(RefusalError, match="height and width are not known; export with static sizes"):
        read_operator(GraphView(opened), opened.graph[0])
