"""The page to explore, as files and as text; `test_in_browser.py` opens it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.errors import DataError, OutputFileError, PostProcessorError, StatisticsError, UnlabelledError
from pp_graph.exploring.encoding import encode_map
from pp_graph.postprocessors import ClassificationPostProcessor, DetectionPostProcessor
from pp_graph.statistics import StatisticsProvenance
from tests.classifiers import classifier
from tests.conftest import DEMO
from tests.detectors import detector

RNG = np.random.default_rng(5)


def meta_of(page: pp.Exploration) -> dict:
    return json.loads(re.search(r'id="meta">(.*?)</script>', page.html, re.DOTALL)[1])


def decoded(text: str, height: int, width: int) -> np.ndarray:
    """The page's decoding, in NumPy."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(4, -1)
    bits = np.ascontiguousarray(planes.T).view("<u4").reshape(height, width)
    return np.cumsum(np.cumsum(bits, 0, dtype=np.uint32), 1, dtype=np.uint32).view(np.float32)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (33, 20)])
def test_maps_travel_without_loss(shape: tuple[int, int]) -> None:
    numbers = RNG.normal(size=shape).astype(np.float32)
    numbers.ravel()[::3] = RNG.choice([np.nan, np.inf, -np.inf, -0.0, 1e-42, 3e38], len(numbers.ravel()[::3]))
    assert decoded(encode_map(numbers), *shape).tobytes() == numbers.tobytes()


@pytest.fixture(scope="module")
def page(demo_ir_path: Path) -> pp.Exploration:
    return pp.explore(demo_ir_path, DEMO / "images")


def test_page_of_labelled_images_holds_all_of_them(page: pp.Exploration) -> None:
    meta = meta_of(page)
    assert (page.images, page.shown) == (12, 12)
    assert meta["names"][0] == "good/00.png"
    assert len(meta["models"][0]["masks"]) == 6
    assert meta["models"][0]["levels"]["image"]["sensitivity"] == 0.5
    assert "default-src 'none'" in page.html
    assert not re.search(r"""(src|href)=["']?http|url\(|fetch\(""", page.html)
    assert repr(page).startswith("<Exploration of 12 images")
    assert "srcdoc" in page._repr_html_()


def test_scores_are_those_that_run_decides_on(page: pp.Exploration, demo_ir_path: Path) -> None:
    meta = meta_of(page)
    scores = np.frombuffer(base64.b64decode(meta["scores"][0]), np.float32)
    level = meta["models"][0]["levels"]["image"]
    post = pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"))
    found = pp.load(demo_ir_path)(DEMO / "images")
    expected = post({"pred_score": scores})
    assert np.array_equal(expected.pred_label.ravel(), found.pred_label.ravel())
    assert np.allclose(expected.pred_score.ravel(), found.pred_score.ravel(), atol=1e-6)
    assert level["threshold"] == np.float32(post.statistics.image.threshold)


def test_more_images_than_the_limit_are_a_sample_that_is_said(demo_ir_path: Path) -> None:
    page = pp.explore(demo_ir_path, DEMO / "images", max_images=5)
    meta = meta_of(page)
    assert (page.images, page.shown) == (12, 5)
    assert len(np.frombuffer(base64.b64decode(meta["scores"][0]), np.float32)) == 12
    assert any("5 of 12 images are shown" in note for note in page.notes)
    assert page.html.count("received([") == 5
    small = pp.explore(demo_ir_path, DEMO / "images", max_megabytes=0.5)
    assert small.shown < 5
    assert len(small.html) < 0.8e6


def test_sample_holds_the_same_maps(demo_ir_path: Path) -> None:
    """Images that are run again for the page run in the same batches."""
    maps = {}
    for limit in (12, 3):
        page = pp.explore(demo_ir_path, DEMO / "images", max_images=limit, batch_size=4)
        shown = meta_of(page)["names"]
        rows = [json.loads(each) for each in re.findall(r"received\((\[.*?\])\)</script>", page.html)]
        maps[limit] = dict(zip(shown, (row[2] for row in rows), strict=True))
    assert set(maps[3]) < set(maps[12])
    assert all(maps[12][name] == content for name, content in maps[3].items())


