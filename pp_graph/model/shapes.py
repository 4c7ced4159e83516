"""Shapes as a file declares them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx_ir as ir

OVERRIDABLE_FROM: Final = 4
"""IR version from which callers may override an initializer that is also an input."""

Dimension = int | str | None
"""A size, the name of a symbolic size, or None if the file declares neither."""

Shape = tuple[Dimension, ...]

_CHOSEN_NAME: Final = re.compile(r"(?!.*(__|Dynamic))[\w*/+ -]{1,20}")
"""A name of a size that a person may have chosen, such as `batch` or `2*height`."""


def format_shape(shape: Shape | None) -> str:
    """Format a shape for people: `(batch, 1, 256, ?)`; `(unknown rank)` for None.

    Names that exporters make up, such as `unk__12`, say no more than `?`.
    """
    if shape is None:
        return "(unknown rank)"
    inner = ", ".join("?" if dim is None or not _telling(dim) else str(dim) for dim in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def _telling(dim: int | str) -> bool:
    return isinstance(dim, int) or bool(_CHOSEN_NAME.fullmatch(dim))


def declared_shape(value: ir.Value) -> Shape | None:
    """Return the shape that the file declares. Sizes below 1, which some exporters write for open ones, become None."""
    if value.shape is None:
        return None
    return tuple((dim if dim > 0 else None) if isinstance(dim, int) else (dim.value or None) for dim in value.shape)
