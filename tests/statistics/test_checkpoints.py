"""Torch checkpoints, read without torch and without executing code from them."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pp_graph as pp
from pp_graph.errors import StatisticsError
from pp_graph.statistics.anomalib_checkpoint import BUFFERS
from pp_graph.statistics.torch_file import Built, Name, follow, mappings
from tests.conftest import ROOT

FILES = ROOT / "tests" / "assets" / "statistics"
IMAGE = pp.LevelStatistics(threshold=9.959613800048828, min=7.425710201263428, max=15.979560852050781)
PIXEL = pp.LevelStatistics(threshold=7.9113240242004395, min=1.5876535177230835, max=15.979560852050781)
DEFAULTS = {
    "normalize": True,
    "threshold": True,
    "match_thresholds": True,
    "image_sensitivity": 0.5,
    "pixel_sensitivity": 0.5,
}


@pytest.mark.slow
def test_small_bombs_stay_small(tmp_path: Path) -> None:
    """Small files that could take minutes or gigabytes: nested keys, computed shapes, deep XML, many opcodes."""
    nested = b"\x80\x02)" + b"2\x86" * 60 + b"\x8c\x01a\x93."
    torch_zip(tmp_path / "names.ckpt", nested)
    torch_zip(tmp_path / "many.ckpt", b"\x80\x02" + b"}" * 6_000_000 + b".")
    (tmp_path / "deep.xml").write_bytes(b"<net><rt_info>" + b'<a value="1">' * 50_000)
    for kind in ("ConstantOfShape", "Tile", "Range"):
        onnx.save(_normalizing_by(kind), tmp_path / f"{kind}.onnx")
    tracemalloc.start()
    try:
        started = time.perf_counter()
        for file in sorted(tmp_path.iterdir()):
            with pytest.raises(StatisticsError):
                pp.Statistics.load(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 500 * 2**20
    assert time.perf_counter() - started < 60


def _normalizing_by(kind: str) -> onnx.ModelProto:
    """`clip((x - 2) / extent + 0.5, 0, 1)` with an extent of a billion numbers."""
    constants = {"t": 2.0, "half": 0.5, "zero": 0.0, "one": 1.0, "size": np.array([10**9]), "billion": 1e9}
    inputs = {"ConstantOfShape": ["size"], "Tile": ["one", "size"], "Range": ["zero", "billion", "one"]}[kind]
    steps = [("Sub", ["x", "t"], "a"), (kind, inputs, "e"), ("Div", ["a", "e"], "b"), ("Add", ["b", "half"], "c")]
    steps.append(("Clip", ["c", "zero", "one"], "pred_score"))
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, names, [output]) for operator, names, output in steps],
        "graph",
        [onnx.helper.make_tensor_value_info("x", 1, ["N", 1])],
        [onnx.helper.make_tensor_value_info("pred_score", 1, None)],
        [
            onnx.numpy_helper.from_array(np.asarray(value, None if name == "size" else np.float32), name)
            for name, value in constants.items()
        ],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)


def torch_zip(path: Path, pickled: bytes, records: dict[str, bytes] | None = None, **options: int) -> Path:
    """A file in the layout of torch.save."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in {"version": b"3\n", "byteorder": b"little", **(records or {})}.items():
            archive.writestr(f"archive/{name}", data)
    return path


def tensor(key: str, dtype: str = "FloatStorage", offset: int = 0, size: bytes = b")") -> bytes:
    """Opcodes of one tensor."""
    text = b"".join(b"X" + struct.pack("<I", len(each)) + each for each in (b"storage",))
    key_text = b"X" + struct.pack("<I", len(key)) + key.encode()
    storage = b"((" + text + f"ctorch\n{dtype}\n".encode() + key_text + b"X\x03\x00\x00\x00cpuK\x01tQ"
    rest = b"J" + struct.pack("<i", offset) + size + b")\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + storage + rest + b"tR"


def state_dict(**tensors: bytes) -> bytes:
    entries = b"".join(b"X" + struct.pack("<I", len(name)) + name.encode() + code for name, code in tensors.items())
    return b"\x80\x02}(" + entries + b"u."


