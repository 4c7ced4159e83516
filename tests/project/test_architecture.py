"""Imports between packages point one way, and the light parts stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import pp_graph
from tests.conftest import ROOT

PACKAGE = ROOT / "pp_graph"

# Package -> packages it may import; what those may import is allowed too.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "summary": set(),
    "reprs": set(),
    "progress": set(),
    "files": {"errors"},
    "saving": {"errors", "files", "summary"},
    "extras": {"errors"},
    "urls": {"errors", "extras"},
    "yaml_document": {"errors"},
    "one_class_options": {"errors"},
    "values": set(),
    "preprocessing": {"errors"},
    "model": {"errors", "files", "reprs", "urls"},
    "statistics": {"model", "one_class_options", "version", "summary"},
    "steps": {"model", "values"},
    "program": {"steps", "statistics"},
    "postprocessors": {"program", "one_class_options", "yaml_document"},
    "sessions": {"model"},
    "fusion": {"postprocessors", "preprocessing", "sessions", "version", "summary"},
    "data": {"model", "extras", "preprocessing"},
    "video": {"data"},
    "openvino": {"fusion"},
    "opening": {"openvino"},
    "sketching": {"openvino"},
    "quantization": {"openvino", "data", "progress"},
    "conversion": {"quantization"},
    "retuning": {"opening"},
    "raw_values": {"conversion", "opening"},
    "plausibility": {"fusion"},
    "workers": {"opening", "extras", "version"},
    "calibration": {"progress", "raw_values", "data", "version", "summary", "saving", "workers"},
    "verification": {"progress", "workers", "raw_values", "data", "plausibility", "summary", "saving"},
    "interpreter": {"program"},
    "benchmarking": {"progress", "raw_values", "interpreter", "data", "summary", "saving"},
    "precision": {"progress", "calibration", "verification", "benchmarking", "quantization"},
    "monitoring": {"progress", "data", "fusion", "summary", "saving"},
    "running": {"conversion", "opening", "data", "video", "progress"},
    "report": {
        "progress",
        "workers",
        "verification",
        "benchmarking",
        "calibration",
        "monitoring",
        "running",
        "sketching",
        "version",
    },
    "exploring": {"progress", "report"},
    "release_checks": {"verification", "benchmarking", "summary", "yaml_document"},
    "fleet": {"workers", "precision", "retuning", "report", "packaging", "yaml_document", "extras"},
    "packaging": {"benchmarking", "running"},
    "inspection": {"opening", "report", "packaging", "workers"},
    "demo": {"report"},
    "integrations": {"demo", "inspection", "benchmarking", "retuning"},
    "cli": {
        "demo",
        "exploring",
        "release_checks",
        "fleet",
        "inspection",
        "benchmarking",
        "retuning",
        "precision",
        "packaging",
    },
}


def allowed(package: str) -> set[str]:
    found = {package}
    for below in MAY_IMPORT[package]:
        found |= allowed(below)
    return found


def package_of(parts: Sequence[str]) -> str:
    # The interpreter needs torch, but no other integration: benchmarks time it, too.
    return "interpreter" if list(parts[:3]) == ["integrations", "torch", "interpreter"] else parts[0]


def package_of_file(file: Path) -> str:
    return package_of(file.relative_to(PACKAGE).with_suffix("").parts)


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if package_of_file(file) not in ("__init__", "__main__")]


def imported_packages(file: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pp_graph":
            parts = node.module.split(".")
            packages |= {package_of(parts[1:])} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            packages |= {
                package_of(name.name.split(".")[1:]) for name in node.names if name.name.startswith("pp_graph.")
            }
    return packages


@pytest.mark.parametrize("package", sorted(set(map(package_of_file, FILES))))
def test_imports_point_one_way(package: str) -> None:
    assert package in MAY_IMPORT, f"package '{package}' is not on the map"
    for file in FILES:
        if package_of_file(file) == package:
            forbidden = imported_packages(file) - allowed(package)
            assert not forbidden, f"{file.name} in '{package}' imports {forbidden}"


def test_every_export_exists_and_is_listed() -> None:
    assert set(pp_graph._EXPORTS) | {"__version__"} == set(pp_graph.__all__)
    for name in pp_graph.__all__:
        assert getattr(pp_graph, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = pp_graph.nonsense


@pytest.mark.parametrize("code", ["import pp_graph", "from pp_graph.cli import run; run(['--help'])"])
def test_stays_light(code: str) -> None:
    heavy = "{'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'openvino', 'PIL', 'torch', 'rich', 'msgspec', 'matplotlib'}"
    check = f"{code}\nimport sys\nloaded = {heavy} & set(sys.modules)\nassert not loaded, loaded"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)


def test_fusing_loads_no_runtime() -> None:
    code = (
        "import pp_graph as pp, sys\n"
        f"post = pp.OneClassPostProcessor(pp.Statistics.load({str(PACKAGE / 'demo/data/stats.json')!r}))\n"
        f"pp.fuse({str(PACKAGE / 'demo/data/raw.onnx')!r}, post, tail=False)\n"
        "loaded = {'onnxruntime', 'openvino', 'torch', 'PIL'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        # Rewrites of the tail are tried out, in onnxruntime.
        f"pp.fuse({str(PACKAGE / 'demo/data/raw.onnx')!r}, post)\n"
        "loaded = {'openvino', 'torch', 'PIL'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_public_functions_are_documented() -> None:
    for name in (
        "calibrate",
        "calibrate_scores",
        "choose_precision",
        "convert",
        "drift",
        "explore",
        "fuse",
        "inspect",
        "load",
        "open_video",
        "package",
        "retune",
        "run_fleet",
        "strip",
        "verify",
    ):
        doc = getattr(pp_graph, name).__doc__
        assert "Args:" in doc
        assert "Returns:" in doc
        assert "Raises:" in doc


def test_no_file_grows_past_reading() -> None:
    for file in FILES:
        assert len(file.read_text().splitlines()) <= 500, file
