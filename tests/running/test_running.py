"""Models run as they are deployed: the same decisions as everywhere else, whatever the images come in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.data import open_images
from pp_graph.errors import DataError, DeviceError, ModelError, ProvenanceError, TargetError
from pp_graph.openvino import OpenVINOModel
from pp_graph.openvino import session as session_module
from pp_graph.running.feeding import first_of, join_predictions, to_predictions
from pp_graph.sessions import run_in_batches
from tests.conftest import DEMO
from tests.models import STATS, conv_model, identity_model, run, score_and_map

NAMES = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def runner(demo_ir_path: Path) -> pp.Runner:
    return pp.load(demo_ir_path)


@pytest.fixture(scope="module")
def small() -> pp.Runner:
    """A network whose image size is open."""
    return pp.load(pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS)))


@pytest.fixture(scope="module")
def two_inputs() -> pp.Runner:
    return pp.load(pp.fuse(score_and_map(), pp.OneClassPostProcessor(STATS)))


def same(found: pp.Predictions, expected: pp.Predictions) -> bool:
    pairs = [(getattr(found, name), getattr(expected, name)) for name in NAMES]
    return all(
        (a is None and b is None) or (a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype != bool))
        for a, b in pairs
    )


def alike(found: pp.Predictions, expected: pp.Predictions) -> bool:
    """Equal decisions, and numbers that differ by rounding at most."""
    return all(np.allclose(found[name], expected[name], atol=1e-5) for name in NAMES)


def test_decides_as_the_session_that_verify_runs(
    demo_ir_path: Path, runner: pp.Runner, demo_images: np.ndarray
) -> None:
    session = OpenVINOModel.load(demo_ir_path).session()
    expected = run_in_batches(session, {"image": demo_images})
    found = runner(demo_images)
    # The runner compiles for the sizes that come, so numbers may differ in their last digits.
    for name in ("pred_label", "pred_mask"):
        assert np.array_equal(getattr(found, name), expected[name])
        assert getattr(found, name).dtype == bool
    for name in ("pred_score", "anomaly_map"):
        np.testing.assert_allclose(getattr(found, name), expected[name], atol=1e-5)
        assert getattr(found, name).dtype == np.float32


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("kind", ["ir", "onnx", "memory", "converted"])
def test_decides_as_onnxruntime(kind: str, demo_ir_path: Path, demo_fused_path: Path, demo_images: np.ndarray) -> None:
    expected = run(str(demo_fused_path), {"image": demo_images})
    model = {
        "ir": demo_ir_path,
        "onnx": str(demo_fused_path),
        "memory": pp.FusedModel.load(demo_fused_path),
        "converted": OpenVINOModel.load(demo_ir_path),
    }[kind]
    found = pp.load(model)(demo_images)
    assert 0 < expected["pred_mask"].sum() < expected["pred_mask"].size / 2
    for name in ("pred_label", "pred_mask"):
        assert np.array_equal(getattr(found, name), expected[name])
    np.testing.assert_allclose(found.anomaly_map, expected["anomaly_map"], atol=1e-5)


def test_real_case_decides_as_its_reference(brick: Path, tmp_path: Path) -> None:
    fused = pp.fuse(brick / "raw.onnx", pp.OneClassPostProcessor(pp.Statistics.load(brick / "stats.json")))
    images = np.load(brick / "images.npz")["image"]
    found = list(pp.load(fused, mode="throughput").stream(images[start : start + 7] for start in range(0, 80, 7)))
    labels = np.concatenate([each.pred_label for each in found])
    masks = np.concatenate([each.pred_mask for each in found])
    reference = np.load(brick / "ref.npz")
    expected = np.unpackbits(reference["pred_mask"]).reshape(masks.shape).astype(bool)
    assert np.array_equal(labels.ravel(), reference["pred_label"].ravel())
    assert (masks != expected).sum() <= 2  # of 5.2 million; the raw model itself differs by one between runtimes


@pytest.mark.sample(every=6)
@pytest.mark.parametrize("device", ["CPU", "AUTO"])
@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_streaming_gives_what_calling_gives(
    demo_ir_path: Path, demo_images: np.ndarray, device: str, mode: str
) -> None:
    runner = pp.load(demo_ir_path, device=device, mode=mode)
    items = [demo_images[:1], demo_images[1:4], demo_images[4], demo_images[5:12], demo_images[11:], demo_images[2:4]]
    streamed = list(runner.stream(items))
    assert [len(each.pred_label) for each in streamed] == [1, 3, 1, 7, 1, 2]
    for item, found in zip(items, streamed, strict=True):
        expected = runner(item)
        assert np.array_equal(found.pred_label, expected.pred_label)
        assert np.array_equal(found.pred_mask, expected.pred_mask)
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, atol=1e-6)


def test_streams_of_any_size(small: pp.Runner) -> None:
    sizes = [(1, 8, 9), (3, 20, 31), (2, 8, 9), (5, 5, 5), (1, 64, 3), (4, 20, 31)] * 5
    items = [RNG.normal(0, 1, (count, 3, height, width)).astype(np.float32) for count, height, width in sizes]
    streamed = list(small.stream(items))
    assert len(streamed) == len(items)
    for item, found in zip(items, streamed, strict=True):
        assert alike(found, small(item))
        assert found.pred_mask.shape == (len(item), 1, *item.shape[2:])


def test_a_few_sizes_are_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[list[int]] = []

    def compile_for(model: ov.Model, device: str, **settings: Any) -> ov.CompiledModel:
        shape = model.inputs[0].partial_shape
        compiled.append([] if shape.is_dynamic else list(shape.to_shape()))
        return real(model, device, **settings)

    real = session_module.compile_for
    monkeypatch.setattr(session_module, "compile_for", compile_for)
    runner = pp.load(pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS)))
    image = RNG.normal(0, 1, (7, 3, 12, 8)).astype(np.float32)
    for count in (1, 2, 1, 3, 4, 1, 5, 6, 5):
        assert len(runner(image[:count]).pred_label) == count
    assert [shape and shape[0] for shape in compiled] == [[], 1, 2, 3, 4], "others run with open sizes"
    for _ in range(2):
        runner(image[:5])
    assert compiled[5:] == [[5, 3, 12, 8]], "a size that comes often replaces the one that was used longest ago"
    runner(image[:1])
    assert len(compiled) == 6
    runner(image[:2])
    assert len(compiled) == 6, "it was replaced, and has to come often again"
    fixed = pp.load(pp.convert(pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS)), input_shape=(2, 3, 12, 8)))
    before = len(compiled)
    fixed(image)
    assert len(compiled) == before


def test_arrays_of_the_caller_are_read_only() -> None:
    """A call reads the caller's array without copying it; nothing may ever be written there."""
    small = pp.load(pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS)))
    images = [RNG.normal(0, 1, (1, 3, 12, 8)).astype(np.float32) for _ in range(8)]
    before = [image.copy() for image in images]
    called = [small(image) for image in images]
    streamed = list(small.stream(images))
    images[0].setflags(write=False)
    again = [small(image) for image in images]
    for image, kept, *found in zip(images, before, called, streamed, again, strict=True):
        assert np.array_equal(image, kept)
        assert same(found[0], found[1])
        assert same(found[0], found[2])
    results = called[0].anomaly_map.copy()
    images[1][:] = 7
    small(images[1])
    assert np.array_equal(called[0].anomaly_map, results)


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("batch", [1, 3, 4])
def test_a_batch_that_the_model_fixes(
    demo_fused_path: Path, demo_images: np.ndarray, runner: pp.Runner, batch: int
) -> None:
    fixed = pp.load(pp.convert(demo_fused_path, input_shape=(batch, 3, 256, 256)))
    assert fixed.inputs[0].shape == (batch, 3, 256, 256)
    expected = runner(demo_images)
    for found in (fixed(demo_images), join_predictions(list(fixed.stream(demo_images)), {})):
        assert found.pred_score.shape == (12, 1)
        assert np.array_equal(found.pred_label, expected.pred_label)
        assert np.array_equal(found.pred_mask, expected.pred_mask)
    for count in (1, 2, 4, 5, 8):
        assert np.array_equal(fixed(demo_images[6 : 6 + count]).pred_mask, expected.pred_mask[6 : 6 + count])
    folder = fixed(DEMO / "images")
    assert np.array_equal(folder.pred_mask, expected.pred_mask)