@pytest.mark.parametrize(
    ("file", "pixel", "given_settings"),
    [
        ("anomalib_2_7.ckpt", PIXEL, {**DEFAULTS, "image_sensitivity": 0.7}),
        ("anomalib_2_2.ckpt", PIXEL, DEFAULTS),
        ("model.pt", PIXEL, {**DEFAULTS, "image_sensitivity": 0.6}),
        ("deeper_prefix.ckpt", PIXEL, {}),
        ("post_processor.pt", pp.LevelStatistics(min=PIXEL.min, max=PIXEL.max), {}),
    ],
)
def test_every_layout(file: str, pixel: pp.LevelStatistics, given_settings: dict[str, object]) -> None:
    found = pp.Statistics.load(FILES / file)
    assert (found.image, found.pixel) == (IMAGE, pixel)
    assert found.provenance.source == "Anomalib 2.x checkpoint"
    assert found.provenance.file == file
    assert len(found.provenance.sha256) == 64
    assert found.provenance.settings == given_settings
    assert bool(found.provenance.notes) == (not given_settings)
    assert pp.Statistics.from_json(found.to_json()) == found
    pp.OneClassPostProcessor(found, **found.provenance.settings)


def test_types_of_numbers() -> None:
    found = pp.Statistics.load(FILES / "dtypes.pt")
    assert (found.image.threshold, found.pixel.threshold) == (9.9609375, PIXEL.threshold)  # float16, float64
    assert (found.image.max, found.pixel.max) == (15.9765625, 16.0)  # float16, bfloat16
    assert (found.image.min, found.pixel.min) == (7.4375, PIXEL.min)  # bfloat16, float64


def test_trained_model(brick: Path) -> None:
    found = pp.Statistics.load(brick / "post_processor.ckpt")
    expected = pp.Statistics.load(brick / "stats.json")
    assert (found.image, found.pixel) == (expected.image, expected.pixel)
    assert found.provenance.settings == DEFAULTS


def test_byte_order_and_offset(tmp_path: Path) -> None:
    pickled = state_dict(_image_threshold=tensor("0", offset=2), image_min=tensor("1"), image_max=tensor("1", offset=1))
    records = {"byteorder": b"big", "data/0": np.arange(4, dtype=">f4").tobytes(), "data/1": b"\0" * 4 + b"\x41\0\0\0"}
    found = pp.Statistics.load(torch_zip(tmp_path / "x.pt", pickled, records))
    assert found.image == pp.LevelStatistics(threshold=2.0, min=0.0, max=8.0)


def test_torch_is_not_imported() -> None:
    code = (
        f"import sys, pp_graph as pp; pp.Statistics.load({str(FILES / 'anomalib_2_7.ckpt')!r})\n"
        "assert not {'torch', 'onnx', 'openvino', 'anomalib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


def test_the_size_of_a_checkpoint_does_not_matter(tmp_path: Path) -> None:
    pickled = state_dict(_image_threshold=tensor("0"), weight=tensor("1"))
    path = torch_zip(tmp_path / "big.ckpt", pickled, {"data/0": struct.pack("<f", 3.5), "data/1": bytes(128 << 20)})
    tracemalloc.start()
    began = time.perf_counter()
    found = pp.Statistics.load(path)
    seconds, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.image.threshold == 3.5
    assert found.provenance.sha256 is None
    assert peak < 4 << 20
    assert seconds < 1


# --- harmful pickles ---


class Attack:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nothing_in_a_pickle_is_run(tmp_path: Path, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    pickled = pickle.dumps({"state_dict": {"x": Attack(canary)}}, protocol=protocol)
    pickle.loads(pickled)
    assert canary.exists(), "the attack does not work, so the test shows nothing"
    canary.unlink()
    with pytest.raises(StatisticsError, match="no buffers of a post-processor"):
        pp.Statistics.load(torch_zip(tmp_path / "attack.ckpt", pickled))
    assert not canary.exists()


def test_no_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "canary_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    attack = b"ccanary_module\nThing\n)\x81}b"
    pickled = state_dict(_image_threshold=tensor("0"), attack=attack)
    found = pp.Statistics.load(torch_zip(tmp_path / "x.pt", pickled, {"data/0": struct.pack("<f", 3.5)}))
    assert found.image.threshold == 3.5
    assert "canary_module" not in sys.modules
    assert follow(b"\x80\x02" + attack + b".") == Built(Name("canary_module", "Thing"), (), {})


