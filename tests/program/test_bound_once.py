"""Each verb binds the post-processor only once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pp_graph as pp
from pp_graph.program import program
from tests.conftest import DEMO

STATS = pp.Statistics.load(DEMO / "stats.json")
RAW = DEMO / "raw.onnx"


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The post-processors that are bound from now on."""
    found: list[object] = []
    compile_program = program.Program.compile.__func__

    def counted(cls: type, post: object, signature: object) -> object:
        found.append(post)
        return compile_program(cls, post, signature)

    monkeypatch.setattr(program.Program, "compile", classmethod(counted))
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bound")
    fused = pp.fuse(RAW, pp.OneClassPostProcessor(STATS))
    fused.save(folder / "fused.onnx")
    pp.convert(fused).save(folder / "model.xml")
    return folder


VERBS: dict[str, tuple[Callable[[Path], object], int]] = {
    "fuse": (lambda _: pp.fuse(RAW, pp.OneClassPostProcessor(STATS)), 1),
    "fuse and convert": (lambda _: pp.convert(pp.fuse(RAW, pp.OneClassPostProcessor(STATS))), 1),
    "convert a raw model": (lambda _: pp.convert(RAW, post=pp.OneClassPostProcessor(STATS)), 1),
    "convert a fused model": (lambda folder: pp.convert(folder / "fused.onnx"), 0),
    "verify a fused model": (lambda folder: pp.verify(RAW, folder / "fused.onnx", DEMO / "images", batch_size=2), 1),
    "verify an IR": (lambda folder: pp.verify(RAW, folder / "model.xml", DEMO / "images", batch_size=2), 1),
    "fuse and verify": (lambda _: pp.verify(RAW, pp.fuse(RAW, pp.OneClassPostProcessor(STATS)), DEMO / "images"), 1),
    "retune a fused file": (
        lambda folder: pp.retune(
            folder / "fused.onnx", image_sensitivity=0.4, output=folder / "a.onnx", overwrite=True
        ),
        1,
    ),
    "retune an IR": (
        lambda folder: pp.retune(folder / "model.xml", image_sensitivity=0.4, output=folder / "a.xml", overwrite=True),
        1,
    ),
    "retune with other operators": (
        lambda folder: pp.retune(folder / "model.xml", image_sensitivity=0.0, output=folder / "b.xml", overwrite=True),
        1,
    ),
    "retune in memory": (lambda folder: pp.retune(pp.open(folder / "model.xml"), pixel_sensitivity=0.4), 1),
    "benchmark": (
        lambda folder: pp.benchmark(RAW, [folder / "model.xml"], against=[], seconds=0.1, memory=False),
        1,
    ),
    "run": (lambda folder: pp.load(folder / "model.xml")(DEMO / "images"), 0),
    "strip": (lambda folder: pp.strip(folder / "fused.onnx"), 0),
    "inspect": (lambda folder: pp.inspect(folder / "model.xml"), 1),
    "calibrate an IR": (lambda folder: pp.calibrate(folder / "model.xml", DEMO / "images", resamples=0), 0),
}


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("verb", VERBS)
def test_steps_are_compiled_once(verb: str, files: Path, bound: list[object]) -> None:
    act, most = VERBS[verb]
    act(files)
    assert len(bound) <= most