def test_every_form_of_images(runner: pp.Runner, demo_images: np.ndarray, tmp_path: Path) -> None:
    expected = runner(demo_images)
    pixels = np.round(demo_images * 255).astype(np.uint8)
    files = sorted((DEMO / "images").rglob("*.png"))
    np.savez(tmp_path / "images.npz", image=pixels)
    np.save(tmp_path / "images.npy", demo_images)
    for images in (
        pixels,
        pixels.transpose(0, 2, 3, 1),
        demo_images.astype(np.float64),
        {"image": demo_images},
        DEMO / "images",
        str(DEMO / "images"),
        tmp_path / "images.npz",
        tmp_path / "images.npy",
        files,
        [str(file) for file in files],
        list(demo_images),
        [Image.open(file).convert("RGB") for file in files],
        open_images(DEMO / "images"),
    ):
        found = runner(images)
        assert np.array_equal(found.pred_label, expected.pred_label)
        assert np.array_equal(found.pred_mask, expected.pred_mask)
    one = runner(demo_images[6:7])
    for image in (
        demo_images[6],
        demo_images[6].transpose(1, 2, 0),
        pixels[6],
        Image.open(files[6]),
        files[6],
        str(files[6]),
        [files[6]],
        {"image": demo_images[6]},
    ):
        assert same(runner(image), one)
    assert one.pred_mask.shape == (1, 1, 256, 256)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_pictures_of_any_mode_are_read_as_their_files(runner: pp.Runner, mode: str, tmp_path: Path) -> None:
    picture = Image.open(sorted((DEMO / "images").rglob("*.png"))[6]).convert(mode)
    picture.save(tmp_path / f"image.{'tiff' if mode == 'CMYK' else 'png'}")
    expected = runner(tmp_path)
    for given in (picture, [picture]):
        assert same(runner(given), expected)


