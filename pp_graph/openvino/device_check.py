"""Check a converted model for a device, which may be absent from this machine."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from pp_graph.errors import TargetError
from pp_graph.model import format_shape
from pp_graph.openvino.compiling import compile_for, running_precision
from pp_graph.openvino.core import all_operators, first_line, openvino_core, partial_shape, port_name
from pp_graph.openvino.devices import DeviceName, absent_members, parse_device
from pp_graph.openvino.island.float32 import is_floating, is_marked, island_precisions
from pp_graph.openvino.island.island import island_nodes
from pp_graph.reprs import short_repr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import openvino as ov

    from pp_graph.model import Shape
    from pp_graph.openvino.model import OpenVINOModel

_NAMED_OPERATORS: Final = 3


@dataclass(frozen=True)
class Finding:
    """A problem with running a model on a device.

    Attributes:
        level: `error` if the model cannot run on the device, `warning` if it may fail or behave differently.
        check: `shapes`, `operators`, `precision`, `marks`, `constants`, `states` or `compilation`.
        message: The problem, and how to fix it.
    """

    level: Literal["error", "warning"]
    check: str
    message: str


@dataclass(frozen=True)
class DeviceCheck:
    """Result of checking a model for a device.

    Attributes:
        device: The device.
        here: True if the device is on this machine.
        passed: Checks that passed.
        findings: Problems found.
        not_run: Checks that were not run, with the commands that run them.
    """

    device: str
    here: bool
    passed: tuple[str, ...]
    findings: tuple[Finding, ...]
    not_run: tuple[str, ...]

    __repr__ = short_repr

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Problems because of which the model cannot run on the device."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-serialisable values."""
        result: dict[str, Any] = msgspec.to_builtins(self)
        return result


def _warning(check: str, message: str) -> Finding:
    return Finding("warning", check, message)


def check_for_device(artifact: OpenVINOModel, device: str) -> DeviceCheck:
    """Check a converted model for a device, which may be absent.

    Checks shapes, operator types, inference precisions, states, and the marks and types of the f32 island. If the
    device is on this machine, also queries OpenVINO about every operator, and compiles the model. Runs nothing.

    Args:
        artifact: The converted model.
        device: Device, such as `GPU` or `HETERO:GPU,CPU`.

    Raises:
        DeviceError: The device is unknown.
        TargetError: The model was changed after it was converted.
    """
    name = parse_device(device)
    absent = absent_members(device)
    here = not absent
    checks = [
        *_shapes(artifact.network, name),
        *_operators(artifact.network, name),
        *_precision(name),
        *_island(artifact),
        *_states(artifact.network, name),
    ]
    if here:
        checks += [*_queried(artifact.network, name), *_compiled(artifact, name)]
    passed = tuple(each for each in checks if isinstance(each, str))
    findings = tuple(each for each in checks if isinstance(each, Finding))
    where = "" if here else f", on a machine with {' and '.join(absent)}"
    quoted = shlex.quote(device)  # BATCH:GPU(4) has parentheses
    not_run = [
        *(() if here else ("compilation", "the precision it really runs in")),
        f"decisions (pp-graph verify --device {quoted}{where})",
        f"latency (pp-graph benchmark --device {quoted}{where})",
    ]
    return DeviceCheck(device, here, passed, findings, tuple(not_run))


def require_static(model: ov.Model, device: str) -> None:
    """Raise if an input has a dynamic size, batch included.

    Raises:
        TargetError: An input has a dynamic size; the message shows the options that fix it.
    """
    message = _dynamic_input(model, device)
    if message is not None:
        raise TargetError(message)


