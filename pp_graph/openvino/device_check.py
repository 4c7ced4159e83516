"""Check a converted model for a device, present or absent."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from pp_graph.errors import TargetError
from pp_graph.model import format_shape
from pp_graph.openvino.compiling import compile_for, running_precision
from pp_graph.openvino.core import first_line, openvino_core, partial_shape, port_name
from pp_graph.openvino.devices import DeviceName, absent_members, device_profile, parse_device
from pp_graph.openvino.island.float32 import is_floating, is_marked, island_precisions
from pp_graph.openvino.island.island import island_nodes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import openvino as ov

    from pp_graph.model import Shape
    from pp_graph.openvino.device_profiles import DeviceProfile
    from pp_graph.openvino.model import OpenVINOModel

_NAMED_OPERATORS: Final = 3


@dataclass(frozen=True)
class Finding:
    """A problem with running a model on a device.

    Attributes:
        level: `error` if the model cannot run there, `warning` if it may fail or behave differently.
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
        here: True if it is on this machine.
        passed: Checks that passed.
        findings: Problems.
        not_run: Checks that were not run, and the commands that run them.
    """

    device: str
    here: bool
    passed: tuple[str, ...]
    findings: tuple[Finding, ...]
    not_run: tuple[str, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that keep the model from running there."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-serialisable values."""
        result: dict[str, Any] = msgspec.to_builtins(self)
        return result


