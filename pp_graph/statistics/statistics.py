"""`Statistics`: the calibrated numbers of a model, and their JSON."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, SupportsFloat

import msgspec

from pp_graph.errors import StatisticsError
from pp_graph.files import written_together
from pp_graph.statistics.histogram import ScoreHistogram
from pp_graph.statistics.provenance import StatisticsProvenance
from pp_graph.summary import html_of, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pp_graph.model.weights import WeightsRecord
    from pp_graph.summary import Block

SCHEMA_VERSION = 1
_FLOAT32_MAX = 3.4028234663852886e38
HISTOGRAMS = ("histogram", "map_histogram")
"""Fields of histograms, which earlier versions do not know, and which are left out if they are None."""
_FIELDS = "threshold, min, max (numbers or null)"

Level = Literal["image", "pixel"]
"""`image` for scores and labels, `pixel` for maps and masks."""


class LevelStatistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The calibrated numbers of one level, image or pixel, on the scale of the raw model.

    Attributes:
        threshold: Raw values above it are anomalous; None if unknown.
        min: Minimum of the calibrated range; None if unknown.
        max: Maximum of the calibrated range; None if unknown.

    Raises:
        StatisticsError: A number is not finite, does not fit in float32, or `max` is below `min`.
    """

    threshold: float | None = None
    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool | str) or not isinstance(value, SupportsFloat):
                raise StatisticsError(f"'{name}' is {value!r}, expected a number or null. Use the raw model's scale.")
            value = float(value)
            if not math.isfinite(value):
                raise StatisticsError(
                    f"'{name}' is {value}, expected a finite number. Use null (None) if it is unknown, and "
                    "calibrate again if scores were not finite."
                )
            if abs(value) > _FLOAT32_MAX:
                raise StatisticsError(
                    f"'{name}' is {value:g}, expected a number within float32 (up to {_FLOAT32_MAX:.3g}). "
                    "Scale the model's scores down."
                )
            msgspec.structs.force_setattr(self, name, value)
        if self.min is not None and self.max is not None:
            if self.max < self.min:
                raise StatisticsError(
                    f"'max' is {self.max:g}, expected at least 'min', {self.min:g}. Are the two swapped?"
                )
            if self.max - self.min > _FLOAT32_MAX:
                raise StatisticsError(
                    f"The range from 'min' {self.min:g} to 'max' {self.max:g} is {self.max - self.min:g}, expected "
                    "a range within float32. Calibrate again without outliers."
                )


class Statistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The calibrated numbers of a model.

    Attributes:
        schema_version: Version of the JSON layout, 1.
        image: Statistics of scores.
        pixel: Statistics of maps.
        provenance: Origin of the statistics; None if unknown. No decision depends on it.
        histogram: Image scores of the calibration, which `pp_graph.drift` compares later ones with; None if unknown. No
            decision depends on it.
        map_histogram: Largest raw value of each map of the calibration, likewise.

    Raises:
        StatisticsError: A level is invalid, see `LevelStatistics`, or the schema version is unknown.
    """

    schema_version: int = SCHEMA_VERSION
    image: LevelStatistics = LevelStatistics()
    pixel: LevelStatistics = LevelStatistics()
    provenance: StatisticsProvenance | None = None
    histogram: ScoreHistogram | None = None
    map_histogram: ScoreHistogram | None = None

    def __post_init__(self) -> None:
        """Check levels and schema version."""
        for name in ("image", "pixel"):
            level = getattr(self, name)
            if not isinstance(level, LevelStatistics):
                raise StatisticsError(
                    f"'{name}' is {level!r}, expected LevelStatistics(threshold=..., min=..., max=...)."
                )
        if self.schema_version != SCHEMA_VERSION:
            raise StatisticsError(
                f"'schema_version' is {self.schema_version}, expected {SCHEMA_VERSION}. "
                "Upgrade pp_graph, or write the file again with this version."
            )

    def summary(self, title: str = "Statistics") -> list[Block]:
        """Return the numbers and their origin as tables."""
        from pp_graph.statistics.summary import blocks_of

        return blocks_of(self, title)

    def __repr__(self) -> str:
        """Return the numbers in a line."""
        source = None if self.provenance is None else self.provenance.source
        return f"Statistics(image={self.image!r}, pixel={self.pixel!r}, source={source!r})"

    def __str__(self) -> str:
        """Return the tables as text."""
        return text_of(self.summary())

    def _repr_html_(self) -> str:
        return html_of(self.summary())

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Read statistics from our JSON, or from a file of Anomalib, Model API or pp_graph.

        Args:
            path: A file in any format of `pp_graph.statistics.reading.FORMATS`, recognised by its content.

        Returns:
            The statistics. For a foreign file, `provenance` names its format, and `provenance.settings` are keyword
            arguments of `OneClassPostProcessor` that it contains.

        Raises:
            StatisticsError: The file is missing or has no known format, or a field is unknown, has the wrong type or an
                invalid value. The message names the file and the field.
        """
        from pp_graph.statistics.reading import read_statistics

        return read_statistics(Path(path))

    def of_another_model(self, raw_sha256: str, weights: WeightsRecord | None) -> str | None:
        """Return a warning if the statistics belong to a different raw model; None if not, or if unknown.

        Args:
            raw_sha256: Hash of the raw `.onnx` they are used for.
            weights: Its external weights; None if it has none.
        """
        origin = self.provenance
        if origin is None:
            return None
        record = origin.calibration
        if record is not None and record.model_sha256 is not None:
            verb, file, theirs = "were calibrated on", record.model, (record.model_sha256, record.model_weights)
        elif origin.raw_sha256 is not None:
            verb, file, theirs = "come from an artifact of", origin.file, (origin.raw_sha256, origin.raw_weights)
        else:
            return None
        own = (raw_sha256, None if weights is None else weights.sample)
        if theirs[0] == own[0] and (None in (theirs[1], own[1]) or theirs[1] == own[1]):
            return None
        kind, index = ("sha256", 0) if theirs[0] != own[0] else ("hash of external weights", 1)
        named = "" if file is None else f"'{file}', "
        return (
            f"The statistics {verb} a different model ({named}{kind} {str(theirs[index])[:12]}) than this one ({kind} "
            f"{str(own[index])[:12]}), so thresholds may not fit. Calibrate this model: pp-graph calibrate RAW.onnx "
            "--data IMAGES -o stats.json"
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Statistics:
        """Parse JSON text; raises the errors of `load`."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.ValidationError as error:
            if isinstance(error.__cause__, StatisticsError):
                message = str(error.__cause__)
                where = _field_path(str(error))
                raise StatisticsError(f"in '{where}': {message}" if where else message) from None
            raise StatisticsError(_explain(str(error))) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StatisticsError(
                f"not valid JSON: {error}. Expected "
                '{"schema_version": 1, "image": {"threshold": ..., "min": ..., "max": ...}, "pixel": {...}}; '
                "NaN and Infinity are not JSON; use null if unknown."
            ) from None

    def to_json(self) -> str:
        """Return indented JSON text that ends in a newline."""
        fields = msgspec.structs.asdict(self)
        # On one line each, which keeps the six numbers in sight.
        histograms = {name: value for name in HISTOGRAMS if (value := fields.pop(name)) is not None}
        if self.provenance is None:
            del fields["provenance"]
        text = msgspec.json.format(msgspec.json.encode(fields), indent=1).decode()
        lines = "".join(f',\n "{name}": {msgspec.json.encode(each).decode()}' for name, each in histograms.items())
        return f"{text.removesuffix('}').rstrip()}{lines}\n}}\n"

    def save(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
        """Write a JSON file atomically.

        Args:
            path: The file.
            overwrite: True replaces an existing file.
            inputs: Files that must not be replaced.

        Raises:
            OutputFileError: The file exists and `overwrite` is False, it is an input, or it cannot be written.
        """
        with written_together(Path(path), overwrite=overwrite, inputs=inputs) as (draft,):
            draft.write_text(self.to_json(), encoding="utf-8")


_JSON_NAMES = {"str": "a text", "bool": "true or false", "array": "a list", "int": "a whole number"}


def _field_path(message: str) -> str:
    """`... - at `$.image.min`` -> `image.min`."""
    found = re.search(r"at `\$\.?([^`]*)`", message)
    return found.group(1) if found else ""


def _explain(message: str) -> str:
    where = _field_path(message)
    if unknown := re.search(r"contains unknown field `([^`]*)`", message):
        name = f"{where}.{unknown.group(1)}" if where else unknown.group(1)
        known = {
            "": "schema_version, image, pixel, provenance, histogram, map_histogram",
            "image": _FIELDS,
            "pixel": _FIELDS,
        }
        expected = f"expected only {known[where]}" if where in known else "which this version does not know"
        return f"unknown field '{name}', {expected}. Remove or rename it."
    if wrong := re.search(r"Expected `([^`]*)`, got `([^`]*)`", message):
        expected = wrong.group(1).replace("float", "number").replace(" | ", " or ")
        field = f"field '{where}'" if where else "the file"
        held = _JSON_NAMES.get(wrong.group(2), wrong.group(2))
        return f"{field} holds {held}, expected {expected}. Correct it, or use null if unknown."
    return f"{message}. Expected fields: {_FIELDS} under 'image' and 'pixel'."
