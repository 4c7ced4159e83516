"""Write a post-processor's steps behind the outputs of a raw model."""

from __future__ import annotations

import base64
import dataclasses
import math
from typing import TYPE_CHECKING, Final

import msgspec

from pp_graph.errors import AlreadyFusedError, FusionError, OutputRoleError, PostProcessorError
from pp_graph.fusion.fused_model import FusedModel
from pp_graph.fusion.provenance import (
    SCHEMA_VERSION,
    Provenance,
    RawOutputRecord,
    RawRecord,
    adjustable_inputs,
    cutoffs_to_json,
)
from pp_graph.fusion.stripping import strip
from pp_graph.fusion.tail import RULES, RewrittenTail, rewrite_tail
from pp_graph.model import (
    METADATA_KEY,
    NameScope,
    OutputInfo,
    RawModel,
    RawOutputs,
    Role,
    find_outputs,
    format_shape,
    opset_raising,
)
from pp_graph.model.names import all_values, rename_values
from pp_graph.model.shapes import channels_are_last, map_size_of
from pp_graph.postprocessors import POSTPROCESSED_NAMES, PostProcessor, RawLayout, class_name
from pp_graph.postprocessors.layout import DECISION_NAMES, RAW_MAP, RAW_SCORE
from pp_graph.steps import MINIMUM_OPSET, Emitter
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx
    import onnx_ir as ir

    from pp_graph.model import Shape

PREFIX: Final = "pp_graph"


