"""Take the post-processing out again: the raw graph and weights, as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.errors import ProvenanceError
from pp_graph.fusion.fused_model import FusedModel
from pp_graph.fusion.provenance import METADATA_KEY, Provenance
from pp_graph.model import RawModel
from pp_graph.model.names import all_values, rename_values

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    import onnx_ir as ir


def strip(model: str | Path | onnx.ModelProto | ir.Model | RawModel | FusedModel) -> RawModel:
    """Return the raw model inside a fused one.

    Graph, weights, names and metadata are those of the raw export. Save it with `save`.

    Args:
        model: Path of a fused ONNX model, or one in memory. It is never modified.

    Returns:
        The raw model.

    Raises:
        ModelError: The model cannot be used.
        ProvenanceError: It was not fused by pp_graph, or was changed since.
    """
    opened = RawModel.open(model.opened if isinstance(model, FusedModel) else model)
    provenance = Provenance.from_metadata(opened.model.metadata_props)
    if provenance is None:
        raise ProvenanceError(
            "The model carries no pp_graph provenance, expected a model written by pp_graph fuse. "
            "There is nothing to strip."
        )
    graph = opened.model.graph
    ours = f"{provenance.prefix}/"
    raw_name = {**provenance.raw.renamed}
    fused_name = {old: new for new, old in raw_name.items()}
    values = {value.name: value for value in all_values(graph)}
    wanted = [fused_name.get(name, name) for name in provenance.raw.outputs]
    missing = [name for name in wanted if name not in values]
    if missing:
        raise ProvenanceError(
            f"Value '{missing[0]}' of the raw model is not in the graph any more, so the model was changed "
            "after it was fused. Use the raw export."
        )
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in wanted)
    graph.remove([node for node in graph if (node.name or "").startswith(ours)], safe=True)
    for name in [name for name in graph.initializers if name.startswith(ours)]:
        del graph.initializers[name]
    rename_values(graph, raw_name)
    if provenance.raw.opset_added:
        del opened.model.opset_imports[""]
    del opened.model.metadata_props[METADATA_KEY]
    declared = frozenset(
        raw_name.get(name, name) for name in opened.value_info if name not in wanted and not name.startswith(ours)
    )
    return RawModel(opened.model, opened.source, provenance.raw.sha256, declared, edited=True)
