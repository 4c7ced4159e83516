"""Images, tables and models by URL."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.data import open_ground_truth, open_images, open_labelled
from pp_graph.data.classified import open_classified
from pp_graph.errors import DataError, PPGraphError
from pp_graph.urls import UrlPath, as_path
from tests.conftest import DEMO


@pytest.fixture(scope="module")
def store(demo_ir_path: Path) -> Iterator[str]:
    """The demo in fsspec's memory."""
    system = fsspec.filesystem("memory")
    for folder in ("images", "ground_truth"):
        for file in (DEMO / folder).rglob("*.png"):
            system.pipe(f"/demo/{file.relative_to(DEMO)}", file.read_bytes())
    system.pipe("/demo/raw.onnx", (DEMO / "raw.onnx").read_bytes())
    for ending in (".xml", ".bin"):
        system.pipe(f"/demo/model{ending}", demo_ir_path.with_suffix(ending).read_bytes())
    yield "memory://demo"
    system.rm("/demo", recursive=True)


def test_a_folder_in_a_store_is_the_folder(store: str) -> None:
    stored, folder = open_labelled(f"{store}/images"), open_labelled(DEMO / "images")
    assert stored.images.names == folder.images.names
    assert stored.kinds == folder.kinds
    assert stored.notes == folder.notes
    assert stored.sha256() == folder.sha256()
    by_url = pp.calibrate(f"{store}/raw.onnx", stored, resamples=0).to_dict()
    assert by_url == pp.calibrate(DEMO / "raw.onnx", folder, resamples=0).to_dict()


@pytest.mark.slow
def test_the_command_line_takes_urls(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    statistics = {}
    for name, base in (("memory", store), ("file", f"file://{DEMO}")):
        out = tmp_path / f"{name}.json"
        assert (
            run(["calibrate", f"{base}/raw.onnx", "--data", f"{base}/images", "-o", str(out), "--bootstrap", "0"]) == 0
        )
        statistics[name] = json.loads(out.read_text())
    assert statistics["memory"] == statistics["file"]
    assert run(["verify", f"{store}/raw.onnx", f"{store}/model.xml", "--data", f"{store}/images"]) == 0
    assert run(["run", f"{store}/model.xml", f"{store}/images", "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "overlays" / "good" / "00.jpg").exists()


@pytest.mark.slow
def test_workers_read_urls(store: str) -> None:
    from distributed import Client

    # Threads of this process see its memory.
    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
        one, other = (
            pp.calibrate(f"{store}/raw.onnx", f"{store}/images", resamples=0, batch_size=1, client=each)
            for each in (None, client)
        )
    assert one.to_dict() == other.to_dict()


def test_tables_list_urls(store: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path,label\n{store}/images/good/00.png,0\n{store}/images/grass/01.png,1\n")
    assert open_images(tmp_path / "list.csv").names == (f"{store}/images/good/00.png", f"{store}/images/grass/01.png")
    shutil.copy(tmp_path / "list.csv", tmp_path / "copy.csv")
    fsspec.filesystem("memory").pipe("/demo/list.csv", b"path,label\nimages/good/00.png,0\nimages/grass/01.png,1\n")
    labelled = open_labelled(f"{store}/list.csv")
    assert labelled.labels is not None
    assert labelled.labels.tolist() == [False, True]


def test_ground_truth_and_classes_by_url(tmp_path: Path) -> None:
    entries = []
    for index, name in enumerate(("red/a.png", "red/b.png", "other/c.png")):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (index, 0, 0)).save(tmp_path / "images" / name)
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).with_suffix(".txt").write_text("0 0.5 0.5 0.2 0.4\n" * index)
        entries.append({"id": index, "file_name": name, "width": 20, "height": 10})
    (tmp_path / "texts" / "classes.txt").write_text("red\n")
    marked = [{"image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4]}]
    coco = {"images": entries, "annotations": marked, "categories": [{"id": 1, "name": "red"}]}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    system = fsspec.filesystem("memory")
    for file in tmp_path.rglob("*.*"):
        system.pipe(f"/truth/{file.relative_to(tmp_path)}", file.read_bytes())
    for boxes in ("texts", "coco.json"):
        here, there = (open_ground_truth(f"{base}/{boxes}", f"{base}/images") for base in (tmp_path, "memory://truth"))
        assert here.images.names == there.images.names
        assert (here.sizes, here.class_names, here.notes) == (there.sizes, there.class_names, there.notes)
        assert [each.boxes.tolist() for each in here.marked] == [each.boxes.tolist() for each in there.marked]
        assert here.boxes
    for names in (("red", "blue"), ()):
        here, there = (open_classified(f"{base}/images", 2, names) for base in (str(tmp_path), "memory://truth"))
        assert here.classes.tolist() == there.classes.tolist()
        assert here.images.names == there.images.names
    system.rm("/truth", recursive=True)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://demo/absent", "does not exist"),
        ("nonsense://bucket/images", "'nonsense://bucket/images' cannot be reached"),
    ],
)
def test_errors_name_the_url(store: str, url: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_images(url)
    with pytest.raises(PPGraphError, match="nonsense|absent"):
        pp.inspect(f"{url}/raw.onnx")


def test_what_is_a_url() -> None:
    assert isinstance(as_path("s3://bucket/a"), UrlPath)
    assert isinstance(as_path(Path("s3://bucket/a")), UrlPath)
    assert str(as_path(Path("s3://bucket/a"))) == "s3://bucket/a"
    for local in ("C:/a", "a/b", "/a:/b", "a.png"):
        assert type(as_path(local)) is type(Path())
    assert as_path("file:///a%20b") == Path("/a b")
