"""Image files with labels and masks: folders as of MVTec AD, MVTec LOCO or VisA, and tables."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.data.image_files import IMAGES_FOLDER, find_images
from pp_graph.data.labelled import LabelledImages, Mask
from pp_graph.data.manifests import read_manifest
from pp_graph.data.masks import TEST_FOLDER, MatchedMasks, check_mask_sizes, match_masks, read_mask, resized
from pp_graph.data.resized_images import FileImages
from pp_graph.errors import DataError, UnlabelledError
from pp_graph.urls import absolute, as_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

NORMAL_FOLDERS: Final = ("good", "normal", "ok")


class LabelledFiles(LabelledImages):
    """Image files, with the mask files of each."""

    _files: tuple[Path, ...]
    _masks: Mapping[Path, tuple[Path, ...]]
    _max_pixels: int | None
    _mask_notes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user."""
        return (*self.images.notes, *self._mask_notes)

    def masks(self, start: int, stop: int, size: tuple[int, int] | None) -> list[Mask]:
        """Return the masks of some images."""
        return [self._mask(file, size) for file in self._files[start:stop]]

    def part(self, start: int, stop: int) -> LabelledImages:
        """Return some of the images alone."""
        some = copy.copy(self)
        some.images = self.images.part(start, stop) or self.images
        some._files = self._files[start:stop]
        some._masks = {file: self._masks[file] for file in some._files if file in self._masks}
        some.labels = None if self.labels is None else self.labels[start:stop]
        some.files = (*some._files, *(mask for found in some._masks.values() for mask in found))
        return some

    def _mask(self, image: Path, size: tuple[int, int] | None) -> Mask:
        files = self._masks.get(image, ())
        if not files:
            # Without folders, only masks tell what is anomalous.
            return None if self.labels is not None else resized(np.zeros((1, 1), np.bool_), size)
        parts = [read_mask(file, self._max_pixels) for file in files]
        united = parts[0]
        for part in parts[1:]:
            united = united | resized(part, (united.shape[0], united.shape[1]))
        return resized(united, size)

    def sha256(self) -> str:
        """Return the hash of all images and masks."""
        found = hashlib.sha256()
        for file, name in zip(self._files, self.images.names, strict=True):
            for what, path in (("image", file), *(("mask", mask) for mask in self._masks.get(file, ()))):
                with path.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                found.update(f"{what} {name} {digest}\n".encode())
        return found.hexdigest()


class LabelledFolder(LabelledFiles):
    """A folder; see `open_labelled`."""

    def __init__(self, folder: Path, masks: str | Path | bool, max_pixels: int | None, *, skip_broken: bool) -> None:
        # '.' and '..' have no parent to look for masks in; other links keep their names.
        folder = folder.resolve() if ".." in folder.parts else absolute(folder)
        root = _images_root(folder)
        listed = find_images(root)
        if not listed.images:
            raise DataError(f"Folder '{root}' holds no images, expected images sorted into folders. Check the path.")
        notes = listed.notes(f"'{root}'")
        self.images = FileImages(root, listed.images, notes=notes, max_pixels=max_pixels, skip_broken=skip_broken)
        self.name = folder.name
        self._files = self.images.files or ()
        self._max_pixels = max_pixels
        kinds = [file.relative_to(root).parts[0] for file in self._files]
        flags = np.array([kind.lower() not in NORMAL_FOLDERS for kind in kinds])
        stray = [file.name for file in self._files if file.parent == root]
        sorted_by_kind = not stray and not flags.all()
        mask_folder = absolute(as_path(masks)) if not isinstance(masks, bool) else None
        if mask_folder is not None and not mask_folder.is_dir():
            raise DataError(f"Folder of masks '{masks}' does not exist, expected a folder. Check --masks.")
        matched = (
            match_masks(root, self._files, int(flags.sum()), mask_folder) if masks is not False else MatchedMasks({})
        )
        self._masks = matched.files
        if not sorted_by_kind and not self._masks:
            found = f"image '{stray[0]}' in no folder" if stray else f"no images in '{NORMAL_FOLDERS[0]}'"
            raise UnlabelledError(
                f"Folder '{root}' holds {found}, expected a folder '{NORMAL_FOLDERS[0]}' with normal images, and one "
                "beside it for each kind of anomaly, or masks. Sort the images into folders, or give --masks DIR."
            )
        check_mask_sizes(self._masks, max_pixels)
        self._mask_notes = matched.notes
        self.labels = flags if sorted_by_kind else None
        if sorted_by_kind:
            self.kinds = dict(Counter(kinds))
        elif len(self._masks) < len(self):
            without = len(self) - len(self._masks)
            self._mask_notes = (
                *(note for note in matched.notes if not note.startswith("anomalous images without")),
                f"images without a mask, counted as normal: {without} of {len(self)}",
            )
        self.files = (*self._files, *(mask for found in self._masks.values() for mask in found))


class LabelledTable(LabelledFiles):
    """A table; see `open_labelled`."""

    def __init__(self, path: Path, masks: str | Path | bool, max_pixels: int | None, *, skip_broken: bool) -> None:
        manifest = read_manifest(path)
        if not isinstance(masks, bool):
            raise DataError(
                f"A folder of masks, '{masks}', was given for table '{path}', expected a column 'mask'. Add it to the "
                "table."
            )
        images = manifest.images(max_pixels=max_pixels, skip_broken=skip_broken)
        self.images = images
        self.name = path.name
        self._files = images.files or ()
        self._max_pixels = max_pixels
        listed = manifest.masks if masks else {}
        self._masks = {file: (listed[file],) for file in self._files if file in listed}
        if manifest.labels is None and not self._masks:
            raise UnlabelledError(
                f"Table '{path}' has no column of labels and no masks, expected 'label' or 'mask' beside 'path'. Add "
                "which images are anomalous."
            )
        check_mask_sizes(self._masks, max_pixels)
        self.labels = None
        if manifest.labels is None:
            without = len(self._files) - len(self._masks)
            if without:
                self._mask_notes = (f"images without a mask, counted as normal: {without} of {len(self._files)}",)
        else:
            self.labels = np.array([manifest.labels[file] for file in self._files], np.bool_)
            anomalous = [file for file, flag in zip(self._files, self.labels, strict=True) if flag]
            bare = sum(file not in self._masks for file in anomalous)
            if self._masks and bare:
                self._mask_notes = (f"anomalous images without a mask: {bare} of {len(anomalous)}",)
        self.files = (path, *self._files, *(mask for found in self._masks.values() for mask in found))


def _images_root(folder: Path) -> Path:
    """Return the folder of the labelled images in a folder: `test`, `Images`, `Data/Images`, or the folder itself."""
    for candidate in (folder / TEST_FOLDER, folder):
        if any(child.name.lower() in NORMAL_FOLDERS for child in _folders(candidate)):
            return candidate
    for parent in (folder, *(child for child in _folders(folder) if child.name.lower() == "data")):
        for child in _folders(parent):
            if child.name.lower() == IMAGES_FOLDER:
                return child
    return folder


def _folders(parent: Path) -> Iterator[Path]:
    if parent.is_dir():
        yield from (child for child in sorted(parent.iterdir()) if child.is_dir())