def test_a_folder_and_an_npz_stream_image_by_image(runner: pp.Runner, demo_images: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", image=demo_images)
    expected = runner(demo_images)
    for source in (DEMO / "images", str(tmp_path / "images.npz"), open_images(DEMO / "images")):
        streamed = list(runner.stream(source))
        assert [each.pred_mask.shape for each in streamed] == [(1, 1, 256, 256)] * 12
        assert np.array_equal(np.concatenate([each.pred_mask for each in streamed]), expected.pred_mask)


def test_files_are_resized_to_the_model_and_keep_their_size_where_it_is_open(
    runner: pp.Runner, small: pp.Runner, tmp_path: Path
) -> None:
    for index, size in enumerate([(300, 200), (40, 50)]):
        Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(tmp_path / f"{index}.png")
    assert runner(tmp_path).pred_mask.shape == (2, 1, 256, 256)
    assert [each.pred_mask.shape for each in small.stream(tmp_path)] == [(1, 1, 200, 300), (1, 1, 50, 40)]
    with pytest.raises(DataError, match="Output 'anomaly_map' has different sizes .* Give them one by one to stream"):
        small(tmp_path)


def test_several_inputs(two_inputs: pp.Runner) -> None:
    assert [each.name for each in two_inputs.inputs] == ["image", "level"]
    image = RNG.normal(0.7, 1, (5, 1, 6, 7)).astype(np.float32)
    level = RNG.normal(1.2, 1, (5, 1)).astype(np.float32)
    post = pp.OneClassPostProcessor(STATS)
    expected = post({"pred_score": level, "anomaly_map": image})
    feeds = {"image": image, "level": level}
    found = two_inputs(feeds)
    assert np.array_equal(found.pred_label, expected.pred_label)
    assert np.array_equal(found.pred_mask, expected.pred_mask)
    one = two_inputs({"image": image[3], "level": level[3]})
    assert np.array_equal(one.pred_mask, expected.pred_mask[3:4])
    streamed = list(two_inputs.stream({name: array[i : i + 2] for name, array in feeds.items()} for i in (0, 2, 4)))
    assert np.array_equal(np.concatenate([each.pred_label for each in streamed]), expected.pred_label)
    with pytest.raises(DataError, match=r"Found arrays 'image' in the data, expected an array for each input"):
        two_inputs({"image": image})
    with pytest.raises(DataError, match="Array for input 'level' holds 2 items, expected 5"):
        two_inputs({"image": image, "level": level[:2]})


@pytest.mark.parametrize("outputs", [("pred_label",), ("pred_label", "pred_mask"), ("anomaly_map",)])
def test_outputs_that_are_not_there_are_none(outputs: tuple[str, ...]) -> None:
    found = pp.load(pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS, outputs=outputs)))
    assert found.outputs == outputs
    predictions = found(np.ones((2, 3, 8, 8), np.float32))
    assert {name for name in NAMES if getattr(predictions, name) is not None} == set(outputs)


