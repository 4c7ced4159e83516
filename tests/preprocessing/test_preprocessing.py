"""A model with preprocessing decides on frames as it does on images that are preprocessed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import pp_graph as pp
from pp_graph.cli import run as run_cli
from pp_graph.data import open_images
from pp_graph.errors import DataError, TargetError
from pp_graph.model import FrameFormat, ModelInput
from pp_graph.openvino.compiling import compile_for
from pp_graph.openvino.island.float32 import PREPROCESSING_SCOPE
from pp_graph.openvino.weights_file import marked, weights_mark
from pp_graph.preprocessing import DTYPES, METHODS, Placement, feed_by_hand, resize
from pp_graph.raw_values import open_raw_values
from tests.conftest import DEMO, examples
from tests.models import STATS, conv_model, from_text

RNG = np.random.default_rng(0)
POST = pp.OneClassPostProcessor(STATS)


def shows_its_input(channels: int = 3, *, channels_last: bool = False) -> onnx.ModelProto:
    """A model that returns its input as `pixels`, besides a map and a score."""
    shape = "N,H,W," + str(channels) if channels_last else f"N,{channels},H,W"
    axis = 3 if channels_last else 1
    return from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        raw (float[{shape}] image) => (float[N,1] score, float[N,H,W] heat, float[{shape}] pixels) {{
            pixels = Identity(image)
            heat = ReduceMax<axes=[{axis}], keepdims=0>(image)
            top = ReduceMax<axes=[1,2], keepdims=0>(heat)
            one = Constant<value_ints=[1]>()
            score = Unsqueeze(top, one)
        }}"""
    )


def frames_for(preprocessing: pp.Preprocessing, size: tuple[int, int], channels: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = {"N": 2, "C": channels, "H": size[0], "W": size[1]}
    sizes = tuple(shape[axis] for axis in preprocessing.layout)
    if preprocessing.dtype == "f32":
        return rng.normal(100, 60, sizes).astype(np.float32)
    return rng.integers(0, np.iinfo(preprocessing.numpy_dtype).max, sizes, preprocessing.numpy_dtype, endpoint=True)


@pytest.fixture(scope="session")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour the package's grey images, so that swapped channels change the result."""
    folder = tmp_path_factory.mktemp("coloured")
    for file in sorted((DEMO / "images").rglob("*.png")):
        grey = np.asarray(Image.open(file).convert("RGB"), np.float32)
        target = folder / file.relative_to(DEMO / "images")
        target.parent.mkdir(exist_ok=True)
        Image.fromarray((grey * np.array([1, 0.75, 0.4], np.float32)).astype(np.uint8)).save(target)
    return folder


_numbers = st.floats(-300, 300, width=32).map(lambda x: float(np.float32(x)))
_scales = st.floats(0.25, 300, width=32)


@st.composite
def preprocessings(draw: st.DrawFn, channels: int) -> pp.Preprocessing:
    def either_of(number: st.SearchStrategy[float]) -> tuple[float, ...]:
        return tuple(draw(st.one_of(*(st.lists(number, min_size=n, max_size=n) for n in {0, 1, channels}))))

    method = draw(st.sampled_from([None, *METHODS]))
    return pp.Preprocessing(
        dtype=draw(st.sampled_from(list(DTYPES))),
        layout=draw(st.sampled_from(["NHWC", "NCHW"])),
        channel_order=draw(st.sampled_from(["RGB", "BGR"])) if channels == 3 else "RGB",
        mean=either_of(_numbers),
        scale=either_of(_scales),
        resize=method,
        frame_size=draw(st.sampled_from([None, (9, 14)])) if method else None,
    )


@examples(10)
@given(st.data(), st.sampled_from([1, 3]), st.booleans())
def test_graph_equals_the_reference(data: st.DataObject, channels: int, channels_last: bool) -> None:
    asked = data.draw(preprocessings(channels))
    height, width = data.draw(st.tuples(st.integers(4, 24), st.integers(4, 24)))
    size = asked.frame_size or (
        (data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))) if asked.resize else None
    )
    model = shows_its_input(channels, channels_last=channels_last)
    shape = (None, height, width, channels) if channels_last else (None, channels, height, width)
    fused = pp.fuse(model, POST, score_output="score", map_output="heat")
    artifact = pp.convert(fused, input_shape=shape, preprocessing=asked)
    fitted = artifact.provenance.preprocessing
    assert fitted is not None
    frames = frames_for(fitted, size or (height, width), channels, data.draw(st.integers(0, 2**32 - 1)))
    expected = fitted.reference(frames)
    found = artifact.session().run({"image": frames})
    assert found["pixels"].dtype == expected.dtype == np.float32
    assert found["pixels"].shape == expected.shape
    if not asked.mean and not asked.scale and asked.resize in (None, "nearest"):
        assert np.array_equal(found["pixels"], expected)
    mean, scale = fitted.affine(channels) or (np.zeros(1), np.ones(1))
    largest = np.abs(frames.astype(np.float64)).max()
    # Tolerates the rounding of a product and a sum, and of weights computed in float32.
    bound = (largest + np.abs(mean).max()) / scale.min() * (2e-5 if asked.resize not in (None, "nearest") else 3e-7)
    assert np.abs(found["pixels"].astype(np.float64) - expected).max() <= bound


