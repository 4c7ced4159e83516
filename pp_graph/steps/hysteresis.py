"""Two thresholds for one mask: certain pixels say where a defect is, and likely ones how far it reaches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from pp_graph.errors import PostProcessorError
from pp_graph.steps.accepts import MASK, Accepts
from pp_graph.steps.checks import require_one_of
from pp_graph.steps.labelling import CONNECTIVITIES, Connectivity, emit_regions, emit_totals, require_opset
from pp_graph.steps.one_channel import Mask, emit_with_channel, emit_without_channel, like, without_channel
from pp_graph.steps.runs import Runs
from pp_graph.steps.step import Step

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.values import ValueType


@dataclass(frozen=True)
class Hysteresis(Step):
    """Keep the regions of a weak mask that hold a pixel of a strong one, and no others.

    Both masks come from steps that compare, so both thresholds are compiled to cutoffs. A strong pixel outside of the
    weak mask counts for nothing.

    Source: `skimage.filters.apply_hysteresis_threshold` (with 4 neighbours), and the last stage of Canny's edge
    detector (with 8). How the graph finds regions, and why it always ends: see `pp_graph.steps.labelling`. It needs
    opset 12, and is faster from 18 on.

    Attributes:
        source: Name of the weak mask, bool: (N,H,W), (N,1,H,W) or (N,H,W,1); a batch has less than 2**30 pixels.
        strong: Name of the strong mask, bool, of the same shape.
        target: Name of the mask that is left, bool, of the same shape.
        connectivity: 8 if pixels that touch at a corner are of one region, 4 if only those that share a side.
        axes: Axes of the masks; None until they are known.

    Raises:
        PostProcessorError: `connectivity` is neither 4 nor 8.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MASK, MASK)
    source: str
    strong: str
    target: str
    connectivity: Connectivity = 8
    axes: str | None = None

    def __post_init__(self) -> None:
        """Refuse parameters without a meaning."""
        require_one_of(self.connectivity, f"connectivity of '{self.target}'", CONNECTIVITIES)

    @property
    def reads(self) -> tuple[str, ...]:
        """The weak mask, and the strong one."""
        return (self.source, self.strong)

    def bind(self, weak: ValueType, strong: ValueType) -> Self:
        """This step on masks of these axes."""
        sizes = {value.map_size for value in (weak, strong) if value.map_size is not None}
        if weak.axes != strong.axes or len(sizes) > 1:
            raise PostProcessorError(
                f"'{self.source}' is {weak} and '{self.strong}' is {strong}, expected two masks of one shape."
            )
        return replace(self, axes=weak.known_axes)

    def reference(self, weak: Mask, strong: Mask) -> Mask:
        """Find the regions of an array, and keep those with a strong pixel."""
        images = without_channel(weak, self.axes)
        runs = Runs.of(images, self.connectivity)
        return like(runs.painted(runs.totals(images & without_channel(strong, self.axes)) > 0), weak)

    def emit(self, op: Emitter, weak: ir.Value, strong: ir.Value) -> ir.Value:
        """Write what finds regions and counts their strong pixels.

        Raises:
            OpsetError: The graph's opset is below 12.
        """
        require_opset(op, self.target)
        images = emit_without_channel(op, weak, self.axes)
        regions, truths = emit_regions(op, images, self.connectivity), op.listed(images)
        certain = op.logical_and(truths, op.listed(strong))
        none = op.below(emit_totals(op, regions, certain), op.integer(1, "one_pixel"))
        kept = op.logical_and(truths, op.logical_not(none))
        return emit_with_channel(op, op.arranged(kept, op.sizes_of(images), op.shape_of(images)), self.axes)