def test_raw_values_that_were_kept_do_not_disturb() -> None:
    fused = pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS), keep_raw=True)
    images = RNG.normal(0, 1, (5, 3, 8, 8)).astype(np.float32)
    assert pp.load(fused).outputs == NAMES
    found = pp.load(pp.convert(fused, input_shape=(2, 3, 8, 8)))(images)
    expected = run(fused, {"image": images})
    assert found.pred_mask.any()
    assert np.array_equal(found.pred_mask, expected["pred_mask"])
    np.testing.assert_allclose(found.pred_score, expected["pred_score"], atol=1e-5)
    raw = [name for name in expected if name not in NAMES]
    assert raw
    assert all(found[name].shape == expected[name].shape for name in raw), "those of single images come too"


def test_outputs_of_the_raw_model_come_too() -> None:
    """What nobody post-processes, such as the state of a recurrent model, is there under its name."""
    recipe = ({"step": "compare", "source": "raw_score", "target": "pred_label", "level": 0.5},)
    proto = identity_model({"score": ["N"], "state": ["N", 2, 3], "grid": [2, "K"]})
    fused = pp.fuse(proto, pp.RecipePostProcessor(recipe=recipe), keep_raw=True)
    feeds = {
        "score_in": np.array([0, 1, 2], np.float32),
        "state_in": RNG.normal(size=(3, 2, 3)).astype(np.float32),
        "grid_in": np.ones((2, 5), np.float32),
    }
    runner = pp.load(fused)
    assert runner.outputs == ("pred_label",)
    assert runner.raw_outputs == ("score", "state", "grid")
    outputs = {"pred_label": np.array([False, True, True]), "score": feeds["score_in"], "state": feeds["state_in"]}
    found = to_predictions({**outputs, "grid": feeds["grid_in"]}, fused.provenance)
    assert list(found) == ["pred_label", "score", "state", "grid"]
    assert all(np.array_equal(found[name], array) for name, array in outputs.items())
    axes = {"score": 0, "state": 0, "grid": None}
    first = first_of(found, 1, 3, axes)
    assert first["state"].shape == (1, 2, 3)
    # What is not of single images cannot be cut or put together.
    assert "grid" not in first
    joined = join_predictions([found, first], axes)
    assert joined["state"].shape == (4, 2, 3)
    assert "grid" not in joined


def test_a_state_is_handed_on() -> None:
    recipe = ({"step": "compare", "source": "raw_score", "target": "pred_label", "level": 0.5},)
    fused = pp.fuse(identity_model({"score": ["N"], "state": ["N", 2, 3]}), pp.RecipePostProcessor(recipe=recipe))
    state = RNG.normal(size=(3, 2, 3)).astype(np.float32)
    found = pp.load(fused)({"score_in": np.array([0, 1, 2], np.float32), "state_in": state})
    assert np.array_equal(found["state"], state)
    assert found.pred_label.tolist() == [False, True, True]


@pytest.mark.sample(every=2)
@pytest.mark.parametrize(
    "form", [{"pack": True}, {"mask_dtype": "u8_255"}, {"mask_dtype": "f32", "outputs": ("pred_label", "pred_mask")}]
)
def test_every_form_of_output_is_read_alike(form: dict, demo_images: np.ndarray) -> None:
    data = Path(pp.__file__).parent / "demo/data"
    statistics = pp.Statistics.load(data / "stats.json")
    plain = pp.load(pp.fuse(data / "raw.onnx", pp.OneClassPostProcessor(statistics)))(demo_images)
    runner = pp.load(pp.fuse(data / "raw.onnx", pp.OneClassPostProcessor(statistics, **form)))
    found = runner(demo_images)
    assert found.pred_mask.dtype == found.pred_label.dtype == bool
    for name in runner.outputs:
        assert np.allclose(getattr(found, name), getattr(plain, name), atol=1e-6)
    assert np.array_equal(found.pred_mask, plain.pred_mask)
    assert runner.outputs == tuple(form.get("outputs", NAMES))


def test_results_stay_valid(runner: pp.Runner, demo_images: np.ndarray) -> None:
    first = runner(demo_images[6:7])
    kept = {name: getattr(first, name).copy() for name in NAMES}
    given = demo_images[6:7].copy()
    runner(given)
    for image in demo_images:
        runner(image)
    streamed = list(runner.stream([demo_images[6:7], *demo_images[:5]]))
    for name in NAMES:
        assert np.array_equal(getattr(first, name), kept[name])
        assert np.array_equal(getattr(streamed[0], name), kept[name])
    assert np.array_equal(given, demo_images[6:7])


