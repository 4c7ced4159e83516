"""Calibrating the pixel level of many maps: streamed and counted, against all pixels sorted as Anomalib does.

    python benchmarks/calibration.py [--maps 200] [--size 512] [--streamed 2000000000] [--json OUT.json]

Both sides find the F1-adaptive threshold of the same maps and masks, each in its own process, which generates the maps
batch by batch as a model would; generation is not timed. The baseline is Anomalib 2.7's
algorithm, written in torch after torchmetrics' exact curve: every batch is kept, all are joined, sorted and summed up.
Rounds alternate; the figures are medians. The last part streams `--streamed` pixels through two passes.
Needs torch for the baseline: pip install torch==2.13.0.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIDES = ("pp_graph", "sorted in torch")


def maps_of(index: int, size: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """A map like a model's: smooth normal texture, and in every second image an anomalous region above it."""
    generator = np.random.default_rng(index)
    anomaly_map = generator.standard_gamma(4, (1, size, size), np.float32)
    mask = np.zeros((1, size, size), np.bool_)
    if index % 2:
        side = size // 5
        top, left = generator.integers(0, size - side, 2)
        mask[0, top : top + side, left : left + side] = True
        anomaly_map[mask] += generator.standard_gamma(3, int(mask.sum()), np.float32) * np.float32(1.5)
    return anomaly_map, mask


def counted(maps: int, size: int) -> tuple[float, float]:
    """Threshold and seconds of pp_graph's calibrator, in two passes."""
    from pp_graph.calibration import Calibrator

    spent = 0.0
    calibrator: Calibrator | None = Calibrator(placement="observed")
    last = calibrator
    while calibrator is not None:
        for index in range(maps):
            batch, mask = maps_of(index, size)
            start = time.perf_counter()
            calibrator.update(maps=batch, masks=mask)
            spent += time.perf_counter() - start
        start = time.perf_counter()
        last, calibrator = calibrator, calibrator.refine()
        spent += time.perf_counter() - start
    assert last is not None
    start = time.perf_counter()
    result = last.result(resamples=0)
    spent += time.perf_counter() - start
    assert result.pixel is not None
    assert result.pixel.record.exact
    return float(result.pixel.statistics.threshold or 0), spent


def sorted_in_torch(maps: int, size: int) -> tuple[float, float]:
    """Threshold and seconds of Anomalib's `F1AdaptiveThreshold` on torchmetrics' `_binary_clf_curve`."""
    import torch

    spent = 0.0
    held_scores, held_labels = [], []
    for index in range(maps):
        batch, mask = maps_of(index, size)
        start = time.perf_counter()
        # As `_binary_precision_recall_curve_format` keeps them: flat, labels as integers.
        held_scores.append(torch.from_numpy(batch).flatten())
        held_labels.append(torch.from_numpy(mask).flatten().long())
        spent += time.perf_counter() - start
    start = time.perf_counter()
    preds, target = torch.cat(held_scores), torch.cat(held_labels)
    order = torch.argsort(preds, descending=True)
    preds, target = preds[order], target[order]
    distinct = torch.where(preds[1:] - preds[:-1])[0]
    ends = torch.nn.functional.pad(distinct, [0, 1], value=target.size(0) - 1)
    target = (target == 1).to(torch.long)
    tps = torch.cumsum(target * 1.0, dim=0)[ends]
    fps = 1 + ends - tps
    thresholds = preds[ends]
    precision, recall = tps / (tps + fps), tps / tps[-1]
    precision = torch.cat([precision.flip(0), torch.ones(1)])
    recall = torch.cat([recall.flip(0), torch.zeros(1)])
    thresholds = thresholds.flip(0).clone()
    f1 = torch.nan_to_num((2 * precision * recall) / (precision + recall + 1e-10), nan=0.0)
    threshold = float(thresholds[torch.argmax(f1)])
    spent += time.perf_counter() - start
    return threshold, spent


