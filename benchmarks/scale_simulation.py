"""What a job of many images, or a fleet of many models, would take on more machines than these.

    python benchmarks/scale_simulation.py measure [--images 1000] [--json costs.json]
    python benchmarks/scale_simulation.py check [--images 1000] [--costs costs.json]
    python benchmarks/scale_simulation.py simulate [--costs costs.json]

`measure` takes the costs of single parts on this machine: an image, the start of a worker, a task of Dask, a merge.
`check` calibrates on local clusters of 1, 2 and 4 processes, and compares the time with the simulated one. `simulate`
plays the task graphs of `pp_graph.workers.job` and `pp_graph.fleet` with these costs: workers of different speed,
workers that die and lose what they hold, one scheduler that handles one task after the other. Simulated times are no
measurements: networks, disks and object stores are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import itertools
import json
import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers import DEMO, make_images, merging, run_side

from pp_graph.workers.job import _FAN_IN, cut_into_shards

_BATCH = 8


@dataclass(frozen=True)
class Costs:
    """Measured seconds of one core, unless named otherwise.

    Attributes:
        image: An image, decoded, run and counted twice by `calibrate` (once per pass).
        start: All that comes before the first image: imports, the cluster, opening the model.
        task: The scheduler's share of a task.
        merge: Two states.
        state: Size of a state in bytes.
        model: All tasks of a small model of a fleet, but for benchmarks.
    """

    image: float = 0.0121
    start: float = 2.4
    task: float = 0.0033
    merge: float = 0.0013
    state: int = 220_000
    model: float = 2.4


@dataclass(frozen=True)
class Cluster:
    """Workers of one core each.

    Attributes:
        workers: Their number.
        cores: Cores that they share; None for one each.
        slow: Share of workers that are three times as slow.
        spread: Standard deviation of the logarithm of the duration of a task.
        lifetime: Mean seconds until a worker dies; None for never. Another takes its place.
    """

    workers: int
    cores: int | None = None
    slow: float = 0.0
    spread: float = 0.0
    lifetime: float | None = None


@dataclass
class Played:
    """What a simulation found: seconds, share of the ideal time, share of it that the scheduler was busy."""

    seconds: float
    efficiency: float
    scheduler: float
    repeated: int


def play(durations: list[float], cluster: Cluster, costs: Costs, seed: int = 0) -> Played:
    """Play independent tasks on a cluster; a task of a worker that dies is repeated, as is what it held.

    A worker asks for a task when it is free, and one scheduler answers one after the other.
    """
    draw = random.Random(seed)
    share = 1.0 if cluster.cores is None else max(1.0, cluster.workers / cluster.cores)
    speeds = [share * (3.0 if draw.random() < cluster.slow else 1.0) for _ in range(cluster.workers)]
    dies = [_life(draw, cluster) for _ in speeds]
    free = [(costs.start * share, place) for place in range(cluster.workers)]
    heapq.heapify(free)
    waiting, held = list(reversed(durations)), [0] * cluster.workers
    busy_until = busy = end = 0.0
    repeated = 0
    while waiting:
        now, place = heapq.heappop(free)
        task = waiting.pop()
        busy_until = max(now, busy_until) + costs.task
        busy += costs.task
        length = task * speeds[place] * draw.lognormvariate(0.0, cluster.spread)
        done = busy_until + length
        if done > dies[place]:
            # What it counted and had not merged yet is lost, too. Merges follow each eighth shard.
            lost = min(held[place], _FAN_IN)
            waiting += [task] * (1 + lost)
            repeated += 1 + lost
            held[place] = 0
            done = max(dies[place], now) + costs.start
            dies[place] = done + _life(draw, cluster)
        else:
            held[place] += 1
            end = max(end, done)
        heapq.heappush(free, (done, place))
    workers = cluster.workers / share
    return Played(end, sum(durations) / workers / end, busy / end, repeated)


def _life(draw: random.Random, cluster: Cluster) -> float:
    return float("inf") if cluster.lifetime is None else draw.expovariate(1 / cluster.lifetime)


def images(count: int, cluster: Cluster, costs: Costs, seed: int = 0) -> Played:
    """Play a calibration: a task for each shard, and merges in a tree."""
    shards = [(stop - start) * costs.image for start, stop in cut_into_shards(count, _BATCH, cluster.workers)]
    played = play(shards, cluster, costs, seed)
    merges, level = 0, len(shards)
    while level > 1:
        level = -(-level // _FAN_IN)
        merges += level
    # Merges run on the workers, beside the shards; the last path of the tree comes after them.
    depth = sum(1 for _ in itertools.takewhile(lambda size: size > 1, _levels(len(shards))))
    tail = depth * (_FAN_IN * costs.merge + costs.task)
    seconds = played.seconds + tail + merges * costs.task
    return dataclasses.replace(played, seconds=seconds, efficiency=played.efficiency * played.seconds / seconds)


def _levels(size: int) -> itertools.accumulate[int]:
    return itertools.accumulate(itertools.repeat(None), lambda left, _: -(-left // _FAN_IN), initial=size)


def measure(count: int) -> Costs:
    """Measure the costs on this machine."""
    from distributed import Client, LocalCluster

    merge = merging()
    seconds = {}
    with tempfile.TemporaryDirectory(dir=DEMO.parent.parent.parent) as folder:
        for images in (_BATCH, count):
            make_images(Path(folder) / str(images), images)
            for workers in (0, 1):
                found = [run_side(workers, 1, Path(folder) / str(images) / "test") for _ in range(3)]
                seconds[workers, images] = statistics.median(each["seconds"] for each in found)
    image = (seconds[0, count] - seconds[0, _BATCH]) / (count - _BATCH)
    one: Any = {"n_workers": 1, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(**one) as cluster, Client(cluster) as client:
        start = time.perf_counter()
        client.gather(client.map(lambda x: x, range(2000)))
        task = (time.perf_counter() - start) / 2000
    return Costs(image, seconds[1, _BATCH], task, merge["milliseconds"] / 1000, int(merge["bytes"]))


def check(count: int, costs: Costs) -> None:
    """Compare simulated with measured times of local clusters."""
    most = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=DEMO.parent.parent.parent) as folder:
        make_images(Path(folder), count)
        for workers in (1, 2, 4):
            cores = min(workers, most)
            found = [run_side(workers, cores, Path(folder) / "test")["seconds"] for _ in range(3)]
            expected = images(count, Cluster(workers, cores), costs).seconds
            print(
                f"{workers} workers on {cores} cores: {statistics.median(found):.1f} s measured "
                f"({min(found):.1f}-{max(found):.1f}), {expected:.1f} s simulated",
                flush=True,
            )


def simulate(costs: Costs) -> None:
    """Print what grows in which way."""
    real = {"slow": 0.01, "spread": 0.2, "lifetime": 24 * 3600.0}
    print("calibrate, seconds of one core an image:", costs.image)
    print(
        f"{'images':>14} {'workers':>8} {'hours':>8} {'of ideal':>9} {'scheduler':>10} {'shards':>10} {'repeated':>9}"
    )
    for count, workers in itertools.product((10**5, 10**7, 10**9), (10, 100, 1000)):
        played = images(count, Cluster(workers, **real), costs)
        shards = len(cut_into_shards(count, _BATCH, workers))
        print(
            f"{count:14,} {workers:8,} {played.seconds / 3600:8.2f} {played.efficiency:9.0%} {played.scheduler:10.1%} "
            f"{shards:10,} {played.repeated:9,}"
        )
    print("fleet, seconds of one core a model:", costs.model)
    for count, workers in itertools.product((200, 10_000), (2, 100, 1000)):
        # Six tasks follow each other in a model: inspect, calibrate, fuse, convert, tune, verify.
        tasks = [costs.model / 6] * (6 * count)
        played = play(tasks, Cluster(workers, **real), costs)
        floor = costs.model * 3  # all tasks of a model on a slow worker
        seconds = max(played.seconds, floor)
        print(
            f"{count:14,} {workers:8,} {seconds / 3600:8.2f} {played.efficiency * played.seconds / seconds:9.0%} "
            f"{played.scheduler:10.1%} {len(tasks):10,} {played.repeated:9,}"
        )


def main() -> None:
    """Measure, check or simulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "check", "simulate"])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--costs", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    costs = Costs(**json.loads(options.costs.read_text())) if options.costs else Costs()
    if options.what == "measure":
        costs = measure(options.images)
        print(costs)
        if options.json:
            options.json.write_text(json.dumps(dataclasses.asdict(costs), indent=1))
    elif options.what == "check":
        check(options.images, costs)
    else:
        simulate(costs)


if __name__ == "__main__":
    main()
