"""Statistics in an IR's `rt_info`: Model API's `model_info`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from xml.parsers import expat

from pp_graph.errors import StatisticsError
from pp_graph.statistics.source import STAND_IN, StatisticsFormat, as_number

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.statistics.source import StatisticsFile
    from pp_graph.statistics.statistics import Statistics


_DEEPEST: Final = 200


class _NotAnIRError(Exception):
    """The outermost element is another one."""


class _Reader:
    """Keeps the values under `net/rt_info`; layers, which may be many, are read past."""

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
        # Its entities can grow without bound, or name other files; OpenVINO writes none.
        raise StatisticsError("it has a DOCTYPE, expected an IR as OpenVINO writes it. Convert the model again.")


def read_rt_info(path: Path) -> dict[tuple[str, ...], str] | None:
    """Read the metadata of an IR.

    Args:
        path: The `.xml`.

    Returns:
        Names, from the outermost to the innermost, to their text; None for XML that is no IR.

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


_DEFAULTS: Final = {"image_threshold": 0.5, "pixel_threshold": 0.5, "normalization_scale": 1.0}
"""What Model API 0.4 takes where the file says nothing."""

_LEVELS: Final = ("image", "pixel")
MODEL_INFO: Final = "model_info"
MODEL_TYPE: Final = "AnomalyDetection"
OWN_KEY: Final = "post_processing"
"""The entry by which pp_graph marks a `model_info` of its own, whose thresholds are on the scale of the outputs."""
OWN_VALUE: Final = "pp_graph"


class ModelAPI(StatisticsFormat):
    """An IR that Anomalib 1.x, OTX or Geti wrote for OpenVINO's Model API."""

    title = "Model API model_info"

    def recognises(self, file: StatisticsFile) -> bool:
        """True for any IR. `read` finds out if it holds statistics."""
        return file.rt_info is not None

    def read(self, file: StatisticsFile) -> Statistics:
        """Read thresholds and the one range that serves both levels."""
        info = {names[-1]: text for names, text in (file.rt_info or {}).items() if names[:1] == (MODEL_INFO,)}
        kind = info.get("model_type", MODEL_TYPE)
        if kind.lower() != MODEL_TYPE.lower():
            raise StatisticsError(f"its model_info is for a model of type '{kind}', expected '{MODEL_TYPE}'.")
        if info.get(OWN_KEY) == OWN_VALUE:
            # An IR that has kept its provenance is read by it, and does not come here.
            raise StatisticsError(
                "pp_graph wrote its model_info, whose thresholds are on the scale of the outputs, and its provenance, "
                "which has the statistics, is gone. Take them from the model as pp-graph convert wrote it."
            )
        if not _DEFAULTS.keys() & info.keys():
            raise StatisticsError(
                f"the IR has no rt_info model_info with {', '.join(_DEFAULTS)}, and was not written by pp-graph. "
                "Statistics of an Anomalib 2.x export are read from its checkpoint or its .onnx file."
            )
        found = {name: as_number(name, info[name]) for name in _DEFAULTS if name in info}
        if unknown := [name for name, value in found.items() if value is None]:
            raise StatisticsError(f"'{unknown[0]}' is not a number (NaN), expected one. Export the model again.")
        numbers = {**_DEFAULTS, **{name: value for name, value in found.items() if value is not None}}
        extent = numbers["normalization_scale"]
        if extent < 0:
            raise StatisticsError(f"'normalization_scale' is {extent:g}, expected 0 or more. Export the model again.")
        notes = [
            f"Model API keeps only the difference max - min, {extent:.9g} for both levels; {STAND_IN}",
            "Model API counts a pixel at the threshold itself as anomalous (>=), pp_graph counts it as normal (>).",
        ]
        notes += [
            f"'{name}' is not in the file; {default:g} is what Model API takes then."
            for name, default in _DEFAULTS.items()
            if name not in found
        ]
        image, pixel = ({"threshold": numbers[f"{level}_threshold"], "min": 0.0, "max": extent} for level in _LEVELS)
        return self.statistics(file, image, pixel, notes=notes)
