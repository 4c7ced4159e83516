"""Steps on masks: references against SciPy, and graphs against references in both runtimes."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from scipy import ndimage

from pp_graph.errors import OpsetError, PostProcessorError
from pp_graph.model import NameScope
from pp_graph.openvino.core import openvino_core
from pp_graph.steps import (
    CloseMask,
    DilateMask,
    Emitter,
    ErodeMask,
    Hysteresis,
    OpenMask,
    RemoveSmallRegions,
    Step,
)
from pp_graph.steps.masks import neighbourhood
from pp_graph.steps.region_search import EmittedRuns
from tests.conftest import examples
from tests.models import run
from tests.steps.steps_masks import (
    MASK_STEPS,
    OPEN_SIZES,
    hilbert,
    mask_inputs,
    mask_shapes,
    masks,
    serpentine,
    with_axes,
)

OPSETS = (9, 11, 12, 13, 16, 17, 18, 21, 24)
REGIONS = (RemoveSmallRegions, Hysteresis)
F32 = np.float32


def graph_of(step: Step, opset: int) -> onnx.ModelProto:
    """The step alone in a model with an open batch and open sizes."""
    inputs = [
        ir.Value(name=f"x{place}", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.BOOL))
        for place, shape in enumerate(mask_shapes(step))
    ]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": opset}, name="step")
    ir_version = 3 if opset == 9 else 8
    op = Emitter(graph, opset=opset, ir_version=ir_version, names=NameScope(graph), prefix="pp_graph")
    with op.scope(step.target):
        value = step.emit(op, *inputs)
    value.name = "y"
    graph.outputs.append(value)
    proto = ir.to_proto(ir.Model(graph, ir_version=ir_version))
    onnx.checker.check_model(proto, full_check=True)
    return proto


@pytest.mark.sample(every=7)
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("kind", MASK_STEPS, ids=lambda kind: kind.__name__)
def test_twins_agree(kind: type[Step], opset: int) -> None:
    rng = np.random.default_rng(opset)
    for turn, axes in enumerate(OPEN_SIZES):
        fields = MASK_STEPS[kind]
        step = kind(source="a", target="t", axes=axes, **fields[(turn + opset) % len(fields)])
        if kind in REGIONS and opset < 12:
            with pytest.raises(OpsetError, match=f"opset {opset}, expected 12 or later to find the regions of 't'"):
                graph_of(step, opset)
            continue
        proto = graph_of(step, opset)
        model = openvino_core().read_model(proto.SerializeToString(), b"")
        compiled = [
            openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint}) for hint in ("f32", "bf16")
        ]
        for images in masks(rng):
            arrays = mask_inputs(step, images, rng)
            feeds = {f"x{place}": array for place, array in enumerate(arrays)}
            expected = step.reference(*arrays)
            for found in (run(proto, feeds)["y"], *(each(feeds)[0] for each in compiled)):
                assert found.dtype == bool
                assert np.array_equal(found, expected), (step, images.shape)


@pytest.mark.parametrize("kind", REGIONS, ids=lambda kind: kind.__name__)
def test_constants_are_nodes_where_initializers_would_be_inputs(kind: type[Step]) -> None:
    """At IR version 3 a constant of a loop's body is not there outside of it."""
    images = masks(np.random.default_rng(0))[3]
    for opset in (12, 18):
        step = kind(source="a", target="t", axes="NHW", **MASK_STEPS[kind][0])
        inputs = [
            ir.Value(name=name, shape=ir.Shape([None] * 3), type=ir.TensorType(ir.DataType.BOOL)) for name in "xy"
        ]
        inputs = inputs[: len(step.reads)]
        graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": opset}, name="step")
        op = Emitter(graph, opset=opset, ir_version=3, names=NameScope(graph), prefix="pp_graph")
        # A constant that only the body has seen so far is written again for who needs it later.
        with op.scope("t"):
            value = step.emit(op, *inputs)
        value.name = "z"
        graph.outputs.append(value)
        proto = ir.to_proto(ir.Model(graph, ir_version=3))
        assert not proto.graph.initializer
        onnx.checker.check_model(proto, full_check=True)
        strong = np.random.default_rng(1).random(images.shape) < 0.05
        arrays = [images, strong][: len(inputs)]
        found = run(proto, dict(zip("xy", arrays, strict=False)))["z"]
        assert np.array_equal(found, step.reference(*arrays))


def structure(connectivity: int) -> np.ndarray:
    """Neighbours within an image, for SciPy."""
    around = np.zeros((3, 3, 3), bool)
    around[1] = ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)
    return around


