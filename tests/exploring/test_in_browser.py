"""The page in a browser decides as the model that `retune` writes with the page's own command line."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.cli import run
from tests.conftest import DEMO
from tests.exploring.conftest import set_number, settle
from tests.models import identity_model

MASK = "(place) => new TextDecoder().decode(maskOf(models[0], place).map((pixel) => pixel + 48))"


def masks_on(page: Any, count: int) -> np.ndarray:
    return np.array([np.frombuffer(page.evaluate(MASK, place).encode(), np.uint8) for place in range(count)]) == ord(
        "1"
    )


def taken(page: Any, model: Path, images: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Do what the page's command line says, run the result, and return its labels and masks."""
    words = shlex.split(page.text_content("#command-0"))
    assert words[0] == "pp-graph"
    if "--stats" in words:
        Path("settings.json").write_text(page.text_content("#json-0"))
    written = Path(words[-1])
    assert run([*words[1:], "--force"] if "retune" in words else words[1:]) == 0
    assert run(["run", str(written), str(images), "-o", name, "--save", "masks"]) == 0
    with Path(name, "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    masks = [np.asarray(Image.open(Path(name, row["mask"]))) > 0 for row in rows]
    return np.array([row["pred_label"] for row in rows]), np.array(masks)


def compare(page: Any, model: Path, images: Path, name: str) -> int:
    """Count the decisions compared; there must be no difference."""
    labels, masks = taken(page, model, images, name)
    shown = page.evaluate("Array.from(models[0].labels)")
    assert {label.lower() for label in labels} <= {"true", "false", "0", "1"}
    assert [int(label.lower() in ("true", "1")) for label in labels] == shown
    on_page = masks_on(page, len(masks)).reshape(masks.shape)
    assert not (on_page != masks).sum()
    return len(labels) + masks.size


def test_decides_as_the_retuned_model(open_page, demo_ir_path: Path) -> None:
    page = open_page(pp.explore(demo_ir_path, DEMO / "images"))
    set_number(page, "image-sensitivity-number", 0.77)
    set_number(page, "pixel-sensitivity-number", 0.41)
    assert compare(page, demo_ir_path, DEMO / "images", "first") == 12 + 12 * 256 * 256
    set_number(page, "pixel-threshold", 13.25)
    page.focus("[aria-label='image threshold']")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        settle(page)
    assert float(page.input_value("#image-threshold")) > 15
    compare(page, demo_ir_path, DEMO / "images", "second")


def test_gallery_filters_and_metrics_follow(open_page, demo_ir_path: Path) -> None:
    page = open_page(pp.explore(demo_ir_path, DEMO / "images", compare=demo_ir_path))
    assert page.locator("#gallery li").count() == 12
    page.check("text=A >> input")
    set_number(page, "image-threshold", 9.5)
    page.select_option("#filter", "alarms")
    settle(page)
    alarms = page.locator("#gallery li").count()
    assert 0 < alarms < 6
    assert page.locator("#table tr", has_text="false alarm").locator("td").all_text_contents() == [str(alarms), "0"]
    page.select_option("#filter", "differ")
    settle(page)
    assert page.locator("#gallery li").count() == alarms
    page.click("#gallery button >> nth=0")
    assert page.locator("dialog[open]").count() == 1
    page.keyboard.press("Shift+ArrowRight")
    assert "row 0, column 1: " in page.text_content("#pointed")
    box = page.locator("dialog canvas").nth(1).bounding_box()
    assert abs(box["width"] - box["height"]) < 2
    page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.9)
    row, column = map(int, re.findall(r"row (\d+), column (\d+): ", page.text_content("#pointed"))[0])
    assert abs(row - 230) <= 2
    assert abs(column - 25) <= 2
    name = page.text_content("#viewer-name")
    page.keyboard.press("ArrowRight")
    assert page.text_content("#viewer-name") != name
    page.keyboard.press("Escape")
    page.click("text=Reset settings")
    settle(page)
    assert page.locator("#gallery li").count() == 0


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("settings", [{"on_nan": "normal"}, {"normalize": False}, {"thresholds": "runtime"}], ids=str)
def test_cutoffs_on_the_page_are_those_of_the_program(open_page, demo_post, settings: dict) -> None:
    fused = pp.fuse(DEMO / "raw.onnx", pp.OneClassPostProcessor(demo_post.statistics, **settings), tail=False)
    page = open_page(pp.explore(fused, DEMO / "images" / "good", masks=False))
    sensitivities = [0.5] if "normalize" in settings else [0, 1e-9, 0.1, 0.37, 0.5, 0.9999, 1]
    levels = [
        {"threshold": 14.97, "min": 9.2, "max": 27.4},
        {"threshold": 0.0, "min": 0.0, "max": 1e-38},
        {"threshold": -3e-39, "min": -1e-38, "max": 0.0},
        {"threshold": 1e30, "min": -1e30, "max": 1e38},
        {"threshold": 5.0, "min": 5.0, "max": 5.0},
        {"threshold": -7.5, "min": -8.0, "max": -7.0},
    ]
    for numbers in levels:
        statistics = pp.Statistics(image=pp.LevelStatistics(**numbers), pixel=pp.LevelStatistics(**numbers))
        for sensitivity in sensitivities:
            changes = {} if "normalize" in settings else {"image_sensitivity": sensitivity}
            step = fused.program.replace(statistics, **changes).comparisons["pred_label"]
            level = {name: float(np.float32(value)) for name, value in numbers.items()}
            level |= {"sensitivity": sensitivity, "nanIsAnomalous": True, "adjustable": step.runtime}
            if "normalize" in settings:
                level |= {"min": None, "max": None}
            found = page.evaluate("(level) => String(cutoffOf(level))", level)
            assert np.array_equal(np.float32(found.replace("Infinity", "inf")), step.cutoffs, equal_nan=True), level
            if step.runtime:
                written = page.evaluate("(level) => String(written(level, cutoffOf(level)))", level)
                assert np.array_equal(np.float32(written), step.runtime_cutoff, equal_nan=True), level


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("settings", [{}, {"on_nan": "normal"}, {"thresholds": "runtime"}], ids=str)
def test_decides_about_any_number(open_page, settings: dict) -> None:
    """NaN, infinities and the neighbours of the cutoffs, at several sensitivities."""
    level = pp.LevelStatistics(threshold=0.3, min=-0.7, max=1.9)
    post = pp.OneClassPostProcessor(pp.Statistics(image=level, pixel=level), **settings)
    fused = pp.fuse(identity_model({"pred_score": ["N", 1], "anomaly_map": ["N", 1, 6, 6]}), post)
    sensitivities = [0, 0.25, 0.5, 0.91, 1]
    cutoffs = [
        fused.program.replace(image_sensitivity=each).comparisons["pred_label"].cutoffs for each in sensitivities
    ]
    near = [np.nextafter(each, np.float32(way)) for each in cutoffs for way in (-np.inf, np.inf)]
    numbers = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 3e38, *cutoffs, *near, *np.linspace(-2, 3, 15)], np.float32)
    maps = np.resize(numbers, (len(numbers), 1, 6, 6))
    data = {"pred_score_in": numbers[:, None], "anomaly_map_in": maps}
    page = open_page(pp.explore(fused, data))
    for sensitivity in sensitivities:
        set_number(page, "image-sensitivity-number", sensitivity)
        set_number(page, "pixel-sensitivity-number", sensitivity)
        found = pp.load(pp.retune(fused, image_sensitivity=sensitivity, pixel_sensitivity=sensitivity))(data)
        assert page.evaluate("Array.from(models[0].labels)") == found.pred_label.ravel().astype(int).tolist()
        assert np.array_equal(masks_on(page, len(numbers)), found.pred_mask.reshape(len(numbers), -1))


