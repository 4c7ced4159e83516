"""Post-processing on the host, as deployments do it that ship a raw model: the peer of what is in the graph."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from pp_graph.errors import TargetError
from pp_graph.postprocessors.layout import RAW_MAP, RAW_SCORE
from pp_graph.steps import Compare, Keep, MaxOverMap, MinMaxNormalize

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

    steps = provenance.build_post_processor().steps(provenance.layout)

    def normalize(x: torch.Tensor, step: MinMaxNormalize) -> torch.Tensor:
        return torch.clamp((x - step.threshold) / float(step.range) + 0.5, 0, 1)

    def run(outputs: Mapping[str, Array]) -> object:
        values = {role: torch.from_numpy(outputs[name]).float() for role, name in names.items()}
        for step in steps:
            x = values[step.source]
            if isinstance(step, MinMaxNormalize):
                values[step.target] = normalize(x, step)
            elif isinstance(step, Compare):
                known = step.normalizer if isinstance(step.normalizer, MinMaxNormalize) else None
                values[step.target] = (x if known is None else normalize(x, known)) > step.level
            elif isinstance(step, MaxOverMap):
                values[step.target] = torch.amax(x, dim=tuple(range(1, x.ndim)))
            elif isinstance(step, Keep):
                values[step.target] = x
        return values

    return run
