"""Retune a file: where only constants of the post-processing differ, only their bytes are written.

The old and the new post-processing are written into an empty graph each. Where both are the same operators, the numbers
that differ are looked up in the file by name, and are changed there together with the provenance; the weights are
neither parsed nor touched, so the size of the model does not matter. Where the operators differ (a sensitivity of 0, a
range of 0), or the file is laid out in another way than pp_graph and OpenVINO do it, the model is loaded, retuned and
written anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, overload

from pp_graph.errors import OutputFileError
from pp_graph.fusion import Artifact, FusedModel, Provenance, retuned_program, sensitivities
from pp_graph.model.onnx_layout import LayoutError
from pp_graph.model.writing import write_onnx
from pp_graph.opening import kind_of, open_artifact
from pp_graph.openvino.model import OpenVINOModel
from pp_graph.retuning.ir_file import find_in_ir, replace_ir
from pp_graph.retuning.onnx_file import find_in_onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pp_graph.program import Program
    from pp_graph.retuning.ir_file import IREdit
    from pp_graph.retuning.onnx_file import OnnxEdit
    from pp_graph.statistics import Statistics

AnyArtifact = TypeVar("AnyArtifact", bound=Artifact)

Way = Literal["constants", "rewritten"]
"""How a file was retuned: only constants and provenance were written, or all of the model was."""


@dataclasses.dataclass(frozen=True)
class RetunedFile:
    """A file that was retuned.

    Attributes:
        path: The file.
        provenance: What it says about its post-processing now.
        way: How it was written.
        bytes_changed: Bytes of constants and provenance that are new; where the model was rewritten, of all files.
    """

    path: Path
    provenance: Provenance
    way: Way
    bytes_changed: int


@overload
def retune(
    model: str | Path,
    statistics: Statistics | None = ...,
    *,
    image_sensitivity: float | None = ...,
    pixel_sensitivity: float | None = ...,
    output: str | Path | None = ...,
    overwrite: bool = ...,
    inputs: Iterable[Path] = ...,
) -> RetunedFile: ...


@overload
def retune(
    model: AnyArtifact,
    statistics: Statistics | None = ...,
    *,
    image_sensitivity: float | None = ...,
    pixel_sensitivity: float | None = ...,
) -> AnyArtifact: ...


def retune(
    model: str | Path | Artifact,
    statistics: Statistics | None = None,
    *,
    image_sensitivity: float | None = None,
    pixel_sensitivity: float | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    inputs: Iterable[Path] = (),
) -> RetunedFile | Artifact:
    """Give a fused or converted model other statistics or sensitivities; all else stays as it is.

    Decisions and numbers are those of the raw model fused anew with these. From file to file, where no operator
    changes, this takes milliseconds however large the model is; a copy for `output` takes as long as the file system
    needs.

    Args:
        model: Path of a model that pp_graph wrote, which is changed in place or written to `output`; or an artifact in
            memory, which is not changed.
        statistics: The new statistics; None keeps those it has.
        image_sensitivity: The new sensitivity for images, in [0, 1]; None keeps the one it has.
        pixel_sensitivity: The same for pixels.
        output: The file to write, of the same kind; None changes the model itself, in place. If anything fails, the old
            model is there. Where the machine loses its power in the moment of writing, too, with one exception: an
            ONNX file above 16 MiB is patched where it lies, and may be left as a mixture of both, which retuning and
            verifying recognise.
        overwrite: Whether another file of that name may be replaced.
        inputs: Further files never to be overwritten.

    Returns:
        For a path what was written, and how; for an artifact another one of its kind, which `save` writes.

    Raises:
        ProvenanceError: pp_graph did not write the model, or its constants were changed since.
        StatisticsError: The statistics lack a number that the post-processing needs.
        PostProcessorError: A sensitivity is outside its range, or has no meaning for this model.
        ModelError: The file cannot be used.
        TargetError: OpenVINO cannot read the model.
        OutputFileError: The output, or the model in place, cannot be written; or one is given for a model in memory.
    """
    if isinstance(model, Artifact):
        if output is not None or overwrite:
            raise OutputFileError(
                "An output was given for a model in memory, expected none: what comes back is a model in memory, too. "
                "Leave it out, and save the result."
            )
        changes = sensitivities(image=image_sensitivity, pixel=pixel_sensitivity)
        return model.with_program(retuned_program(model.provenance, statistics, changes))
    retuning = prepare_retuning(
        model, statistics, image_sensitivity=image_sensitivity, pixel_sensitivity=pixel_sensitivity
    )
    return retuning.write(output, overwrite=overwrite, inputs=inputs)


def prepare_retuning(
    path: str | Path,
    statistics: Statistics | None = None,
    *,
    image_sensitivity: float | None = None,
    pixel_sensitivity: float | None = None,
) -> Retuning:
    """Find out what retuning a file takes; nothing is written until `Retuning.write`.

    Arguments and errors are those of `retune`.
    """
    path = Path(path)
    changes = sensitivities(image=image_sensitivity, pixel=pixel_sensitivity)
    bound: list[Program] = []

    def program_for(provenance: Provenance) -> Program:
        if not bound:
            bound.append(retuned_program(provenance, statistics, changes))
        return bound[0]

    def anew() -> Artifact:
        artifact = open_artifact(path)
        return artifact.with_program(program_for(artifact.provenance))

    find = find_in_ir if kind_of(path) == "ir" else find_in_onnx
    edit = None
    # What is wrong with a file that cannot be walked, opening it says.
    with contextlib.suppress(LayoutError, OSError):
        edit = find(path, program_for)
    if edit is not None:
        return Retuning(path, edit.provenance, edit, anew)
    model = anew()
    return Retuning(path, model.provenance, None, lambda: model)


@dataclasses.dataclass(frozen=True)
class Retuning:
    """A file that can be retuned, and what it will say then.

    Attributes:
        path: The file.
        provenance: What the file will say about its post-processing.
    """

    path: Path
    provenance: Provenance
    _edit: OnnxEdit | IREdit | None
    _anew: Callable[[], Artifact]

    def write(
        self, output: str | Path | None = None, *, overwrite: bool = False, inputs: Iterable[Path] = ()
    ) -> RetunedFile:
        """Write the file; arguments and errors are those of `retune`."""
        inputs = tuple(inputs)
        target = self.path if output is None else Path(output)
        if output is None:
            _check_changeable(self.path)
        elif target.suffix.lower() != (ending := ".xml" if kind_of(self.path) == "ir" else ".onnx"):
            raise OutputFileError(
                f"Output '{target}' ends in '{target.suffix}', expected '{ending}' as '{self.path}' is one. Rename it."
            )
        edit = self._edit
        if edit is not None and (output is None or edit.fits(target)):
            if output is None:
                edit.write_in_place()
            else:
                edit.write(target, overwrite=overwrite, inputs=(self.path, *inputs))
            return RetunedFile(target, self.provenance, "constants", edit.size)
        model = self._anew()
        if output is None:
            _replace(self.path, model)
        else:
            model.save(target, overwrite=overwrite, inputs=(self.path, *inputs))
        files = [target] if isinstance(model, FusedModel) else [target, target.with_suffix(".bin")]
        return RetunedFile(target, self.provenance, "rewritten", sum(file.stat().st_size for file in files))


def _check_changeable(path: Path) -> None:
    for file in (path, path.with_suffix(".bin")) if kind_of(path) == "ir" else (path,):
        if file.is_symlink():
            raise OutputFileError(
                f"Model '{file}' is a link to '{file.readlink()}', and what is there may be used elsewhere too. Name "
                "that file itself, or write to another file with output=... (-o)."
            )
        if not os.access(file, os.W_OK) or not os.access(file.absolute().parent, os.W_OK):
            raise OutputFileError(
                f"Model '{file}' or its folder is read-only, expected a file that may be changed. Allow writing, or "
                "write to another file with output=... (-o)."
            )


def _replace(path: Path, model: Artifact) -> None:
    """Write a model over the file that it was read from, whole or not at all."""
    mode = path.stat().st_mode
    if isinstance(model, FusedModel):
        external = model.network.external_tensors()
        write_onnx(model.to_proto(), external, path, overwrite=True, copy_weights=False, inputs=())
    else:
        with tempfile.TemporaryDirectory(prefix=".pp_graph_", dir=path.absolute().parent) as folder:
            # What was read from the file is not an output of this model.
            assert isinstance(model, OpenVINOModel)
            written = dataclasses.replace(model, inputs=()).save(Path(folder) / path.name)
            edit = replace_ir(path, written, model.provenance)
        edit.write_in_place()
    path.chmod(mode)