def test_an_array_may_be_reused_while_it_streams(runner: pp.Runner, demo_images: np.ndarray) -> None:
    def frames() -> Iterator[np.ndarray]:
        buffer = np.empty_like(demo_images[0])
        for image in demo_images:
            buffer[...] = image
            yield buffer

    found = np.concatenate([each.pred_mask for each in runner.stream(frames())])
    assert np.array_equal(found, runner(demo_images).pred_mask)


def test_an_endless_stream_is_read_only_as_far_as_needed(small: pp.Runner) -> None:
    read = []

    def endless() -> Iterator[np.ndarray]:
        for index in itertools.count():
            read.append(index)
            yield np.full((1, 3, 8, 8), index % 7, np.float32)

    stream = small.stream(endless())
    assert read == []
    for done in range(1, 40):
        assert same(next(stream), small(np.full((1, 3, 8, 8), (done - 1) % 7, np.float32)))
        assert len(read) <= done + small.in_flight + 1
    stream.close()
    count = len(read)
    with pytest.raises(StopIteration):
        next(stream)
    assert len(read) == count
    assert len(small(np.zeros((2, 3, 8, 8), np.float32)).pred_label) == 2


def test_results_do_not_wait_for_a_slow_source(small: pp.Runner) -> None:
    """A camera whose next frame is far away: what is ready is given out before that is asked for."""
    asked = []

    def camera() -> Iterator[np.ndarray]:
        for index in range(6):
            asked.append(index)
            # The device has one queue, so that what was started before these is done when they are.
            for _ in range(3):
                small(np.zeros((1, 3, 8, 8), np.float32))
            yield np.full((1, 3, 8, 8), index, np.float32)

    asked_at = [len(asked) for _ in small.stream(camera())]
    # Result k is there when frame k + 1 was asked for, not only when all requests are taken.
    assert all(count <= index + 2 for index, count in enumerate(asked_at))
    assert len(asked_at) == 6


def test_an_error_in_the_items_comes_after_the_results_before_it(runner: pp.Runner, demo_images: np.ndarray) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from demo_images[:3]
        raise KeyError("camera unplugged")

    stream = runner.stream(broken())
    assert [next(stream).pred_label.shape for _ in range(3)] == [(1, 1)] * 3
    with pytest.raises(KeyError, match="camera unplugged"):
        next(stream)
    stream = runner.stream([demo_images[0], demo_images[1, :, :100], demo_images[2]])
    next(stream)
    with pytest.raises(DataError, match=r"Images have shape \(1, 3, 100, 256\), expected"):
        next(stream)
    assert same(runner(demo_images[:1]), next(runner.stream([demo_images[:1]])))


def test_an_error_in_the_runtime_leaves_the_runner_usable() -> None:
    # Channels are open in the declaration, but not in the network.
    proto = conv_model()
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "C"
    runner = pp.load(pp.fuse(proto, pp.OneClassPostProcessor(STATS)))
    good, bad = np.ones((1, 3, 8, 8), np.float32), np.ones((1, 5, 8, 8), np.float32)
    expected = runner(good)
    with pytest.raises(
        TargetError, match="OpenVINO failed on a batch: .* Do the images have the model's size and layout"
    ):
        runner(bad)
    stream = runner.stream([good, good, bad, good, good])
    assert same(next(stream), expected)
    assert same(next(stream), expected)
    with pytest.raises(TargetError, match="OpenVINO failed on a batch"):
        next(stream)
    assert all(same(each, expected) for each in runner.stream([good] * 9))
    assert same(runner(good), expected)


def test_many_threads_and_streams_at_once(runner: pp.Runner, demo_images: np.ndarray) -> None:
    expected = [runner(image) for image in demo_images]

    def call(index: int) -> bool:
        if index % 3 == 0:
            return all(map(same, runner.stream(demo_images), expected))
        return all(same(runner(demo_images[each % 12]), expected[each % 12]) for each in range(index, index + 6))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(call, range(18)))
    # A call inside a stream, and two streams in turns.
    for left, right, image in zip(runner.stream(demo_images), runner.stream(demo_images), demo_images, strict=True):
        assert same(left, right)
        assert same(left, runner(image))


