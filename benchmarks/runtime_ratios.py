"""Ratio of the fused model to the raw export, for real cases and for the models of `zoo.py`.

    python benchmarks/runtime_ratios.py --cases FOLDER [--only Padim,brick] [--seconds 10] [--json result.json]
    python benchmarks/runtime_ratios.py --cases FOLDER --summary [--seconds 5]
    python benchmarks/runtime_ratios.py [--models padim_resnet18,unet] [--dynamic]
    python benchmarks/runtime_ratios.py --raw RAW.onnx --stats STATS.json [--full FULL.onnx]

A case is a folder with `raw.onnx`, `stats.json` and, if there is a peer to compare with, `full.onnx`, such as
Anomalib's export with its post-processing. Images for verification come from `images.npz` in the folder or in one
beside it, if their size fits; otherwise they are random. `anomalib_models.py` writes such cases.

Each model is timed raw, as its peer, ours, ours with `--no-tail`, and as the limit: the raw model cut at its last
layers, without tail and post-processing. All are interleaved, with the latency hint, in float32 and in the precision
that the device chooses. `--dynamic` leaves the batch open when compiling. Below the times come the five slowest
operators of ours in float32, with their part of the model and their share, and all others over 3 % that are not layers
(marked `!`). Flipped decisions come from `pp.verify` in float32.

`--summary` prints one line a case and precision instead: ours over raw, over the peer and over the limit, in processor
time of one thread, which other programs hardly disturb.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import openvino as ov
from onnx.utils import Extractor

import pp_graph as pp
from pp_graph.benchmarking.measuring import ratio_of_medians, time_in_rounds
from pp_graph.benchmarking.operator_groups import group_of, parts_of
from pp_graph.fusion.tail import tail_names
from pp_graph.openvino.timed_session import TimedSession

LAYERS: Final = (
    "Convolution", "ConvolutionBackpropData", "FullyConnected", "GroupConvolution", "GroupConvolutionBackpropData",
    "MatMul", "ScaledDotProductAttention",
)  # fmt: skip
PROFILED_RUNS: Final = 20
SLOW: Final = 0.03
"""Share of the time from which an operator outside the network's layers needs a rule, or a reason against one."""


def cut_at_last_layer(raw: Path, target: Path) -> Path:
    """Write the raw model without the operators after its last layers."""
    model = onnx.shape_inference.infer_shapes(onnx.load(str(raw)), data_prop=True)
    tail = tail_names(pp.RawModel.open(raw).model)
    network = [node for node in model.graph.node if node.name not in tail and not set(node.output) & tail]
    read_later = {name for node in model.graph.node if node not in network for name in node.input}
    read_later |= {output.name for output in model.graph.output}
    border = [name for node in network for name in node.output if name in read_later]
    initializers = {each.name for each in model.graph.initializer}
    inputs = [each.name for each in model.graph.input if each.name not in initializers]
    floats = {
        each.name
        for each in (*model.graph.value_info, *model.graph.output)
        if each.type.tensor_type.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    }
    onnx.save(Extractor(model).extract_model(inputs, [name for name in border if name in floats]), str(target))
    return target


