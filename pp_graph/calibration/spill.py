"""Maps written to a temporary file, so that a further pass need not run the model again."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from pp_graph.errors import OutputFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

Maps = npt.NDArray[Any]


class SpilledMaps:
    """Batches of maps, or of their masks, on disk; read back in the order in which they were written.

    Args:
        dtype: Their element type.
    """

    def __init__(self, dtype: npt.DTypeLike = np.float32) -> None:
        self._dtype = np.dtype(dtype)
        self._file = tempfile.TemporaryFile(prefix="pp_graph_")  # noqa: SIM115 - closed by __exit__
        self._shapes: list[tuple[int, ...]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, maps: Maps) -> None:
        """Add a batch of that element type.

        Raises:
            OutputFileError: There is no room.
        """
        try:
            self._file.write(np.ascontiguousarray(maps).data)
            self._file.flush()
        except OSError as error:
            raise OutputFileError(
                f"The maps for a second pass cannot be kept in '{tempfile.gettempdir()}': {error.strerror or error}. "
                "Make room, set TMPDIR to another folder, or take a bound instead of the exact answer with --one-pass "
                "(one_pass=True)."
            ) from error
        self._shapes.append(maps.shape)

    def read(self) -> Iterator[Maps]:
        """Read all batches."""
        self._file.seek(0)
        for shape in self._shapes:
            data = self._file.read(int(np.prod(shape)) * self._dtype.itemsize)
            yield np.frombuffer(data, self._dtype).reshape(shape)
