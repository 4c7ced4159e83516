"""`pp-graph run`: tables and pictures of predictions, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.errors import DataError, OutputFileError
from pp_graph.report import overlay_picture, write_predictions
from pp_graph.report.drawn_outputs import DrawnOutputs
from pp_graph.report.prediction_table import picture_stems
from tests.cli.test_cli import Result
from tests.conftest import DEMO
from tests.models import STATS, conv_model, identity_model, score_and_map

COLUMNS = ["image", "pred_score", "pred_label", "anomalous_pixels", "anomalous_share", "mask", "overlay", "map"]
RNG = np.random.default_rng(3)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_ir_path: Path, demo_fused_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DEMO / "images", tmp_path / "images")
    for file in (demo_ir_path, demo_ir_path.with_suffix(".bin"), demo_fused_path):
        shutil.copy(file, tmp_path / file.name)
    return tmp_path


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]):
    def call(*arguments: str) -> Result:
        capfd.readouterr()
        status = run(["run", *arguments])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Result(status, captured.out, captured.err)

    return call


def pixels_of(file: Path | str) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def files_in(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def table(file: Path, *further: str) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        reader = csv.DictReader(stream)
        assert reader.fieldnames == [*COLUMNS, *further]
        return list(reader)


@pytest.mark.parametrize("model", ["model.xml", "fused.onnx"])
def test_everything_is_written_and_true(work: Path, cli, demo_images: np.ndarray, model: str) -> None:
    done = cli(model, "images", "-o", "out/deep", "--save", "masks,overlays,maps", "--json")
    assert done.status == 0
    out = work / "out" / "deep"
    names = sorted(file.relative_to(work / "images").as_posix() for file in (work / "images").rglob("*.png"))
    stems = [name.removesuffix(".png") for name in names]
    pictures = {f"masks/{stem}.png" for stem in stems} | {f"overlays/{stem}.jpg" for stem in stems}
    assert files_in(out) == pictures | {f"maps/{stem}.tiff" for stem in stems} | {
        "predictions.csv",
        "predictions.json",
    }
    assert list((work / "out").iterdir()) == [out]
    expected = pp.load(work / "model.xml")(demo_images)
    rows, record = table(out / "predictions.csv", "map_max"), json.loads((out / "predictions.json").read_text())
    assert done.json["predictions"] == record["predictions"]
    assert record["anomalous_images"] == done.json["anomalous_images"] == 6
    assert record["cutoffs"] == pp.load(work / "model.xml").provenance.cutoffs
    for index, (row, entry, name) in enumerate(zip(rows, record["predictions"], names, strict=True)):
        mask = expected.pred_mask[index, 0]
        assert row["image"] == entry["image"] == name
        assert np.float32(row["pred_score"]) == np.float32(entry["pred_score"])
        assert np.isclose(entry["pred_score"], expected.pred_score[index, 0], atol=1e-5)
        assert row["pred_label"] == str(bool(expected.pred_label[index, 0])).lower()
        assert entry["pred_label"] == (not name.startswith("good"))
        assert int(row["anomalous_pixels"]) == entry["anomalous_pixels"] == mask.sum()
        assert np.isclose(float(row["anomalous_share"]), mask.mean(), atol=1e-8)
        assert np.array_equal(pixels_of(out / entry["mask"]), mask.astype(np.uint8) * 255)
        written = pixels_of(out / entry["map"])
        assert written.dtype == np.float32
        assert np.float32(row["map_max"]) == written.max()
        np.testing.assert_allclose(written, expected.anomaly_map[index, 0], atol=1e-5)
        overlay = pixels_of(out / entry["overlay"])
        assert overlay.shape == (256, 256, 3)
        red = (overlay[..., 0] > 200) & (overlay[..., 1:] < 110).all(axis=-1)
        assert red.any() == mask.any()
        # JPEG spreads colours within blocks of 16 pixels.
        assert not (red & ~binary_dilation(mask, iterations=16)).any()


def test_people_see_a_summary(work: Path, cli) -> None:
    done = cli("model.xml", "images", "-o", "out")
    assert done.status == 0
    assert "12 images, 6 anomalous" in done.out
    assert "The 10 most anomalous" in done.out
    assert done.out.index("grass/02.png") < done.out.index("gravel/00.png") < done.out.index("good/01.png")
    assert "12 in out/masks, 12 in out/overlays" in done.out
    assert done.err == ""
    one = cli("model.xml", "images/grass/00.png", "-o", "one")
    assert "1 image, 1 anomalous" in one.out
    assert files_in(work / "one") == {"masks/00.png", "overlays/00.jpg", "predictions.csv", "predictions.json"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--save", "none"), {"predictions.csv", "predictions.json"}),
        (("--save", "none", "--format", "csv"), {"predictions.csv"}),
        (("--save", "maps", "--format", "json"), {"predictions.json", "maps/a.tiff", "maps/b.tiff"}),
        (("--save", "masks", "--batch", "1"), {"predictions.csv", "predictions.json", "masks/a.png", "masks/b.png"}),
    ],
)
def test_what_to_write_can_be_chosen(work: Path, cli, options: tuple[str, ...], expected: set[str]) -> None:
    shutil.copy(work / "images/grass/00.png", "a.png")
    shutil.copy(work / "images/good/00.png", "b.png")
    assert cli("model.xml", "a.png", "b.png", "-o", "out", *options).status == 0
    assert files_in(work / "out") == expected


def test_pictures_have_the_size_of_the_image(work: Path, cli) -> None:
    (work / "odd").mkdir()
    with Image.open("images/grass/01.png") as image:
        image.resize((333, 190)).convert("RGBA").save("odd/wide.png")
        image.resize((90, 1200)).convert("L").save("odd/tall.tif")
    done = cli("model.xml", "odd", "-o", "out", "--save", "masks,overlays,maps", "--json")
    assert done.status == 0
    for name, size in (("wide", (333, 190)), ("tall", (90, 1200))):
        mask = pixels_of(f"out/masks/{name}.png")
        assert mask.shape == size[::-1]
        assert set(np.unique(mask)) <= {0, 255}
        assert pixels_of(f"out/overlays/{name}.jpg").shape == (*size[::-1], 3)
        assert pixels_of(f"out/maps/{name}.tiff").shape == (256, 256)


def test_arrays(work: Path, cli) -> None:
    pixels = np.stack([pixels_of(f"images/grass/{index:02}.png") for index in range(3)])
    np.savez("images.npz", image=pixels)
    done = cli("model.xml", "images.npz", "-o", "out", "--json")
    assert [row["image"] for row in done.json["predictions"]] == ["0", "1", "2"]
    assert [row["pred_label"] for row in done.json["predictions"]] == [True] * 3
    cli("model.xml", "images/grass", "-o", "files")
    for index in range(3):
        for kind, ending in (("masks", "png"), ("overlays", "jpg")):
            from_array, from_file = f"out/{kind}/{index}.{ending}", f"files/{kind}/{index:02}.{ending}"
            assert np.array_equal(pixels_of(from_array), pixels_of(from_file))


@pytest.mark.parametrize("scale", [1.0, 255.0, -3.0], ids=["unit", "bytes", "standardised"])
def test_arrays_of_any_range_and_layout_are_drawn(tmp_path: Path, scale: float) -> None:
    images = RNG.random((2, 3, 12, 20)).astype(np.float32) * scale
    runner = pp.load(pp.fuse(conv_model(channels_last=True), pp.OneClassPostProcessor(STATS)))
    written = write_predictions(runner, images, tmp_path / "out", save=("overlays", "masks", "maps"))
    assert written.pictures == {"masks": 2, "overlays": 2, "maps": 2}
    assert pixels_of(tmp_path / "out" / "overlays" / "0.jpg").shape == (12, 20, 3)
    assert pixels_of(tmp_path / "out" / "maps" / "1.tiff").shape == (12, 20)
    post = pp.OneClassPostProcessor(STATS, normalize=False)
    raw = pp.load(pp.fuse(conv_model(), post))
    assert write_predictions(raw, images, tmp_path / "raw").pictures == {"masks": 2, "overlays": 2}
    assert len(np.unique(pixels_of(tmp_path / "raw" / "overlays" / "0.jpg"))) > 10


def test_several_inputs(tmp_path: Path) -> None:
    runner = pp.load(pp.fuse(score_and_map(), pp.OneClassPostProcessor(STATS)))
    feeds = {"image": RNG.random((3, 1, 6, 7)).astype(np.float32), "level": np.array([[0.0], [2], [9]], np.float32)}
    written = write_predictions(runner, feeds, tmp_path / "out")
    assert [row.pred_label for row in written.predictions] == [False, True, True]
    assert pixels_of(tmp_path / "out" / "overlays" / "2.jpg").shape == (6, 7, 3)


def test_a_model_without_a_map_writes_no_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli) -> None:
    monkeypatch.chdir(tmp_path)
    fused = pp.fuse(identity_model({"score": ["N", 1]}), pp.OneClassPostProcessor(STATS, normalize=False))
    fused.save("score.onnx")
    np.savez("scores.npz", score_in=np.array([[0.1], [2.0], [np.inf]], np.float32))
    done = cli("score.onnx", "scores.npz", "-o", "out", "--json")
    assert done.status == 0
    assert files_in(tmp_path / "out") == {"predictions.csv", "predictions.json"}
    assert "no output to draw masks from" in done.err
    rows = done.json["predictions"]
    assert [row["pred_label"] for row in rows] == [False, True, True]
    assert rows[2]["pred_score"] is None
    assert all(row["mask"] is row["anomalous_pixels"] is None for row in rows)
    assert [row["mask"] for row in table(tmp_path / "out/predictions.csv")] == [""] * 3
    assert table(tmp_path / "out/predictions.csv")[2]["pred_score"] == "inf"


def test_only_a_mask(tmp_path: Path) -> None:
    runner = pp.load(pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS, outputs=("pred_mask",))))
    written = write_predictions(runner, RNG.random((1, 3, 9, 9), np.float32), tmp_path / "out")
    assert written.pictures == {"masks": 1, "overlays": 1}
    assert written.predictions[0].pred_score is written.predictions[0].pred_label is None
    assert written.about["anomalous_images"] is None


def test_any_outputs(tmp_path: Path) -> None:
    """Outputs of other names are drawn by what they tell, and stand in the tables."""
    outputs = ["each", "most", "bad", "defects", {"name": "mask", "meaning": "decision"}, "heat_out", "second"]
    recipe = [
        {"step": "keep", "source": "probs", "target": "each"},
        {"step": "select_class", "source": "probs", "index": 1, "target": "most"},
        {"step": "compare", "source": "most", "target": "bad", "level": 0.5},
        {"step": "select_class", "source": "heat", "index": 0, "target": "first"},
        {"step": "compare", "source": "first", "target": "defects", "level": 0.5},
        {"step": "sigmoid", "source": "first", "target": "heat_out"},
        {"step": "select_class", "source": "heat", "index": 1, "target": "second"},
        {"step": "compare", "source": "second", "target": "mask", "level": 0.7},
    ]
    roles = [{"name": "heat", "axes": "NCHW"}, {"name": "probs", "axes": "NC"}]
    post = pp.RecipePostProcessor(recipe=recipe, roles=roles, declared_outputs=outputs)
    runner = pp.load(pp.fuse(identity_model({"heat": ["N", 2, 6, 7], "probs": ["N", 3]}), post))
    heat = RNG.random((2, 2, 6, 7)).astype(np.float32)
    feeds = {"heat_in": heat, "probs_in": np.array([[0.1, 0.9, 0], [np.nan, 0.2, 0.5]], np.float32)}
    out = tmp_path / "out"
    written = write_predictions(runner, feeds, out, save=("masks", "overlays", "maps"))
    assert written.pictures == dict.fromkeys(("masks", "masks_mask", "overlays", "maps", "maps_second"), 2)
    assert np.array_equal(pixels_of(out / "masks/0.png") > 0, heat[0, 0] > 0.5)
    assert np.array_equal(pixels_of(out / "masks_mask/1.png") > 0, heat[1, 1] > np.float32(0.7))
    assert np.array_equal(pixels_of(out / "maps_second/1.tiff"), heat[1, 1])
    rows = json.loads((out / "predictions.json").read_text())["predictions"]
    assert rows[0]["anomalous_pixels"] == (heat[0, 0] > 0.5).sum()
    assert [row["bad"] for row in rows] == [True, False]
    assert [row["each"] for row in rows] == [[0.1, 0.9, 0.0], [None, 0.2, 0.5]]
    assert rows[1]["output_mask"] == "masks_mask/1.png"
    with (out / "predictions.csv").open(newline="") as stream:
        reader = csv.DictReader(stream)
        assert reader.fieldnames == [*COLUMNS, "most", "bad", "output_mask", "second"]
        assert [row["most"] for row in reader] == ["0.9", "0.2"]
    # A later run knows these pictures for ours.
    write_predictions(runner, feeds, out, save=(), overwrite=True)
    assert files_in(out) == {"predictions.csv", "predictions.json"}


def test_a_map_is_shown_by_what_it_tells() -> None:
    def shown(post: pp.PostProcessor, values: list[float]) -> list[float]:
        provenance = pp.fuse(identity_model({"map": ["N", 1, "H", "W"]}), post).provenance
        drawn = DrawnOutputs(provenance.predicted, ("pred_mask",), ("anomaly_map",))
        return drawn.shown_map({"anomaly_map": np.array([values], np.float32)}, provenance)[0].tolist()

    pixel = STATS.pixel
    raw = [pixel.threshold, pixel.threshold + (pixel.max - pixel.min) / 2]
    assert shown(pp.OneClassPostProcessor(STATS), [0.2, 0.7]) == pytest.approx([0.2, 0.7])
    assert shown(pp.OneClassPostProcessor(STATS, normalize=False), raw) == pytest.approx([0.5, 1], abs=1e-6)
    steps = [{"step": "sigmoid", "source": "raw_map", "target": "anomaly_map"}]
    assert shown(pp.RecipePostProcessor(recipe=steps), [0.2, 0.7]) == pytest.approx([0.2, 0.7])
    steps = [{"step": "keep", "source": "raw_map", "target": "anomaly_map"}]
    assert shown(pp.RecipePostProcessor(recipe=steps), [3, 5, 4]) == pytest.approx([0, 1, 0.5])


def test_names_neither_collide_nor_leave() -> None:
    assert picture_stems(["grass/00.png", "grass/01.png", "00.png"]) == ["grass/00", "grass/01", "00"]
    assert picture_stems(["a.png", "a.jpg", "b.png"]) == ["a.png", "a.jpg", "b"]
    assert picture_stems(["a.png", "A.jpg"]) == ["a.png", "A.jpg"]
    assert picture_stems(["../../etc/x.png", "/abs/y.png"]) == ["etc/x", "abs/y"]
    hard = ["a.png", "a.jpg", "a.png.png", "x.jpg", "x.png/0.jpg", "same.png", "same.png", "é.png", "e\u0301.jpg"]
    stems = picture_stems(hard)
    assert len({stem.casefold() for stem in stems}) == len(hard)
    assert stems[3] != "x"


def test_collisions_in_a_folder(work: Path, cli) -> None:
    with Image.open("images/grass/00.png") as image:
        image.convert("RGB").save("images/grass/00.jpg", quality=95)
    done = cli("model.xml", "images", "-o", "out", "--json")
    masks = [row["mask"] for row in done.json["predictions"]]
    assert len(set(masks)) == 13
    assert {"masks/grass/00.png.png", "masks/grass/00.jpg.png"} <= set(masks)
    assert all((work / "out" / mask).is_file() for mask in masks)


def test_a_folder_that_holds_something_needs_force(work: Path, cli) -> None:
    (work / "out" / "masks").mkdir(parents=True)
    (work / "out" / "notes.txt").write_text("precious")
    (work / "out" / "masks" / "mine.png").write_text("precious too")
    done = cli("model.xml", "images", "-o", "out")
    assert done.status == 2
    assert "'out' is not empty. Use --force" in done.err
    assert files_in(work / "out") == {"notes.txt", "masks/mine.png"}
    assert cli("model.xml", "images", "-o", "out", "--force").status == 0
    first = files_in(work / "out")
    assert {"notes.txt", "masks/mine.png", "masks/grass/00.png"} <= first
    # What the earlier run wrote goes, what others wrote stays.
    assert cli("model.xml", "images/good", "-o", "out", "--force", "--format", "csv").status == 0
    assert files_in(work / "out") == {"notes.txt", "masks/mine.png", "predictions.csv"} | {
        f"{kind}/{index:02}.{ending}" for kind, ending in (("masks", "png"), ("overlays", "jpg")) for index in range(6)
    }
    assert (work / "out/notes.txt").read_text() == "precious"
    assert (work / "out/masks/mine.png").read_text() == "precious too"
    (work / "empty").mkdir()
    assert cli("model.xml", "images/good", "-o", "empty").status == 0


def test_tables_of_others_are_not_believed(work: Path, cli) -> None:
    (work / "out").mkdir()
    (work / "secret.png").write_text("precious")
    row = dict.fromkeys(COLUMNS) | {"mask": "masks/../../secret.png", "overlay": "../secret.png"}
    (work / "out" / "predictions.json").write_text(json.dumps({"predictions": [row]}))
    (work / "out" / "predictions.csv").write_text("not,ours\n1,2\n")
    assert cli("model.xml", "images/good", "-o", "out", "--force").status == 0
    assert (work / "secret.png").read_text() == "precious"
    assert len(table(work / "out/predictions.csv", "map_max")) == 6


def test_inputs_are_never_overwritten(work: Path, cli) -> None:
    """The images are where the masks would go, by whatever name."""
    (work / "out").mkdir()
    shutil.copytree("images/good", "out/masks")
    before = {file: file.read_bytes() for file in (work / "out").rglob("*") if file.is_file()}
    done = cli("model.xml", "out/masks", "-o", "out", "--force")
    assert done.status == 2
    assert "is an input of this command" in done.err
    (work / "linked").mkdir()
    (work / "linked" / "masks").symlink_to(work / "images" / "good")
    done = cli("model.xml", "images/good", "-o", "linked", "--force")
    assert done.status == 2
    assert "leads out of 'linked'" in done.err
    done = cli("model.xml", "images", "-o", "images/out")
    assert done.status == 2
    assert "lies in the folder of images 'images'" in done.err
    assert not (work / "images" / "out").exists()
    assert {file: file.read_bytes() for file in (work / "out").rglob("*") if file.is_file()} == before


BAD = [
    (("nowhere.xml", "images", "-o", "out"), "Model file 'nowhere.xml' "),
    (("images/good/00.png", "images", "-o", "out"), "is not an ONNX model"),
    (("raw.onnx", "images", "-o", "out"), "has no post-processing by pp_graph"),
    (("model.xml", "nowhere", "-o", "out"), "Image data 'nowhere' does not exist"),
    (("model.xml", "nowhere.png", "-o", "out"), "Image 'nowhere.png' does not exist"),
    (("model.xml", "images", "images/good/00.png", "-o", "out"), "expected image files ending in"),
    (("model.xml", "broken", "-o", "out"), "bad.png' cannot be read"),
    (("model.xml", "small.npz", "-o", "out"), "Images have shape (2, 3, 9, 9), expected (?, 3, 256, 256)"),
    (("model.xml", "ints.npz", "-o", "out"), "Images hold int64, expected uint8 or floating point"),
    (("model.xml", "images", "-o", "out", "--device", "TPU"), "Device 'TPU' is not known"),
    (("model.xml", "images", "-o", "out", "--device", "NPU"), "Device 'NPU' is not on this machine"),
    (("model.xml", "images", "-o", "out", "--inference-precision", "f8"), "'f8' is not one of"),
    (("model.xml", "images", "-o", "out", "--save", "heat"), "'heat' is not known, expected some of masks"),
    (("model.xml", "images", "-o", "out", "--batch", "0"), "0 is not in the range"),
    (("model.xml", "images", "-o", "model.xml"), "'model.xml' is a file, expected a folder"),
    (("model.xml", "images", "-o", "model.xml/out"), "cannot be written"),
    (("model.xml", "images", "-o", "x" * 300), "File name too long"),
    (("model.xml", "images"), "Missing option '-o'"),
    (("model.xml", "-o", "out"), "Missing argument 'IMAGES...'"),
]


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value)[:60])
def test_bad_input(work: Path, cli, arguments: tuple[str, ...], message: str, as_json: bool) -> None:
    shutil.copy(DEMO / "raw.onnx", "raw.onnx")
    # The first image is read and run before the second one turns out to be none.
    (work / "broken").mkdir()
    shutil.copy("images/good/00.png", "broken/a.png")
    (work / "broken" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    np.savez("small.npz", image=np.zeros((2, 3, 9, 9), np.float32))
    np.savez("ints.npz", image=np.zeros((2, 3, 256, 256), np.int64))
    before = sorted(work.rglob("*"))
    done = cli(*arguments, *(["--json"] if as_json else []))
    assert done.status == 2
    assert message in done.err
    assert "defect" not in done.err
    if as_json:
        assert message in done.json["error"]["message"]
    else:
        assert done.out == ""
    assert sorted(work.rglob("*")) == before


def test_an_interrupted_run_leaves_nothing(work: Path) -> None:
    loaded = pp.load(work / "model.xml")
    seen: list[int] = []

    def interrupt(count: int) -> None:
        seen.append(count)
        if sum(seen) < 12:
            return
        # Pictures are drawn in threads.
        end = time.monotonic() + 30
        while not list((work / "out").rglob("masks/**/*.png")):
            assert time.monotonic() < end
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_predictions(loaded, "images", work / "out", batch_size=2, progress=interrupt)
    assert seen == [2] * 6
    assert not (work / "out").exists()
    (work / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        write_predictions(loaded, "images", work / "out", batch_size=2, progress=interrupt)
    assert list((work / "out").iterdir()) == []
    assert len(write_predictions(loaded, "images", work / "out").predictions) == 12


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX")
def test_a_full_disk(work: Path) -> None:
    """A file-size limit stands in for a full disk: writing fails half-way with an OSError."""
    code = (
        "import resource, sys\n"
        "from pp_graph.cli import run\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "sys.exit(run(['run', 'model.xml', 'images', '-o', 'out']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=work)
    assert done.returncode == 2
    assert "Output folder 'out' cannot be written: File too large. Free disk space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (work / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_a_read_only_folder(work: Path, cli) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (work / "locked").mkdir(mode=0o500)
    for folder in ("locked", "locked/out"):
        done = cli("model.xml", "images", "-o", folder)
        assert done.status == 2
        assert "cannot be written" in done.err


def test_unknown_names_are_refused(work: Path) -> None:
    loaded = pp.load(work / "model.xml")
    with pytest.raises(DataError, match="Pictures 'heat' are not known, expected some of: masks, overlays, maps"):
        write_predictions(loaded, "images", "out", save=("heat",))
    with pytest.raises(DataError, match="Tables 'xlsx' are not known, expected some of: csv, json"):
        write_predictions(loaded, "images", "out", formats=("xlsx",))
    with pytest.raises(OutputFileError, match="is a file, expected a folder"):
        write_predictions(loaded, "images", "model.bin")


def test_file_names_that_are_no_unicode(work: Path, cli) -> None:
    (work / "odd").mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    try:
        shutil.copy("images/grass/00.png", work / "odd" / name)
    except OSError:
        pytest.skip("this file system wants Unicode")
    assert cli("model.xml", "odd", "-o", "out").status == 0
    assert b"caf\xe9.png,1.0,true" in (work / "out/predictions.csv").read_bytes()
    assert (work / "out" / "masks" / name).is_file()
    assert cli("model.xml", "odd", "-o", "out", "--json", "--force").json["predictions"][0]["image"] == name


def test_overlays_show_the_image_where_nothing_is_anomalous() -> None:
    image = RNG.integers(0, 256, (40, 60, 3), np.uint8)
    nothing = overlay_picture(image, np.zeros((10, 15), np.float32), np.zeros((10, 15), bool))
    assert np.array_equal(np.asarray(nothing), image)
    assert np.array_equal(np.asarray(overlay_picture(image, None, None)), image)
    mask = np.zeros((10, 15), bool)
    mask[3:6, 4:9] = True
    drawn = np.asarray(overlay_picture(image, None, mask))
    outline = (drawn == (255, 40, 40)).all(axis=-1)
    assert outline[12, 16:36].all()
    assert not outline[14:22, 18:34].any()
    assert np.array_equal(drawn[~outline], image[~outline])
    with_nan = overlay_picture(image, np.full((4, 4), np.nan, np.float32), None)
    assert (np.asarray(with_nan).mean(axis=(0, 1)) > image.mean(axis=(0, 1))).all()
