from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from pp_graph.data import arrays, open_images
from pp_graph.data.arrays import ArchiveArray, open_arrays
from pp_graph.data.image_files import upright_size
from pp_graph.errors import DataError
from pp_graph.model import ModelInput
from pp_graph.model.raw_model import FrameFormat

NCHW = ModelInput("image", "float32", ("N", 3, 4, 6))
NHWC = ModelInput("image", "float32", (None, 4, 6, 3))
RNG = np.random.default_rng(0)
UINT8 = RNG.integers(0, 256, (5, 4, 6, 3), np.uint8)


def read(source: object, wanted: ModelInput, start: int = 0, stop: int = 5) -> np.ndarray:
    return open_images(source).read(start, stop, [wanted])[wanted.name]


def test_uint8_is_scaled_and_layout_follows_the_model(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", image=UINT8)
    scaled = UINT8.astype(np.float32) / 255
    for source in (UINT8, UINT8.transpose(0, 3, 1, 2), tmp_path / "images.npz", str(tmp_path / "images.npz")):
        assert np.array_equal(read(source, NHWC), scaled)
        found = read(source, NCHW)
        assert np.array_equal(found, scaled.transpose(0, 3, 1, 2))
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
    assert np.array_equal(read(UINT8, NCHW, 2, 4), scaled.transpose(0, 3, 1, 2)[2:4])


def test_float_is_used_as_it_is() -> None:
    x = RNG.normal(0, 300, (5, 3, 4, 6))
    assert np.array_equal(read(x, NCHW), x.astype(np.float32))
    half = read(x.astype(np.float16), ModelInput("image", "float16", ("N", 3, 4, 6)))
    assert half.dtype == np.float16


def test_uint8_inputs_take_uint8() -> None:
    assert np.array_equal(read(UINT8, ModelInput("image", "uint8", (None, 4, 6, 3))), UINT8)
    with pytest.raises(DataError, match="Images hold float64, expected uint8"):
        read(UINT8 / 255, ModelInput("image", "uint8", (None, 4, 6, 3)))
    with pytest.raises(DataError, match="Images hold int64"):
        read(UINT8.astype(np.int64), NHWC)


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    Image.fromarray(UINT8[0]).save(tmp_path / "b.png")
    Image.fromarray(UINT8[1]).resize((12, 8)).save(tmp_path / "a.png")
    Image.fromarray(UINT8[2]).convert("L").save(tmp_path / "sub" / "c.bmp")
    (tmp_path / "notes.txt").write_text("no image")
    images = open_images(tmp_path)
    assert images.names == ("a.png", "b.png", "sub/c.bmp")
    batch = images.read(0, 3, [NCHW])["image"]
    assert batch.shape == (3, 3, 4, 6)
    assert np.array_equal(batch[1], UINT8[0].transpose(2, 0, 1).astype(np.float32) / 255)
    gray = images.read(2, 3, [ModelInput("x", "float32", ("N", 1, 4, 6))])["x"]
    assert gray.shape == (1, 1, 4, 6)
    own_size = ModelInput("x", "float32", ("N", 3, "H", "W"))
    assert images.read(0, 1, [own_size])["x"].shape == (1, 3, 8, 12)
    with pytest.raises(DataError, match="have different sizes"):
        images.read(0, 2, [own_size])
    with pytest.raises(
        DataError,
        match="Found a folder of images, expected an array for each input .* nothing feeds 'x'.* --input x=VALUE",
    ):
        images.read(0, 1, [NCHW, own_size])
    with pytest.raises(DataError, match=r"has shape \(N, 7\), expected \(N,C,H,W\) or \(N,H,W,C\) for images"):
        images.read(0, 1, [ModelInput("x", "float32", ("N", 7))])


def test_arrays_by_input_name() -> None:
    inputs = [NCHW, ModelInput("level", "float32", ("N", 1))]
    found = open_images({"image": UINT8, "level": np.ones((5, 1))}).read(1, 3, inputs)
    assert {name: array.shape for name, array in found.items()} == {"image": (2, 3, 4, 6), "level": (2, 1)}
    with pytest.raises(
        DataError,
        match=r"Found arrays 'image' in the data, expected an array for each input .*'level' float32 \(N, 1\)\): nothing feeds 'level'",
    ):
        open_images({"image": UINT8}).read(0, 1, inputs)
    with pytest.raises(DataError, match="Array for input 'level' holds 2 items, expected 5"):
        open_images({"image": UINT8, "level": np.ones((2, 1))}).read(0, 1, inputs)


def test_errors(tmp_path: Path) -> None:
    cases = [
        (tmp_path / "nowhere", "does not exist, expected a folder of images or an .npz"),
        (tmp_path, "holds no images, expected files ending in"),
        (np.empty((0, 3, 4, 6), np.uint8), "No images in the data"),
        (42, "Images are given as int, expected a path"),
    ]
    for source, message in cases:
        with pytest.raises(DataError, match=message):
            open_images(source)
    text = tmp_path / "images.txt"
    text.write_text("x")
    with pytest.raises(DataError, match=r"is a '\.txt' file, expected a folder"):
        open_images(text)
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04nonsense")
    with pytest.raises(DataError, match=r"broken\.npz' cannot be read"):
        open_images(broken)
    np.savez(tmp_path / "pickled.npz", image=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="without pickles"):
        open_images(tmp_path / "pickled.npz")
    np.savez(tmp_path / "other.npz", label=np.zeros(3))
    with pytest.raises(DataError, match=r"Found arrays 'label' in .*other\.npz, expected image"):
        read(tmp_path / "other.npz", NCHW)
    with pytest.raises(DataError, match=r"Images have shape \(5, 4, 7, 3\), expected \(N, 3, 4, 6\) for input 'image'"):
        read(np.zeros((5, 4, 7, 3), np.uint8), NCHW)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nnonsense"])
def test_broken_image_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png' cannot be read.*Remove it"):
        read(tmp_path, NCHW)


def test_16_bit_files(tmp_path: Path) -> None:
    deep = RNG.integers(0, 65536, (4, 6), np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    Image.fromarray(deep.astype(np.int32)).save(tmp_path / "b.pgm")
    Image.fromarray(UINT8[0, ..., 0]).save(tmp_path / "c.png")
    gray = [deep, deep, UINT8[0, ..., 0].astype(np.uint16) * 257]
    images = open_images(tmp_path)
    found = images.read(0, 3, [NCHW])["image"]
    assert np.array_equal(found[:, 1], np.stack(gray).astype(np.float32) / np.float32(65535))
    assert images.notes == ("2 of 3 images have 16 bits; white is 65535 in these and 255 in the others",)
    for frames in (None, FrameFormat("NHWC", "RGB")):
        wanted = ModelInput("image", "uint16", (None, 4, 6, 3), frames)
        assert np.array_equal(read(tmp_path, wanted, stop=3)[..., 2], np.stack(gray))
    with pytest.raises(DataError, match=r"a\.png': its pixels have more than 8 bits, expected 8 .* --input-dtype u16"):
        read(tmp_path, ModelInput("image", "uint8", (None, 4, 6, 3)))
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match="pixels of more than 16 bits .mode F."):
        read(tmp_path, NCHW)


def test_16_bit_colours_are_not_fed_as_8(tmp_path: Path) -> None:
    colours = RNG.integers(0, 65536, (4, 6, 3), np.uint16)
    (tmp_path / "a.ppm").write_bytes(b"P6 6 4 65535\n" + colours.astype(">u2").tobytes())
    assert read(tmp_path, NCHW, stop=1).shape == (1, 3, 4, 6)
    with pytest.raises(DataError, match="colours of 16 bits, of which Pillow reads 8"):
        read(tmp_path, ModelInput("image", "uint16", (None, 4, 6, 3)), stop=1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, ending: str) -> None:
    seen = np.zeros((4, 6), np.uint8)
    seen[:2, :3] = 255
    stored = ImageOps.exif_transpose(Image.fromarray(seen))
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
    if inverse is not None:
        stored = stored.transpose(Image.Transpose(inverse))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.convert("RGB").resize([8 * side for side in stored.size], 0).save(tmp_path / f"a.{ending}", exif=exif)
    images = open_images(tmp_path)
    wanted = ModelInput("image", "float32", ("N", 1, 4, 6))
    found = images.read(0, 1, [wanted])["image"][0, 0]
    assert np.array_equal(found > 0.5, seen > 0)
    assert upright_size(images.files[0])[0] == (48, 32)
    turned = "1 of 1 images were turned as their EXIF orientation says"
    assert images.notes == ((turned,) if orientation != 1 and ending != "tiff" else ())


@pytest.mark.parametrize(
    "ending", ["pgm", "ppm", "pnm", "pbm", "jfif", "gif", "jp2", "bmp", "tga", "webp", "tif", "avif"]
)
def test_endings(tmp_path: Path, ending: str) -> None:
    if ending == "avif" and not features.check("avif"):
        pytest.skip("this Pillow cannot write AVIF")
    form = {"pgm": "PPM", "pnm": "PPM", "pbm": "PPM", "jfif": "JPEG"}.get(ending)
    picture = Image.fromarray(np.repeat(np.uint8([[0, 255]]), 4, 0).repeat(3, 1))
    picture.convert("1" if ending == "pbm" else "L" if ending == "pgm" else "RGB").save(tmp_path / f"a.{ending}", form)
    assert read(tmp_path, NCHW, stop=1)[0, 1, 1].round(1).tolist() == [0, 0, 0, 1, 1, 1]


def test_files_that_are_not_images_are_counted(tmp_path: Path) -> None:
    Image.fromarray(UINT8[0]).save(tmp_path / "a.png")
    for name in ("a.raw", "b.raw", "notes.txt", "Thumbs.db", ".hidden", "README"):
        (tmp_path / name).write_text("x")
    assert open_images(tmp_path).notes == (
        f"files in '{tmp_path}' that are not images and were skipped: 2 .raw, 1 without an ending, 1 .txt",
    )
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"holds no images .*2 \.raw.*, expected files ending in"):
        open_images(tmp_path)


