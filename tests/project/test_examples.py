"""The examples of steps of one's own run as they are written."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def check(found: dict) -> None:
    assert found["verified"] is True
    assert found["retuned"] is True
    assert found["way"] == "constants"
    assert set(found["milliseconds"]) == {"raw", "model.xml"}
    assert all(time > 0 for time in found["milliseconds"].values())


def pictures(folder: Path) -> int:
    return len(list((folder / "predictions" / "overlays").glob("*.jpg")))


@pytest.mark.slow
def test_custom_step(tmp_path: Path) -> None:
    found = load("custom_step").main(tmp_path)
    check(found)
    # Monotone, so labels and masks are decided at the raw thresholds, but for the rounding of the logarithm.
    assert found["cutoffs"]["pred_label"] == pytest.approx(14.975105, rel=1e-5)
    assert found["cutoffs"]["pred_mask"] == pytest.approx(12.617207, rel=1e-5)
    assert found["retuned_cutoffs"]["pred_label"] == found["cutoffs"]["pred_label"]
    assert found["retuned_cutoffs"]["pred_mask"] > found["cutoffs"]["pred_mask"]


@pytest.mark.slow
def test_classification(tmp_path: Path) -> None:
    found = load("classification").main(tmp_path)
    check(found)
    assert pictures(tmp_path) == 4
    assert found["classes"][:4] == ["red", "green", "blue", "gray"]


@pytest.mark.slow
def test_detection(tmp_path: Path) -> None:
    found = load("detection").main(tmp_path)
    check(found)
    assert pictures(tmp_path) == 4
    # The squares, and no parts of them.
    assert all(count >= 2 for count in found["counts"])
    assert {0, 1} <= set(found["classes"])


def test_segmentation(tmp_path: Path) -> None:
    found = load("segmentation").main(tmp_path)
    assert found["verified"]
    assert found["retuned"]
    assert found["way"] == "constants"
    assert {sum(areas) for areas in found["areas"]} == {64 * 64}
    assert len(list((tmp_path / "predictions" / "masks").glob("*.png"))) == 4
    assert pictures(tmp_path) == 4


@pytest.mark.slow
def test_regions(tmp_path: Path) -> None:
    found = load("regions").main(tmp_path)
    assert found["verified"]
    assert len(list((tmp_path / "predictions" / "overlays").rglob("*.jpg"))) == len(found["defects"])
    assert found["way"] == "constants"
    assert {name: count > 0 for name, count in found["defects"].items()} == {
        name: not name.startswith("good/") for name in found["defects"]
    }


def test_sequence(tmp_path: Path) -> None:
    assert load("sequence").main(tmp_path) == {"verified": True, "texts": ["hello", "hole", "eel"]}
    assert pictures(tmp_path) == 3


@pytest.mark.slow
def test_onnxscript_step(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    found = load("onnxscript_step").main(tmp_path)
    check(found)
    assert set(found["errors"]) == {"calmed_map", "pred_score", "anomaly_map"}


@pytest.mark.slow
def test_torch_step(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    found = load("torch_step").main(tmp_path)
    check(found)
    assert {"contrast", "highest"} & set(found["errors"])
