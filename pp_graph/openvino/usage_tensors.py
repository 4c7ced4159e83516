"""Inputs and outputs of a converted model as `model.usage.md` shows them: axes, element types, variable names."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pp_graph.model import ModelInput, batch_places
from pp_graph.openvino.core import declared_layout, partial_shape, port_name
from pp_graph.sessions.session import with_batch_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

    from pp_graph.fusion import Provenance
    from pp_graph.model import Shape

ELEMENT_TYPES: Final = {
    "f32": ("float32", "float"),
    "f64": ("float64", "double"),
    "f16": ("float16", "ov::float16"),
    "bf16": ("bfloat16", "ov::bfloat16"),
    "boolean": ("bool", "bool"),
    **{f"i{bits}": (f"int{bits}", f"std::int{bits}_t") for bits in (8, 16, 32, 64)},
    **{f"u{bits}": (f"uint{bits}", f"std::uint{bits}_t") for bits in (8, 16, 32, 64)},
}
"""OpenVINO's element types to NumPy's and C++'s."""

_CHANNELS: Final = (1, 3)
_EXAMPLE_SIZES: Final = {"N": 1, "C": 3, "H": 256, "W": 256}
_RESERVED: Final = frozenset(
    re.findall(
        r"\w+",
        """
        np ov core model request results print main std
        auto bool case catch char class concept const constexpr decltype default delete do double enum explicit export
        extern final float friend goto inline int long mutable namespace new operator override private protected public
        register requires short signed sizeof static struct switch template this throw typedef typeid typename union
        unsigned using virtual void volatile xor
        """,
    )
)
"""Names that the example programs use, and keywords of C++."""


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        name: Its name.
        element: OpenVINO's element type, such as `f32`.
        shape: Its shape with None for dynamic sizes; None if the rank is dynamic.
        axes: `N` images, `C` channels, `H` height, `W` width or `?` unknown, for each axis.
    """

    name: str
    element: str
    shape: Shape | None
    axes: tuple[str, ...]

    @property
    def dtype(self) -> str:
        """NumPy's element type, such as `float32`."""
        return ELEMENT_TYPES.get(self.element, (self.element,))[0]

    @property
    def sizes(self) -> str:
        """The shape with letters for dynamic sizes, such as `(N, 3, 256, 256)`."""
        if self.shape is None:
            return "(any rank)"
        sizes = [axis if size is None else str(size) for axis, size in zip(self.axes, self.shape, strict=True)]
        return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"

    @property
    def example(self) -> tuple[int, ...]:
        """An example of the shape, with one image if the batch is dynamic."""
        shape, axes = ((None,) * 4, "NCHW") if self.shape is None else (self.shape, self.axes)
        return tuple(
            size if isinstance(size, int) else _EXAMPLE_SIZES.get(axis, 1)
            for size, axis in zip(shape, axes, strict=True)
        )


def inputs_of(model: ov.Model, provenance: Provenance) -> list[Tensor]:
    """Return the inputs of a converted model."""
    undeclared = [ModelInput(port_name(port), None, partial_shape(port)) for port in model.inputs]
    places = batch_places(with_batch_axes(undeclared, provenance.conversion))
    batch_axis = {name: place.axes[0] for name, place in places.items() if place.axes}

    def axes(port: ov.Output) -> tuple[str, ...]:
        shape, layout, batch = partial_shape(port) or (), declared_layout(port), batch_axis.get(port_name(port))
        if len(layout) == len(shape) and layout.isalpha():
            return tuple(layout)
        if len(shape) == 4 and batch == 0:
            return tuple("NHWC" if shape[3] in _CHANNELS and shape[1] not in _CHANNELS else "NCHW")
        return tuple("N" if axis == batch else "?" for axis in range(len(shape)))

    return [Tensor(port_name(port), _element(port), partial_shape(port), axes(port)) for port in model.inputs]


def outputs_of(model: ov.Model, provenance: Provenance) -> list[Tensor]:
    """Return the outputs of a converted model."""
    known = {record.tensor: record.axes for record in provenance.raw.read.values() if record.rank_known}
    known |= {output.name: output.axes for output in provenance.outputs if output.axes}
    tensors = []
    for port in model.outputs:
        name, shape = port_name(port, provenance.output_names), partial_shape(port)
        rank, axes = len(shape or ()), known.get(name) or ""
        tensors.append(
            Tensor(name, _element(port), shape, tuple(axes) if len(axes) == rank else ("N", *"?" * (rank - 1))[:rank])
        )
    return tensors


def _element(port: ov.Output) -> str:
    return str(port.get_element_type().get_type_name())


def name_variables(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Name a variable after each tensor if Python and C++ allow it."""
    named: dict[str, Tensor] = {}
    for index, tensor in enumerate(tensors):
        name = re.sub(r"\W", "_", tensor.name, flags=re.ASCII).strip("_")
        if not name or not name[0].isalpha() or keyword.iskeyword(name) or name in _RESERVED or name in named:
            name = f"tensor_{index}"
        named[name] = tensor
    return named
