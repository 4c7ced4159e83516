"""`Images`: what reads images batch by batch, whatever they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from pp_graph.errors import DataError
from pp_graph.model import image_input
from pp_graph.model.batch import describe_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pp_graph.data.image_files import SeenFiles
    from pp_graph.model import ModelInput

Array = npt.NDArray[Any]


class Images(ABC):
    """Images, read in batches.

    Attributes:
        names: Display name of each image: its file path or its index.
        arrays: Names of the arrays they come from; empty for files.
        where: Source to name in errors.
        files: File of each image; None for arrays.
        folder: The folder they were found in; None for other sources.
        pictures: Pixels of each picture in memory that is resized as a file would be, RGB, uint8 (H,W,3); None for
            other sources.
        letterbox: True if they keep their aspect ratio when they are resized.
    """

    names: tuple[str, ...]
    arrays: tuple[str, ...] = ()
    where: str = "the data"
    files: tuple[Path, ...] | None = None
    folder: Path | None = None
    pictures: Sequence[Array] | None = None
    letterbox: bool = False

    def __len__(self) -> int:
        return len(self.names)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user: skipped files, turned images. Complete once all images were read."""
        return ()

    @property
    def seen(self) -> SeenFiles | None:
        """What was noticed in the files read so far; None for arrays."""
        return None

    def part(self, start: int, stop: int) -> Images | None:
        """Return some of the images alone, small to send to another process; None if all are to be sent together."""
        return None

    def for_model(self, inputs: Sequence[ModelInput]) -> Images:
        """Return these images, counted along the batch axis of the model's image input."""
        return self

    def feeds(self, wanted: ModelInput, inputs: Sequence[ModelInput]) -> bool:
        """Return True if there are values for one of these inputs."""
        return True

    @abstractmethod
    def read(self, start: int, stop: int, inputs: Sequence[ModelInput]) -> dict[str, Array]:
        """Read a batch for a model.

        Args:
            start: Index of the first image.
            stop: Exclusive end index.
            inputs: The model's inputs.

        Returns:
            Array by input name: a batch for inputs that have one (see `batch_places`), otherwise the whole array.

        Raises:
            DataError: The images do not fit an input, or cannot be read.
        """


def unfed(missing: Sequence[ModelInput], inputs: Sequence[ModelInput], images: Images) -> DataError:
    """Return the error for inputs without values."""
    main = image_input(inputs)
    held = f"arrays {', '.join(map(repr, images.arrays))} in {images.where}" if images.arrays else "a folder of images"
    if len(inputs) == 1:
        return DataError(
            f"Found {held}, expected image: the model's input is {describe_inputs(inputs)}. Rename the "
            "array of the images."
        )
    named = " and ".join(repr(model_input.name) for model_input in missing)
    other = next((model_input.name for model_input in missing if model_input is not main), None)
    fixed = f", or give a value for all images with --input {other}=VALUE (fixed_inputs={{{other!r}: ...}})"
    return DataError(
        f"Found {held}, expected an array for each input ({describe_inputs(inputs)}): nothing feeds {named}. Give the "
        f"data as an .npz with an array of that name (--data FILE.npz){fixed if other is not None else ''}."
    )
