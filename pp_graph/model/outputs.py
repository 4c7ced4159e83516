"""Which output is the score and which is the map: by shape and rank first, by name second."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from pp_graph.errors import OutputRoleError
from pp_graph.model.shapes import (
    Shape,
    classes_of,
    declared_shape,
    format_shape,
    infer_values,
    reconcile,
    symbols_of,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import onnx_ir as ir

    from pp_graph.model.raw_model import RawModel


class Role(Enum):
    """What an output of a raw model means."""

    SCORE = "score"
    """One number an image: (N,) or (N,1)."""
    MAP = "map"
    """One number a pixel: (N,H,W), (N,1,H,W) or (N,H,W,1)."""


_FLAG = {Role.SCORE: "score_output", Role.MAP: "map_output"}
_EXPECTED = {
    Role.SCORE: "rank 1 (N,) or 2 (N,1)",
    Role.MAP: "rank 3 (N,H,W) or 4 (N,1,H,W) or (N,H,W,1)",
}
# Names by which exporters in this field call the two, tried only where shapes leave a choice.
_KNOWN_NAMES = {
    Role.SCORE: frozenset(
        {"pred_score", "pred_scores", "anomaly_score", "anomaly_scores", "image_score", "score", "scores"}
    ),
    Role.MAP: frozenset({"anomaly_map", "anomaly_maps", "heatmap", "heat_map", "score_map", "pred_map", "map", "maps"}),
}
_FLOATING = frozenset({"FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"})


@dataclass(frozen=True)
class OutputInfo:
    """An output of a raw model, and what it can be read as.

    Attributes:
        name: Name in the graph.
        dtype: ONNX name of the element type, such as `FLOAT`; `SEQUENCE` or `OPTIONAL` for what is no
            tensor; None where unknown.
        shape: The shape to trust; None where even the rank is unknown.
        proven: The same without names of sizes that are only declared: some exporters give one name to
            sizes that differ, and runtimes reuse memory by these names.
        note: A contradiction between the declared and the computed shape, None where there is none.
        readings: Roles that rank and sizes allow.
        certain: The reading does not rest on a size that the file leaves open.
        role: The role it was given, None for an output that is passed through untouched.
        why: The reason for the role, or for having none.
    """

    name: str
    dtype: str | None
    shape: Shape | None
    proven: Shape | None
    note: str | None
    readings: frozenset[Role]
    certain: bool
    role: Role | None
    why: str

    @property
    def classes(self) -> int | None:
        """Size of the axis of classes, 1 where it has none; None where it is not known."""
        return classes_of(self.shape)


@dataclass(frozen=True)
class RawOutputs:
    """The outputs that post-processing reads.

    Attributes:
        score: The raw score, None where the model has none.
        map: The raw anomaly map, None where the model has none.
    """

    score: OutputInfo | None
    map: OutputInfo | None


def _read_score(shape: Shape, classes: bool) -> tuple[bool, bool, str]:
    if classes and len(shape) == 2:
        return True, True, "rank 2, one number an image and class, (N,C)"
    if len(shape) == 1:
        return True, True, "rank 1, one number an image"
    if len(shape) == 2 and shape[1] == 1:
        return True, True, "shape (N,1), one number an image"
    if len(shape) == 2 and not isinstance(shape[1], int):
        return True, False, "rank 2; its second size is open and taken as 1"
    return False, False, ""


def _read_map(shape: Shape, classes: bool) -> tuple[bool, bool, str]:
    if classes and len(shape) == 4 and shape[1:].count(1) < 3:
        return True, True, "rank 4, one number a pixel and class, (N,C,H,W)"
    if len(shape) == 3 and 1 not in shape[1:]:
        return True, True, "rank 3, (N,H,W)"
    if len(shape) != 4 or shape[1:].count(1) == 3:
        return False, False, ""
    if shape[1] == 1:
        return True, True, "one channel, (N,1,H,W)"
    if shape[3] == 1:
        return True, True, "one channel last, (N,H,W,1)"
    if not isinstance(shape[1], int):
        return True, False, "rank 4; its channel count is open and taken as 1"
    return False, False, ""


_READERS = {Role.SCORE: _read_score, Role.MAP: _read_map}


def _dtype(output: ir.Value) -> str | None:
    import onnx_ir as ir

    if output.type is None or isinstance(output.type, ir.TensorType):
        return None if output.dtype is None else output.dtype.name
    return type(output.type).__name__.removesuffix("Type").upper()


def _proven(shape: Shape, inferred: Shape | None, input_symbols: Collection[str]) -> Shape:
    found = inferred if inferred is not None and len(inferred) == len(shape) else (None,) * len(shape)
    return tuple(
        finds if finds in input_symbols else (says if isinstance(says, int) else None)
        for says, finds in zip(shape, found, strict=True)
    )


def _other_batch(shape: Shape, input_shape: Shape | None) -> bool:
    """Whether the first size cannot be the batch, as in a class vector (1000,) without one."""
    if input_shape is None or not input_shape or not shape or not isinstance(shape[0], int):
        return False
    return shape[0] != input_shape[0] and (isinstance(input_shape[0], int) or shape[0] != 1)


def describe_outputs(raw: RawModel, *, classes: bool = False) -> tuple[OutputInfo, ...]:
    """Describe every output of a model with the readings its shape allows; roles are not chosen yet.

    Args:
        raw: The opened model.
        classes: Whether scores (N,C) and maps (N,C,H,W), with one number a class, are taken.

    Returns:
        One description an output, in the order of the graph.
    """
    outputs = raw.model.graph.outputs
    inferred = infer_values(raw.model)
    input_shapes = [model_input.shape for model_input in raw.inputs]
    symbols = symbols_of(input_shapes)
    described = []
    for output in outputs:
        name = output.name or ""
        found = declared_shape(inferred[name]) if name in inferred else None
        shape, note = reconcile(declared_shape(output), found, symbols)
        dtype = _dtype(output)
        readings: set[Role] = set()
        certain = False
        proven = None if shape is None else _proven(shape, found, symbols)
        if dtype is not None and dtype not in _FLOATING:
            why = f"holds {dtype}, expected floating-point numbers"
        elif shape is None:
            why = "its rank is unknown"
        elif input_shapes and all(_other_batch(shape, input_shape) for input_shape in input_shapes):
            why = f"its first size is {shape[0]}, which is not the batch of the input"
        else:
            why = f"shape {format_shape(shape)} is neither one number an image nor a one-channel map"
            for role, reader in _READERS.items():
                fits, sure, reason = reader(shape, classes)
                if fits:
                    readings.add(role)
                    certain, why = sure, reason
        described.append(OutputInfo(name, dtype, shape, proven, note, frozenset(readings), certain, None, why))
    return tuple(described)


def find_outputs(
    raw: RawModel, *, score_output: str | None = None, map_output: str | None = None, classes: bool = False
) -> RawOutputs:
    """Find the outputs that hold the raw score and the raw map.

    Args:
        raw: The opened model.
        score_output: Name of the score, where the caller knows it.
        map_output: Name of the map, where the caller knows it.
        classes: Whether scores (N,C) and maps (N,C,H,W), with one number a class, are taken.

    Returns:
        The score, the map, or both.

    Raises:
        OutputRoleError: A named output does not exist or cannot be what it is named as; no output
            can be read as either; or more than one reading is possible, in which case the message
            lists the candidates.
    """
    return choose_outputs(describe_outputs(raw, classes=classes), score_output=score_output, map_output=map_output)


def choose_outputs(
    outputs: Sequence[OutputInfo], *, score_output: str | None = None, map_output: str | None = None
) -> RawOutputs:
    """Choose among outputs that are described already; see `find_outputs`."""
    if score_output is not None and score_output == map_output:
        raise OutputRoleError(
            f"Output '{score_output}' is named both as the score and as the map, expected two different outputs. "
            "Leave out one of the two; a score that is missing is taken from the map."
        )
    named = {Role.SCORE: score_output, Role.MAP: map_output}
    chosen: dict[Role, OutputInfo | None] = {}
    for role, name in named.items():
        if name is not None:
            chosen[role] = _take_named(outputs, role, name)
    taken = {info.name for info in chosen.values() if info is not None}
    for role, name in named.items():
        if name is None:
            chosen[role] = _choose([info for info in outputs if info.name not in taken], role)
    if chosen[Role.SCORE] is None and chosen[Role.MAP] is None:
        listing = "\n".join(f"  '{info.name}' {format_shape(info.shape)}: {info.why}" for info in outputs)
        raise OutputRoleError(
            "No output can be read as a score, (N,) or (N,1), or as a map, (N,H,W), (N,1,H,W) or (N,H,W,1). "
            f"The outputs are:\n{listing}\nExport the raw score or map, or name one with score_output=... or "
            "map_output=... (--score-output, --map-output)."
        )
    return RawOutputs(score=chosen[Role.SCORE], map=chosen[Role.MAP])


def _take_named(outputs: Sequence[OutputInfo], role: Role, name: str) -> OutputInfo:
    flag = _FLAG[role]
    by_name = {info.name: info for info in outputs}
    if name not in by_name:
        close = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)
        raise OutputRoleError(
            f"Output '{name}' given as {flag} does not exist. The outputs are: "
            f"{', '.join(map(repr, by_name))}. Did you mean {close[0]!r}?"
        )
    info = by_name[name]
    if info.dtype is not None and info.dtype not in _FLOATING:
        raise OutputRoleError(
            f"Output '{name}' holds {info.dtype}, expected floating-point numbers for a {role.value}. "
            f"Name another output with {flag}=..."
        )
    if info.shape is not None and role not in info.readings:
        fits, _, _ = _READERS[role](info.shape, False)
        if not fits:
            raise OutputRoleError(
                f"Output '{name}' has rank {len(info.shape)} and shape {format_shape(info.shape)}, expected "
                f"{_EXPECTED[role]}. Name the {role.value} with {flag}=..."
            )
    return replace(info, role=role, why=f"named by {flag}")


def _choose(outputs: Sequence[OutputInfo], role: Role) -> OutputInfo | None:
    fitting = [info for info in outputs if role in info.readings]
    candidates = [info for info in fitting if info.certain] or fitting
    if not candidates:
        return None
    if len(candidates) == 1:
        return replace(candidates[0], role=role)
    known = [info for info in candidates if _bare_name(info.name) in _KNOWN_NAMES[role]]
    if len(known) == 1:
        return replace(known[0], role=role, why=f"{known[0].why}; chosen among {len(candidates)} by its name")
    flag = _FLAG[role]
    listing = "\n".join(f"  '{info.name}' {format_shape(info.shape)}: {info.why}" for info in candidates)
    raise OutputRoleError(
        f"{len(candidates)} outputs can be read as the {role.value}:\n{listing}\n"
        f"Choose one with {flag}=... (--{flag.replace('_', '-')})."
    )


def _bare_name(name: str) -> str:
    """`model/anomaly_map:0` -> `anomaly_map`."""
    return name.rsplit("/", 1)[-1].split(":", 1)[0].lower()