def images_of(case: Path, raw: Path) -> np.ndarray[Any, Any]:
    """Return a case's images: its own, those beside it if they fit, or random ones."""
    shape = pp.RawModel.open(raw).inputs[0].shape or ()
    batch = shape[0] if shape and isinstance(shape[0], int) else 4
    for file in (case / "images.npz", *sorted(case.parent.glob("*/images.npz"))):
        if file.is_file() and np.load(file)["image"].shape[1:] == tuple(shape[1:]):
            images = np.load(file)["image"]
            return images[: len(images) // batch * batch].astype(np.float32) / 255
    sizes = [dim if isinstance(dim, int) else 4 if axis == 0 else 256 for axis, dim in enumerate(shape)]
    return np.random.default_rng(0).random(sizes, dtype=np.float32)


def print_slowest(ours: Path, raw: Path, images: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Print the operators of our model that take the most time, and all slow ones that are no layers."""
    shape = pp.RawModel.open(raw).inputs[0].shape or ()
    batch = shape[0] if shape and isinstance(shape[0], int) else 1
    model = pp.open(ours)
    assert isinstance(model, pp.OpenVINOModel)
    graph = model.network.clone()
    name = graph.inputs[0].get_any_name()
    graph.reshape({name: [batch, *images.shape[1:]]})
    times = TimedSession(graph, {name: images[:batch]}, profile=True).operator_times(PROFILED_RUNS)
    parts, total = parts_of(raw), sum(each.microseconds for each in times)
    rows = []
    for rank, each in enumerate(sorted(times, key=lambda each: -each.microseconds)):
        share = each.microseconds / total
        layer = each.kind in LAYERS
        if rank >= 5 and (layer or share <= SLOW):
            continue
        part = group_of(each.name, parts, model.provenance)
        rows.append(
            {"operator": each.name, "kind": each.kind, "kernel": each.implementation, "part": part, "share": share}
        )
        mark = " " if layer or share <= SLOW else "!"
        print(f"    {mark} {share:5.1%} {part:16} {each.kind:18} {each.implementation:26} {each.name[:70]}")
    return rows


def compiled(path: Path, images: np.ndarray[Any, Any], precision: str) -> ov.InferRequest:
    """Compile a model for the sizes of the images and one thread."""
    graph = ov.Core().read_model(path)
    graph.reshape({graph.inputs[0].get_any_name(): images.shape})
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision}
    request = ov.Core().compile_model(graph, "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(np.ascontiguousarray(images)))
    return request


def summarise(name: str, case: Path, files: dict[str, Path], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Print ours over raw, over the peer and over the limit, in one line for each precision."""
    raw, full = files["raw"], files["full"]
    post = pp.OneClassPostProcessor(pp.Statistics.load(files["stats"]))
    shape = pp.RawModel.open(raw).inputs[0].shape or ()
    batch = shape[0] if shape and isinstance(shape[0], int) else 1
    images = images_of(case, raw)[:batch]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ours = pp.convert(pp.fuse(raw, post)).save(folder / "ours.xml")
        models = {"ours": ours, "raw": raw, "peer": full, "limit": cut_at_last_layer(raw, folder / "limit.onnx")}
        models = {key: path for key, path in models.items() if path.is_file()}
        for precision in ("f32", "bf16"):
            runs = [compiled(path, images, precision).infer for path in models.values()]
            measured = time_in_rounds(runs, options.seconds, 7, clock=time.process_time)
            times = dict(zip(models, measured, strict=True))
            row: dict[str, Any] = {
                "model": name,
                "precision": precision,
                "ms": float(np.median(times["ours"])),
            }
            for key in [key for key in models if key != "ours"]:
                row[key] = ratio_of_medians(times["ours"], times[key])
            rows.append(row)
            ratios = "  ".join(
                f"{key} {row[key][0]:.3f} ({row[key][1]:.3f}-{row[key][2]:.3f})" for key in models if key in row
            )
            print(f"{name:28} {row['precision']:5} {row['ms']:9.2f} ms  ours over {ratios}", flush=True)
    return rows


def measure(name: str, case: Path, files: dict[str, Path], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time one model, and verify it."""
    raw, full = files["raw"], files["full"]
    post = pp.OneClassPostProcessor(pp.Statistics.load(files["stats"]))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fused = pp.fuse(raw, post)
        ours = pp.convert(fused).save(folder / "ours.xml")
        untouched = pp.convert(pp.fuse(raw, post, tail=False)).save(folder / "no_tail.xml")
        limit = cut_at_last_layer(raw, folder / "limit.onnx")
        names = {
            "raw.onnx": "raw",
            full.name: "peer",
            ours.name: "ours",
            untouched.name: "--no-tail",
            limit.name: "limit",
        }
        report = pp.benchmark(
            raw,
            [ours, untouched],
            against=[*([full] if full.is_file() else []), limit],
            dynamic=options.dynamic,
            seconds=options.seconds,
            memory=False,
        )
        images = images_of(case, raw)
        proof = pp.verify(raw, ours, images)
        rows = []
        for each in report.results:
            what = names.get(Path(each.name).name, each.name)
            rows.append(
                {
                    "model": name,
                    "precision": f"{each.asked_precision} ({each.precision})",
                    "what": what,
                    "median_ms": each.median_ms,
                    "ratio": each.ratio,
                    "ratio_low": each.ratio_low,
                    "ratio_high": each.ratio_high,
                    "groups_us": each.groups_us,
                }
            )
            times = " ".join(f"{group} {time:,.0f}" for group, time in each.groups_us.items())
            interval = f"{each.ratio:.3f} ({each.ratio_low:.3f}-{each.ratio_high:.3f})"
            print(f"{name:28} {rows[-1]['precision']:15} {what:10} {each.median_ms:9.2f} ms  {interval}  {times}")
        rules = ", ".join(dict.fromkeys(record.rule for record in fused.provenance.tail)) or "nothing"
        raw_errors = [each.max_scaled for each in proof.errors if each.name in ("raw_map", "raw_score")]
        print(
            f"{name:28} rewritten: {rules}; error {max(raw_errors, default=0):.1e}; {len(images)} images, flips in "
            f"f32: {proof.postprocessing_flips} by post-processing, {proof.drift_flips} by drift"
        )
        rows[0]["slowest"] = print_slowest(ours, raw, images)
    return rows


def cases(options: argparse.Namespace) -> list[tuple[str, Path, dict[str, Path]]]:
    """Return name, folder and files of each model to measure."""
    found = []
    if options.raw:
        files = {"raw": options.raw, "stats": options.stats, "full": options.full or Path("none")}
        found.append((options.raw.parent.name, options.raw.parent, files))
    if options.cases:
        for stats in sorted(options.cases.glob("*/stats.json")):
            case = stats.parent
            if options.only is None or any(part in case.name for part in options.only.split(",")):
                files = {"raw": case / "raw.onnx", "stats": stats, "full": case / "full.onnx"}
                found.append((case.name, case, files))
    if options.models or not found:
        import zoo

        folder = options.folder or Path(tempfile.mkdtemp())
        for name in (options.models or ",".join(zoo.MODELS)).split(","):
            files = {
                "raw": folder / f"{name}.onnx",
                "stats": folder / f"{name}.json",
                "full": folder / f"{name}_full.onnx",
            }
            if not all(path.exists() for path in files.values()):
                folder.mkdir(parents=True, exist_ok=True)
                files = zoo.export(name, folder)
            found.append((name, folder, files))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--only", help="parts of the names of cases, joined by commas")
    parser.add_argument("--models", help="models of zoo.py")
    parser.add_argument("--folder", type=Path, help="where models of zoo.py are, or are to be exported to")
    parser.add_argument("--raw", type=Path)
    parser.add_argument("--stats", type=Path)
    parser.add_argument("--full", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--dynamic", action="store_true")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, case, files in cases(options):
        try:
            rows += (summarise if options.summary else measure)(name, case, files, options)
        except pp.PPGraphError as error:
            print(f"{name:28} not measured: {error}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
