"""Write a post-processor's steps behind the outputs of a raw model."""

from __future__ import annotations

import base64
import dataclasses
import math
from typing import TYPE_CHECKING, Final

import msgspec

from pp_graph.errors import AlreadyFusedError, FusionError, PostProcessorError
from pp_graph.fusion.emission import emission_record
from pp_graph.fusion.fused_model import FusedModel
from pp_graph.fusion.provenance import SCHEMA_VERSION, Provenance, RawOutputRecord, RawRecord
from pp_graph.fusion.stripping import strip
from pp_graph.fusion.tail import RULES, RewrittenTail, rewrite_tail
from pp_graph.model import METADATA_KEY, NameScope, RawModel, opset_raising
from pp_graph.model.graphs import all_values, rename_values
from pp_graph.postprocessors import DECISION_NAMES, PostProcessor, class_name, merged_roles
from pp_graph.steps import MINIMUM_OPSET, Emitter
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx
    import onnx_ir as ir

    from pp_graph.program import Program, RoleMatch

PREFIX: Final = "pp_graph"


def fuse(
    model: str | Path | onnx.ModelProto | ir.Model | RawModel | FusedModel,
    post: PostProcessor,
    *,
    roles: Mapping[str, str] | None = None,
    score_output: str | None = None,
    map_output: str | None = None,
    keep_raw: bool = False,
    replace: bool = False,
    tail: bool = True,
    raise_opset: int | None = None,
) -> FusedModel:
    """Write a post-processor into a raw model.

    The post-processed outputs come first: of an anomaly model `pred_score` float32, `pred_label` bool, `anomaly_map`
    float32, `pred_mask` bool, as far as the model and the settings give them. Outputs that
    post-processing does not read follow under their own names, or as `raw_<name>` where a post-processed output has
    that name.

    Args:
        model: Path of a raw ONNX export, or a model in memory. It is never modified.
        post: The post-processor, with statistics.
        roles: Names of outputs by the role that the post-processor reads them in, where axes and sizes leave a choice.
        score_output: Short form of `roles={"raw_score": ...}`.
        map_output: Short form of `roles={"raw_map": ...}`.
        keep_raw: Also keep the raw values that are read as outputs, under their own names, or
            `raw_<name>` where that is one of a post-processed output.
        replace: If the model is fused already, take the old post-processing out first.
        tail: Rewrite the raw model's own tail where that saves time (see `pp_graph.fusion.tail`): raw
            values differ by rounding, at most 1e-5 of the largest, and the rewritten part stays in
            float32 in OpenVINO.
        raise_opset: If the model is at an earlier opset, bring it to this one first, for steps whose operators its own
            does not have. It is refused where the model would not compute the same bits there.

    Returns:
        The fused model. Nothing is written until `save`.

    Raises:
        ModelError: The model cannot be used; `OutputRoleError` where roles cannot be told
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
    raw = RawModel.open(model.network if isinstance(model, FusedModel) else model)
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
    # This refuses missing statistics before anything is built.
    program = post.bind(raw, merged_roles(roles, score_output=score_output, map_output=map_output))
    file = _file_name(raw) if earlier is None else earlier.raw.file
    return write_program(raw, program, keep_raw=keep_raw, tail=tail, file=file, raise_opset=raise_opset)


def write_program(
    raw: RawModel,
    program: Program,
    *,
    keep_raw: bool,
    tail: bool,
    file: str | None,
    raise_opset: int | None = None,
) -> FusedModel:
    """Write a program into the raw model that it was bound to.

    Args:
        raw: The raw model. Changed in place.
        program: The program.
        keep_raw: Also keep the raw values that are read as outputs.
        tail: Rewrite the raw model's own tail where that saves time.
        file: Name of the raw model's file; None for one in memory.
        raise_opset: Opset to bring the raw model to first; None for its own.
    """
    post = program.post
    assert isinstance(post, PostProcessor)
    _check_parameters(post)
    matches = {role: match for role, match in program.signature.matches.items() if role in program.signature}
    ignored = {role: match for role, match in program.signature.matches.items() if role in program.ignored}
    dropped = {
        role: match
        for role, match in ignored.items()
        if program.post.replaces_unread and match.certain and not keep_raw
    }

    raw, raised = opset_raising.raise_opset(raw, raise_opset)
    graph = raw.model.graph
    names = NameScope(graph)
    prefix = names.fresh_prefix(PREFIX)
    rewritten = rewrite_tail(raw, RULES, names, prefix) if tail else RewrittenTail()
    outputs = {output.name or "": output for output in graph.outputs}
    opset = raw.opset or _opset_for(raw)
    op = Emitter(graph, opset=opset, ir_version=raw.model.ir_version, names=names, prefix=prefix)
    records = {role: _record(match, outputs[match.output.name], raw) for role, match in matches.items()}
    unread = {role: _record(match, outputs[match.output.name], raw) for role, match in dropped.items()}
    opset_added = raw.opset == 0
    if opset_added:
        raw.model.opset_imports[""] = opset
    values = {role: _as_read(op, outputs[match.output.name], match) for role, match in matches.items()}
    computed = program.emit(op, values)
    emitted = {output.name: computed[output.name] for output in program.outputs}

    read = {match.output.name for match in (*matches.values(), *dropped.values())}
    others = [output for name, output in outputs.items() if keep_raw or name not in read]
    # A raw value must not be taken for a post-processed one that was not asked for.
    ours = {output.name for output in program.post.declared_outputs} | set(emitted)
    needed = set(emitted) | ({output.name or "" for output in others} & ours)
    new_names = _free_output_names(graph, names, needed, rewritten.removed_names)
    for name, value in emitted.items():
        value.name = name
    graph.outputs.clear()
    graph.outputs.extend([*emitted.values(), *others])
    records = {role: _renamed(record, outputs) for role, record in records.items()}
    tensors = {role: record.tensor for role, record in records.items()}
    provenance = Provenance(
        schema_version=SCHEMA_VERSION,
        pp_graph_version=__version__,
        post_processor=class_name(type(post)),
        parameters=program.post.parameters(),
        statistics=program.statistics,
        cutoffs=program.cutoffs,
        prefix=prefix,
        outputs=list(program.outputs),
        intermediates={name: computed[name].name or "" for name in program.intermediates},
        adjustable=program.adjustable,
        raw=RawRecord(
            sha256=raw.sha256,
            file=file,
            read=records,
            outputs=list(outputs),
            renamed={new: old for old, new in new_names.items()},
            opset_added=opset_added,
            input_size=program.signature.input_size,
            unread=[_renamed(record, outputs) for record in unread.values()],
        ),
        tail=rewritten.records(),
        replaced=rewritten.replaced,
        emission=emission_record(program, tensors, prefix, opset=opset, ir_version=raw.model.ir_version),
        raised=raised,
    )
    raw.model.metadata_props[METADATA_KEY] = provenance.to_json()
    declared = _declarations(raw, new_names, [outputs[record.name] for record in (*records.values(), *unread.values())])
    notes = tuple(_notes(matches.values(), raised))
    return FusedModel(dataclasses.replace(raw, value_info=declared, edited=True), provenance, notes, program)


def _notes(read: Iterable[RoleMatch], raised: opset_raising.RaisedOpset | None) -> Iterator[str]:
    if raised is not None:
        yield from raised.notes()
    for match in read:
        if match.note is not None:
            yield match.note
        if match.output.note is not None:
            yield f"Output '{match.output.name}' is {match.output.note}; the computed shape is used."


def _file_name(raw: RawModel) -> str | None:
    return None if raw.source is None else raw.source.name


def refuse_foreign_decisions(raw: RawModel) -> None:
    """Raise if a model already has labels or masks.

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


