"""Count decisions that change in conversion to OpenVINO, for pp_graph and for a PEER model.

    python benchmarks/decisions.py RAW.onnx STATS.json IMAGES.npz [--peer PEER.onnx] [--seconds 10] [--json result.json]

For weights in f32, f16 and int8, run in f32 and bf16: labels and mask pixels that differ from the raw model in float32,
their margins, flips by the post-processing, size of the files, and time as a ratio to the raw model. Where IMAGES hold
labels, F1 of labels and of mask pixels before and after calibrating the artifact itself in that precision. PEER is an
export of the same model that carries its own post-processing, with outputs of our names (Anomalib's own export, for
example). It is saved by plain `openvino.save_model`, and quantised whole by plain `nncf.quantize`, as its users do.
IMAGES also calibrate int8 on both sides, so int8 flips are measured on the quantiser's own calibration images.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

import pp_graph as pp
from pp_graph.data import Images, open_images
from pp_graph.sessions import OnnxSession

_EXECUTIONS = ("f32", "bf16")
_WEIGHTS = ("f32", "f16", "int8")
_DECISIONS = ("pred_label", "pred_mask")
_BATCH = 8

Row = dict[str, Any]


def ours(raw: Path, stats: Path, data: Path, folder: Path) -> tuple[list[Row], dict[str, Path]]:
    """Flips of our artifacts, by cause; and the artifacts."""
    images = open_images(data)
    fused = pp.fuse(raw, pp.OneClassPostProcessor(pp.Statistics.load(stats)))
    rows, files = [], {}
    for weights in _WEIGHTS:
        quantization = pp.Quantization(data) if weights == "int8" else None
        artifact = pp.convert(fused, precision=weights, quantization=quantization)
        files[weights] = artifact.save(folder / f"ours_{weights}.xml")
        for execution in _EXECUTIONS:
            report = pp.verify(raw, files[weights], images, inference_precision=execution)
            flips = {each.name: each.drift for each in report.decisions}
            rows.append(
                {
                    "who": "ours",
                    "weights": weights,
                    "execution": execution,
                    "images": len(images),
                    "flips": {each.name: each.flips for each in report.decisions},
                    "by_postprocessing": report.postprocessing_flips + report.boundary.flips,
                    "margins": {name: each.summary() for name, each in flips.items()},
                    "distinct_map_values": report.distinct_map_values,
                    "file": str(files[weights]),
                }
            )
    return rows, files


def peer(raw: Path, stats: Path, data: Path, model: Path, folder: Path) -> tuple[list[Row], dict[str, Path]]:
    """Flips of the peer against the same float32 reference; and its files."""
    images = open_images(data)
    session = OnnxSession(pp.RawModel.open(raw))
    provenance = pp.fuse(raw, pp.OneClassPostProcessor(pp.Statistics.load(stats))).provenance
    post = provenance.build_post_processor()
    steps = post.decisions(provenance.layout)
    references = list(_batches(images, session, provenance))
    core = ov.Core()
    rows, files = [], {}
    for weights in _WEIGHTS:
        files[weights] = folder / f"peer_{weights}.xml"
        plain = core.read_model(model)
        if weights == "int8":
            plain = _quantised(plain, [feeds for feeds, _ in references])
        ov.save_model(plain, files[weights], compress_to_fp16=weights == "f16")
        for execution in _EXECUTIONS:
            compiled = core.compile_model(files[weights], "CPU", {"INFERENCE_PRECISION_HINT": execution})
            flips = dict.fromkeys(_DECISIONS, 0)
            margins: dict[str, list[np.ndarray]] = {name: [] for name in _DECISIONS}
            for feeds, values in references:
                expected, found = post.predict(values), compiled(feeds)
                for name in _DECISIONS:
                    wrong = found[name] != getattr(expected, name)
                    step = steps[name]
                    away = np.abs(values[step.source].reshape(wrong.shape)[wrong] - step.cutoff) / step.normalizer.range
                    flips[name] += int(wrong.sum())
                    margins[name].append(away.ravel())
            rows.append(
                {
                    "who": "peer",
                    "weights": weights,
                    "execution": execution,
                    "images": len(images),
                    "flips": flips,
                    "by_postprocessing": None,
                    "margins": {name: _summary(np.concatenate(each)) for name, each in margins.items()},
                    "distinct_map_values": None,
                    "file": str(files[weights]),
                }
            )
    return rows, files


def _batches(images: Images, session: OnnxSession, provenance: Any) -> Any:
    for start in range(0, len(images), _BATCH):
        feeds = images.read(start, min(start + _BATCH, len(images)), session.inputs)
        outputs = session.run(feeds)
        yield feeds, {role: outputs[record.name] for role, record in provenance.raw.read.items()}


def _quantised(model: ov.Model, feeds: list[dict[str, np.ndarray]]) -> ov.Model:
    import nncf

    single = [{name: array[index : index + 1] for name, array in each.items()}
              for each in feeds for index in range(len(next(iter(each.values()))))]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        return nncf.quantize(model, nncf.Dataset(single))


def _summary(margins: np.ndarray) -> dict[str, float | None]:
    if len(margins) == 0:
        return {"margin_median": None, "margin_max": None}
    return {"margin_median": float(np.median(margins)), "margin_max": float(margins.max())}


def recalibrated(files: dict[str, Path], data: Path) -> list[Row]:
    """F1 with the thresholds of the float32 model, and with those of the artifact itself."""
    arrays = np.load(data)
    rows = []
    for weights, file in files.items():
        for execution in _EXECUTIONS:
            own = pp.calibrate(file, data, inference_precision=execution, image="f1", pixel="f1")
            path = file.with_name(f"{file.stem}_{execution}.xml")
            pp.retune(file, own.statistics).save(path)
            row: Row = {"weights": weights, "execution": execution}
            for when, model in (("before", file), ("after", path)):
                found = pp.load(model, inference_precision=execution)(arrays["image"])
                row[f"label_f1_{when}"] = _f1(found.pred_label.ravel(), arrays["label"])
                row[f"mask_f1_{when}"] = _f1(found.pred_mask.reshape(arrays["mask"].shape), arrays["mask"])
            rows.append(row)
    return rows


def _f1(found: np.ndarray, truth: np.ndarray) -> float:
    right = np.sum(found & truth)
    return float(2 * right / (np.sum(found) + np.sum(truth)))


def ratios(raw: Path, files: list[Path], seconds: float) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Median time of each file divided by that of the raw model, with the interval, by file and precision."""
    ours_, peers = [f for f in files if f.name.startswith("ours")], [f for f in files if f.name.startswith("peer")]
    report = pp.benchmark(
        raw, ours_, against=peers, inference_precisions=list(_EXECUTIONS), seconds=seconds, memory=False
    )
    return {
        (each.name, each.asked_precision or ""): (each.ratio, each.ratio_low, each.ratio_high)
        for each in report.results
    }


