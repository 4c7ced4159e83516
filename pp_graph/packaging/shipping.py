"""Copy the programs and texts of `shipped/` into a package."""

from __future__ import annotations

import shutil
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_SHIPPED: Final = "shipped"


def copy_shipped(name: str, folder: Path) -> None:
    """Copy the files that every package of a kind has, but for texts with names to fill in."""
    source = resources.files("pp_graph.packaging").joinpath(_SHIPPED, name)
    with resources.as_file(source) as files:
        skipped = shutil.ignore_patterns("*.in", "__pycache__")
        shutil.copytree(files, folder, dirs_exist_ok=True, ignore=skipped)
    if name == "common":
        text = resources.files("pp_graph.benchmarking").joinpath("measuring.py").read_text("utf-8")
        (folder / "measuring.py").write_text(text, encoding="utf-8")


def filled(target: str, file: str, /, **values: object) -> str:
    """Return a text of a target with names filled in."""
    text = resources.files("pp_graph.packaging").joinpath(_SHIPPED, target, file).read_text("utf-8")
    return Template(text).substitute(values)
