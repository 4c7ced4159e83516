"""Ratio of times with its confidence interval, and descriptions of the machine.

Needs NumPy alone: this file is also part of every package that `pp_graph.packaging` writes.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_RESAMPLES = 2000
_LEVEL = 0.95


def time_in_rounds(
    runs: Sequence[Callable[[], object]],
    seconds: float,
    fewest: int,
    progress: Callable[[float], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[npt.NDArray[np.float64]]:
    """Time functions in rounds of random order, each twice in a round; the second run counts.

    The first run brings what a function reads into the caches.

    Args:
        runs: The functions.
        seconds: Time to measure for.
        fewest: Rounds to run at least.
        progress: Called with the seconds just spent.
        clock: Clock for the runs, in seconds. `time.process_time` hardly sees other programs.

    Returns:
        Milliseconds of each round, for each function.
    """
    rng = np.random.default_rng(0)
    times: list[list[float]] = [[] for _ in runs]
    begin = last = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times[0]) < fewest:
        for index in rng.permutation(len(runs)):
            runs[index]()
            start = clock()
            runs[index]()
            times[index].append(clock() - start)
        now = time.perf_counter()
        if progress is not None:
            progress(now - last)
        last = now
    return [np.array(each) * 1e3 for each in times]


def ratio_of_medians(times: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the median time divided by the reference's, with a confidence interval.

    The bootstrap resamples whole rounds, because a disturbance slows down both models of a round (percentile bootstrap;
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    Args:
        times: Time of each round, shape (rounds,).
        reference: Time of the reference in the same rounds.

    Returns:
        The ratio, and the ends of its 95 % confidence interval.
    """
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(times), (_RESAMPLES, len(times)))
    ratios = np.median(times[chosen], axis=1) / np.median(reference[chosen], axis=1)
    low, high = np.quantile(ratios, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(np.median(times) / np.median(reference)), float(low), float(high)


_PACKAGES = ("openvino", "onnxruntime", "onnx", "onnx-ir", "numpy", "torch")


def describe_machine() -> dict[str, str]:
    """Return processor, cores, memory and system."""
    machine = {
        "processor": _from_file("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
    }
    memory = _from_file("/proc/meminfo", "MemTotal")
    if memory:
        machine["memory"] = f"{int(memory.split()[0]) / 2**20:.0f} GiB"
    return machine


def describe_versions(pp_graph: str) -> dict[str, str]:
    """Return the versions of Python, pp_graph (as given) and the packages that affect times."""
    versions = {"python": platform.python_version(), "pp_graph": pp_graph}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _from_file(path: str, key: str) -> str | None:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)
