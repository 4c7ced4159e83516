"""`Signature`: the raw values that a post-processor reads, with their types."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pp_graph.model import describe_outputs
from pp_graph.model.image_size import image_size
from pp_graph.model.outputs import last_activation
from pp_graph.program.roles import Role, RoleMatch, find_roles
from pp_graph.values import ValueType, axes_of_shape

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from pp_graph.model import RawModel
    from pp_graph.steps import Array


_NARROW: Final = ("FLOAT16", "BFLOAT16")


@dataclass(frozen=True)
class Signature(Mapping[str, ValueType]):
    """Types of the raw values, by role name.

    Attributes:
        types: The types.
        input_size: Height and width of the model's images; None if unknown.
        matches: Outputs of the raw model, by role; empty if the signature was made without a model.
        outputs: Names of these outputs, by role, for messages; empty if unknown.
        narrow: Element type of raw values that the model returns in less than float32, by role: `float16` or
            `bfloat16`.
        activations: `softmax` or `sigmoid`, by role, for raw values that are probabilities, as the raw model ends in
            this function; empty if the signature was made without a model.
        replaced: Outputs of the raw model that are not read, because inner values are read instead.
    """

    types: Mapping[str, ValueType]
    input_size: tuple[int, int] | None = None
    matches: Mapping[str, RoleMatch] = field(default_factory=dict, compare=False, repr=False)
    outputs: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    narrow: Mapping[str, str] = field(default_factory=dict, repr=False)
    activations: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    replaced: tuple[RoleMatch, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def of_model(
        cls,
        raw: RawModel,
        roles: Sequence[Role],
        named: Mapping[str, str] | None = None,
        *,
        inner: Collection[str] = (),
        replaced: Sequence[RoleMatch] = (),
    ) -> Signature:
        """Match the outputs of a raw model to roles; see `find_roles` for further arguments and errors.

        Args:
            raw: The raw model.
            roles: Roles to find.
            named: Output names by role, as far as they are known.
            inner: Names of inner values that roles may take.
            replaced: Outputs that no role takes, because inner values are read instead.
        """
        unread = {match.output.name for match in replaced}
        infos = [info for info in describe_outputs(raw, inner) if info.name not in unread]
        matches = find_roles(infos, roles, named)
        size = image_size(raw)
        outputs = {role: match.output.name for role, match in matches.items()}
        narrow = {role: match.output.dtype.lower() for role, match in matches.items() if match.output.dtype in _NARROW}
        ends = {role: last_activation(raw, match.output.name) for role, match in matches.items()}
        activations = {role: name for role, name in ends.items() if name is not None}
        types = {role: match.type for role, match in matches.items()}
        return cls(types, size, matches, outputs, narrow, activations, tuple(replaced))

    @classmethod
    def of_values(
        cls,
        values: Mapping[str, Array],
        roles: Sequence[Role],
        *,
        input_size: tuple[int, int] | None = None,
    ) -> Signature:
        """Return the signature of a batch of arrays, by role."""
        shapes = {role: tuple(array.shape) for role, array in values.items()}
        return cls.of_shapes(shapes, roles, input_size=input_size)

    @classmethod
    def of_shapes(
        cls,
        shapes: Mapping[str, Sequence[int | None]],
        roles: Sequence[Role],
        *,
        input_size: tuple[int, int] | None = None,
    ) -> Signature:
        """Return the signature of values with these shapes, by role; None is an open size."""
        known = {role.name: role for role in roles}
        types = {}
        for name, shape in shapes.items():
            role = known[name]
            reading = role.read(tuple(shape))
            axes = axes_of_shape(shape, role.axes) if reading is None else reading[0].axes
            if axes is None:
                axes = role.axes[0]
                types[name] = ValueType(axes, dtype=role.dtype, rank_known=False)
                continue
            sizes = tuple(None if axis == "N" else size for axis, size in zip(axes, shape, strict=True))
            types[name] = ValueType(axes, sizes, role.dtype)
        return cls(types, input_size)

    @property
    def of_one_image(self) -> bool:
        """True if the values of several images cannot be joined: one has no axis of images, or lists of open length."""
        known = [value for value in self.types.values() if value.rank_known]
        lists = [value for value in known if "K" in value.axes and value.dtype != "float32"]
        return any("N" not in value.axes for value in known) or any(value.size("K") is None for value in lists)

    def limited(self, roles: Collection[str]) -> Signature:
        """Return the signature restricted to some roles."""
        return dataclasses.replace(self, types={role: value for role, value in self.types.items() if role in roles})

    def matched_to(
        self, raw: RawModel, roles: Sequence[Role], named: Mapping[str, str], dropped: Mapping[str, ValueType]
    ) -> Signature:
        """Return the signature with `matches` found in a raw model.

        Args:
            raw: The raw model.
            roles: Roles to find.
            named: Names of outputs or inner values by role, as far as they are known.
            dropped: Types of further outputs to consider, by name. If inner values are read, they replace these.
        """
        among = {*named.values(), *dropped}
        infos = {info.name: info for info in describe_outputs(raw, among) if info.name in among}
        inner = not {*named.values()} <= {output.name for output in raw.model.graph.outputs}
        replaced = [
            RoleMatch(Role(name, (value.axes,), noun="output"), infos.pop(name), value, certain=True, why="")
            for name, value in (dropped.items() if inner else ())
        ]
        matches = find_roles(list(infos.values()), roles, named)
        return dataclasses.replace(self, matches=matches, replaced=tuple(replaced))

    def __getitem__(self, role: str) -> ValueType:
        """Return the type of the value in a role."""
        return self.types[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self.types)

    def __len__(self) -> int:
        return len(self.types)

    def __hash__(self) -> int:
        return hash((tuple(self.types.items()), self.input_size, tuple(self.narrow.items())))