def fuse(
    model: str | Path | onnx.ModelProto | ir.Model | RawModel | FusedModel,
    post: PostProcessor,
    *,
    score_output: str | None = None,
    map_output: str | None = None,
    keep_raw: bool = False,
    replace: bool = False,
    tail: bool = True,
    raise_opset: int | None = None,
    layout: RawLayout | None = None,
) -> FusedModel:
    """Write a post-processor into a raw model.

    The post-processed outputs come first: `pred_score` float32, `pred_label` bool, `anomaly_map`
    float32, `pred_mask` bool, as far as the model and the settings give them. Outputs that
    post-processing does not read follow under their own names.

    Args:
        model: Path of a raw ONNX export, or a model in memory. It is never modified.
        post: The post-processor, with statistics.
        score_output: Name of the raw score, where shapes leave a choice.
        map_output: Name of the raw map, where shapes leave a choice.
        keep_raw: Also keep the raw score and map as outputs, under their own names, or
            `raw_<name>` where that is one of a post-processed output.
        replace: If the model is fused already, take the old post-processing out first.
        tail: Rewrite the raw model's own tail where that saves time (see `pp_graph.fusion.tail`): raw
            values differ by rounding, at most 1e-5 of the largest, and the rewritten part stays in
            float32 in OpenVINO.
        raise_opset: If the model is at an earlier opset, bring it to this one first, for steps whose operators its own
            does not have. It is refused where the model would not compute the same bits there.
        layout: What the raw model gives, where that is known from elsewhere; None to tell from the model.

    Returns:
        The fused model. Nothing is written until `save`.

    Raises:
        ModelError: The model cannot be used; `OutputRoleError` where score and map cannot be told
            apart, `OpsetError` where its opset is too old or cannot be raised.
        StatisticsError: The post-processor lacks a number that it needs.
        PostProcessorError: `post` is no post-processor.
        FusionError: A name of the model stands in the way, or (`AlreadyFusedError`) the model
            carries a post-processing already.
    """
    if not isinstance(post, PostProcessor):
        raise PostProcessorError(
            f"The post-processor is {type(post).__name__}, expected a PostProcessor such as "
            "OneClassPostProcessor(Statistics.load('stats.json'))."
        )
    raw = RawModel.open(model.opened if isinstance(model, FusedModel) else model)
    earlier = None
    if METADATA_KEY in raw.model.metadata_props:
        if not replace:
            raise AlreadyFusedError(
                "The model carries a pp_graph post-processing already, expected a raw export. Fuse the raw model, "
                "or pass replace=True (--replace) to take the old post-processing out first."
            )
        earlier = Provenance.from_metadata(raw.model.metadata_props)
        raw = strip(raw)
    refuse_foreign_decisions(raw)
    found = find_outputs(raw, score_output=score_output, map_output=map_output, classes=post.takes_classes)
    _check_outputs(found)
    layout = _layout(raw, found.score, found.map) if layout is None else layout
    post = post.bound(layout)
    # This refuses missing statistics before anything is built.
    compiled = post.compiled(layout)
    _check_parameters(post)
    sources = {name for step in compiled.steps for name in step.reads}
    roles = {RAW_SCORE: found.score, RAW_MAP: found.map}
    read = {role: info for role, info in roles.items() if info is not None and role in sources}
    layout = dataclasses.replace(layout, score=RAW_SCORE in read, map=RAW_MAP in read)

    raw, raised = opset_raising.raise_opset(raw, raise_opset)
    graph = raw.model.graph
    names = NameScope(graph)
    prefix = names.fresh_prefix(PREFIX)
    rewritten = rewrite_tail(raw, RULES, names, prefix) if tail else RewrittenTail()
    outputs = {output.name or "": output for output in graph.outputs}
    opset = raw.opset or _opset_for(raw)
    op = Emitter(graph, opset=opset, ir_version=raw.model.ir_version, names=names, prefix=prefix)
    records = {role: _record(info, outputs[info.name], raw) for role, info in read.items()}
    unread = {
        role: _record(info, outputs[info.name], raw)
        for role, info in roles.items()
        if info is not None and role not in read and not keep_raw
    }
    opset_added = raw.opset == 0
    if opset_added:
        raw.model.opset_imports[""] = opset
    values = {role: _as_float32(op, outputs[info.name], info, role) for role, info in read.items()}
    compiled = post.compiled(layout)
    computed = post.emit(op, values, layout)
    emitted = {name: value for name, value in computed.items() if name in POSTPROCESSED_NAMES}

    kept = {info.name for info in roles.values() if info is not None} if keep_raw else set()
    # A raw value must not be taken for a post-processed one that was not asked for.
    needed = set(emitted) | (kept & set(POSTPROCESSED_NAMES))
    new_names = _free_output_names(graph, names, needed, rewritten.removed_names)
    for name, value in emitted.items():
        value.name = name
    taken = {info.name for info in roles.values() if info is not None}
    others = [output for name, output in outputs.items() if keep_raw or name not in taken]
    graph.outputs.clear()
    graph.outputs.extend([*emitted.values(), *others])
    records = {role: _renamed(record, outputs) for role, record in records.items()}
    provenance = Provenance(
        schema_version=SCHEMA_VERSION,
        pp_graph_version=__version__,
        post_processor=class_name(type(post)),
        parameters=post.parameters(),
        statistics=post.statistics,
        cutoffs=cutoffs_to_json(compiled),
        prefix=prefix,
        inner={name: computed[name].name or "" for name in compiled.inner},
        adjustable=adjustable_inputs(compiled),
        raw=RawRecord(
            sha256=raw.sha256,
            file=_file_name(raw) if earlier is None else earlier.raw.file,
            score=records.get(RAW_SCORE),
            map=records.get(RAW_MAP),
            outputs=list(outputs),
            renamed={new: old for old, new in new_names.items()},
            opset_added=opset_added,
            input_size=layout.input_size,
            unread=[_renamed(record, outputs) for record in unread.values()],
        ),
        tail=rewritten.records(),
        replaced=rewritten.replaced,
        raised=raised,
    )
    raw.model.metadata_props[METADATA_KEY] = provenance.to_json()
    declared = _declarations(raw, new_names, [outputs[record.name] for record in (*records.values(), *unread.values())])
    return FusedModel(
        dataclasses.replace(raw, value_info=declared, edited=True), provenance, tuple(_notes(read.values(), raised))
    )


