"""Ground truth of detectors: COCO JSON and YOLO's text files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pp_graph.data import open_ground_truth
from pp_graph.errors import DataError

BOXES = [[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 40.0, 80.0]]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "night").mkdir(parents=True)
    for name in ("a.png", "b.png", "night/c.png"):
        Image.new("RGB", (40, 80)).save(folder / name)
    return folder


def coco(**changed: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "images": [
            {"id": 7, "file_name": "b.png", "width": 40, "height": 80},
            {"id": 3, "file_name": "/somebody/night/c.png"},
        ],
        "categories": [{"id": 20, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 20, "bbox": [10, 20, 20, 40], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 40, 80], "iscrowd": 1},
        ],
    }
    return content | changed


def write(folder: Path, content: Any) -> Path:
    file = folder.parent / "truth.json"
    file.write_text(json.dumps(content))
    return file


def test_coco(images: Path) -> None:
    (images / "c.png").write_bytes((images / "a.png").read_bytes())
    truth = open_ground_truth(write(images, coco()), images)
    assert truth.images.names == ("b.png", "c.png")
    assert truth.sizes == ((40, 80), (40, 80))
    assert truth.class_names == ("cat", "dog")  # in the order of ids
    assert truth.marked[0].boxes.tolist() == BOXES
    assert truth.marked[0].classes.tolist() == [1, 0]
    assert truth.marked[0].crowds.tolist() == [False, True]
    assert (len(truth.marked[1]), truth.boxes) == (0, 1)
    assert truth.notes == (f"images in '{images}' that the ground truth does not list: 2",)


def test_categories_are_matched_by_name_with_the_labels_of_the_model(images: Path) -> None:
    content = coco(images=coco()["images"][:1])
    truth = open_ground_truth(write(images, content), images, class_names=("dog", "cow", "cat"))
    assert truth.marked[0].classes.tolist() == [0, 2]
    with pytest.raises(DataError, match="Annotation 2 .* is a 'cat', expected a class of the model: dog, cow"):
        open_ground_truth(write(images, content), images, class_names=("dog", "cow"))


def test_yolo_equals_coco(images: Path) -> None:
    (images / "b.txt").write_text("1 0.5 0.5 0.5 0.5\n\n0 0.5 0.5 1 1\n")
    (images / "classes.txt").write_text("cat\ndog\n")
    truth = open_ground_truth(images, images)
    assert truth.images.names == ("a.png", "b.png", "night/c.png")
    assert truth.class_names == ("cat", "dog")
    assert truth.marked[1].boxes.tolist() == BOXES
    assert truth.marked[1].classes.tolist() == [1, 0]
    assert not truth.marked[1].crowds.any()
    assert truth.notes == ("images without a .txt, counted as without objects: 2 of 3",)


def test_yolo_texts_in_a_folder_of_their_own(images: Path) -> None:
    labels = images.parent / "labels"
    (labels / "night").mkdir(parents=True)
    (labels / "night" / "c.txt").write_text("5 0.1 0.1 0.1 0.1\n")
    truth = open_ground_truth(labels, images)
    assert [len(each) for each in truth.marked] == [0, 0, 1]
    assert np.allclose(truth.marked[2].boxes, [[2, 4, 6, 12]])


ANNOTATION = coco()["annotations"][0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "has no list 'images', expected COCO JSON"),
        ({"images": [], "annotations": []}, "has no list 'categories'"),
        ({"images": [], "annotations": [], "categories": []}, "lists no images, expected some"),
        (coco(images=[{"id": 7, "file_name": "gone.png"}]), "Image 'gone.png' .* is not in .*, expected every image"),
        (coco(images=[{"id": 7, "file_name": "b.png", "width": 80, "height": 40}]), "has 40 x 80 pixels, .* 80 x 40"),
        (coco(images=[{"id": 7}]), "Image 7 of .* has no 'file_name'"),
        (coco(images=[{"id": 7, "file_name": "b.png"}] * 2), "'images' .* has the id 7, expected a number or name"),
        (coco(annotations=[ANNOTATION | {"image_id": 9}]), "Annotation 1 .* image 9, expected the id of one of its 1"),
        (coco(annotations=[ANNOTATION | {"category_id": 5}]), "has category 5, expected .* one of its categories: 20"),
        (coco(annotations=[ANNOTATION | {"bbox": [1, 2, -3, 4]}]), "box of width -3 and height 4, expected sizes of"),
        (coco(annotations=[ANNOTATION | {"bbox": [1, 2, 3]}]), "has the box [1, 2, 3], expected four numbers"),
        (coco(annotations=[{"id": 1}]), "Annotation 1 .* has no 'image_id'"),
        (coco(annotations=[4]), "Annotation 0 .* has no 'image_id'"),
    ],
)
def test_mistakes_in_coco(images: Path, content: Any, message: str) -> None:
    if isinstance(content, dict) and len(content.get("images", ())) == 2 and "7, expected" not in message:
        content["images"] = content["images"][:1]
    with pytest.raises(DataError, match=message.replace("[", r"\[")):
        open_ground_truth(write(images, content), images)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.5", "Line 1 of .*a.txt' holds 4 numbers, expected 5"),
        ("0 0.5 0.5 0.5 0.5\n0 0.1 0.1 0.2 0.1 0.2 0.2", "Line 2 .* holds 7 numbers, expected 5.*without polygons"),
        ("2 0.5 0.5 0.5 0.5", "has class 2, expected 0 to 1"),
        ("dog 0.5 0.5 0.5 0.5", "is 'dog 0.5 0.5 0.5 0.5', expected a class index and four numbers"),
        ("0 20 40 20 40", "has the box 20 40 20 40, expected shares.*Divide pixels"),
        ("0 0.5 0.5 -0.5 0.5", "box of width -0.5"),
        ("0 nan 0.5 0.5 0.5", "expected shares"),
    ],
)
def test_mistakes_in_yolo(images: Path, text: str, message: str) -> None:
    (images / "a.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        open_ground_truth(images, images, class_names=("cat", "dog"))


def test_texts_and_images_that_do_not_belong_together(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \.txt files, expected a \.txt for each image"):
        open_ground_truth(images, images)
    (images / "z.txt").write_text("0 0.5 0.5 0.5 0.5")
    with pytest.raises(DataError, match=r"z\.txt', and no such image is in"):
        open_ground_truth(images, images)
    with pytest.raises(DataError, match="nowhere. is not a folder, expected the folder of the images"):
        open_ground_truth(images, tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"missing\.json' cannot be read"):
        open_ground_truth(tmp_path / "missing.json", images)