def test_what_it_says_about_itself(runner: pp.Runner, demo_ir_path: Path, demo_fused_path: Path) -> None:
    assert [(each.name, each.dtype, each.shape) for each in runner.inputs] == [
        ("image", "float32", (None, 3, 256, 256))
    ]
    assert runner.outputs == NAMES
    assert runner.provenance == OpenVINOModel.load(demo_ir_path).provenance
    assert (runner.device, runner.precision, runner.mode) == ("CPU", "f32", "latency")
    assert runner.in_flight >= 2
    assert repr(runner) == (
        "<Runner model.xml: image (?, 3, 256, 256) float32 -> pred_score, pred_label, anomaly_map, pred_mask; "
        "OpenVINO on CPU, f32, for latency>"
    )
    assert "fused.onnx" in repr(pp.load(demo_fused_path))


@pytest.mark.parametrize("precision", ["bf16", "f16", None])
def test_other_precisions_drift_as_their_session_does(
    demo_ir_path: Path, demo_images: np.ndarray, precision: str | None
) -> None:
    runner = pp.load(demo_ir_path, inference_precision=precision)
    session = OpenVINOModel.load(demo_ir_path).session(precision=precision)
    assert runner.precision == session.precision
    assert np.array_equal(runner(demo_images).pred_mask, session.run({"image": demo_images})["pred_mask"])


LOADING = [
    ({"model": "nowhere.xml"}, ModelError, "Model file 'nowhere.xml' "),
    ({"model": "nowhere.onnx"}, ModelError, "Model file 'nowhere.onnx' "),
    ({"model": DEMO / "raw.onnx"}, ProvenanceError, "has no post-processing by pp_graph"),
    ({"device": "TPU"}, DeviceError, "Device 'TPU' is not known"),
    ({"device": "CPU.x"}, DeviceError, "Device 'CPU.x' is not known"),
    ({"inference_precision": "f8"}, TargetError, "Inference precision 'f8' is not known, expected one of: f32"),
    ({"mode": "fast"}, TargetError, "Mode 'fast' is not known, expected one of: latency, throughput"),
]


@pytest.mark.parametrize(("settings", "kind", "message"), LOADING, ids=lambda value: str(value)[:40])
def test_bad_loading(demo_ir_path: Path, settings: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        pp.load(**{"model": demo_ir_path, **settings})


def test_an_ir_that_is_not_ours(tmp_path: Path) -> None:
    import openvino as ov

    onnx.save(identity_model({"score": ["N", 1]}), tmp_path / "raw.onnx")
    ov.save_model(ov.Core().read_model(tmp_path / "raw.onnx"), tmp_path / "theirs.xml")
    with pytest.raises(ProvenanceError, match="has no post-processing by pp_graph"):
        pp.load(tmp_path / "theirs.xml")


def test_bad_images(runner: pp.Runner, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x")
    image = np.zeros((1, 3, 256, 256), np.float32)
    cases = [
        (np.empty((0, 3, 256, 256), np.float32), "No images in the data"),
        ({"image": image[:0]}, "No images in the data"),
        ({}, "No images in the data"),
        ([], "No images in the list"),
        (tmp_path / "empty", "holds no images"),
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / "nowhere.png", "does not exist, expected an image file"),
        (tmp_path / "text.txt", r"is a '\.txt' file"),
        (tmp_path / "broken.png", r"broken\.png' cannot be read"),
        ([tmp_path / "broken.png", DEMO / "images"], "expected image files ending in"),
        ([tmp_path / "broken.png", image], "Paths and arrays are mixed"),
        ([image[0], image[0, :, :9]], "Images in a list have different shapes"),
        (image[:, :, :100], r"Images have shape \(1, 3, 100, 256\), expected"),
        (image[:, :2], r"Images have shape \(1, 2, 256, 256\), expected"),
        (image[0, 0], r"Images have shape \(256, 256\), expected"),
        (np.float32(1), "No images in the data"),
        (image.astype(np.int64), "Images hold int64, expected uint8 or floating point"),
        (image.astype(object), "holds object of shape .* expected numbers"),
        (image.astype(np.complex64), "holds complex64 of shape .* expected numbers"),
        ({"other": image}, "Found arrays 'other' in the data, expected image"),
        (42, "Images are given as int, expected an array"),
        ((each for each in image), "Images are given as generator.* use stream"),
        (None, "Images are given as NoneType"),
    ]
    for images, message in cases:
        with pytest.raises(DataError, match=message):
            runner(images)
    for items in (42, {"image": image}, None):
        with pytest.raises(DataError, match="A stream is given as .*, expected an iterable"):
            runner.stream(items)
    with pytest.raises(DataError, match="does not exist"):
        runner.stream(tmp_path / "nowhere")
    assert list(runner.stream([])) == []
    assert len(runner(image).pred_label) == 1
