"""Attributes of operators, with the defaults that the ONNX specification gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir


def integer_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def integers_attribute(node: ir.Node, name: str, default: Sequence[int]) -> tuple[int, ...]:
    """An attribute that holds integers, or its default."""
    attribute = node.attributes.get(name)
    return tuple(default if attribute is None else attribute.as_ints())


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """A floating-point attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def text_attribute(node: ir.Node, name: str, default: str) -> str:
    """A text attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()
