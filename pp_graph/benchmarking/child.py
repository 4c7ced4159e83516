"""Read, compile and run a model once in a process of its own: peak memory and compile time that nothing else disturbs.

python -m pp_graph.benchmarking.child '{"model": ..., "device": ..., "precision": ..., "hint": ..., "shapes": {...}}'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from pp_graph.benchmarking.contenders import fix_shapes, read_openvino
from pp_graph.openvino import OpenVINOSession


def peak_mib() -> float:
    """Peak memory of this process in MiB, without that of its parent."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:", 1)[1].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure what the JSON argument asks for, and print the figures as JSON."""
    asked = json.loads(sys.argv[1])
    model = read_openvino(Path(asked["model"]))
    if asked["static"]:
        fix_shapes(model, asked["shapes"])
    session = OpenVINOSession(
        model, device=asked["device"], precision=asked["precision"], performance_hint=asked["hint"]
    )
    session.feed({each.name: np.zeros(asked["shapes"][each.name], each.dtype) for each in session.inputs})
    session.infer()
    sys.stdout.write(json.dumps({"compile_seconds": session.compile_seconds, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
