"""Roles: which outputs of a raw model a post-processor reads. Axes and sizes decide first, names second."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import OutputRoleError
from pp_graph.model import format_shape
from pp_graph.values import AXES, ValueType, valid_axes
from pp_graph.values.value_type import axes_of_shape, pattern

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.model import OutputInfo, Shape
    from pp_graph.values import DType

_ONNX_TYPES: Final[dict[str, frozenset[str]]] = {
    "float32": frozenset({"FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"}),
    "bool": frozenset({"BOOL"}),
    "uint8": frozenset({"UINT8"}),
    "int32": frozenset({"INT32"}),
    "int64": frozenset({"INT64", "INT32"}),
}
_NAMES: Final = {
    "float32": "floating-point numbers",
    "bool": "BOOL",
    "uint8": "UINT8",
    "int64": "INT64",
    "int32": "INT32",
}


@dataclass(frozen=True)
class Role:
    """An output of a raw model that a post-processor reads.

    Attributes:
        name: Name under which the steps read it, such as `raw_score`.
        axes: Possible axes, the most common first, such as `("NC", "N")`.
        sizes: Fixed sizes by axis, such as `{"C": 1}` for one channel.
        dtype: Element type in which the steps read it; `float32` accepts any floating-point output.
        required: Raise if the raw model lacks it.
        names: Names that exporters give such outputs, lower case and without folders. They decide if several outputs
            have fitting axes and sizes.
        noun: Noun for messages, such as `score`.
        meaning: What one number describes, such as `one number per image`.
        option: Short option that names the output, such as `score_output`; None if only `roles` does.
        varying: Axes whose sizes differ between runs, whatever the file declares: exporters declare as many detections
            as there were in the image that they traced.
    """

    name: str
    axes: tuple[str, ...]
    sizes: Mapping[str, int] = field(default_factory=dict, hash=False)
    dtype: DType = "float32"
    required: bool = False
    names: frozenset[str] = frozenset()
    noun: str = ""
    meaning: str = ""
    option: str | None = None
    varying: str = ""

    def __post_init__(self) -> None:
        """Accept a single string as axes, and check them.

        Raises:
            OutputRoleError: No axes are given, or one is unknown.
        """
        given: Any = self.axes
        axes = (given,) if isinstance(given, str) else tuple(given)
        object.__setattr__(self, "axes", axes)
        for choice in axes:
            if not choice or not valid_axes(choice):
                raise OutputRoleError(
                    f"Role '{self.name}' has the axes {choice!r}, expected some of {', '.join(AXES)}, each once, such "
                    "as NCHW."
                )
        if not axes:
            raise OutputRoleError(f"Role '{self.name}' has no axes, expected some, such as ('NCHW',).")

    @property
    def called(self) -> str:
        """Name for messages."""
        return self.noun or f"role '{self.name}'"

    @property
    def expected(self) -> str:
        """Possible shapes with their ranks, for messages: `rank 1 (N,) or 2 (N,1)`."""
        return " or ".join(f"rank {len(axes)} {self.pattern(axes)}" for axes in sorted(self.axes, key=len))

    @property
    def patterns(self) -> str:
        """Possible shapes, for messages: `(N,) or (N,1)`."""
        listed = [self.pattern(axes) for axes in sorted(self.axes, key=len)]
        return " or ".join([", ".join(listed[:-1]), listed[-1]] if len(listed) > 1 else listed)

    @property
    def flag(self) -> str:
        """Python argument that names the output."""
        return f"{self.option}=..." if self.option else f"roles={{'{self.name}': ...}}"

    @property
    def flags(self) -> str:
        """Python argument and command-line flag that name the output."""
        return f"{self.flag} ({self.line_flag})"

    @property
    def line_flag(self) -> str:
        """Command-line flag that names the output."""
        return f"--{self.option.replace('_', '-')}" if self.option else f"--role {self.name}=NAME"

    def pattern(self, axes: str) -> str:
        """Format axes with the fixed sizes: `(N,1,H,W)`."""
        return pattern(axes, [self.sizes.get(axis) for axis in axes])

    def example(self) -> ValueType:
        """Return the type of such an output in a typical raw model."""
        axes = self.axes[0]
        return ValueType(axes, tuple(self.sizes.get(axis) for axis in axes), self.dtype)

    def takes(self, dtype: str | None) -> bool:
        """Return True if the role accepts an ONNX element type; an unknown type (None) is accepted."""
        return dtype is None or dtype in _ONNX_TYPES[self.dtype]

    def read(self, shape: Shape) -> tuple[ValueType, bool, str] | None:
        """Interpret a shape as this role.

        Returns:
            The type, True if it does not depend on an open size, and the reason; None if the shape does not fit.
        """
        open_reading = None
        for axes in self._in_order(shape):
            sizes = dict(zip(axes, shape, strict=True))
            given = {axis: sizes[axis] for axis in self.sizes if axis in sizes}
            if any(isinstance(size, int) and size != self.sizes[axis] for axis, size in given.items()):
                continue
            if not self._wants_pixel and not _can_be_map(axes, shape):
                continue
            opened = f"N{self.varying}"
            known = tuple(
                size if isinstance(size, int) and axis not in opened else None for axis, size in sizes.items()
            )
            value = ValueType(axes, known, self.dtype)
            missing = [axis for axis, size in given.items() if not isinstance(size, int)]
            nothing_known = "H" in axes and not given and all(sizes[axis] is None for axis in axes if axis != "N")
            if nothing_known:
                # Only the rank is known, and a recurrent state may have the same one.
                open_reading = open_reading or (value, False, f"rank {len(axes)}, and all of its sizes are open")
                continue
            if not missing:
                return value, True, ", ".join(filter(None, [f"rank {len(axes)}", self.meaning, self.pattern(axes)]))
            if open_reading is None:
                places = ", ".join(f"size {axes.index(axis) + 1}" for axis in missing)
                taken = " and ".join(str(self.sizes[axis]) for axis in missing)
                open_reading = value, False, f"rank {len(axes)}; {places} is open and taken as {taken}"
        return open_reading

    @property
    def _wants_pixel(self) -> bool:
        """True if height and width are 1, as in (N,1,1,C)."""
        return self.sizes.get("H") == self.sizes.get("W") == 1

    def _in_order(self, shape: Shape) -> list[str]:
        fitting = [axes for axes in self.axes if len(axes) == len(shape)]
        if "C" in self.sizes or len(fitting) < 2:
            return fitting
        likely = axes_of_shape(shape, fitting)
        return sorted(fitting, key=lambda axes: axes != likely)


def _can_be_map(axes: str, shape: Shape) -> bool:
    """Return False for a map of one pixel, which is a score rather than a map."""
    if "H" not in axes or "W" not in axes:
        return True
    if "C" not in axes:
        return 1 not in (shape[axes.index("H")], shape[axes.index("W")])
    return shape[1:].count(1) < len(shape) - 1


@dataclass(frozen=True)
class RoleMatch:
    """An output of a raw model, matched to a role.

    Attributes:
        role: The role.
        output: The output.
        type: Type of the value that the steps read.
        certain: False if the match depends on a size that the file leaves open.
        why: Reason for the match, for messages.
    """

    role: Role
    output: OutputInfo
    type: ValueType
    certain: bool
    why: str

    @property
    def shape(self) -> Shape | None:
        """The trusted shape, without sizes that vary."""
        return self._opened(self.output.shape)

    @property
    def proven(self) -> Shape | None:
        """The same without symbolic names that are only declared; see `OutputInfo`."""
        return self._opened(self.output.proven)

    def _opened(self, shape: Shape | None) -> Shape | None:
        if shape is None or len(shape) != len(self.type.axes):
            return shape
        return tuple(
            None if axis in self.role.varying else size for axis, size in zip(self.type.axes, shape, strict=True)
        )

    @property
    def note(self) -> str | None:
        """Remark about an uncertain match; None if it is certain."""
        if self.certain:
            return None
        name, shape = self.output.name, format_shape(self.output.shape)
        return f"Output '{name}' {shape} is taken for the {self.role.called}: {self.why}."


def find_roles(
    outputs: Sequence[OutputInfo], roles: Sequence[Role], named: Mapping[str, str] | None = None
) -> dict[str, RoleMatch]:
    """Find the outputs that a post-processor reads.

    Args:
        outputs: The outputs of the raw model.
        roles: The roles that the post-processor declares.
        named: Output names by role, as far as the caller knows them.

    Returns:
        Matches by role name, in the order of the roles.

    Raises:
        OutputRoleError: A named output does not exist or does not fit its role; no output fits any role; a required
            one is missing; or several matches are possible, which the message then lists.
    """
    named = dict(named or {})
    by_name = {role.name: role for role in roles}
    unknown = next((name for name in named if name not in by_name), None)
    if unknown is not None:
        raise OutputRoleError(
            f"Role '{unknown}' is not known, expected one of: {', '.join(by_name)}. Name one of these, or leave it out."
        )
    chosen: dict[str, RoleMatch] = {}
    for name, output in named.items():
        first = next((other for other, match in chosen.items() if match.output.name == output), None)
        if first is not None:
            raise OutputRoleError(
                f"Output '{output}' is named both as the {by_name[first].called} and as the {by_name[name].called}, "
                "expected two different outputs. Name another output for one role."
            )
        chosen[name] = _take_named(outputs, by_name[name], output)
    left = [role for role in roles if role.name not in chosen]
    while left:
        taken = {match.output.name for match in chosen.values()}
        free = [info for info in outputs if info.name not in taken]
        # Start with the role that has the fewest candidates: its output is then no candidate for the others.
        role = min(left, key=lambda role: len(_candidates(free, role)))
        left.remove(role)
        match = _choose(free, role)
        if match is not None:
            chosen[role.name] = match
    _check_found(outputs, roles, chosen)
    for match in chosen.values():
        _check_one_reading(match)
    return {role.name: chosen[role.name] for role in roles if role.name in chosen}


def _check_one_reading(match: RoleMatch) -> None:
    """Raise if other axes of the role fit the output as well. Channels first or last is decided elsewhere."""
    shape = match.output.shape
    if shape is None or set("CHW") <= set(match.type.axes):
        return
    fitting = [axes for axes in match.role.axes if len(axes) == len(shape)]
    read = {axes: dataclasses.replace(match.role, axes=(axes,)).read(shape) for axes in fitting}
    certain = [axes for axes, reading in read.items() if reading is not None and reading[1]]
    if len(certain) > 1:
        listing = " or ".join(match.role.pattern(axes) for axes in certain)
        raise OutputRoleError(
            f"Output '{match.output.name}' {format_shape(shape)} can be read as the {match.role.called} in "
            f"{len(certain)} ways, as {listing}, expected one. Declare only one for the role, or the size of an "
            "axis that distinguishes them."
        )


def why_none(info: OutputInfo, roles: Sequence[Role]) -> str:
    """Return the reason why an output fits no role."""
    if all(not role.takes(info.dtype) for role in roles):
        expected = " or ".join(dict.fromkeys(_NAMES[role.dtype] for role in roles))
        return f"holds {info.dtype}, expected {expected}"
    if info.shape is None:
        return "its rank is unknown"
    if info.other_batch:
        return f"its first size is {info.shape[0]}, which is not the batch of the input"
    readings = [reading for role in roles if (reading := role.read(info.shape)) is not None]
    if readings:
        return readings[0][2]
    kinds = " nor ".join(f"{role.meaning or role.called} {role.patterns}" for role in roles)
    return f"shape {format_shape(info.shape)} is {'neither' if len(roles) > 1 else 'not'} {kinds}"


def _readings(outputs: Sequence[OutputInfo], role: Role) -> list[RoleMatch]:
    matches = []
    for info in outputs:
        # Only a role that starts with another axis than the batch reads a value whose first size is not the batch.
        other = info.other_batch and any(axes.startswith("N") for axes in role.axes)
        if info.shape is None or other or not role.takes(info.dtype) or info.dtype is None:
            continue
        reading = role.read(info.shape)
        if reading is not None:
            matches.append(RoleMatch(role, info, *reading))
    return matches


def _candidates(outputs: Sequence[OutputInfo], role: Role) -> list[RoleMatch]:
    """Outputs that fit a role: the only one with a known name, else all with known sizes, else all."""
    fitting = _readings(outputs, role)
    candidates = [match for match in fitting if match.certain] or fitting
    known = [match for match in candidates if _bare_name(match.output.name) in role.names]
    if len(candidates) > 1 and len(known) == 1:
        why = f"{known[0].why}; chosen among {len(candidates)} by its name"
        return [dataclasses.replace(known[0], why=why)]
    return candidates


def _choose(outputs: Sequence[OutputInfo], role: Role) -> RoleMatch | None:
    candidates = _candidates(outputs, role)
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    listing = "\n".join(
        f"  '{match.output.name}' {format_shape(match.output.shape)}: {match.why}" for match in candidates
    )
    raise OutputRoleError(
        f"{len(candidates)} outputs can be read as the {role.called}:\n{listing}\nChoose one with {role.flags}."
    )


def _take_named(outputs: Sequence[OutputInfo], role: Role, name: str) -> RoleMatch:
    by_name = {info.name: info for info in outputs}
    if name not in by_name:
        close = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)
        raise OutputRoleError(
            f"Output '{name}' given as {role.option or role.name} does not exist. The outputs are: "
            f"{', '.join(map(repr, by_name))}. Did you mean {close[0]!r}?"
        )
    info = by_name[name]
    if not role.takes(info.dtype):
        raise OutputRoleError(
            f"Output '{name}' holds {info.dtype}, expected {_NAMES[role.dtype]} for a {role.called}. "
            f"Name another output with {role.flag}."
        )
    why = f"named by {role.option or 'roles'}"
    if info.shape is None:
        usual = role.example()
        return RoleMatch(role, info, ValueType(usual.axes, usual.sizes, role.dtype, rank_known=False), True, why)
    reading = role.read(info.shape)
    if reading is None:
        raise OutputRoleError(
            f"Output '{name}' has rank {len(info.shape)} and shape {format_shape(info.shape)}, expected "
            f"{role.expected}. Name the {role.called} with {role.flag}."
        )
    return RoleMatch(role, info, reading[0], True, why)


def _check_found(outputs: Sequence[OutputInfo], roles: Sequence[Role], chosen: Mapping[str, RoleMatch]) -> None:
    taken = {match.output.name: f"read as the {match.role.called}" for match in chosen.values()}
    reasons = {info.name: taken.get(info.name) or why_none(info, roles) for info in outputs}
    listing = "\n".join(f"  '{info.name}' {format_shape(info.shape)}: {reasons[info.name]}" for info in outputs)
    missing = [role for role in roles if role.required and role.name not in chosen]
    if missing or not chosen:
        wanted = missing or roles
        kinds = ", or as a ".join(f"{role.called}, {role.patterns}" for role in wanted)
        flags = " or ".join(role.flag for role in wanted)
        lines = ", ".join(role.line_flag for role in wanted)
        raise OutputRoleError(
            f"No output can be read as a {kinds}. The outputs are:\n{listing}\nExport what the post-processing reads, "
            f"or name it with {flags} ({lines})."
        )
    batches = [
        (match, match.output.shape[0])
        for match in chosen.values()
        if match.output.shape and match.type.axes[:1] == "N" and isinstance(match.output.shape[0], int)
    ]
    for (one, first), (other, second) in itertools.pairwise(batches):
        if first != second:
            raise OutputRoleError(
                f"The {one.role.called} '{one.output.name}' holds {first} images and the {other.role.called} "
                f"'{other.output.name}' {second}, expected the same batch. Name the right outputs with "
                f"{one.role.flag} and {other.role.flag}."
            )


def _bare_name(name: str) -> str:
    """`model/anomaly_map:0` -> `anomaly_map`."""
    return name.rsplit("/", 1)[-1].split(":", 1)[0].lower()
