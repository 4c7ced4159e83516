"""`SpilledMaps`: maps in a temporary file, for a second pass."""

from __future__ import annotations

import tempfile
import threading
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from pp_graph.errors import OutputFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

Maps = npt.NDArray[Any]


class SpilledMaps:
    """Batches of maps or masks in a temporary file. Several threads may write and read.

    The file has no name, so it goes when the process does.

    Args:
        dtype: Element type of all batches.
        folder: Folder of the file; None for the default.
    """

    def __init__(self, dtype: npt.DTypeLike = np.float32, folder: Path | None = None) -> None:
        self._dtype = np.dtype(dtype)
        self._folder = tempfile.gettempdir() if folder is None else str(folder)
        self._file = tempfile.TemporaryFile(prefix="pp_graph_", dir=self._folder)  # noqa: SIM115 - closed by __exit__
        self._lock = threading.Lock()
        self._end = 0
        self._following = 0
        self._places: dict[int, tuple[int, tuple[int, ...]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def write(self, maps: Maps, start: int | None = None) -> None:
        """Add a batch.

        Args:
            maps: The batch.
            start: Index of its first image; None if it follows the batch before.

        Raises:
            OutputFileError: The disk is full.
        """
        with self._lock:
            start = self._following if start is None else start
            try:
                self._file.seek(self._end)
                self._file.write(np.ascontiguousarray(maps).data)
                self._file.flush()
            except OSError as error:
                raise OutputFileError(
                    f"The maps for a second pass cannot be kept in '{self._folder}': {error.strerror or error}. "
                    "Free disk space, set TMPDIR to another folder, or accept a bound instead of the exact answer: "
                    "--one-pass (one_pass=True)."
                ) from error
            self._places[start] = self._end, maps.shape
            self._end += maps.nbytes
            self._following = start + len(maps)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Maps]:
        """Read batches from one that starts at an image, in the order of the images.

        Args:
            start: Index of the first image.
            stop: Exclusive end index; None for all batches that follow each other.
        """
        while start in self._places and (stop is None or start < stop):
            offset, shape = self._places[start]
            with self._lock:
                self._file.seek(offset)
                data = self._file.read(int(np.prod(shape)) * self._dtype.itemsize)
            yield np.frombuffer(data, self._dtype).reshape(shape)
            start += shape[0]

    def holds(self, start: int, stop: int) -> bool:
        """Return True if all images of a span are in the file."""
        while start in self._places and start < stop:
            start += self._places[start][1][0]
        return start >= stop
