"""Every field of every ONNX message present and empty, filled, in another order, or unknown: strip gives the same bytes.

python -m tests.sweeps.presence [--json result.json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from onnx import TensorProto, helper, numpy_helper

import pp_graph as pp
from pp_graph.errors import PPGraphError

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNKNOWN: Final = b"\xf8\xff\x07\x01"  # field 16383, varint 1
_LEVEL: Final = pp.LevelStatistics(threshold=0.5, min=0.0, max=1.0)
POST: Final = pp.OneClassPostProcessor(pp.Statistics(image=_LEVEL, pixel=_LEVEL))


@dataclass(frozen=True)
class Variation:
    """A model and what is unusual in it."""

    name: str
    model: onnx.ModelProto


def rich_model() -> onnx.ModelProto:
    """A model with subgraphs, a local function, annotations, and metadata and texts at every level."""
    info = helper.make_tensor_value_info
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["hidden"], [f"{kind}_out"], name=kind)],
            f"{kind}_graph",
            [],
            [info(f"{kind}_out", TensorProto.FLOAT, ["N", 4])],
            [numpy_helper.from_array(np.float32([1, 2]), f"{kind}_weight")],
            value_info=[info(f"{kind}_weight", TensorProto.FLOAT, [2])],
        )
        for kind in ("Relu", "Abs")
    ]
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True), "yes_value")),
        helper.make_node("Double", ["x"], ["twice"], name="double", domain="own", factor=2.0),
        helper.make_node("Add", ["twice", "bias"], ["hidden"], name="add"),
        helper.make_node("If", ["yes"], ["chosen"], name="if", then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Odd", ["chosen"], ["odd"], domain="other", ints=[1, 2], floats=[1.0, 2.0], texts=["a", "b"]),
        helper.make_node("ReduceMax", ["chosen"], ["score"], name="max", axes=[1], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "main",
        [info("x", TensorProto.FLOAT, ["N", 4]), info("unused", TensorProto.FLOAT, ["N", 2])],
        [info("score", TensorProto.FLOAT, ["N", 1]), info("odd", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.float32([1, 2, 3, 4]), "bias"), numpy_helper.from_array(np.int64([3]), "spare")],
        value_info=[info("twice", TensorProto.FLOAT, ["N", 4]), info("hidden", TensorProto.FLOAT, ["N", 4])],
        doc_string="text",
    )
    note = graph.quantization_annotation.add(tensor_name="hidden")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="bias")
    note.quant_parameter_tensor_names.add(key="ZERO_POINT_TENSOR", value="spare")
    function = helper.make_function(
        "own",
        "Double",
        ["a"],
        ["c"],
        [helper.make_node("Add", ["a", "a"], ["b"], name="inner"), helper.make_node("Identity", ["b"], ["c"])],
        [helper.make_opsetid("", 17)],
        ["factor"],
    )
    function.value_info.add(name="b").type.tensor_type.elem_type = TensorProto.FLOAT
    imports = [helper.make_opsetid(domain, version) for domain, version in (("", 17), ("own", 1), ("other", 2))]
    model = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=10, producer_name="test")
    for place in (model, graph, graph.node[2], graph.input[0], graph.initializer[0], function, function.node[0]):
        for key in ("z", "a"):
            place.metadata_props.add(key=key, value="v")
    return model


def _messages(message: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield all messages in a message, with paths such as `graph.node[1].attribute[0]`."""
    yield path, message
    for field, value in message.ListFields():
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            continue
        if field.is_repeated:
            for place, entry in enumerate(value):
                yield from _messages(entry, f"{path}.{field.name}[{place}]")
        else:
            yield from _messages(value, f"{path}.{field.name}")


def _fill(message: Any, field: FieldDescriptor, *, empty: bool) -> None:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(message, field.name).SetInParent()
        return
    filled = {str: "text", bytes: b"bytes", int: 1, float: 1.5, bool: True}
    setattr(message, field.name, field.default_value if empty else filled[type(field.default_value)])


def variations() -> Iterator[Variation]:
    """Yield all variations of the rich model."""
    base = rich_model()
    yield Variation("as it is", base)
    for number, (path, message) in enumerate(_messages(base, "model")):
        for field in message.DESCRIPTOR.fields:
            changes = ["filled"] if field.is_repeated else ["empty", "filled"]
            if field.is_repeated and len(getattr(message, field.name)) > 1:
                changes.append("reversed")
            for change in changes:
                changed = onnx.ModelProto()
                changed.CopyFrom(base)
                target = [each for _, each in _messages(changed, "model")][number]
                if not _change(target, field, change):
                    continue
                yield Variation(f"{path}.{field.name} {change}", changed)
        changed = onnx.ModelProto()
        changed.CopyFrom(base)
        [each for _, each in _messages(changed, "model")][number].MergeFromString(_UNKNOWN)
        yield Variation(f"{path} unknown field", changed)
    yield from _unusual_outputs(base)


