"""Post-processing on the host, as deployments of a raw model do it: the peer of post-processing in the graph."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from pp_graph.errors import TargetError

if TYPE_CHECKING:
    from pp_graph.fusion import Artifact
    from pp_graph.program import Program

Array = npt.NDArray[Any]
AfterRun = Callable[[Mapping[str, Array]], object]
"""Work on the host with a model's outputs, by name."""

HOSTS = ("host-numpy", "host-torch")


def has_torch() -> bool:
    """Whether torch is installed."""
    return importlib.util.find_spec("torch") is not None


def host_post_processing(kind: str, artifact: Artifact) -> AfterRun:
    """Make a function that post-processes the raw model's outputs on the host.

    Args:
        kind: `host-numpy` or `host-torch`.
        artifact: The artifact whose post-processing is done on the host.

    Returns:
        A function of the raw model's outputs by name.

    Raises:
        ProvenanceError: The class of the post-processor is not known.
        TargetError: torch is not installed.
    """
    # Bound once, as a deployment would; what is timed is the work alone.
    program = artifact.program
    read = {role: (record.name, record.dtype) for role, record in artifact.provenance.raw.read.items()}

    def values(outputs: Mapping[str, Array]) -> dict[str, Array]:
        return {role: outputs[name].astype(dtype, copy=False) for role, (name, dtype) in read.items()}

    if kind == "host-numpy":
        return lambda outputs: program.predictions(program.run(values(outputs)))
    if not has_torch():
        raise TargetError("--against host-torch needs torch, which is not installed. Install it: pip install torch.")
    return _with_torch(program, values)


def _with_torch(program: Program, values: Callable[[Mapping[str, Array]], dict[str, Array]]) -> AfterRun:
    # Threads that wait by spinning would take the cores from what is measured next.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    import torch

    from pp_graph.integrations.torch.interpreter import compile_post_processor

    graph = compile_post_processor(program)
    return lambda outputs: graph({role: torch.from_numpy(array) for role, array in values(outputs).items()})
