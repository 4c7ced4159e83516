"""Processor time and memory of fuse, strip, inspect, retune and convert as a model grows in one direction.

python -m tests.sweeps.growth [--json result.json]
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

import pp_graph as pp
from pp_graph.steps import Compare, ComparePerClass, Temperature

if TYPE_CHECKING:
    from collections.abc import Callable

_LEVEL: Final = pp.LevelStatistics(threshold=0.5, min=0.0, max=1.0)
_ANOMALY: Final = pp.OneClassPostProcessor(pp.Statistics(image=_LEVEL, pixel=_LEVEL))
FACTOR: Final = 2.0
"""Allowed above linear growth times a logarithm; quadratic growth from n to 4n is 4 times linear."""
_LEAST_SECONDS: Final = 0.02
_LEAST_BYTES: Final = 300_000


def _model(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any]) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "grown", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _chain(count: int) -> list[onnx.NodeProto]:
    names = ["x", *(f"a{place}" for place in range(count)), "raw_map"]
    return [helper.make_node("Relu", [one], [other]) for one, other in itertools.pairwise(names)]


def operators(count: int) -> tuple[onnx.ModelProto, pp.PostProcessor]:
    """A chain of operators without a layer."""
    return _model(_chain(count), [_value("x", "N", 1, 8, 8)], [_value("raw_map", "N", 1, 8, 8)]), _ANOMALY


def branches(count: int) -> tuple[onnx.ModelProto, pp.PostProcessor]:
    """Values that are each added to all before: every one is read twice."""
    nodes = [helper.make_node("Relu", ["x"], ["s0"])]
    for place in range(count):
        nodes.append(helper.make_node("Abs", [f"s{place}"], [f"a{place}"]))
        nodes.append(helper.make_node("Add", [f"s{place}", f"a{place}"], [f"s{place + 1}"]))
    nodes.append(helper.make_node("Relu", [f"s{count}"], ["raw_map"]))
    return _model(nodes, [_value("x", "N", 1, 8, 8)], [_value("raw_map", "N", 1, 8, 8)]), _ANOMALY


def doublings(count: int) -> tuple[onnx.ModelProto, pp.PostProcessor]:
    """Values that are each twice the one before: paths double with each."""
    names = ["x", *(f"a{place}" for place in range(count))]
    nodes = [helper.make_node("Add", [one, one], [other]) for one, other in itertools.pairwise(names)]
    nodes.append(helper.make_node("Relu", [names[-1]], ["raw_map"]))
    return _model(nodes, [_value("x", "N", 1, 8, 8)], [_value("raw_map", "N", 1, 8, 8)]), _ANOMALY


def sizes(count: int) -> tuple[onnx.ModelProto, pp.PostProcessor]:
    """Sizes of a Reshape that go through many operators."""
    names = ["list", *(f"i{place}" for place in range(count))]
    nodes = [helper.make_node("Shape", ["x"], ["list"])]
    nodes += [helper.make_node("Identity", [one], [other]) for one, other in itertools.pairwise(names)]
    nodes.append(helper.make_node("Reshape", ["x", names[-1]], ["raw_map"]))
    return _model(nodes, [_value("x", "N", 1, 8, 8)], [_value("raw_map", "N", 1, 8, 8)]), _ANOMALY


def outputs(count: int) -> tuple[onnx.ModelProto, pp.PostProcessor]:
    """Outputs that no step reads."""
    nodes = [*_chain(1), *(helper.make_node("ReduceSum", ["x"], [f"o{place}"], keepdims=0) for place in range(count))]
    declared = [_value("raw_map", "N", 1, 8, 8), *(_value(f"o{place}") for place in range(count))]
    return _model(nodes, [_value("x", "N", 1, 8, 8)], declared), _ANOMALY


def inputs(count: int) -> tuple[onnx.ModelProto, pp.PostProcessor]:
    """Inputs of one sum."""
    names = [f"x{place}" for place in range(count)]
    nodes = [helper.make_node("Sum", names, ["raw_map"])]
    declared = [_value(name, "N", 1, 8, 8) for name in names]
    return _model(nodes, declared, [_value("raw_map", "N", 1, 8, 8)]), _ANOMALY


def nesting(count: int) -> tuple[onnx.ModelProto, pp.PostProcessor]:
    """Ifs in Ifs."""
    inner = helper.make_graph([helper.make_node("Relu", ["x"], ["y0"])], "g0", [], [_value("y0", "N", 1, 8, 8)])
    for depth in range(1, count + 1):
        other = helper.make_graph(
            [helper.make_node("Abs", ["x"], [f"z{depth}"])], f"h{depth}", [], [_value(f"z{depth}", "N", 1, 8, 8)]
        )
        node = helper.make_node("If", ["yes"], [f"y{depth}"], then_branch=inner, else_branch=other)
        inner = helper.make_graph([node], f"g{depth}", [], [_value(f"y{depth}", "N", 1, 8, 8)])
    nodes = [*inner.node, helper.make_node("Relu", [f"y{count}"], ["raw_map"])]
    yes = helper.make_tensor_value_info("yes", TensorProto.BOOL, [])
    return _model(nodes, [_value("x", "N", 1, 8, 8), yes], [_value("raw_map", "N", 1, 8, 8)]), _ANOMALY


def steps(count: int) -> tuple[onnx.ModelProto, pp.PostProcessor]:
    """Steps in a row, and a decision about the last. Its cutoff is found through all of them."""
    names = ["raw_map", *(f"t{place}" for place in range(count))]
    rows: list[Any] = [Temperature(one, other, temperature=1.01) for one, other in itertools.pairwise(names)]
    rows.append(Compare(names[-1], "above", level=0.5))
    return operators(1)[0], pp.RecipePostProcessor(recipe=tuple(rows), declared_outputs=(pp.Output("above"),))


def decisions(count: int) -> tuple[onnx.ModelProto, pp.PostProcessor]:
    """Decisions about one value."""
    rows: list[Any] = [Temperature("raw_map", "t", temperature=1.01)]
    names = [f"d{place}" for place in range(count)]
    rows += [Compare("t", name, level=0.5) for name in names]
    return operators(1)[0], pp.RecipePostProcessor(recipe=tuple(rows), declared_outputs=tuple(map(pp.Output, names)))


def classes(count: int) -> tuple[onnx.ModelProto, pp.PostProcessor]:
    """Classes with a limit and a name each."""
    nodes = [helper.make_node("Relu", ["x"], ["logits"])]
    levels = tuple(float(level) for level in np.linspace(0.1, 0.9, count))
    names = tuple(f"class {place}" for place in range(count))
    post = pp.ClassificationPostProcessor(multi_label=levels, labels=names)
    return _model(nodes, [_value("x", "N", count)], [_value("logits", "N", count)]), post


def levels(count: int) -> tuple[onnx.ModelProto, pp.PostProcessor]:
    """Limits of a comparison by class."""
    nodes = [helper.make_node("Relu", ["x"], ["raw_map"])]
    each = tuple(float(level) for level in np.linspace(0.1, 0.9, count))
    post = pp.RecipePostProcessor(
        recipe=(ComparePerClass("raw_map", "above", each),),
        roles=(pp.Role("raw_map", ("NCHW",)),),
        declared_outputs=(pp.Output("above"),),
    )
    return _model(nodes, [_value("x", "N", count, 2, 2)], [_value("raw_map", "N", count, 2, 2)]), post


DIRECTIONS: Final[dict[str, tuple[Callable[[int], tuple[onnx.ModelProto, pp.PostProcessor]], int]]] = {
    "operators": (operators, 1500),
    "branches": (branches, 150),
    "doublings": (doublings, 100),
    "sizes": (sizes, 800),
    "outputs": (outputs, 400),
    "inputs": (inputs, 400),
    "nesting": (nesting, 4),
    "steps": (steps, 50),
    "decisions": (decisions, 50),
    "classes": (classes, 2000),
    "levels": (levels, 2000),
}
"""Model and smallest size by direction."""
VERBS: Final = ("fuse", "strip", "inspect", "convert")


def _run(verb: str, raw: Path, post: pp.PostProcessor) -> Callable[[], object]:
    fused = raw.with_name("fused.onnx")
    if verb == "fuse":
        return lambda: pp.fuse(raw, post).save(fused, overwrite=True)
    pp.fuse(raw, post).save(fused, overwrite=True)
    if verb == "strip":
        return lambda: pp.strip(fused)
    if verb == "inspect":
        return lambda: (pp.inspect(raw, post=post, tail=True), pp.inspect(fused))
    return lambda: pp.convert(fused)


def measure(direction: str, verb: str, *, size: int | None = None, repeats: int = 3) -> dict[str, Any]:
    """Measure one verb at n, 2n and 4n.

    Returns:
        `sizes`, `seconds` of processor time (the least of some runs), and `bytes` at the peak for n and 4n.
    """
    build, least = DIRECTIONS[direction]
    sizes = [(size or least) * factor for factor in (1, 2, 4)]
    seconds: list[float] = []
    peaks: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in sizes:
            model, post = build(count)
            raw = Path(folder) / "raw.onnx"
            onnx.save(model, raw)
            run = _run(verb, raw, post)
            run()
            times = []
            for _ in range(repeats):
                gc.collect()
                start = time.process_time()
                run()
                times.append(time.process_time() - start)
            seconds.append(min(times))
            if count in (sizes[0], sizes[-1]):  # tracing takes several times as long as the run
                tracemalloc.start()
                run()
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
    return {"direction": direction, "verb": verb, "sizes": sizes, "seconds": seconds, "bytes": peaks}


def excess(record: dict[str, Any]) -> dict[str, float]:
    """Growth from n to 4n divided by that of n log n; what is small counts as the least that can be measured."""
    first, last = record["sizes"][0], record["sizes"][-1]
    allowed = last * math.log(last) / (first * math.log(first))
    return {
        name: max(record[name][-1], least) / max(record[name][0], least) / allowed
        for name, least in (("seconds", _LEAST_SECONDS), ("bytes", _LEAST_BYTES))
    }


def main() -> None:
    """Measure all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--match", default="")
    arguments = parser.parse_args()
    records = []
    for direction in DIRECTIONS:
        for verb in VERBS:
            if arguments.match not in f"{direction} {verb}":
                continue
            try:
                record = measure(direction, verb)
            except Exception as error:
                print(f"{direction:10} {verb:8} fails: {type(error).__name__}: {str(error)[:200]}", flush=True)
                continue
            record["excess"] = excess(record)
            records.append(record)
            times = ", ".join(f"{seconds:.3f}" for seconds in record["seconds"])
            peaks = ", ".join(f"{peak / 2**20:.1f}" for peak in record["bytes"])
            over = " ".join(f"{value:.2f}" for value in record["excess"].values())
            print(f"{direction:10} {verb:8} {record['sizes']!s:20} {times} s, {peaks} MiB, excess {over}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    sys.exit(main())
