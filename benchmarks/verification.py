"""How long `verify` takes against the three model runs that it cannot do without, interleaved.

    python benchmarks/verification.py RAW.onnx MODEL.xml IMAGES [--rounds 5]

The runs are those of the raw model in onnxruntime, the artifact, and the artifact with its raw values made visible.
Both sides read the images and load their models; with `--loaded`, loading is left out of the sum of the runs.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import pp_graph as pp
from pp_graph.data import choose_batch_size, open_images
from pp_graph.model import RawModel
from pp_graph.sessions import OnnxSession, run_in_batches


def model_runs(raw: str, artifact: str, images: str) -> tuple[float, float]:
    """Seconds of the three runs, and of loading their models."""
    start = time.perf_counter()
    opened = pp.open(artifact)
    sessions = [
        OnnxSession(RawModel.open(raw)),
        opened.session(),
        opened.session(probes=list(opened.provenance.tensors.values())),
    ]
    loaded = time.perf_counter()
    source = open_images(images)
    size = choose_batch_size(sessions[0].inputs, None)
    for begin in range(0, len(source), size):
        feeds = source.read(begin, min(begin + size, len(source)), sessions[0].inputs)
        for session in sessions:
            run_in_batches(session, feeds)
    return time.perf_counter() - loaded, loaded - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw")
    parser.add_argument("artifact")
    parser.add_argument("images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loaded", action="store_true")
    asked = parser.parse_args()
    ratios = []
    for _ in range(asked.rounds):
        runs, loading = model_runs(asked.raw, asked.artifact, asked.images)
        start = time.perf_counter()
        report = pp.verify(asked.raw, asked.artifact, asked.images)
        whole = time.perf_counter() - start
        assert report.postprocessing_flips == 0
        ratios.append(whole / (runs if asked.loaded else runs + loading))
    print(f"verify / model runs: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"last round: {whole:.2f} s against {runs:.2f} s of runs and {loading:.2f} s of loading; "
          f"{np.size(ratios)} rounds")  # fmt: skip


if __name__ == "__main__":
    main()
