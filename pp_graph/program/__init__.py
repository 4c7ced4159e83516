"""Programs: what a post-processor becomes once it is bound to the outputs of a raw model.

Roles say which outputs it reads, `Signature` what these are, `Program` what is computed from them and what comes out.
"""

from __future__ import annotations

from pp_graph.program.compilation import CompiledSteps, compile_steps
from pp_graph.program.outputs import Meaning, Output, OutputDescription, Predictions
from pp_graph.program.packing import PACKED_NAME, check_packed, unpacked
from pp_graph.program.program import Program
from pp_graph.program.roles import Role, RoleMatch, find_roles
from pp_graph.program.signature import Signature

__all__ = [
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
    "find_roles",
    "unpacked",
]
