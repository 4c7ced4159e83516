"""Retune a file. If only constants of the post-processing change, only their bytes are written.

The old and the new post-processing are emitted into empty graphs. If their operators are equal, the constants that
differ are found in the file by name and replaced together with the provenance. Weights are not read, so the size of
the model does not matter. If the operators differ (a sensitivity of 0, a range of 0), or the file has an unusual
layout, the model is loaded, retuned and saved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from pp_graph.errors import OutputFileError, PostProcessorError, StatisticsWarning
from pp_graph.files import scratch_in
from pp_graph.fusion import Artifact, FusedModel, Provenance, retuned_program, sensitivities
from pp_graph.fusion.runtime_cutoffs import WITHOUT_STATISTICS
from pp_graph.model.onnx_layout import LayoutError
from pp_graph.model.writing import write_onnx
from pp_graph.opening import kind_of, open_artifact
from pp_graph.openvino.model import OpenVINOModel
from pp_graph.retuning.ir_file import find_in_ir, replace_ir
from pp_graph.retuning.onnx_file import find_in_onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pp_graph.program import Program
    from pp_graph.retuning.ir_file import IREdit
    from pp_graph.retuning.onnx_file import OnnxEdit
    from pp_graph.statistics import Statistics

AnyArtifact = TypeVar("AnyArtifact", bound=Artifact)

Way = Literal["constants", "rewritten"]
"""How a file was retuned: only constants and provenance were written, or the whole model."""


@dataclasses.dataclass(frozen=True)
class RetunedFile:
    """A file that was retuned.

    Attributes:
        path: The file.
        provenance: Its new provenance.
        way: How it was written.
        bytes_changed: Bytes of new constants and provenance; the size of all files if the model was rewritten.
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
    **parameters: Any,
) -> RetunedFile: ...


@overload
def retune(
    model: AnyArtifact,
    statistics: Statistics | None = ...,
    *,
    image_sensitivity: float | None = ...,
    pixel_sensitivity: float | None = ...,
    **parameters: Any,
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
    **parameters: Any,
) -> RetunedFile | Artifact:
    """Change the statistics or sensitivities of a fused or converted model, and nothing else.

    The result decides like the raw model fused again with the new numbers. Retuning a file takes milliseconds whatever
    its size if no operator changes, plus the time to copy it if `output` is given.

    Args:
        model: Path of a model that pp_graph wrote, or an artifact in memory, which is not changed.
        statistics: The new statistics; None keeps the current ones.
        image_sensitivity: The new sensitivity for images, in [0, 1]; None keeps the current one.
        pixel_sensitivity: The new sensitivity for pixels, in [0, 1]; None keeps the current one.
        output: The file to write, of the same kind; None changes the file in place. If writing fails, the old model
            stays intact. A power failure may damage only ONNX files above 16 MiB, which are patched in place;
            `retune` and `verify` detect this.
        overwrite: Replace an existing output.
        inputs: Further files that are never overwritten.
        parameters: New values of other parameters of the post-processor, such as `unknown_below=0.8` of a classifier.

    Returns:
        A `RetunedFile` for a path, or a new artifact of the same kind for an artifact.

    Raises:
        ProvenanceError: pp_graph did not write the model, or its constants were changed since.
        StatisticsError: The statistics lack a number that the post-processing needs.
        PostProcessorError: A sensitivity is outside [0, 1], or the model does not have it.
        ModelError: The file cannot be used.
        TargetError: OpenVINO cannot read the model.
        OutputFileError: The file cannot be written, or `output` is given for a model in memory.
    """
    if isinstance(model, Artifact):
        if output is not None or overwrite:
            raise OutputFileError(
                "An output was given for a model in memory, expected none: the result is a model in memory too. Leave "
                "it out, and save the result."
            )
        changes = {**sensitivities(image=image_sensitivity, pixel=pixel_sensitivity), **parameters}
        _warn_of_another_model(statistics, model.provenance)
        return model.with_program(_program(model.provenance, statistics, changes))
    retuning = prepare_retuning(
        model, statistics, image_sensitivity=image_sensitivity, pixel_sensitivity=pixel_sensitivity, **parameters
    )
    _warn_of_another_model(statistics, retuning.provenance)
    return retuning.write(output, overwrite=overwrite, inputs=inputs)


