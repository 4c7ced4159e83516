"""Ratio of the fused model to the raw export, for the models of `zoo.py` and any others.

    python benchmarks/runtime_ratios.py [--models padim_resnet18,unet] [--seconds 10] [--dynamic] [--json result.json]
    python benchmarks/runtime_ratios.py --raw RAW.onnx --stats STATS.json --full FULL.onnx

Each model is timed raw, with Anomalib's post-processing in its export (FULL), and ours, with and without the tail
rewritten; interleaved, batch 1, latency hint, in float32 and in the precision that the device chooses. `--dynamic`
leaves the batch open when compiling. The raw values' largest relative error and the flipped decisions come from
`pp.verify` in float32.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import pp_graph as pp


def measure(
    name: str, kind: str, raw: Path, stats: Path, full: Path | None, folder: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Time one model, and verify it."""
    post = pp.OneClassPostProcessor(pp.Statistics.load(stats))
    fused = pp.fuse(raw, post)
    ours = pp.convert(fused).save(folder / "ours.xml")
    untouched = pp.convert(pp.fuse(raw, post, tail=False)).save(folder / "untouched.xml")
    report = pp.benchmark(
        raw,
        [ours, untouched],
        against=[] if full is None else [full],
        dynamic=options.dynamic,
        seconds=options.seconds,
        memory=False,
    )
    sizes = [dim if isinstance(dim, int) else 4 for dim in pp.RawModel.open(raw).inputs[0].shape or ()]
    images = np.random.default_rng(0).random(sizes, dtype=np.float32)
    proof = pp.verify(raw, ours, images)
    raw_errors = {each.name: each for each in proof.errors if each.name in ("raw_map", "raw_score")}
    error = raw_errors.get("raw_map", raw_errors.get("raw_score"))
    rows = []
    for each in report.results:
        what = {str(ours): "ours", str(untouched): "ours, --no-tail", str(full): "Anomalib's"}.get(each.name, each.name)
        rows.append(
            {
                "model": name,
                "kind": kind,
                "precision": f"{each.asked_precision} ({each.precision})",
                "what": what,
                "median_ms": each.median_ms,
                "ratio": each.ratio,
                "ratio_low": each.ratio_low,
                "ratio_high": each.ratio_high,
                "groups_us": each.groups_us,
                "slowest": each.slowest[:3],
            }
        )
        print(
            f"{name:30} {rows[-1]['precision']:15} {what:16} {each.median_ms:8.2f} ms  "
            f"{each.ratio:.3f} ({each.ratio_low:.3f}–{each.ratio_high:.3f})  "
            + " ".join(f"{group} {time:,.0f}" for group, time in each.groups_us.items())
        )
    rules = ", ".join(dict.fromkeys(record.rule for record in fused.provenance.tail)) or "nothing"
    print(
        f"{name:30} rewritten: {rules}; error {'-' if error is None else f'{error.max_scaled:.1e}'}, flips in f32: "
        f"{proof.postprocessing_flips} by post-processing, {proof.drift_flips} by drift"
    )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models")
    parser.add_argument("--folder", type=Path, help="where models of zoo.py are, or are to be exported to")
    parser.add_argument("--raw", type=Path)
    parser.add_argument("--stats", type=Path)
    parser.add_argument("--full", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--dynamic", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.raw:
            rows += measure(
                options.raw.parent.name, "given", options.raw, options.stats, options.full, Path(temporary), options
            )
        if options.models or not options.raw:
            import zoo

            for name in (options.models or ",".join(zoo.MODELS)).split(","):
                paths = {kind: folder / f"{name}{end}" for kind, end in
                         (("raw", ".onnx"), ("stats", ".json"), ("full", "_full.onnx"))}  # fmt: skip
                if not all(path.exists() for path in paths.values()):
                    folder.mkdir(parents=True, exist_ok=True)
                    paths = zoo.export(name, folder)
                rows += measure(
                    name, zoo.MODELS[name][0], paths["raw"], paths["stats"], paths["full"], Path(temporary), options
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
