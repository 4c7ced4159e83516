"""Mask files: their images, and their anomalous pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.images import MASK_FOLDER, image_files
from pp_graph.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

Flags = npt.NDArray[np.bool_]

TEST_FOLDER: Final = "test"
_LOSSY_MIDDLE: Final = 128


def find_mask_folder(root: Path) -> Path | None:
    """The folder of masks of a folder of images: in it, or beside it as beside MVTec AD's `test`; None without.

    Beside `test`, masks belong to that, and to no other folder there.
    """
    parents = [root]
    if root.name.lower() == TEST_FOLDER or not (root.parent / TEST_FOLDER).is_dir():
        parents.append(root.parent)
    for parent in parents:
        try:
            found = [each for each in parent.iterdir() if each.name.lower() == MASK_FOLDER and each.is_dir()]
        except PermissionError:
            continue  # what is above the images need not be open to whoever reads them
        if found:
            return found[0]
    return None


def match_masks(root: Path, images: Sequence[Path], anomalous: int) -> tuple[dict[Path, Path], list[Path]]:
    """Find the mask of each image that has one, by folder and name: `bent/000.png` and `bent/000_mask.png`.

    Args:
        root: The folder of the images.
        images: The images.
        anomalous: How many of them are anomalous.

    Returns:
        Image to mask, and the masks that match no image.

    Raises:
        DataError: An image has two masks, or there are masks and anomalous images and nothing matches.
    """
    folder = find_mask_folder(root)
    if folder is None:
        return {}, []
    by_stem = {image.relative_to(root).with_suffix("").as_posix(): image for image in images}
    found: dict[Path, Path] = {}
    stray = []
    masks = image_files(folder)
    for mask in masks:
        stem = mask.relative_to(folder).with_suffix("").as_posix()
        image = by_stem.get(stem) or by_stem.get(stem.removesuffix("_mask"))
        if image is None:
            stray.append(mask)
        elif image in found:
            raise DataError(
                f"Image '{image}' has two masks, '{found[image].name}' and '{mask.name}', expected one. Remove one, or "
                "join them."
            )
        else:
            found[image] = mask
    if masks and anomalous and not found:
        raise DataError(
            f"None of {len(masks)} masks in '{folder}', such as '{masks[0].relative_to(folder)}', matches an image, "
            f"expected the names of the images in '{root}', with '_mask' behind them or not. Rename them."
        )
    return found, stray


def read_mask(path: Path) -> Flags:
    """Anomalous pixels of a mask's file: those that are not black, or in a palette not the first colour. (H,W).

    Raises:
        DataError: The file cannot be read, or it says by transparency what is anomalous.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return _not_black(image, path)
    except DataError:
        raise
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"Mask '{path}' cannot be read: {error}. Remove it, or save it again.") from error


def _not_black(image: Image, path: Path) -> Flags:
    values = np.asarray(image)
    if image.mode in ("LA", "RGBA", "PA"):
        if (values[..., -1] != values.flat[-1]).any():
            raise DataError(
                f"Mask '{path}' is partly transparent, expected black for normal pixels and another colour for "
                "anomalous ones. Save it as a grayscale picture."
            )
        values = values[..., :-1]
    # What is compressed with losses is not quite black around the edges.
    least = _LOSSY_MIDDLE if image.format == "JPEG" else np.nextafter(0, 1)
    flags = values if values.dtype == np.bool_ else values >= least
    return np.asarray(flags if flags.ndim == 2 else flags.any(axis=-1))


def resized(mask: Flags, size: tuple[int, int] | None) -> Flags:
    """Resize a mask without interpolation.

    Args:
        mask: (H,W).
        size: Height and width; None for its own.
    """
    if size is None or mask.shape == size:
        return mask
    rows, columns = ((np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip(size, mask.shape, strict=True))
    return np.asarray(mask[np.ix_(rows, columns)])
