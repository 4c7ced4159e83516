"""Check the raw outputs that a caller hands to a post-processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.model import format_shape
from pp_graph.postprocessors.anomaly import RAW_MAP, RAW_SCORE

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pp_graph.program import Role
    from pp_graph.steps import Array

_GIVEN_AS: Final = {RAW_SCORE: "pred_score", RAW_MAP: "anomaly_map"}
"""Names under which models return what these roles read, as Anomalib does."""


def given_as(role: Role) -> str:
    """The name under which a caller gives the value of a role."""
    return _GIVEN_AS.get(role.name, role.name)


def checked_values(raw: Mapping[str, ArrayLike | None] | object, roles: Sequence[Role]) -> dict[str, Array]:
    """Raw outputs of a batch as arrays, by the name of their role.

    Args:
        raw: A mapping with `pred_score` and `anomaly_map`, or whatever the roles are, or an object with attributes of
            these names.
        roles: What the post-processor reads.

    Raises:
        PostProcessorError: None is given, or one has another shape or element type.
    """
    given = given_values(raw, roles)
    values: dict[str, Array] = {}
    for role in roles:
        name = given_as(role)
        if given.get(name) is not None:
            values[role.name] = _typed(given[name], name, role)
            check_shape(values[role.name].shape, role)
    check_same_batch({name: len(array) for name, array in values.items()}, roles)
    return values


def given_values(raw: Mapping[str, Any] | object, roles: Sequence[Role]) -> Mapping[str, Any]:
    """What was given, in whatever kind of array.

    Raises:
        PostProcessorError: Nothing that a role reads is given, or something else is.
    """
    names = [given_as(role) for role in roles]
    listed = " and ".join(map(repr, names))
    given: Mapping[str, Any] = raw if isinstance(raw, Mapping) else _attributes(raw, names)
    # What models of this family return is no mistake where no step reads it.
    unknown = set(given) - set(names) - set(_GIVEN_AS.values())
    if unknown:
        raise PostProcessorError(
            f"Raw outputs hold {', '.join(sorted(map(repr, unknown)))}, expected {listed}. "
            "Rename or leave out the others."
        )
    if all(given.get(name) is None for name in names):
        none = f"neither {' nor '.join(map(repr, names))}" if len(names) > 1 else f"no {listed}"
        raise PostProcessorError(
            f"Raw outputs hold {none}, expected {'at least one of them' if len(names) > 1 else 'it'}. Give what the "
            "raw model returns."
        )
    return given


def check_same_batch(counts: Mapping[str, int], roles: Sequence[Role]) -> None:
    """Make sure that values belong together.

    Args:
        counts: How many images each value holds, by role.
        roles: What the post-processor reads.

    Raises:
        PostProcessorError: There are more of one than of another.
    """
    named = {given_as(role): counts[role.name] for role in roles if role.name in counts}
    if len(set(named.values())) > 1:
        (one, first), (other, second) = list(named.items())[:2]
        raise PostProcessorError(
            f"'{one}' holds {first} images and '{other}' {second}, expected the same batch. Give those of the same "
            "images."
        )


def check_shape(shape: Sequence[int | None], role: Role) -> None:
    """Make sure that a value has axes that its role can have.

    Args:
        shape: Its shape; None for a size that is not known.
        role: Its role.

    Raises:
        PostProcessorError: It has another shape.
    """
    whole = 0 not in shape[1:]
    # A map of a single pixel is one here, whoever made it.
    read = whole and (role.read(tuple(shape)) is not None or _one_pixel(shape, role))
    if not read:
        pixels = " with at least one pixel" if any("H" in axes for axes in role.axes) else ""
        raise PostProcessorError(
            f"'{given_as(role)}' has rank {len(shape)} and shape {format_shape(tuple(shape))}, expected {role.patterns}"
            f"{pixels}{role.meaning and ': '}{role.meaning}."
        )


def _one_pixel(shape: Sequence[int | None], role: Role) -> bool:
    sizes = [dict(zip(axes, shape, strict=True)) for axes in role.axes if len(axes) == len(shape) and "H" in axes]
    return any(all(each[axis] in (None, size) for axis, size in role.sizes.items() if axis in each) for each in sizes)


def _attributes(raw: object, names: Sequence[str]) -> dict[str, Any]:
    found = {name: getattr(raw, name) for name in names if hasattr(raw, name)}
    if not found:
        raise PostProcessorError(
            f"Raw outputs are {type(raw).__name__}, expected a mapping or an object with "
            f"{' and '.join(map(repr, names))}. Give the values by name: post({{'{names[0]}': values}})."
        )
    return found


def _typed(value: ArrayLike, name: str, role: Role) -> Array:
    # A torch tensor may need its gradient and its device left behind.
    detach = getattr(value, "detach", None)
    array = np.asarray(value if detach is None else detach().cpu())
    kinds = {"float32": "fiu", "bool": "b", "uint8": "u", "int64": "iu"}[role.dtype]
    if array.dtype.kind not in kinds and not (role.dtype == "float32" and array.dtype.name == "bfloat16"):
        expected = "floating-point numbers" if role.dtype == "float32" else role.dtype
        raise PostProcessorError(
            f"'{name}' holds {array.dtype}, expected {expected}. Give the raw output of the model."
        )
    with np.errstate(over="ignore"):
        return array.astype(role.dtype, copy=False)
