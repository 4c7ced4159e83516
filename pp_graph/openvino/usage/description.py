"""What the text about a model is written from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.fusion import Provenance
    from pp_graph.model import Shape

_EXAMPLE_SIZES: Final = {"N": 1, "C": 3, "H": 256, "W": 256}


@dataclass(frozen=True)
class Port:
    """An input or output of a model.

    Attributes:
        name: Name to feed or read it by.
        dtype: NumPy name of the element type, such as `float32` or `bool`.
        element: OpenVINO's name of it, such as `f32` or `boolean`.
        shape: Sizes, None for an open one; None where the rank is open.
        axes: What each axis is: `N` images, `C` channels, `H` height, `W` width, `?` where that is not known; none for
            a scalar, and where the rank is open.
    """

    name: str
    dtype: str
    element: str
    shape: Shape | None
    axes: tuple[str, ...]

    @property
    def sizes(self) -> str:
        """The sizes for people, with letters for open ones, such as `(N, 3, 256, 256)`."""
        if self.shape is None:
            return "(any rank)"
        inner = ", ".join(axis if size is None else str(size) for axis, size in zip(self.axes, self.shape, strict=True))
        return f"({inner},)" if len(self.shape) == 1 else f"({inner})"

    @property
    def batch(self) -> int | None:
        """The number of images that it holds, where that is fixed."""
        size = self.shape[self.axes.index("N")] if self.shape and "N" in self.axes else None
        return size if isinstance(size, int) else None

    @property
    def example(self) -> tuple[int, ...]:
        """Sizes that an example can use: one image where the batch is open."""
        shape = (None,) * 4 if self.shape is None else self.shape
        axes = ("N", "C", "H", "W") if self.shape is None else self.axes
        return tuple(
            size if isinstance(size, int) else _EXAMPLE_SIZES.get(axis, 1)
            for size, axis in zip(shape, axes, strict=True)
        )


@dataclass(frozen=True)
class Usage:
    """What the text is about.

    Attributes:
        file: Name of the `.xml`, without folders.
        inputs: What goes in.
        outputs: What comes out, in the model's order.
        provenance: What was fused, and how it was converted.
        model_info: What Model API reads.
        frames: Whether the preprocessing is in the model.
    """

    file: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    provenance: Provenance
    model_info: Mapping[str, str]
    frames: bool

    @property
    def device(self) -> str:
        """Device that the model was converted for."""
        return str((self.provenance.conversion or {}).get("device", "CPU"))

    @property
    def decides(self) -> bool:
        """Whether a decision comes out."""
        return any(output.decides for output in self.provenance.predicted.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(port.name for port in self.outputs)
