from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pp_graph.data import open_images
from pp_graph.errors import DataError
from pp_graph.model import ModelInput

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
        DataError, match="Found a folder of images, expected one an input .* nothing feeds 'x'.* --input x=VALUE"
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
        match=r"Found arrays 'image' in the data, expected one an input .*'level' float32 \(N, 1\)\): nothing feeds 'level'",
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


def test_deep_images_are_not_squeezed(tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 60000, (4, 6), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="pixels of more than 8 bits"):
        read(tmp_path, NCHW)
