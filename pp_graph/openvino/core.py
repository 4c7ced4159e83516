"""Read names, shapes, layouts, metadata and errors of OpenVINO's objects as plain values."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import openvino as ov

    from pp_graph.model import Shape

_BODIES: Final = {
    "If": ("get_then_body", "get_else_body"),
    "Loop": ("get_function",),
    "TensorIterator": ("get_body",),
}
"""Methods that return the bodies of an operator, by its type."""
_NOISE: Final = ("Exception from", "Check '", "FrontEnd API failed", "Model wasn't fully", "Summary:", "To facilitate")


@cache
def openvino_core() -> ov.Core:
    """Return the process-wide OpenVINO core. The first call loads the plugins."""
    from openvino import Core

    return Core()


def first_line(error: BaseException) -> str:
    """Return the informative part of an OpenVINO error, without source positions."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]
    kept = [line for line in lines if not line.startswith(_NOISE)]
    return "; ".join(reasons or (kept or lines or [type(error).__name__])[-1:]).rstrip(".")


def port_name(port: ov.Output, written: Collection[str] = ()) -> str:
    """Return one name of a port that may have several.

    Args:
        port: The input or output.
        written: Output names of the post-processing; they take precedence.
    """
    names: set[str] = port.get_names()
    # An input that the model returns unchanged also has the name of that output.
    is_input = port.get_node().get_type_name() == "Parameter"
    ours = set() if is_input else names & set(written)
    own = str(port.get_node().get_friendly_name())
    return min(ours) if ours else own if own in names or not names else min(names)


def partial_shape(port: ov.Output) -> Shape | None:
    """Return the shape of a port with None for dynamic sizes, or None if the rank is dynamic."""
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return None
    return tuple(None if dim.is_dynamic else dim.get_length() for dim in shape)


def declared_layout(port: ov.Output) -> str:
    """Return the declared layout of an input, such as `NHWC`; empty if none."""
    from openvino import layout_helpers

    layout = layout_helpers.get_layout(port)
    return "" if layout.empty else str(layout.to_string()).strip("[]").replace(",", "")


def all_operators(model: ov.Model) -> Iterator[ov.Node]:
    """Yield all operators, including those in branches and loops."""
    for node in model.get_ordered_ops():
        yield node
        for get in _BODIES.get(node.get_type_name(), ()):
            yield from all_operators(getattr(node, get)())


def rt_text(value: object) -> str:
    """Return the text of an entry in a model's `rt_info`."""
    return str(value.value if hasattr(value, "value") else value)
