"""A `repr` of one line for objects with many or large fields, which notebooks show."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

_LONGEST: Final = 300
_LONGEST_VALUE: Final = 80


def short_repr(instance: Any) -> str:
    """Return `Name(field=value, ...)` with the fields that differ from their defaults, cut to one line.

    To use as the `__repr__` of a dataclass or of a `msgspec.Struct`.
    """
    parts = []
    for name, default in _defaults(type(instance)).items():
        value = getattr(instance, name)
        if hasattr(value, "dtype") and hasattr(value, "shape"):
            parts.append(f"{name}={value.dtype}[{', '.join(map(str, value.shape))}]")
        elif value is not default and not (type(value) is type(default) and value == default):
            parts.append(f"{name}={_cut(repr(value), _LONGEST_VALUE)}")
    inside = _cut(", ".join(parts), _LONGEST - len(type(instance).__name__) - 2)
    return f"{type(instance).__name__}({inside})"


def _defaults(kind: type) -> dict[str, Any]:
    """Return the default of each field; `MISSING` or `NODEFAULT` for none."""
    if dataclasses.is_dataclass(kind):
        return {field.name: field.default for field in dataclasses.fields(kind) if field.repr}
    import msgspec

    return {field.name: field.default for field in msgspec.structs.fields(kind)}


def _cut(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"
