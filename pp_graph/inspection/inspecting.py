"""Inspect a model: inputs, outputs and their roles, its provenance, and on request its values on images."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from pp_graph.errors import AlreadyFusedError, OutputRoleError, StatisticsError
from pp_graph.fusion import METADATA_KEY, FusedModel, Provenance
from pp_graph.fusion.injection import PREFIX, refuse_foreign_decisions
from pp_graph.fusion.stripping import check_weights
from pp_graph.fusion.tail import RULES, rewrite_tail
from pp_graph.inspection.result import InspectedPort, Inspection, MissedRewrite, TailInspection
from pp_graph.model import NameScope, RawModel, describe_outputs, format_shape
from pp_graph.model.graphs import DEFAULT_DOMAINS
from pp_graph.opening import kind_of
from pp_graph.packaging.manifest import MANIFEST, read_manifest
from pp_graph.postprocessors import ROLES, merged_roles
from pp_graph.postprocessors.hints import Family, find_families
from pp_graph.program import find_roles
from pp_graph.program.roles import why_none
from pp_graph.sketching import layers_of_ir, layers_of_onnx, linked, sketched, unfused
from pp_graph.statistics.anomalib_onnx import GraphStatistics, find_in_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx
    import onnx_ir as ir
    from distributed import Client
    from numpy.typing import ArrayLike

    from pp_graph.data import LabelledSource
    from pp_graph.inspection.output_values import OutputValues
    from pp_graph.postprocessors import PostProcessor
    from pp_graph.program import Role, RoleMatch
    from pp_graph.sketching import Part


def inspect(
    model: str | Path | onnx.ModelProto | ir.Model | RawModel | FusedModel,
    *,
    post: PostProcessor | None = None,
    roles: Mapping[str, str] | None = None,
    score_output: str | None = None,
    map_output: str | None = None,
    tail: bool = False,
    data: LabelledSource | None = None,
    masks: str | Path | bool = True,
    fixed_inputs: Mapping[str, ArrayLike] | None = None,
    client: Client | None = None,
) -> Inspection:
    """Describe a model. Without `data`, it does not run and its external weights are not loaded.

    Args:
        model: Path of an ONNX file, an OpenVINO IR (`.xml`) or a folder that `package` wrote, or an ONNX model in
            memory.
        post: Post-processor whose roles to find in a raw model. Defaults to the roles of anomaly models.
        roles: Output names by role, such as `{"raw_score": "score"}`. Other roles are found automatically.
        score_output: Short form of `roles={"raw_score": ...}`.
        map_output: Short form of `roles={"raw_map": ...}`.
        tail: Also find the parts of the raw model's tail that fusing would rewrite. This reads small weights and runs
            parts of the tail on random numbers.
        data: Images to run the model on, to describe the values of each output, with AUROC if there are labels; see
            `pp_graph.data.open_labelled`. ONNX models run in onnxruntime, an IR of pp_graph on the CPU in float32.
        masks: Folder of the masks; False to use none.
        fixed_inputs: Values of inputs that are not images; see `pp_graph.data.fix_inputs`.
        client: A `distributed.Client`, to share the images among the workers of a Dask cluster. The values are the
            same, bit for bit. None runs in this process.

    Returns:
        The inspection. Ambiguous or missing roles do not raise; `problem` gives the reason.

    Raises:
        ModelError: The ONNX file cannot be used.
        TargetError: The IR cannot be read.
        OutputRoleError: An output in `roles` does not exist or does not fit its role.
        DataError: Images do not fit the model, or cannot be read; the record of a package cannot be read.
        ProvenanceError: `data` is given for an IR that pp_graph did not write.
        ClusterError: The cluster cannot share the work.
    """
    again = functools.partial(
        inspect, post=post, roles=roles, score_output=score_output, map_output=map_output, tail=tail
    )
    if isinstance(model, str | Path) and (Path(model) / MANIFEST).is_file():
        package = read_manifest(model)
        found = again(Path(model) / package.model, data=data, masks=masks, fixed_inputs=fixed_inputs, client=client)
        return dataclasses.replace(found, path=str(model), package=package)
    if data is not None:
        return dataclasses.replace(again(model), values=_values(model, data, masks, fixed_inputs, client))
    named = merged_roles(roles, score_output=score_output, map_output=map_output)
    declared = ROLES if post is None else post.roles
    if isinstance(model, str | Path) and kind_of(model) == "ir":
        return _inspect_ir(Path(model), tail=tail)
    raw = RawModel.open(model.network if isinstance(model, FusedModel) else model)
    provenance = Provenance.from_metadata(raw.model.metadata_props)
    problem = foreign = None
    families: tuple[Family, ...] = ()
    if provenance is not None:
        check_weights(raw, provenance)
        outputs = tuple(
            InspectedPort(info.name, _dtype(info.dtype), info.shape, None, _meaning(info.name, provenance), info.note)
            for info in describe_outputs(raw)
        )
    else:
        foreign = _foreign_post_processing(raw)
        outputs, problem = _raw_ports(raw, declared, named)
        if declared is ROLES and not named and foreign is None:
            families = find_families(raw)
            outputs = _ports_of(outputs, families)
    return Inspection(
        path=str(model) if isinstance(model, str | Path) else None if raw.source is None else str(raw.source),
        kind="fused ONNX" if provenance is not None else "raw ONNX" if foreign is None else "Anomalib ONNX export",
        inputs=tuple(InspectedPort(port.name, port.dtype, port.shape) for port in raw.inputs),
        outputs=outputs,
        problem=problem,
        opset=raw.opset or None,
        domains={
            domain: version for domain, version in raw.model.opset_imports.items() if domain not in DEFAULT_DOMAINS
        },
        ir_version=raw.model.ir_version,
        producer=" ".join(part for part in (raw.model.producer_name, raw.model.producer_version) if part),
        nodes=len(raw.model.graph),
        functions=len(raw.model.functions),
        weight_bytes=raw.weight_bytes,
        weight_files=tuple(sorted({str(tensor.location) for tensor in raw.external_tensors()})),
        metadata=tuple(key for key in raw.model.metadata_props if key != METADATA_KEY),
        provenance=provenance,
        tail=_inspect_tail(raw, provenance) if tail else None,
        post_processing=foreign,
        families=families,
        end=_end(outputs, provenance, lambda tensors, shapes: layers_of_onnx(raw, tensors, shapes)),
    )


def _end(
    outputs: Sequence[InspectedPort],
    provenance: Provenance | None,
    layers: Callable[[Sequence[str], Mapping[str, str]], tuple[tuple[Part, ...], Mapping[str, str]]],
) -> tuple[Part, ...]:
    """Describe the end of the graph.

    Args:
        outputs: Outputs of the model.
        provenance: Its record; None if pp_graph wrote no post-processing.
        layers: Finds the layers that compute some tensors; see `layers_of_onnx`.
    """
    if provenance is None:
        told = [f"{port.role}: {port.why}" if port.role and port.why else port.role or port.why for port in outputs]
        parts = unfused(outputs, told)
        tensors = [port.name for port in outputs]
    else:
        parts = sketched(provenance, outputs)
        passed = [port.name for port in outputs if port.name not in provenance.output_names]
        tensors = [*(record.tensor for record in provenance.raw.read.values()), *passed]
    found, links = layers(tensors, {port.name: format_shape(port.shape) for port in outputs})
    return linked(found, parts, links)


def _values(
    model: str | Path | onnx.ModelProto | ir.Model | RawModel | FusedModel,
    data: LabelledSource,
    masks: str | Path | bool,
    fixed_inputs: Mapping[str, ArrayLike] | None,
    client: Client | None,
) -> tuple[OutputValues, ...]:
    from pp_graph.inspection.collecting import collect_values, open_session

    opened: str | Path | RawModel
    if isinstance(model, str | Path):
        opened = model
    else:
        opened = RawModel.open(model.network if isinstance(model, FusedModel) else model)
    session = open_session(opened)
    if client is None:
        return collect_values(session, data, masks=masks, fixed_inputs=fixed_inputs)
    from pp_graph.inspection.on_workers import collect_on_workers

    return collect_on_workers(client, opened, session, data, masks=masks, fixed_inputs=fixed_inputs)


def _foreign_post_processing(raw: RawModel) -> GraphStatistics | None:
    try:
        return find_in_graph(raw)
    except StatisticsError:
        return None  # importing these statistics raises the same error


def _inspect_tail(raw: RawModel, provenance: Provenance | None) -> TailInspection:
    if provenance is not None:
        return TailInspection(tuple(provenance.tail), ())
    copy = RawModel.open(raw)
    names = NameScope(copy.model.graph)
    rewritten = rewrite_tail(copy, RULES, names, names.fresh_prefix(PREFIX))
    missed = [MissedRewrite(rule.name, miss.target.name or "", miss.what, miss.why) for rule, miss in rewritten.missed]
    return TailInspection(tuple(rewritten.records()), tuple(missed))


def _raw_ports(
    raw: RawModel, declared: Sequence[Role], named: Mapping[str, str]
) -> tuple[tuple[InspectedPort, ...], str | None]:
    problem = None
    described = describe_outputs(raw)
    matches: dict[str, RoleMatch] = {}
    try:
        refuse_foreign_decisions(raw)
        matches = {match.output.name: match for match in find_roles(described, declared, named).values()}
    except (OutputRoleError, AlreadyFusedError) as error:
        if named:
            raise
        problem = str(error)
    ports = []
    for info in described:
        match = matches.get(info.name)
        role, why = (
            (None, why_none(info, declared)) if match is None else (match.role.noun or match.role.name, match.why)
        )
        ports.append(InspectedPort(info.name, _dtype(info.dtype), info.shape, role, why, info.note))
    return tuple(ports), problem


def _ports_of(outputs: Sequence[InspectedPort], families: Sequence[Family]) -> tuple[InspectedPort, ...]:
    """Replace the roles of an anomaly model by those of the likeliest family, if it is another one."""
    if not families or any(family.task == "anomaly" for family in families):
        return tuple(outputs)
    return tuple(
        dataclasses.replace(port, role=families[0].roles.get(port.name), why="" if port.name in families[0].roles else
                            "not read")
        for port in outputs
    )  # fmt: skip


def _meaning(name: str, provenance: Provenance) -> str:
    """Describe an output of a fused or converted model for people."""
    output = next((each for each in provenance.outputs if each.name == name), None)
    if output is None:
        return "passed through from the raw model"
    parts = [output.description or output.meaning]
    if output.channels and output.per_pixel:
        parts.append(f"{', '.join(each.name for each in output.channels)} along the last axis")
    if output.unchanged is not None:
        parts.append("raw value, unchanged")
    if output.scale is not None:
        low, high, threshold = output.scale
        parts.append(f"{low:g} to {high:g}" + ("" if threshold is None else f", threshold at {threshold:g}"))
    if output.decision_values is not None:
        normal, anomalous = output.decision_values
        parts.append(f"{normal:g} for no, {anomalous:g} for yes")
    return "; ".join(parts)


def _dtype(onnx_name: str | None) -> str | None:
    """Convert ONNX names of element types to NumPy's: `FLOAT` to `float32`."""
    import onnx_ir as ir

    if onnx_name is None or onnx_name not in ir.DataType.__members__:
        return onnx_name and onnx_name.lower()
    return str(ir.DataType[onnx_name].numpy())


def _inspect_ir(path: Path, *, tail: bool) -> Inspection:
    from pp_graph.openvino.model import describe_ir

    described = describe_ir(path)
    provenance = described.provenance
    outputs = tuple(
        InspectedPort(
            port.name, port.dtype, port.shape, why="" if provenance is None else _meaning(port.name, provenance)
        )
        for port in described.outputs
    )
    return Inspection(
        path=str(path),
        kind="OpenVINO IR",
        inputs=tuple(InspectedPort(port.name, port.dtype, port.shape) for port in described.inputs),
        outputs=outputs,
        problem=None,
        opset=None,
        domains={},
        ir_version=described.version,
        producer=described.producer,
        nodes=described.nodes,
        functions=0,
        weight_bytes=described.weight_bytes,
        weight_files=(path.with_suffix(".bin").name,),
        metadata=(),
        provenance=provenance,
        tail=TailInspection(tuple(provenance.tail), ()) if tail and provenance is not None else None,
        end=_end(outputs, provenance, lambda tensors, _: layers_of_ir(described.model, tensors)),
    )
