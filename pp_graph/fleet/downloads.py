"""`Downloads`: copies of models, statistics and recipes that are given by URL, named by their content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Final

import msgspec

from pp_graph.files import scratch_in
from pp_graph.fleet.store import STATE, Store, write_json
from pp_graph.urls import UrlPath, copy_file

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.fleet.settings import FleetModel

_FIELDS: Final = ("path", "statistics", "recipe")


class Downloads:
    """Copies of files by URL, which all workers read. One whose version the store still tells is not copied again.

    Args:
        store: The output folder.
    """

    def __init__(self, store: Store) -> None:
        self._folder = store.folder / STATE / "inputs"
        self._index = self._folder / "urls.json"
        self._kept: dict[str, dict[str, str]] = {}
        with contextlib.suppress(OSError, ValueError):
            self._kept = json.loads(self._index.read_bytes())
        self._found: dict[str, dict[str, str]] = {}

    def local(self, model: FleetModel) -> FleetModel:
        """Return a model with copies in the place of URLs.

        Raises:
            DataError: A file cannot be read.
        """
        urls = {name: url for name in _FIELDS if isinstance(url := getattr(model, name), UrlPath)}
        if not urls:
            return model
        copies = {name: self._copy(url) for name, url in urls.items()}
        return msgspec.structs.replace(model, source=str(urls.get("path", "")), **copies)

    def _copy(self, url: UrlPath) -> Path:
        found = self._found.get(url.url) or self._kept.get(url.url)
        if found is None or url.url not in self._found:
            found = self._current(url, found) or self._fetched(url)
            self._found[url.url] = found
        return self._folder / found["sha256"] / url.name

    def _current(self, url: UrlPath, kept: dict[str, str] | None) -> dict[str, str] | None:
        if kept is None or not (self._folder / kept["sha256"] / url.name).is_file():
            return None
        versions = self._versions(url, self._folder / kept["sha256"])
        return kept if versions == kept["versions"] else None

    @staticmethod
    def _versions(url: UrlPath, folder: Path) -> str:
        """Return the versions of the files that were copied; empty if the store tells none."""
        versions = []
        for file in sorted(folder.iterdir()):
            with contextlib.suppress(OSError):
                versions.append(url.with_name(file.name).version())
        return "" if None in versions else " ".join(map(str, versions))

    def _fetched(self, url: UrlPath) -> dict[str, str]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with scratch_in(self._folder) as scratch:
            copied = scratch / "copied"
            copied.mkdir()
            copy_file(url, copied)
            digest = hashlib.sha256()
            for file in sorted(copied.iterdir()):
                with file.open("rb") as stream:
                    digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
            # Asked after copying, a version might be that of newer content; a file is copied again then.
            versions = self._versions(url, copied) or "unknown"
            target = self._folder / digest.hexdigest()
            if not target.exists():
                copied.rename(target)
        return {"sha256": digest.hexdigest(), "versions": versions}

    def save(self) -> None:
        """Keep the list of copies, and remove those that no model uses any more."""
        if not self._folder.is_dir():
            return
        used = {each["sha256"] for each in self._found.values()}
        for folder in self._folder.iterdir():
            if len(folder.name) == hashlib.sha256().digest_size * 2 and folder.name not in used:
                shutil.rmtree(folder, ignore_errors=True)
        write_json(self._index, self._found)
