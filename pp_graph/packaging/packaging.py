"""`package`: a folder that runs a model without pp_graph, and checks and times itself."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pp_graph.conversion import convert
from pp_graph.data import open_images
from pp_graph.errors import DataError, TargetError, VerificationError, counted
from pp_graph.files import check_replaced, folder_replaced
from pp_graph.fusion import FusedModel
from pp_graph.opening import open_artifact
from pp_graph.openvino.devices import RECOMMENDED, chosen_precision, recommended_properties
from pp_graph.openvino.model import OpenVINOModel
from pp_graph.packaging.golden import (
    GoldenImage,
    fixed_names,
    golden_session,
    input_specs,
    output_specs,
    run_golden,
    write_golden,
)
from pp_graph.packaging.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    CutoffSpec,
    GoldenSpec,
    Manifest,
    files_in,
)
from pp_graph.packaging.shipping import copy_shipped
from pp_graph.packaging.targets import TARGETS, Target, readme
from pp_graph.packaging.timing import write_timing
from pp_graph.saving import Saved
from pp_graph.summary import Block, Fields, Line, Remark, size_text
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from pp_graph.data import ImageSource
    from pp_graph.fusion import Artifact


@dataclass(frozen=True, repr=False)
class Package(Saved):
    """A written package.

    Attributes:
        folder: The folder.
        target: What it is for.
        model: File of the model, relative to the folder.
        images: Names of the golden images.
        files: Files, relative to the folder.
        size: Bytes of all files.
        commands: Commands to type next, in the folder.
        notes: Notes for the user.
    """

    folder: Path
    target: str
    model: str
    images: tuple[str, ...]
    files: tuple[str, ...]
    size: int
    commands: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values."""
        return {**dataclasses.asdict(self), "folder": str(self.folder)}

    def summary(self) -> list[Block]:
        """Return the package as tables."""
        return [
            Fields(
                f"Package for {self.target}",
                {
                    "folder": str(self.folder),
                    "model": self.model,
                    "golden images": ", ".join(self.images),
                    "files": f"{counted(len(self.files), 'file')}, {size_text(self.size)}",
                    "check.py here": "all decisions are equal",
                },
            ),
            *(Line(f"{'Next:' if not at else '     '} {command}") for at, command in enumerate(self.commands)),
            *(Remark(f"Note: {note}") for note in self.notes),
        ]

    def __repr__(self) -> str:
        """Return folder and target in a line."""
        return f"<Package {self.folder} for {self.target}: {self.model}, {counted(len(self.images), 'golden image')}>"


def package(
    model: str | Path | Artifact,
    folder: str | Path,
    images: ImageSource,
    *,
    target: str = "python",
    name: str | None = None,
    raw: str | Path | None = None,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
    overwrite: bool = False,
    **reading: Any,
) -> Package:
    """Write a folder that runs a model without pp_graph, and that checks and times itself where it lands.

    The folder holds the model, what its target needs, three golden images with their results, `check.py`, which
    compares with them, and `bench.py`, which measures latency. Both need OpenVINO and NumPy alone. `check.py` runs
    once before the folder appears.

    Args:
        model: An IR or a fused ONNX file, or one in memory. A fused model is converted for the CPU, but for `triton`,
            where onnxruntime serves it.
        folder: The folder to write, whole or not at all.
        images: Images, of which the first, one from the middle and the last one become golden images; see
            `pp_graph.data.open_images`.
        target: `python`, `cpp`, `ovms` (OpenVINO Model Server) or `triton`.
        name: Name of the model for servers; None for that of its file.
        raw: The raw model that it was made from, to time it as it was exported; adds its size to the package. None
            times the packaged model up to its raw values.
        fixed_inputs: Values of inputs that are not images; see `pp_graph.data.fix_inputs`.
        overwrite: Replace an earlier package in that folder, and all that is in it.
        reading: Settings of `pp_graph.data.open_images`, such as `letterbox`.

    Returns:
        What was written.

    Raises:
        ModelError: The model or `raw` cannot be used.
        ProvenanceError: The model has no post-processing by pp_graph.
        TargetError: The target is unknown, or OpenVINO cannot read or run the model.
        VerificationError: `check.py` finds other results than pp_graph.
        DataError: The images do not fit the model, the name is not one, or `raw` is another model.
        OutputFileError: The folder cannot be written, or holds something and `overwrite` is false.
    """
    folder = Path(folder)
    kind = _target(target)
    sources = [Path(each) for each in (model, raw, images) if isinstance(each, str | Path)]
    check_replaced(folder, marker=MANIFEST, overwrite=overwrite, inputs=sources)
    artifact = open_artifact(model) if isinstance(model, str | Path) else model
    given = artifact.file
    named = _name(name, given)
    notes: tuple[str, ...] = ()
    if isinstance(artifact, FusedModel) and not kind.takes_onnx:
        artifact = convert(artifact)
        notes = artifact.notes
    session = golden_session(artifact)
    source = open_images(images, **reading)
    golden = run_golden(session, artifact, source, fixed_inputs)
    with folder_replaced(folder, marker=MANIFEST, overwrite=overwrite, inputs=sources) as draft:
        path = kind.model_path(named, isinstance(artifact, FusedModel))
        _write_model(artifact, draft / path)
        write_golden(draft, golden, fixed_names(session, fixed_inputs))
        device = str((artifact.provenance.conversion or {}).get("device", "CPU"))
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            pp_graph=__version__,
            target=kind.name,
            name=named,
            model=path,
            device=device,
            properties=_properties(artifact, device),
            inputs=input_specs(session.inputs),
            outputs=output_specs(artifact, session, golden[0]),
            cutoffs=_cutoffs(artifact),
            golden=GoldenSpec(
                images=[image.name for image in golden],
                device="CPU",
                precision=session.precision,
                runtime=f"{_runtime(artifact)}, {platform.machine()}",
            ),
            raw=write_timing(draft, artifact, golden[0], None if raw is None else Path(raw)),
        )
        copy_shipped("common", draft)
        kind.write(draft, manifest, artifact)
        (draft / "README.md").write_text(readme(kind, manifest, artifact), encoding="utf-8")
        manifest.write(draft)
        _check(draft)
        files = [*(file.relative_to(draft).as_posix() for file in files_in(draft)), MANIFEST]
        size = sum((draft / file).stat().st_size for file in files)
    return Package(
        folder=folder,
        target=kind.name,
        model=path,
        images=tuple(manifest.golden.images),
        files=tuple(files),
        size=size,
        commands=(f"cd {folder}", *kind.commands),
        notes=(*notes, *source.notes, *_remarks(manifest, golden)),
    )


