"""Read the `rt_info` of an OpenVINO IR without OpenVINO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from xml.parsers import expat

from pp_graph.errors import StatisticsError

if TYPE_CHECKING:
    from pathlib import Path

_DEEPEST: Final = 200


class _NotAnIRError(Exception):
    """The outermost element is not `net`."""


class _Reader:
    """Collects the values under `net/rt_info` and skips the layers."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], str] = {}
        self._open: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open and name != "net":
            raise _NotAnIRError
        if len(self._open) >= _DEEPEST:
            raise StatisticsError(f"its XML is nested more than {_DEEPEST} deep, expected an IR as OpenVINO writes it.")
        self._open.append(name)
        if self._open[1:2] == ["rt_info"] and "value" in attributes:
            self.values[tuple(self._open[2:])] = attributes["value"]

    def end(self, _: str) -> None:
        self._open.pop()

    @staticmethod
    def refuse_doctype(*_: Any) -> None:
        # Entities of a DOCTYPE can expand without bound or name other files. OpenVINO writes none.
        raise StatisticsError("it has a DOCTYPE, expected an IR as OpenVINO writes it. Convert the model again.")


def read_rt_info(path: Path) -> dict[tuple[str, ...], str] | None:
    """Read the `rt_info` of an IR.

    Args:
        path: The `.xml`.

    Returns:
        Texts by their path of element names, outermost first; None if the XML is not an IR.

    Raises:
        StatisticsError: The XML is malformed.
    """
    reader, parser = _Reader(), expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = reader.refuse_doctype
    try:
        with path.open("rb") as stream:
            parser.ParseFile(stream)
    except _NotAnIRError:
        return None
    except (expat.ExpatError, LookupError, ValueError) as error:
        if isinstance(error, StatisticsError):
            raise
        raise StatisticsError(f"it is not well-formed XML: {error}. Copy or convert the model again.") from None
    return reader.values
