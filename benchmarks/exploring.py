"""Measure the page of `pp-graph explore` in chromium: its size, and the time to the first picture and to the last map.

    python benchmarks/exploring.py model.xml images.npz --images 100

Needs playwright and Debian's chromium. Times are medians of new pages, from a file on disk.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

import pp_graph as pp

FIRST_PICTURE = """
const draw = CanvasRenderingContext2D.prototype.drawImage;
CanvasRenderingContext2D.prototype.drawImage = function (source, ...rest) {
  if (source instanceof HTMLImageElement) window.firstPicture ??= performance.now();
  return draw.call(this, source, ...rest);
};
"""
CHANGE = """
(value) => new Promise((done) => {
  const start = performance.now();
  change("pixel", { sensitivity: value });
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
})
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help=".npz with image, and label and mask if there are any")
    parser.add_argument("--stats", type=Path)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    arrays = np.load(options.data)
    repeated = {name: np.resize(arrays[name], (options.images, *arrays[name].shape[1:])) for name in arrays.files}
    start = time.perf_counter()
    exploration = pp.explore(options.model, repeated, statistics=options.stats)
    made = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = exploration.save(Path(folder) / "page.html")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        first, last, moved = [], [], []
        for _ in range(options.repeats):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.add_init_script(FIRST_PICTURE)
            page.goto(file.as_uri())
            page.wait_for_selector("body[data-ready]")
            last.append(page.evaluate("performance.now()"))
            first.append(page.evaluate("firstPicture"))
            moved += [page.evaluate(CHANGE, 0.3 + step / 20) for step in range(5)]
            page.close()
        print(f"{exploration.shown} images, {file.stat().st_size / 1e6:.1f} MB, written in {made:.1f} s")
    print(f"first picture {statistics.median(first):.0f} ms, all maps {statistics.median(last):.0f} ms")
    print(f"a move of a slider {statistics.median(moved):.0f} ms")


if __name__ == "__main__":
    main()
