"""Write a program after the outputs of a raw model."""

from __future__ import annotations

import base64
import dataclasses
import math
from typing import TYPE_CHECKING, Final

import msgspec

from pp_graph.errors import AlreadyFusedError, FusionError, ModelError, PostProcessorError, first_line
from pp_graph.fusion.emission import emission_record
from pp_graph.fusion.provenance import SCHEMA_VERSION, Provenance, RawOutputRecord, RawRecord
from pp_graph.fusion.stripping import without_post_processing
from pp_graph.fusion.tail import RULES, RewrittenTail, rewrite_tail
from pp_graph.model import METADATA_KEY, NameScope, RawModel, opset_raising
from pp_graph.model.graphs import all_values, rename_values
from pp_graph.model.message_difference import difference
from pp_graph.model.weights import weights_record
from pp_graph.postprocessors import DECISION_NAMES, PostProcessor, class_name
from pp_graph.steps import MINIMUM_OPSET, ChoosingStep, Emitter, SelectCandidates
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import onnx
    import onnx_ir as ir

    from pp_graph.program import Program, RoleMatch

PREFIX: Final = "pp_graph"


def write_program(
    raw: RawModel,
    program: Program,
    *,
    keep_raw: bool,
    tail: bool,
    file: str | None,
    raise_opset: int | None = None,
) -> tuple[RawModel, Provenance, tuple[str, ...]]:
    """Write a program into the raw model that it was bound to.

    Args:
        raw: The raw model. Changed in place.
        program: The program.
        keep_raw: True to keep the raw values as outputs.
        tail: True to rewrite the raw model's tail where that saves time.
        file: Name of the raw model's file; None if it exists only in memory.
        raise_opset: Opset to convert the raw model to first; None keeps its own.

    Returns:
        The fused graph, its provenance, and notes about assumptions made.
    """
    post = program.post
    assert isinstance(post, PostProcessor)
    _check_parameters(post)
    all_matches = program.signature.matches
    matches = {role: match for role, match in all_matches.items() if role in program.signature}
    dropped = [
        match
        for role, match in all_matches.items()
        if role in program.ignored and post.replaces_unread and match.certain and not keep_raw
    ]
    dropped += [] if keep_raw else program.signature.replaced

    raw_weights = weights_record(raw.external_tensors())
    original = _lossy(raw)
    raw = dataclasses.replace(raw, original=None, exact=False)
    raw, raised = opset_raising.raise_opset(raw, raise_opset)
    graph = raw.model.graph
    names = NameScope(graph)
    prefix = names.fresh_prefix(PREFIX)
    # A NaN that spreads over the whole map would hide its anomalies where NaN counts as normal.
    ignores_nan = any(step.on_nan == "normal" for step in program.comparisons.values())
    rules = [rule for rule in RULES if not (ignores_nan and rule.spreads_nan)]
    own = [output.name or "" for output in graph.outputs]
    # As outputs, inner values that are read outlast the rewriting.
    inner = {match.output.name for match in matches.values()} - {*own}
    graph.outputs.extend(value for node in graph for value in node.outputs if value.name in inner)
    rewritten = rewrite_tail(raw, rules, names, prefix) if tail else RewrittenTail()
    outputs = {output.name or "": output for output in graph.outputs}
    opset = raw.opset or _opset_for(raw)
    op = Emitter(graph, opset=opset, ir_version=raw.model.ir_version, names=names, prefix=prefix)
    records = {role: _record(match, outputs[match.output.name], raw) for role, match in matches.items()}
    unread = [_record(match, outputs[match.output.name], raw) for match in dropped]
    opset_added = raw.opset == 0
    if opset_added:
        raw.model.opset_imports[""] = opset
    chooses = any(isinstance(step, ChoosingStep | SelectCandidates) for step in program.steps)
    values = {role: _as_read(op, outputs[match.output.name], match, fence=chooses) for role, match in matches.items()}
    computed = program.emit(op, values)
    emitted = {output.name: computed[output.name] for output in program.outputs}

    read = {match.output.name for match in (*matches.values(), *dropped)}
    others = [outputs[name] for name in dict.fromkeys(own) if keep_raw or name not in read]
    # A raw output may have the name of a post-processed output that was not requested. Rename it to avoid confusion.
    possible = {output.name for output in post.declared_outputs} | set(emitted)
    needed = set(emitted) | ({output.name or "" for output in others} & possible)
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
        parameters=post.parameters(),
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
            outputs=own,
            renamed={new: old for old, new in new_names.items()},
            opset_added=opset_added,
            input_size=program.signature.input_size,
            unread=[_renamed(record, outputs) for record in unread],
            weights=raw_weights,
        ),
        tail=rewritten.records(),
        replaced=rewritten.replaced,
        emission=emission_record(program, tensors, prefix, opset=opset, ir_version=raw.model.ir_version),
        raised=raised,
        weights=weights_record(raw.external_tensors()),
    )
    raw.model.metadata_props[METADATA_KEY] = provenance.to_json()
    declared = _declarations(raw, new_names, [outputs[record.name] for record in (*records.values(), *unread)])
    notes = tuple(_notes(matches.values(), raised))
    fused = dataclasses.replace(raw, value_info=declared, edited=True)
    if original is not None:
        fused, provenance = _with_difference(fused, provenance, original)
    return fused, provenance, notes