def _dynamic_input(model: ov.Model, device: str) -> str | None:
    """Return the problem with the first input that has a dynamic size; None if there is none."""
    shapes = {port_name(port): partial_shape(port) for port in model.inputs}
    dynamic = [name for name, shape in shapes.items() if shape is None or None in shape]
    if not dynamic:
        return None
    options, placeholders = [], []
    for name in dynamic:
        sizes = _example_sizes(shapes[name])
        options.append(f"--input-shape {name + ':' if len(shapes) > 1 else ''}{','.join(sizes)}")
        placeholders += [size for size in sizes if not size.isdecimal() and size not in placeholders]
    filled = f" with your images' sizes for {' and '.join(placeholders)}" if placeholders else ""
    return (
        f"Input '{dynamic[0]}' has the dynamic shape {format_shape(shapes[dynamic[0]])}, expected a static one, batch "
        f"included: {device} runs no other. Convert with {' '.join(options)} (input_shape=...){filled}; the 1 in front "
        "means one image per run."
    )


def _example_sizes(shape: Shape | None) -> list[str]:
    """Return sizes for --input-shape: known ones, a batch of 1, and placeholders."""
    if shape is None:
        return ["SIZES"]
    placeholders = ["1", *["SIZE"] * (len(shape) - 1)][: len(shape)]
    if len(shape) == 4:
        last = shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)
        placeholders = ["1", "HEIGHT", "WIDTH", "CHANNELS"] if last else ["1", "CHANNELS", "HEIGHT", "WIDTH"]
    elif len(shape) == 3:
        placeholders = ["1", "HEIGHT", "WIDTH"]
    return [text if size is None else str(size) for text, size in zip(placeholders, shape, strict=True)]


def _shapes(model: ov.Model, name: DeviceName) -> Iterator[str | Finding]:
    device, profile = name.text, name.profile
    message = _dynamic_input(model, device)
    if not profile.dynamic_shapes:
        if message is not None:
            yield Finding("error", "shapes", message)
            return
        inner = [
            node
            for node in model.get_ordered_ops()
            if any(output.get_partial_shape().is_dynamic for output in node.outputs())
        ]
        if inner:
            yield _warning(
                "shapes",
                f"{_listed(inner)} have data-dependent sizes, expected static ones: the model may not compile for "
                f"{device}. Export it without them.",
            )
            return
    batches = {shape[0] for shape in map(partial_shape, model.inputs) if shape}
    if profile.dynamic_remark and (message is not None or (profile.groups_requests and batches != {1})):
        yield _warning(
            "shapes",
            f"{profile.dynamic_remark}. Fix the sizes with --input-shape (input_shape=...), with a batch of 1.",
        )
        return
    if profile.groups_requests and name.batch is None and any(member.text == "CPU" for member in name.members):
        yield _warning("shapes", f"{device} groups no requests: the CPU suggests no batch size. Write BATCH:CPU(4).")
        return
    yield f"sizes ({'fixed' if message is None else 'dynamic, which the device supports'})"


def _operators(model: ov.Model, name: DeviceName) -> Iterator[str | Finding]:
    device, profile = name.text, name.profile
    nodes = list(all_operators(model))
    unsupported = [node for node in nodes if node.get_type_name() in profile.unsupported]
    on_host = [node for node in nodes if node.get_type_name() in profile.on_host]
    if unsupported:
        yield _warning(
            "operators",
            f"{_listed(unsupported)}: {device} is not known to support these operators, and the model may not compile. "
            "HETERO:...,CPU runs them on the CPU.",
        )
    if on_host:
        yield _warning("operators", f"{_listed(on_host)}: {device} may run these slowly, on the host's CPU.")
    if not unsupported and not on_host:
        kinds = {node.get_type_name() for node in nodes}
        yield f"operators ({len(kinds)} types, none known to be missing)"


def _listed(nodes: Iterable[ov.Node]) -> str:
    """Format operators by type, with their number and an example name."""
    nodes = list(nodes)
    counts = Counter(node.get_type_name() for node in nodes)
    names = {node.get_type_name(): node.get_friendly_name() for node in reversed(nodes)}
    shown = [
        f"{count} {kind} ('{names[kind]}'{', ...' if count > 1 else ''})"
        for kind, count in counts.most_common(_NAMED_OPERATORS)
    ]
    return ", ".join(shown) + (" and others" if len(counts) > _NAMED_OPERATORS else "")


