"""Scripts of exporters run as they stand, where the exporter is installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPTS = sorted((ROOT / "examples" / "exporters").glob("*.py"))
NEEDS = {
    "from_torch": ["torch"],
    "from_timm": ["timm", "torchvision"],
    "from_torchvision": ["torchvision"],
    "from_ultralytics": ["ultralytics"],
    "from_optimum": ["optimum.exporters.onnx", "transformers"],
    "from_tensorflow": ["tensorflow", "tf2onnx"],
    "from_paddle": ["paddle", "paddle2onnx"],
    "from_sklearn": ["sklearn", "skl2onnx"],
}


def missing(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        return True


def test_scripts_are_short_and_listed() -> None:
    page = (ROOT / "docs" / "exporters.md").read_text("utf-8")
    assert {script.stem for script in SCRIPTS} == set(NEEDS)
    for script in SCRIPTS:
        lines = [
            line for line in script.read_text("utf-8").splitlines()[1:] if line.strip() and not line.startswith("#")
        ]
        assert len(lines) <= 15, script
        assert f"](../examples/exporters/{script.name})" in page


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script(script: Path, tmp_path: Path) -> None:
    absent = [module for module in NEEDS[script.stem] if missing(module)]
    if absent:
        pytest.skip(f"{absent[0]} is not installed: pip install {absent[0].split('.')[0]}")
    found = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    assert "PASSED: all decisions" in found.stdout
    (model,) = tmp_path.glob("*.xml")
    assert model.with_suffix(".bin").exists()
