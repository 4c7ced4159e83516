"""Regions of the mask of an anomaly model: `OneClassPostProcessor(regions=K)`, `--regions K`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from scipy.ndimage import gaussian_filter

import pp_graph as pp
from pp_graph.cli import run as call
from pp_graph.errors import OpsetError, PostProcessorError
from pp_graph.postprocessors.anomaly import REGION_OUTPUTS
from tests.conftest import DEMO
from tests.models import STATS, from_text, identity_model

NAMES = [output.name for output in REGION_OUTPUTS]
K = 4


def raw(opset: int = 18) -> onnx.ModelProto:
    return from_text(
        f"""<ir_version: 8, opset_import: ["": {opset}]>
        raw (float[N,1,32,40] image) => (float[N,1,32,40] heat) {{ heat = Identity(image) }}"""
    )


@pytest.fixture(scope="module")
def maps() -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 1, (12, 1, 32, 40))
    images = (8 * gaussian_filter(noise, (0, 0, 2, 2))).astype(np.float32)
    images[0], images[1, 0, 3, 3:5] = -1, np.nan
    return images


@pytest.mark.sample(every=6)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mask_dtype": "u8_255"},
        {"outputs": ("pred_label",)},
        {"thresholds": "runtime"},
        {"map_size": (64, 80)},
        {"normalize": False},
    ],
    ids=str,
)
def test_artifacts_return_the_regions_of_their_mask(maps: np.ndarray, options: dict[str, Any]) -> None:
    post = pp.OneClassPostProcessor(STATS, regions=K, **options)
    fused = pp.fuse(raw(), post)
    masks = pp.OneClassPostProcessor(STATS, **{**options, "outputs": None, "mask_dtype": "bool"})
    whole = pp.load(pp.fuse(raw(), masks))({"image": maps})
    for artifact in (fused, pp.convert(fused)):
        report = pp.verify(raw(), artifact, {"image": maps})
        assert report.passed, report.failures
        found = pp.load(artifact)({"image": maps})
        assert list(found)[-5:] == NAMES
        for place, (mask, map_) in enumerate(zip(whole.pred_mask, whole.anomaly_map, strict=True)):
            count, labels, stats, _ = cv2.connectedComponentsWithStats(mask[0].astype(np.uint8))
            assert found.region_count[place] == count - 1
            areas = np.sort(stats[1:, 4])[::-1][:K]
            assert found.region_areas[place].tolist() == [*areas, *[0] * (K - len(areas))]
            for box, area, score in zip(
                found.region_boxes[place], found.region_areas[place], found.region_scores[place], strict=True
            ):
                inside = np.zeros(mask[0].shape, bool)
                inside[slice(*box[1::2].astype(int)), slice(*box[0::2].astype(int))] = True
                same = [
                    label for label in range(1, count)
                    if stats[label, 4] == area and not (labels == label)[~inside].any()
                ]  # fmt: skip
                numbers = np.nan_to_num(map_[0], nan=2.0**126)
                assert not area or score in [np.float32(numbers[labels == label].max()) for label in same]


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("name", ["fused.onnx", "model.xml"])
def test_retuned_and_converted_again(maps: np.ndarray, tmp_path: Path, name: str) -> None:
    fused = pp.fuse(raw(), pp.OneClassPostProcessor(STATS, regions=K))
    (fused if name == "fused.onnx" else pp.convert(fused)).save(tmp_path / name)
    assert pp.retune(tmp_path / name, pixel_sensitivity=0.7).way == "constants"
    expected = pp.load(pp.fuse(raw(), pp.OneClassPostProcessor(STATS, pixel_sensitivity=0.7, regions=K)))
    found, wanted = pp.load(tmp_path / name)({"image": maps}), expected({"image": maps})
    for output in NAMES:
        assert np.array_equal(found[output], wanted[output])


@pytest.mark.slow
def test_every_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    model, stats, images = (str(DEMO / name) for name in ("raw.onnx", "stats.json", "images"))
    assert call(["fuse", model, "--stats", stats, "-o", "fused.onnx"]) == 0
    assert call(["convert", "fused.onnx", "--regions", "3", "-o", "model.xml"]) == 0
    assert call(["verify", model, "model.xml", "--data", images]) == 0
    assert call(["inspect", "model.xml"]) == 0
    assert "pixels of the map" in capsys.readouterr().out
    assert call(["run", "model.xml", images, "-o", "out"]) == 0
    rows = list(csv.DictReader(Path("out/regions.csv").read_text().splitlines()))
    listed = json.loads(Path("out/predictions.json").read_text())["predictions"]
    table = list(csv.DictReader(Path("out/predictions.csv").read_text().splitlines()))
    for entry, line in zip(listed, table, strict=True):
        mine = [row for row in rows if row["image"] == entry["image"]]
        assert len(mine) == min(3, entry["region_count"]) == min(3, int(line["region_count"]))
        assert [int(row["area"]) for row in mine] == [area for area in entry["region_areas"] if area]
    # The pictures have the size of the map, so their boxes are those of the model.
    boxes = [box for entry in listed for box in entry["region_boxes"] if any(box)]
    assert [[float(row[name]) for name in ("x1", "y1", "x2", "y2")] for row in rows] == boxes
    assert call(["run", "model.xml", images, "-o", "out", "--force", "--save", "none"]) == 0
    assert files() == ["predictions.csv", "predictions.json", "regions.csv"]
    assert call(["run", "model.xml", images, "-o", "out", "--force", "--save", "none", "--format", "json"]) == 0
    assert files() == ["predictions.json"]


def test_a_recipe_measures_regions(maps: np.ndarray) -> None:
    steps = (
        {"step": "compare", "source": "raw_map", "target": "mask", "level": 0.75},
        {"step": "region_table", "source": "mask", "target": "table", "k": K, "map": "raw_map", "order": "max"},
        {"step": "region_part", "source": "table", "target": "boxes", "part": "boxes"},
        {"step": "region_part", "source": "table", "target": "found", "part": "count"},
    )
    outputs = ({"name": "boxes", "meaning": "box"}, {"name": "found", "meaning": "count"})
    fused = pp.fuse(raw(), pp.RecipePostProcessor(recipe=steps, declared_outputs=outputs))
    found = pp.load(fused)({"image": maps})
    assert found.found.tolist() == [
        cv2.connectedComponents((~(map_[0] <= 0.75)).astype(np.uint8))[0] - 1 for map_ in maps
    ]
    assert found.boxes.shape == (12, K, 4)
    assert pp.verify(raw(), pp.convert(fused), {"image": maps}).passed


def files() -> list[str]:
    return sorted(path.name for path in Path("out").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regions": 0}, "regions is 0, expected a whole number from 1 to 1000"),
        ({"regions": 2.5}, "regions is 2.5, expected a whole number"),
        ({"regions": 3, "threshold": False}, "regions is given together with threshold=False, expected one"),
        ({"regions": 3, "pack": True}, "pack is given together with regions"),
    ],
)
def test_options_that_exclude_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        pp.OneClassPostProcessor(STATS, **options)


def test_models_that_do_not_fit() -> None:
    with pytest.raises(PostProcessorError, match="regions is given, but the raw model has no map"):
        pp.fuse(identity_model({"score": ["N", 1]}), pp.OneClassPostProcessor(STATS, regions=3))
    with pytest.raises(OpsetError, match="opset 17, expected 18 or later.*--raise-opset 18"):
        pp.fuse(raw(17), pp.OneClassPostProcessor(STATS, regions=3))
    assert pp.fuse(raw(17), pp.OneClassPostProcessor(STATS, regions=3), raise_opset=18).program.outputs
    from pp_graph.integrations.torch import OneClassPostProcessor

    with pytest.raises(PostProcessorError, match="regions is given to a torch module"):
        OneClassPostProcessor(statistics=STATS, regions=3)