@pytest.mark.parametrize("divisor", [1.0, 4.0, 64.0])
def test_arithmetic_that_is_exact_stays_exact(divisor: float) -> None:
    asked = pp.Preprocessing(channel_order="BGR", mean=(3, 128, 250), scale=(divisor,))
    artifact = pp.convert(pp.fuse(shows_its_input(), POST, map_output="heat"), preprocessing=asked)
    frames = RNG.integers(0, 256, (2, 7, 5, 3), np.uint8)
    by_hand = ((frames[..., ::-1] - np.array([3, 128, 250], np.float32)) / np.float32(divisor)).transpose(0, 3, 1, 2)
    assert np.array_equal(artifact.session().run({"image": frames})["pixels"], by_hand)
    fitted = artifact.provenance.preprocessing
    assert fitted is not None
    assert np.array_equal(fitted.reference(frames), by_hand)


def test_mean_and_scale_are_in_the_models_order() -> None:
    asked = pp.Preprocessing(
        layout="NCHW",
        channel_order="RGB",
        model_channel_order="BGR",
        mean=(1, 2, 3),
        scale=(1, 2, 4),
        model_layout="NCHW",
    )
    frames = np.broadcast_to(np.array([10, 20, 31], np.uint8).reshape(1, 3, 1, 1), (1, 3, 2, 2))
    assert asked.reference(frames)[0, :, 0, 0].tolist() == [30, 9, 1.75]


@pytest.mark.parametrize(("method", "resample"), [("bilinear_pillow", 2), ("bicubic_pillow", 3)])
@pytest.mark.parametrize(("old", "new"), [((40, 31), (12, 16)), ((8, 9), (20, 9)), ((17, 5), (6, 33))])
def test_resizing_as_pillow(method: str, resample: int, old: tuple[int, int], new: tuple[int, int]) -> None:
    image = RNG.normal(100, 50, old).astype(np.float32)
    pillow = Image.fromarray(image).resize(new[::-1], Image.Resampling(resample))
    found = resize(image[None, ..., None], *new, method)
    np.testing.assert_allclose(found[0, ..., 0], np.asarray(pillow), atol=1e-4)


@pytest.mark.sample(every=5)
@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_preprocessing_is_not_rounded_to_the_networks_precision(dtype: str, method: str | None, order: str) -> None:
    asked = pp.Preprocessing(dtype=dtype, channel_order=order, mean=(120,), scale=(50, 51, 52), resize=method)
    artifact = pp.convert(pp.fuse(conv_model(), POST), input_shape=(None, 3, 16, 16), preprocessing=asked)
    compiled = compile_for(artifact.network, "CPU", "bf16", {})
    found = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = {key: str(value.value) for key, value in node.get_rt_info().items()}
        if f"/{PREPROCESSING_SCOPE}/" in info["originalLayersNames"] and info["layerType"] != "Const":
            found[info["originalLayersNames"]] = (info["layerType"], info["runtimePrecision"], info["outputPrecisions"])
    assert found
    # 0 to 255 are exact in bfloat16.
    narrow = {name: kind for name, kind in found.items() if "bf16" in kind and kind != ("Convert", "u8", "bf16")}
    assert not narrow


