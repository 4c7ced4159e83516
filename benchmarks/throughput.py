"""Images per second of the raw model, Anomalib's export and ours, by number of streams and by batch.

    python benchmarks/throughput.py FOLDER [FOLDER...] [--seconds 1] [--rounds 5] [--precisions f32,bf16]
        [--streams 1,2,4,8] [--batches 1,2,4,8,16] [--json result.json]

A folder holds raw.onnx, stats.json and, if there is one, full.onnx. Measured as OpenVINO's benchmark_app does: sizes
are fixed, an asynchronous queue holds as many requests as OpenVINO calls optimal, each with its own input in memory,
and starts them for a fixed time after a warm-up. All models and settings take turns in random order. A figure is the
median over rounds, with its 95 % confidence interval by bootstrap. `load` are the settings of
`pp.load(..., mode="throughput")`. OpenVINO lowers a number of streams that exceeds the number of threads. Batches other
than 1 are measured with the settings of `load`, for models that leave the batch open.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

import pp_graph as pp
from pp_graph.openvino.devices import recommended_properties

WARM_UP_SECONDS = 0.3


@dataclass
class Entry:
    """A model with settings, and its images per second by round."""

    case: str
    precision: str
    model: str
    settings: str
    batch: int
    compiled: ov.CompiledModel
    queue: ov.AsyncInferQueue
    rates: list[float] = field(default_factory=list)

    def run(self, seconds: float) -> float:
        """Return the images per second of a turn."""
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            self.queue.start_async()
            done += 1
        self.queue.wait_all()
        return done * self.batch / (time.perf_counter() - start)

    def row(self) -> dict[str, Any]:
        rates = np.array(self.rates)
        picked = np.random.default_rng(0).integers(0, len(rates), (1000, len(rates)))
        low, high = np.quantile(np.median(rates[picked], axis=1), [0.025, 0.975])
        return {
            **{name: getattr(self, name) for name in ("case", "precision", "model", "settings", "batch")},
            "streams": int(self.compiled.get_property("NUM_STREAMS")),
            "requests": len(self.queue),
            "images_per_second": float(np.median(rates)),
            "low": float(low),
            "high": float(high),
            "rates": self.rates,
        }


def compile_entry(case: str, precision: str, name: str, model: ov.Model, settings: str, batch: int) -> Entry:
    properties = recommended_properties("CPU", "throughput", precision)
    if settings != "load":
        properties |= {"NUM_STREAMS": settings}
    fixed = model.clone()
    fixed.reshape([batch, *(dim.get_length() for dim in list(model.inputs[0].get_partial_shape())[1:])])
    compiled = ov.Core().compile_model(fixed, "CPU", properties)
    queue = ov.AsyncInferQueue(compiled)  # as many requests as OPTIMAL_NUMBER_OF_INFER_REQUESTS
    for request in queue:
        image = np.random.default_rng(0).random(compiled.input(0).shape, np.float32)
        request.set_input_tensor(ov.Tensor(image))
    return Entry(case, precision, name, settings, batch, compiled, queue)


def entries_of(folder: Path, precision: str, options: argparse.Namespace) -> list[Entry]:
    """Compile the models of a folder with every setting."""
    core = ov.Core()
    post = pp.OneClassPostProcessor(pp.Statistics.load(folder / "stats.json"))
    with tempfile.TemporaryDirectory() as temporary:
        ours = core.read_model(pp.convert(folder / "raw.onnx", post=post).save(Path(temporary) / "ours.xml"))
        ours = ours.clone()
        models = {"raw": core.read_model(folder / "raw.onnx"), "ours": ours}
        if (folder / "full.onnx").exists():
            models["full"] = core.read_model(folder / "full.onnx")
        batch = models["raw"].inputs[0].get_partial_shape()[0]
        first = 1 if batch.is_dynamic else batch.get_length()
        settings = [("load", first), *((streams, first) for streams in options.streams.split(","))]
        if batch.is_dynamic:
            settings += [("load", int(size)) for size in options.batches.split(",") if int(size) != first]
        return [
            compile_entry(folder.name, precision, name, model, *each)
            for each in settings
            for name, model in models.items()
        ]


def measure(entries: list[Entry], options: argparse.Namespace) -> None:
    for entry in entries:
        entry.run(WARM_UP_SECONDS)
    rng = np.random.default_rng(0)
    for _ in range(options.rounds):
        for index in rng.permutation(len(entries)):
            entries[index].rates.append(entries[index].run(options.seconds))


def report(rows: list[dict[str, Any]]) -> None:
    """Print images per second, and how close the settings of `load` come to the best."""
    raw = {(row["settings"], row["batch"]): row["images_per_second"] for row in rows if row["model"] == "raw"}
    for row in rows:
        rate = row["images_per_second"]
        print(
            f"{row['case']:16} {row['precision']:5} {row['model']:5} batch {row['batch']:2} "
            f"{row['settings']:>4} ({row['streams']} streams, {row['requests']} requests) {rate:8.1f} images/s "
            f"({row['low']:.1f}–{row['high']:.1f}), {rate / raw[row['settings'], row['batch']]:.2f} of raw"
        )
    for name in dict.fromkeys(row["model"] for row in rows):
        alike = [row for row in rows if row["model"] == name and row["batch"] == rows[0]["batch"]]
        # Settings with the same streams and requests are one setting: the device lowered the number.
        pooled: dict[tuple[int, int], list[float]] = {}
        for row in alike:
            pooled.setdefault((row["streams"], row["requests"]), []).extend(row["rates"])
        medians = {each: float(np.median(rates)) for each, rates in pooled.items()}
        best = max(medians, key=lambda each: medians[each])
        own = next((row["streams"], row["requests"]) for row in alike if row["settings"] == "load")
        print(
            f"{rows[0]['case']:16} {rows[0]['precision']:5} {name:5} load ({own[0]} streams, {own[1]} requests) has "
            f"{medians[own] / medians[best]:.3f} of the best ({best[0]} streams, {best[1]} requests)"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precisions", default="f32,bf16")
    parser.add_argument("--streams", default="1,2,4,8")
    parser.add_argument("--batches", default="1,2,4,8,16")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for folder in options.folders:
        for precision in options.precisions.split(","):
            entries = entries_of(folder, precision, options)
            measure(entries, options)
            rows += (measured := [entry.row() for entry in entries])
            report(measured)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
