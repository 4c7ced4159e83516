"""Calibrating on worker processes: what the engine costs with one worker, and what two workers gain.

    python benchmarks/workers.py [--images 2000] [--rounds 3] [--cores 1] [--json OUT.json]

Each side is a process of its own, held to one core or to two, with all processes that it starts. Images are hard links
to those of the demo, decoded anew each time. Rounds alternate in random order; ratios compare sides of one round, and
the figures are medians. Seconds include starting workers. CPU seconds are those of all processes of a side, which other
work on the machine disturbs less. Memory is the largest resident size of any one process.
Needs Linux, and the extra 'fleet'.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DEMO = Path(__file__).parent.parent / "pp_graph" / "demo" / "data"
SIDES = {
    "one process, one core": (0, 1),
    "1 worker, one core": (1, 1),
    "one process, two cores": (0, 2),
    "2 workers, two cores": (2, 2),
}
RATIOS = (
    ("engine with one worker, on one core", "1 worker, one core", "one process, one core"),
    ("2 workers against 1", "2 workers, two cores", "1 worker, one core"),
    ("2 workers against one process on both cores", "2 workers, two cores", "one process, two cores"),
)


def make_images(folder: Path, count: int) -> None:
    """Link the demo's images under many names, sorted as in MVTec AD."""
    sources = sorted((DEMO / "images").rglob("*.png"))
    for index in range(count):
        source = sources[index % len(sources)]
        kind = source.parent.name
        target = folder / "test" / kind / f"{index:06}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(source)
        mask = DEMO / "ground_truth" / kind / f"{source.stem}_mask.png"
        if mask.exists():
            (folder / "ground_truth" / kind).mkdir(parents=True, exist_ok=True)
            (folder / "ground_truth" / kind / f"{index:06}_mask.png").hardlink_to(mask)


def calibrated(folder: Path, workers: int, threads: int = 2) -> dict[str, Any]:
    """Calibrate in this process with so many threads of the runtime, or on workers of one thread each."""
    import pp_graph as pp
    from pp_graph.sessions.threads import limited_threads
    from pp_graph.workers import open_client

    start = time.perf_counter()
    # OpenVINO's threads pin themselves to every core, whatever cores the process is held to.
    with limited_threads(threads), open_client(workers or None) as client:
        ready = time.perf_counter()
        result = pp.calibrate(DEMO / "raw.onnx", folder, client=client, resamples=0)
        ended = time.perf_counter()
        peaks = [] if client is None else list(client.run(_peak).values())
    return {
        "seconds": ended - start,
        "cluster": ready - start,
        "peak": _peak(),
        "workers_peak": max(peaks, default=0),
        "statistics": json.loads(result.statistics.to_json())["pixel"],
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def run_side(workers: int, cores: int, folder: Path) -> dict[str, Any]:
    """Run a side in a new process."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    command = [sys.executable, __file__, "--side", str(workers), "--folder", str(folder)]
    command += ["--threads", str(cores)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, allowed)
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**json.loads(found.stdout), "cpu": cpu}


def merging() -> dict[str, float]:
    """Size of the counts of a shard of 256 images, and the time to merge two."""
    import copy

    from pp_graph.calibration import Calibrator
    from pp_graph.data import open_images
    from pp_graph.model import RawModel
    from pp_graph.raw_values import open_raw_values

    values = open_raw_values(DEMO / "raw.onnx")
    images = open_images(DEMO / "images")
    raw = values.run(images.read(0, len(images), RawModel.open(DEMO / "raw.onnx").inputs))
    calibrator = Calibrator()
    for _ in range(256 // len(images)):
        calibrator.update(scores=raw["raw_score"], maps=raw["raw_map"])
    other, times = copy.deepcopy(calibrator), []
    for _ in range(20):
        start = time.perf_counter()
        copy.deepcopy(calibrator).merge(copy.deepcopy(other))
        times.append(time.perf_counter() - start)
    return {"bytes": len(pickle.dumps(calibrator)), "milliseconds": 1000 * statistics.median(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, choices=[1, 2], help="only the sides on so many cores")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side is not None:
        print(json.dumps(calibrated(options.folder, options.side, options.threads)))
        return
    merge = merging()
    print(f"counts of a shard: {merge['bytes']:,} bytes; two merge in {merge['milliseconds']:.1f} ms", flush=True)
    sides = [name for name, (_, cores) in SIDES.items() if options.cores in (None, cores)]
    rounds: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory(dir=DEMO.parent.parent.parent) as folder:
        make_images(Path(folder), options.images)
        for _ in range(options.rounds):
            order = random.sample(sides, len(sides))
            rounds.append({name: run_side(*SIDES[name], Path(folder) / "test") for name in order})
            print(
                {name: (round(found["seconds"], 1), round(found["cpu"], 1)) for name, found in rounds[-1].items()},
                flush=True,
            )
    assert all(found["statistics"] == rounds[0][name]["statistics"] for each in rounds for name, found in each.items())
    for name in sides:
        of = [each[name] for each in rounds]
        seconds = statistics.median(found["seconds"] for found in of)
        line = f"{name:24} {seconds:7.1f} s ({options.images / seconds:6.1f} images/s)"
        line += f", {statistics.median(found['cpu'] for found in of):.1f} CPU s"
        line += f", {statistics.median(found['peak'] for found in of) / 2**20:6.0f} MiB"
        if of[0]["workers_peak"]:
            line += f", worker {statistics.median(found['workers_peak'] for found in of) / 2**20:6.0f} MiB"
            line += f", {statistics.median(found['start'] for found in of):.1f} s to start the cluster"
        print(line)
    for title, side, base in RATIOS:
        if side not in sides or base not in sides:
            continue
        ratios = sorted(each[side]["seconds"] / each[base]["seconds"] for each in rounds)
        used = statistics.median(each[side]["cpu"] / each[base]["cpu"] for each in rounds)
        wall = f"{statistics.median(ratios):.3f} of the time ({ratios[0]:.3f}-{ratios[-1]:.3f})"
        print(f"{title}: {wall}, {used:.3f} of the CPU seconds")
    if options.json is not None:
        options.json.write_text(json.dumps({"images": options.images, "merge": merge, "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