def same_decisions(artifact: pp.OpenVINOModel, plain: pp.OpenVINOModel, frames: np.ndarray, precision: str) -> None:
    fitted = artifact.provenance.preprocessing
    assert fitted is not None
    feeds = {str(fitted.input): frames}
    fed = artifact.session(precision=precision).run(feeds)
    by_hand = plain.session(precision=precision).run(feed_by_hand(feeds, fitted))
    for name in ("pred_label", "pred_mask"):
        assert np.array_equal(fed[name], by_hand[name]), name
    np.testing.assert_allclose(fed["anomaly_map"], by_hand["anomaly_map"], atol=3e-6)


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("weights", ["f32", "f16"])
def test_decisions_on_the_model_of_the_package(
    precision: str, weights: str, demo_fused_path: Path, coloured: Path, tmp_path: Path
) -> None:
    asked = pp.Preprocessing(channel_order="BGR", scale=(255,))
    path = pp.convert(demo_fused_path, precision=weights, preprocessing=asked).save(tmp_path / "model.xml")
    artifact = pp.OpenVINOModel.load(path)
    session = artifact.session()
    images = open_images(coloured)
    frames = images.read(0, len(images), session.inputs)["image"]
    assert frames.dtype == np.uint8
    assert frames.shape == (len(images), 256, 256, 3)
    same_decisions(artifact, pp.convert(demo_fused_path, precision=weights), frames, precision)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_decisions_on_brick(brick: Path, precision: str) -> None:
    fused = pp.fuse(brick / "raw.onnx", pp.OneClassPostProcessor(pp.Statistics.load(brick / "stats.json")))
    artifact = pp.convert(fused, preprocessing=pp.Preprocessing(channel_order="BGR", scale=(255,)))
    images = np.load(brick / "images.npz")["image"][:16]
    frames = np.ascontiguousarray(images.transpose(0, 2, 3, 1)[..., ::-1])
    same_decisions(artifact, pp.convert(fused), frames, precision)
    report = pp.verify(brick / "raw.onnx", artifact, images, inference_precision=precision)
    assert report.postprocessing_exact
    assert report.postprocessing_flips == 0
    assert report.raw_matches


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("method", list(METHODS))
def test_resized_frames_are_verified(method: str, demo_fused_path: Path, tmp_path: Path) -> None:
    frames = RNG.integers(0, 256, (3, 96, 130, 3), np.uint8)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    artifact = pp.convert(demo_fused_path, preprocessing=pp.Preprocessing(scale=(255,), resize=method))
    report = pp.verify(DEMO / "raw.onnx", artifact, tmp_path)
    assert report.passed
    assert report.images == 3
    assert {error.name: error.max_scaled < 1e-4 for error in report.errors}["raw_map"]
    # Feed one image by hand, without pp_graph.
    assert artifact.provenance.preprocessing is not None
    alone = artifact.session().run({"image": frames[:1]})
    by_hand = pp.Preprocessing(scale=(255,), resize=method, model_size=(256, 256)).reference(frames[:1])
    expected = pp.convert(demo_fused_path).session().run({"image": np.ascontiguousarray(by_hand)})
    np.testing.assert_allclose(alone["pred_score"], expected["pred_score"], atol=1e-4)


