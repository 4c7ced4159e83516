"""The models that ship with onnx, its node cases, and a small network at every opset and IR version."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHIPPED: Final = Path(onnx.__file__).parent / "backend" / "test" / "data"
_KINDS: Final = ("simple", "pytorch-converted", "pytorch-operator")
_OLDEST_OPSET: Final = 7
_OLDEST_IR: Final = 3


@dataclass(frozen=True)
class Case:
    """A model with one set of inputs; None for an input without a value."""

    name: str
    model: onnx.ModelProto
    feeds: dict[str, Any]


def case_names() -> list[str]:
    """Names of all cases."""
    return [*node_cases(), *shipped_names(), *version_cases()]


def find_case(name: str) -> Case:
    """Return a case by name."""
    if name.startswith("version/"):
        return version_cases()[name]
    return node_cases()[name] if name.startswith("node/") else shipped_case(name)


def shipped_names() -> list[str]:
    """Names of the models that the wheel holds as files."""
    light = sorted(path.stem for path in (SHIPPED / "light").glob("*.onnx"))
    return [*(f"{kind}/{path.name}" for kind in _KINDS for path in sorted((SHIPPED / kind).iterdir())), *light]


def shipped_case(name: str) -> Case:
    """Read a model that the wheel holds as a file. Light models come without inputs."""
    if "/" not in name:
        model = onnx.load(SHIPPED / "light" / f"{name}.onnx")
        rng = np.random.default_rng(0)
        weights = {tensor.name for tensor in model.graph.initializer}
        shapes = {
            value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
            for value in model.graph.input
            if value.name not in weights
        }
        return Case(name, model, {key: rng.random(shape, np.float32) for key, shape in shapes.items()})
    model = onnx.load(SHIPPED / name / "model.onnx")
    weights = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in weights]
    files = [SHIPPED / name / "test_data_set_0" / f"input_{place}.pb" for place in range(len(values))]
    fed = {value.name: _read(value.type, file) for value, file in zip(values, files, strict=True) if file.exists()}
    return Case(name, model, fed)


def _read(declared: onnx.TypeProto, file: Path) -> Any:
    if declared.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(file.read_bytes()))
    return numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes()))


def _fed(value: Any) -> Any:
    """Return a value of the node cases, which hold types that NumPy lacks as protobuf, and scalars as NumPy's."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


@functools.cache
def node_cases() -> dict[str, Case]:
    """All node cases, by name. Takes some five seconds."""
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collected = node.collect_testcases(None)
    cases = {}
    for each in collected:
        given = each.data_sets[0][0]
        feeds = {value.name: _fed(array) for value, array in zip(each.model.graph.input, given, strict=False)}
        cases[f"node/{each.name}"] = Case(f"node/{each.name}", each.model, feeds)
    return cases


@functools.cache
def version_cases() -> dict[str, Case]:
    """A small network at each opset, in the oldest and the newest IR version that holds it, and at each IR version."""
    oldest: dict[int, int] = {}
    for _, ir_version, opset, *_ in helper.VERSION_TABLE:
        oldest[opset] = min(ir_version, oldest.get(opset, ir_version))
    newest = max(oldest.values())
    versions = [(opset, each) for opset in sorted(oldest) if opset >= _OLDEST_OPSET for each in (oldest[opset], newest)]
    versions += [(17, each) for each in range(_OLDEST_IR, newest + 1)]
    rng = np.random.default_rng(0)
    x = rng.random((2, 3, 8, 8), np.float32)
    weight = numpy_helper.from_array(rng.standard_normal((1, 3, 3, 3)).astype(np.float32), "weight")
    cases = {}
    for opset, ir_version in dict.fromkeys(versions):
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])]
        if ir_version < 4:
            inputs.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [1, 3, 3, 3]))
        graph = helper.make_graph(
            [
                helper.make_node("Conv", ["x", "weight"], ["sum"], pads=[1, 1, 1, 1]),
                helper.make_node("Relu", ["sum"], ["map"]),
                helper.make_node("GlobalMaxPool", ["map"], ["peak"]),
                helper.make_node("Flatten", ["peak"], ["score"]),
            ],
            "network",
            inputs,
            [
                helper.make_tensor_value_info("map", TensorProto.FLOAT, ["N", 1, 8, 8]),
                helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1]),
            ],
            [weight],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
        name = f"version/opset {opset}, IR {ir_version}"
        cases[name] = Case(name, model, {"x": x})
    return cases