def test_images_without_labels(demo_ir_path: Path, demo_images: np.ndarray, tmp_path: Path) -> None:
    page = pp.explore(demo_ir_path, demo_images[:2])
    assert any("without labels" in note for note in page.notes)
    folder = pp.explore(demo_ir_path, DEMO / "images" / "grass")
    assert any("expected a folder 'good'" in note for note in folder.notes)
    assert meta_of(folder)["models"][0]["masks"] == []
    with pytest.raises(UnlabelledError, match="holds no images in 'good'|in no folder"):
        pp.explore(demo_ir_path, DEMO / "images" / "grass", masks=tmp_path)


def test_levels_follow_the_outputs(demo_post: pp.OneClassPostProcessor) -> None:
    labels = pp.explore(
        pp.fuse(DEMO / "raw.onnx", pp.OneClassPostProcessor(demo_post.statistics, outputs=("pred_label",))),
        DEMO / "images",
    )
    model = meta_of(labels)["models"][0]
    assert list(model["levels"]) == ["image"]
    assert model["maps"] is None
    small = pp.explore(
        pp.fuse(DEMO / "raw.onnx", pp.OneClassPostProcessor(demo_post.statistics, map_size=(40, 50), pack=True)),
        DEMO / "images",
    )
    assert meta_of(small)["models"][0]["maps"][0][:2] == [40, 50]


def test_command_of_a_raw_model_keeps_the_settings_of_its_statistics(demo_post: pp.OneClassPostProcessor) -> None:
    settings = {"normalize": False, "on_nan": "normal"}
    provenance = StatisticsProvenance(source="test", settings=settings)
    statistics = pp.Statistics(
        image=demo_post.statistics.image, pixel=demo_post.statistics.pixel, provenance=provenance
    )
    roles = {"raw_score": "pred_score"}
    page = pp.explore(DEMO / "raw.onnx", DEMO / "images" / "good", statistics=statistics, masks=False, roles=roles)
    command = meta_of(page)["models"][0]["command"]
    assert command.endswith("raw.onnx --role raw_score=pred_score --no-normalize --on-nan normal")


def test_calibration_explores_what_it_calibrated() -> None:
    calibration = pp.calibrate(DEMO / "raw.onnx", DEMO / "images", resamples=0)
    meta = meta_of(calibration.explore())
    assert meta["models"][0]["levels"]["image"]["threshold"] == calibration.statistics.image.threshold


def test_errors_say_what_to_do(page: pp.Exploration, demo_ir_path: Path, tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match="raw model without statistics.*--stats"):
        pp.explore(DEMO / "raw.onnx", DEMO / "images")
    with pytest.raises(DataError, match="The limits are 0 images"):
        pp.explore(demo_ir_path, DEMO / "images", max_images=0)
    undecided = pp.fuse(
        DEMO / "raw.onnx", pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"), threshold=False)
    )
    with pytest.raises(PostProcessorError, match="expected pred_label or pred_mask"):
        pp.explore(undecided, DEMO / "images")
    page.save(tmp_path / "page.html")
    with pytest.raises(OutputFileError, match="exists already"):
        page.save(tmp_path / "page.html")


def test_errors_of_other_families(demo_ir_path: Path) -> None:
    data = {"image": np.zeros((2, 3, 64, 64), np.float32), "in0": np.zeros((2, 7, 84), np.float32)}
    found = pp.fuse(detector((7, 84)), DetectionPostProcessor(head="yolov8"))
    oriented = pp.fuse(detector((8, 84)), DetectionPostProcessor(head="yolov8-obb"))
    named = pp.fuse(classifier(), ClassificationPostProcessor())
    for model, given, message in (
        (found, {"compare": found}, "given for a detector, expected them for anomaly models"),
        (found, {"boxes": "coco.json"}, "given for arrays, expected a folder"),
        (oriented, {}, "boxes are oriented, expected upright boxes"),
        (named, {"letterbox": True}, "given for a classifier, expected neither"),
        (demo_ir_path, {"boxes": "coco.json"}, "without detections, expected a detector"),
    ):
        with pytest.raises((DataError, PostProcessorError), match=message):
            pp.explore(model, data, **given)


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("raw.onnx", "stats.json"):
        shutil.copy(DEMO / name, tmp_path)
    arguments = ["explore", "raw.onnx", "--stats", "stats.json", "--data", str(DEMO / "images")]
    assert run([*arguments, "--compare", "stats.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shown"] == 12
    assert Path("explore.html").stat().st_size > 1e6
    assert run(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert run([*arguments, "-o", "page.txt"]) == 2
    assert "expected '.html'" in capsys.readouterr().err
