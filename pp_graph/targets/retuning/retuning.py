"""Give an artifact other statistics: its post-processing is written anew, and the network is not touched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pp_graph.errors import PostProcessorError
from pp_graph.fusion import FusedModel, Provenance, fuse, fuse_anew, renewed_post_processor
from pp_graph.fusion.provenance import SCHEMA_VERSION, cutoffs_to_json
from pp_graph.model import RawModel
from pp_graph.targets.devices.devices import openvino_core
from pp_graph.targets.island.island import replace_island
from pp_graph.targets.island.tensors import find_tensor
from pp_graph.targets.openvino_model import OpenVINOModel
from pp_graph.targets.openvino_ports import partial_shape
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    import openvino as ov

    from pp_graph.postprocessors import PostProcessor
    from pp_graph.statistics import Statistics

_IDENTITY: Final = "/pp_graph_pass_on"


def retune(
    model: OpenVINOModel | FusedModel | str | Path,
    statistics: Statistics | None = None,
    *,
    image_sensitivity: float | None = None,
    pixel_sensitivity: float | None = None,
) -> OpenVINOModel | FusedModel:
    """Give a fused or converted model other statistics or sensitivities; all else stays as it is.

    Decisions and numbers are those of the raw model fused anew with these.

    Args:
        model: A converted model, a fused one, or the path of an `.xml` or `.onnx`. It is never modified.
        statistics: The new statistics; None keeps those it has.
        image_sensitivity: The new sensitivity for images, in [0, 1]; None keeps the one it has.
        pixel_sensitivity: The same for pixels.

    Returns:
        A model of the same kind. Nothing is written until `save`.

    Raises:
        ProvenanceError: pp_graph did not make the model.
        StatisticsError: The statistics lack a number that the post-processing needs.
        PostProcessorError: A sensitivity is outside its range, or has no meaning for this model.
        ModelError: The file cannot be used.
        TargetError: OpenVINO cannot read the model.
    """
    if isinstance(model, str | Path):
        path = Path(model)
        model = OpenVINOModel.load(path) if path.suffix.lower() == ".xml" else FusedModel.load(path)
    given = {"image_sensitivity": image_sensitivity, "pixel_sensitivity": pixel_sensitivity}
    changes = {name: value for name, value in given.items() if value is not None}
    post = post_processor(model.provenance, statistics, changes)
    if isinstance(model, FusedModel):
        return fuse_anew(model, post)
    return _retune_ir(model, post)


def post_processor(
    provenance: Provenance, statistics: Statistics | None, changes: Mapping[str, float]
) -> PostProcessor:
    """Build the post-processor of a fused model with other statistics or sensitivities.

    Args:
        provenance: What was fused.
        statistics: The new statistics; None keeps those it has.
        changes: Parameters to replace, by name.

    Raises:
        ProvenanceError: The post-processor is not known to this version.
        PostProcessorError: A parameter is outside its range, or not one of this post-processor.
    """
    unknown = next((name for name in changes if name not in provenance.parameters), None)
    if unknown is not None:
        raise PostProcessorError(
            f"Post-processor '{provenance.post_processor}' has no {unknown}, expected one of: "
            f"{', '.join(provenance.parameters)}. Leave it out."
        )
    return renewed_post_processor(provenance, statistics, changes)


def renewed(provenance: Provenance, post: PostProcessor) -> Provenance:
    """The record of a fused model after its post-processor was exchanged for another of its class."""
    return msgspec.structs.replace(
        provenance,
        schema_version=SCHEMA_VERSION,
        pp_graph_version=__version__,
        statistics=post.statistics,
        parameters=post.parameters(),
        cutoffs=cutoffs_to_json(post.compiled(provenance.layout)),
    )


def _retune_ir(artifact: OpenVINOModel, post: PostProcessor) -> OpenVINOModel:
    provenance = artifact.provenance
    model = artifact.model.clone()
    tensors = [record.tensor for record in provenance.raw.read.values()]
    alone = fuse(
        RawModel.open(_passing_on(model, tensors)),
        post,
        score_output=None if provenance.raw.score is None else provenance.raw.score.tensor,
        map_output=None if provenance.raw.map is None else provenance.raw.map.tensor,
        tail=False,
        # The tensors of the IR say less: sizes may be open, and the image's is not among them.
        layout=provenance.layout,
    )
    former = f"{alone.provenance.prefix}/"

    def lasting(name: str) -> str:
        """A name of the new post-processing as it is called in this model."""
        return f"{provenance.prefix}/{name.removeprefix(former)}" if name.startswith(former) else name

    island = openvino_core().read_model(alone.to_proto().SerializeToString(), b"")
    for node in island.get_ops():
        if node.get_friendly_name().endswith(_IDENTITY):
            # Its output has the name of the tensor that the network computes.
            for target in list(node.output(0).get_target_inputs()):
                target.replace_source_output(node.input_value(0))
        for port in node.outputs():
            port.get_tensor().set_names({lasting(name) for name in port.get_names()})
        node.set_friendly_name(lasting(node.get_friendly_name()))
    inner = {name: lasting(tensor) for name, tensor in alone.provenance.inner.items()}
    replace_island(model, island, tensors, provenance.adjustable, list(inner.values()))
    record = msgspec.structs.replace(renewed(provenance, post), inner=inner)
    retuned = OpenVINOModel(model, record, artifact.precision, None, artifact.inputs)
    retuned.stamp()
    return retuned


def _passing_on(model: ov.Model, tensors: list[str]) -> onnx.ModelProto:
    """An ONNX model that passes on what goes in, under the names and in the types of some tensors."""
    import numpy as np
    from onnx import TensorProto, helper

    dtypes = {np.dtype(np.float16): TensorProto.FLOAT16, np.dtype(np.float64): TensorProto.DOUBLE}
    nodes, inputs, outputs = [], [], []
    for name in tensors:
        port = find_tensor(model, name)
        dtype = dtypes.get(np.dtype(port.get_element_type().to_dtype()), TensorProto.FLOAT)
        shape = partial_shape(port)
        sizes = (
            None if shape is None else [1 if size == 1 and axis else f"size_{axis}" for axis, size in enumerate(shape)]
        )
        nodes.append(helper.make_node("Identity", [f"{name}/fed"], [name], name=f"{name}{_IDENTITY}"))
        inputs.append(helper.make_tensor_value_info(f"{name}/fed", dtype, sizes))
        outputs.append(helper.make_tensor_value_info(name, dtype, sizes))
    graph = helper.make_graph(nodes, "post_processing", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
