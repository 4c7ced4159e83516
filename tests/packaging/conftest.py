from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pp_graph as pp
from pp_graph.cli import run
from tests.conftest import DEMO


@pytest.fixture(scope="session")
def adjustable_ir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model with cutoffs that change while it runs."""
    post = pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"), thresholds="runtime")
    return pp.convert(pp.fuse(DEMO / "raw.onnx", post)).save(tmp_path_factory.mktemp("ir") / "model.xml")


@pytest.fixture(scope="session")
def python_package(tmp_path_factory: pytest.TempPathFactory, adjustable_ir: Path) -> Path:
    folder = tmp_path_factory.mktemp("package") / "deploy"
    assert run(["package", str(adjustable_ir), "--images", str(DEMO / "images"), "-o", str(folder)]) == 0
    return folder


def program(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of a package in its folder, as a user would."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