def _program(provenance: Provenance, statistics: Statistics | None, changes: Mapping[str, Any]) -> Program:
    program = retuned_program(provenance, statistics, changes)
    new = {output.name for output in program.outputs} - {output.name for output in provenance.outputs}
    if new and provenance.post_processor in WITHOUT_STATISTICS:
        raise PostProcessorError(
            f"{', '.join(changes)} would add the output {', '.join(sorted(new))}, expected a change of what the model "
            "has. Convert the raw model again with this option."
        )
    return program


def _warn_of_another_model(statistics: Statistics | None, provenance: Provenance) -> None:
    raw = provenance.raw
    other = None if statistics is None else statistics.of_another_model(raw.sha256, raw.weights)
    if other is not None:
        warnings.warn(other, StatisticsWarning, stacklevel=3)


def prepare_retuning(
    path: str | Path,
    statistics: Statistics | None = None,
    *,
    image_sensitivity: float | None = None,
    pixel_sensitivity: float | None = None,
    **parameters: Any,
) -> Retuning:
    """Prepare to retune a file. Nothing is written until `Retuning.write`.

    Arguments and errors are those of `retune`.
    """
    path = Path(path)
    changes = {**sensitivities(image=image_sensitivity, pixel=pixel_sensitivity), **parameters}
    bound: list[Program] = []

    def program_for(provenance: Provenance) -> Program:
        if not bound:  # compiled only once
            bound.append(_program(provenance, statistics, changes))
        return bound[0]

    def retuned() -> Artifact:
        artifact = open_artifact(path)
        return artifact.with_program(program_for(artifact.provenance))

    find = find_in_ir if kind_of(path) == "ir" else find_in_onnx
    edit = None
    # `retuned` raises a helpful error if the file cannot be read.
    with contextlib.suppress(LayoutError, OSError):
        edit = find(path, program_for)
    if edit is not None:
        return Retuning(path, edit.provenance, edit, retuned)
    model = retuned()
    return Retuning(path, model.provenance, None, lambda: model)


@dataclasses.dataclass(frozen=True)
class Retuning:
    """A file that is ready to be retuned.

    Attributes:
        path: The file.
        provenance: Its provenance after retuning.
    """

    path: Path
    provenance: Provenance
    _edit: OnnxEdit | IREdit | None
    _retuned: Callable[[], Artifact]

    def write(
        self, output: str | Path | None = None, *, overwrite: bool = False, inputs: Iterable[Path] = ()
    ) -> RetunedFile:
        """Write the file. Arguments and errors are those of `retune`."""
        inputs = tuple(inputs)
        target = self.path if output is None else Path(output)
        if output is None:
            _check_changeable(self.path)
        elif target.suffix.lower() != (ending := ".xml" if kind_of(self.path) == "ir" else ".onnx"):
            raise OutputFileError(
                f"Output '{target}' ends in '{target.suffix}', expected '{ending}' as in '{self.path}'. Rename it."
            )
        edit = self._edit
        if edit is not None and (output is None or edit.fits(target)):
            if output is None:
                edit.write_in_place()
            else:
                edit.write(target, overwrite=overwrite, inputs=(self.path, *inputs))
            return RetunedFile(target, self.provenance, "constants", edit.size)
        model = self._retuned()
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
                f"Model '{file}' is a link to '{file.readlink()}', which may be used elsewhere too, expected a file. "
                "Name that file itself, or write to another file with output=... (-o)."
            )
        if not os.access(file, os.W_OK) or not os.access(file.absolute().parent, os.W_OK):
            raise OutputFileError(
                f"Model '{file}' or its folder is read-only, expected write permission. Allow writing, or "
                "write to another file with output=... (-o)."
            )


def _replace(path: Path, model: Artifact) -> None:
    """Write a model over the file it was read from, whole or not at all."""
    mode = path.stat().st_mode
    if isinstance(model, FusedModel):
        external = model.network.external_tensors()
        write_onnx(model.to_proto(), external, path, overwrite=True, copy_weights=False, inputs=())
    else:
        with scratch_in(path.absolute().parent) as folder:
            assert isinstance(model, OpenVINOModel)
            # Without `inputs`, because the model may overwrite the file it was read from.
            written = dataclasses.replace(model, inputs=()).save(folder / path.name)
            edit = replace_ir(path, written, model.provenance)
        edit.write_in_place()
    path.chmod(mode)