def _margin(row: Row, name: str) -> str:
    summary = row["margins"].get(name, {})
    if summary.get("margin_median") is None:
        return "-"
    return f"{summary['margin_median']:.1e}, {summary['margin_max']:.1e}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("stats", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows, files = ours(arguments.raw, arguments.stats, arguments.images, folder)
        again = recalibrated(files, arguments.images) if "label" in np.load(arguments.images) else []
        listed = list(files.values())
        if arguments.peer:
            more, files = peer(arguments.raw, arguments.stats, arguments.images, arguments.peer, folder)
            rows += more
            listed += files.values()
        times = ratios(arguments.raw, listed, arguments.seconds)
        for row in rows:
            file = Path(row.pop("file"))
            row["bytes"] = sum(each.stat().st_size for each in (file, file.with_suffix(".bin")))
            row["ratio"], *row["ratio_interval"] = times[str(file), row["execution"]]
    print(f"{rows[0]['images']} images; margins (median, max) in parts of the calibrated range")
    columns = ("who", "weights", "execution", "labels", "margins", "pixels", "margins", "by post-processing", "MiB",
               "time / raw", "(95 %)", "map values")  # fmt: skip
    print(" | ".join(columns))
    for row in rows:
        by = "?" if row["by_postprocessing"] is None else str(row["by_postprocessing"])
        low, high = row["ratio_interval"]
        print(
            f"{row['who']} | {row['weights']} | {row['execution']} | {row['flips']['pred_label']} | "
            f"{_margin(row, 'pred_label')} | {row['flips']['pred_mask']:,} | {_margin(row, 'pred_mask')} | {by} | "
            f"{row['bytes'] / 2**20:.2f} | {row['ratio']:.2f} | {low:.2f}-{high:.2f} | "
            f"{row['distinct_map_values'] or '?'}"
        )
    for row in again:
        print(
            f"{row['weights']}, {row['execution']}: F1 of labels {row['label_f1_before']:.4f} -> "
            f"{row['label_f1_after']:.4f} calibrated again, of mask pixels {row['mask_f1_before']:.4f} -> "
            f"{row['mask_f1_after']:.4f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"flips": rows, "recalibrated": again}, indent=1))


if __name__ == "__main__":
    main()
