"""`Statistics`: the calibrated numbers of a model, and their JSON."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, SupportsFloat

import msgspec

from pp_graph.errors import StatisticsError
from pp_graph.files import written_together
from pp_graph.statistics.provenance import StatisticsProvenance

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA_VERSION = 1
_FLOAT32_MAX = 3.4028234663852886e38
_FIELDS = "threshold, min, max (numbers or null)"

Level = Literal["image", "pixel"]
"""Whether numbers are of image scores or of the pixels of maps."""


class LevelStatistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The calibrated numbers of one level, image or pixel, on the scale of the raw model.

    Attributes:
        threshold: Raw value above which something is anomalous; None where unknown.
        min: Smallest raw value seen in calibration; None where unknown.
        max: Largest raw value seen in calibration; None where unknown.

    Raises:
        StatisticsError: A number is not finite, does not fit in float32, or `max` is below `min`.
    """

    threshold: float | None = None
    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that no calibration can have produced."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool | str) or not isinstance(value, SupportsFloat):
                raise StatisticsError(
                    f"'{name}' is {value!r}, expected a number or null. Give the value on the raw scale."
                )
            value = float(value)
            if not math.isfinite(value):
                raise StatisticsError(
                    f"'{name}' is {value}, expected a finite number. Use null (None) where it is unknown, and "
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
        image: Numbers of the image level (the score).
        pixel: Numbers of the pixel level (the map).
        provenance: Where they come from; None where that was not noted. No decision depends on it.

    Raises:
        StatisticsError: See `LevelStatistics`; also an unknown schema version.
    """

    schema_version: int = SCHEMA_VERSION
    image: LevelStatistics = LevelStatistics()
    pixel: LevelStatistics = LevelStatistics()
    provenance: StatisticsProvenance | None = None

    def __post_init__(self) -> None:
        """Refuse a layout that this version does not know."""
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

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Read statistics from our JSON, or from a file of Anomalib, Model API or pp_graph.

        Args:
            path: The file; `pp_graph.statistics.reading.FORMATS` lists what it may be. What it holds decides, not
                what it is called.

        Returns:
            The statistics. Where they were imported, `provenance` says from what, and its `settings` are the
            keyword arguments of `OneClassPostProcessor` that came with them.

        Raises:
            StatisticsError: The file is missing, of no known format, or a field is unknown, of the wrong
                type or impossible. The message names the file and the field.
        """
        from pp_graph.statistics.reading import read_statistics

        return read_statistics(Path(path))

    def of_another_model(self, raw_sha256: str) -> str | None:
        """Return a warning if the statistics were calibrated on another raw model; None if not, or if unknown.

        Args:
            raw_sha256: Hash of the raw model they are used for.
        """
        record = None if self.provenance is None else self.provenance.calibration
        if record is None or record.model_sha256 in (None, raw_sha256):
            return None
        own = "" if record.model is None else f"'{record.model}', "
        return (
            f"The statistics were calibrated on another model ({own}sha256 {str(record.model_sha256)[:12]}) than this "
            f"one (sha256 {raw_sha256[:12]}), so thresholds may not fit. Calibrate this model: pp-graph calibrate "
            "RAW.onnx --data IMAGES -o stats.json"
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Statistics:
        """Read statistics from JSON text; see `load` for the errors."""
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
                "NaN and Infinity are not JSON, use null for unknown."
            ) from None

    def to_json(self) -> str:
        """Write statistics as indented JSON text, ending in a newline."""
        fields = msgspec.structs.asdict(self)
        if self.provenance is None:
            del fields["provenance"]
        return msgspec.json.format(msgspec.json.encode(fields), indent=1).decode() + "\n"

    def save(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
        """Write statistics to a JSON file, whole or not at all.

        Args:
            path: The file.
            overwrite: Whether a file of that name may be replaced.
            inputs: Files never to be replaced.

        Raises:
            OutputFileError: The file exists with `overwrite` off, is an input, or cannot be written.
        """
        with written_together(Path(path), overwrite=overwrite, inputs=inputs) as (draft,):
            draft.write_text(self.to_json(), encoding="utf-8")


def _field_path(message: str) -> str:
    """`... - at `$.image.min`` -> `image.min`."""
    found = re.search(r"at `\$\.?([^`]*)`", message)
    return found.group(1) if found else ""


def _explain(message: str) -> str:
    where = _field_path(message)
    unknown = re.search(r"contains unknown field `([^`]*)`", message)
    if unknown:
        name = f"{where}.{unknown.group(1)}" if where else unknown.group(1)
        known = {"": "schema_version, image, pixel, provenance", "image": _FIELDS, "pixel": _FIELDS}
        expected = f"expected only {known[where]}" if where in known else "which this version does not know"
        return f"unknown field '{name}', {expected}. Remove or rename it."
    wrong = re.search(r"Expected `([^`]*)`, got `([^`]*)`", message)
    if wrong:
        expected = wrong.group(1).replace("float", "number").replace(" | ", " or ")
        field = f"field '{where}'" if where else "the file"
        return f"{field} holds {wrong.group(2)}, expected {expected}. Correct it, or use null where unknown."
    return f"{message}. Expected fields: {_FIELDS} under 'image' and 'pixel'."
