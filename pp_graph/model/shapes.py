"""Shapes as a file declares them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx_ir as ir

OVERRIDABLE_FROM: Final = 4
"""IR version from which callers may override an initializer that is also an input."""

Dimension = int | str | None
"""A size, the name of a symbolic size, or None if the file declares neither."""

Shape = tuple[Dimension, ...]


def format_shape(shape: Shape | None) -> str:
    """Format a shape for people: `(batch, 1, 256, ?)`; `(unknown rank)` for None."""
    if shape is None:
        return "(unknown rank)"
    inner = ", ".join("?" if dim is None else str(dim) for dim in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def declared_shape(value: ir.Value) -> Shape | None:
    """Return the shape that the file declares. Sizes below 1, which some exporters write for open ones, become None."""
    if value.shape is None:
        return None
    return tuple((dim if dim > 0 else None) if isinstance(dim, int) else (dim.value or None) for dim in value.shape)
