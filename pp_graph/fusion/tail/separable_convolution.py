"""Split a convolution with a rank-one kernel into a column and a row.

A kernel `K = c @ r.T` sums over the height and over the width separately:

    sum_ij K[i,j] x[y+i, z+j] = sum_i c[i] (sum_j r[j] x[y+i, z+j])

This takes h + w multiply-adds per output instead of h * w. Height and width may be open, so the rule applies where
`SeparableCollapse` does not, and on maps so large that matrices cost more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pp_graph.fusion.tail import cost
from pp_graph.fusion.tail.axis_matrices import RefusalError
from pp_graph.fusion.tail.linear_operators import read_convolution, spatial_attributes
from pp_graph.fusion.tail.rule import Match, Miss, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.steps import Emitter

_TYPICAL_SIDE: Final = 256
"""Assumed height and width if they are open. Only the ratio of two costs matters."""


class SeparableConvolution(Rule):
    """Rule that splits rank-one convolutions; see the module."""

    name: ClassVar[str] = "separable convolution"

    def find(self, view: GraphView) -> Iterator[Match | Miss]:
        """Propose to split every depthwise convolution in the tail."""
        for node in reversed(view.nodes()):
            source, weight = (*node.inputs, None, None)[:2]
            shape = None if weight is None else view.shape(weight)
            if node.op_type != "Conv" or source is None or shape is None or len(shape) != 4 or shape[1] != 1:
                continue
            target = node.outputs[0]
            if 1 in shape[2:] or view.feeds_network(target):
                continue
            what = f"Conv {shape[2]}×{shape[3]}"
            try:
                yield _propose_convolution(view, node, source, what)
            except RefusalError as refusal:
                yield Miss(target, what, str(refusal))


def _propose_convolution(view: GraphView, node: ir.Node, source: ir.Value, what: str) -> Match:
    target = node.outputs[0]
    columns, rows, bias = read_convolution(view, node)
    kernel = (len(columns[0]), len(rows[0]))
    strides, dilations, pads = spatial_attributes(view, node, kernel)
    height, width = view.sizes(target) or (_TYPICAL_SIDE, _TYPICAL_SIDE)
    outputs = float(height * width * len(columns))

    def emit(op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        value = at(source)
        for axis, kernels in enumerate((columns, rows)):
            # Neutral stride, dilation and pads along the other axis.
            along_axis = [[1, 1], [1, 1], [0, 0, 0, 0]]
            for neutral, given in zip(along_axis, (strides, dilations, pads), strict=True):
                neutral[axis::2] = given[axis::2]
            stacked = np.stack(kernels)[:, None, :, None] if axis == 0 else np.stack(kernels)[:, None, None, :]
            value = op.convolution(
                value,
                op.array(stacked, ("column", "row")[axis]),
                strides=along_axis[0],
                dilations=along_axis[1],
                pads=along_axis[2],
                group=len(kernels),
            )
        return value if bias is None else op.add(value, op.array(bias[:, None, None], "bias"))

    before = cost.narrow_convolution(outputs, kernel[0] * kernel[1])
    # The column convolution runs first, at the width of the source.
    after = cost.narrow_convolution(outputs * strides[1], kernel[0]) + cost.narrow_convolution(outputs, kernel[1])
    return Match(
        target=target,
        what=f"{what} becomes {kernel[0]}×1 and 1×{kernel[1]}",
        reads=(source,),
        before=before,
        after=after if bias is None else after + cost.moved(2 * outputs),
        emit=emit,
        exact=False,
        float32=True,
    )