def nested(count: int) -> bytes:
    return b"\x80\x02" + b"]" * count + b"a" * (count - 1) + b"."


def tuple_keys(count: int) -> bytes:
    """A key whose hash takes 2**count steps."""
    return b"\x80\x02})" + b"2\x86" * count + b"K\x01s."


HARMFUL = {
    "deep": nested(200_000),
    "deep dicts": b"\x80\x02" + b"}X\x01\x00\x00\x00a" * 100_000 + b"N" + b"s" * 100_000 + b".",
    "cycle": b"\x80\x02]q\x00h\x00a}q\x01X\x01\x00\x00\x00ah\x01s0.",
    "exponential key": tuple_keys(60),
    "huge text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"abc.",
    "huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 46) + b"abc.",
    "huge memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "huge integer": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"abc.",
    "no end": b"\x80\x02}",
    "empty": b"",
    "underflow": b"\x80\x02tttt.",
    "unknown memo": b"\x80\x02h\x07.",
    "no pickle": b"hello",
    "old class": b"(cos\nsystem\nS'true'\no.",
    "instance": b"(S'true'\nios\nsystem\n.",
    "extension": b"\x80\x02\x82\x01.",
    "text identifier": b"Pabc\n.",
}


@pytest.mark.parametrize("pickled", HARMFUL.values(), ids=HARMFUL)
def test_harmful_pickles(tmp_path: Path, pickled: bytes) -> None:
    path = torch_zip(tmp_path / "x.ckpt", pickled)
    began = time.perf_counter()
    with pytest.raises(StatisticsError, match=r"Statistics file '.*x\.ckpt': it"):
        pp.Statistics.load(path)
    assert time.perf_counter() - began < 10


@settings(max_examples=300)
@given(st.sampled_from(["anomalib_2_2.ckpt", "model.pt"]), st.data())
def test_a_damaged_pickle_is_an_error_or_harmless(file: str, data: st.DataObject) -> None:
    with zipfile.ZipFile(FILES / file) as archive:
        pickled = bytearray(archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(pickled) - 1))
        pickled[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        found = follow(bytes(pickled))
    except StatisticsError:
        return
    assert all(isinstance(entries, dict) for _, entries in mappings(found))


def test_plain_pickles() -> None:
    content = {
        "a": [1, -2, 2**40, 2**70, 0.5, None, True, False, "é", b"bytes"],
        "b": {"c": (1,), "d": (1, 2), "e": (1, 2, 3), "f": (1, 2, 3, 4), "g": ()},
        "h": OrderedDict(x=1),
    }
    content["again"] = content["b"]
    for protocol in (2, 3, 4, 5):
        plain = content if protocol > 2 else {**content, "a": content["a"][:-1]}  # bytes are built by a call there
        assert follow(pickle.dumps(plain, protocol=protocol)) == plain


def test_invalid_escapes_do_not_warn() -> None:
    assert follow(b"S'\\X'\n.") == "\\X"


# --- incomplete files ---


def damaged(file: str, keep: float) -> bytes:
    data = (FILES / file).read_bytes()
    return data[: int(len(data) * keep)]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("cut.ckpt", damaged("anomalib_2_7.ckpt", 0.6), "a damaged zip file"),
        ("images.npz", None, r"without data\.pkl"),
    ],
)
def test_not_a_torch_file(tmp_path: Path, name: str, data: bytes | None, message: str) -> None:
    if data is None:
        stream = io.BytesIO()
        np.savez(stream, image=np.zeros(3))
        data = stream.getvalue()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(StatisticsError, match=message):
        pp.Statistics.load(tmp_path / name)


NAN = struct.pack("<f", float("nan"))


