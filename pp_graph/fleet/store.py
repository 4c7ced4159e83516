"""What is on disk: records of finished tasks, and hashes of files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pp_graph.data.masks import find_mask_folders
from pp_graph.errors import OutputFileError
from pp_graph.files import locked, written_together
from pp_graph.model import RawModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STATE: Final = ".fleet"
"""Folder of the records, in the output folder."""
MODELS: Final = "models"
_STAMPED: Final = 2.0
"""Seconds after which a file that changes gets another time of change, on any file system."""


def variant_name(device: str, precision: str) -> str:
    """Return the name of the folder of a model for a device in a precision."""
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', device)}-{precision}"


@dataclass(frozen=True)
class Store:
    """The output folder of a fleet.

    Attributes:
        folder: The folder.
    """

    folder: Path

    def model_folder(self, model: str) -> Path:
        """Return the folder of a model's artifacts."""
        return self.folder / MODELS / model

    def artifact(self, model: str, variant: str) -> Path:
        """Return the path of an artifact."""
        return self.model_folder(model) / variant / "model.xml"

    def statistics(self, model: str, variant: str = "") -> Path:
        """Return the path of statistics that were calibrated: on the raw model, or on an artifact."""
        return self.model_folder(model) / variant / "statistics.json"

    def fused(self, model: str) -> Path:
        """Return the path of the fused model, from which artifacts are converted."""
        return self.folder / STATE / "fused" / model / "fused.onnx"

    def search(self, model: str, variant: str) -> Path:
        """Return the path of the measurements of a search for a precision."""
        return self.folder / STATE / "searches" / f"{model}.{variant}.json"

    def log(self, slot: str) -> Path:
        """Return the path of what a task printed."""
        return self.folder / STATE / "logs" / f"{slot.replace('/', '.')}.txt"

    def record(self, slot: str) -> dict[str, Any] | None:
        """Return the record of a finished task; None if there is none, or it is damaged."""
        try:
            found: dict[str, Any] = json.loads(self._record_path(slot).read_bytes())
        except (OSError, ValueError):
            return None
        return found

    def write_record(self, slot: str, record: dict[str, Any]) -> None:
        """Write the record of a task, atomically."""
        write_json(self._record_path(slot), record)

    def result(self, slot: str) -> dict[str, Any]:
        """Return the result of a task; empty if it has not finished."""
        record = self.record(slot)
        return {} if record is None else record["result"]

    def stamps(self, files: Iterable[Path]) -> dict[str, list[int]]:
        """Return size and time of change of files, by path in the folder."""
        return {file.relative_to(self.folder).as_posix(): _stamp(file) for file in files}

    def unchanged(self, record: dict[str, Any]) -> bool:
        """Return True if the files that a task wrote are as it left them."""
        try:
            return all(_stamp(self.folder / name) == stamp for name, stamp in record["files"].items())
        except OSError:
            return False

    def _record_path(self, slot: str) -> Path:
        return self.folder / STATE / "records" / f"{slot}.json"

    def check(self, *, overwrite: bool) -> None:
        """Raise if the folder is not that of a fleet.

        Raises:
            OutputFileError: It is a file, or holds other files and `overwrite` is false.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputFileError(f"Output '{self.folder}' is a file, expected a folder. Choose another 'output'.")
        if not self.folder.exists() or (self.folder / STATE).is_dir() or overwrite:
            return
        if any(self.folder.iterdir()):
            raise OutputFileError(
                f"Output folder '{self.folder}' holds files that are not of a fleet, expected an empty folder or that "
                "of an earlier run. Choose another 'output', or use --force (overwrite=True) to write to it."
            )

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep other processes from writing to the folder.

        Raises:
            OutputFileError: Another process does, or the folder cannot be written.
        """
        lock = self.folder / STATE / "lock"
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()
            with locked(lock, wait=False):
                yield
        except BlockingIOError as error:
            raise OutputFileError(
                f"Output folder '{self.folder}' is in use by another pp-graph fleet. Wait for it, or end it."
            ) from error
        except OSError as error:
            if isinstance(error, OutputFileError) or error.filename != str(lock):
                raise
            raise OutputFileError(
                f"Output folder '{self.folder}' cannot be written: {error.strerror or error}. Choose another."
            ) from error


def write_json(path: Path, values: Any) -> None:
    """Write JSON, atomically."""
    with written_together(path, overwrite=True) as (draft,):
        draft.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


class Hashes:
    """Hashes of inputs. Those of files that have not changed since are kept.

    Args:
        store: Where to keep them.
    """

    def __init__(self, store: Store) -> None:
        self._path = store.folder / STATE / "hashes.json"
        self._kept: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError):
            self._kept = json.loads(self._path.read_bytes())
        self._found: dict[str, list[Any]] = {}
        self._folders: dict[Path, str] = {}

    def file(self, path: Path) -> str:
        """Return the hash of a file's content."""
        key, stamp = str(path), _stamp(path)
        found = self._found.get(key) or self._kept.get(key)
        if found is None or found[:2] != stamp:
            with path.open("rb") as stream:
                found = [*stamp, hashlib.file_digest(stream, "sha256").hexdigest()]
        self._found[key] = found
        return str(found[2])

    def model(self, path: Path) -> str:
        """Return the hash of a raw model, with its external weights.

        Raises:
            ModelError: The model cannot be read.
        """
        digest = hashlib.sha256(self.file(path).encode())
        known = self._found.get(f"{path}:weights") or self._kept.get(f"{path}:weights")
        # Which files hold weights depends on the model's file alone.
        if known is None or known[0] != digest.hexdigest():
            weights = sorted({str(tensor.path) for tensor in RawModel.open(path).external_tensors()})
            known = [digest.hexdigest(), weights]
        self._found[f"{path}:weights"] = known
        for weights in known[1]:
            digest.update(self.file(Path(weights)).encode())
        return digest.hexdigest()

    def data(self, path: Path) -> str:
        """Return the hash of a file or of all files in a folder, with the masks beside it."""
        if not path.is_dir():
            return self.file(path)
        if path not in self._folders:
            digest = hashlib.sha256()
            for folder in dict.fromkeys((path, *find_mask_folders(path))):
                for name in sorted(_files_in(folder)):
                    digest.update(f"{name} {self.file(folder / name)}\n".encode())
            self._folders[path] = digest.hexdigest()
        return self._folders[path]

    def save(self) -> None:
        """Keep the hashes of files that were not changed just now, as a further change might not show."""
        now = time.time()
        kept = {
            key: found
            for key, found in self._found.items()
            if key.endswith(":weights") or now - found[1] / 1e9 > _STAMPED
        }
        if kept != self._kept:
            write_json(self._path, kept)


def _files_in(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if not name.startswith("."):
                yield (Path(parent) / name).relative_to(folder).as_posix()
