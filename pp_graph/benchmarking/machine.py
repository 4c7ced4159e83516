"""What a benchmark ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from pp_graph.version import __version__

_PACKAGES = ("openvino", "onnxruntime", "onnx", "onnx-ir", "numpy", "torch")


def describe_machine() -> dict[str, str]:
    """Processor, cores, memory and system."""
    found = {
        "processor": _from_file("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
    }
    memory = _from_file("/proc/meminfo", "MemTotal")
    if memory:
        found["memory"] = f"{int(memory.split()[0]) / 2**20:.0f} GiB"
    return found


def describe_versions() -> dict[str, str]:
    """Versions of Python, pp_graph and the packages that matter."""
    versions = {"python": platform.python_version(), "pp_graph": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _from_file(path: str, key: str) -> str | None:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)