def _target(name: str) -> Target:
    for target in TARGETS:
        if target.name == name:
            return target
    raise TargetError(f"Target '{name}' is not known, expected one of: {', '.join(each.name for each in TARGETS)}.")


def _name(name: str | None, file: Path | None) -> str:
    """Return the name of the model for servers, which put it into addresses."""
    if name is None:
        return re.sub(r"[^\w.-]+", "_", file.stem, flags=re.ASCII).strip("._-") or "model" if file else "model"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, flags=re.ASCII):
        raise DataError(f"Name '{name}' is not one for a model, expected letters, digits, '.', '-' and '_'.")
    return name


def _write_model(artifact: Artifact, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(artifact, FusedModel):
        artifact.save(path, copy_weights=True)
    else:
        artifact.save(path)
        # The README says what the guide beside an IR says, for this package.
        path.with_suffix(".usage.md").unlink()


def _properties(artifact: Artifact, device: str) -> dict[str, str]:
    precision = chosen_precision(artifact.provenance, device) or RECOMMENDED
    return recommended_properties(device, inference_precision=precision)


def _cutoffs(artifact: Artifact) -> dict[str, CutoffSpec]:
    """Describe the cutoffs that are states of an IR."""
    if not isinstance(artifact, OpenVINOModel) or not artifact.provenance.adjustable:
        return {}
    return {
        name: CutoffSpec(
            shape=list(values.shape),
            default=[float(each) if np.isfinite(each) else None for each in values.ravel()],
        )
        for name, values in artifact.program.runtime_cutoffs.items()
    }


def _runtime(artifact: Artifact) -> str:
    from importlib.metadata import version

    name = "onnxruntime" if isinstance(artifact, FusedModel) else "openvino"
    return f"{name} {version(name)}"


def _check(folder: Path) -> None:
    """Run the package's own check in a new process, as on the machine where it lands."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "check.py", "--json", "--device", "CPU"]
    done = subprocess.run(  # noqa: S603 - this program
        command, cwd=folder, env=environment, check=False, capture_output=True, text=True
    )
    if done.returncode == 0:
        return
    try:
        differences = json.loads(done.stdout)["differences"]
        found = "; ".join(f"{name}: {text}" for name, texts in differences.items() for text in texts)
    except (ValueError, KeyError, AttributeError):
        found = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    raise VerificationError(
        f"The package does not give the results of pp_graph on this machine: {found}. Nothing was written. Compare the "
        "model with its raw model first: pp-graph verify."
    )


def _remarks(manifest: Manifest, golden: list[GoldenImage]) -> list[str]:
    """Warn about golden images that prove little."""
    decisions = [spec.name for spec in manifest.outputs if spec.meaning in ("decision", "class", "count")]
    levels = [name for name in decisions if golden[0].outputs[name].size == 1]
    known = [tuple(float(image.outputs[name].ravel()[0]) for name in levels) for image in golden]
    if levels and len(set(known)) == 1:
        remark = (
            f"The golden images ({counted(len(golden), 'image')}) all get the same {', '.join(levels)}: give images "
            "that are decided differently, so that the check sees both."
        )
        return [remark]
    return []
