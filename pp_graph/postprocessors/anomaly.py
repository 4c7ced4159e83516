"""Roles and outputs of anomaly models."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from pp_graph.errors import OutputRoleError
from pp_graph.program import Output, Role

if TYPE_CHECKING:
    from collections.abc import Mapping

RAW_SCORE: Final = "raw_score"
RAW_MAP: Final = "raw_map"

_IMAGE_AXES: Final = ("NC", "N")
_MAP_AXES: Final = ("NCHW", "NHW", "NHWC")

SCORE: Final = Role(
    RAW_SCORE,
    _IMAGE_AXES,
    sizes={"C": 1},
    names=frozenset({"pred_score", "pred_scores", "anomaly_score", "anomaly_scores", "image_score", "score", "scores"}),
    noun="score",
    meaning="one number per image",
    option="score_output",
)
"""One number per image: (N,) or (N,1)."""

MAP: Final = Role(
    RAW_MAP,
    _MAP_AXES,
    sizes={"C": 1},
    names=frozenset({"anomaly_map", "anomaly_maps", "heatmap", "heat_map", "score_map", "pred_map", "map", "maps"}),
    noun="map",
    meaning="one number per pixel",
    option="map_output",
)
"""One number per pixel: (N,H,W), (N,1,H,W) or (N,H,W,1)."""

SCORES: Final = dataclasses.replace(SCORE, sizes={}, meaning="one number per image and class")
"""One number per image and class: (N,C)."""
MAPS: Final = dataclasses.replace(MAP, sizes={}, meaning="one number per pixel and class")
"""One number per pixel and class: (N,C,H,W) or (N,H,W,C)."""

ROLES: Final = (SCORE, MAP)
CLASS_ROLES: Final = (SCORES, MAPS)

OUTPUTS: Final = (
    Output("pred_score", _IMAGE_AXES, "number", "anomaly score of each image"),
    Output("pred_label", _IMAGE_AXES, "decision", "whether the image is anomalous"),
    Output("anomaly_map", _MAP_AXES, "number", "anomaly score of each pixel"),
    Output("pred_mask", _MAP_AXES, "decision", "whether the pixel is anomalous"),
)
"""All outputs, in the order of a fused model."""

REGION_OUTPUTS: Final = (
    Output("region_boxes", ("NKP",), "box", "left, top, right and bottom of the largest regions, in pixels of the map"),
    Output("region_areas", ("NK",), "count", "number of pixels of each region"),
    Output("region_scores", ("NK",), "number", "largest anomaly score in each region"),
    Output("region_centroids", ("NKP",), "number", "column and row of the centroid of each region"),
    Output("region_count", ("N",), "count", "number of all regions of the image"),
)
"""Outputs about the connected regions of the mask."""

OUTPUT_NAMES: Final = tuple(output.name for output in OUTPUTS)
DECISION_NAMES: Final = tuple(output.name for output in OUTPUTS if output.meaning == "decision")
"""Outputs that are decisions; no raw model has them."""


def merged_roles(
    roles: Mapping[str, str] | None, *, score_output: str | None = None, map_output: str | None = None
) -> dict[str, str]:
    """Merge `score_output` and `map_output` into a mapping of roles to output names.

    Raises:
        OutputRoleError: A role is given two different outputs.
    """
    merged = dict(roles or {})
    for role, short, name in ((RAW_SCORE, "score_output", score_output), (RAW_MAP, "map_output", map_output)):
        if name is not None and merged.setdefault(role, name) != name:
            raise OutputRoleError(
                f"Role '{role}' is given as '{merged[role]}' and {short} as '{name}', expected one of them. Leave out "
                f"{short} (--{short.replace('_', '-')})."
            )
    return merged
