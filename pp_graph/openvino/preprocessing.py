"""Write preprocessing into a converted model, so that it takes a camera's frames.

OpenVINO's `PrePostProcessor` writes the operators, except mean and scale. The runtime would rewrite those as a
multiplication and an addition, and rewritten operators lose the mark that keeps them in float32 (OpenVINO 2026.4). So
they are written in this form. An operator without effect comes last; otherwise the runtime would merge the
preprocessing with the network's first layers, in the network's precision.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.model import format_shape
from pp_graph.openvino.core import partial_shape, port_name
from pp_graph.openvino.island.float32 import PREPROCESSING_SCOPE, mark_float32
from pp_graph.openvino.island.graph import find_tensor
from pp_graph.openvino.island.rewrites import unchanged
from pp_graph.preprocessing import LAYOUTS, LETTERBOX

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov
    from openvino.preprocess import InputInfo, PreProcessSteps

    from pp_graph.fusion import Provenance
    from pp_graph.preprocessing import Preprocessing

_CHANNELS: Final = (1, 3)
_OPSET_4_MODES: Final = {"linear": "linear_onnx", "cubic": "cubic", "nearest": "nearest"}
"""Modes of Interpolate in opset 4, by mode in opset 11. On two axes, `linear_onnx` is `linear` without antialiasing."""


def add_preprocessing(model: ov.Model, preprocessing: Preprocessing, provenance: Provenance) -> Preprocessing:
    """Write preprocessing before the model's input, so that it takes frames. Changes the model in place.

    Args:
        model: The converted model.
        preprocessing: The preprocessing. Input, layout and size that it leaves open are taken from the model.
        provenance: The model's provenance.

    Returns:
        The preprocessing with input, layout and size of the model.

    Raises:
        TargetError: The model has several inputs and none is named, the input does not take float32 images, or its
            shape does not fit the preprocessing.
    """
    import openvino as ov
    from openvino import opset13 as ops

    at = _find_input(model, preprocessing)
    old = model.get_parameters()[at]
    fitted, channels = _fit(old, preprocessing)
    if any(record.tensor == fitted.input for record in provenance.raw.read.values()):
        raise TargetError(
            f"Post-processing reads the input '{fitted.input}' directly, expected a value that the network computes. "
            "Convert without preprocessing."
        )
    inner = ops.parameter(old.get_partial_shape(), old.get_element_type(), name=old.get_friendly_name())
    inner.output(0).get_tensor().set_names({str(fitted.input)})
    small = _with_steps(ov.Model([ops.result(inner)], [inner], "preprocessing"), fitted)
    _keep_interpolate(small)
    result = small.get_results()[0]
    value = result.input_value(0).get_node()
    affine = fitted.affine(channels)
    if affine is not None:
        axis = str(fitted.model_layout).index("C")
        mean, scale = (each.astype(np.float64).reshape([-1 if i == axis else 1 for i in range(4)]) for each in affine)
        if fitted.scale:
            value = ops.multiply(value, ops.constant((1 / scale).astype(np.float32)))
        if fitted.mean:
            value = ops.add(value, ops.constant((-mean / scale).astype(np.float32)))
    result.input(0).replace_source_output(unchanged(value).output(0))
    for node in small.get_ordered_ops():
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"{provenance.prefix}/{PREPROCESSING_SCOPE}/{node.get_friendly_name()}")
    _connect(model, at, mark_float32(small), _output_name(provenance))
    return fitted


def extract_preprocessing(model: ov.Model, provenance: Provenance) -> ov.Model:
    """Cut the preprocessing out of a converted model, to run it alone on frames.

    Args:
        model: The model; it is not changed.
        provenance: Its provenance, with a preprocessing.

    Returns:
        A model from frames to the raw model's input.

    Raises:
        TargetError: The preprocessing is not in the model.
    """
    import openvino as ov
    from openvino import opset13 as ops

    assert provenance.preprocessing is not None
    copy = model.clone()
    source = find_tensor(copy, _output_name(provenance))
    (frames,) = (each for each in copy.get_parameters() if port_name(each.output(0)) == provenance.preprocessing.input)
    return ov.Model([ops.result(source)], [frames], "preprocessing")


def _output_name(provenance: Provenance) -> str:
    return f"{provenance.prefix}/{PREPROCESSING_SCOPE}/output"


def _find_input(model: ov.Model, preprocessing: Preprocessing) -> int:
    names = [port_name(port) for port in model.inputs]
    if preprocessing.input is None and len(names) == 1:
        return 0
    if preprocessing.input is None:
        raise TargetError(
            f"Preprocessing needs one input for the frames, and the model has {len(names)} inputs: {', '.join(names)}. "
            f"Name the one that takes the frames with input=... (--image-input {names[0]})."
        )
    if preprocessing.input not in names:
        raise TargetError(
            f"Input '{preprocessing.input}' does not exist. The inputs are: {', '.join(names)}. Name one of these."
        )
    return names.index(preprocessing.input)


def _fit(parameter: ov.op.Parameter, asked: Preprocessing) -> tuple[Preprocessing, int]:
    """Return the preprocessing with name, layout and size of an input, and the number of its channels."""
    import openvino as ov

    name = port_name(parameter.output(0))
    shape = partial_shape(parameter.output(0))
    dtype = parameter.get_element_type()
    if dtype != ov.Type.f32:
        raise TargetError(
            f"Input '{name}' takes {dtype.get_type_name()}, expected f32 for preprocessing. Export the model with a "
            "float32 input, or preprocess frames yourself."
        )
    if shape is None or len(shape) != 4:
        raise TargetError(
            f"Input '{name}' is {format_shape(shape)}, expected an image (N,C,H,W) or (N,H,W,C) for preprocessing. "
            "Name the input that takes the frames with input=... (--image-input), or preprocess frames yourself."
        )
    layout = asked.model_layout or ("NHWC" if shape[1] not in _CHANNELS and shape[3] in _CHANNELS else "NCHW")
    assert layout in LAYOUTS
    by_axis = dict(zip(layout, shape, strict=True))
    channels, height, width = (
        size if isinstance(size, int) else None for size in (by_axis["C"], by_axis["H"], by_axis["W"])
    )
    if channels not in _CHANNELS:
        raise TargetError(
            f"Input '{name}' is {format_shape(shape)} as {layout}, expected 1 or 3 channels for preprocessing. Fix the "
            "sizes with --input-shape, or give the axes with model_layout=... (--model-layout)."
        )
    if asked.reverses_channels and channels == 1:
        raise TargetError(
            f"Frames in {asked.channel_order} were requested, and input '{name}' {format_shape(shape)} has one "
            "channel. Omit the channel order."
        )
    if asked.resize is not None and (height is None or width is None):
        raise TargetError(
            f"Input '{name}' is {format_shape(shape)}, expected a fixed height and width to resize frames to. Fix them "
            "with --input-shape (input_shape=...): the shape of the raw model's input."
        )
    fitted = replace(asked, input=name, model_layout=layout, model_size=(height, width))
    fitted.affine(channels)
    if asked.is_yuv and channels != 3:
        raise TargetError(
            f"Frames in {asked.channel_order} were requested, and input '{name}' {format_shape(shape)} has one "
            "channel, expected 3. Give frames in gray: omit the channel order."
        )
    if asked.resize is None:
        fitted.check_even(height, width)
    return fitted, channels


def _with_steps(small: ov.Model, preprocessing: Preprocessing) -> ov.Model:
    """Add the steps of `PrePostProcessor` to a model that returns its input."""
    import openvino as ov
    from openvino.preprocess import PrePostProcessor, ResizeAlgorithm

    processor = PrePostProcessor(small)
    frames = processor.input()
    tensor = frames.tensor().set_element_type(ov.Type(np.dtype(preprocessing.numpy_dtype)))
    tensor.set_layout(ov.Layout(preprocessing.layout))
    if preprocessing.is_yuv:
        _set_yuv(frames, preprocessing)
    frames.model().set_layout(ov.Layout(str(preprocessing.model_layout)))
    if preprocessing.resize is not None:
        if preprocessing.channel_order == "YUYV":
            pass  # its shape is set
        elif preprocessing.frame_size is None:
            tensor.set_spatial_dynamic_shape()
        else:
            tensor.set_spatial_static_shape(*preprocessing.frame_size)
    steps = frames.preprocess()
    if preprocessing.is_yuv:
        _convert_yuv(steps, preprocessing.channel_order)
    # Move values first, while a pixel is still a byte.
    if preprocessing.layout != preprocessing.model_layout:
        steps.convert_layout(ov.Layout(str(preprocessing.model_layout)))
    if preprocessing.reverses_channels:
        steps.reverse_channels()
    steps.convert_element_type(ov.Type.f32)
    if preprocessing.resize == LETTERBOX:
        steps.custom(lambda frames: _letterbox(frames, preprocessing))
    elif preprocessing.resize is not None:
        steps.resize(getattr(ResizeAlgorithm, f"RESIZE_{preprocessing.resize.upper()}"))
    return processor.build()


def _set_yuv(frames: InputInfo, preprocessing: Preprocessing) -> None:
    """Declare the bytes of NV12 or I420, or the shape of YUYV, which `PrePostProcessor` does not know."""
    from openvino.preprocess import ColorFormat

    if preprocessing.channel_order != "YUYV":
        frames.tensor().set_color_format(getattr(ColorFormat, f"{preprocessing.channel_order}_SINGLE_PLANE"))
        return
    size = preprocessing.model_size if preprocessing.resize is None else preprocessing.frame_size
    frames.tensor().set_shape([-1, *(-1 if length is None else length for length in size or (None, None)), 2])


def _convert_yuv(steps: PreProcessSteps, order: str) -> None:
    """Convert to RGB, in uint8."""
    from openvino.preprocess import ColorFormat

    if order == "YUYV":
        steps.custom(_yuyv_to_rgb)
    else:
        steps.convert_color(ColorFormat.RGB)


def _yuyv_to_rgb(frames: ov.Output) -> ov.Output:
    """Convert YUYV as NV12 of twice the height, with each row twice, so that the arithmetic is the same."""
    from openvino import opset8
    from openvino import opset13 as ops

    shape = ops.shape_of(frames)
    count, height, width = (ops.gather(shape, ops.constant([axis]), ops.constant(0)) for axis in range(3))
    one, two = ops.constant([1]), ops.constant([2])
    bright, colours = ops.split(frames, ops.constant(3), 2).outputs()
    twice = ops.concat([ops.unsqueeze(bright, ops.constant(2))] * 2, 2)
    rows = ops.reshape(twice, ops.concat([count, ops.multiply(height, two), width, one], 0), special_zero=False)
    pairs = ops.reshape(colours, ops.concat([count, height, ops.divide(width, two), two], 0), special_zero=False)
    rgb = opset8.nv12_to_rgb(rows, pairs)
    return ops.slice(rgb, ops.constant([0]), ops.constant([np.iinfo(np.int64).max]), two, ops.constant([1])).output(0)


def _letterbox(frames: ov.Output, preprocessing: Preprocessing) -> ov.Output:
    """Resize frames to the size that `Placement.letterboxed` gives, and fill around them.

    Sizes are computed in the graph, in integers, so that it takes frames of any size. With a fixed size the runtime
    folds them.
    """
    from openvino import opset8
    from openvino import opset13 as ops

    layout = str(preprocessing.model_layout)
    axes = np.array([layout.index("H"), layout.index("W")])
    size = [int(length or 0) for length in preprocessing.model_size or ()]
    placed = placed_size(ops.gather(ops.shape_of(frames), ops.constant(axes), ops.constant(0)), size)
    resized = ops.interpolate(frames, placed, "linear", "sizes", axes=ops.constant(axes), nearest_mode="floor")
    missing = ops.subtract(ops.constant(np.array(size)), placed)
    before = ops.divide(missing, ops.constant([2]))
    spread = ops.constant(np.array([[int(axis == at) for at in axes] for axis in range(4)]))
    begin, end = (
        ops.squeeze(ops.reduce_sum(ops.multiply(spread, each), ops.constant([1]), keep_dims=True), ops.constant([1]))
        for each in (before, ops.subtract(missing, before))
    )
    # The runtime would turn a newer Pad into this one, and drop the mark.
    filled = opset8.pad(resized, begin, end, "constant", ops.constant(np.float32(preprocessing.padding)))
    # The network's sizes stay fixed, whatever the size of the frames. 0 keeps an open batch.
    shape = [each.get_length() if each.is_static else 0 for each in frames.get_partial_shape()]
    for axis, length in zip(axes, size, strict=True):
        shape[axis] = length
    return ops.reshape(filled, ops.constant(np.array(shape)), special_zero=True).output(0)


def frame_size(frames: ov.Node, preprocessing: Preprocessing) -> ov.Node:
    """Compute the height and width of frames, int64, (2,)."""
    from openvino import opset13 as ops

    places = [preprocessing.layout.index(axis) for axis in "HW"]
    size = ops.gather(ops.shape_of(frames), ops.constant(np.array(places)), ops.constant(0))
    if preprocessing.is_yuv and preprocessing.channel_order != "YUYV":
        # Bytes of colours follow below the picture, half as many.
        size = ops.divide(ops.multiply(size, ops.constant(np.array([2, 1]))), ops.constant(np.array([3, 1])))
    return size


def placed_size(frame: ov.Node, size: Sequence[int]) -> ov.Node:
    """Compute the height and width of a letterboxed frame, as `Placement.letterboxed`.

    Args:
        frame: Height and width of the frame, int64, (2,).
        size: Height and width of the model's input.
    """
    from openvino import opset13 as ops

    height, width = (ops.gather(frame, ops.constant([place]), ops.constant(0)) for place in (0, 1))
    one, two, rows, columns = (ops.constant([each]) for each in (1, 2, *map(int, size)))

    def rounded(size: ov.Node, long: ov.Node, short: ov.Node) -> ov.Node:
        doubled = ops.multiply(two, ops.multiply(size, long))
        return ops.maximum(one, ops.divide(ops.add(doubled, short), ops.multiply(two, short)))

    tall = ops.less_equal(ops.multiply(rows, width), ops.multiply(columns, height))
    return ops.concat(
        [
            ops.select(tall, rows, rounded(height, columns, width)),
            ops.select(tall, rounded(width, rows, height), columns),
        ],
        0,
    )


def _keep_interpolate(small: ov.Model) -> None:
    """Replace Interpolate by opset 4's, as the runtime would, but keep the mark. Changes the model in place."""
    from openvino import opset13 as ops
    from openvino.utils.node_factory import NodeFactory

    for node in small.get_ordered_ops():
        if node.get_type_name() != "Interpolate":
            continue
        attributes = dict(node.get_attributes())
        if attributes["mode"] not in _OPSET_4_MODES:
            continue  # the runtime keeps the newer operator
        attributes["mode"] = _OPSET_4_MODES[attributes["mode"]]
        image, sizes, axes = node.input_values()
        scales = ops.constant(np.ones(2, np.float32)).output(0)
        older = NodeFactory("opset4").create("Interpolate", [image, sizes, scales, axes], attributes)
        for target in list(node.output(0).get_target_inputs()):
            target.replace_source_output(older.output(0))


def _connect(model: ov.Model, at: int, small: ov.Model, name: str) -> None:
    """Put a small model before an input of a large one; the tensor between them gets a name."""
    old, new = model.get_parameters()[at], small.get_parameters()[0]
    value = small.get_results()[0].input_value(0)
    # The input may also carry names of other values, for example of a removed Identity.
    value.get_tensor().set_names({name, *(old.output(0).get_names() - new.output(0).get_names())})
    for target in list(old.output(0).get_target_inputs()):
        target.replace_source_output(value)
    model.replace_parameter(at, new)
    model.validate_nodes_and_infer_types()