def test_broken_images_are_skipped_on_request(tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(UINT8[index]).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"1\.png' cannot be read: .*--skip-broken"):
        read(tmp_path, NCHW, stop=3)
    images = open_images(tmp_path, skip_broken=True)
    assert images.names == ("0.png", "2.png")
    assert re.match(r"skipped '.*1\.png': it cannot be decoded \(", images.notes[0])
    (tmp_path / "0.png").write_bytes(b"")
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match="None of 3 images .* can be decoded"):
        open_images(tmp_path, skip_broken=True)


def test_max_pixels(tmp_path: Path) -> None:
    Image.new("L", (40, 30)).save(tmp_path / "a.png")
    assert read(tmp_path, NCHW, stop=1).shape == (1, 3, 4, 6)
    wanted = [NCHW]
    with pytest.raises(DataError, match=r"has 40 x 30 = 1,200 pixels, expected at most 1,199. Raise .* --max-pixels"):
        open_images(tmp_path, max_pixels=1199).read(0, 1, wanted)
    assert open_images(tmp_path, max_pixels=1200).read(0, 1, wanted)["image"].shape == (1, 3, 4, 6)
    with pytest.raises(DataError, match="max_pixels is 0, expected at least 1"):
        open_images(tmp_path, max_pixels=0)


