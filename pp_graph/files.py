"""Write each file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pp_graph.errors import OutputFileError, PPGraphError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SCRATCH_PREFIX: Final = ".pp_graph_"
"""Start of the names of temporary files and folders beside an output."""
_YOUNG: Final = 1.0
"""Seconds after which a temporary file or folder that nobody has locked was left by a process that ended."""


@contextlib.contextmanager
def written_together(*targets: Path, overwrite: bool, inputs: Iterable[Path] = ()) -> Iterator[tuple[Path, ...]]:
    """Write one or more files completely, then move them into place one after the other.

    Each file appears whole. If the body of the `with` statement raises, none appears.

    Args:
        targets: The files to write, in the order in which they appear. All are in one folder, which is created if it
            does not exist.
        overwrite: Replace existing files.
        inputs: Files that are never replaced.

    Yields:
        Paths with the same names in a temporary folder, to write to.

    Raises:
        OutputFileError: A target is an input, exists and `overwrite` is false, or cannot be written.
    """
    check_targets(targets, overwrite=overwrite, inputs=inputs)
    names = [target.name for target in targets]
    with _scratch_folder(targets[0].parent, names, f"Output '{targets[-1]}'") as scratch:
        yield tuple(scratch / name for name in names)


@contextlib.contextmanager
def folder_filled(
    folder: Path, names: Sequence[str], *, overwrite: bool, inputs: Iterable[Path] = (), stale: Sequence[str] = ()
) -> Iterator[Path]:
    """Write many files completely, then move them into a folder one after the other.

    Each file appears whole. If the body of the `with` statement raises, none appears.

    Args:
        folder: The folder, which is created if it does not exist.
        names: The files to write, as paths relative to the folder, in the order in which they appear.
        overwrite: Allow a folder that is not empty, and replace existing files; files with other names stay.
        inputs: Files that are never replaced.
        stale: Files to remove before the first one appears, as paths relative to the folder.

    Yields:
        A temporary folder with the same subfolders, to write to.

    Raises:
        OutputFileError: The folder is not empty and `overwrite` is false, a file is an input, or one cannot be written.
    """
    check_folder(folder, [*names, *stale], overwrite=overwrite, inputs=inputs)
    # Files of the folder itself, such as tables, go first and come last: they never stand beside others' files.
    names = sorted(names, key=lambda name: len(Path(name).parts) == 1)
    stale = sorted(stale, key=lambda name: len(Path(name).parts))
    with _scratch_folder(folder, names, f"Output folder '{folder}'", stale) as scratch:
        yield scratch


@contextlib.contextmanager
def folder_replaced(folder: Path, *, marker: str, overwrite: bool, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Write a whole folder beside its place, then rename it.

    If the body of the `with` statement raises, the old folder stays as it was.

    Args:
        folder: The folder.
        marker: File that tells a folder that may be replaced from one with other things in it.
        overwrite: Replace an existing folder, and all that is in it.
        inputs: Files and folders that are never replaced.

    Yields:
        A temporary folder to fill.

    Raises:
        OutputFileError: The folder is a file, holds an input, cannot be written, or is not empty and `overwrite` is
            false or the marker is missing.
    """
    check_replaced(folder, marker=marker, overwrite=overwrite, inputs=inputs)
    folder = folder.absolute()
    created = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch_in(folder.parent) as scratch:
            draft, old = scratch / "new", scratch / "old"
            draft.mkdir()
            yield draft
            try:
                if folder.exists():
                    folder.rename(old)
                draft.rename(folder)
            finally:  # also after Ctrl-C between the two
                if old.exists() and not folder.exists():
                    old.rename(folder)
    except OSError as error:
        if isinstance(error, PPGraphError):
            raise
        raise OutputFileError(
            f"Output folder '{folder}' cannot be written: {error.strerror or error}. Free disk space or allow writing, "
            "or choose another folder."
        ) from error
    finally:
        for parent in created:
            with contextlib.suppress(OSError):
                parent.rmdir()  # fails unless nothing was written


