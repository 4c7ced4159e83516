"""Statistics in foreign JSON, IRs and fused models, and how formats are recognised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

import pp_graph as pp
from pp_graph.errors import StatisticsError
from pp_graph.statistics.reading import FORMATS
from tests.conftest import DEMO, ROOT
from tests.models import identity_model

FILES = ROOT / "tests" / "assets" / "statistics"
LEVEL = pp.LevelStatistics


def write_ir(path: Path, **info: object) -> Path:
    """An IR with a `model_info` like that of Model API's tools."""
    data = ov.opset13.parameter([1, 1, 4, 4], np.float32, name="image")
    model = ov.Model([ov.opset13.relu(data)], [data], "model")
    for key, value in info.items():
        model.set_rt_info(str(value), ["model_info", key])
    ov.save_model(model, path)
    path.with_suffix(".bin").unlink()  # it is not needed
    return path


@pytest.fixture
def files(tmp_path: Path, demo_fused_path: Path) -> dict[str, Path]:
    """A file of each format."""
    (tmp_path / "flat.json").write_text('{"image_threshold": 13.5, "image_min": 1, "image_max": 20}')
    return {
        "Anomalib 2.x checkpoint": FILES / "anomalib_2_7.ckpt",
        "Anomalib 0.x/1.x metadata.json": FILES / "metadata_1_x.json",
        "Anomalib tiled-ensemble stats.json": FILES / "tiled_ensemble.json",
        "model fused by pp_graph": demo_fused_path,
        "Model API model_info": write_ir(tmp_path / "ir.xml", image_threshold=13.5),
        "Anomalib 2.x ONNX export": FILES / "plain.onnx",
        "six numbers in JSON or YAML": tmp_path / "flat.json",
        "pp_graph statistics JSON": DEMO / "stats.json",
    }


@pytest.mark.parametrize("title", [each.title for each in FORMATS])
def test_formats_are_recognised_by_content(title: str, files: dict[str, Path], tmp_path: Path) -> None:
    assert title in files, "Add a file of this format to the fixture `files`."
    found = pp.Statistics.load(files[title])
    assert found.image.threshold is not None
    assert found.provenance is None or found.provenance.source == title
    # The file name does not matter.
    for name in ("nameless", "x.ckpt", "x.xml", "x.pth"):
        (tmp_path / name).write_bytes(files[title].read_bytes())
        again = pp.Statistics.load(tmp_path / name)
        assert (again.image, again.pixel) == (found.image, found.pixel)
    if found.provenance is not None:
        assert found.provenance.pp_graph_version == pp.__version__
        assert found.provenance.file == files[title].name
        pp.OneClassPostProcessor(found, **found.provenance.settings)
        found.save(tmp_path / "own.json")
        assert pp.Statistics.load(tmp_path / "own.json") == found


