"""Time regions in the model against OpenCV after it.

Both run the packaged demo model in OpenVINO on its photographs, in turns: with `regions=10`, and without, followed by
`cv2.connectedComponentsWithStats` on its mask and the largest number of the map in each region. A high sensitivity
gives masks of more and larger regions.

    python benchmarks/regions.py [--rounds 60]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

import pp_graph as pp

DATA = Path(pp.__file__).parent / "demo" / "data"
REGIONS = 10


def by_opencv(mask: np.ndarray, map_: np.ndarray) -> np.ndarray:
    """Areas and largest numbers of the ten largest regions."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8))
    order = 1 + np.argsort(-stats[1:, 4], kind="stable")[:REGIONS]
    scores = []
    for label in order:
        left, top, width, height, _ = stats[label]
        box = slice(top, top + height), slice(left, left + width)
        scores.append(map_[box][labels[box] == label].max())
    return np.array([stats[order, 4], scores])


def main(rounds: int) -> None:
    """Print medians and the median of the ratios of the same rounds."""
    cv2.setNumThreads(1)
    statistics = pp.Statistics.load(DATA / "stats.json")
    images = [image[None] for image in _pictures()]
    for sensitivity in (0.5, 0.8):
        with_regions, without = (
            pp.load(
                pp.convert(
                    DATA / "raw.onnx",
                    post=pp.OneClassPostProcessor(statistics, pixel_sensitivity=sensitivity, regions=regions),
                    batch=1,
                )
            )
            for regions in (REGIONS, None)
        )
        counts, rows = [], []
        for turn in range(rounds):
            image = images[turn % len(images)]
            times = {}
            for kind in np.random.default_rng(turn).permutation(["model", "opencv"]):
                for _ in range(2):  # the first one warms the caches
                    start = time.perf_counter()
                    if kind == "model":
                        counts.append(int(with_regions(image).region_count[0]))
                    else:
                        found = without(image)
                        by_opencv(found.pred_mask[0, 0], found.anomaly_map[0, 0])
                    times[kind] = 1000 * (time.perf_counter() - start)
            rows.append((times["model"], times["opencv"], times["model"] / times["opencv"]))
        ours, theirs, ratio = np.median(rows, axis=0)
        print(
            f"{np.mean(counts):.1f} regions an image: in the model {ours:.2f} ms, OpenCV after it {theirs:.2f} ms, "
            f"ratio {ratio:.3f}"
        )


def _pictures() -> list[np.ndarray]:
    from PIL import Image

    files = [file for file in sorted((DATA / "images").rglob("*.png")) if file.parent.name != "good"]
    return [np.asarray(Image.open(file).convert("RGB"), np.float32).transpose(2, 0, 1) / 255 for file in files]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    main(parser.parse_args().rounds)