def _change(target: Any, field: FieldDescriptor, change: str) -> bool:
    before = target.SerializeToString()
    value = getattr(target, field.name)
    if change == "reversed":
        entries = list(value)[::-1]
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            entries = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
        del value[:]
        value.extend(entries)
    elif not field.is_repeated:
        if target.HasField(field.name):
            return False
        _fill(target, field, empty=change == "empty")
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        value.add()
    else:
        value.append({str: "text", bytes: b"bytes", int: 1, float: 1.5}[_python_type(field)])
    return bool(target.SerializeToString() != before)


def _python_type(field: FieldDescriptor) -> type:
    return {
        FieldDescriptor.CPPTYPE_STRING: bytes if field.type == FieldDescriptor.TYPE_BYTES else str,
        FieldDescriptor.CPPTYPE_FLOAT: float,
        FieldDescriptor.CPPTYPE_DOUBLE: float,
    }.get(field.cpp_type, int)


def _unusual_outputs(base: onnx.ModelProto) -> Iterator[Variation]:
    """Yield models whose outputs are listed twice, are inputs or constants, or are declared a second time."""
    info = helper.make_tensor_value_info
    for name, output in {
        "an output that is an input": info("x", TensorProto.FLOAT, ["N", 4]),
        "an output that is an initializer": info("bias", TensorProto.FLOAT, [4]),
        "an output that is a constant": info("yes", TensorProto.BOOL, []),
        "the score listed twice": base.graph.output[0],
        "another output listed twice": base.graph.output[1],
        "an inner value": info("hidden", TensorProto.FLOAT, ["N", 4]),
    }.items():
        changed = onnx.ModelProto()
        changed.CopyFrom(base)
        changed.graph.output.append(output)
        yield Variation(name, changed)
    changed = onnx.ModelProto()
    changed.CopyFrom(base)
    changed.graph.value_info.insert(0, changed.graph.output[0])
    yield Variation("an output in value_info", changed)
    changed = onnx.ModelProto()
    changed.CopyFrom(base)
    changed.graph.value_info.append(changed.graph.input[0])
    yield Variation("an input in value_info", changed)
    every = [base.graph.output[0], base.graph.output[0], base.graph.output[1], base.graph.output[0]]
    changed = onnx.ModelProto()
    changed.CopyFrom(base)
    del changed.graph.output[:]
    changed.graph.output.extend(
        [info("x", TensorProto.FLOAT, ["N", 4]), info("x", TensorProto.FLOAT, ["N", 4]), *every]
    )
    yield Variation("an input listed twice before outputs listed often", changed)
    dense = numpy_helper.from_array(np.float32([1, 2]))
    sparse = helper.make_sparse_tensor(dense, numpy_helper.from_array(np.int64([0, 1])), [4])
    sparse.values.name = "sparse"
    for place, graph in (("main graph", "graph"), ("branch", "body")):
        changed = onnx.ModelProto()
        changed.CopyFrom(base)
        target = changed.graph if graph == "graph" else changed.graph.node[3].attribute[0].g
        target.sparse_initializer.append(sparse)
        yield Variation(f"a sparse initializer in the {place}", changed)
    changed = onnx.ModelProto()
    changed.CopyFrom(base)
    changed.graph.node.insert(0, helper.make_node("Constant", [], ["thin"], sparse_value=sparse))
    yield Variation("a sparse constant", changed)


def try_variation(variation: Variation, folder: Path, *, keep_raw: bool = False) -> tuple[str, str]:
    """Fuse and strip a model.

    Returns:
        `equal`, `refused`, `different` or `crashed`, and why.
    """
    raw = folder / "raw.onnx"
    content = variation.model.SerializeToString()
    raw.write_bytes(content)
    try:
        fused = pp.fuse(raw, POST, score_output="score", keep_raw=keep_raw)
    except PPGraphError as error:
        return "refused", str(error)
    except Exception as error:
        return "crashed", f"fuse: {type(error).__name__}: {error}"
    try:
        path = fused.save(folder / "fused.onnx", overwrite=True)
        stripped = pp.strip(path).save(folder / "stripped.onnx", overwrite=True).read_bytes()
    except Exception as error:  # what was fused can be stripped
        return "crashed", f"strip: {type(error).__name__}: {error}"
    return ("equal", "") if stripped == content else ("different", f"{len(content)} bytes became {len(stripped)}")


def sweep(every: int = 1) -> list[dict[str, str]]:
    """Try every n-th variation."""
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for place, variation in enumerate(variations()):
            if place % every == 0:
                kind, why = try_variation(variation, Path(folder), keep_raw=place % 2 == 1)
                records.append({"variation": variation.name, "kind": kind, "reason": why})
    return records


def counts(records: list[dict[str, str]]) -> dict[str, int]:
    """Count the records of each kind."""
    return dict(Counter(record["kind"] for record in records))


def main() -> None:
    """Run the sweep and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    records = sweep()
    for record in records:
        if record["kind"] in ("different", "crashed"):
            print(record["kind"], record["variation"], record["reason"])
    print(counts(records))
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