@pytest.mark.parametrize("compressed", [False, True])
def test_large_arrays_stay_in_the_file(tmp_path: Path, compressed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_IN_MEMORY", 100)
    save = np.savez_compressed if compressed else np.savez
    state = RNG.normal(size=(2, 5, 3)).astype(np.float32)
    save(tmp_path / "a.npz", image=UINT8, state=state, fortran=np.asfortranarray(UINT8))
    opened = open_arrays(tmp_path / "a.npz")
    assert isinstance(opened["image"], ArchiveArray)
    for start, stop in ((0, 2), (2, 5), (1, 3), (4, 5), (0, 5), (3, 3)):
        assert np.array_equal(opened["image"][start:stop], UINT8[start:stop])
    assert np.array_equal(opened["fortran"], UINT8)
    inputs = [NHWC, ModelInput("state", "float32", (2, "N", 3))]
    found = open_images(tmp_path / "a.npz").read(1, 4, inputs)
    assert np.array_equal(found["image"], UINT8[1:4].astype(np.float32) / 255)
    assert np.array_equal(found["state"], state[:, 1:4])
    np.save(tmp_path / "a.npy", UINT8)
    assert isinstance(open_arrays(tmp_path / "a.npy")["image"], np.memmap)
    assert np.array_equal(read(tmp_path / "a.npy", NHWC), UINT8.astype(np.float32) / 255)


def test_arrays_that_lie_about_their_size(tmp_path: Path) -> None:
    def npz(header: str, data: bytes) -> Path:
        text = header.encode() + b"\n"
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("image.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)
        return tmp_path / "a.npz"

    form = "{{'descr': '{}', 'fortran_order': False, 'shape': ({},), }}"
    with pytest.raises(DataError, match=r"holds 8 bytes, expected 4,000,000,000,000 for shape \(1000000000000,\)"):
        open_images(npz(form.format("<f4", 10**12), bytes(8)))
    with pytest.raises(DataError, match=r"holds \|S0 of shape \(1000000000000,\), expected numbers"):
        open_images(npz(form.format("|S0", 10**12), b""))
    with pytest.raises(DataError, match=r"of shape \(1000000000000, 0\), expected numbers, with at least one pixel"):
        open_images(npz(form.format("<f4", "1000000000000, 0"), b""))


@pytest.mark.parametrize("ending", ["gif", "tiff", "webp", "png"])
def test_several_frames_are_noted(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("L", (6, 4), level) for level in (0, 120, 240)]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    images = open_images(tmp_path)
    found = images.read(0, 1, [ModelInput("image", "float32", ("N", 1, 4, 6))])["image"]
    assert found.max() == 0
    assert images.notes == (
        f"1 of 1 images have several frames or pages, such as 'a.{ending}', of which the first was read",
    )


def test_other_threads_may_crop_while_images_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    image.save(tmp_path / "a.png")
    opened = Image.open

    def with_another_thread(file: Path) -> Image.Image:
        # Pillow's check reads the limit twice: whether it is None, and then to compute with it.
        assert Image.MAX_IMAGE_PIXELS is not None
        image.crop((0, 0, 4, 4))
        return opened(file)

    monkeypatch.setattr(Image, "open", with_another_thread)
    assert upright_size(tmp_path / "a.png") == ((8, 8), False)
