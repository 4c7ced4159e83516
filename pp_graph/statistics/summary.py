"""Statistics as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pp_graph.errors import counted
from pp_graph.summary import Block, Fields, Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.statistics.statistics import Statistics


def blocks_of(found: Statistics, title: str) -> list[Block]:
    """Return statistics and their origin as tables."""
    rows = [
        (level, *(_number(getattr(numbers, name)) for name in ("threshold", "min", "max")))
        for level, numbers in (("image", found.image), ("pixel", found.pixel))
    ]
    return [Table(title, ("level", "threshold", "min", "max"), rows), Fields("Provenance", _describe(found))]


def _describe(found: Statistics) -> dict[str, str]:
    provenance = found.provenance
    if provenance is None:
        return {"source": "not recorded"}
    fields = {"source": provenance.source}
    if provenance.file is not None:
        fields["file"] = provenance.file
    if provenance.sha256 is not None:
        fields["sha256"] = provenance.sha256
    if provenance.calibration is not None:
        data = provenance.calibration.data or "data in memory"
        fields["calibrated on"] = f"{counted(provenance.calibration.images, 'image')} of {data}"
    for name, histogram in (("histogram", found.histogram), ("map histogram", found.map_histogram)):
        if histogram is not None:
            fields[name] = histogram.describe()
    fields["settings"] = describe_settings(provenance.settings)
    return {**fields, **{"note" if index == 0 else " " * index: text for index, text in enumerate(provenance.notes)}}


def describe_numbers(numbers: Mapping[str, float | None]) -> str:
    """`threshold 9.96, min 7.43, max 15.98`."""
    return ", ".join(f"{name} {_number(numbers.get(name))}" for name in ("threshold", "min", "max"))


def describe_settings(settings: Mapping[str, Any]) -> str:
    """`normalize=True, image_sensitivity=0.5`."""
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "none, so the defaults apply"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.9g}"
