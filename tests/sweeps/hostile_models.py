"""Small ONNX models that are valid protobuf, and ask for too much or for what does not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_value = helper.make_tensor_value_info


def _model(
    nodes: Sequence[onnx.NodeProto],
    inits: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
    shape: Sequence[Any] = (1, 1, 8, 8),
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "g", [_value("x", 1, shape)], [_value("m", 1, [1, 1, 8, 8])], list(inits))
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid("f", 1)] if functions else [])]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=8)


def _node(kind: str, *inputs: str, to: str = "m", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [to], **attributes)


def _weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def _ints(name: str, *values: int) -> onnx.TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def _function(name: str, body: Sequence[onnx.NodeProto]) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["a"], ["b"], list(body), imports)


def _function_bomb() -> onnx.ModelProto:
    functions = [_function("f0", [_node("Relu", "a", to="b")])]
    for level in range(1, 31):
        inner = {"domain": "f"}
        functions.append(
            _function(
                f"f{level}",
                [
                    helper.make_node(f"f{level - 1}", ["a"], ["c"], **inner),
                    helper.make_node(f"f{level - 1}", ["c"], ["b"], **inner),
                ],
            )
        )
    return _model([helper.make_node("f30", ["x"], ["m"], domain="f")], functions=functions)


def _recursion() -> onnx.ModelProto:
    function = _function("again", [helper.make_node("again", ["a"], ["b"], domain="f")])
    return _model([helper.make_node("again", ["x"], ["m"], domain="f")], functions=[function])


def _ifs(depth: int) -> bytes:
    def graph(node: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph([node], "g", [], [_value(node.output[0], 1, [1, 1, 8, 8])])

    node = _node("Relu", "x", to="y0")
    for level in range(1, depth + 1):
        other = graph(_node("Abs", "x", to=f"z{level}"))
        node = _node("If", "yes", to=f"y{level}", then_branch=graph(node), else_branch=other)
    yes = numpy_helper.from_array(np.array(True), "yes")
    return _model([node, _node("Relu", f"y{depth}")], [yes]).SerializeToString()


def _deep_attribute() -> bytes:
    """Nest graphs in attributes by hand, deeper than protobuf's Python writes quickly."""

    def field(number: int, content: bytes) -> bytes:
        size, length = b"", len(content)
        while True:
            size += bytes([length & 127 | (128 if length > 127 else 0)])
            length >>= 7
            if not length:
                break
        return bytes([number << 3 | 2]) + size + content

    node = field(4, b"Relu")
    for _ in range(3000):
        node = field(4, b"If") + field(5, field(1, b"then_branch") + field(6, field(1, node)))
    return b"\x08\x08" + field(7, field(1, node))


COMPUTE_MUCH: Final = ("resize to", "expand to", "constant of", "range to", "tile", "function bomb", "pad 2")
"""Models that ask the runtimes for time or memory without end. Nothing limits these when a model runs."""