def _lossy(raw: RawModel) -> onnx.ModelProto | None:
    """Return the raw model as it was read if writing its graph would lose something, else None.

    Raises:
        ModelError: The graph cannot be written.
    """
    original = raw.original
    if original is None:
        return None
    try:
        written = dataclasses.replace(raw, exact=False).to_proto()
    except Exception as error:  # onnx_ir raises many types
        cause = error.__cause__ or error
        raise ModelError(
            f"The model cannot be written back, as a model is that passes the checks of ONNX: {first_line(cause)}. "
            "Check it with onnx.checker."
        ) from error
    names = [output.name for output in original.graph.output]
    declared = {entry.name for entry in original.graph.value_info}
    unusual = len(set(names)) < len(names) or not declared.isdisjoint(names)
    return original if unusual or written != original else None


def _with_difference(fused: RawModel, provenance: Provenance, original: onnx.ModelProto) -> tuple[RawModel, Provenance]:
    """Record what `strip` would not restore."""
    stripped = without_post_processing(RawModel.open(fused), provenance).to_proto()
    content, wanted = stripped.SerializeToString(), original.SerializeToString()
    if content == wanted:
        return fused, provenance
    record = msgspec.structs.replace(provenance.raw, difference=difference(wanted, content, original.DESCRIPTOR))
    provenance = provenance.revised(raw=record)
    fused.model.metadata_props[METADATA_KEY] = provenance.to_json()
    return fused, provenance


def _notes(read: Iterable[RoleMatch], raised: opset_raising.RaisedOpset | None) -> Iterator[str]:
    if raised is not None:
        yield from raised.notes()
    for match in read:
        if match.note is not None:
            yield match.note
        if match.output.note is not None:
            yield f"Output '{match.output.name}' is {match.output.note}; the computed shape is used."


def refuse_foreign_decisions(raw: RawModel) -> None:
    """Raise if a model already has labels or masks.

    Raises:
        AlreadyFusedError: An output has the name of a decision.
    """
    for output in raw.model.graph.outputs:
        if output.name in DECISION_NAMES:
            raise AlreadyFusedError(
                f"The model has an output '{output.name}', expected raw scores and maps only. It seems to contain "
                "post-processing already, as Anomalib's exports do, and normalising twice would change every decision. "
                "Export the model raw, without its post-processor."
            )


def _check_parameters(post: PostProcessor) -> None:
    """Raise if the post-processor's parameters do not survive a round trip through JSON."""
    try:
        recorded = msgspec.json.encode(post.parameters())
    except TypeError as error:
        raise PostProcessorError(
            f"Parameters of {type(post).__name__} are not JSON-serialisable ({error}), expected numbers, text and "
            "lists of these, because the model's provenance records them. Take simple parameters and build objects "
            "from them in steps(), or override parameters()."
        ) from error
    try:
        rebuilt = post.from_parameters(post.statistics, msgspec.json.decode(recorded))
        again = msgspec.json.encode(rebuilt.parameters())
    except (PostProcessorError, TypeError, ValueError) as error:
        raise PostProcessorError(
            f"{type(post).__name__} cannot be rebuilt from its recorded parameters: {error}. Accept what JSON returns: "
            "a list for a tuple, and no NaN."
        ) from error
    if again != recorded or (b"null" in recorded and _not_finite(post.parameters())):
        raise PostProcessorError(
            f"{type(post).__name__} has different parameters after it is rebuilt from its recorded ones, expected the "
            "same. Store parameters unchanged, as finite numbers, text and lists."
        )