@pytest.mark.parametrize("connectivity", [4, 8])
def test_regions_are_those_of_scipy(connectivity: int) -> None:
    rng = np.random.default_rng(0)
    for images in masks(rng):
        regions, _ = ndimage.label(images, structure(connectivity))
        areas = np.bincount(regions.ravel())
        for area in (1, 2, 5, 30):
            found = RemoveSmallRegions("a", "t", area, connectivity, "NHW").reference(images)
            assert np.array_equal(found, (areas >= area)[regions] & images)
        strong = rng.random(images.shape) < 0.05
        kept = np.unique(regions[strong & images])
        found = Hysteresis("a", "b", "t", connectivity, "NHW").reference(images, strong)
        assert np.array_equal(found, np.isin(regions, kept) & images)


@examples(20)
@given(st.integers(0, 6), st.sampled_from(["square", "cross", "disk"]), st.integers(0, 2**32 - 1))
def test_morphology_is_that_of_scipy(half: int, shape: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, images = 2 * half + 1, rng.random((2, *rng.integers(1, 20, 2))) < rng.random()
    around = neighbourhood(size, shape)[None]
    grown = ndimage.binary_dilation(images, around)
    shrunk = ndimage.binary_erosion(images, around, border_value=1)
    steps = {
        DilateMask: grown,
        ErodeMask: shrunk,
        OpenMask: ndimage.binary_dilation(shrunk, around),
        CloseMask: ndimage.binary_erosion(grown, around, border_value=1),
    }
    for kind, expected in steps.items():
        assert np.array_equal(kind("a", "t", size, shape, "NHW").reference(images), expected), kind


def test_regions_touch_no_other_image_and_no_other_border() -> None:
    images = np.zeros((2, 3, 4), bool)
    images[0, 2, 3] = images[1, 0, 0] = True  # neighbours in memory
    images[0, 0, 3] = images[0, 1, 0] = True  # the end of a row and the beginning of the next
    for connectivity in (4, 8):
        step = RemoveSmallRegions("a", "t", 2, connectivity, "NHW")
        assert not step.reference(images).any()
        assert not run(graph_of(step, 18), {"x0": images})["y"].any()


@pytest.mark.parametrize("opset", [17, 18])
def test_rounds_stay_within_the_bound(opset: int) -> None:
    """Counts the rounds of the outer loop: a bound that was too small would leave regions in parts."""
    images = np.stack([serpentine(63, 63), hilbert(5), hilbert(5).T])
    source = ir.Value(name="x", shape=ir.Shape(images.shape), type=ir.TensorType(ir.DataType.BOOL))
    graph = ir.Graph([source], [], nodes=[], opset_imports={"": opset}, name="regions")
    op = Emitter(graph, opset=opset, ir_version=8, names=NameScope(graph), prefix="pp_graph")
    regions = EmittedRuns.of(op, source, 4).regions
    regions.name = "y"
    graph.outputs.append(regions)
    proto = ir.to_proto(ir.Model(graph, ir_version=8))
    expected = run(proto, {"x": images})["y"]
    outer = [node for node in proto.graph.node if node.op_type == "Loop"][-1]
    assert len(np.unique(expected)) == 1 + len(images)  # run 0 has no pixel
    for trips in range(1, 63):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(trips), f"trips_{trips}"))
        outer.input[0] = f"trips_{trips}"
        if np.array_equal(run(proto, {"x": images})["y"], expected):
            break
    assert 1 < trips <= 12


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ErodeMask("a", "b", 4), "size of 'b' is 4, expected an odd whole number from 1 to 255"),
        (lambda: OpenMask("a", "b", 3.0), "size of 'b' is 3.0, expected an odd whole number"),
        (lambda: CloseMask("a", "b", 3, "star"), "shape of 'b' is 'star', expected 'square' or 'cross' or 'disk'"),
        (lambda: RemoveSmallRegions("a", "b", 0), "min_area of 'b' is 0, expected a whole number from 1"),
        (lambda: RemoveSmallRegions("a", "b", True), "min_area of 'b' is True"),
        (lambda: RemoveSmallRegions("a", "b", 3, 6), "connectivity of 'b' is 6, expected 4 or 8"),
        (lambda: Hysteresis("a", "s", "b", "8"), "connectivity of 'b' is '8', expected 4 or 8"),
    ],
)
def test_impossible_parameters(build: object, message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        build()


def test_an_unknown_layout_of_a_mask_of_four_axes_is_the_usual_one() -> None:
    images = masks(np.random.default_rng(0))[3]
    step = RemoveSmallRegions("a", "t", 3)
    expected = dataclasses.replace(step, axes="NHW").reference(images)
    assert np.array_equal(step.reference(with_axes(images, "NCHW")), expected[:, None])