@pytest.mark.parametrize(
    ("frame", "model", "size", "offset"),
    [
        ((480, 640), (640, 640), (480, 640), (80, 0)),
        ((1080, 1920), (640, 640), (360, 640), (140, 0)),
        ((100, 33), (64, 64), (64, 21), (0, 21)),  # 21.12 columns, 21 of 43 filled ones on the left
        ((7, 500), (64, 96), (1, 96), (31, 0)),
        ((1, 1000), (8, 8), (1, 8), (3, 0)),
    ],
)
def test_letterboxed_frames(
    frame: tuple[int, int], model: tuple[int, int], size: tuple[int, int], offset: tuple[int, int]
) -> None:
    placed = Placement.letterboxed(frame, model)
    assert (placed.size, placed.offset) == (size, offset)
    asked = pp.Preprocessing(resize="letterbox", model_size=model, mean=(14,), scale=(100,))
    pixels = asked.reference(np.full((1, *frame, 3), 214, np.uint8))[0, 0]
    inside = np.zeros(model, bool)
    inside[offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]] = True
    assert np.array_equal(pixels, np.where(inside, np.float32(2), np.float32(1)))


@pytest.mark.parametrize("frame_size", [None, (60, 90)])
@pytest.mark.parametrize("method", ["letterbox", "linear", None])
def test_boxes_find_their_way_back_to_the_image(method: str | None, frame_size: tuple[int, int] | None) -> None:
    """A white rectangle, found in the model's input by its pixels."""
    image = np.zeros((120, 300, 3), np.uint8)
    image[24:96, 60:240] = 255
    asked = None
    if method is not None:
        asked = pp.Preprocessing(resize=method, frame_size=frame_size, model_size=(64, 64), input="image")
    fed = (64, 64) if method is None else frame_size or image.shape[:2]
    stretched = resize(image[None], *fed, "linear")
    pixels = stretched if asked is None else asked.reference(stretched.astype(np.uint8)).transpose(0, 2, 3, 1)
    rows, columns = np.nonzero((pixels[0, ..., 0] > 127) & (pixels[0, ..., 0] != 114))
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    given = (None, None) if asked is not None and frame_size is None else fed
    placed = Placement.of((120, 300), given, asked)
    assert np.abs(placed.to_frame(box) - [60, 24, 240, 96]).max() <= 300 / 60
    assert placed.to_frame(np.array([-9e9, -5, 9e9, 9e9])).tolist() == [0, 0, 300, 120]


@pytest.mark.parametrize("frame_size", [None, (50, 80)])
def test_letterboxing_keeps_the_size_of_the_network_fixed(frame_size: tuple[int, int] | None) -> None:
    asked = pp.Preprocessing(resize="letterbox", frame_size=frame_size)
    fused = pp.fuse(shows_its_input(), POST, score_output="score", map_output="heat")
    artifact = pp.convert(fused, input_shape=(1, 3, 32, 48), preprocessing=asked)
    shapes = {port.any_name: port.get_partial_shape() for port in artifact.network.outputs}
    assert str(shapes["pixels"]) == "[1,3,32,48]"
    session = artifact.session()
    for size in ((50, 80), (20, 90), (33, 7)) if frame_size is None else [frame_size]:
        frames = RNG.integers(0, 256, (1, *size, 3), np.uint8)
        expected = asked.__class__(resize="letterbox", model_size=(32, 48)).reference(frames)
        np.testing.assert_allclose(session.run({"image": frames})["pixels"], expected, atol=1e-3)


def test_a_wrong_order_of_channels_shows(demo_fused_path: Path, coloured: Path) -> None:
    """Verification cannot find a mistake that graph and reference share, so compare with the raw model."""
    artifact = pp.convert(demo_fused_path, preprocessing=pp.Preprocessing(channel_order="BGR", scale=(255,)))
    images = open_images(coloured)
    frames = images.read(0, 2, artifact.session().inputs)["image"]
    plain = images.read(0, 2, [ModelInput("image", "float32", (None, 3, 256, 256))])
    found = open_raw_values(artifact)
    expected = open_raw_values(DEMO / "raw.onnx").run(plain)["raw_map"]
    assert np.abs(found.run({"image": frames})["raw_map"] - expected).max() < 1e-4
    assert np.abs(found.run({"image": frames[..., ::-1].copy()})["raw_map"] - expected).max() > 0.01


