"""Roles and outputs that a recipe declares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec

from pp_graph.errors import RecipeError
from pp_graph.postprocessors.anomaly import OUTPUTS, ROLES
from pp_graph.program import Meaning, Output, Role
from pp_graph.values import AXES, DType, valid_axes

_Name = Annotated[str, msgspec.Meta(min_length=1)]
_NAMED_FIELD: Final = re.compile(r"(?:\$\.|field `)(\w+)")


class _RoleEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: _Name
    axes: str | tuple[str, ...]
    sizes: dict[str, Annotated[int, msgspec.Meta(ge=1)]] = {}
    dtype: DType = "float32"
    required: bool = True
    names: tuple[str, ...] = ()


class _OutputEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: _Name
    axes: str | tuple[str, ...] = ()
    meaning: Meaning | None = None
    description: str = ""
    class_names: tuple[str, ...] = ()


def read_roles(given: object) -> tuple[Role, ...]:
    """Read the roles of a recipe: `Role`s, names of known roles, or mappings with the fields of `Role`.

    Raises:
        RecipeError: An entry is invalid.
    """
    roles = []
    for entry in _entries(given, "roles"):
        if isinstance(entry, Role):
            roles.append(entry)
            continue
        known = next((role for role in ROLES if entry in (role.name, {"name": role.name})), None)
        if known is not None:
            roles.append(known)
            continue
        read = _converted(entry, _RoleEntry, "roles", "{name: heat, axes: NCHW, sizes: {C: 1}}")
        axes = _axes(read.axes, "roles")
        unknown = set(read.sizes) - set("".join(axes))
        if unknown:
            raise RecipeError(
                f"role '{read.name}' has a size for the axis {min(unknown)!r}, expected one of "
                f"{', '.join(dict.fromkeys(''.join(axes)))}. Leave it out.",
                field="sizes",
            )
        names = frozenset(name.lower() for name in read.names)
        roles.append(Role(read.name, axes, read.sizes, read.dtype, read.required, names))
    _check_unique([role.name for role in roles], "roles")
    return tuple(roles)


def read_outputs(given: object) -> tuple[Output, ...]:
    """Read the outputs of a recipe: `Output`s, names, or mappings with the fields of `Output`.

    Raises:
        RecipeError: An entry is invalid.
    """
    outputs = []
    for entry in _entries(given, "outputs"):
        if isinstance(entry, Output):
            outputs.append(entry)
            continue
        if isinstance(entry, str):
            known = {output.name: output for output in OUTPUTS}
            outputs.append(known.get(entry, Output(entry)))
            continue
        read = _converted(entry, _OutputEntry, "outputs", "{name: defects, meaning: decision}")
        axes = _axes(read.axes, "outputs") if read.axes else ()
        outputs.append(Output(read.name, axes, read.meaning, read.description, read.class_names))
    _check_unique([output.name for output in outputs], "outputs")
    return tuple(outputs)


def roles_to_json(roles: Iterable[Role]) -> list[dict[str, Any]]:
    """Convert roles to the form that `read_roles` reads."""
    return [
        {"name": role.name}
        if role in ROLES
        else {
            "name": role.name,
            "axes": list(role.axes),
            "sizes": dict(role.sizes),
            "dtype": role.dtype,
            "required": role.required,
            "names": sorted(role.names),
        }
        for role in roles
    ]


def outputs_to_json(outputs: Iterable[Output]) -> list[dict[str, Any]]:
    """Convert outputs to the form that `read_outputs` reads."""
    return [
        {
            "name": output.name,
            **({"axes": list(output.axes)} if output.axes else {}),
            **({} if output.meaning is None else {"meaning": output.meaning}),
            **({"description": output.description} if output.description else {}),
            **({"class_names": list(output.class_names)} if output.class_names else {}),
        }
        for output in outputs
    ]


def _entries(given: object, field: str) -> list[Any]:
    if not isinstance(given, Iterable) or isinstance(given, str | Mapping):
        raise RecipeError(f"{field} is {given!r}, expected a list.", field=field)
    return list(given)


def _converted(entry: object, kind: Any, field: str, example: str) -> Any:
    try:
        return msgspec.convert(entry, kind)
    except msgspec.ValidationError as error:
        named = _NAMED_FIELD.search(str(error))
        about = field if named is None else named.group(1)
        raise RecipeError(f"{field} holds {entry!r}: {error}. Write it as {example}.", field=about) from error


def _axes(given: str | tuple[str, ...], field: str) -> tuple[str, ...]:
    axes = (given,) if isinstance(given, str) else tuple(given)
    for choice in axes:
        if not choice or not valid_axes(choice):
            raise RecipeError(
                f"{field} has the axes {choice!r}, expected some of {', '.join(AXES)}, each once, such as NCHW.",
                field="axes",
            )
    if not axes:
        raise RecipeError(f"{field} has an entry without axes, expected some, such as NCHW.", field="axes")
    return axes


def _check_unique(names: list[str], field: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"{field} lists '{twice}' twice, expected each name once.", field=field)