def _not_finite(value: object) -> bool:
    """True if a parameter contains NaN or infinity, which JSON cannot represent."""
    if isinstance(value, dict):
        return any(map(_not_finite, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_not_finite, value))
    return isinstance(value, float) and not math.isfinite(value)


def _opset_for(raw: RawModel) -> int:
    """Return the opset to import into a model that has only custom domains.

    This is the opset of its local functions, because both must agree, or else the latest of its IR version.
    """
    import onnx

    used = [function.opset_imports[""] for function in raw.model.functions.values() if "" in function.opset_imports]
    fitting = [row[2] for row in onnx.helper.VERSION_TABLE if row[1] <= raw.model.ir_version]
    return max(used) if used else max([MINIMUM_OPSET, *fitting])


def _as_read(op: Emitter, value: ir.Value, match: RoleMatch, *, fence: bool) -> ir.Value:
    """Cast a raw value to the element type that the steps read.

    onnxruntime 1.32 computes float16 in float32 and drops the rounding before a Cast. A step that chooses a class would
    then see differences where the raw model has equal numbers. A `fence`, an operator that takes float16 itself,
    prevents this. Cutoffs do not need it, as they lie between two numbers of the narrow type.
    """
    import numpy as np

    op.trust(value, match.shape)
    dtype = np.dtype(match.role.dtype)
    if value.dtype is not None and value.dtype.numpy() == dtype:
        return value
    with op.scope(match.role.name):
        if fence and match.type.rank_known:
            same = op.constant((0,) * match.type.rank, "shape")
            value = op.node("Reshape", [value, same], {}, op.dtype_of(value), op.shape_of(value))
        return op.cast(value, dtype)


def _free_output_names(graph: ir.Graph, names: NameScope, needed: set[str], removed: frozenset[str]) -> dict[str, str]:
    """Rename raw values whose names the outputs need, including removed ones that `strip` would restore.

    Returns:
        New names by old name.
    """
    wanted = {name for name in needed if name in names}
    if not wanted:
        return {}
    inputs = {value.name for value in graph.inputs}
    blocked = sorted(wanted & {name for name in inputs if name})
    if blocked:
        raise FusionError(
            f"Input '{blocked[0]}' has the name of a post-processed output ({', '.join(sorted(needed))}), expected "
            "a different one, because inputs keep their names. Export the model with a different input name."
        )
    taken = ({value.name for value in all_values(graph)} | removed) & wanted
    new_names = {old: names.fresh(f"raw_{old}") for old in sorted(name for name in taken if name)}
    rename_values(graph, new_names)
    return new_names


def _record(match: RoleMatch, value: ir.Value, raw: RawModel) -> RawOutputRecord:
    """Record how the raw model declares an output, and keep only the proven part of its shape.

    A runtime may reuse memory according to declared sizes, and from now on more operators read the value.
    """
    import onnx_ir as ir

    info = match.output
    declaration = base64.b64encode(ir.to_proto(value).SerializeToString(deterministic=True)).decode()
    value.shape = None if match.proven is None else ir.Shape(match.proven)
    if value.type is None and info.dtype is not None:  # an inner value
        value.type = ir.TensorType(ir.DataType[info.dtype])
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
    """Update the tensor name in a record after renaming."""
    return msgspec.structs.replace(record, tensor=outputs[record.name].name or "")


def _declarations(
    raw: RawModel, new_names: Mapping[str, str], former_outputs: Sequence[ir.Value]
) -> tuple[onnx.ValueInfoProto, ...]:
    """Return the raw model's declarations of inner values under their new names, and those of its former outputs."""
    import onnx
    import onnx_ir as ir

    declared = []
    for entry in raw.value_info:
        renamed = onnx.ValueInfoProto()
        renamed.CopyFrom(entry)
        if entry.name in new_names:
            renamed.name = new_names[entry.name]
        declared.append(renamed)
    known = {entry.name for entry in declared}
    outputs = {output.name for output in raw.model.graph.outputs}
    declared += [ir.to_proto(value) for value in former_outputs if value.name not in known | outputs]
    return tuple(declared)