def test_other_inputs_are_not_preprocessed() -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        raw (float[N,1,H,W] image, float[N,1] level) => (float[N,1] score, float[N,1,H,W] heat) {
            heat = Relu(image)
            score = Add(level, level)
        }"""
    )
    fused = pp.fuse(model, POST)
    with pytest.raises(TargetError, match=r"the model has 2 inputs: image, level\. Name the one"):
        pp.convert(fused, preprocessing=pp.Preprocessing())
    with pytest.raises(TargetError, match=r"Input 'level' is \(\?, 1\), expected an image"):
        pp.convert(fused, preprocessing=pp.Preprocessing(input="level"))
    artifact = pp.convert(fused, preprocessing=pp.Preprocessing(input="image", scale=(100,)))
    arrays = {"image": RNG.integers(0, 256, (4, 6, 5, 1), np.uint8), "level": RNG.normal(0, 1, (4, 1)).astype("f4")}
    report = pp.verify(model, artifact, arrays)
    assert report.passed
    assert report.drift_flips == 0
    inputs = artifact.session().inputs
    assert [(each.name, each.dtype, each.frames) for each in inputs] == [
        ("image", "uint8", FrameFormat("NHWC", "RGB")),
        ("level", "float32", None),
    ]


def test_a_map_that_is_the_input_itself() -> None:
    """OpenVINO drops an Identity, so the input has two names; only one of them takes frames."""
    fused = pp.fuse(shows_its_input(1), POST, score_output="score", map_output="pixels")
    artifact = pp.convert(fused, preprocessing=pp.Preprocessing(mean=(100,), scale=(50,)))
    frames = RNG.integers(0, 256, (2, 6, 5, 1), np.uint8)
    report = pp.verify(shows_its_input(1), artifact, frames)
    assert report.passed
    assert report.drift_flips == 0
    assert artifact.session().run({"image": frames})["pred_mask"].any()


def test_earlier_files_can_be_read() -> None:
    record = json.loads(pp.convert(pp.fuse(conv_model(), POST)).provenance.to_json())
    del record["preprocessing"]
    assert pp.Provenance.from_json(json.dumps(record)).preprocessing is None


def test_retuning_keeps_it(tmp_path: Path) -> None:
    asked = pp.Preprocessing(layout="NCHW", mean=(1, 2, 3), scale=(200,), resize="cubic")
    artifact = pp.convert(pp.fuse(conv_model(), POST), input_shape=(None, 3, 12, 12), preprocessing=asked)
    path = artifact.save(tmp_path / "model.xml")
    retuned = pp.retune(pp.open(path), pixel_sensitivity=0.7)
    assert isinstance(retuned, pp.OpenVINOModel)
    assert retuned.provenance.preprocessing == artifact.provenance.preprocessing
    again = pp.OpenVINOModel.load(retuned.save(tmp_path / "retuned.xml"))
    frames = RNG.integers(0, 256, (2, 3, 20, 15), np.uint8)
    report = pp.verify(conv_model(), again, frames)
    assert report.passed
    found, before = (each.session().run({"image": frames}) for each in (again, artifact))
    assert np.array_equal(found["anomaly_map"], before["anomaly_map"])
    assert found["pred_mask"].sum() > before["pred_mask"].sum()


# --- images become frames ---


NHWC = ModelInput("image", "uint8", (None, None, None, 3), FrameFormat("NHWC", "BGR"))


def test_images_become_frames(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (3, 4, 6, 3), np.uint8)
    for source in (images, images.transpose(0, 3, 1, 2)):
        found = open_images(source).read(0, 3, [NHWC])["image"]
        assert found.dtype == np.uint8
        assert np.array_equal(found, images[..., ::-1])
    planes = ModelInput("image", "uint8", (None, 3, 4, 6), FrameFormat("NCHW", "RGB"))
    assert np.array_equal(open_images(images).read(0, 3, [planes])["image"], images.transpose(0, 3, 1, 2))
    floats = ModelInput("image", "float32", (None, 4, 6, 3), FrameFormat("NHWC", "RGB"))
    assert np.array_equal(open_images(images).read(0, 3, [floats])["image"], images.astype(np.float32))
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    assert np.array_equal(open_images(tmp_path).read(0, 1, [NHWC])["image"], images[:1, ..., ::-1])
    with pytest.raises(
        DataError, match="Images hold float64, expected uint8: the model preprocesses its input 'image'"
    ):
        open_images(images / 255).read(0, 1, [NHWC])
    deep = ModelInput("image", "uint16", (None, 4, 6, 3), FrameFormat("NHWC", "RGB"))
    with pytest.raises(DataError, match="Images hold uint8, expected uint16"):
        open_images(images).read(0, 1, [deep])
    # The declared layout decides if the sizes allow both.
    square = RNG.integers(0, 256, (2, 3, 5, 3), np.uint8)
    assert np.array_equal(open_images(square).read(0, 2, [NHWC])["image"], square[..., ::-1])


# --- errors ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "u9"}, "Element type of frames is 'u9', expected one of: u8, u16, f32"),
        ({"layout": "HWC"}, "Layout of frames is 'HWC', expected one of: NHWC, NCHW"),
        ({"channel_order": "GBR"}, "Channel order of frames is 'GBR', expected one of: RGB, BGR"),
        ({"resize": "area"}, "Resizing of frames is 'area', expected one of: linear"),
        ({"scale": (0,)}, "scale contains 0, expected a finite number above 0"),
        ({"scale": (1, -2, 3)}, "scale contains -2, expected a finite number above 0"),
        ({"scale": (1e-60,)}, "scale contains 1e-60, expected a finite number above 0"),
        ({"scale": (float("nan"),)}, "scale contains nan, expected"),
        ({"mean": (float("inf"),)}, "mean contains inf, expected a finite number"),
        ({"mean": ("a",)}, "mean contains 'a', expected numbers"),
        ({"frame_size": (480, 640)}, "A size of frames was given without a method to resize them"),
        ({"resize": "linear", "frame_size": (480,)}, "expected a height and a width in pixels"),
        ({"resize": "linear", "frame_size": (480, 0)}, "expected a height and a width in pixels"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        pp.Preprocessing(**settings)


def half() -> onnx.ModelProto:
    return from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        raw (float16[N,3,H,W] image) => (float16[N,H,W] heat) {
            heat = ReduceMax<axes=[1], keepdims=0>(image)
        }"""
    )


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"mean": (1, 2)}, {}, "mean has 2 numbers, expected one, or 3: one per channel"),
        ({"scale": (1, 2, 3, 4)}, {}, "scale has 4 numbers, expected one, or 3"),
        (
            {"resize": "linear"},
            {},
            r"Input 'image' is \(\?, 3, \?, \?\), expected a fixed",
        ),
        ({"input": "picture"}, {}, r"Input 'picture' does not exist\. The inputs are: image"),
        ({"model_layout": "NHWC"}, {}, r"as NHWC, expected 1 or 3 channels"),
        (
            {"resize": "linear"},
            {"device": "NPU", "input_shape": (1, 3, 16, 16)},
            "Frames of any size are to be resized, expected one size: NPU runs static",
        ),
        ({}, {"device": "NPU"}, r"Input 'image' has the dynamic shape"),
    ],
)
def test_models_that_do_not_take_it(settings: dict[str, Any], change: dict[str, Any], message: str) -> None:
    fused = pp.fuse(conv_model(), POST)
    with pytest.raises(TargetError, match=message):
        pp.convert(fused, preprocessing=pp.Preprocessing(**settings), **change)


