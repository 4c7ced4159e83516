"""Write a program so that torch can run it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.model import NameScope
from pp_graph.steps import Emitter
from pp_graph.targets.torch_eager.graph import PREFIX, TorchGraph
from pp_graph.targets.torch_eager.table import OPSET

if TYPE_CHECKING:
    from pp_graph.program import Program

_IR_VERSION: Final = 10


def compile_post_processor(program: Program) -> TorchGraph:
    """Write a program as `pp_graph.fuse` does, and make it ready for torch.

    Args:
        program: The post-processor, bound to what the raw model gives.

    Returns:
        A graph that reads the raw values of `program.signature`, by role, and writes the outputs in their order.

    Raises:
        PostProcessorError: A step emits nothing.
        TargetError: An operator is not in the table.
    """
    import onnx_ir as ir

    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="post_processing")
    for role, read in program.signature.items():
        dtype = ir.DataType.from_numpy(np.dtype(read.dtype))
        shape = ir.Shape(read.sizes) if read.rank_known else None
        graph.inputs.append(ir.Value(name=role, shape=shape, type=ir.TensorType(dtype)))
    op = Emitter(graph, opset=OPSET, ir_version=_IR_VERSION, names=NameScope(graph), prefix=PREFIX)
    # The inputs now; adjustable cutoffs become further ones, with defaults.
    emitted = program.emit(op, {value.name or "": value for value in graph.inputs})
    for output in program.outputs:
        value = emitted[output.name]
        value.name = output.name
        graph.outputs.append(value)
    return TorchGraph(graph)
