"""Measure peak memory and compile time in a new process that reads, compiles and runs one model once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from pp_graph.benchmarking.contenders import read_openvino, set_input_shapes
from pp_graph.openvino.core import port_name
from pp_graph.openvino.timed_session import TimedSession

if TYPE_CHECKING:
    from collections.abc import Mapping


class Figures(msgspec.Struct, frozen=True):
    """Time to compile a model, and peak memory of the process in MiB."""

    compile_seconds: float
    peak_mib: float


def measure_in_new_process(
    model: Path,
    device: str,
    precision: str | None,
    hint: str,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    static: bool,
    cache_dir: str | None = None,
) -> Figures:
    """Run a model once in a new process, compiled for the given shapes if `static`, with a cache if one is given.

    Raises:
        OSError: The process cannot be started.
        ValueError: The process failed; the message is the last line that it wrote to stderr.
    """
    arguments = json.dumps([str(model), device, precision, hint, shapes, static, cache_dir])
    # Without -P, modules in the current folder would come before the installed ones.
    command = [sys.executable, "-P", "-c", f"from {__name__} import main; main()", arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - this module
    try:
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=Figures)
    except (IndexError, ValueError) as error:
        raise ValueError((done.stderr.strip().splitlines() or ["no reason given"])[-1]) from error


def main() -> None:
    """Run in the new process: read the JSON argument, and print the figures as JSON."""
    path, device, precision, hint, shapes, static, cache_dir = json.loads(sys.argv[1])
    model = read_openvino(Path(path))
    if static:
        set_input_shapes(model, shapes)
    feeds = {
        port_name(port): np.zeros(shapes[port_name(port)], port.get_element_type().to_dtype()) for port in model.inputs
    }
    session = TimedSession(model, feeds, device=device, precision=precision, performance_hint=hint, cache_dir=cache_dir)
    session.infer()
    sys.stdout.write(msgspec.json.encode(Figures(session.compile_seconds, _peak_mib())).decode())


def _peak_mib() -> float:
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:", 1)[1].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        import resource

        # Other systems than Linux. On Linux this would include the parent's memory.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
