"""Base class of statistics formats, and lazy access to the content of a file."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pp_graph.errors import ModelError, StatisticsError
from pp_graph.statistics.provenance import StatisticsProvenance
from pp_graph.statistics.rt_info import read_rt_info
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
# Every exporter writes the IR version, the first field of a model's protobuf.
_ONNX: Final = b"\x08"


class StatisticsFormat(ABC):
    """A file format with statistics.

    Attributes:
        title: Name for messages and provenance.
    """

    title: ClassVar[str]

    @abstractmethod
    def recognises(self, file: StatisticsFile) -> bool:
        """True if the content of the file is in this format. Must be fast."""

    @abstractmethod
    def read(self, file: StatisticsFile) -> Statistics:
        """Read the statistics of a file in this format.

        Raises:
            StatisticsError: An entry is missing, or a number is invalid.
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
        """Build statistics whose provenance names this format.

        Args:
            file: The file that was read.
            image: `threshold`, `min` and `max` of the image level; missing ones are unknown.
            pixel: The same for the pixel level.
            settings: Keyword arguments of `OneClassPostProcessor` that the file contains.
            notes: Notes for the user.
        """
        check_known((*image.values(), *pixel.values()))
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


def check_known(numbers: Iterable[float | None]) -> None:
    """Raise `StatisticsError` if all numbers of a file are unknown."""
    if all(number is None for number in numbers):
        raise StatisticsError(
            "it holds no number: threshold, min and max of both levels are unknown, expected at least one. Validate or "
            "calibrate the model first."
        )


def _level(name: str, numbers: Mapping[str, float | None]) -> LevelStatistics:
    try:
        return LevelStatistics(**numbers)
    except StatisticsError as error:
        raise StatisticsError(f"in '{name}': {error}") from None


class StatisticsFile:
    """A file that may contain statistics. Only its beginning is read until a property is used.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as stream:
            # A pipe can be read only once.
            if stream.seekable():
                self.head = stream.read(_HEAD_BYTES)
            else:
                self.content = stream.read(_LARGEST_TEXT)
                self.head = self.content[:_HEAD_BYTES]

    @cached_property
    def content(self) -> bytes:
        """All bytes of the file, at most 64 MiB."""
        size = self.path.stat().st_size
        if size > _LARGEST_TEXT:
            raise StatisticsError(
                f"it has {size:,} bytes, expected at most {_LARGEST_TEXT:,}. Pass the file with the statistics."
            )
        return self.path.read_bytes()

    @cached_property
    def text_head(self) -> bytes:
        """The beginning of the file, without byte order mark and leading white space."""
        return self.head.removeprefix(b"\xef\xbb\xbf").lstrip()

    @cached_property
    def json(self) -> dict[str, Any] | None:
        """Object in a JSON file; None for any other content."""
        if not self.text_head.startswith(b"{"):
            return None
        try:
            # Unlike msgspec, Python's json reads NaN and Infinity, which it also writes.
            content = json.loads(self.content)
        except (ValueError, RecursionError):
            return None
        return content if isinstance(content, dict) else None

    @cached_property
    def rt_info(self) -> Mapping[tuple[str, ...], str] | None:
        """The `rt_info` of an OpenVINO IR, see `read_rt_info`; None for another file."""
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
        except Exception as error:  # onnx_ir raises many types for a malformed model
            if not named:
                return None
            reason = str(error) if isinstance(error, ModelError) else f"it is not valid ONNX: {error}. Export it again."
            raise StatisticsError(reason) from error

    @cached_property
    def sha256(self) -> str | None:
        """Hash of the file; None above 64 MiB, because hashing would take too long."""
        if not self.path.is_file() or self.path.stat().st_size > _LARGEST_HASHED:
            return None
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def as_number(name: str, value: object) -> float | None:
    """Parse a number or text as a number. None for None and NaN, which mean unknown.

    Args:
        name: Name in the file, for error messages.
        value: Value in the file.

    Raises:
        StatisticsError: The value is not a number, or infinite.
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
            f"'{name}' is {number}, expected a finite number. The validation had no data or its scores were not "
            "finite. Validate the model again."
        )
    return None if math.isnan(number) else number


def _short(value: object) -> str:
    if not isinstance(value, int | float | str):
        return f"a {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
