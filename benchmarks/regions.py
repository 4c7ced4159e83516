"""Time regions in the model against OpenCV after it.

Both run the packaged demo model in OpenVINO, on one thread, in turns: with `regions=10`, and without, followed by
`cv2.connectedComponentsWithStats` on its mask and the largest number of the map in each region. Masks with one and
with many regions come from real images and from noise.

    python benchmarks/regions.py [--rounds 60]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

import pp_graph as pp

DATA = Path(pp.__file__).parent / "demo" / "data"
REGIONS = 10


def by_opencv(mask: np.ndarray, map_: np.ndarray) -> np.ndarray:
    """Areas and largest numbers of the ten largest regions."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8))
    order = np.argsort(-stats[1:, 4], kind="stable")[:REGIONS]
    scores = ndimage.maximum(map_, labels, np.arange(1, count)[order]) if count > 1 else []
    return np.array([stats[1:, 4][order], scores])


def main(rounds: int) -> None:
    """Print medians and the median of the ratios of the same rounds."""
    cv2.setNumThreads(1)
    statistics = pp.Statistics.load(DATA / "stats.json")
    sessions = []
    for regions in (REGIONS, None):
        artifact = pp.convert(DATA / "raw.onnx", post=pp.OneClassPostProcessor(statistics, regions=regions), batch=1)
        sessions.append(pp.load(artifact, mode="latency"))
    with_regions, without = sessions
    photos = [np.asarray(image)[None] for image in _pictures()]
    noise = np.random.default_rng(0).random((1, *photos[0].shape[1:])).astype(np.float32)
    for name, images in (("photographs", photos), ("noise", [noise])):
        ratios, ours, theirs = [], [], []
        for turn in range(rounds):
            image = images[turn % len(images)]
            times = {}
            for kind in np.random.default_rng(turn).permutation(["model", "opencv"]):
                for timed in (False, True):
                    start = time.perf_counter()
                    if kind == "model":
                        with_regions(image)
                    else:
                        found = without(image)
                        by_opencv(found.pred_mask[0, 0], found.anomaly_map[0, 0])
                    if timed:
                        times[kind] = 1000 * (time.perf_counter() - start)
            ratios.append(times["model"] / times["opencv"])
            ours.append(times["model"])
            theirs.append(times["opencv"])
        count = int(with_regions(images[0]).region_count[0])
        print(
            f"{name}, {count} regions: in the model {np.median(ours):.2f} ms, OpenCV after it {np.median(theirs):.2f} "
            f"ms, ratio {np.median(ratios):.3f}"
        )


def _pictures() -> list[np.ndarray]:
    from PIL import Image

    files = sorted((DATA / "images").rglob("*.png"))
    return [np.asarray(Image.open(file).convert("RGB"), np.float32).transpose(2, 0, 1) / 255 for file in files]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    main(parser.parse_args().rounds)