@pytest.mark.parametrize(
    ("tensors", "records", "message"),
    [
        ({"weight": tensor("0")}, {}, r"expected 'post_processor\._image_threshold'.*found 'weight'\. Validate"),
        ({"image_min": tensor("0")}, {"data/0": NAN}, r"no buffers of a post-processor.*found 'image_min'"),
        ({"_image_threshold": tensor("0")}, {}, r"'_image_threshold': its record 'data/0' cannot be read"),
        ({"_image_threshold": tensor("0")}, {"data/0": b"ab"}, r"'data/0' is cut short"),
        ({"_image_threshold": tensor("0", offset=9)}, {"data/0": NAN}, r"'data/0' is cut short"),
        ({"_image_threshold": tensor("../../x")}, {}, r"record 'data/\.\./\.\./x' cannot be read"),
        ({"_image_threshold": tensor("0", "BoolStorage")}, {"data/0": NAN}, "a tensor is a BoolStorage"),
        ({"_image_threshold": tensor("0", size=b"K\x02\x85")}, {"data/0": NAN * 2}, "not a tensor with one number"),
        ({"_image_threshold": b"X\x01\x00\x00\x00a"}, {}, "not a tensor with one number"),
        ({"_image_threshold": tensor("0")}, {"data/0": struct.pack("<f", float("inf"))}, "_image_threshold' is inf"),
        (
            {"a.post_processor._image_threshold": tensor("0"), "post_processor._image_threshold": tensor("1")},
            {"data/0": struct.pack("<f", 1.0), "data/1": struct.pack("<f", 2.0)},
            r"2 post-processors with different numbers, under 'a\.post_processor\.', 'post_processor\.', expected one",
        ),
        (
            {"_image_threshold": tensor("0"), "image_min": tensor("1"), "image_max": tensor("0")},
            {"data/0": struct.pack("<f", 1), "data/1": struct.pack("<f", 2)},
            "in 'image': 'max' is 1, expected at least 'min', 2",
        ),
    ],
)
def test_errors_name_the_cause(
    tmp_path: Path, tensors: dict[str, bytes], records: dict[str, bytes], message: str
) -> None:
    path = torch_zip(tmp_path / "x.ckpt", state_dict(**tensors), records)
    with pytest.raises(StatisticsError, match=message) as caught:
        pp.Statistics.load(path)
    assert "x.ckpt" in str(caught.value)


def test_nan_is_unknown(tmp_path: Path) -> None:
    tensors = {"_image_threshold": tensor("0"), "pixel_min": tensor("1")}
    path = torch_zip(tmp_path / "x.ckpt", state_dict(**tensors), {"data/0": NAN, "data/1": struct.pack("<f", 2.0)})
    found = pp.Statistics.load(path)
    assert (found.image, found.pixel) == (pp.LevelStatistics(), pp.LevelStatistics(min=2.0))
    path = torch_zip(tmp_path / "y.ckpt", state_dict(_image_threshold=tensor("0")), {"data/0": NAN})
    with pytest.raises(StatisticsError, match="it holds no number: threshold, min and max of both levels are unknown"):
        pp.Statistics.load(path)


@pytest.mark.parametrize(
    "prefix",
    [
        "post_processor.", "_orig_mod.post_processor.", "module.post_processor.", "module._orig_mod.post_processor.",
        "model.post_processor._orig_mod.", "model.", "post.", "net.decider._orig_mod.", "module.",
    ],
)  # fmt: skip
def test_wrappers_and_attributes_of_any_name(tmp_path: Path, prefix: str) -> None:
    names = [f"{prefix}{buffer}" for buffer in BUFFERS]
    tensors = {name: tensor(str(index)) for index, name in enumerate(names)}
    data = {f"data/{index}": struct.pack("<f", 1.0 + index) for index in range(6)}
    found = pp.Statistics.load(torch_zip(tmp_path / "x.ckpt", state_dict(**tensors), data))
    assert [found.image.threshold, found.image.min, found.image.max] == [1.0, 2.0, 3.0]
    assert [found.pixel.threshold, found.pixel.min, found.pixel.max] == [4.0, 5.0, 6.0]


