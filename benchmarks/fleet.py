"""A fleet of many small models, killed twice, resumed, and brought up to date again.

    python benchmarks/fleet.py --models 200

Each model is a network of its own weights with a score and a map, calibrated, converted and verified on eight images.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parent.parent
TASKS = 6
"""Tasks of a model: inspect, calibrate, fuse, convert, tune, verify."""


def small_model(seed: int) -> onnx.ModelProto:
    """Two convolutions with positive weights: the brighter a spot (N,3,H,W), the larger its score (N,1) and map."""
    rng = np.random.default_rng(seed)
    weights = [numpy_helper.from_array(np.abs(rng.normal(0, 0.3, shape)).astype(np.float32), name)
               for name, shape in (("w1", (8, 3, 3, 3)), ("w2", (1, 8, 3, 3)))]  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["anomaly_map"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMax", ["anomaly_map"], ["pred_score"], axes=[2, 3], keepdims=0),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
               for name, shape in (("pred_score", ["N", 1]), ("anomaly_map", ["N", 1, "H", "W"]))]  # fmt: skip
    graph = helper.make_graph(nodes, "raw", [image], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_fleet(folder: Path, count: int) -> Path:
    """Write models, labelled images, and the file that describes the fleet."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 0.2, (8, 3, 16, 16)).astype(np.float32)
    masks = np.zeros((8, 16, 16), np.uint8)
    images[:4, :, 4:8, 4:8] += 0.8
    masks[:4, 4:8, 4:8] = 1
    np.savez(folder / "data.npz", image=images, label=np.arange(8) < 4, mask=masks)
    (folder / "models").mkdir()
    for index in range(count):
        onnx.save(small_model(index), folder / "models" / f"camera{index:03}.onnx")
    return describe(folder)


def describe(folder: Path, sensitivity: float = 0.5) -> Path:
    """Write the file that describes the fleet."""
    file = folder / "fleet.yaml"
    file.write_text(
        "output: out\nmodels:\n"
        '  - path: "models/*.onnx"\n    data: data.npz\n    tags: {camera: "{stem}"}\n'
        f"    options: {{image_sensitivity: {sensitivity}}}\n"
    )
    return file


def command(file: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pp_graph", "fleet", str(file), "--json", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def records(folder: Path) -> int:
    while True:
        try:
            return sum(1 for _ in (folder / "out" / ".fleet" / "records").rglob("*.json"))
        except FileNotFoundError:  # a draft became a record meanwhile
            continue


def run(file: Path, *options: str) -> dict[str, Any]:
    """Run to the end.

    Raises:
        RuntimeError: The command failed.
    """
    started = time.perf_counter()
    process = command(file, *options)
    out, err = process.communicate()
    result = json.loads(out)
    if "artifacts" not in result:
        raise RuntimeError(err or out)
    return {**result, "wall": time.perf_counter() - started}


def run_and_kill(file: Path, until: int, *options: str) -> int:
    """Kill the command with SIGKILL as soon as so many tasks are done, and return how many are."""
    process = command(file, *options)
    while process.poll() is None and records(file.parent) < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return records(file.parent)


def measure(folder: Path, count: int, *options: str) -> dict[str, Any]:
    """Run a fleet that is killed twice, and return what each run did."""
    file = write_fleet(folder, count)
    total = count * TASKS
    started = time.perf_counter()
    killed = [run_and_kill(file, total * part // 3, *options) for part in (1, 2)]
    resumed = run(file, *options)
    whole = time.perf_counter() - started
    again = run(file, *options)
    describe(folder, sensitivity=0.6)
    retuned = run(file, *options)
    return {
        "models": count,
        "tasks": total,
        "done when killed": killed,
        "resumed: kept": resumed["tasks_kept"],
        "resumed: done": resumed["tasks_done"],
        "verdict": resumed["verdict"],
        "problems": [row["problem"] for row in resumed["artifacts"] if row["problem"]],
        "artifacts": len(resumed["artifacts"]),
        "seconds, both kills included": round(whole, 1),
        "second run: done": again["tasks_done"],
        "second run: seconds": round(again["wall"], 2),
        "new sensitivity: done": retuned["tasks_done"],
        "new sensitivity: seconds": round(retuned["wall"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--workers", type=int)
    arguments = parser.parse_args()
    options = [] if arguments.workers is None else ["--workers", str(arguments.workers)]
    with tempfile.TemporaryDirectory() as folder:
        for name, value in measure(Path(folder), arguments.models, *options).items():
            print(f"{name:32} {value}")


if __name__ == "__main__":
    main()