def check_replaced(folder: Path, *, marker: str, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Raise if `folder_replaced` would, before the work starts."""
    if folder.exists() and not folder.is_dir():
        raise OutputFileError(f"Output '{folder}' is a file, expected a folder. Choose another name.")
    inside = next((each for each in inputs if each.resolve().is_relative_to(folder.resolve())), None)
    if folder.exists() and inside is not None:
        raise OutputFileError(
            f"Output folder '{folder}' holds '{inside}', an input of this command, and inputs are never replaced. "
            "Choose another folder."
        )
    nearest = next(parent for parent in folder.absolute().parents if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputFileError(f"Output folder '{nearest}' cannot be written. Choose another folder.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise OutputFileError(
            f"Output folder '{folder}' is not empty. Use --force (overwrite=True) to replace it, or choose another."
        )
    if not (folder / marker).is_file():
        raise OutputFileError(
            f"Output folder '{folder}' is not empty and has no {marker}, expected a folder that this command wrote: "
            "--force (overwrite=True) replaces it with all that is in it. Choose another folder."
        )


@contextlib.contextmanager
def scratch_in(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder in a folder that exists, and remove those that ended processes left there.

    Raises:
        OSError: It cannot be created.
    """
    remove_strays(folder)
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=folder))
    try:
        with locked(scratch):  # tells others that it is in use; ends with the process
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_strays(folder: Path) -> None:
    """Remove temporary files and folders of processes that ended before they could."""
    for stray in folder.glob(f"{SCRATCH_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - stray.stat().st_mtime < _YOUNG:
                continue  # perhaps not locked yet
            with locked(stray, wait=False):
                shutil.rmtree(stray) if stray.is_dir() else stray.unlink()


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Lock a file or folder, where the system can.

    Raises:
        BlockingIOError: Another process has locked it, and `wait` is false.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _scratch_folder(folder: Path, names: Sequence[str], output: str, stale: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder in `folder`, and move the named files out of it at the end."""
    created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with scratch_in(folder) as scratch:
            for parent in dict.fromkeys(Path(name).parent for name in names):
                (scratch / parent).mkdir(parents=True, exist_ok=True)
            yield scratch
            # Files of two writers do not mix. A temporary folder has one writer, which has locked it.
            own = folder.name.startswith(SCRATCH_PREFIX)
            with contextlib.nullcontext() if own else locked(folder):
                for name in stale:
                    (folder / name).unlink(missing_ok=True)
                for name in names:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (scratch / name).replace(folder / name)
    except OSError as error:
        if isinstance(error, OutputFileError):
            raise
        raise OutputFileError(
            f"{output} cannot be written: {error.strerror or error}. Free disk space or allow writing, or choose "
            "another folder."
        ) from error
    finally:
        for parent in created:
            with contextlib.suppress(OSError):
                parent.rmdir()  # fails unless nothing was written


def check_folder(folder: Path, names: Sequence[str], *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Raise if files cannot be written to a folder, before the work starts.

    Raises:
        OutputFileError: The folder is a file, cannot be written, or is not empty and `overwrite` is false; or one of
            the files is an input, is a folder, or is outside the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputFileError(f"Output '{folder}' is a file, expected a folder. Choose another name.")
    nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputFileError(f"Output folder '{nearest}' cannot be written. Choose another folder.")
    if nearest != folder.absolute():
        return
    if not overwrite and any(folder.iterdir()):
        raise OutputFileError(
            f"Output folder '{folder}' is not empty. Use --force (overwrite=True) to write to it, or choose another."
        )
    root = folder.resolve()
    for parent in dict.fromkeys(parent for name in names for parent in (folder / name).parents):
        if parent.exists() and not parent.is_dir():
            raise OutputFileError(f"Output folder '{parent}' is a file, expected a folder. Move it away.")
        if parent.is_relative_to(folder) and not parent.resolve().is_relative_to(root):
            raise OutputFileError(
                f"Output folder '{parent}' is a link that leads out of '{folder}', expected a folder in it. Remove it."
            )
    targets = [folder / name for name in names]
    for target in targets:
        if target.is_dir():
            raise OutputFileError(f"Output '{target}' is a folder, expected a file name. Move it away.")
    refuse_inputs(targets, inputs)


def check_targets(targets: Iterable[Path], *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Raise if files cannot be written, before the work starts.

    Raises:
        OutputFileError: A file is an input, a folder or a device, exists and `overwrite` is false, or is in a folder
            that cannot be written.
    """
    targets = list(targets)
    refuse_inputs(targets, inputs)
    for target in targets:
        if target.is_dir():
            raise OutputFileError(f"Output '{target}' is a folder, expected a file name. Name a file in it.")
        if target.exists() and not target.is_file():
            raise OutputFileError(f"Output '{target}' is a device or pipe, expected a file name. Choose another.")
        if target.exists() and not overwrite:
            raise OutputFileError(f"Output '{target}' exists already. Use --force (overwrite=True) to replace it.")
        folder = next(parent for parent in target.absolute().parents if parent.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputFileError(f"Output folder '{folder}' cannot be written. Choose another folder.")


def refuse_inputs(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise `OutputFileError` if an output is an input, under any name or link."""
    protected = {_identity(source) for source in inputs if source.exists()}
    for target in targets:
        if target.exists() and _identity(target) in protected:
            raise OutputFileError(
                f"Output '{target}' is an input of this command, and inputs are never overwritten. "
                "Choose another output path."
            )


def _identity(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def writing_temporarily() -> Iterator[None]:
    """Turn the errors of a library that writes temporary files into a helpful one.

    Raises:
        OutputFileError: The library raised `RuntimeError` or `OSError`.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise OutputFileError(
            f"A temporary file cannot be written in '{tempfile.gettempdir()}': {error}. Free disk space there, or name "
            "another folder with the environment variable TMPDIR."
        ) from error
