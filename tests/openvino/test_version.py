"""The versions of OpenVINO that the post-processing in float32 was checked with."""

from __future__ import annotations

import re
import tomllib

import openvino as ov

from tests.conftest import ROOT

CHECKS = """
OpenVINO moved to {found}, and pyproject.toml allows {allowed}. Before raising the bound, check what rests on its behaviour:
  pytest tests/openvino tests/verification                  marks of float32, workarounds, cutoffs in bf16 and f16
  pytest -m "slow or hypothesis"                            all steps against NumPy, on every precision
  pytest tests/integrations/test_anomalib_models.py         real exports (extra anomalib)
  grep -rn "OpenVINO 20" pp_graph                           each defect that is worked around: is it still there?
  python benchmarks/runtime_ratios.py --cases CASES --summary
"""


def test_the_installed_openvino_is_one_that_was_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (allowed,) = [each for each in project["dependencies"] if re.match(r"openvino\b", each)]
    low, high = re.fullmatch(r"openvino>=(\d+\.\d+),<(\d+\.\d+)", allowed).groups()  # type: ignore[union-attr]
    found = re.match(r"(\d+)\.(\d+)", ov.get_version())
    assert found is not None
    version = tuple(map(int, found.groups()))
    bounds = [tuple(map(int, each.split("."))) for each in (low, high)]
    assert bounds[0] <= version < bounds[1], CHECKS.format(found=ov.get_version(), allowed=allowed)
