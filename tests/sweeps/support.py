"""Quick tests with the lowest and the newest version of every dependency that pyproject.toml allows.

    python -m tests.sweeps.support [--resolution lowest] [--keep FOLDER] [--write]

Needs uv. `--write` replaces the tables in docs/compatibility.md. torch, and what needs it, is left out: the tests are
written with the one version that the extra `test` pins.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.sweeps.tools import write_section

ROOT: Final = Path(__file__).parents[2]
EXTRAS: Final = ("report", "calibration", "quantize", "onnxscript", "video", "fleet")
LEFT_OUT: Final = ("torch", "lightning", "anomalib")
_TEST_TOOLS: Final = ("hypothesis", "openvino-model-api", "pycocotools", "pytest", "pytest-xdist")
RESOLUTIONS: Final = {"lowest": "lowest-direct", "newest": "highest"}
QUICK: Final = (
    "tests/values", "tests/program", "tests/statistics/test_statistics.py", "tests/fusion/test_fusion.py",
    "tests/fusion/test_axis_matrices.py", "tests/model/test_opset_raising.py", "tests/retuning/test_retuning.py",
    "tests/verification/test_verification.py", "tests/openvino/test_conversion.py", "tests/openvino/test_version.py",
    "tests/calibration/test_calibration.py", "tests/calibration/test_average_precision.py", "tests/cli/test_cli.py",
    "tests/report/test_calibration_report.py", "tests/data/test_images.py", "tests/video/test_video.py",
    "tests/workers/test_calibrating.py",
    "tests/quantization/test_quantization.py::test_an_ir_that_nncf_quantised_is_not_retuned",
)  # fmt: skip
"""One or two files for what each dependency is used for."""


@dataclass(frozen=True)
class Result:
    """What the quick tests said with one resolution.

    Attributes:
        resolution: `lowest` or `newest`.
        versions: Version of each package that was installed.
        summary: pytest's last line.
        failed: Names of the failed tests.
    """

    resolution: str
    versions: dict[str, str]
    summary: str
    failed: tuple[str, ...]


def requirements() -> dict[str, str]:
    """Return the allowed versions by name: dependencies first, then those of the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *(each for extra in (*EXTRAS, *LEFT_OUT) for each in extras[extra])]
    listed += [each for each in extras["test"] if re.split(r"[<>=\[]", each)[0] in _TEST_TOOLS]
    split = (re.match(r"([\w.-]+)(.*)", each) for each in listed if not each.startswith("pp_graph"))
    return {match[1]: match[2] for match in split if match}


def try_resolution(resolution: str, folder: Path) -> Result:
    """Install one version of everything into a new environment, and run the quick tests there."""
    wanted = folder / f"{resolution}.in"
    names = {name: allowed for name, allowed in requirements().items() if name not in LEFT_OUT}
    wanted.write_text("".join(f"{name}{allowed}\n" for name, allowed in names.items()))
    pinned, home = folder / f"{resolution}.txt", folder / resolution
    _uv("pip", "compile", wanted, "--resolution", RESOLUTIONS[resolution], "--python", sys.executable, "-o", pinned)
    _uv("venv", "--python", sys.executable, home)
    python = home / "bin" / "python"
    _uv("pip", "install", "--python", python, "-r", pinned)
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *QUICK],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()]
    failed = tuple(line.split(" - ")[0] for line in lines if line.startswith(("FAILED", "ERROR")))
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)", pinned.read_text(), flags=re.MULTILINE))
    return Result(resolution, versions, re.sub(r" in .*|=", "", lines[-1]).strip(), failed)


def _uv(*arguments: object) -> None:
    subprocess.run(["uv", *map(str, arguments), "--quiet"], check=True)


def table(results: list[Result]) -> str:
    """Return both tables as Markdown."""
    python = ".".join(platform.python_version_tuple()[:2])
    lines = ["| Python | versions | quick tests |", "|---|---|---|"]
    lines += [f"| {python} | {each.resolution} | {each.summary} |" for each in results]
    lines += [f"| {other} | lowest and newest | not run here |" for other in pythons() if other != python]
    heads = [each.resolution for each in results]
    lines += ["", f"| package | allowed | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for name, allowed in requirements().items():
        found = ["not run here" if name in LEFT_OUT else each.versions.get(name.lower(), "—") for each in results]
        lines.append(f"| {name} | {allowed} | {' | '.join(found)} |")
    return "\n".join(lines)


def pythons() -> list[str]:
    """Pythons that pyproject.toml names, such as 3.11."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [match[1] for each in project["classifiers"] if (match := re.search(r":: (3\.\d+)$", each))]


def main() -> None:
    """Run the tests with each resolution, print the tables, and write them into the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", choices=RESOLUTIONS, action="append")
    parser.add_argument("--keep", type=Path, help="folder for the environments; a temporary one by default")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = [try_resolution(each, folder) for each in arguments.resolution or RESOLUTIONS]
    for result in results:
        print(result.resolution, result.summary, *result.failed, sep="\n  ")
    print(table(results))
    if arguments.write:
        write_section("versions", table(results))
    sys.exit(any(result.failed for result in results))


if __name__ == "__main__":
    main()
