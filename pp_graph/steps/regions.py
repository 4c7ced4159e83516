"""Steps that keep connected regions of a mask; see `pp_graph.steps.region_search`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.masks import Mask, emit_with_channel, emit_without_channel, without_channel
from pp_graph.steps.region_search import (
    CONNECTIVITIES,
    Connectivity,
    EmittedRuns,
    Runs,
    emit_totals,
    require_opset,
)
from pp_graph.steps.step import MASK, Accepts, Step, require_one_of, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType


class RegionStep(Step):
    """Base class of steps that keep the regions of a mask with enough pixels of a kind."""

    pointwise: ClassVar[bool] = False
    connectivity: Connectivity
    axes: str | None

    def _keep(self, mask: Mask, counted: Mask, least: int) -> Mask:
        images = without_channel(mask, self.axes)
        runs = Runs.of(images, self.connectivity)
        totals = runs.totals(images & without_channel(counted, self.axes))
        return runs.painted(totals >= least).reshape(np.shape(mask))

    def _emit_keep(self, op: Emitter, mask: ir.Value, counted: ir.Value | None, least: int, name: str) -> ir.Value:
        """Write `_keep`; `counted` is None for all pixels, and `name` is that of the constant `least`."""
        require_opset(op, self.target)
        images = emit_without_channel(op, mask, self.axes)
        runs, truths = EmittedRuns.of(op, images, self.connectivity), op.listed(images)
        pixels = truths if counted is None else op.logical_and(truths, op.listed(counted))
        found = op.chosen(runs.regions, op.chosen(runs.numbers, op.places_of(pixels)))
        too_few = op.below(emit_totals(op, runs.regions, found), op.integer(least, name))
        kept = op.logical_and(truths, op.chosen(op.logical_not(too_few), runs.numbers))
        return emit_with_channel(op, op.arranged(kept, op.sizes_of(images), op.shape_of(images)), self.axes)


_LARGEST: Final = 2**30 - 1


@dataclass(frozen=True)
class RemoveSmallRegions(RegionStep):
    """Keep the regions of a mask that have at least `min_area` pixels, and no others.

    Source: `skimage.morphology.remove_small_objects` with `min_size` (`max_size = min_area - 1` from scikit-image 0.26
    on), and OpenCV's `connectedComponentsWithStats` with `CC_STAT_AREA`. See `pp_graph.steps.region_search` for the
    algorithm and a proof that it ends. The step needs opset 12, and is faster from opset 18 on.

    Attributes:
        source: Name of the mask, bool: (N,H,W), (N,1,H,W) or (N,H,W,1); a batch has less than 2**30 pixels.
        target: Name of the new mask, bool, of the same shape.
        min_area: Smallest number of pixels of a region to keep; 1 keeps all.
        connectivity: 4 connects pixels that share a side, 8 also pixels that share a corner.
        axes: Axes of the mask; None until the step is bound.

    Raises:
        PostProcessorError: `min_area` is not a whole number above 0, or `connectivity` is neither 4 nor 8.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (MASK,)
    source: str
    target: str
    min_area: int
    connectivity: Connectivity = 8
    axes: str | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_whole(self.min_area, f"min_area of '{self.target}'", 1, _LARGEST)
        require_one_of(self.connectivity, f"connectivity of '{self.target}'", CONNECTIVITIES)

    def reference(self, mask: Mask) -> Mask:
        """Keep the large regions of an array."""
        return self._keep(mask, mask, self.min_area)

    def emit(self, op: Emitter, mask: ir.Value) -> ir.Value:
        """Write operators that find regions and count their pixels.

        Raises:
            OpsetError: The graph's opset is below 12.
        """
        return self._emit_keep(op, mask, None, self.min_area, "min_area")


@dataclass(frozen=True)
class Hysteresis(RegionStep):
    """Keep the regions of a weak mask that hold a pixel of a strong one, and no others.

    Let comparing steps write both masks, so that both thresholds are compiled to cutoffs. Strong pixels outside the
    weak mask are ignored.

    Source: `skimage.filters.apply_hysteresis_threshold` (with 4 neighbours), and the last stage of Canny's edge
    detector (with 8). See `pp_graph.steps.region_search` for the algorithm and a proof that it ends. The step needs
    opset 12, and is faster from opset 18 on.

    Attributes:
        source: Name of the weak mask, bool: (N,H,W), (N,1,H,W) or (N,H,W,1); a batch has less than 2**30 pixels.
        strong: Name of the strong mask, bool, of the same shape.
        target: Name of the new mask, bool, of the same shape.
        connectivity: 4 connects pixels that share a side, 8 also pixels that share a corner.
        axes: Axes of the masks; None until the step is bound.

    Raises:
        PostProcessorError: `connectivity` is neither 4 nor 8.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (MASK, MASK)
    source: str
    strong: str
    target: str
    connectivity: Connectivity = 8
    axes: str | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_one_of(self.connectivity, f"connectivity of '{self.target}'", CONNECTIVITIES)

    @property
    def reads(self) -> tuple[str, ...]:
        """The weak and the strong mask."""
        return (self.source, self.strong)

    def bind(self, weak: ValueType, strong: ValueType) -> Self:
        """Bind the step to its inputs.

        Raises:
            PostProcessorError: The masks differ in axes or size.
        """
        sizes = {value.map_size for value in (weak, strong) if value.map_size is not None}
        if weak.axes != strong.axes or len(sizes) > 1:
            raise PostProcessorError(
                f"'{self.source}' is {weak} and '{self.strong}' is {strong}, expected two masks of the same shape."
            )
        return replace(self, axes=weak.known_axes)

    def reference(self, weak: Mask, strong: Mask) -> Mask:
        """Keep the regions of an array with a strong pixel."""
        return self._keep(weak, strong, 1)

    def emit(self, op: Emitter, weak: ir.Value, strong: ir.Value) -> ir.Value:
        """Write operators that find regions and count their strong pixels.

        Raises:
            OpsetError: The graph's opset is below 12.
        """
        return self._emit_keep(op, weak, strong, 1, "one_pixel")
