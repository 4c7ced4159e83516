"""`SentModel`: a model that workers open."""

from __future__ import annotations

import hashlib
import socket
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from pp_graph.errors import ClusterError
from pp_graph.fusion import Artifact
from pp_graph.model import RawModel
from pp_graph.openvino import OpenVINOModel
from pp_graph.urls import absolute, as_path, local_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

_FOLDER: Final = "pp_graph-models"


@dataclass(frozen=True)
class SentModel:
    """A model to open on a worker.

    Attributes:
        path: Its file, which the worker sees under the same path; or the name among `files`.
        sha256: Hash of that file.
        files: Files of a model that was in memory, by name; empty if the worker reads `path`.
    """

    path: Path
    sha256: str
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: str | Path | RawModel | onnx.ModelProto | Artifact) -> Self:
        """Describe a file by its path, and take a model in memory along.

        Raises:
            ClusterError: An edited model with weights of its own files is in memory.
        """
        if isinstance(model, Artifact):
            return cls._in_memory(model)
        if not isinstance(model, str | Path | RawModel):
            model = RawModel.open(model)
        if isinstance(model, RawModel) and model.source is not None and not model.edited:
            model = model.source
        if isinstance(model, str | Path):
            path = absolute(as_path(model))
            return cls(path, _sha256(local_file(path)))
        if model.external_tensors():
            raise ClusterError(
                "The model is in memory and its weights are in other files, expected a file for workers to open. Save "
                "it first."
            )
        data = bytes(model.to_proto().SerializeToString())
        return cls(Path("model.onnx"), hashlib.sha256(data).hexdigest(), {"model.onnx": data})

    @classmethod
    def _in_memory(cls, artifact: Artifact) -> Self:
        ending = ".xml" if isinstance(artifact, OpenVINOModel) else ".onnx"
        name = f"{'model' if artifact.file is None else artifact.file.stem}{ending}"
        with tempfile.TemporaryDirectory(prefix="pp_graph_") as folder:
            saved = artifact.save(Path(folder) / name)
            files = {file.name: file.read_bytes() for file in Path(folder).iterdir() if file.is_file()}
            return cls(Path(name), _sha256(saved), files)

    def on_this_worker(self, folder: Path) -> Path:
        """Return the path to open.

        Args:
            folder: Folder of the worker, for a model that was in memory.

        Raises:
            ClusterError: The file is missing here, or is another one.
        """
        host = socket.gethostname()
        if self.files:
            own = folder / _FOLDER / self.sha256
            own.mkdir(parents=True, exist_ok=True)
            for name, data in self.files.items():
                (own / name).write_bytes(data)
            return own / self.path
        path = local_file(self.path)
        try:
            found = _sha256(path)
        except OSError as error:
            raise ClusterError(
                f"Model '{self.path}' cannot be read on host '{host}' ({error.strerror}), expected every worker to see "
                "it under this path. Use a folder that all machines share."
            ) from error
        if found != self.sha256:
            raise ClusterError(
                f"Model '{self.path}' on host '{host}' is another file (sha256 {found[:12]}), expected "
                f"{self.sha256[:12]} as here. Copy the same model to every machine."
            )
        return path


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
