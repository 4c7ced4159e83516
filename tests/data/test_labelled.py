"""Labelled folders and masks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.data import open_labelled
from pp_graph.data.masks import read_mask, same_aspect
from pp_graph.errors import DataError


def labelled_folder(root: Path, count: int = 2) -> Path:
    for kind in ("good", "bent"):
        (root / "test" / kind).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(root / "test" / kind / f"{index}.png")
    (root / "ground_truth" / "bent").mkdir(parents=True)
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4, 3:6] = 1
    for index in range(count):
        # The image's name, with and without what MVTec AD puts behind it.
        Image.fromarray(mask).save(root / "ground_truth" / "bent" / f"{index}{'_mask' * (index % 2)}.png")
    return root


def test_folders_say_what_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = labelled_folder(tmp_path / "bottle")
    for hidden in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        (root / "test" / hidden).mkdir()
        shutil.copy(root / "test" / "good" / "0.png", root / "test" / hidden)
    shutil.copy(root / "test" / "good" / "0.png", root / "test" / ".hidden.png")
    (root / "test" / "empty").mkdir()
    linked = tmp_path / "linked"
    linked.mkdir()
    Image.new("RGB", (8, 8)).save(linked / "9.png")
    (root / "test" / "good" / "more").symlink_to(linked, target_is_directory=True)
    (linked / "back").symlink_to(root / "test" / "good", target_is_directory=True)
    whole = open_labelled(root)
    assert whole.images.names == ("bent/0.png", "bent/1.png", "good/0.png", "good/1.png", "good/more/9.png")
    assert whole.kinds == {"bent": 2, "good": 3}
    assert whole.labels.tolist() == [True, True, False, False, False]
    masks = whole.masks(0, 5, None)
    assert [None if mask is None else int(mask.sum()) for mask in masks] == [6, 6, None, None, None]
    monkeypatch.chdir(root / "test")
    here = open_labelled(".")
    assert here.sha256() == whole.sha256()
    assert (here.name, here.kinds) == ("test", whole.kinds)
    (root / "ground_truth").rename(root / "Ground_Truth")
    assert open_labelled(root).masks(0, 1, None)[0].sum() == 6
    (root / "test" / "good" / "2.png").symlink_to(root / "nowhere.png")
    with pytest.raises(DataError, match="2.png' is a broken link, expected a file"):
        open_labelled(root)


def test_masks_beside_test_belong_to_it(tmp_path: Path) -> None:
    root = labelled_folder(tmp_path / "bottle")
    for kind in ("train/good", "validation/good", "validation/bent"):
        (root / kind).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / kind / "0.png")
    assert open_labelled(root / "train").labels.tolist() == [False]
    assert open_labelled(root / "validation").masks(0, 2, None) == [None, None]
    assert open_labelled(root / "test").masks(0, 1, None)[0].sum() == 6
    # Without a test folder, normal images alone need none of the masks that lie beside.
    (root / "test").rename(tmp_path / "elsewhere")
    assert open_labelled(root / "train").notes == ("files in ground_truth that match no image: 2, such as '0.png'",)


def test_links_to_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = labelled_folder(tmp_path / "bottle") / "test"
    for name in ("again", "zzz"):
        (root / name).symlink_to(root / "bent", target_is_directory=True)
    assert open_labelled(root).kinds == {"again": 2, "bent": 2, "good": 2, "zzz": 2}
    (root / "lost").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="lost' is a broken link"):
        open_labelled(root)
    (root / "lost").unlink()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(root / "good", target_is_directory=True)
    monkeypatch.chdir(tmp_path / "here")
    assert open_labelled("link/..").kinds == open_labelled(root).kinds


def test_masks_that_contradict(tmp_path: Path) -> None:
    root = labelled_folder(tmp_path)
    shutil.copy(root / "ground_truth" / "bent" / "1_mask.png", root / "ground_truth" / "bent" / "1.png")
    with pytest.raises(DataError, match="has two masks, '1.png' and '1_mask.png', expected one"):
        open_labelled(root)
    (root / "ground_truth" / "bent" / "1.png").rename(root / "ground_truth" / "bent" / "7.png")
    assert open_labelled(root).notes == ("files in ground_truth that match no image: 1, such as '7.png'",)
    (root / "ground_truth" / "good").mkdir()
    shutil.copy(root / "ground_truth" / "bent" / "0.png", root / "ground_truth" / "good")
    labelled = open_labelled(root)
    given = {"labels": labelled.labels, "masks": labelled.masks(0, 4, (8, 8))}
    with pytest.raises(DataError, match="is labelled normal, but its mask has anomalous pixels .6."):
        pp.Calibrator().update(maps=np.ones((4, 8, 8), np.float32), **given)
    (root / "ground_truth" / "bent").rename(root / "ground_truth" / "bnet")
    shutil.rmtree(root / "ground_truth" / "good")
    with pytest.raises(DataError, match="None of 3 masks in .* matches an image"):
        open_labelled(root)


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("1", "png"), ("L", "png"), ("I;16", "png"), ("P", "png"), ("RGB", "png"), ("RGBA", "png"), ("F", "tiff"), ("L", "jpg")],
)  # fmt: skip
def test_masks_in_every_mode(tmp_path: Path, mode: str, ending: str) -> None:
    truth = np.zeros((16, 16), bool)
    truth[4:12, 3:9] = True
    path = tmp_path / f"mask.{ending}"
    if mode == "P":
        picture = Image.fromarray(truth.astype(np.uint8)).convert("P")
        # The first colour is the background, whatever it looks like.
        picture.putpalette([255, 255, 255, 0, 0, 2])
    elif mode in ("RGB", "RGBA"):
        picture = Image.fromarray(np.stack([truth * 0, truth * 0, truth * 4], -1).astype(np.uint8)).convert(mode)
    elif mode == "F":
        picture = Image.fromarray((truth * 0.5).astype(np.float32))
    elif mode == "I;16":
        picture = Image.fromarray(truth.astype(np.uint16) * 3)
    else:
        picture = Image.fromarray(truth.astype(np.uint8) * (255 if ending == "jpg" or mode == "1" else 1)).convert(mode)
    picture.save(path)
    assert np.array_equal(read_mask(path), truth)


def test_transparent_mask_is_refused(tmp_path: Path) -> None:
    picture = np.zeros((4, 4, 4), np.uint8)
    picture[:2, :, 3] = 255
    Image.fromarray(picture).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match="is partly transparent, expected black for normal pixels"):
        read_mask(tmp_path / "mask.png")
    (tmp_path / "mask.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="Mask .* cannot be read"):
        read_mask(tmp_path / "mask.png")


def gray(path: Path, array: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path, **options)


def test_several_masks_of_an_image_are_united(tmp_path: Path) -> None:
    """As in MVTec LOCO: ground_truth/<kind>/<image>/NNN.png, with values that name the defect."""
    for kind in ("good", "logical_anomalies"):
        gray(tmp_path / "test" / kind / "000.png", np.zeros((16, 16)))
    for index, value in enumerate((236, 255)):
        mask = np.zeros((16, 16))
        mask[8 * index : 8 * index + 3, :2] = value
        gray(tmp_path / "ground_truth" / "logical_anomalies" / "000" / f"{index:03}.png", mask)
    labelled = open_labelled(tmp_path)
    assert labelled.labels.tolist() == [False, True]
    assert labelled.notes == ()
    good, mask = labelled.masks(0, 2, None)
    assert good is None
    assert mask.sum() == 12
    assert len(labelled.files) == 4


@pytest.mark.parametrize("parent", ["", "Data"])
def test_visa_folders(tmp_path: Path, parent: str) -> None:
    data = tmp_path / parent
    for kind in ("Normal", "Anomaly"):
        gray(data / "Images" / kind / "000.JPG", np.zeros((8, 12)))
    gray(data / "Masks" / "Anomaly" / "000.png", np.ones((8, 12)))
    labelled = open_labelled(tmp_path)
    assert labelled.images.names == ("Anomaly/000.JPG", "Normal/000.JPG")
    assert labelled.labels.tolist() == [True, False]
    assert labelled.masks(0, 1, None)[0].all()
    # Masks beside images are no images.
    assert open_labelled(data / "Images").masks(0, 1, None)[0].all()
    assert len(pp.data.open_images(data)) == 2


def test_images_beside_masks_without_folders(tmp_path: Path) -> None:
    for index in range(4):
        gray(tmp_path / "images" / f"{index}.png", np.zeros((8, 8)))
    gray(tmp_path / "masks" / "0.png", np.zeros((8, 8)))
    gray(tmp_path / "masks" / "1_mask.png", np.eye(8))
    labelled = open_labelled(tmp_path)
    assert labelled.labels is None
    assert labelled.notes == ("images without a mask, counted as normal: 2 of 4",)
    assert [int(mask.sum()) for mask in labelled.masks(0, 4, (8, 8))] == [0, 8, 0, 0]
    flat = tmp_path / "flat"
    shutil.copytree(tmp_path / "images", flat)
    with pytest.raises(DataError, match="image '0.png' in no folder, .* or give --masks DIR"):
        open_labelled(flat)
    assert [int(mask.sum()) for mask in open_labelled(flat, masks=tmp_path / "masks").masks(0, 2, (8, 8))] == [0, 8]


def test_masks_option(tmp_path: Path) -> None:
    root = labelled_folder(tmp_path)
    assert open_labelled(root, masks=False).masks(0, 4, None) == [None] * 4
    shutil.move(root / "ground_truth", tmp_path / "elsewhere")
    assert open_labelled(root).masks(0, 1, None) == [None]
    assert open_labelled(root, masks=tmp_path / "elsewhere").masks(0, 1, None)[0].sum() == 6
    with pytest.raises(DataError, match="Folder of masks '.*nothing' does not exist"):
        open_labelled(root, masks=tmp_path / "nothing")
    arrays = {"image": np.zeros((2, 3, 8, 8)), "label": np.ones(2), "mask": np.ones((2, 8, 8))}
    assert open_labelled(arrays, masks=False).masks(0, 2, None) == [None, None]
    with pytest.raises(DataError, match="was given for arrays in the data"):
        open_labelled(arrays, masks=tmp_path)


def test_masks_beside_a_folder_are_named_or_left(tmp_path: Path) -> None:
    """A `ground_truth` beside a folder may belong to something else."""
    root = labelled_folder(tmp_path)
    (root / "test").rename(root / "photos")
    assert open_labelled(root / "photos").notes == (
        f"masks were read from '{root / 'ground_truth'}'; use --no-masks if they belong to other images",
    )
    (root / "ground_truth" / "bent").rename(root / "ground_truth" / "other")
    labelled = open_labelled(root / "photos")
    assert labelled.notes == (f"masks in '{root / 'ground_truth'}' were not used: none matches an image",)
    assert labelled.masks(0, 4, None) == [None] * 4


def test_masks_of_another_aspect_are_refused(tmp_path: Path) -> None:
    for kind in ("good", "bad"):
        gray(tmp_path / kind / "0.png", np.zeros((16, 24)))
    gray(tmp_path / "ground_truth" / "bad" / "0.png", np.ones((32, 48)))
    assert open_labelled(tmp_path).masks(0, 1, (4, 6))[0].all()
    gray(tmp_path / "ground_truth" / "bad" / "0.png", np.ones((24, 16)))
    with pytest.raises(DataError, match=r"0.png' is 16 x 24 .*, and its image .* is 24 x 16 .*, expected one aspect"):
        open_labelled(tmp_path)
    assert open_labelled(tmp_path, masks=False).labels.tolist() == [True, False]
    exif = Image.Exif()
    exif[0x0112] = 6
    gray(tmp_path / "bad" / "0.png", np.zeros((24, 16)), exif=exif)
    with pytest.raises(DataError, match="once its EXIF orientation is applied, expected a mask of the turned image"):
        open_labelled(tmp_path)
    arrays = {"image": np.zeros((2, 3, 16, 24)), "mask": np.ones((2, 24, 16))}
    with pytest.raises(DataError, match=r"'mask' in the data has shape \(2, 24, 16\) and 'image' has \(2, 3, 16, 24\)"):
        open_labelled(arrays)


def test_aspect_ratio_up_to_rounding() -> None:
    assert same_aspect((333, 250), (1000, 750))
    assert same_aspect((1000, 750), (333, 250))
    assert not same_aspect((300, 250), (1000, 750))
    assert not same_aspect((750, 1000), (1000, 750))


def test_files_in_the_mask_folder_that_are_not_read(tmp_path: Path) -> None:
    root = labelled_folder(tmp_path)
    (root / "ground_truth" / "bent" / "0.png").rename(root / "ground_truth" / "bent" / "0.xcf")
    assert open_labelled(root).notes == (
        "files in ground_truth that are not images and were skipped: 1 .xcf",
        "anomalous images without a mask: 1 of 2",
    )


def test_masks_beside_images_come_before_a_ground_truth(tmp_path: Path) -> None:
    for kind in ("good", "bent"):
        gray(tmp_path / "images" / kind / "0.png", np.zeros((8, 8)))
    gray(tmp_path / "masks" / "bent" / "0.png", np.eye(8))
    gray(tmp_path / "ground_truth" / "bent" / "0.png", np.ones((8, 8)))
    labelled = open_labelled(tmp_path / "images")
    assert [None if mask is None else int(mask.sum()) for mask in labelled.masks(0, 2, None)] == [8, None]
    assert labelled.notes == ("masks were read from 'masks' and not from 'ground_truth'; --masks DIR chooses",)


@pytest.mark.parametrize(
    ("name", "wanted", "others"),
    [("labels", "label", ["mask"]), ("gt_label", "label", ["mask"]), ("masks", "mask", ["label"])],
)
def test_misnamed_arrays_are_refused(name: str, wanted: str, others: list[str]) -> None:
    known = {"label": np.ones(2), "mask": np.ones((2, 8, 8))}
    arrays = {"image": np.zeros((2, 3, 8, 8)), name: known[wanted], **{other: known[other] for other in others}}
    with pytest.raises(DataError, match=f"Array '{name}' in the data would not be read, expected the name '{wanted}'"):
        open_labelled(arrays)
    assert open_labelled({**arrays, wanted: known[wanted]})
