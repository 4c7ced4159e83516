"""Make mask and label agree: an image that is called normal has no anomalous pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pp_graph.steps.accepts import MASK, Accepts
from pp_graph.steps.step import Array, Step

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter

_LABEL: Final = Accepts(dtypes=("bool",), axes=("N", "NC"), lacks="HW", single="C")


@dataclass(frozen=True)
class MaskByLabel(Step):
    """Empty the mask of each image whose label is normal: `mask and label`.

    The label may come from another score than the map's maximum; then the two can contradict each other without this.

    Attributes:
        source: Name of the mask, bool: (N,H,W), (N,1,H,W) or (N,H,W,1).
        label: Name of the label, bool: (N,) or (N,1).
        target: Name of the mask that is left, bool, of the shape of the mask.
        axes: Axes of the mask; None until they are known.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (MASK, _LABEL)
    source: str
    label: str
    target: str
    axes: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The mask, and the label."""
        return (self.source, self.label)

    def reference(self, mask: Array, label: Array) -> Array:
        """Mask an array by one label an image."""
        masks = np.asarray(mask, np.bool_)
        return masks & np.asarray(label, np.bool_).reshape(-1, *(1,) * (masks.ndim - 1))

    def emit(self, op: Emitter, mask: ir.Value, label: ir.Value) -> ir.Value:
        """Write And, with the label spread over each image."""
        ones = (1, 1) if self.axes == "NHW" else (1, 1, 1)
        spread = op.arranged(label, op.constant((-1, *ones), "one_an_image"), (None, *ones))
        return op.logical_and(mask, spread)
