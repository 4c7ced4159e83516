"""Measure latency on this machine: the raw model, with post-processing on the host, and the model of this package.

All run in turns, in random order, on every device of this machine. `pp-graph benchmark --compare` reads the JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import openvino as ov
from measuring import describe_machine, describe_versions, ratio_of_medians, time_in_rounds
from packaged_model import FOLDER, MANIFEST, Array, PackageError, properties, running_precision

WARM_UP_RUNS = 5
FEWEST_ROUNDS = 5
LATENCY_SHARE = 0.8
"""Share of the time that measures latency; the rest measures throughput."""


@dataclass
class Contender:
    """A compiled model, with a second one on the CPU after it if it has post-processing on the host.

    Attributes:
        name: Name in the report.
        compiled: The model.
        feeds: Input tensors by name or place.
        seconds: Time that compiling took.
        post: Post-processing, a model of its own; None without.
        times: Milliseconds of each round.
    """

    name: str
    compiled: ov.CompiledModel
    feeds: dict[int, ov.Tensor]
    seconds: float
    post: ov.CompiledModel | None = None
    times: Array = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        self.request = self.compiled.create_infer_request()
        for place, tensor in self.feeds.items():
            self.request.set_input_tensor(place, tensor)
        self.after = self.make_after()

    def make_after(self) -> Callable[[ov.InferRequest], None] | None:
        """Return a function that post-processes the outputs of a request."""
        if self.post is None:
            return None
        request, count = self.post.create_infer_request(), len(self.post.inputs)

        def after(done: ov.InferRequest) -> None:
            for place in range(count):
                request.set_input_tensor(place, done.get_output_tensor(place))
            request.infer()

        return after

    def run(self) -> None:
        """Run once, with the post-processing."""
        self.request.infer()
        if self.after is not None:
            self.after(self.request)

    def throughput(self, seconds: float) -> tuple[float, int]:
        """Return runs per second with several requests in flight, and their number."""
        queue = ov.AsyncInferQueue(self.compiled, self.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        pool: SimpleQueue[Callable[[ov.InferRequest], None]] = SimpleQueue()
        for after in (self.make_after() for _ in range(len(queue))):
            if after is not None:
                pool.put(after)

        def finish(request: ov.InferRequest, _: object) -> None:
            own = pool.get()
            own(request)
            pool.put(own)

        if self.post is not None:
            queue.set_callback(finish)
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            queue.start_async(self.feeds)
            done += 1
        queue.wait_all()
        return done / (time.perf_counter() - start), len(queue)

    def border(self) -> tuple[int, int]:
        """Return the bytes of all inputs, and of all outputs of the last run."""
        sent = sum(tensor.get_byte_size() for tensor in self.feeds.values())
        return sent, sum(tensor.get_byte_size() for tensor in self.request.output_tensors)


def load(folder: str) -> dict[int, ov.Tensor]:
    """Read the golden inputs in a folder."""
    files = sorted((FOLDER / folder).glob("input_*.npy"), key=lambda file: int(file.stem.split("_")[1]))
    return {place: ov.Tensor(np.load(file)) for place, file in enumerate(files)}


def fixed(model: ov.Model, feeds: dict[int, ov.Tensor]) -> ov.Model:
    """Fix the sizes of a model to those of its inputs, as for deployment."""
    model.reshape({place: list(tensor.shape) for place, tensor in feeds.items()})
    return model


def without_post_processing(core: ov.Core) -> ov.Model:
    """Return the model of this package up to its raw values."""
    model = core.read_model(FOLDER / MANIFEST["model"])
    found = {
        name: output
        for node in model.get_ordered_ops()
        if node.get_type_name() != "Result"
        for output in node.outputs()
        for name in output.get_names()
    }
    return ov.Model([found[name] for name in MANIFEST["raw"]["tensors"]], model.get_parameters(), "raw")


def contenders(core: ov.Core, device: str, precision: str | None) -> list[Contender]:
    """Compile the models for a device."""
    own, raw = load("golden/0"), MANIFEST["raw"]
    models: list[tuple[str, ov.Model, dict[int, ov.Tensor], bool]] = []
    for name, posted in (("raw", False), ("raw + host-openvino", True)):
        if posted and raw["post"] is None:
            continue
        if raw["model"] is None:
            models.append((name, without_post_processing(core), own, posted))
        else:
            feeds = load("bench") or own
            models.append((name, core.read_model(FOLDER / raw["model"]), feeds, posted))
    models.append((Path(MANIFEST["model"]).name, core.read_model(FOLDER / MANIFEST["model"]), own, False))
    found = []
    for name, model, feeds, posted in models:
        start = time.perf_counter()
        compiled = core.compile_model(fixed(model, feeds), device, properties(core, device, precision))
        seconds = time.perf_counter() - start
        post = None
        if posted:
            island = core.read_model(FOLDER / raw["post"])
            post = core.compile_model(island, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"})
        found.append(Contender(name, compiled, feeds, seconds, post))
    return found


def measure(core: ov.Core, device: str, precision: str, seconds: float) -> list[dict[str, Any]]:
    """Time all models on a device; one result for each, in the form of pp_graph's report."""
    entries = contenders(core, device, precision)
    for entry in entries:
        for _ in range(WARM_UP_RUNS):
            entry.run()
    times = time_in_rounds([entry.run for entry in entries], seconds * LATENCY_SHARE, FEWEST_ROUNDS)
    for entry, each in zip(entries, times, strict=True):
        entry.times = each
    results = []
    for entry in entries:
        ratio, low, high = ratio_of_medians(entry.times, entries[0].times)
        images = next(iter(entry.feeds[0].shape), 1)
        per_second, in_flight = entry.throughput(seconds * (1 - LATENCY_SHARE) / len(entries))
        sent, returned = entry.border()
        results.append(
            {
                "name": entry.name,
                "device": device,
                "asked_precision": precision,
                "precision": running_precision(entry.compiled),
                "runs": len(entry.times),
                "median_ms": float(np.median(entry.times)),
                "p90_ms": float(np.quantile(entry.times, 0.9)),
                "p99_ms": float(np.quantile(entry.times, 0.99)),
                "ratio": ratio,
                "ratio_low": low,
                "ratio_high": high,
                "throughput": per_second * images,
                "in_flight": in_flight,
                "bytes_in": sent / images,
                "bytes_out": returned / images,
                "compile_seconds": entry.seconds,
                "peak_mib": None,
                "groups_us": {},
                "slowest": [],
            }
        )
    return results


