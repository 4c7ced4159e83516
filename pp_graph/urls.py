"""`UrlPath`: a file or folder by URL, such as `s3://bucket/folder`, read through fsspec."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import stat
import tempfile
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from pp_graph.errors import DataError, first_line
from pp_graph.extras import require_extra

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    # Readers of files take paths; a URL has the part of their interface that they use.
    _Base = Path
else:
    _Base = PurePosixPath

# A drive, such as C:/, has one letter. A path as given to a command may have lost a slash.
_URL: Final = re.compile(r"([a-z][a-z0-9+.-]+):/")
_LATELY_READ: Final = 8
_VERSIONS: Final = ("ETag", "etag", "LastModified", "last_modified", "mtime", "modified", "created", "md5Hash",
                     "content_md5", "generation", "VersionId")  # fmt: skip
"""What stores of fsspec call the version of a file."""
_BESIDE_MODELS: Final = ("{stem}.bin", "{name}.data", "{name}_data", "{stem}.data")
"""Names of files with the weights of a model."""


def as_path(source: str | Path) -> Path:
    """Return a path, or a `UrlPath` for a URL. `file://` is a path of this machine."""
    text = str(source)
    found = _URL.match(text)
    if found is None or isinstance(source, UrlPath):
        return Path(source) if isinstance(source, str) else source
    if found[1] == "file":
        return Path(unquote(urlsplit("file:///" + text[len("file:") :].lstrip("/")).path))
    return UrlPath(text)


class UrlPath(_Base):
    """A file or folder by URL, with what readers use of `pathlib.Path`.

    The scheme is the first part: `s3:/bucket/folder/a.png`. Credentials and endpoints are fsspec's own settings, from
    its configuration files and the environment.
    """

    @property
    def url(self) -> str:
        """The URL."""
        return f"{self.parts[0]}//{'/'.join(self.parts[1:])}"

    def __str__(self) -> str:
        # Relative to another one, it has no scheme.
        return self.url if self.parts and self.parts[0].endswith(":") else super().__str__()

    def _at(self) -> tuple[Any, str]:
        fsspec = require_extra("fsspec", "fleet", f"reading '{self.url}'")
        try:
            system, path = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise DataError(
                f"'{self.url}' cannot be reached: {first_line(error)}. Expected a URL that fsspec reads, such as "
                "s3://bucket/folder. Install the library for its scheme, such as s3fs for s3 or gcsfs for gs."
            ) from error
        return system, path

    def open(self, mode: str = "r", *_: Any, **settings: Any) -> Any:
        """Open the file for reading."""
        system, path = self._at()
        with _as_os_error():
            return system.open(path, mode, **settings)

    def read_bytes(self) -> bytes:
        """Read the file. What was read lately comes from memory, because headers are read before pixels."""
        return _read(self.url)

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        """Read the file as text."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def rglob(self, pattern: str, **_: Any) -> Generator[UrlPath, None, None]:
        """Find the files below a folder whose names match."""
        system, path = self._at()
        with _as_os_error():
            found = [str(name)[len(path.rstrip("/")) + 1 :] for name in system.find(path)]
        yield from (self / name for name in found if fnmatch(name.rsplit("/", 1)[-1], pattern))

    def iterdir(self) -> Generator[UrlPath, None, None]:
        """List a folder."""
        system, path = self._at()
        with _as_os_error():
            names = [str(entry["name"]).rstrip("/").rsplit("/", 1)[-1] for entry in system.ls(path, detail=True)]
        yield from (self / name for name in names)

    def matches(self) -> list[UrlPath]:
        """Return the files that match this URL as a pattern, in order.

        Raises:
            OSError: The store cannot be listed.
        """
        system, path = self._at()
        with _as_os_error():
            return [UrlPath(f"{self.parts[0]}/{name.lstrip('/')}")
                    for name, info in sorted(system.glob(path, detail=True).items())
                    if info["type"] == "file"]  # fmt: skip

    def version(self) -> str | None:
        """Return what changes with the content, as far as the store tells: a tag, or a time of change; or None.

        Raises:
            OSError: There is no such file, or the store does not answer.
        """
        system, path = self._at()
        with _as_os_error():
            info = system.info(path)
        told = {name: str(info[name]) for name in _VERSIONS if info.get(name)}
        return f"{info.get('size')} {told}" if told else None

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return whether it is a file or a folder, and its size."""
        system, path = self._at()
        with _as_os_error():
            info = system.info(path)
        kind = stat.S_IFDIR if info["type"] == "directory" else stat.S_IFREG
        return os.stat_result((kind, hash(self.url), 0, 1, 0, 0, info.get("size") or 0, 0, 0, 0))

    def _is(self, kind: int) -> bool:
        try:
            return stat.S_IFMT(self.stat().st_mode) == kind
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise DataError(
                f"'{self.url}' cannot be reached: {first_line(error)}. Expected access to it. Check the address, "
                "and the store's credentials, such as AWS_ACCESS_KEY_ID."
            ) from error

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Return True for a file or folder."""
        return self._is(stat.S_IFREG) or self._is(stat.S_IFDIR)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Return True for a file."""
        return self._is(stat.S_IFREG)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Return True for a folder."""
        return self._is(stat.S_IFDIR)

    def is_symlink(self) -> bool:
        """Return False: stores have no links."""
        return False

    def absolute(self) -> UrlPath:
        """Return the URL, which is absolute."""
        return self

    def resolve(self, strict: bool = False) -> UrlPath:
        """Return the URL, which has no links."""
        return self


@functools.lru_cache(maxsize=_LATELY_READ)
def _read(url: str) -> bytes:
    with UrlPath(url).open("rb") as stream:
        data: bytes = stream.read()
    return data


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Raise what a store's library raises as an `OSError`, which readers of files expect."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(first_line(error)) from error


def absolute(path: Path) -> Path:
    """Return a path from the root, links kept, or a URL."""
    return path if isinstance(path, UrlPath) else Path.cwd() / path


def local_file(path: str | Path) -> Path:
    """Return the path of a file on this machine. A file by URL is copied, with the weights beside a model.

    Raises:
        DataError: It cannot be copied.
    """
    found = as_path(path)
    return _copied(found.url) if isinstance(found, UrlPath) else found


@functools.cache
def _copies() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="pp_graph_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def _copied(url: str) -> Path:
    return copy_file(UrlPath(url), Path(tempfile.mkdtemp(dir=_copies())))


def copy_file(path: UrlPath, folder: Path) -> Path:
    """Copy a file by URL, with the weights beside a model, and return the path of the copy.

    Raises:
        DataError: It cannot be copied.
    """
    system, remote = path._at()
    try:
        with _as_os_error():
            system.get(remote, str(folder / path.name))
            for form in _BESIDE_MODELS:
                other = path.with_name(form.format(stem=path.stem, name=path.name))
                # Stores may deny access to what does not exist.
                with contextlib.suppress(DataError):
                    if other.is_file():
                        system.get(other._at()[1], str(folder / other.name))
    except OSError as error:
        raise DataError(
            f"'{path.url}' cannot be read: {first_line(error)}. Expected a file. Check the URL and your access to it."
        ) from error
    return folder / path.name
