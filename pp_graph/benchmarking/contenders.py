"""The models in a benchmark: the raw model, alone and with post-processing on the host, artifacts and other models."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from pp_graph.conversion import convert
from pp_graph.errors import DataError, PPGraphError, TargetError
from pp_graph.fusion import FusedModel, Provenance
from pp_graph.model.graphs import all_values
from pp_graph.opening import kind_of, open_artifact
from pp_graph.openvino.core import first_line, port_name
from pp_graph.openvino.input_shapes import reshape
from pp_graph.openvino.ir_files import read_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

    from pp_graph.fusion import Artifact
    from pp_graph.model import RawModel
    from pp_graph.preprocessing import Preprocessing
    from pp_graph.program import Program


Array = npt.NDArray[Any]
AfterRun = Callable[[Mapping[str, Array]], object]
"""Post-processing on the host: takes a model's outputs by name."""

HOSTS = ("host-numpy", "host-torch")


def has_torch() -> bool:
    """Return True if torch is installed."""
    return importlib.util.find_spec("torch") is not None


def host_post_processing(kind: str, artifact: Artifact) -> AfterRun:
    """Make a function that post-processes the raw model's outputs on the host.

    Args:
        kind: `host-numpy` or `host-torch`.
        artifact: The artifact with the same post-processing in the graph.

    Returns:
        A function that takes the raw model's outputs by name.

    Raises:
        ProvenanceError: The class of the post-processor is unknown.
        TargetError: torch is not installed.
    """
    # Bind once, as a deployment would, so that only the post-processing is timed.
    program = artifact.program
    read = {role: (record.name, record.dtype) for role, record in artifact.provenance.raw.read.items()}

    def values(outputs: Mapping[str, Array]) -> dict[str, Array]:
        return {role: outputs[name].astype(dtype, copy=False) for role, (name, dtype) in read.items()}

    if kind == "host-numpy":
        return lambda outputs: program.predictions(program.run(values(outputs)))
    if not has_torch():
        raise TargetError("--against host-torch needs torch, which is not installed. Install it: pip install torch.")
    return _with_torch(program, values)


def _with_torch(program: Program, values: Callable[[Mapping[str, Array]], dict[str, Array]]) -> AfterRun:
    # Otherwise idle threads of torch spin, and slow down the model measured next.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    import torch

    from pp_graph.integrations.torch.interpreter import compile_post_processor

    graph = compile_post_processor(program)
    return lambda outputs: graph({role: torch.from_numpy(array) for role, array in values(outputs).items()})


@dataclass(frozen=True)
class Contender:
    """A model to time.

    Attributes:
        name: Name in the report.
        path: Its file.
        provenance: Provenance of the artifact, or of the artifact whose post-processing runs on the host; None for
            the raw model and models of other programs.
        after: Post-processing on the host, timed with each run; None if there is none.
    """

    name: str
    path: Path
    provenance: Provenance | None
    after: AfterRun | None = None

    @property
    def preprocessing(self) -> Preprocessing | None:
        """Preprocessing in the model; None if it takes the raw model's input."""
        return None if self.provenance is None or self.after is not None else self.provenance.preprocessing


def find_contenders(
    raw: Path, artifacts: Sequence[tuple[str, Path]], against: Sequence[str | Path] | None
) -> tuple[list[Contender], list[str]]:
    """Return the raw model, the models to compare with, then the artifacts; and notes about models left out.

    Artifacts are given by name and file.

    Raises:
        DataError: There is no artifact, or a model is given twice.
        ProvenanceError: An artifact was not made by pp_graph.
        ModelError: An artifact cannot be read.
        TargetError: An artifact cannot be read, or `host-torch` is requested and torch is not installed.
    """
    if not artifacts:
        raise DataError("No artifact is given, expected an IR (.xml) or a fused .onnx to compare with the raw model.")
    notes = []
    ours = [Contender(name, path, open_artifact(path).provenance) for name, path in artifacts]
    first = open_artifact(artifacts[0][1])
    if against is None:
        against = HOSTS if has_torch() else HOSTS[:1]
        if not has_torch():
            notes.append("torch is not installed, so post-processing in torch was not timed.")
    contenders = [Contender("raw", raw, None)]
    for each in against:
        if str(each) in HOSTS:
            after = host_post_processing(str(each), first)
            contenders.append(Contender(f"raw + {each}", raw, first.provenance, after))
        else:
            contenders.append(Contender(str(each), Path(each), _provenance_if_any(Path(each))))
    contenders += ours
    names = [each.name for each in contenders]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"'{twice}' is given twice, expected each model once. Leave one out.")
    return contenders, notes


