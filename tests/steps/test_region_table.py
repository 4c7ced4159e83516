"""Tables of regions: as SciPy and OpenCV measure them, and the same bits in NumPy, onnxruntime and OpenVINO."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from scipy import ndimage

from pp_graph.errors import OpsetError, PostProcessorError
from pp_graph.model import NameScope
from pp_graph.openvino.core import openvino_core
from pp_graph.steps import Emitter, RegionPart, RegionTable, SelectRegions, Step, ValueType
from tests.models import run
from tests.steps.steps_masks import OPEN_SIZES, masks, serpentine, with_axes

F32 = np.float32
MAPS = {"NHW": [None] * 3, "NCHW": [None, 1, None, None], "NHWC": [None, None, None, 1]}


def graph_of(step: Step, shapes: dict[str, tuple[list[int | None], int]], opset: int = 18) -> onnx.ModelProto:
    inputs = [
        ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType(kind)))
        for name, (shape, kind) in shapes.items()
    ]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": opset}, name="step")
    op = Emitter(graph, opset=opset, ir_version=8, names=NameScope(graph), prefix="pp_graph")
    with op.scope(step.target):
        value = step.emit(op, *inputs)
    value.name = "y"
    graph.outputs.append(value)
    proto = ir.to_proto(ir.Model(graph, ir_version=8))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def table_graph(step: RegionTable, opset: int = 18) -> onnx.ModelProto:
    shapes = {"mask": (OPEN_SIZES[step.axes or "NHW"], 9)}
    return graph_of(step, shapes | ({"map": (MAPS[step.map_axes], 1)} if step.map_axes else {}), opset)


def runtimes(proto: onnx.ModelProto) -> list[Callable[[dict[str, np.ndarray]], np.ndarray]]:
    core = openvino_core()
    model = core.read_model(proto.SerializeToString(), b"")
    hints = [core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint}) for hint in ("f32", "bf16")]
    return [lambda feeds: run(proto, feeds)["y"], *(lambda feeds, each=each: each(feeds)[0] for each in hints)]


@pytest.mark.sample(every=5)
@pytest.mark.parametrize("order", ["area", "max"])
@pytest.mark.parametrize(("axes", "opset", "k"), [("NHW", 18, 7), ("NCHW", 21, 1), ("NHWC", 24, 300)])
def test_twins_agree_to_the_bit(axes: str, opset: int, k: int, order: str) -> None:
    rng = np.random.default_rng(opset)
    step = RegionTable("mask", "t", k, "map", order, 8 if k > 1 else 4, axes, axes)
    each = runtimes(table_graph(step, opset))
    special = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 3e38, -1e-30], F32)
    for turn, images in enumerate(masks(rng)):
        # Rounded numbers tie; special ones are as many as numbers in every third batch.
        numbers = np.round(rng.normal(0, 3, images.shape), turn % 2).astype(F32)
        if turn % 3 == 0:
            numbers = np.where(rng.random(images.shape) < 0.5, rng.choice(special, images.shape), numbers)
        feeds = {"mask": with_axes(images, axes), "map": with_axes(numbers, axes)}
        expected = step.reference(*feeds.values())
        for runtime in each:
            assert np.array_equal(runtime(feeds), expected), (turn, images.shape)


@pytest.mark.slow
def test_without_a_map_and_with_the_area_of_an_image_of_the_largest_size() -> None:
    step = RegionTable("mask", "t", 2, axes="NHW")
    winding = serpentine(4096, 4096)[None]  # one region of 8 million pixels
    expected = step.reference(winding)
    assert expected[0, 0, :5].tolist() == [0, 0, 4096, 4096, winding.sum()]
    y, x = np.nonzero(winding[0])
    assert np.allclose(expected[0, 0, 5:7], [x.mean(), y.mean()], rtol=3e-7)
    for runtime in runtimes(table_graph(step))[:2]:
        assert np.array_equal(runtime({"mask": winding}), expected)


@pytest.mark.parametrize("connectivity", [4, 8])
def test_regions_are_measured_as_by_opencv_and_scipy(connectivity: int) -> None:
    rng = np.random.default_rng(connectivity)
    for images in masks(rng):
        numbers = rng.random(images.shape).astype(F32)
        table = RegionTable("mask", "t", 1000, "map", "area", connectivity, "NHW", "NHW").reference(images, numbers)
        for image, map_, padded in zip(images, numbers, table, strict=True):
            count, labels, stats, centroids = cv2.connectedComponentsWithStats(
                image.astype(np.uint8), connectivity=connectivity
            )
            index = np.arange(1, count)
            largest, mean = ndimage.maximum(map_, labels, index), ndimage.mean(map_, labels, index)
            first = [np.flatnonzero(labels.ravel() == place)[0] for place in index]
            order = np.lexsort((first, -stats[1:, 4]))
            x, y, width, height, area = stats[1:][order].T
            assert (padded[:, 9] == count - 1).all()
            assert not padded[count - 1 :, :9].any()
            rows = padded[: count - 1]
            assert np.array_equal(rows[:, :5], np.stack([x, y, x + width, y + height, area], 1))
            assert np.allclose(rows[:, 5:7], centroids[1:][order], rtol=1e-6, atol=1e-5)
            assert np.array_equal(rows[:, 7], np.asarray(largest, F32)[order])
            assert np.allclose(rows[:, 8], np.asarray(mean)[order], rtol=0, atol=3e-7)


def test_truncation_and_ties() -> None:
    mask, numbers = np.zeros((2, 5, 9), bool), np.zeros((2, 5, 9), F32)
    mask[0, 1, 1:3] = mask[0, 3, 0:2] = mask[0, 0, 8] = mask[1, 4, 4] = True
    numbers[0, 0, 8] = 5
    by_area = RegionTable("mask", "t", 2, "map", axes="NHW", map_axes="NHW").reference(mask, numbers)
    assert by_area[:, :, :5].tolist() == [
        [[1, 1, 3, 2, 2], [0, 3, 2, 4, 2]],  # equal areas: the one whose first pixel comes first
        [[4, 4, 5, 5, 1], [0, 0, 0, 0, 0]],
    ]
    assert by_area[:, 0, 9].tolist() == [3, 1]  # more regions than rows
    by_max = RegionTable("mask", "t", 2, "map", "max", axes="NHW", map_axes="NHW").reference(mask, numbers)
    assert by_max[0, 0, :5].tolist() == [8, 0, 9, 1, 1]


def test_a_result_does_not_depend_on_the_other_images() -> None:
    rng = np.random.default_rng(0)
    images, numbers = rng.random((4, 20, 20)) < 0.4, rng.normal(0, 1, (4, 20, 20)).astype(F32)
    numbers[2] *= 1e6
    step = RegionTable("mask", "t", 5, "map", axes="NHW", map_axes="NHW")
    whole = step.reference(images, numbers)
    alone = [step.reference(images[place : place + 1], numbers[place : place + 1])[0] for place in range(4)]
    assert np.array_equal(whole, alone)


@pytest.mark.parametrize("part", ["boxes", "areas", "centroids", "max", "mean", "count"])
def test_parts_of_a_table(part: str) -> None:
    table = np.random.default_rng(0).integers(0, 2**24, (2, 3, 10)).astype(F32)
    value = ValueType("NKP", (None, 3, 10))
    step = RegionPart("t", "y", part).bind(value)
    expected = step.reference(table)
    typed = step.output_type(value)
    assert expected.dtype == typed.dtype
    assert expected.shape == typed.example_shape(batch=2)
    for runtime in runtimes(graph_of(step, {"table": ([None, 3, 10], 1)})):
        assert np.array_equal(runtime({"table": table}), expected)


@pytest.mark.parametrize("k", [1, 12])
@pytest.mark.parametrize(("min_area", "min_mean", "unclip"), [(1, None, 0.0), (4, 0.4, 1.5), (10**6, -1, 2.0)])
def test_selected_regions(k: int, min_area: int, min_mean: float | None, unclip: float) -> None:
    rng = np.random.default_rng(k)
    masks_, numbers = rng.random((3, 40, 50)) < 0.2, rng.random((3, 40, 50)).astype(F32)
    masks_[2] = False
    table = RegionTable("mask", "t", k, "map", axes="NHW", map_axes="NHW").reference(masks_, numbers)
    step = SelectRegions("table", "y", "map", min_area, min_mean, unclip, axes="NHW")
    expected = step.reference(table, numbers)
    for image, rows in enumerate(table):
        kept = [row for row in rows if row[4] >= min_area and (min_mean is None or row[8] >= np.float32(min_mean))]
        assert (expected[image, :, 9] == len(kept)).all()
        for found, row in zip(expected[image], kept, strict=False):
            width, height = row[2] - row[0] - 1, row[3] - row[1] - 1
            grow = unclip * width * height / max(2 * (width + height), 1)
            box = [row[0] - grow, row[1] - grow, row[2] + grow, row[3] + grow]
            assert np.allclose(found[:4], np.clip(box, 0, [50, 40, 50, 40]), rtol=1e-6)
            assert np.array_equal(found[4:9], row[4:9])
        assert not expected[image, len(kept) :, :9].any()
    proto = graph_of(step, {"table": ([None, k, 10], 1), "map": ([None] * 3, 1)})
    for runtime in runtimes(proto):
        assert np.array_equal(runtime({"table": table, "map": numbers}), expected)


def test_earlier_opsets_are_refused() -> None:
    step = RegionTable("mask", "t", 3, axes="NHW")
    with pytest.raises(OpsetError, match="opset 17, expected 18 or later to measure regions.*--raise-opset 18"):
        table_graph(step, 17)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RegionTable("a", "t", 0), "k of 't' is 0, expected a whole number from 1 to 1000"),
        (lambda: RegionTable("a", "t", 3, order="size"), "order of 't' is 'size', expected 'area' or 'max'"),
        (lambda: RegionTable("a", "t", 3, order="max"), "order of 't' is 'max' without a map.*Name a map"),
        (lambda: RegionTable("a", "t", 3, connectivity=6), "connectivity of 't' is 6"),
        (lambda: SelectRegions("t", "y", "m", 0), "min_area of 'y' is 0, expected a whole number from 1"),
        (lambda: SelectRegions("t", "y", "m", unclip=-1), "unclip of 'y' is -1, expected a number from 0"),
        (lambda: RegionPart("t", "y", "box"), "part of 'y' is 'box', expected 'boxes' or 'areas'"),
        (lambda: RegionPart("t", "y", "max").bind(ValueType("NKP")), "is not a table of regions, expected 10 columns"),
        (
            lambda: RegionTable("a", "t", 3).bind(ValueType("NHW", (None, 5000, 3), "bool")),
            "more than 4096 pixels along an axis, expected at most 4096",
        ),
        (
            lambda: RegionTable("a", "t", 3, "b").bind(
                ValueType("NHW", (None, 4, 4), "bool"), ValueType("NHW", (None, 8, 8))
            ),
            "expected a map of the mask's size. Resize",
        ),
    ],
)
def test_impossible_parameters(build: Callable[[], object], message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        build()
