"""Starting is quick: heavy packages load only when they are needed. And inference reads no declared inner shapes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx_ir as ir
from onnx import numpy_helper

from pp_graph.model.shape_inference import ShapeInference
from tests.conftest import DEMO
from tests.models import from_text

FUSE = f"""
import sys, pp_graph as pp
pp.convert({str(DEMO / "raw.onnx")!r}, post=pp.OneClassPostProcessor(pp.Statistics.load({str(DEMO / "stats.json")!r})))
"""


def output_of(code: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def test_converting_needs_no_sympy_and_no_reference_evaluator() -> None:
    assert output_of(f"{FUSE}\nprint('sympy' in sys.modules, 'onnx.reference' in sys.modules)") == ["False"] * 2


def test_symbolic_sizes_compute_in_any_thread() -> None:
    code = f"""{FUSE}
from concurrent.futures import ThreadPoolExecutor
import onnx_ir as ir
with ThreadPoolExecutor(8) as pool:
    print(*pool.map(lambda _: (ir.SymbolicDim("N") * 2).value, range(8)))
import sympy
print(type(sympy).__name__, sympy.Symbol("x") + 1 == sympy.sympify("x + 1"))
"""
    assert output_of(code) == [*["2*N"] * 8, "module", "True"]


def test_declared_inner_shapes_prove_nothing() -> None:
    proto = from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        raw (float[N,2,4] image, bool flag) => (float[7] total) <float[N,9] flat> {
            flat = Reshape(image, sizes)
            one = Identity(flat)
            total = If(flag) <then_branch = a () => (float[5] first) { first = Identity(one) },
                              else_branch = b () => (float[5] second) { second = Neg(one) }>
        }"""
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0, 8], np.int64), "sizes"))
    found = ShapeInference(ir.from_proto(proto)).infer()
    assert {name: found[name].shape for name in ("flat", "one", "total")} == dict.fromkeys(
        ("flat", "one", "total"), ("N", 8)
    )
    assert found["total"].dtype == "FLOAT"
