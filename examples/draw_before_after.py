"""Draw the picture of the README: what a raw export returns, and what the fused model returns.

python examples/draw_before_after.py docs/before_after.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

import pp_graph as pp
from pp_graph.data import open_images
from pp_graph.demo import IMAGES, RAW, STATISTICS
from pp_graph.sessions import OnnxSession

_SIDE, _GAP, _TOP = 220, 14, 62
_INK, _SOFT = "#1d1d35", "#6b6b80"


def main() -> None:
    """Run both models on one photograph and draw what comes out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    raw = pp.RawModel.open(RAW)
    images = open_images(IMAGES)
    index = images.names.index("grass/01.png")
    feeds = images.read(index, index + 1, raw.inputs)
    before = OnnxSession(raw).run(feeds)
    artifact = pp.convert(pp.fuse(RAW, pp.OneClassPostProcessor(pp.Statistics.load(STATISTICS))))
    after = artifact.session().run(feeds)

    photograph = np.round(feeds["image"][0].transpose(1, 2, 0) * 255).astype(np.uint8)
    raw_map = before["anomaly_map"][0, 0]
    ranges = f"{raw_map.min():.0f} to {raw_map.max():.0f}"
    stretched = (raw_map - raw_map.min()) / (raw_map.max() - raw_map.min())
    mask = after["pred_mask"][0, 0]
    overlay = photograph.astype(np.float32)
    overlay[mask] = 0.45 * overlay[mask] + 0.55 * np.array([255, 40, 40])
    tiles = [
        (Image.fromarray(photograph), "image"),
        (Image.fromarray((stretched * 255).astype(np.uint8)).convert("RGB"), f"anomaly_map: {ranges}, no unit"),
        (_heat(after["anomaly_map"][0, 0]), "anomaly_map: 0 to 1, threshold at 0.5"),
        (Image.fromarray(overlay.astype(np.uint8)), "pred_mask: anomalous pixels"),
    ]
    width = 4 * _SIDE + 6 * _GAP
    picture = Image.new("RGB", (width, _TOP + _SIDE + 40), "white")
    draw = ImageDraw.Draw(picture)
    score, normalized = float(before["pred_score"].ravel()[0]), float(after["pred_score"].ravel()[0])
    label = "anomalous" if after["pred_label"].ravel()[0] else "normal"
    spans = [
        (1, 1, "before: raw.onnx", f"pred_score {score:.2f}. Good or bad?"),
        (2, 2, "after: fused, converted, verified", f"pred_score {normalized:.2f}, pred_label: {label}"),
    ]
    for first, count, title, line in spans:
        left = _GAP + first * (_SIDE + _GAP) + (_GAP if first == 2 else 0)
        draw.text((left, 10), title, fill=_INK, font=ImageFont.load_default(18))
        draw.text((left, 36), line, fill=_SOFT, font=ImageFont.load_default(15))
        draw.line([(left, 58), (left + count * _SIDE + (count - 1) * _GAP, 58)], fill=_INK, width=2)
    for position, (tile, caption) in enumerate(tiles):
        left = _GAP + position * (_SIDE + _GAP) + (_GAP if position >= 2 else 0)
        picture.paste(tile.resize((_SIDE, _SIDE)), (left, _TOP + 6))
        draw.text((left, _TOP + _SIDE + 14), caption, fill=_SOFT, font=ImageFont.load_default(12))
    output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(output, optimize=True)
    print(f"Wrote {output}")


def _heat(anomaly_map: np.ndarray) -> Image.Image:
    gray = Image.fromarray(np.round(anomaly_map * 255).astype(np.uint8))
    return ImageOps.colorize(gray, "#10102e", "#fff7c0", mid="#d1495b", midpoint=128)


if __name__ == "__main__":
    main()