def check_for_device(artifact: OpenVINOModel, device: str) -> DeviceCheck:
    """Check a converted model for a device, which may be absent.

    Always checked: shapes, operator types, inference precisions, the f32 island's marks and types, and states. If the
    device is present, OpenVINO is also asked about every operator, and the model is compiled. Nothing is run.

    Args:
        artifact: The model. It is not changed.
        device: Device, such as `GPU` or `HETERO:GPU,CPU`.

    Raises:
        DeviceError: The device is unknown.
        TargetError: The model was changed after it was converted.
    """
    profile = device_profile(device)
    name = parse_device(device)
    absent = absent_members(device)
    here = not absent
    checks = [
        *_shapes(artifact.network, name, profile),
        *_operators(artifact.network, device, profile),
        *_precision(device, profile),
        *_island(artifact),
        *_states(artifact.network, device, profile),
    ]
    if here:
        checks += [*_queried(artifact.network, name), *_compiled(artifact, device, profile)]
    passed = tuple(each for each in checks if isinstance(each, str))
    findings = tuple(each for each in checks if isinstance(each, Finding))
    where = "" if here else f", where there is {' and '.join(absent)}"
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
        TargetError: The message has the command that fixes the sizes.
    """
    message = _open_sizes(model, device)
    if message is not None:
        raise TargetError(message)


def _open_sizes(model: ov.Model, device: str) -> str | None:
    shapes = {port_name(port): partial_shape(port) for port in model.inputs}
    open_ones = [name for name, shape in shapes.items() if shape is None or None in shape]
    if not open_ones:
        return None
    options, words = [], []
    for name in open_ones:
        sizes = _spelled(shapes[name])
        options.append(f"--input-shape {name + ':' if len(shapes) > 1 else ''}{','.join(sizes)}")
        words += [size for size in sizes if not size.isdecimal() and size not in words]
    filled = f" with your images' sizes in place of {' and '.join(words)}" if words else ""
    shape = format_shape(shapes[open_ones[0]])
    return (
        f"Input '{open_ones[0]}' has the dynamic shape {shape}, expected a static one, batch included: {device} runs "
        f"no other. Convert with {' '.join(options)} (input_shape=...){filled}; the 1 in front is one image a run."
    )


def _spelled(shape: Shape | None) -> list[str]:
    """Return the sizes to give for an input: known ones, one image, and placeholders for the rest."""
    if shape is None:
        return ["SIZES"]
    words = ["SIZE"] * len(shape)
    if len(shape) == 4:
        last = shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)
        words = ["1", "HEIGHT", "WIDTH", "CHANNELS"] if last else ["1", "CHANNELS", "HEIGHT", "WIDTH"]
    elif len(shape) == 3:
        words = ["1", "HEIGHT", "WIDTH"]
    if words:
        words[0] = "1"
    return [word if size is None else str(size) for word, size in zip(words, shape, strict=True)]


def _shapes(model: ov.Model, name: DeviceName, profile: DeviceProfile) -> Iterator[str | Finding]:
    device = name.text
    message = _open_sizes(model, device)
    if not profile.dynamic_shapes:
        if message is not None:
            yield Finding("error", "shapes", message)
            return
        inner = [node for node in model.get_ordered_ops() if any(each.is_dynamic for each in _shapes_of(node))]
        if inner:
            yield Finding(
                "warning",
                "shapes",
                f"{_listed(inner)} have data-dependent sizes, and {device} runs static ones only. Expect that "
                "it does not compile; export the model without them.",
            )
            return
    batches = {shape[0] for shape in map(partial_shape, model.inputs) if shape}
    if profile.dynamic_remark and (message is not None or (profile.groups_requests and batches != {1})):
        yield Finding(
            "warning",
            "shapes",
            f"{profile.dynamic_remark}. Fix the sizes with --input-shape (input_shape=...), the batch as 1.",
        )
        return
    member = name.members[0].profile if name.members else None
    if profile.groups_requests and name.batch is None and member is not None and member.name == "CPU":
        yield Finding(
            "warning", "shapes", f"{device} groups no requests: the CPU names no best batch. Write BATCH:CPU(4)."
        )
        return
    yield f"sizes ({'fixed' if message is None else 'open, which it takes'})"


def _shapes_of(node: ov.Node) -> list[ov.PartialShape]:
    return [output.get_partial_shape() for output in node.outputs()]


def _operators(model: ov.Model, device: str, profile: DeviceProfile) -> Iterator[str | Finding]:
    nodes = list(_with_bodies(model))
    lacking = [node for node in nodes if node.get_type_name() in profile.unsupported]
    on_host = [node for node in nodes if node.get_type_name() in profile.on_host]
    if lacking:
        yield Finding(
            "warning",
            "operators",
            f"{_listed(lacking)}: {device} is not known to have these operators. Expect that it does not compile; "
            "HETERO:...,CPU runs them on the CPU.",
        )
    if on_host:
        yield Finding("warning", "operators", f"{_listed(on_host)}: {device} may run these on the host's CPU, slowly.")
    if not lacking and not on_host:
        kinds = {node.get_type_name() for node in nodes}
        yield f"operators ({len(kinds)} types, none known to be missing)"


def _with_bodies(model: ov.Model) -> Iterator[ov.Node]:
    """All operators, those in branches and loops included."""
    for node in model.get_ordered_ops():
        yield node
        bodies = ("get_then_body", "get_else_body") if node.get_type_name() == "If" else ("get_function",)
        for get in bodies:
            if hasattr(node, get):
                yield from _with_bodies(getattr(node, get)())


def _listed(nodes: Iterable[ov.Node]) -> str:
    """Types and how often, with a name of each."""
    nodes = list(nodes)
    counts = Counter(node.get_type_name() for node in nodes)
    names = {node.get_type_name(): node.get_friendly_name() for node in reversed(nodes)}
    shown = [
        f"{count} {kind} ('{names[kind]}'{', ...' if count > 1 else ''})"
        for kind, count in counts.most_common(_NAMED_OPERATORS)
    ]
    return ", ".join(shown) + (" and others" if len(counts) > _NAMED_OPERATORS else "")


def _precision(device: str, profile: DeviceProfile) -> Iterator[str | Finding]:
    if "f32" in profile.precisions:
        yield "precision (f32 can be asked for)"
        return
    runs = profile.default_precision or "a precision of its own"
    yield Finding(
        "warning",
        "precision",
        f"{device} cannot be asked for f32 and runs in {runs}: drift of the network flips decisions there, and whether "
        "the post-processing stays in float32 shows only on it. Calibrate and verify on the device itself.",
    )


def _island(artifact: OpenVINOModel) -> Iterator[str | Finding]:
    provenance = artifact.provenance
    nodes = island_nodes(artifact.network, provenance)
    floating = [node for node in nodes if any(is_floating(kind) for kind in _types(node))]
    bare = [node for node in floating if not is_marked(node)]
    if bare:
        yield Finding(
            "warning",
            "marks",
            f"{_listed(bare)} of the post-processing lack the mark that keeps them in float32, and decisions could "
            "flip. Convert the fused model again.",
        )
    else:
        yield f"float32 marks (on all {len(floating)} nodes of the post-processing)"
    constants = [node for node in floating if node.get_type_name() == "Constant"]
    narrow = [node for node in constants if _types(node) != ["f32"]]
    if narrow:
        yield Finding(
            "warning",
            "constants",
            f"{_listed(narrow)} of the post-processing are {', '.join(sorted({_types(node)[0] for node in narrow}))}, "
            "expected f32, and decisions could flip. Convert the fused model again.",
        )
    else:
        yield f"constants (all {len(constants)} in f32)"


def _types(node: ov.Node) -> list[str]:
    ports = [*node.outputs(), *node.input_values()]
    return [str(port.get_element_type().get_type_name()) for port in ports]


def _states(model: ov.Model, device: str, profile: DeviceProfile) -> Iterator[str | Finding]:
    states = [node for node in model.get_ordered_ops() if node.get_type_name() == "ReadValue"]
    if not states:
        return
    if profile.states:
        yield f"states ({len(states)})"
    else:
        yield Finding(
            "warning",
            "states",
            f"The model has {len(states)} states, and what is set on a request of {device} is not what a batch of "
            "requests computes with. Leave values that change at run time out of the model, or take another device.",
        )


def _queried(model: ov.Model, name: DeviceName) -> Iterator[str | Finding]:
    members = name.members or (() if name.profile.meta else (name,))
    found: set[str] = set()
    for member in members:
        try:
            found |= set(openvino_core().query_model(model, member.text))
        except RuntimeError as error:
            yield Finding("warning", "operators", f"OpenVINO cannot say what {member.text} runs: {first_line(error)}.")
            return
    lacking = [node for node in model.get_ordered_ops() if node.get_friendly_name() not in found]
    if members and lacking:
        yield Finding("warning", "operators", f"{_listed(lacking)}: OpenVINO says that {name.text} does not run these.")
    elif members:
        yield f"operators asked of OpenVINO (it runs all {len(model.get_ops())})"


def _compiled(artifact: OpenVINOModel, device: str, profile: DeviceProfile) -> Iterator[str | Finding]:
    asked = "f32" if "f32" in profile.precisions else None
    try:
        compiled = compile_for(artifact.network, device, asked, {})
        precisions = island_precisions(compiled, artifact.provenance.prefix)
    except (TargetError, RuntimeError) as error:
        message = str(error) if isinstance(error, TargetError) else first_line(error)
        yield Finding("error", "compilation", message)
        return
    narrow = {name: kind for name, kind in precisions.items() if is_floating(kind) and kind != "f32"}
    if narrow:
        name, kind = next(iter(narrow.items()))
        yield Finding(
            "warning",
            "compilation",
            f"{len(narrow)} operators of the post-processing do not run in f32, '{name}' in {kind}: decisions could "
            "flip. pp-graph verify counts them.",
        )
    else:
        yield f"compilation (runs in {running_precision(compiled, asked)}, the post-processing in f32)"
