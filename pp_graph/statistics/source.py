"""Base class of statistics formats: the file, and its numbers."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pp_graph.errors import ModelError, StatisticsError
from pp_graph.statistics.provenance import StatisticsProvenance
from pp_graph.statistics.statistics import LevelStatistics, Statistics
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pp_graph.model import RawModel

STAND_IN: Final = "min 0 and that as max stand for it, and normalising uses nothing else."

_HEAD_BYTES: Final = 64
_LARGEST_TEXT: Final = 64 << 20
_LARGEST_HASHED: Final = 64 << 20
_XML: Final = (b"<?xml", b"<net")
# The first field of a model's protobuf is its IR version, which every exporter writes.
_ONNX: Final = b"\x08"


class StatisticsFormat(ABC):
    """A kind of file that holds statistics.

    Attributes:
        title: Its name, for people and for provenance.
    """

    title: ClassVar[str]

    @abstractmethod
    def recognises(self, file: StatisticsFile) -> bool:
        """True if the file is of this format, judged by its content. Cheap."""

    @abstractmethod
    def read(self, file: StatisticsFile) -> Statistics:
        """Read the statistics of a file of this kind.

        Raises:
            StatisticsError: It lacks what it should hold, or a number is impossible.
        """

    def statistics(
        self,
        file: StatisticsFile,
        image: Mapping[str, float | None],
        pixel: Mapping[str, float | None],
        *,
        settings: Mapping[str, Any] | None = None,
        notes: Iterable[str] = (),
    ) -> Statistics:
        """Statistics with this format as their provenance.

        Args:
            file: The file they were read from.
            image: `threshold`, `min` and `max` of the image level; what is left out is unknown.
            pixel: The same for the pixel level.
            settings: Keyword arguments of `OneClassPostProcessor` that came with them.
            notes: What a person should know about how they were read.
        """
        return Statistics(
            image=_level("image", image),
            pixel=_level("pixel", pixel),
            provenance=StatisticsProvenance(
                source=self.title,
                pp_graph_version=__version__,
                file=file.path.name,
                sha256=file.sha256,
                settings=dict(settings or {}),
                notes=list(notes),
            ),
        )


def _level(name: str, numbers: Mapping[str, float | None]) -> LevelStatistics:
    try:
        return LevelStatistics(**numbers)
    except StatisticsError as error:
        raise StatisticsError(f"in '{name}': {error}") from None


class StatisticsFile:
    """A file that may hold statistics; nothing but its beginning is read until it is asked for.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as stream:
            # What comes through a pipe comes once.
            if stream.seekable():
                self.head = stream.read(_HEAD_BYTES)
            else:
                self.content = stream.read(_LARGEST_TEXT)
                self.head = self.content[:_HEAD_BYTES]

    @cached_property
    def content(self) -> bytes:
        """The whole of a small file."""
        size = self.path.stat().st_size
        if size > _LARGEST_TEXT:
            raise StatisticsError(
                f"it has {size:,} bytes, expected at most {_LARGEST_TEXT:,} for a JSON of a few numbers. "
                "Name the file with the statistics."
            )
        return self.path.read_bytes()

    @cached_property
    def text_head(self) -> bytes:
        """The beginning, without a byte order mark and white space."""
        return self.head.removeprefix(b"\xef\xbb\xbf").lstrip()

    @cached_property
    def json(self) -> dict[str, Any] | None:
        """The object that a JSON file holds; None where it holds something else."""
        if not self.text_head.startswith(b"{"):
            return None
        try:
            # Python's reader takes NaN and Infinity, which Python's writer writes.
            found = json.loads(self.content)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    @cached_property
    def rt_info(self) -> Mapping[tuple[str, ...], str] | None:
        """Names to texts of the `rt_info` of an OpenVINO IR; None for another file."""
        from pp_graph.statistics.model_api import read_rt_info

        return read_rt_info(self.path) if self.text_head.startswith(_XML) else None

    @cached_property
    def onnx(self) -> RawModel | None:
        """The ONNX model; None for another file."""
        named = self.path.suffix.lower() == ".onnx"
        if not named and not self.head.startswith(_ONNX):
            return None
        from pp_graph.model import RawModel

        try:
            return RawModel.open(self.path)
        except Exception as error:  # onnx_ir lets many kinds through for a malformed model
            if not named:
                return None
            what = str(error) if isinstance(error, ModelError) else f"it is not valid ONNX: {error}. Export it again."
            raise StatisticsError(what) from error

    @cached_property
    def sha256(self) -> str | None:
        """Hash of the file; None above 64 MiB, where hashing would take longer than everything else."""
        if not self.path.is_file() or self.path.stat().st_size > _LARGEST_HASHED:
            return None
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def as_number(name: str, value: object) -> float | None:
    """Parse a number given as number or text, with NaN for unknown.

    Args:
        name: What it is called in the file.
        value: What the file holds.

    Raises:
        StatisticsError: It is no number, or infinite.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise StatisticsError(f"'{name}' is {_short(value)}, expected a number. Correct it, or export the model again.")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise StatisticsError(
            f"'{name}' is {_short(value)}, expected a number. Correct it, or export the model again."
        ) from None
    if math.isinf(number):
        raise StatisticsError(
            f"'{name}' is {number}, expected a finite number. Nothing was counted when it was calibrated, or scores "
            "were not finite: validate the model again."
        )
    return None if math.isnan(number) else number


def _short(value: object) -> str:
    if not isinstance(value, int | float | str):
        return f"a {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
