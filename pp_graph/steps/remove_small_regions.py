"""Remove small regions from a mask: specks that are no defect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from pp_graph.steps.accepts import MASK, Accepts
from pp_graph.steps.checks import require_one_of, require_whole
from pp_graph.steps.labelling import CONNECTIVITIES, Connectivity, emit_regions, emit_totals, require_opset
from pp_graph.steps.one_channel import Mask, emit_with_channel, emit_without_channel, like, without_channel
from pp_graph.steps.runs import Runs
from pp_graph.steps.step import Step

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter

_LARGEST: Final = 2**30 - 1


@dataclass(frozen=True)
class RemoveSmallRegions(Step):
    """Keep the regions of a mask that have at least so many pixels, and no others.

    Source: `skimage.morphology.remove_small_objects` with `min_size` (`max_size = min_area - 1` from scikit-image 0.26
    on), and OpenCV's `connectedComponentsWithStats` with `CC_STAT_AREA`. How the graph finds regions, and why it
    always ends: see `pp_graph.steps.labelling`. It needs opset 12, and is faster from 18 on.

    Attributes:
        source: Name of the mask, bool: (N,H,W), (N,1,H,W) or (N,H,W,1); a batch has less than 2**30 pixels.
        target: Name of the mask that is left, bool, of the same shape.
        min_area: Pixels that a region must have to stay; 1 keeps all.
        connectivity: 8 if pixels that touch at a corner are of one region, 4 if only those that share a side.
        axes: Axes of the mask; None until they are known.

    Raises:
        PostProcessorError: `min_area` is no whole number above 0, or `connectivity` neither 4 nor 8.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MASK,)
    source: str
    target: str
    min_area: int
    connectivity: Connectivity = 8
    axes: str | None = None

    def __post_init__(self) -> None:
        """Refuse parameters without a meaning."""
        require_whole(self.min_area, f"min_area of '{self.target}'", 1, _LARGEST)
        require_one_of(self.connectivity, f"connectivity of '{self.target}'", CONNECTIVITIES)

    def reference(self, mask: Mask) -> Mask:
        """Find the regions of an array, and keep the large ones."""
        images = without_channel(mask, self.axes)
        runs = Runs.of(images, self.connectivity)
        return like(runs.painted(runs.totals(images) >= self.min_area), mask)

    def emit(self, op: Emitter, mask: ir.Value) -> ir.Value:
        """Write what finds regions and counts their pixels.

        Raises:
            OpsetError: The graph's opset is below 12.
        """
        require_opset(op, self.target)
        images = emit_without_channel(op, mask, self.axes)
        regions, truths = emit_regions(op, images, self.connectivity), op.listed(images)
        small = op.below(emit_totals(op, regions, truths), op.integer(self.min_area, "min_area"))
        kept = op.logical_and(truths, op.logical_not(small))
        return emit_with_channel(op, op.arranged(kept, op.sizes_of(images), op.shape_of(images)), self.axes)