def _notes(read: Iterable[OutputInfo], raised: opset_raising.RaisedOpset | None) -> Iterator[str]:
    if raised is not None:
        yield from raised.notes()
    for info in read:
        if not info.certain and not info.why.startswith("named by"):
            meaning = "score" if info.role is Role.SCORE else "map"
            yield f"Output '{info.name}' {format_shape(info.shape)} is taken for the {meaning}: {info.why}."
        if info.note is not None:
            yield f"Output '{info.name}' is {info.note}; the computed shape is used."


def _file_name(raw: RawModel) -> str | None:
    return None if raw.source is None else raw.source.name


def refuse_foreign_decisions(raw: RawModel) -> None:
    """Make sure that a model is raw: that it has no labels or masks yet.

    Raises:
        AlreadyFusedError: It has.
    """
    for output in raw.model.graph.outputs:
        # Raw models have scores and maps; only a post-processing has decisions.
        if output.name in DECISION_NAMES:
            raise AlreadyFusedError(
                f"The model has an output '{output.name}', so it seems to carry a post-processing already (as "
                "Anomalib's own exports do), and normalising twice would change every decision. Export the model raw, "
                "without its post-processor."
            )


def _layout(raw: RawModel, score: OutputInfo | None, anomaly_map: OutputInfo | None) -> RawLayout:
    inputs = [each.shape for each in raw.inputs if each.shape is not None and len(each.shape) == 4]
    map_shape = None if anomaly_map is None else anomaly_map.shape
    return RawLayout(
        score=score is not None,
        map=anomaly_map is not None,
        map_rank=None if map_shape is None else len(map_shape),
        score_rank=None if score is None or score.shape is None else len(score.shape),
        channels_last=channels_are_last(map_shape),
        map_size=map_size_of(map_shape),
        input_size=_image_size(inputs[0]) if len(inputs) == 1 else None,
        score_classes=1 if score is None else score.classes,
        map_classes=1 if anomaly_map is None else anomaly_map.classes,
    )


def _image_size(shape: Shape) -> tuple[int, int] | None:
    """Height and width of images of a shape (N,C,H,W) or (N,H,W,C); None where they are not known."""
    sizes = shape[1:3] if shape[3] in (1, 3) and shape[1] not in (1, 3) else shape[2:4]
    height, width = sizes
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _check_parameters(post: PostProcessor) -> None:
    """Make sure that the post-processor can be noted in the model, and built again from what is noted."""
    try:
        noted = msgspec.json.encode(post.parameters())
    except TypeError as error:
        raise PostProcessorError(
            f"Parameters of {type(post).__name__} hold what is no plain value ({error}), expected numbers, text and "
            "lists of these: they are noted in the model. Build steps from them in steps(), or override parameters()."
        ) from error
    try:
        again = msgspec.json.encode(post.from_parameters(post.statistics, msgspec.json.decode(noted)).parameters())
    except (PostProcessorError, TypeError, ValueError) as error:
        raise PostProcessorError(
            f"{type(post).__name__} cannot be built again from the parameters that are noted in the model: {error}. "
            "Take what JSON can hold (a tuple comes back as a list, and NaN not at all)."
        ) from error
    if again != noted or (b"null" in noted and _not_finite(post.parameters())):
        raise PostProcessorError(
            f"{type(post).__name__} has other parameters when it is built again from those that are noted in the "
            "model, expected the same. Keep them as they are given, finite numbers, text and lists."
        )


def _not_finite(value: object) -> bool:
    """Whether a number somewhere in a parameter is NaN or infinite, which JSON cannot hold."""
    if isinstance(value, dict):
        return any(map(_not_finite, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_not_finite, value))
    return isinstance(value, float) and not math.isfinite(value)


