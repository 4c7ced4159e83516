"""Check the raw outputs that a caller passes to a post-processor."""

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
"""Names under which Anomalib models return these raw values."""


def given_as(role: Role) -> str:
    """Return the name under which a caller passes the value of a role."""
    return _GIVEN_AS.get(role.name, role.name)


def checked_values(raw: Mapping[str, ArrayLike | None] | object, roles: Sequence[Role]) -> dict[str, Array]:
    """Convert the raw outputs of a batch to arrays, by role, and check them.

    Args:
        raw: A mapping, or an object with attributes: `pred_score` and `anomaly_map`, or the names of the roles.
        roles: Roles that the post-processor reads.

    Raises:
        PostProcessorError: No value is given, or one has a different shape or element type.
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
    """Return the raw outputs as a mapping, in the caller's array type.

    Raises:
        PostProcessorError: No role's value is given, or an unknown one is.
    """
    names = [given_as(role) for role in roles]
    listed = " and ".join(map(repr, names))
    given: Mapping[str, Any] = raw if isinstance(raw, Mapping) else _attributes(raw, names)
    # Anomaly models may return a score or map that no step reads.
    unknown = set(given) - set(names) - set(_GIVEN_AS.values())
    if unknown:
        raise PostProcessorError(
            f"Raw outputs hold {', '.join(sorted(map(repr, unknown)))}, expected {listed}. "
            "Rename or leave out the others."
        )
    if all(given.get(name) is None for name in names):
        none = f"neither {' nor '.join(map(repr, names))}" if len(names) > 1 else f"no {listed}"
        raise PostProcessorError(
            f"Raw outputs hold {none}, expected {'at least one of them' if len(names) > 1 else 'it'}. Give the outputs "
            "of the raw model."
        )
    return given


def check_same_batch(counts: Mapping[str, int], roles: Sequence[Role]) -> None:
    """Raise `PostProcessorError` if values have different batch sizes.

    Args:
        counts: Number of images of each value, by role.
        roles: Roles that the post-processor reads.
    """
    named = {given_as(role): counts[role.name] for role in roles if role.name in counts}
    if len(set(named.values())) > 1:
        (one, first), (other, second) = list(named.items())[:2]
        raise PostProcessorError(
            f"'{one}' holds {first} images and '{other}' {second}, expected the same batch. Give values of the same "
            "images."
        )


def check_shape(shape: Sequence[int | None], role: Role) -> None:
    """Raise `PostProcessorError` if the shape of a value does not fit its role.

    Args:
        shape: The shape; None for an open size.
        role: The role.
    """
    # The caller names the value, so unlike in `find_roles` a map may have a single pixel.
    fits = 0 not in shape[1:] and (role.read(tuple(shape)) is not None or _fits_one_pixel(shape, role))
    if not fits:
        pixels = " with at least one pixel" if any("H" in axes for axes in role.axes) else ""
        raise PostProcessorError(
            f"'{given_as(role)}' has rank {len(shape)} and shape {format_shape(tuple(shape))}, expected {role.patterns}"
            f"{pixels}{role.meaning and ': '}{role.meaning}."
        )


def _fits_one_pixel(shape: Sequence[int | None], role: Role) -> bool:
    for axes in role.axes:
        if len(axes) == len(shape) and "H" in axes:
            sizes = dict(zip(axes, shape, strict=True))
            if all(sizes[axis] in (None, size) for axis, size in role.sizes.items() if axis in sizes):
                return True
    return False


def _attributes(raw: object, names: Sequence[str]) -> dict[str, Any]:
    given = {name: getattr(raw, name) for name in names if hasattr(raw, name)}
    if not given:
        raise PostProcessorError(
            f"Raw outputs are {type(raw).__name__}, expected a mapping or an object with "
            f"{' and '.join(map(repr, names))}. Give the values by name: post({{'{names[0]}': values}})."
        )
    return given


def _typed(value: ArrayLike, name: str, role: Role) -> Array:
    # A torch tensor may require gradients or be on another device.
    detach = getattr(value, "detach", None)
    array = np.asarray(value if detach is None else detach().cpu())
    kinds = {"float32": "fiu", "bool": "b", "uint8": "u", "int32": "iu", "int64": "iu"}[role.dtype]
    if array.dtype.kind not in kinds and not (role.dtype == "float32" and array.dtype.name == "bfloat16"):
        expected = "floating-point numbers" if role.dtype == "float32" else role.dtype
        raise PostProcessorError(
            f"'{name}' holds {array.dtype}, expected {expected}. Give the raw output of the model."
        )
    with np.errstate(over="ignore"):
        return array.astype(role.dtype, copy=False)
