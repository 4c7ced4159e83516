"""The six numbers under flat names, or in YAML, as people write them by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import StatisticsError
from pp_graph.statistics.source import StatisticsFormat, check_known
from pp_graph.statistics.statistics import Statistics

if TYPE_CHECKING:
    from pp_graph.statistics.source import StatisticsFile

_NUMBERS: Final = ("threshold", "min", "max")
_FLAT: Final = {f"{level}_{name}": (level, name) for level in ("image", "pixel") for name in _NUMBERS}
_LARGEST_YAML: Final = 64 << 10


class FlatNumbers(StatisticsFormat):
    """JSON or YAML with `image_threshold`, `image_min`, ... `pixel_max`; in YAML also nested as in our JSON."""

    title = "six numbers in JSON or YAML"

    def recognises(self, file: StatisticsFile) -> bool:
        """True for the ending of YAML, or a JSON object with one of the ranges under its flat name."""
        if file.path.suffix.lower() in (".yaml", ".yml"):
            return True
        return file.json is not None and any(name in file.json for name in _FLAT if not name.endswith("_threshold"))

    def read(self, file: StatisticsFile) -> Statistics:
        """Read the numbers."""
        content = _parse_yaml(file) if file.path.suffix.lower() in (".yaml", ".yml") else dict(file.json or {})
        for name, (level, key) in _FLAT.items():
            if name in content:
                nested = content.setdefault(level, {})
                if not isinstance(nested, dict) or key in nested:
                    raise StatisticsError(f"'{name}' and '{level}.{key}' are both given, expected one. Remove one.")
                nested[key] = content.pop(name)
        try:
            text = json.dumps(content)
        except (TypeError, ValueError, RecursionError) as error:
            raise StatisticsError(f"it holds {error}, expected numbers: {', '.join(_FLAT)}.") from error
        statistics = Statistics.from_json(text)
        check_known(getattr(level, name) for level in (statistics.image, statistics.pixel) for name in _NUMBERS)
        return statistics


def _parse_yaml(file: StatisticsFile) -> dict[Any, Any]:
    import yaml

    if len(file.content) > _LARGEST_YAML:
        raise StatisticsError(f"it has {len(file.content):,} bytes, expected at most {_LARGEST_YAML:,} of YAML.")
    try:
        content = yaml.safe_load(file.content)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise StatisticsError(f"it is not YAML: {error}. Expected lines such as image_threshold: 14.97.") from error
    if not isinstance(content, dict):
        raise StatisticsError(f"it holds {type(content).__name__}, expected lines such as image_threshold: 14.97.")
    return content
