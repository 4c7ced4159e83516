"""What is written depends on the input alone: not on the process, hash seed, folder, locale or what ran before."""

from __future__ import annotations

import hashlib
import locale
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import pp_graph as pp
from tests.conftest import DEMO, ROOT
from tests.detectors import detector
from tests.models import STATS

_COMMA = "de_DE.UTF-8"


def write_all(folder: Path) -> dict[str, str]:
    """Fuse, convert, retune and strip in a folder.

    Returns:
        Hash by name of each file.
    """
    shutil.copy(DEMO / "raw.onnx", folder)
    onnx.save(detector((8, 84)), folder / "detector.onnx")
    anomaly = pp.OneClassPostProcessor(STATS)
    tuned = pp.OneClassPostProcessor(STATS, image_sensitivity=0.3)
    fused = pp.fuse(folder / "raw.onnx", anomaly)
    fused.save(folder / "fused.onnx")
    pp.strip(folder / "fused.onnx").save(folder / "stripped.onnx")
    for precision in ("f32", "f16"):
        artifact = pp.convert(fused, precision=precision)
        artifact.save(folder / f"{precision}.xml")
        artifact.with_program(tuned.bind(pp.RawModel.open(folder / "raw.onnx"))).save(folder / f"{precision}_tuned.xml")
    frames = pp.Preprocessing(dtype="u8", scale=(255.0,), resize="linear")
    pp.convert(fused, preprocessing=frames).save(folder / "frames.xml")
    boxes = pp.DetectionPostProcessor(head="yolov8")
    pp.convert(folder / "detector.onnx", post=boxes).save(folder / "boxes.xml")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def _in_new_process(folder: Path, seed: int, lang: str = "C.UTF-8") -> str:
    folder.mkdir(parents=True)
    code = "import sys; from tests.project.test_same_bytes import main; main(*sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, str(folder), lang],
        check=True,
        cwd=folder.parent,
        env={**os.environ, "PYTHONHASHSEED": str(seed), "LC_ALL": lang, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def main(folder: str, lang: str) -> None:
    """Write all in this process, and print the hashes."""
    locale.setlocale(locale.LC_ALL, lang)
    for name, digest in write_all(Path(folder)).items():
        print(name, digest)


def test_another_process_hash_seed_and_folder(tmp_path: Path) -> None:
    first = _in_new_process(tmp_path / "one", 1)
    assert len(first.splitlines()) > 20
    assert _in_new_process(tmp_path / "folders with spaces" / "two", 2) == first


def test_again_in_the_same_process(tmp_path: Path) -> None:
    written = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        written.append(write_all(tmp_path / place))
    assert written[0] == written[1]


def test_a_locale_with_decimal_commas(tmp_path: Path) -> None:
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, _COMMA)
    except locale.Error:
        pytest.skip(f"the locale {_COMMA} is not installed")
    finally:
        locale.setlocale(locale.LC_ALL, before)
    # OpenVINO reads -0.75 as -0 there, unless the reading thread has another locale.
    assert _in_new_process(tmp_path / "comma", 1, _COMMA) == _in_new_process(tmp_path / "point", 1)


def test_names_of_the_model_stay() -> None:
    fused = pp.fuse(DEMO / "raw.onnx", pp.OneClassPostProcessor(STATS))
    named = {node.name for node in fused.network.model.graph}
    network = pp.convert(fused).network
    names = {node.get_friendly_name() for node in network.get_ordered_ops()}
    assert len(names & named) > len(named) // 2
    assert len(names) == len(network.get_ordered_ops())