def test_inputs_that_are_not_float32_images() -> None:
    one_channel = pp.fuse(shows_its_input(1), POST, map_output="heat")
    with pytest.raises(TargetError, match="Frames in BGR were requested, and input 'image' .* has one channel"):
        pp.convert(one_channel, preprocessing=pp.Preprocessing(channel_order="BGR"))
    with pytest.raises(TargetError, match="Input 'image' takes f16, expected f32"):
        pp.convert(pp.fuse(half(), POST), preprocessing=pp.Preprocessing())


def test_static_for_npu() -> None:
    asked = pp.Preprocessing(resize="linear", frame_size=(40, 50))
    artifact = pp.convert(pp.fuse(conv_model(), POST), device="NPU", input_shape=(1, 3, 16, 16), preprocessing=asked)
    assert [list(port.get_shape()) for port in artifact.network.inputs] == [[1, 40, 50, 3]]


def test_frames_of_another_type_are_refused(demo_fused_path: Path, demo_images: np.ndarray) -> None:
    artifact = pp.convert(demo_fused_path, preprocessing=pp.Preprocessing(scale=(255,)))
    with pytest.raises(DataError, match="Images hold float32, expected uint8: the model preprocesses"):
        pp.verify(DEMO / "raw.onnx", artifact, demo_images)
    assert artifact.provenance.preprocessing is not None
    with pytest.raises(DataError, match=r"Frames are float32 of shape .*, expected uint8 \(N,H,W,C\)"):
        artifact.provenance.preprocessing.reference(demo_images)
    with pytest.raises(TargetError, match="resized to a size that is not known"):
        pp.Preprocessing(resize="linear").reference(np.zeros((1, 4, 4, 3), np.uint8))


