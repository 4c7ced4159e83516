"""`Program`: a post-processor bound to a raw model, with the roles it reads and the outputs it returns."""

from __future__ import annotations

from pp_graph.program.compilation import CompiledSteps, compile_steps
from pp_graph.program.detection_forms import packed_detections, renamed_detections
from pp_graph.program.outputs import DETECTION_OUTPUTS, Meaning, Output, OutputDescription, Predictions, detects
from pp_graph.program.packing import PACKED_NAME, check_packed, packed_output, unpacked
from pp_graph.program.program import Program
from pp_graph.program.region_maps import region_map_size
from pp_graph.program.roles import Role, RoleMatch, find_roles
from pp_graph.program.signature import Signature

__all__ = [
    "DETECTION_OUTPUTS",
    "PACKED_NAME",
    "CompiledSteps",
    "Meaning",
    "Output",
    "OutputDescription",
    "Predictions",
    "Program",
    "Role",
    "RoleMatch",
    "Signature",
    "check_packed",
    "compile_steps",
    "detects",
    "find_roles",
    "packed_detections",
    "packed_output",
    "region_map_size",
    "renamed_detections",
    "unpacked",
]