def _check_parameters(post: PostProcessor) -> None:
    """Raise if the post-processor cannot be recorded in the model and rebuilt from the record."""
    try:
        noted = msgspec.json.encode(post.parameters())
    except TypeError as error:
        raise PostProcessorError(
            f"Parameters of {type(post).__name__} are not JSON-serialisable ({error}), expected numbers, text and "
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
    """True if a parameter contains NaN or infinity, which JSON cannot hold."""
    if isinstance(value, dict):
        return any(map(_not_finite, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_not_finite, value))
    return isinstance(value, float) and not math.isfinite(value)


def _opset_for(raw: RawModel) -> int:
    """Opset to import into a model that has only custom domains.

    What its local functions use, since both must agree; else what came with its IR version.
    """
    import onnx

    used = [function.opset_imports[""] for function in raw.model.functions.values() if "" in function.opset_imports]
    fitting = [row[2] for row in onnx.helper.VERSION_TABLE if row[1] <= raw.model.ir_version]
    return max(used) if used else max([MINIMUM_OPSET, *fitting])


def _as_read(op: Emitter, value: ir.Value, match: RoleMatch) -> ir.Value:
    """A raw value in the element type in which the steps read it."""
    import numpy as np

    op.trust(value, match.output.shape)
    dtype = np.dtype(match.role.dtype)
    if value.dtype is not None and value.dtype.numpy() == dtype:
        return value
    with op.scope(match.role.name):
        return op.cast(value, dtype)


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
            f"Input '{blocked[0]}' has the name of a post-processed output ({', '.join(sorted(needed))}), and "
            "inputs keep their names. Export the model with another input name."
        )
    taken = ({value.name for value in all_values(graph)} | removed) & wanted
    new_names = {old: names.fresh(f"raw_{old}") for old in sorted(name for name in taken if name)}
    rename_values(graph, new_names)
    return new_names


def _record(match: RoleMatch, value: ir.Value, raw: RawModel) -> RawOutputRecord:
    """Record how the raw model declares an output, and keep only the proven part of its shape.

    The value is read by more than one operator from now on, and a runtime may reuse memory by declared sizes.
    """
    import onnx_ir as ir

    info = match.output
    declaration = base64.b64encode(ir.to_proto(value).SerializeToString(deterministic=True)).decode()
    value.shape = None if info.proven is None else ir.Shape(info.proven)
    return RawOutputRecord(
        name=info.name,
        tensor=info.name,
        axes=match.type.axes,
        sizes=match.type.sizes,
        dtype=match.type.dtype,
        rank_known=match.type.rank_known,
        declaration=declaration,
        declared_inside=any(entry.name == info.name for entry in raw.value_info),
    )


def _renamed(record: RawOutputRecord, outputs: Mapping[str, ir.Value]) -> RawOutputRecord:
    """The record with the name that its tensor has now."""
    return msgspec.structs.replace(record, tensor=outputs[record.name].name or "")


def _declarations(
    raw: RawModel, new_names: Mapping[str, str], former_outputs: Sequence[ir.Value]
) -> tuple[onnx.ValueInfoProto, ...]:
    """Return the raw model's declarations of inner values, by present name, and its former outputs."""
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
