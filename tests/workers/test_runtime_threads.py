"""A worker runs a runtime with its own threads, which change no number."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import pp_graph as pp
from pp_graph.raw_values import open_raw_values
from pp_graph.sessions import OnnxSession
from pp_graph.sessions.threads import limited_threads
from tests.conftest import DEMO


def test_threads_change_no_number(demo_ir_path: Path, demo_images: np.ndarray) -> None:
    for model in (DEMO / "raw.onnx", demo_ir_path):
        found = []
        for count in (None, 1, 3):
            with limited_threads(count):
                values = open_raw_values(model)
            found.append(values.run({values.inputs[0].name: demo_images[:5]}))
        for other in found[1:]:
            assert all(np.array_equal(found[0][role], other[role]) for role in found[0])


def test_the_limit_holds_for_sessions_opened_inside(demo_ir_path: Path) -> None:
    with limited_threads(1):
        session = OnnxSession(pp.RawModel.open(DEMO / "raw.onnx"))
        compiled = pp.open(demo_ir_path).session("CPU")
    assert session._session.get_session_options().intra_op_num_threads == 1
    assert compiled._open.compiled.get_property("INFERENCE_NUM_THREADS") == 1
    other = OnnxSession(pp.RawModel.open(DEMO / "raw.onnx"))
    assert other._session.get_session_options().intra_op_num_threads == 0
