"""Change a few bytes of a large file, in place or in a copy."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pp_graph.errors import OutputFileError
from pp_graph.files import remove_strays

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator, Mapping
    from io import FileIO
    from pathlib import Path

    from pp_graph.model.onnx_layout import Span

_LARGEST_REGION: Final = 64 * 2**20
"""Size in bytes up to which a region is kept in memory."""


@dataclass(frozen=True)
class Region:
    """Smallest range of bytes that contains all patches.

    Attributes:
        start: Position in the file.
        before: The current bytes; up to the end of the file if the patches change its length.
        after: The new bytes.
    """

    start: int
    before: bytes
    after: bytes


def region_of(data: bytes | mmap.mmap, patches: Mapping[Span, bytes]) -> Region | None:
    """Join patches into one region.

    Args:
        data: The bytes of the file.
        patches: New bytes of at least one span; spans must not overlap.

    Returns:
        The region; None if it would be larger than 64 MiB.
    """
    grows = sum(len(content) - (span.stop - span.start) for span, content in patches.items())
    start, stop = min(patches).start, len(data) if grows else max(patches).stop
    if stop - start > _LARGEST_REGION:
        return None
    return Region(start, data[start:stop], patched(data, patches, start, stop))


def patched(data: bytes | mmap.mmap, patches: Mapping[Span, bytes], start: int = 0, stop: int | None = None) -> bytes:
    """Return a range of bytes with the spans in it replaced by other bytes."""
    parts = []
    for span in sorted(patches):
        parts += [data[start : span.start], patches[span]]
        start = span.stop
    return b"".join([*parts, data[start:stop]])


def copy_file(source: Path, target: Path) -> None:
    """Copy a file within the kernel; file systems that can share blocks do so instead of copying."""
    remaining = -1
    with contextlib.suppress(OSError, AttributeError), source.open("rb") as from_, target.open("wb") as to:
        remaining = os.fstat(from_.fileno()).st_size
        while remaining > 0 and (copied := os.copy_file_range(from_.fileno(), to.fileno(), remaining)):
            remaining -= copied
    if remaining:
        shutil.copyfile(source, target)


def patch_draft(draft: Path, region: Region, *, durable: bool) -> None:
    """Patch a copy of a file.

    Args:
        draft: The copy.
        region: The change.
        durable: Wait until the copy is on the disk. Needed if it replaces the original.

    Raises:
        OutputFileError: The original has changed since the region was made.
    """
    with draft.open("r+b", buffering=0) as stream:
        _check_unchanged(stream, region, draft.name)
        length = os.fstat(stream.fileno()).st_size + len(region.after) - len(region.before)
        write_at(stream, region.start, region.after)
        stream.truncate(length)
        if durable:
            os.fsync(stream.fileno())


def patch_in_place(path: Path, region: Region) -> None:
    """Patch a file in place with one write. Restore the old bytes if anything fails.

    The file must not become shorter, because the bytes cut off could not be restored.

    Raises:
        OutputFileError: The file cannot be changed, is being changed by another process, or has changed since the
            region was made.
    """
    assert len(region.after) >= len(region.before), "a file that is patched in place must not become shorter"
    with changing(path) as stream:
        _check_unchanged(stream, region, path.name)
        size = os.fstat(stream.fileno()).st_size
        try:
            write_at(stream, region.start, region.after)
            os.fsync(stream.fileno())
        except BaseException:
            # If the old bytes cannot be written at some position either, no new ones were written after it.
            with contextlib.suppress(OSError):
                write_at(stream, region.start, region.before)
            stream.truncate(size)
            os.fsync(stream.fileno())
            raise


@contextlib.contextmanager
def changing(path: Path) -> Iterator[FileIO]:
    """Open a file for changes in place, and lock it.

    Raises:
        OutputFileError: The file cannot be changed, or another process is changing it.
    """
    remove_strays(path.absolute().parent)
    try:
        with path.open("r+b", buffering=0) as stream:
            _lock(stream, path)
            yield stream
    except OSError as error:
        if isinstance(error, OutputFileError):
            raise
        raise OutputFileError(
            f"File '{path}' cannot be changed: {error.strerror or error}. It is as before. Free disk space or allow "
            "writing, or write to another file."
        ) from error


def write_at(stream: FileIO, start: int, content: bytes) -> None:
    """Write bytes at a position of a file.

    Raises:
        OSError: Not all bytes can be written.
    """
    stream.seek(start)
    remaining = memoryview(content)
    while remaining:
        remaining = remaining[stream.write(remaining) :]


def _lock(stream: FileIO, path: Path) -> None:
    try:
        import fcntl
    except ImportError:
        return  # Windows
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputFileError(
            f"File '{path}' is being changed by another process. Try again when that has finished."
        ) from None
    except OSError:
        return  # a file system without locks


def _check_unchanged(stream: FileIO, region: Region, name: str) -> None:
    stream.seek(region.start)
    if stream.read(len(region.before)) != region.before:
        raise OutputFileError(f"File '{name}' was changed by another program in the meantime. Try again.")
