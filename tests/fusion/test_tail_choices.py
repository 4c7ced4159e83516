"""Which rewrites of the tail apply, and what they leave in the file."""

from __future__ import annotations

import onnx

import pp_graph as pp
from tests.conftest import DEMO


def rules(**settings: object) -> set[str]:
    post = pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"), **settings)
    return {record.rule for record in pp.fuse(DEMO / "raw.onnx", post).provenance.tail}


def test_nan_does_not_spread_where_it_counts_as_normal() -> None:
    """Matrix products carry a NaN over the whole map, and would hide the anomalies in it."""
    assert "separable linear collapse" in rules()
    assert "separable linear collapse" not in rules(on_nan="normal")


def test_selected_weights_are_constants() -> None:
    """Quantisers, simplifiers and OpenCV expect them."""
    post = pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"))
    proto = pp.fuse(DEMO / "raw.onnx", post).to_proto()
    constants = {tensor.name for tensor in proto.graph.initializer}
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert any(node.name.startswith("pp_graph/network") for node in convolutions)
    assert all(name in constants for node in convolutions for name in node.input[1:])
    assert pp.strip(proto).to_proto().SerializeToString() == onnx.load(DEMO / "raw.onnx").SerializeToString()