def streamed(pixels: int) -> dict[str, Any]:
    """Time two passes over `pixels` generated pixels."""
    from pp_graph.calibration import Calibrator

    size = 2048
    base, mask = maps_of(1, size)
    count = pixels // (size * size)
    calibrator: Calibrator | None = Calibrator()
    last = calibrator
    passes, start = 0, time.perf_counter()
    while calibrator is not None:
        passes += 1
        for index in range(count):
            # Cheap to generate, and every batch differs.
            calibrator.update(maps=base * np.float32(1 + index / (4 * count)), masks=mask)
        last, calibrator = calibrator, calibrator.refine()
    assert last is not None
    pixel = last.result(resamples=0).pixel
    assert pixel is not None
    return {
        "pixels": pixel.record.normal + pixel.record.anomalous,
        "passes": passes,
        "exact": pixel.record.exact,
        "threshold": pixel.statistics.threshold,
        "seconds": time.perf_counter() - start,
    }


def in_a_process(side: str, *arguments: int) -> dict[str, Any]:
    """Run one side alone, and read its peak memory."""
    command = [sys.executable, __file__, "--side", side, *map(str, arguments)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(text)
    return found


def run_side(side: str, arguments: list[int]) -> None:
    """The process of one side: prints JSON."""
    if side == "streamed":
        found = streamed(arguments[0])
    else:
        import pp_graph.calibration  # noqa: F401 - what is loaded before counts for neither

        before = peak_mib()
        threshold, seconds = (counted if side == SIDES[0] else sorted_in_torch)(*arguments)
        found = {"threshold": threshold, "seconds": seconds, "before_mib": before}
    print(json.dumps({**found, "peak_mib": peak_mib()}))


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, default=200)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streamed", type=int, default=2_000_000_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=(*SIDES, "streamed"), help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options.side, options.arguments)
        return
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side in SIDES:
            found[side].append(in_a_process(side, options.maps, options.size))
    report: dict[str, Any] = {"maps": options.maps, "size": options.size, "rounds": options.rounds}
    print(f"{options.maps} maps of {options.size} x {options.size}, {options.maps * options.size**2:,} pixels")
    print(f"{'':18}{'seconds':>9}{'peak MiB':>10}{'above start':>13}{'threshold':>16}")
    for side, rounds in found.items():
        median = {name: statistics.median(each[name] for each in rounds) for name in ("seconds", "peak_mib")}
        median["above_start_mib"] = statistics.median(each["peak_mib"] - each["before_mib"] for each in rounds)
        report[side] = {**median, "threshold": rounds[0]["threshold"]}
        print(
            f"{side:18}{median['seconds']:9.2f}{median['peak_mib']:10.0f}{median['above_start_mib']:13.0f}"
            f"{rounds[0]['threshold']:16.9g}"
        )
    ours, theirs = (report[side] for side in SIDES)
    report["faster"] = statistics.median(
        theirs["seconds"] / ours["seconds"] for ours, theirs in zip(*found.values(), strict=True)
    )
    report["less_memory"] = theirs["peak_mib"] / ours["peak_mib"]
    report["less_memory_above_start"] = theirs["above_start_mib"] / ours["above_start_mib"]
    report["same_threshold"] = len({each["threshold"] for rounds in found.values() for each in rounds}) == 1
    print(
        f"{report['faster']:.1f}x faster, {report['less_memory']:.1f}x less memory "
        f"({report['less_memory_above_start']:.1f}x above what is loaded at the start), "
        f"the same threshold bit for bit: {report['same_threshold']}"
    )
    if options.streamed:
        report["streamed"] = each = in_a_process("streamed", options.streamed)
        print(
            f"{each['pixels']:,} pixels in {each['passes']} passes: {each['seconds']:.0f} s with computing them, "
            f"{each['peak_mib']:.0f} MiB at most, exact: {each['exact']}"
        )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
