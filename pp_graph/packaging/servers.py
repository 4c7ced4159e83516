"""The targets `ovms` and `triton`: a model repository with its configuration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.fusion import FusedModel
from pp_graph.model import ModelInput, batch_places

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pp_graph.fusion import Artifact
    from pp_graph.packaging.manifest import InputSpec, Manifest, OutputSpec

REPOSITORY: Final = "models"
_IN_CONTAINER: Final = "/package"
"""Where the README mounts a package for OpenVINO Model Server."""
_LARGEST_BATCH: Final = 8
_TYPES: Final = {
    "bool": "TYPE_BOOL",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    **{f"int{bits}": f"TYPE_INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"TYPE_UINT{bits}" for bits in (8, 16, 32, 64)},
}
"""NumPy's element types to Triton's."""


def repository_path(name: str, onnx: bool) -> str:
    """Return the path of version 1 of a model in a repository, as both servers find it."""
    return f"{REPOSITORY}/{name}/1/model.{'onnx' if onnx else 'xml'}"


def write_ovms(folder: Path, manifest: Manifest, artifact: Artifact) -> None:
    """Write `config.json` for OpenVINO Model Server.

    The keys are those of `MODELS_CONFIG_SCHEMA` in the server's `src/schema.cpp`.
    """
    del artifact
    config = {
        "name": manifest.name,
        "base_path": f"{_IN_CONTAINER}/{REPOSITORY}/{manifest.name}",
        "target_device": manifest.device,
        "plugin_config": manifest.properties,
    }
    text = json.dumps({"model_config_list": [{"config": config}]}, indent=1) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def write_triton(folder: Path, manifest: Manifest, artifact: Artifact) -> None:
    """Write `config.pbtxt` for Triton.

    Raises:
        TargetError: Triton cannot serve an input of this model.
    """
    (folder / REPOSITORY / manifest.name / "config.pbtxt").write_text(_pbtxt(manifest, artifact), encoding="utf-8")


def triton_values(manifest: Manifest, artifact: Artifact) -> dict[str, str]:
    """Return what the README for Triton says about the backend."""
    onnx = isinstance(artifact, FusedModel)
    if onnx:
        about = "onnxruntime computes in float32, as `pp-graph verify` does with the fused model."
        if artifact.provenance.adjustable:
            names = ", ".join(f"`{name}`" for name in artifact.provenance.adjustable)
            about += (
                f" Cutoffs ({names}) are optional inputs of each request. Triton has no optional inputs with batching, "
                "so a request brings its own batch."
            )
    else:
        about = (
            "Triton's OpenVINO backend has no setting for float32: on a CPU with bf16 the network computes in bf16, "
            "and raw values near a threshold may fall on its other side. `pp-graph verify --inference-precision "
            "default` counts that on such a machine. To compute in float32, package the fused ONNX file, which "
            "onnxruntime serves. A request brings its own batch, because this backend fixes the batch of a model that "
            "batches."
        )
        if manifest.cutoffs:
            about += " Cutoffs are states, which Triton does not set: they keep the values in the model."
    return {"backend": "onnxruntime" if onnx else "openvino", "about": about}


def _pbtxt(manifest: Manifest, artifact: Artifact) -> str:
    onnx = isinstance(artifact, FusedModel)
    adjustable = artifact.provenance.adjustable if onnx else []
    if not onnx and any(spec.shape == [] for spec in manifest.inputs):
        name = next(spec.name for spec in manifest.inputs if spec.shape == [])
        raise TargetError(
            f"Input '{name}' has no axes, expected at least one for Triton's OpenVINO backend. Package the fused ONNX "
            "model, which onnxruntime serves."
        )
    batched = onnx and not adjustable and _batches(manifest)
    skip = 1 if batched else 0
    blocks = [
        f"name: {_text(manifest.name)}",
        f'backend: "{"onnxruntime" if onnx else "openvino"}"',
        f"max_batch_size: {_LARGEST_BATCH if batched else 0}",
        *(_port("input", spec.name, spec.dtype, (spec.shape or [None] * 4)[skip:]) for spec in manifest.inputs),
    ]
    if adjustable:
        values = artifact.program.runtime_cutoffs
        blocks += [
            _port("input", name, "float32", list(values[name].shape), further="\n  optional: true")
            for name in adjustable
        ]
    blocks += [_port("output", spec.name, spec.dtype, spec.shape[skip:]) for spec in manifest.outputs]
    if batched:
        blocks.append("dynamic_batching { }")
    blocks.append("instance_group [ { count: 1 kind: KIND_CPU } ]")
    if not onnx:
        settings = {"TARGET_DEVICE": manifest.device, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
        blocks += [
            f'parameters {{ key: "{key}" value {{ string_value: {_text(value)} }} }}' for key, value in settings.items()
        ]
    return "\n".join(blocks) + "\n"


def _batches(manifest: Manifest) -> bool:
    """Return True if every input and output has an open batch on its first axis."""
    inputs = [ModelInput(spec.name, spec.dtype, _shape(spec)) for spec in manifest.inputs]
    places = batch_places(inputs)
    fed = all(
        each.name in places and places[each.name].axes[:1] == (0,) and (each.shape or (0,))[0] is None
        for each in inputs
    )
    return fed and all(_leads_with_batch(spec) for spec in manifest.outputs)


def _shape(spec: InputSpec) -> tuple[int | None, ...] | None:
    return None if spec.shape is None else tuple(spec.shape)


def _leads_with_batch(spec: OutputSpec) -> bool:
    return (spec.axes or "").startswith("N") and spec.shape[:1] == [None]


def _port(kind: str, name: str, dtype: str, sizes: Sequence[int | None], further: str = "") -> str:
    element = _TYPES.get(str(np.dtype(dtype)))
    if element is None:
        raise TargetError(
            f"The {kind} '{name}' holds {dtype}, expected one of Triton's types: {', '.join(_TYPES)}. Cast it in the "
            "raw model."
        )
    dims: Iterable[int] = (-1 if size is None else size for size in sizes)
    if not sizes:  # Triton needs one axis at least, and takes it off again
        dims, further = (1,), f"\n  reshape: {{ shape: [ ] }}{further}"
    listed = ", ".join(map(str, dims))
    return f"{kind} {{\n  name: {_text(name)}\n  data_type: {element}\n  dims: [ {listed} ]{further}\n}}"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
