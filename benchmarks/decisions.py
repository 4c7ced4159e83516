"""Decisions that change on the way to OpenVINO: ours, and a model with another post-processing converted plainly.

    python benchmarks/decisions.py RAW.onnx STATS.json IMAGES [--peer PEER.onnx] [--json result.json]

PEER is an export of the same model that carries its own post-processing, with outputs of our names (Anomalib's own
export, for example). It is saved by plain `openvino.save_model`, as its users do.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import openvino as ov

import pp_graph as pp
from pp_graph.data import Images, open_images
from pp_graph.targets import OnnxSession

_EXECUTIONS = ("f32", "bf16")
_WEIGHTS = ("f32", "f16")
_BATCH = 8


def ours(raw: Path, stats: Path, images: Images, folder: Path) -> list[dict[str, object]]:
    """Flips of our artifacts, by cause."""
    fused = pp.fuse(raw, pp.OneClassPostProcessor(pp.Statistics.load(stats)))
    path = fused.save(folder / "fused.onnx")
    rows = [_row("ours, fused.onnx in onnxruntime", pp.verify(raw, path, images))]
    for weights in _WEIGHTS:
        artifact = pp.convert(path, precision=weights)
        model = artifact.save(folder / f"{weights}.xml")
        for execution in _EXECUTIONS:
            report = pp.verify(raw, model, images, inference_precision=execution)
            rows.append(_row(f"ours, {weights} weights, {execution} execution", report))
    return rows


def _row(name: str, report: pp.VerificationReport) -> dict[str, object]:
    flips = {decision.name: decision.flips for decision in report.decisions}
    margins = [decision.drift.summary()["margin_median"] for decision in report.decisions if len(decision.drift)]
    return {
        "artifact": name,
        "label_flips": flips.get("pred_label"),
        "mask_flips": flips.get("pred_mask"),
        "by_postprocessing": report.postprocessing_flips,
        "median_margin": max(margins, default=None),
    }


def peer(raw: Path, stats: Path, images: Images, model: Path, folder: Path) -> list[dict[str, object]]:
    """Flips of the peer against the same float32 reference."""
    opened = pp.RawModel.open(raw)
    reference_session = OnnxSession(opened)
    provenance = pp.fuse(raw, pp.OneClassPostProcessor(pp.Statistics.load(stats))).provenance
    post = provenance.build_post_processor()
    core = ov.Core()
    rows = []
    for weights in _WEIGHTS:
        path = folder / f"peer_{weights}.xml"
        ov.save_model(core.read_model(model), path, compress_to_fp16=weights == "f16")
        for execution in _EXECUTIONS:
            compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": execution})
            flips = dict.fromkeys(("pred_label", "pred_mask"), 0)
            for start in range(0, len(images), _BATCH):
                feeds = images.read(start, min(start + _BATCH, len(images)), reference_session.inputs)
                outputs = reference_session.run(feeds)
                records = {"pred_score": provenance.raw.score, "anomaly_map": provenance.raw.map}
                expected = post({key: outputs[record.name] for key, record in records.items() if record is not None})
                found = compiled(feeds)
                for name in flips:
                    flips[name] += int(np.sum(found[name] != getattr(expected, name)))
            rows.append(
                {
                    "artifact": f"peer, {weights} weights, {execution} execution",
                    "label_flips": flips["pred_label"],
                    "mask_flips": flips["pred_mask"],
                    "by_postprocessing": None,
                    "median_margin": None,
                }
            )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("stats", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    images = open_images(arguments.images)
    with tempfile.TemporaryDirectory() as folder:
        rows = ours(arguments.raw, arguments.stats, images, Path(folder))
        if arguments.peer:
            rows += peer(arguments.raw, arguments.stats, images, arguments.peer, Path(folder))
    print(f"{len(images)} images")
    print(f"{'':44}{'labels':>8}{'pixels':>10}{'by post-processing':>20}{'median margin':>16}")
    for row in rows:
        by = "?" if row["by_postprocessing"] is None else f"{row['by_postprocessing']}"
        margin = "" if row["median_margin"] is None else f"{row['median_margin']:.2g}"
        print(f"{row['artifact']:44}{row['label_flips']:>8}{row['mask_flips']:>10}{by:>20}{margin:>16}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
