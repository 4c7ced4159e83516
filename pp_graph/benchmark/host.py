"""Post-processing on the host, as deployments do it that ship a raw model: the peer of what is in the graph."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from pp_graph.errors import TargetError
from pp_graph.postprocessors.layout import RAW_MAP, RAW_SCORE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pp_graph.fusion import Provenance

Array = npt.NDArray[Any]

HOSTS = ("host-numpy", "host-torch")


def has_torch() -> bool:
    """Whether torch is installed."""
    return importlib.util.find_spec("torch") is not None


def host_post_processing(kind: str, provenance: Provenance) -> Callable[[Mapping[str, Array]], object]:
    """Make a function that post-processes the raw model's outputs on the host.

    Args:
        kind: `host-numpy` or `host-torch`.
        provenance: What was fused into the artifact.

    Returns:
        A function of the raw model's outputs by name.

    Raises:
        TargetError: torch is not installed.
    """
    names = {role: record.name for role, record in provenance.raw.read.items()}
    if kind == "host-numpy":
        post = provenance.build_post_processor()
        keys = {RAW_SCORE: "pred_score", RAW_MAP: "anomaly_map"}
        return lambda outputs: post({keys[role]: outputs[name] for role, name in names.items()})
    if not has_torch():
        raise TargetError("--against host-torch needs torch, which is not installed. Install it: pip install torch.")
    return _with_torch(provenance, names)


def _with_torch(provenance: Provenance, names: Mapping[str, str]) -> Callable[[Mapping[str, Array]], object]:
    # Threads that wait by spinning would take the cores from what is measured next.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    import torch

    from pp_graph.targets.torch_eager import compile_post_processor

    # Written once, as a deployment would; what is timed is the operators alone.
    graph = compile_post_processor(provenance.build_post_processor(), provenance.layout)

    def run(outputs: Mapping[str, Array]) -> object:
        return graph({role: torch.from_numpy(outputs[name]).float() for role, name in names.items()})

    return run