def report(devices: list[str], precisions: list[str], seconds: float) -> dict[str, Any]:
    """Measure on each device and precision. A device that cannot run the model is noted, and skipped."""
    core = ov.Core()
    here = core.available_devices
    absent = [device for device in devices if device.partition(":")[0].partition(".")[0] not in _kinds(here)]
    results: list[dict[str, Any]] = []
    notes = []
    for device in devices or here:
        for precision in [] if device in absent else precisions:
            try:
                results += measure(core, device, precision, seconds)
            except RuntimeError as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                notes.append(f"{device}, {precision}: not measured, because OpenVINO says: {lines[-1]}")
    if not results:
        raise PackageError(
            f"No device could be measured, expected one of: {', '.join(here)}. Name it with --device. {' '.join(notes)}"
        )
    raw = MANIFEST["raw"]
    if raw["model"] is None:
        notes.append(
            "'raw' is the packaged model up to its raw values, its tail as pp_graph writes it. For the raw export "
            "itself, package with --raw."
        )
    if any(each["runs"] < 30 for each in results):
        notes.append("Fewer than 30 runs of a model: p99 and intervals are unreliable. Measure longer (--seconds).")
    shapes = ", ".join(f"{spec['name']} {np.load(FOLDER / f'golden/0/input_{place}.npy', mmap_mode='r').shape}"
                       for place, spec in enumerate(MANIFEST["inputs"]))  # fmt: skip
    return {
        "schema_version": 1,
        "machine": describe_machine(),
        "versions": describe_versions(MANIFEST["pp_graph"]),
        "settings": {
            "raw": f"{raw['file'] or 'in memory'}, sha256 {raw['sha256'][:16]}",
            "devices": ", ".join(devices or here),
            "precisions": ", ".join(precisions),
            "hint": "latency",
            "shapes": "fixed",
            "input": shapes,
            "data": f"golden image {MANIFEST['golden']['images'][0]}",
            "seconds": f"{seconds:g}",
        },
        "absent_devices": absent,
        "results": results,
        "notes": notes,
    }


def _kinds(devices: list[str]) -> set[str]:
    return {device.partition(".")[0] for device in devices} | {"AUTO", "HETERO", "BATCH", "MULTI"}


def main() -> int:
    """Parse the command line, measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", action="append", default=[], help="repeatable; default: every device found")
    parser.add_argument("--precision", action="append", choices=["f32", "default"], help="repeatable; default: both")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each device and precision (default: 10)")
    parser.add_argument("-o", "--output", type=Path, default=None, help="JSON to write (default: print it)")
    parser.add_argument("--force", action="store_true", help="replace the output if it exists")
    given = parser.parse_args()
    try:
        if not 0 < given.seconds < float("inf"):
            raise PackageError(f"--seconds is {given.seconds:g}, expected a positive number.")
        if given.output is not None and given.output.exists() and not given.force:
            raise PackageError(f"Output '{given.output}' exists already. Use --force to replace it.")
        found = report(given.device, given.precision or ["f32", "default"], given.seconds)
        text = json.dumps(found, indent=1) + "\n"
        if given.output is None:
            sys.stdout.write(text)
            return 0
        draft = given.output.with_name(f".{given.output.name}.part")
        draft.write_text(text, encoding="utf-8")
        draft.replace(given.output)
    except (PackageError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    for each in found["results"]:
        print(
            f"{each['device']} {each['asked_precision']} ({each['precision']})  {each['name']:<22} "
            f"{each['median_ms']:9.3f} ms  ratio to raw {each['ratio']:.3f} "
            f"({each['ratio_low']:.3f}-{each['ratio_high']:.3f})"
        )
    for note in found["notes"]:
        print(f"Note: {note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