# --- the command line ---


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


RAW, IMAGES = str(DEMO / "raw.onnx"), str(DEMO / "images")


def convert_demo(capfd: pytest.CaptureFixture[str], *more: str) -> tuple[str, str]:
    assert run_cli(["convert", RAW, "--stats", str(DEMO / "stats.json"), "-o", "m.xml", *more]) == 0
    captured = capfd.readouterr()
    return captured.out, captured.err


def test_every_verb_takes_frames(in_folder: Path, coloured: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images = str(coloured)
    out, _ = convert_demo(
        capfd, "--input-dtype", "u8", "--input-layout", "NHWC", "--channel-order", "BGR", "--mean", "0,0,0",
        "--scale", "255", "--resize", "bilinear_pillow", "--json",
    )  # fmt: skip
    written = json.loads(out)["preprocessing"]
    assert (written["channel_order"], written["scale"], written["model_size"]) == ("BGR", [255.0], [256, 256])

    assert (
        run_cli(
            ["verify", RAW, "m.xml", "--data", images, "--max-label-flips", "0", "--max-pixel-flips", "0", "--json"]
        )
        == 0
    )
    report = json.loads(capfd.readouterr().out)
    assert report["provenance"]["preprocessing"] == written
    assert {each["name"]: each["flips"] for each in report["decisions"]} == {"pred_label": 0, "pred_mask": 0}

    assert run_cli(["calibrate", "m.xml", "--data", images, "--bootstrap", "0", "--json"]) == 0
    calibrated = json.loads(capfd.readouterr().out)["statistics"]["image"]["threshold"]
    assert run_cli(["calibrate", RAW, "--data", images, "--bootstrap", "0", "--json"]) == 0
    by_hand = json.loads(capfd.readouterr().out)["statistics"]["image"]["threshold"]
    assert calibrated == pytest.approx(by_hand, rel=1e-5)

    assert run_cli(["inspect", "m.xml"]) == 0
    shown = capfd.readouterr().out
    assert "u8 NHWC BGR frames of any size for input 'image', resized (bilinear_pillow) to 256x256" in shown

    timed = ["benchmark", RAW, "m.xml", "--seconds", "0.3", "--inference-precision", "f32", "--against", "host-numpy"]
    assert run_cli(timed) == 2
    assert "The artifact takes frames of any size, expected a size to time it with" in capfd.readouterr().err
    assert run_cli([*timed, "--frame-size", "60x80", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    fed = {each["name"]: each["bytes_in"] for each in rows["results"]}
    assert fed == {"raw": 3 * 256 * 256 * 4, "raw + host-numpy": 3 * 256 * 256 * 4, "m.xml": 3 * 60 * 80}
    ours = rows["results"][-1]
    assert ours["groups_us"]["preprocessing"] > 0
    assert ours["peak_mib"] > 0
    assert any("'m.xml' takes frames" in note for note in rows["notes"])
    assert run_cli([*timed, "--data", images, "--no-memory", "--dynamic", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["results"][-1]["bytes_in"] == 3 * 256 * 256


def test_a_missing_scale_is_mentioned(in_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, err = convert_demo(capfd, "--channel-order", "BGR")
    assert "Note: the model gets values from 0 to 255. If it was trained on [0,1], add --scale 255." in err
    assert run_cli(["verify", RAW, "m.xml", "--data", IMAGES]) == 0, "the raw model is fed the same"
    _, err = convert_demo(capfd, "--input-dtype", "f32", "--force")
    assert "Note: the model gets" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input-dtype", "u9"], "Element type of frames is 'u9'"),
        (["--channel-order", "XYZ"], "Channel order of frames is 'XYZ'"),
        (["--mean", "1,2"], "mean has 2 numbers, expected one, or 3"),
        (["--mean", "red"], "'red' is not a list of numbers"),
        (["--scale", "0"], "scale contains 0, expected a finite number above 0"),
        (["--resize", "linear", "--frame-size", "1080"], "'1080' is not a size, expected height and width"),
        (["--resize", "linear", "--frame-size", "0x7"], "'0x7' is not a size"),
        (["--frame-size", "10x10"], "A size of frames was given without a method to resize"),
        (["--image-input", "nope"], "Input 'nope' does not exist"),
    ],
)
def test_bad_command_lines(
    options: list[str], message: str, in_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["convert", RAW, "--stats", str(DEMO / "stats.json"), "-o", "m.xml", *options]) == 2
    assert message in capfd.readouterr().err
    assert not list(in_folder.iterdir())


# --- verification, and frames from the caller ---


def test_a_wrong_scale_fails(demo_fused_path: Path, coloured: Path, tmp_path: Path) -> None:
    frames = pp.Preprocessing(channel_order="BGR", mean=(3.0,), scale=(255.0,))
    path = pp.convert(demo_fused_path, preprocessing=frames).save(tmp_path / "model.xml")
    right = pp.verify(DEMO / "raw.onnx", path, coloured)
    assert right.passed
    assert right.preprocessing_error < 1e-5
    weights = path.with_suffix(".bin")
    scale = np.full(3, np.float32(1 / 255)).tobytes()
    assert weights.read_bytes().count(scale) == 1
    weights.write_bytes(weights.read_bytes().replace(scale, np.full(3, np.float32(1.05 / 255)).tobytes()))
    text = path.read_bytes()
    path.write_bytes(marked(text, weights_mark(weights, text)))
    wrong = pp.verify(DEMO / "raw.onnx", path, coloured)
    assert any("the preprocessing is off by 0.05" in failure for failure in wrong.failures)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_a_callers_frames_go_in_as_they_are(order: str, demo_fused_path: Path, coloured: Path) -> None:
    """Arrays are unprocessed frames; image files are RGB."""
    artifact = pp.convert(demo_fused_path, preprocessing=pp.Preprocessing(channel_order=order, scale=(255.0,)))
    files = sorted(coloured.rglob("*.png"))[:3]
    rgb = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    frames = rgb[..., ::-1] if order == "BGR" else rgb
    alone = ov.Core().compile_model(artifact.network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(frames.copy())
    runner = pp.load(artifact)
    streamed = [each.pred_score for each in runner.stream(list(frames))]
    pictures = [Image.open(file).convert("RGB") for file in files]
    for score in (
        runner(frames).pred_score,
        runner({"image": frames}).pred_score,
        np.concatenate(streamed),
        runner(files).pred_score,
        runner(pictures).pred_score,
    ):
        assert np.allclose(score, alone["pred_score"], atol=1e-6)
    assert not np.allclose(runner(frames[..., ::-1]).pred_score, alone["pred_score"], atol=1e-6)
