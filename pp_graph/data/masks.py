"""Ground-truth masks: find those of each image, and read their anomalous pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.image_files import (
    IMAGES_FOLDER,
    MASK_FOLDERS,
    MASKS_FOLDER,
    MAX_PIXELS,
    find_images,
    opened_image,
    upright,
    upright_size,
)
from pp_graph.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from PIL.Image import Image

Flags = npt.NDArray[np.bool_]

TEST_FOLDER: Final = "test"
_LOSSY_MIDDLE: Final = 128


@dataclass(frozen=True)
class MatchedMasks:
    """Masks of images.

    Attributes:
        files: Mask files of each image that has any; several are united.
        notes: Remarks for the user.
    """

    files: Mapping[Path, tuple[Path, ...]]
    notes: tuple[str, ...] = ()


def find_mask_folders(root: Path) -> list[Path]:
    """Return folders of masks in or beside a folder of images, the best first.

    Masks beside MVTec AD's `test` belong to `test`, and to no other folder there. `masks` counts only beside `images`,
    and comes first there.
    """
    name = root.name.lower()
    beside = name in (TEST_FOLDER, IMAGES_FOLDER) or not (root.parent / TEST_FOLDER).is_dir()
    for parent, names in ((root, MASK_FOLDERS), (root.parent, MASK_FOLDERS[: 1 + (name == IMAGES_FOLDER)])):
        if parent != root and not beside:
            continue
        try:
            folders = [child for child in sorted(parent.iterdir()) if child.name.lower() in names and child.is_dir()]
        except PermissionError:
            continue  # folders above the images need not be readable
        if root in folders:
            continue
        if folders:
            return sorted(folders, key=lambda child: (child.name.lower() == MASKS_FOLDER) != (name == IMAGES_FOLDER))
    return []


def match_masks(root: Path, images: Sequence[Path], anomalous: int, folder: Path | None = None) -> MatchedMasks:
    """Find the masks of each image by folder and name.

    Masks of `bent/000.png` are `bent/000.png` and `bent/000_mask.png` (MVTec AD, VisA), or all of `bent/000/` (MVTec
    LOCO).

    Args:
        root: Folder of the images.
        images: The images.
        anomalous: Number of anomalous images.
        folder: Folder of the masks; None to search in and beside `root`.

    Raises:
        DataError: An image has two masks of its name, or there are masks and anomalous images and nothing matches.
    """
    given = folder is not None
    folders = find_mask_folders(root) if folder is None else [folder]
    if not folders:
        return MatchedMasks({})
    folder = folders[0]
    listed = find_images(folder)
    by_stem = {image.relative_to(root).with_suffix("").as_posix(): image for image in images}
    found: dict[Path, list[Path]] = {}
    stray = []
    for mask in listed.images:
        relative = mask.relative_to(folder).with_suffix("")
        stem = relative.as_posix()
        image = by_stem.get(stem) or by_stem.get(stem.removesuffix("_mask"))
        part = by_stem.get(relative.parent.as_posix()) if image is None else None
        if image is None and part is None:
            stray.append(mask)
        elif image is not None and image in found:
            raise DataError(
                f"Image '{image}' has two masks, '{found[image][0].name}' and '{mask.name}', expected one. Remove one, "
                "or join them."
            )
        else:
            found.setdefault(image or part, []).append(mask)  # type: ignore[arg-type]
    belongs = given or folder.parent == root or root.name.lower() in (TEST_FOLDER, IMAGES_FOLDER)
    if listed.images and anomalous and not found:
        if not belongs:
            return MatchedMasks({}, (f"masks in '{folder}' were not used: none matches an image",))
        raise DataError(
            f"None of {len(listed.images)} masks in '{folder}' (such as '{listed.images[0].relative_to(folder)}') "
            f"matches an image in '{root}', expected the image's file name, with or without the suffix '_mask'. Rename "
            "them, or use --masks DIR or --no-masks."
        )
    notes = list(listed.notes(folder.name))
    if len(folders) > 1:
        unused = ", ".join(f"'{other.name}'" for other in folders[1:])
        notes.append(f"masks were read from '{folder.name}' and not from {unused}; --masks DIR chooses")
    if found and not belongs:
        notes.append(f"masks were read from '{folder}'; use --no-masks if they belong to other images")
    if stray:
        notes.append(f"files in {folder.name} that match no image: {len(stray)}, such as '{stray[0].name}'")
    if found and len(found) < anomalous:
        notes.append(f"anomalous images without a mask: {anomalous - len(found)} of {anomalous}")
    return MatchedMasks({image: tuple(masks) for image, masks in found.items()}, tuple(notes))


def check_mask_sizes(masks: Mapping[Path, tuple[Path, ...]], max_pixels: int | None = MAX_PIXELS) -> None:
    """Raise if a mask does not fit its image: a different aspect ratio, or that before the image's EXIF rotation.

    Raises:
        DataError: A mask does not fit its image, or one of the two cannot be read.
    """
    for image, files in masks.items():
        size, sideways = upright_size(image, max_pixels)
        for file in files:
            mask_size, _ = upright_size(file, max_pixels, what="Mask")
            if same_aspect(mask_size, size):
                continue
            found = f"Mask '{file}' is {_by(mask_size)}, and its image '{image}' is {_by(size)}"
            if sideways and same_aspect(mask_size, size[::-1]):
                raise DataError(
                    f"{found} once its EXIF orientation is applied, expected a mask of the turned image. Turn the "
                    "mask, or save the image as it was when the mask was drawn, without EXIF orientation."
                )
            raise DataError(
                f"{found}, expected one aspect ratio. Give the mask of that image, or leave masks out with --no-masks."
            )


def same_aspect(mask: tuple[int, int], image: tuple[int, int]) -> bool:
    """Return True if two sizes have one aspect ratio, up to rounding to whole pixels."""
    (width, height), (full_width, full_height) = mask, image
    return abs(height - full_height * width / full_width) <= 1 or abs(width - full_width * height / full_height) <= 1


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} (width x height)"


def read_mask(path: Path, max_pixels: int | None = MAX_PIXELS) -> Flags:
    """Read a mask file.

    Returns:
        Anomalous pixels (H,W): not black, or not the first colour of a palette.

    Raises:
        DataError: The file cannot be read, or uses transparency to mark anomalous pixels.
    """
    with opened_image(path, max_pixels, what="Mask") as image:
        lossy = image.format == "JPEG"
        return _not_black(upright(image)[0], path, lossy=lossy)


def _not_black(image: Image, path: Path, *, lossy: bool) -> Flags:
    values = np.asarray(image)
    if image.mode in ("LA", "RGBA", "PA"):
        if (values[..., -1] != values.flat[-1]).any():
            raise DataError(
                f"Mask '{path}' is partly transparent, expected black for normal pixels and another colour for "
                "anomalous ones. Save it as a grayscale picture."
            )
        values = values[..., :-1]
    # Lossy compression leaves dark gray around edges.
    least = _LOSSY_MIDDLE if lossy else np.nextafter(0, 1)
    flags = values if values.dtype == np.bool_ else values >= least
    return np.asarray(flags if flags.ndim == 2 else flags.any(axis=-1))


def resized(mask: Flags, size: tuple[int, int] | None) -> Flags:
    """Resize a mask by nearest neighbour.

    Args:
        mask: (H,W).
        size: Height and width; None to keep its own.
    """
    if size is None or mask.shape == size:
        return mask
    rows, columns = ((np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip(size, mask.shape, strict=True))
    return np.asarray(mask[np.ix_(rows, columns)])