def _precision(name: DeviceName) -> Iterator[str | Finding]:
    if "f32" in name.profile.precisions:
        yield "precision (f32 can be requested)"
        return
    default = name.profile.default_precision or "its default precision"
    yield _warning(
        "precision",
        f"{name.text} cannot run in f32 and uses {default}: drift of the network flips decisions, and only the device "
        "shows if the post-processing stays in float32. Calibrate and verify on the device itself.",
    )


def _island(artifact: OpenVINOModel) -> Iterator[str | Finding]:
    provenance = artifact.provenance
    nodes = island_nodes(artifact.network, provenance)
    floating = [node for node in nodes if any(is_floating(kind) for kind in _types(node))]
    unmarked = [node for node in floating if not is_marked(node)]
    if unmarked:
        yield _warning(
            "marks",
            f"{_listed(unmarked)} of the post-processing lack the mark that keeps them in float32: decisions could "
            "flip. Convert the fused model again.",
        )
    else:
        yield f"float32 marks (on all {len(floating)} nodes of the post-processing)"
    constants = [node for node in floating if node.get_type_name() == "Constant"]
    narrow = [node for node in constants if _types(node) != ["f32"]]
    if narrow:
        yield _warning(
            "constants",
            f"{_listed(narrow)} of the post-processing are {', '.join(sorted({_types(node)[0] for node in narrow}))}, "
            "expected f32: decisions could flip. Convert the fused model again.",
        )
    else:
        yield f"constants (all {len(constants)} in f32)"


def _types(node: ov.Node) -> list[str]:
    ports = [*node.outputs(), *node.input_values()]
    return [str(port.get_element_type().get_type_name()) for port in ports]


def _states(model: ov.Model, name: DeviceName) -> Iterator[str | Finding]:
    states = [node for node in model.get_ordered_ops() if node.get_type_name() == "ReadValue"]
    if not states:
        return
    if name.profile.states:
        yield f"states ({len(states)})"
    else:
        yield _warning(
            "states",
            f"The model has {len(states)} states, which {name.text} ignores: a batch of requests does not use the "
            "states set on one request. Fuse the model with fixed thresholds, or use another device.",
        )


def _queried(model: ov.Model, name: DeviceName) -> Iterator[str | Finding]:
    members = name.members or (() if name.kind.meta else (name,))
    supported: set[str] = set()
    for member in members:
        try:
            supported |= set(openvino_core().query_model(model, member.text))
        except RuntimeError as error:
            yield _warning("operators", f"OpenVINO cannot query {member.text} for operators: {first_line(error)}.")
            return
    unsupported = [node for node in model.get_ordered_ops() if node.get_friendly_name() not in supported]
    if members and unsupported:
        yield _warning("operators", f"{_listed(unsupported)}: according to OpenVINO, {name.text} does not run these.")
    elif members:
        yield f"operators, according to OpenVINO ({name.text} runs all {len(model.get_ops())})"


def _compiled(artifact: OpenVINOModel, name: DeviceName) -> Iterator[str | Finding]:
    asked = "f32" if "f32" in name.profile.precisions else None
    try:
        compiled = compile_for(artifact.network, name.text, asked, {})
        precisions = island_precisions(compiled, artifact.provenance.prefix)
    except (TargetError, RuntimeError) as error:
        message = str(error) if isinstance(error, TargetError) else first_line(error)
        yield Finding("error", "compilation", message)
        return
    narrow = {operator: kind for operator, kind in precisions.items() if is_floating(kind) and kind != "f32"}
    if narrow:
        operator, kind = next(iter(narrow.items()))
        yield _warning(
            "compilation",
            f"{len(narrow)} operators of the post-processing do not run in f32, such as '{operator}' in {kind}: "
            "decisions could flip. Count flips with pp-graph verify.",
        )
    else:
        yield f"compilation (runs in {running_precision(compiled, asked)}, the post-processing in f32)"
