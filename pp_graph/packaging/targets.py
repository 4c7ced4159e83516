"""What a package can be for. A new target is a function that writes its files, and an entry in `TARGETS`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from pp_graph.model import format_shape
from pp_graph.packaging.cpp import write_cpp
from pp_graph.packaging.servers import repository_path, triton_values, write_ovms, write_triton
from pp_graph.packaging.shipping import copy_shipped, filled
from pp_graph.preprocessing import YUV_ORDERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pp_graph.fusion import Artifact
    from pp_graph.packaging.manifest import InputSpec, Manifest


@dataclass(frozen=True)
class Target:
    """A target.

    Attributes:
        name: Its name on the command line.
        model_path: Path of the model in the package, by the model's name and whether it is an ONNX file.
        write: Writes the target's own files.
        commands: What to type in the package, first.
        takes_onnx: True if a fused ONNX model stays one; otherwise it is converted to OpenVINO.
        values: Further values for its README.
    """

    name: str
    model_path: Callable[[str, bool], str]
    write: Callable[[Path, Manifest, Artifact], None]
    commands: tuple[str, ...]
    takes_onnx: bool = False
    values: Callable[[Manifest, Artifact], dict[str, str]] = lambda _, __: {}


def readme(target: Target, manifest: Manifest, artifact: Artifact) -> str:
    """Return the README of a package."""
    inputs = "\n".join(
        f"| `{each.name}` | {each.dtype} | {format_shape(_sizes(each.shape))} | " + _form(each) + " |"
        for each in manifest.inputs
    )
    outputs = "\n".join(
        f"| `{each.name}` | {each.dtype} | {format_shape(tuple(each.shape))} | {each.description or each.meaning} |"
        for each in manifest.outputs
    )
    cutoffs = ""
    if manifest.cutoffs:
        rows = "\n".join(
            f"| `{name}` | {', '.join('never' if each is None else f'{each:.9g}' for each in cutoff.default)} |"
            for name, cutoff in manifest.cutoffs.items()
        )
        cutoffs = filled("common", "cutoffs.md.in", rows=rows) + "\n"
    own = filled(
        target.name,
        "README.md.in",
        name=manifest.name,
        device=manifest.device,
        cutoffs=cutoffs,
        openvino=_requirement(),
        **target.values(manifest, artifact),
    )
    raw = artifact.provenance.raw
    return own + filled(
        "common",
        "README.md.in",
        inputs=inputs,
        outputs=outputs,
        golden=", ".join(f"`{name}`" for name in manifest.golden.images),
        runtime=manifest.golden.runtime,
        precision=manifest.golden.precision,
        post_processor=artifact.provenance.post_processor,
        raw=raw.file or "a model in memory",
        sha256=raw.sha256[:16],
        version=manifest.pp_graph,
    )


def _requirement() -> str:
    """Return the release of OpenVINO that this package was checked with, as pip reads it."""
    year, release = version("openvino").split(".")[:2]
    return f"openvino=={year}.{release}.*"


def _form(spec: InputSpec) -> str:
    """Say what an input holds."""
    if not spec.layout:
        return ""
    if spec.channel_order in YUV_ORDERS:
        rows = "" if spec.channel_order == "YUYV" else ", of 3/2 of the frame's height"
        return f"{spec.channel_order}: the bytes of a camera's frame{rows}. RGB pictures do not fit"
    return f"{spec.layout}, {spec.channel_order}{', 0 to 1' if spec.scaled else ''}"


def _sizes(shape: list[int | None] | None) -> tuple[int | None, ...] | None:
    return None if shape is None else tuple(shape)


def _write_python(folder: Path, manifest: Manifest, artifact: Artifact) -> None:
    del manifest, artifact
    copy_shipped("python", folder)


TARGETS: Final = (
    Target(
        "python",
        lambda _, __: "model.xml",
        _write_python,
        ("python check.py", "python predict.py golden/0/input_0.npy", "python bench.py -o bench.json"),
    ),
    Target(
        "cpp",
        lambda _, __: "model.xml",
        write_cpp,
        (
            "cmake -B build -DOpenVINO_DIR=\"$(python -c 'import openvino; print(openvino.__path__[0])')/cmake\"",
            "cmake --build build",
            "build/predict --check",
        ),
    ),
    Target("ovms", repository_path, write_ovms, ("python check.py", "less README.md")),
    Target(
        "triton",
        repository_path,
        write_triton,
        ("python check.py", "less README.md"),
        takes_onnx=True,
        values=triton_values,
    ),
)
