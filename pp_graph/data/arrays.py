"""Arrays in `.npz` and `.npy` files, read a few rows at a time."""

from __future__ import annotations

import math
import socket
import threading
import zipfile
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import DataError
from pp_graph.urls import local_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Array = npt.NDArray[Any]

ARRAY_ENDINGS: Final = (".npz", ".npy")
_IN_MEMORY: Final = 1 << 24
"""Arrays of up to this many bytes are read at once."""
_CHUNK: Final = 1 << 24


class ArchiveArray:
    """A large array in an `.npz`. Slices of its first axis are read from the file when they are indexed.

    Attributes:
        shape: Sizes.
        dtype: Element type.
    """

    def __init__(self, archive: zipfile.ZipFile, member: str, path: Path) -> None:
        """Read the array's header.

        Raises:
            DataError: The array holds Python objects, or its size is not that of the data.
        """
        self._archive = archive
        self._member = member
        self._path = path
        self._stream: Any = None
        self._lock = threading.Lock()
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, self._fortran, self.dtype = read(stream)
            self._start = stream.tell()
        name = member.removesuffix(".npy")
        if self.dtype.hasobject or not self.dtype.itemsize:
            held = "Python objects" if self.dtype.hasobject else f"{self.dtype} of shape {self.shape}"
            raise DataError(f"Array '{name}' in '{path}' holds {held}, expected numbers, without pickles.")
        if any(size < 0 for size in self.shape):
            raise DataError(f"Array '{name}' in '{path}' has shape {self.shape}, expected no size below 0.")
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        found = archive.getinfo(member).file_size - self._start
        if found != self.nbytes:
            raise DataError(
                f"Array '{name}' in '{path}' holds {found:,} bytes, expected {self.nbytes:,} for shape {self.shape} of "
                f"{self.dtype}. Write the file again."
            )

    def __reduce__(self) -> tuple[Any, tuple[Path, str]]:
        return _reopened, (self._path.absolute(), self._member)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def reads_rows(self) -> bool:
        """True if a row can be read without the others."""
        return bool(self.shape) and not (self._fortran and self.ndim > 1)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> Array:
        if not self.reads_rows:
            return np.asarray(self)[rows]
        start, stop, step = rows.indices(len(self))
        count = max(0, stop - start)
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        data = self._read(self._start + start * row, count * row)
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])[::step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        data = self._read(self._start, self.nbytes)
        flat: Array = np.frombuffer(data, self.dtype)
        array: Array = flat.reshape(self.shape[::-1]).T if self._fortran else flat.reshape(self.shape)
        return array if dtype is None else array.astype(dtype)

    def _read(self, offset: int, size: int) -> bytes:
        try:
            with self._lock:
                if self._stream is None:
                    self._stream = self._archive.open(self._member)
                if self._stream.tell() != offset:
                    self._stream.seek(offset)
                data: bytes = self._stream.read(size)
        except Exception as error:  # zipfile and zlib raise many kinds for a damaged file
            raise _damaged(self._path, error) from error
        if len(data) != size:
            raise DataError(
                f"Array '{self._member.removesuffix('.npy')}' in '{self._path}' ends after {len(data):,} of {size:,} "
                "bytes. Write the file again."
            )
        return data


def _reopened(path: Path, member: str) -> ArchiveArray:
    """Open a pickled array again, in another process."""
    try:
        return ArchiveArray(zipfile.ZipFile(path), member, path)
    except FileNotFoundError as error:
        raise DataError(
            f"Image data '{path}' does not exist on host '{socket.gethostname()}', expected every worker to see it "
            "under this path. Use a folder that all machines share."
        ) from error


AnyArray = Array | ArchiveArray


def open_arrays(path: Path) -> dict[str, AnyArray]:
    """Open the arrays of an `.npz`, or that of an `.npy` as `image`. Large ones stay in the file.

    Raises:
        DataError: The file is missing, damaged or of a different kind, or holds Python objects.
    """
    if not path.exists():
        raise DataError(
            f"Image data '{path}' does not exist, expected a folder of images or an .npz file. Check the path."
        )
    if path.suffix.lower() not in ARRAY_ENDINGS:
        raise DataError(f"Image data '{path}' is a '{path.suffix}' file, expected a folder of images or an .npz file.")
    path = local_file(path)
    try:
        if zipfile.is_zipfile(path):
            return open_archive(path)
        if path.stat().st_size <= _IN_MEMORY:
            with path.open("rb") as stream:
                return {"image": np.lib.format.read_array(stream, allow_pickle=False)}
        return {"image": np.lib.format.open_memmap(path, mode="r")}
    except DataError:
        raise
    except Exception as error:  # NumPy raises many kinds for a damaged file
        raise _damaged(path, error) from error


def open_archive(path: Path) -> dict[str, AnyArray]:
    """Open the arrays of an `.npz`. Large ones stay in the file.

    Raises:
        DataError: The file is damaged, or an array holds Python objects.
    """
    found: dict[str, AnyArray] = {}
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises many kinds for a damaged file
        raise _damaged(path, error) from error
    try:
        for member in archive.namelist():
            if member.endswith(".npy"):
                array = ArchiveArray(archive, member, path)
                small = array.nbytes <= _IN_MEMORY or not array.reads_rows
                found[member.removesuffix(".npy")] = np.asarray(array) if small else array
    except DataError:
        archive.close()
        raise
    except Exception as error:
        archive.close()
        raise _damaged(path, error) from error
    return found


def rows_of(array: AnyArray) -> Iterator[Array]:
    """Yield an array in parts along its first axis, a few MiB each."""
    if array.ndim == 0:
        yield np.asarray(array)
        return
    row = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
    step = max(1, _CHUNK // row)
    for start in range(0, len(array), step):
        yield array[start : start + step]


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"Image data '{path}' cannot be read: {error}. Expected arrays written by numpy.savez, without pickles."
    )
