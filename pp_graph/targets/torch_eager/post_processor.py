"""Write a post-processor so that torch can run it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pp_graph.model import NameScope
from pp_graph.postprocessors import POSTPROCESSED_NAMES
from pp_graph.postprocessors.layout import RAW_MAP, RAW_SCORE
from pp_graph.steps import Emitter
from pp_graph.targets.torch_eager.graph import PREFIX, TorchGraph
from pp_graph.targets.torch_eager.table import OPSET

if TYPE_CHECKING:
    from pp_graph.model import Shape
    from pp_graph.postprocessors import PostProcessor, RawLayout

_IR_VERSION: Final = 10


def compile_post_processor(post: PostProcessor, layout: RawLayout) -> TorchGraph:
    """Write a post-processor as `pp_graph.fuse` does, and make it ready for torch.

    Args:
        post: The post-processor, with statistics.
        layout: What the raw model gives.

    Returns:
        A graph that reads `raw_score` and `raw_map`, float32, as far as `layout` has them, and writes the outputs in
        their order.

    Raises:
        StatisticsError: A number that a step needs is not known.
        PostProcessorError: The steps do not fit.
        TargetError: An operator is not in the table.
    """
    import onnx_ir as ir

    post = post.bound(layout)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="post_processing")
    for name, shape in _raw_shapes(layout).items():
        value = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
        value.shape = None if shape is None else ir.Shape(shape)
        graph.inputs.append(value)
    op = Emitter(graph, opset=OPSET, ir_version=_IR_VERSION, names=NameScope(graph), prefix=PREFIX)
    # The inputs now; adjustable cutoffs become further ones, with defaults.
    raw = {value.name or "": value for value in graph.inputs}
    emitted = post.emit(op, raw, layout)
    for name, value in emitted.items():
        if name in POSTPROCESSED_NAMES:
            value.name = name
            graph.outputs.append(value)
    return TorchGraph(graph)


def _raw_shapes(layout: RawLayout) -> dict[str, Shape | None]:
    shapes: dict[str, Shape | None] = {}
    if layout.score:
        ranks: dict[int | None, Shape] = {1: (None,), 2: (None, layout.score_classes)}
        shapes[RAW_SCORE] = ranks.get(layout.score_rank)
    if layout.map:
        height, width = layout.map_size or (None, None)
        classes = layout.map_classes
        forms: dict[str | None, Shape] = {
            "NHW": (None, height, width),
            "NCHW": (None, classes, height, width),
            "NHWC": (None, height, width, classes),
        }
        shapes[RAW_MAP] = forms.get(layout.map_layout)
    return shapes
