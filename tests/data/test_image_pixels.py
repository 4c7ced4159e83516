"""Large images become a model's input strip by strip: the same pixels, in the memory of the decoded image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pp_graph.data import image_pixels
from pp_graph.preprocessing.placement import letterbox
from tests.sweeps.hostile_data import png

_MODES = ("L", "RGB", "RGBA", "LA", "P", "1", "CMYK", "I;16", "I")


def _image(mode: str, width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    if mode.startswith("I"):
        return Image.fromarray(rng.integers(0, 65536, (height, width)).astype(np.uint16 if ";" in mode else np.int32))
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    if mode in ("RGBA", "LA"):
        image = image.convert(mode[:-1])
        image.putalpha(Image.fromarray(rng.integers(0, 256, (height, width), np.uint8)))
    return image if image.mode == mode else image.convert(mode)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", _MODES)
def test_strips_give_the_pixels_of_the_whole(mode: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for width, height in ((70, 50), (1, 1), (2, 300), (300, 2)):
        image = _image(mode, width, height)
        for strip in (100_000, 200, 1):
            monkeypatch.setattr(image_pixels, "_STRIP_PIXELS", strip)
            own = image_pixels.image_pixels(image, channels, None)
            deep = mode.startswith("I")
            expected = np.asarray(image if deep else image.convert("L" if channels == 1 else "RGB"), own.dtype)
            assert np.array_equal(own, np.broadcast_to(expected.reshape(height, width, -1), own.shape))
            for size in ((31, 17), (90, 60), (70, 17)):
                resized = image_pixels.image_pixels(image, channels, size)
                if not deep:  # Pillow resizes no image of 16 bits as it should
                    whole = image if mode == "L" else image.convert("L" if channels == 1 else "RGB")
                    twin = np.asarray(whole.resize(size, Image.Resampling.BILINEAR))
                    assert np.array_equal(resized, np.broadcast_to(twin.reshape(*size[::-1], -1), resized.shape))
                boxed = image_pixels.image_pixels(image, channels, size, letterbox=True)
                assert boxed.dtype == own.dtype
                around = 114 * 257 if deep else 114
                assert np.array_equal(boxed, np.rint(letterbox(own[None], size[1], size[0], around)[0]))


_MEASURE = """
import resource, sys
from pathlib import Path
from pp_graph.data import open_images
from pp_graph.model import ModelInput
from PIL import Image
images = open_images(Path(sys.argv[1]), letterbox=sys.argv[2] == "True")
wanted = [ModelInput(name="x", shape=(None, 3, 256, 256), dtype="float32")]
open_images(Path(sys.argv[3])).read(0, 1, wanted)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert images.read(0, 1, wanted)["x"].shape == (1, 3, 256, 256)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("letterboxed", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16"])
def test_memory_is_that_of_the_decoded_image(tmp_path: Path, mode: str, letterboxed: bool) -> None:
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    if mode == "RGBA":
        Image.new("RGBA", (13000, 13000)).save(large, compress_level=1)
    else:
        deep = mode != "RGB"
        large.write_bytes(png(13000, 13000, colour=0 if deep else 2, depth=16 if deep else 8))
    small.write_bytes(png(16, 16))
    command = [sys.executable, "-c", _MEASURE, str(large), str(letterboxed), str(small)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    decoded = 13000 * 13000 * (2 if mode == "I;16" else 4)  # Pillow takes 4 bytes for a pixel of RGB, too
    assert int(done.stdout) << 10 < decoded + (100 << 20)