def test_labels_alone_and_in_the_frame_of_a_notebook(browser: Any, demo_post, tmp_path: Path) -> None:
    post = pp.OneClassPostProcessor(demo_post.statistics, outputs=("pred_label",))
    shown = pp.explore(pp.fuse(DEMO / "raw.onnx", post), DEMO / "images")
    (tmp_path / "notebook.html").write_text(f"<!DOCTYPE html><body>{shown._repr_html_()}</body>")
    page = browser.new_page()
    page.goto((tmp_path / "notebook.html").as_uri())
    frame = page.frames[1]
    frame.wait_for_selector("body[data-ready]")
    assert frame.locator("#gallery li[data-label=anomalous]").count() == 6
    assert frame.locator(".histogram").count() == 1
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fused", "ir", "raw"])
def test_decides_as_the_retuned_model_at_many_settings(open_page, brick: Path, tmp_path: Path, kind: str) -> None:
    arrays = np.load(brick / "images.npz")
    part = slice(30, 50)
    np.savez("some.npz", image=arrays["image"][part], label=arrays["label"][part], mask=arrays["mask"][part])
    statistics = pp.Statistics.load(brick / "stats.json")
    fused = pp.fuse(brick / "raw.onnx", pp.OneClassPostProcessor(statistics))
    if kind == "raw":
        model = brick / "raw.onnx"
    elif kind == "fused":
        model = fused.save(tmp_path / "fused.onnx")
    else:
        model = pp.convert(fused).save(tmp_path / "model.xml")
    page = open_page(pp.explore(model, "some.npz", statistics=statistics if kind == "raw" else None))
    decisions = 0
    generator = np.random.default_rng(3)
    for index in range(6):
        set_number(page, "image-sensitivity-number", round(float(generator.uniform()), 3))
        set_number(page, "pixel-sensitivity-number", round(float(generator.uniform()), 3))
        if index > 2:
            level = statistics.pixel
            set_number(page, "pixel-threshold", float(generator.uniform(level.min, level.max)))
            set_number(page, "image-threshold", float(generator.uniform(level.min, level.max)))
        Path("tuned.xml").unlink(missing_ok=True)
        Path("tuned.bin").unlink(missing_ok=True)
        Path("tuned.usage.md").unlink(missing_ok=True)
        decisions += compare(page, model, Path("some.npz"), f"out{index}")
    print(f"{kind}: {decisions:,} decisions compared, 0 different")