def test_the_checkpoint_of_our_own_callback(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    state = {
        "version": 1, "post_processor": "OneClassPostProcessor", "outdated": True,
        "parameters": {"image_sensitivity": 0.25, "unknown": 3},
        "statistics": {"schema_version": 1, "image": {"threshold": 1.5, "min": 1.0, "max": 2.0}, "pixel": {"threshold": None}},
    }  # fmt: skip
    torch.save({"state_dict": {}, "callbacks": {"PostProcessorCallback": state}}, tmp_path / "x.ckpt")
    found = pp.Statistics.load(tmp_path / "x.ckpt")
    assert (found.image.threshold, found.image.max, found.pixel.threshold) == (1.5, 2.0, None)
    assert found.provenance.settings == {"image_sensitivity": 0.25}
    assert found.provenance.notes == ["The model was trained after these statistics were found."]
    assert found.provenance.source == "checkpoint of pp_graph's Lightning callback"
    state["statistics"]["image"] = 3
    torch.save({"callbacks": {"PostProcessorCallback": state}}, tmp_path / "y.ckpt")
    with pytest.raises(StatisticsError, match="state of its PostProcessorCallback is damaged"):
        pp.Statistics.load(tmp_path / "y.ckpt")


A, B, UNKNOWN = (1.1, 0.5, 3.0, 2.0, 1.0, 4.0), (1.5, 0.5, 3.0, 2.0, 1.0, 4.0), (float("nan"),) * 6


def buffers(prefix: str, numbers: tuple[float, ...], count: int = 6) -> dict[str, object]:
    import torch

    names = (f"{prefix}{name}" for name in BUFFERS)
    return dict(zip(list(names)[:count], map(torch.tensor, numbers), strict=False))


def callback_state(numbers: tuple[float, ...], **changes: object) -> dict[str, object]:
    levels = {
        level: dict(zip(("threshold", "min", "max"), part, strict=True))
        for level, part in (("image", numbers[:3]), ("pixel", numbers[3:]))
    }
    statistics = {"schema_version": 1, **levels}
    own = {"version": 1, "post_processor": "OneClassPostProcessor", "parameters": {}, "outdated": False}
    return {**own, "statistics": statistics, **changes}


def loaded(tmp_path: Path, content: object) -> pp.Statistics:
    import torch

    torch.save(content, tmp_path / "x.ckpt")
    return pp.Statistics.load(tmp_path / "x.ckpt")


def test_post_processors_that_differ_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    callbacks = {"callbacks": {"P{'a'}": callback_state(B)}}
    contradictions = {
        "'post.', 'post_processor.'": buffers("post_processor.", A) | buffers("post.", B),
        "'no prefix', 'post_processor.'": buffers("post_processor.", A) | buffers("", B),
        "'a/post.', 'b/post.'": {"a": buffers("post.", A), "b": buffers("post.", B)},
        "'callbacks/P{'a'}', 'post.'": {"state_dict": buffers("post.", A), **callbacks},
        "'callbacks/P', 'callbacks/Q'": {"callbacks": {"P": callback_state(A), "Q": callback_state(B)}},
    }
    for names, content in contradictions.items():
        with pytest.raises(StatisticsError, match="2 post-processors with different numbers") as caught:
            loaded(tmp_path, content)
        assert names in str(caught.value)


def test_post_processors_that_agree_are_one(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    both = {"state_dict": buffers("post.", A), "callbacks": {"P": callback_state(A)}}
    agreeing: list[dict[str, object]] = [
        buffers("post_processor.", A) | buffers("post.", A),
        buffers("post_processor.", UNKNOWN) | buffers("post.", A),
        buffers("a.", A) | buffers("b.", UNKNOWN),
        buffers("post_processor.", A, 3) | buffers("post.", A),
        # What the constructor was given is not what validation found.
        {"state_dict": buffers("post_processor.", A), "hyper_parameters": {"post": buffers("", B)}},
        {"state_dict": buffers("post.", A), "callbacks": {"P": callback_state(A, statistics=None)}},
        both,
    ]
    for content in agreeing:
        found = loaded(tmp_path, content)
        assert (round(found.image.threshold, 6), found.image.max, found.pixel.max) == (1.1, 3.0, 4.0)
    assert loaded(tmp_path, both).image.threshold == 1.1  # of the callback, which keeps more digits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "has version 99, expected 1"),
        (
            {"parameters": {"image_sensitivity": 2}},
            "in 'callbacks/P': image_sensitivity is 2, expected a number from 0",
        ),
        ({"statistics": {"image": {}, "pixel": {}}}, "it holds no number"),
    ],
)
def test_states_of_our_callback_that_do_not_fit(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(StatisticsError, match=message):
        loaded(tmp_path, {"callbacks": {"P": callback_state(A, **changes)}})


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    pickled = b"\x80\x02" + b"0" * (1 << 20) + b"."
    path = torch_zip(tmp_path / "bomb.ckpt", pickled, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(StatisticsError, match="is compressed, expected one that is not"):
        pp.Statistics.load(path)


def checkpoint_with(tmp_path: Path, config: dict[str, object]) -> Path:
    entries = pickle.dumps(config, protocol=2)[2:-1]
    key = b"anomalib_post_processor_config"
    inner = state_dict(**{"post_processor._image_threshold": tensor("900")})[2:-1]
    pickled = b"\x80\x02}(X\x0a\x00\x00\x00state_dict" + inner
    pickled += b"X" + struct.pack("<I", len(key)) + key + entries + b"u."
    return torch_zip(tmp_path / "x.ckpt", pickled, {"data/900": struct.pack("<f", 3.5)})


def test_settings(tmp_path: Path) -> None:
    path = checkpoint_with(tmp_path, {"enable_threshold_matching": False, "pixel_sensitivity": 0.25})
    assert pp.Statistics.load(path).provenance.settings == {"match_thresholds": False, "pixel_sensitivity": 0.25}
    # Without normalisation, Anomalib compares raw values with 1 - sensitivity. pp_graph has no sensitivity then.
    found = pp.Statistics.load(checkpoint_with(tmp_path, {"enable_normalization": False, "image_sensitivity": 0.75}))
    assert found.provenance.settings == {"normalize": False}
    assert "compares raw values with 1 - sensitivity" in found.provenance.notes[0]
    found = pp.Statistics.load(checkpoint_with(tmp_path, {"sample_rate": 4, "min_interval_len": 4}))
    assert "MEBinPostProcessor" in found.provenance.notes[0]
    with pytest.raises(StatisticsError, match="'enable_normalization' is a str, expected True or False"):
        pp.Statistics.load(checkpoint_with(tmp_path, {"enable_normalization": "yes"}))
    with pytest.raises(StatisticsError, match="'image_sensitivity' is a list, expected a number"):
        pp.Statistics.load(checkpoint_with(tmp_path, {"image_sensitivity": [0.5]}))


def test_legacy_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(StatisticsError, match=r"torch before 1\.6.*pip install torch"):
        pp.Statistics.load(FILES / "legacy.pt")


# --- with torch, if installed ---


def test_legacy_with_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="legacy files are read by torch, which is not installed")
    found = pp.Statistics.load(FILES / "legacy.pt")
    assert found.image == IMAGE
    assert found.pixel.threshold is None
    canary = tmp_path / "canary"
    torch.save({"x": Attack(canary)}, tmp_path / "attack.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(StatisticsError, match="weights_only=True"):
        pp.Statistics.load(tmp_path / "attack.pt")
    assert not canary.exists()


def test_files_of_the_installed_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="a real checkpoint is written by torch, which is not installed")
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        low, threshold, high = torch.rand(3, generator=generator).sort().values.to(dtype)
        buffers = {"_image_threshold": threshold, "image_min": low, "image_max": high}
        # The slices share one storage, so two of them have an offset.
        saved = {"state_dict": {f"post_processor.{name}": value for name, value in buffers.items()}, "epoch": 3}
        saved["state_dict"]["weight"] = torch.nn.Parameter(torch.rand(64))
        torch.save(saved, tmp_path / "x.ckpt")
        found = pp.Statistics.load(tmp_path / "x.ckpt").image
        assert (found.threshold, found.min, found.max) == tuple(map(float, (threshold, low, high)))