def _check_outputs(found: RawOutputs) -> None:
    score, anomaly_map = found.score, found.map
    if score is None and anomaly_map is not None and anomaly_map.shape is None:
        raise OutputRoleError(
            f"Output '{anomaly_map.name}' has no known rank, expected 3 (N,H,W) or 4 (N,1,H,W) to reduce it to a "
            "score. Export the model with its output shapes, or name a score with score_output=..."
        )
    if score is None or anomaly_map is None or not score.shape or not anomaly_map.shape:
        return
    first, second = score.shape[0], anomaly_map.shape[0]
    if isinstance(first, int) and isinstance(second, int) and first != second:
        raise OutputRoleError(
            f"Score '{score.name}' holds {first} images and map '{anomaly_map.name}' {second}, expected the same "
            "batch. Name the right outputs with score_output=... and map_output=..."
        )


def _opset_for(raw: RawModel) -> int:
    """Opset to import into a model that has only custom domains.

    What its local functions use, since both must agree; else what came with its IR version.
    """
    import onnx

    used = [function.opset_imports[""] for function in raw.model.functions.values() if "" in function.opset_imports]
    fitting = [row[2] for row in onnx.helper.VERSION_TABLE if row[1] <= raw.model.ir_version]
    return max(used) if used else max([MINIMUM_OPSET, *fitting])


def _as_float32(op: Emitter, value: ir.Value, info: OutputInfo, role: str) -> ir.Value:
    import numpy as np

    op.trust(value, info.shape)
    if info.dtype == "FLOAT":
        return value
    with op.scope(role):
        return op.cast(value, np.dtype(np.float32))


def _free_output_names(graph: ir.Graph, names: NameScope, needed: set[str], removed: frozenset[str]) -> dict[str, str]:
    """Rename raw values whose names are needed, also those that were replaced and may be put back.

    Returns:
        Old name to new name.
    """
    wanted = {name for name in needed if name in names}
    if not wanted:
        return {}
    inputs = {value.name for value in graph.inputs}
    blocked = sorted(wanted & {name for name in inputs if name})
    if blocked:
        raise FusionError(
            f"Input '{blocked[0]}' has the name of a post-processed output ({', '.join(POSTPROCESSED_NAMES)}), and "
            "inputs keep their names. Export the model with another input name."
        )
    taken = ({value.name for value in all_values(graph)} | removed) & wanted
    new_names = {old: names.fresh(f"raw_{old}") for old in sorted(name for name in taken if name)}
    rename_values(graph, new_names)
    return new_names


def _record(info: OutputInfo, value: ir.Value, raw: RawModel) -> RawOutputRecord:
    """Note how the raw model declares an output, and leave of that what is proven.

    The value is read by more than one operator from now on, and a runtime may reuse memory by declared sizes.
    """
    import onnx_ir as ir

    declaration = base64.b64encode(ir.to_proto(value).SerializeToString(deterministic=True)).decode()
    value.shape = None if info.proven is None else ir.Shape(info.proven)
    return RawOutputRecord(
        name=info.name,
        tensor=info.name,
        rank=None if info.shape is None else len(info.shape),
        channels_last=channels_are_last(info.shape),
        classes=info.classes,
        size=map_size_of(info.shape),
        declaration=declaration,
        declared_inside=any(entry.name == info.name for entry in raw.value_info),
    )


def _renamed(record: RawOutputRecord, outputs: Mapping[str, ir.Value]) -> RawOutputRecord:
    """The record with the name that its tensor has now."""
    return msgspec.structs.replace(record, tensor=outputs[record.name].name or "")


def _declarations(
    raw: RawModel, new_names: Mapping[str, str], former_outputs: Sequence[ir.Value]
) -> tuple[onnx.ValueInfoProto, ...]:
    """What the raw model declares about its inner values, under their present names, and its former outputs."""
    import onnx
    import onnx_ir as ir

    declared = []
    for entry in raw.value_info:
        renamed = onnx.ValueInfoProto()
        renamed.CopyFrom(entry)
        renamed.name = new_names.get(entry.name, entry.name)
        declared.append(renamed)
    known = {entry.name for entry in declared}
    outputs = {output.name for output in raw.model.graph.outputs}
    declared += [ir.to_proto(value) for value in former_outputs if value.name not in known | outputs]
    return tuple(declared)
