"""`RegionsPostProcessor`: boxes of the connected regions of a map, such as the lines of a text detector."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from pp_graph.errors import PostProcessorError
from pp_graph.one_class_options import OPTIONS
from pp_graph.postprocessors.anomaly import MAP, RAW_MAP
from pp_graph.postprocessors.post_processor import PostProcessor, chosen_outputs
from pp_graph.program import Output, Role
from pp_graph.steps import Compare, OnNaN, RegionPart, RegionTable, SelectRegions, Step
from pp_graph.steps.select_regions import LARGEST_AREA
from pp_graph.steps.step import as_float32, check_on_nan, require_whole

if TYPE_CHECKING:
    from pp_graph.program import Signature
    from pp_graph.statistics import Statistics
    from pp_graph.steps.region_table import Part

PROBABILITY_MAP: Final = dataclasses.replace(
    MAP, required=True, names=MAP.names | {"maps", "prob", "probability", "shrink_maps", "output", "text_map"}
)

_OUTPUTS: Final = (
    Output("region_boxes", ("NKP",), "box", "left, top, right and bottom of each region, in pixels of the map"),
    Output("region_areas", ("NK",), "count", "number of pixels of each region"),
    Output("region_scores", ("NK",), "number", "mean of the map in each region"),
    Output("region_centroids", ("NKP",), "number", "column and row of the centroid of each region"),
    Output("region_count", ("N",), "count", "number of regions of the image that are returned"),
    Output("region_candidates", ("N",), "count", "number of regions of the image before any is left out"),
)
_MASK: Final = Output("pred_mask", ("NCHW", "NHW", "NHWC"), "decision", "whether the pixel belongs to a region")
_PARTS: Final[dict[str, Part]] = {
    "region_boxes": "boxes",
    "region_areas": "areas",
    "region_scores": "mean",
    "region_centroids": "centroids",
    "region_count": "count",
}


@dataclass(frozen=True)
class RegionsPostProcessor(PostProcessor):
    """Post-processing for maps whose connected regions are objects, such as the probability map of a text detector.

    Pixels above `pixel_threshold` are joined to regions. Of the `regions` largest ones, those with at least `min_area`
    pixels and a mean of at least `box_threshold` are returned, by area; their boxes are grown by `unclip`, as in
    PP-OCR. See `RegionTable` and `SelectRegions`.

    - `region_boxes`: float32, (N,K,4), left, top, right and bottom; right and bottom are exclusive;
    - `region_areas`: int32, (N,K); `region_scores`: mean of the map, float32, (N,K); `region_centroids`: (N,K,2);
    - `region_count`: number of returned regions, int32, (N,). Further rows are 0;
    - `region_candidates`: number of all regions, int32, (N,). Above K, some were not looked at;
    - `pred_mask`, with `mask`: pixels above the threshold.

    Attributes:
        statistics: Not used.
        pixel_threshold: Number of the map above which a pixel belongs to a region.
        box_threshold: Smallest mean of the map in a region.
        min_area: Smallest number of pixels of a region.
        unclip: Growth of the boxes: `area * unclip / perimeter` on each side; 0 for none.
        regions: Number of regions K, at most 1000.
        mask: Write `pred_mask`.
        on_nan: `anomalous` counts a pixel that is NaN to a region, `normal` does not.
        probabilities: True for a map in [0, 1], which limits the thresholds. None takes True if the model ends in a
            sigmoid or softmax.

        outputs: Outputs to compute, from those above; None for all.

    Raises:
        PostProcessorError: An option is outside its range.
    """

    roles: ClassVar[tuple[Role, ...]] = (PROBABILITY_MAP,)  # type: ignore[misc]
    tunable: ClassVar[tuple[str, ...]] = ("pixel_threshold", "box_threshold", "min_area", "unclip")
    statistics: Statistics | None = None
    pixel_threshold: float = 0.3
    box_threshold: float = 0.6
    min_area: int = 10
    unclip: float = 1.5
    regions: int = 100
    mask: bool = True
    on_nan: OnNaN = "normal"
    probabilities: bool | None = None
    outputs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("pixel_threshold", "box_threshold", "unclip"):
            as_float32(getattr(self, name), name)
        if self.unclip < 0:
            raise PostProcessorError(f"unclip is {self.unclip:g}, expected a number from 0 (--unclip).")
        require_whole(self.min_area, "min_area", 1, LARGEST_AREA)
        check_on_nan(self.on_nan, "pred_mask")
        if OPTIONS["regions"].check(self.regions) is None:
            raise PostProcessorError("regions is None, expected a whole number from 1 to 1000.")
        object.__setattr__(self, "outputs", None if self.outputs is None else tuple(self.outputs))
        declared = chosen_outputs((*_OUTPUTS, *([_MASK] if self.mask else [])), self.outputs)
        object.__setattr__(self, "declared_outputs", declared)
        super().__post_init__()

    def settled(self, raw: Signature) -> RegionsPostProcessor:
        """Find out whether the map holds probabilities, and check the thresholds against their range.

        Raises:
            PostProcessorError: A threshold is outside the range of probabilities.
        """
        ends_in = raw.activations.get(RAW_MAP)
        known = self.probabilities if ends_in is None else True
        for name in ("pixel_threshold", "box_threshold"):
            threshold = getattr(self, name)
            if known and not 0 <= threshold <= 1:
                why = f"because the model ends in a {ends_in}" if ends_in else "as the model was fused for it"
                raise PostProcessorError(
                    f"{name} is {threshold:g}, and the map holds probabilities, {why}, expected a number from 0 to 1 "
                    f"(--{name.replace('_', '-')})."
                )
        return dataclasses.replace(self, probabilities=known)

    def steps(self, raw: Signature) -> tuple[Step, ...]:
        """Compare, find and measure the regions, and select them."""
        del raw
        selected = SelectRegions(
            "all_regions", "selected", RAW_MAP, self.min_area, min_mean=self.box_threshold, unclip=self.unclip
        )
        return (
            Compare(RAW_MAP, "pred_mask", self.pixel_threshold, on_nan=self.on_nan),
            RegionTable("pred_mask", "all_regions", self.regions, map=RAW_MAP),
            selected,
            *(RegionPart("selected", name, part) for name, part in _PARTS.items()),
            RegionPart("all_regions", "region_candidates", "count"),
        )