def _provenance_if_any(path: Path) -> Provenance | None:
    try:
        return open_artifact(path).provenance
    except PPGraphError:
        return None  # a model of another program; a file that cannot be read fails later, in read_openvino


def remarks_about(raw: RawModel, contenders: Sequence[Contender]) -> list[str]:
    """Return notes on the models for the reader of the figures.

    Raises:
        DataError: The raw model lacks an output that post-processing on the host reads.
    """
    made = [each for each in contenders if each.provenance is not None and each.after is None]
    remarks = [
        f"'{each.name}' was not made from this raw model: the hash differs."
        for each in made
        if each.provenance is not None and each.provenance.raw.sha256 != raw.sha256
    ]
    hosts = [each for each in contenders if each.after is not None]
    kinds = {each.provenance and str(each.provenance.parameters) + str(each.provenance.statistics) for each in made}
    if hosts and len(kinds) > 1:
        remarks.append(f"Post-processing on the host is that of '{made[0].name}'; other artifacts differ.")
    outputs = {value.name for value in all_values(raw.model.graph)}
    for each in hosts:
        missing = (
            []
            if each.provenance is None
            else [record.name for record in each.provenance.raw.read.values() if record.name not in outputs]
        )
        if missing:
            raise DataError(
                f"The raw model has no output '{missing[0]}', which the artifact reads. Give the raw model that the "
                "artifact was made from."
            )
    remarks += [
        f"'{each.name}' takes frames ({each.preprocessing.describe()}). Other models are fed the preprocessed frames; "
        "the time of preprocessing is not counted for them."
        for each in made
        if each.preprocessing is not None
    ]
    foreign = [each.path for each in contenders if each.provenance is None and each.name != "raw"]
    if any(path.is_file() and kind_of(path) == "onnx" for path in foreign):
        remarks.append(
            "In an .onnx of another program, post-processing cannot be separated from the network's last operators: "
            "both count as 'tail'."
        )
    return remarks


def read_contender(contender: Contender) -> ov.Model:
    """Read a model; a fused .onnx is converted.

    Raises:
        TargetError: OpenVINO cannot read it.
    """
    if contender.provenance is None or contender.after is not None:
        model = read_openvino(contender.path)
        if contender.provenance is not None:
            # Post-processing may read values inside the raw model.
            raw = contender.provenance.raw
            model.add_outputs([record.name for record in raw.read.values() if record.name not in raw.outputs])
        return model
    artifact = open_artifact(contender.path)
    return (convert(artifact) if isinstance(artifact, FusedModel) else artifact).network


def read_openvino(path: Path) -> ov.Model:
    """Read an ONNX file or an IR with OpenVINO, without pp_graph's conversion.

    Raises:
        TargetError: OpenVINO cannot read it.
    """
    if not path.is_file():
        raise TargetError(f"Model '{path}' does not exist, expected an .onnx file or an IR (.xml). Check the path.")
    try:
        return read_model(path)
    except RuntimeError as error:
        raise TargetError(f"OpenVINO cannot read '{path}': {first_line(error)}. Is it an .onnx or an .xml?") from error


def set_input_shapes(model: ov.Model, shapes: Mapping[str, Sequence[int]]) -> None:
    """Set the shape of every input. Changes the model in place.

    Raises:
        TargetError: The model does not accept the shapes.
    """
    try:
        reshape(model, {port_name(port): list(shapes[port_name(port)]) for port in model.inputs})
    except (KeyError, RuntimeError) as error:
        wanted = ", ".join(f"{name} {tuple(sizes)}" for name, sizes in shapes.items())
        reason = f"it has no such input {error}" if isinstance(error, KeyError) else first_line(error)
        raise TargetError(
            f"The model cannot take the shapes {wanted}: {reason}. All models compared need the same inputs."
        ) from error
