"""Time and peak memory of fusing a model with gigabytes of external weights.

    python benchmarks/fuse_large_model.py [--gigabytes 3] [--json result.json]

Each run is a fresh process; time is counted after imports, memory for the whole process.
The weight file is sparse where the file system allows it, so little disk is used.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

_SIDE = 8192
_WEIGHT_BYTES = _SIDE * _SIDE * 4

_FUSE = """
import resource, sys, time
import onnx_ir.passes.common, numpy, msgspec
import pp_graph as pp
from pp_graph import fusion, postprocessors, statistics
start = time.perf_counter()
level = pp.LevelStatistics(threshold=1.0, min=0.0, max=2.0)
post = pp.OneClassPostProcessor(pp.Statistics(image=level, pixel=level))
pp.fuse(sys.argv[1], post).save(sys.argv[2], copy_weights=sys.argv[3] == "copy")
seconds = time.perf_counter() - start
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
_IMPORTS_ONLY = """
import resource
import onnx_ir.passes.common, numpy, msgspec
import pp_graph as pp
from pp_graph import fusion, postprocessors, statistics
print(0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def make_model(folder: Path, gigabytes: float) -> Path:
    """Write a chain of matrix multiplications whose weights lie in one external file."""
    import onnx
    from onnx import TensorProto, helper

    count = max(1, round(gigabytes * 2**30 / _WEIGHT_BYTES))
    with (folder / "weights.bin").open("wb") as stream:
        stream.truncate(count * _WEIGHT_BYTES)
    initializers, nodes, value = [], [], "features"
    for index in range(count):
        tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[_SIDE, _SIDE])
        tensor.data_location = TensorProto.EXTERNAL
        for key, entry in (("location", "weights.bin"), ("offset", index * _WEIGHT_BYTES), ("length", _WEIGHT_BYTES)):
            tensor.external_data.add(key=key, value=str(entry))
        initializers.append(tensor)
        nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [f"h{index}"]))
        value = f"h{index}"
    nodes.append(helper.make_node("ReduceMax", [value], ["pred_score"], axes=[1], keepdims=1))
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", _SIDE])],
        [helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, ["N", 1])],
        initializers,
    )
    path = folder / "raw.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def measure(code: str, *arguments: str) -> tuple[float, float]:
    """Run code in a fresh process; seconds and MiB."""
    out = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    seconds, memory = out.stdout.split()
    return float(seconds), float(memory)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--copy", action="store_true", help="also measure copying the weights (writes them to disk)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = make_model(folder, arguments.gigabytes)
        rows.append(("imports alone", *measure(_IMPORTS_ONLY)))
        rows.append(("fuse, weights in place", *measure(_FUSE, str(raw), str(folder / "fused.onnx"), "place")))
        if arguments.copy:
            rows.append(("fuse, weights copied", *measure(_FUSE, str(raw), str(folder / "copy.onnx"), "copy")))
    print(f"{arguments.gigabytes:g} GB of external weights")
    for label, seconds, memory in rows:
        print(f"  {label:24} {seconds:8.2f} s {memory:8.0f} MiB peak")
    if arguments.json:
        result = [{"what": label, "seconds": seconds, "peak_mib": memory} for label, seconds, memory in rows]
        arguments.json.write_text(json.dumps({"gigabytes": arguments.gigabytes, "runs": result}, indent=1))


if __name__ == "__main__":
    main()
