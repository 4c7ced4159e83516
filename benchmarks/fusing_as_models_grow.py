"""Time and peak memory of fusing as the model grows, against `onnx.compose.merge_models`.

    python benchmarks/fusing_as_models_grow.py [--megabytes 10,100,1000,4000] [--json result.json]

Weights are embedded in the .onnx, up to the 2 GB that protobuf takes, and in an external file. Each run is a fresh
process; time is counted after imports, from the file on disk to the file on disk, memory for the whole process. The
peer loads the model as documented and merges the same post-processing subgraph, which pp_graph wrote.
Embedded weights are random; an external file is sparse where the file system allows it, so that reading it costs the
peer no disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from large_models import make_chain

_EMBEDDED_LIMIT = 2000

_OURS = """
import resource, sys, time
import onnx_ir.passes.common, numpy, msgspec
import pp_graph as pp
from pp_graph import fusion, postprocessors, statistics
start = time.perf_counter()
level = pp.LevelStatistics(threshold=1.0, min=0.0, max=2.0)
post = pp.OneClassPostProcessor(pp.Statistics(image=level, pixel=level))
pp.fuse(sys.argv[1], post).save(sys.argv[2])
print(time.perf_counter() - start)
"""
_PEER = """
import sys, time
import numpy, onnx, onnx.compose
start = time.perf_counter()
raw = onnx.load(sys.argv[1])
post = onnx.load(sys.argv[3])
merged = onnx.compose.merge_models(raw, post, io_map=[("raw_score", "pred_score_in")])
onnx.save(merged, sys.argv[2], save_as_external_data=sys.argv[4] == "external", location="merged.data")
print(time.perf_counter() - start)
"""
_IMPORTS = {
    "ours": _OURS.split("start =", maxsplit=1)[0] + "print(0.0)",
    "peer": _PEER.split("start =", maxsplit=1)[0] + "print(0.0)",
}
_PEAK = """
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024)
"""


def make_post_processing(folder: Path) -> Path:
    """The post-processing alone, for the peer to merge: as pp_graph writes it after a model that computes nothing."""
    import onnx
    from onnx import TensorProto, helper

    import pp_graph as pp

    graph = helper.make_graph(
        [helper.make_node("Identity", ["pred_score_in"], ["score"])],
        "identity",
        [helper.make_tensor_value_info("pred_score_in", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    level = pp.LevelStatistics(threshold=1.0, min=0.0, max=2.0)
    fused = pp.fuse(model, pp.OneClassPostProcessor(pp.Statistics(image=level, pixel=level))).to_proto()
    del fused.metadata_props[:]
    path = folder / "post.onnx"
    onnx.save(fused, path)
    return path


def measure(code: str, *arguments: str) -> tuple[float, float] | str:
    """Run code in a fresh process; seconds and MiB, or the error."""
    command = [sys.executable, "-c", code + _PEAK, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return f"killed ({done.returncode})" if not lines else lines[-1][:90]
    seconds, memory = done.stdout.split()
    return float(seconds), float(memory)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", default="10,100,1000,4000")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    baseline = {who: measure(code) for who, code in _IMPORTS.items()}
    rows: list[dict[str, Any]] = []
    print(f"imports alone: ours {baseline['ours'][1]:.0f} MiB, peer {baseline['peer'][1]:.0f} MiB")
    print(f"{'weights':>8}  {'where':9} {'who':5} {'seconds':>9} {'peak MiB':>9}")
    for megabytes in (int(part) for part in arguments.megabytes.split(",")):
        for where in ("embedded", "external"):
            if where == "embedded" and megabytes > _EMBEDDED_LIMIT:
                continue
            folder = Path(tempfile.mkdtemp())
            try:
                raw = make_chain(folder, megabytes, external=where == "external", distinct=False)
                post = make_post_processing(folder)
                runs = {
                    "ours": measure(_OURS, str(raw), str(folder / "fused.onnx")),
                    "peer": measure(_PEER, str(raw), str(folder / "merged.onnx"), str(post), where),
                }
            finally:
                shutil.rmtree(folder)
            for who, result in runs.items():
                row = {"megabytes": megabytes, "where": where, "who": who}
                if isinstance(result, str):
                    row["error"] = result
                    print(f"{megabytes:>6}MB  {where:9} {who:5} fails: {result}")
                else:
                    row["seconds"], row["peak_mib"] = result
                    print(f"{megabytes:>6}MB  {where:9} {who:5} {result[0]:9.2f} {result[1]:9.0f}")
                rows.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps({"imports": baseline, "runs": rows}, indent=1))


if __name__ == "__main__":
    main()