def models() -> Iterator[tuple[str, bytes]]:
    """Yield each model with its name."""
    relu = _node("Relu", "x")
    kernel = _weight("w", 1, 1, 3, 3)
    made: dict[str, onnx.ModelProto] = {
        "cycle of one": _model([_node("Add", "x", "m")]),
        "cycle of two": _model([_node("Add", "x", "b", to="a"), _node("Relu", "a", to="b"), _node("Relu", "b")]),
        "function bomb": _function_bomb(),
        "function that calls itself": _recursion(),
        "kernel 0x0": _model([_node("Conv", "x", "w")], [_weight("w", 1, 1, 0, 0)]),
        "dilation 2**30": _model([_node("Conv", "x", "w", dilations=[2**30] * 2, pads=[2**30] * 4)], [kernel]),
        "pads 2**62": _model([_node("Conv", "x", "w", pads=[2**62] * 4)], [kernel]),
        "negative pads": _model([_node("Conv", "x", "w", pads=[-(2**40)] * 4)], [kernel]),
        "strides 0": _model([_node("Conv", "x", "w", strides=[0, 0])], [kernel]),
        "group 0": _model([_node("Conv", "x", "w", group=0)], [kernel]),
        "average pool 2**31": _model([_node("AveragePool", "x", kernel_shape=[2**31] * 2, pads=[2**31] * 4)]),
        "pool 0": _model([_node("AveragePool", "x", kernel_shape=[0, 0])]),
        "opset 2**31": _model([relu], opset=2**31),
        "opset 2**62": _model([relu], opset=2**62),
        "opset -1": _model([relu], opset=-1),
        "data type 0": _model(
            [_node("Add", "x", "w")], [TensorProto(name="w", data_type=0, dims=[1], raw_data=b"\0\0\0\0")]
        ),
        "data type 99": _model(
            [_node("Add", "x", "w")], [TensorProto(name="w", data_type=99, dims=[1], raw_data=b"\0\0\0\0")]
        ),
        "weight of 2**60 without data": _model(
            [_node("Add", "x", "w")], [TensorProto(name="w", data_type=1, dims=[2**30, 2**30])]
        ),
        "weight of negative size": _model(
            [_node("Add", "x", "w")], [TensorProto(name="w", data_type=1, dims=[-1], raw_data=b"")]
        ),
        "weight of sizes that overflow": _model(
            [_node("Add", "x", "w")], [TensorProto(name="w", data_type=1, dims=[2**32, 2**32], raw_data=b"")]
        ),
        "input of 2**62": _model([relu], shape=[2**31, 2**31, 1, 1]),
        "input of negative size": _model([relu], shape=[-5, 1, 8, 8]),
        "resize to 2**31": _model([_node("Resize", "x", "", "", "s")], [_ints("s", 1, 1, 2**31, 8)]),
        "resize to 2**27 and back": _model(
            [_node("Resize", "x", "", "", "s", to="y"), _node("Resize", "y", "", "", "t")],
            [_ints("s", 1, 1, 2**24, 8), _ints("t", 1, 1, 8, 8)],
        ),
        "expand to 2**40": _model(
            [_node("Expand", "x", "s", to="y"), _node("Slice", "y", "a", "b")],
            [_ints("s", 2**40, 1, 8, 8), _ints("a", 0), _ints("b", 1)],
        ),
        "constant of 2**40": _model(
            [_node("ConstantOfShape", "s", to="c"), _node("ReduceMax", "c", to="r"), _node("Add", "x", "r")],
            [_ints("s", 2**20, 2**20)],
        ),
        "range to 2**40": _model(
            [
                _node("Range", "a", "b", "c", to="r"),
                helper.make_node("Cast", ["r"], ["f"], to=1),
                _node("ReduceMax", "f", to="k"),
                _node("Add", "x", "k"),
            ],
            [helper.make_tensor(n, 7, [], [v]) for n, v in (("a", 0), ("b", 2**40), ("c", 1))],
        ),
        "tile 2**30": _model(
            [_node("Tile", "w", "s", to="t"), _node("ReduceMax", "t", to="r"), _node("Add", "x", "r")],
            [_weight("w", 8), _ints("s", 2**30)],
        ),
        "pad 2**40": _model([_node("Pad", "x", "p")], [_ints("p", 0, 0, 2**40, 0, 0, 0, 0, 0)]),
        "reshape to 2**62": _model([_node("Reshape", "x", "s")], [_ints("s", 2**62, -1)]),
        "transpose outside": _model([_node("Transpose", "x", perm=[9, 9, 9, 9])]),
        "no operators": _model([]),
        "unknown operator": _model([_node("NoSuchThing", "x")]),
        "operator without inputs": _model([_node("Conv")]),
        "two of one name": _model([relu, relu]),
        "top k of 2**40": _model([helper.make_node("TopK", ["x", "k"], ["m", "i"])], [_ints("k", 2**40)]),
        "einsum": _model([_node("Einsum", "x", equation="abcd->" + "abcd" * 1000)]),
        "axes outside": _model([_node("ReduceMax", "x", axes=[2**40])]),
        "a long name": _model([_node("Relu", "x", name="n" * 500_000)]),
    }
    for place, location in {
        "/etc/passwd": "/etc/passwd", "parent folder": "../../../../etc/passwd", "zero": "/dev/zero", "itself": "raw.onnx",
    }.items():  # fmt: skip
        tensor = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=location)
        made[f"weights in {place}"] = _model([_node("Add", "x", "w")], [tensor])
    for key, value in (("offset", "-1"), ("length", "9" * 30), ("offset", "9" * 5000), ("length", "abc")):
        tensor = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="raw.onnx")
        tensor.external_data.add(key=key, value=value)
        made[f"weights with {key} {value[:20]}"] = _model([_node("Add", "x", "w")], [tensor])
    for name, model in made.items():
        yield name, model.SerializeToString()
    for depth in (12, 30):
        yield f"{depth} nested Ifs", _ifs(depth)
    yield "3,000 nested graphs", _deep_attribute()
    yield "empty", b""
    yield "text", b"hello" * 10
    yield "not UTF-8", _model([relu]).SerializeToString().replace(b"Relu", b"\xff\xfe\xfd\xfc")