def test_own_json_is_returned_unchanged() -> None:
    assert pp.Statistics.load(DEMO / "stats.json") == pp.Statistics.from_json((DEMO / "stats.json").read_bytes())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.bin", b"\x7fELF\x02\x01", r"no known format, expected one of: .*\. It begins with b'\\x7fELF"),
        ("x.txt", b"threshold 13.5", "no known format, expected one of: "),
        ("x.yaml", b"", "it holds NoneType, expected lines such as image_threshold: 14.97"),
        ("x.yml", b"[" * 60_000, "it is not YAML"),
        ("x.yml", b"a: 2026-01-01", "it holds Object of type date"),
        ("x.json", b'{"image_min": 1, "image": {"min": 2}}', "'image_min' and 'image.min' are both given"),
        ("x.xml", b"<svg><net/></svg>", "no known format"),
        ("x.xml", b"<?xml version='1.0'?><svg/>", "no known format"),
        ("x.onnx", b"hello", "is not an ONNX model"),
        ("x", b"\x08hello", "no known format"),
        ("x.json", b"[" * 100_000, "the file holds a list"),
        ("x.json", b'{"provenance": {"source": "", "settings": ' + b'{"a":' * 100_000, "not valid JSON"),
        ("x.json", b'{"image": {}', "not valid JSON"),
    ],
)
def test_unknown_files(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(StatisticsError, match=message) as caught:
        pp.Statistics.load(tmp_path / name)
    assert str(caught.value).startswith(f"Statistics file '{tmp_path / name}'")
    if "known format" in message:
        assert all(each.title in str(caught.value) for each in FORMATS)


# --- metadata.json and the tiled ensemble ---


def load_json(tmp_path: Path, content: object) -> pp.Statistics:
    (tmp_path / "x.json").write_text(json.dumps(content))
    return pp.Statistics.load(tmp_path / "x.json")


def test_metadata() -> None:
    found = pp.Statistics.load(FILES / "metadata_1_x.json")
    assert found.image == LEVEL(threshold=13.5, min=6.5, max=21.0)
    assert found.pixel == LEVEL(threshold=11.25, min=1.5, max=20.0)
    assert found.provenance.settings == {}
    assert "(>=)" in found.provenance.notes[0]
    earlier = pp.Statistics.load(FILES / "metadata_0_7.json")
    assert earlier.image == LEVEL(threshold=13.5, min=1.5, max=21.0)
    assert earlier.pixel == LEVEL(threshold=11.25, min=1.5, max=21.0)
    assert "one range for both levels" in earlier.provenance.notes[1]


def test_incomplete_metadata(tmp_path: Path) -> None:
    # Classification has no pixel level.
    found = load_json(tmp_path, {"image_threshold": "13.5", "pred_scores.min": "6.5", "pred_scores.max": 21})
    assert found.image == LEVEL(threshold=13.5, min=6.5, max=21.0)
    assert found.pixel == LEVEL()
    assert load_json(tmp_path, {"pixel_threshold": 3}).pixel == LEVEL(threshold=3.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"image_threshold": float("inf")}, "'image_threshold' is inf, expected a finite number"),
        ({"image_threshold": 1, "min": "-Infinity"}, "'min' is -inf"),
        ({"image_threshold": [1.0]}, "'image_threshold' is a list, expected a number"),
        ({"image_threshold": True}, "'image_threshold' is a bool, expected a number|'image_threshold' is True"),
        ({"image_threshold": "high"}, "'image_threshold' is 'high', expected a number"),
        ({"image_threshold": 1, "min": 3, "max": 2}, "in 'image': 'max' is 2, expected at least 'min', 3"),
        ({"image_threshold": 1, "image_mean": 0.1, "image_std": 2}, "normalised with a CDF.*standardised logarithms"),
        ({"minmax": 3}, "'minmax' is a int"),
        ({"minmax": {"pred_score": []}}, r"'minmax\.pred_score' is a list"),
        ({"minmax": {"pred_score": {"min": float("inf")}}}, r"'minmax\.pred_score\.min' is inf"),
    ],
)
def test_invalid_json_values(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        load_json(tmp_path, content)


def test_tiled_ensemble() -> None:
    found = pp.Statistics.load(FILES / "tiled_ensemble.json")
    assert "NaN" in (FILES / "tiled_ensemble.json").read_text()
    assert found.image == LEVEL(threshold=13.5, min=6.5, max=21.0)
    assert found.pixel == LEVEL(threshold=13.5)
    assert "(>=)" in found.provenance.notes[0]


# --- Model API ---

INFO = {
    "model_type": "AnomalyDetection",
    "task": "segmentation",
    "labels": "Normal Anomaly",
    "image_threshold": 13.6021747589,
    "pixel_threshold": 11.25,
    "normalization_scale": 21.7712345123,
    "image_shape": "256 256",
}


def test_model_api(tmp_path: Path) -> None:
    found = pp.Statistics.load(write_ir(tmp_path / "model.xml", **INFO))
    assert found.image == LEVEL(threshold=13.6021747589, min=0.0, max=21.7712345123)
    assert found.pixel == LEVEL(threshold=11.25, min=0.0, max=21.7712345123)
    assert np.float32(found.image.max) - np.float32(found.image.min) == np.float32(INFO["normalization_scale"])
    assert "only the difference" in found.provenance.notes[0]
    # Model API's arithmetic.
    raw = np.random.default_rng(0).uniform(0, 30, (4, 8, 8)).astype(np.float32)
    predictions = pp.OneClassPostProcessor(found)({"anomaly_map": raw})
    theirs = np.clip((raw - INFO["pixel_threshold"]) / INFO["normalization_scale"] + 0.5, 0, 1)
    np.testing.assert_allclose(predictions.anomaly_map, theirs, atol=1e-6)
    assert np.array_equal(predictions.pred_mask, raw >= INFO["pixel_threshold"])
    assert np.array_equal(predictions.pred_label, raw.max(axis=(1, 2)) > INFO["image_threshold"])


def test_incomplete_model_info(tmp_path: Path) -> None:
    found = pp.Statistics.load(write_ir(tmp_path / "model.xml", image_threshold=13.5))
    assert (found.image.threshold, found.pixel.threshold, found.image.max) == (13.5, 0.5, 1.0)
    assert [note for note in found.provenance.notes if "is not in the file" in note] == [
        "'pixel_threshold' is not in the file; 0.5 is what Model API takes then.",
        "'normalization_scale' is not in the file; 1 is what Model API takes then.",
    ]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({}, "nor an rt_info model_info with image_threshold, pixel_threshold, normalization_scale"),
        ({**INFO, "model_type": "ssd"}, "for a model of type 'ssd', expected 'AnomalyDetection'"),
        ({"image_threshold": "high"}, "'image_threshold' is 'high', expected a number"),
        ({"image_threshold": "nan"}, "'image_threshold' is NaN, expected a number"),
        ({"normalization_scale": "inf"}, "'normalization_scale' is inf"),
        ({"normalization_scale": -1}, "'normalization_scale' is -1, expected 0 or more"),
    ],
)
def test_invalid_model_info(tmp_path: Path, info: dict[str, object], message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        pp.Statistics.load(write_ir(tmp_path / "model.xml", **info))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<?xml version='1.0'?><net><rt_info>", "not well-formed XML"),
        ("<?xml version='1.0' encoding='nonsense'?><net/>", "not well-formed XML"),
        ('<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a SYSTEM "file:///etc/passwd">]><net/>', "has a DOCTYPE"),
        ("<net>" * 50_000, "nested more than 200 deep"),
        (
            "<net><layers><rt_info><model_info><image_threshold value='1'/></model_info></rt_info></layers></net>",
            "nor an rt",
        ),
    ],
)
def test_bad_xml(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.xml").write_text(text)
    with pytest.raises(StatisticsError, match=message):
        pp.Statistics.load(tmp_path / "x.xml")


# --- artifacts of pp_graph ---


def test_fused_and_converted_models(tmp_path: Path) -> None:
    stats = pp.Statistics.load(DEMO / "stats.json")
    given = {"image_sensitivity": 0.7, "match_thresholds": False, "on_nan": "normal", "outputs": ("pred_label",)}
    post = pp.OneClassPostProcessor(stats, **given)
    fused = pp.fuse(DEMO / "raw.onnx", post, tail=False)
    fused.save(tmp_path / "fused.onnx")
    pp.convert(fused).save(tmp_path / "model.xml")
    for file in ("fused.onnx", "model.xml"):
        found = pp.Statistics.load(tmp_path / file)
        assert (found.image, found.pixel) == (stats.image, stats.pixel)
        assert found.provenance.source == "model fused by pp_graph"
        again = pp.OneClassPostProcessor(found, **found.provenance.settings)
        assert again.parameters() == post.parameters()


def test_provenance_is_kept(tmp_path: Path) -> None:
    imported = pp.Statistics.load(FILES / "metadata_1_x.json")
    pp.fuse(DEMO / "raw.onnx", pp.OneClassPostProcessor(imported), tail=False).save(tmp_path / "fused.onnx")
    found = pp.Statistics.load(tmp_path / "fused.onnx")
    assert found.provenance.notes == imported.provenance.notes


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{}", "provenance cannot be read"),
        ("nonsense", "provenance cannot be read"),
        (
            '{"post_processor": "X", "parameters": {}, "statistics": null}',
            "'X' was fused without statistics, expected those of an anomaly model",
        ),
        ('{"post_processor": "X", "parameters": {}, "statistics": {"image": {"min": 2, "max": 1}}}', "'max' is 1"),
    ],
)
def test_invalid_provenance(tmp_path: Path, metadata: str, message: str) -> None:
    model = identity_model({"pred_score": ["N"]})
    model.metadata_props.add(key="pp_graph", value=metadata)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(StatisticsError, match=message):
        pp.Statistics.load(tmp_path / "x.onnx")


def test_yaml_by_hand(tmp_path: Path) -> None:
    (tmp_path / "flat.yaml").write_text("image_threshold: 13.5\nimage_min: 1\nimage_max: 20\npixel_threshold: 2\n")
    (tmp_path / "nested.yml").write_text("image: {threshold: 13.5, min: 1, max: 20}\npixel:\n  threshold: 2\n")
    expected = pp.Statistics(image=LEVEL(threshold=13.5, min=1, max=20), pixel=LEVEL(threshold=2))
    assert pp.Statistics.load(tmp_path / "flat.yaml") == pp.Statistics.load(tmp_path / "nested.yml") == expected
