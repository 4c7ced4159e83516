"""The post-processor of a model of a fleet, and the numbers of it that can be retuned."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import PostProcessorError
from pp_graph.fusion.runtime_cutoffs import WITHOUT_STATISTICS
from pp_graph.postprocessors import (
    ClassificationPostProcessor,
    DetectionPostProcessor,
    OneClassPostProcessor,
    PostProcessor,
    RecipePostProcessor,
    RegionsPostProcessor,
    SegmentationPostProcessor,
    SequencePostProcessor,
)
from pp_graph.postprocessors.class_names import read_class_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.fleet.settings import FleetModel
    from pp_graph.fusion import Provenance
    from pp_graph.statistics import Statistics

FAMILIES: Final[dict[str, type[PostProcessor]]] = {
    "anomaly": OneClassPostProcessor,
    "classification": ClassificationPostProcessor,
    "detection": DetectionPostProcessor,
    "segmentation": SegmentationPostProcessor,
    "sequence": SequencePostProcessor,
    "regions": RegionsPostProcessor,
}
_NOT_OPTIONS: Final = frozenset({"statistics", "roles", "declared_outputs"})


def build_post_processor(model: FleetModel, statistics: Statistics | None) -> PostProcessor:
    """Build the post-processor of a model.

    Settings in a statistics file apply unless an option overrides them.

    Raises:
        PostProcessorError: An option does not exist, or does not fit.
        RecipeError: The recipe does not fit.
    """
    if model.recipe is not None:
        return RecipePostProcessor.load(model.recipe, statistics)
    kind = FAMILIES[model.task]
    known = _options_of(kind)
    unknown = next((name for name in model.options if name not in known), None)
    if unknown is not None:
        raise PostProcessorError(
            f"Task '{model.task}' has no option '{unknown}', expected some of: {', '.join(known)}. Leave it out."
        )
    options = {**_settings_in(statistics), **model.options}
    if isinstance(options.get("labels"), str):
        options["labels"] = read_class_names(options["labels"])
    return kind.from_parameters(statistics, options)


def structure(model: FleetModel, statistics: Statistics | None) -> dict[str, Any]:
    """Return the options that decide which operators are written; numbers that can be retuned are left out."""
    kind = FAMILIES[model.task]
    tunable, defaults = kind.tunable or (), _options_of(kind)
    options = {**_settings_in(statistics), **model.options}
    # Of a limit that a model may lack, it counts whether there is one.
    return {
        name: value is not None if name in tunable else value
        for name, value in sorted(options.items())
        if name not in tunable or defaults[name] is None
    }


def wanted_numbers(model: FleetModel, statistics: Statistics | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of each number that `retune` changes.

    Args:
        model: The model.
        statistics: Its statistics, whose settings apply unless an option overrides them.
        overrides: What `retune_fleet` set; it wins.
    """
    if model.recipe is not None:
        return dict(overrides)
    kind = FAMILIES[model.task]
    given = {**_settings_in(statistics), **model.options, **overrides}
    defaults = _options_of(kind)
    return {name: given.get(name, defaults[name]) for name in kind.tunable or ()}


def changes_to(
    provenance: Provenance, statistics: Statistics | None, numbers: Mapping[str, Any]
) -> tuple[Statistics | None, dict[str, Any]]:
    """Return what to retune in an artifact, as arguments of `retune`: None and an empty dict for nothing."""
    changed = {name: value for name, value in numbers.items() if not _equal(provenance.parameters.get(name), value)}
    current = provenance.statistics
    if statistics is None or provenance.post_processor in WITHOUT_STATISTICS:
        return None, changed
    same = current is not None and (current.image, current.pixel) == (statistics.image, statistics.pixel)
    return None if same else statistics, changed


def _equal(recorded: Any, wanted: Any) -> bool:
    return bool((list(recorded) if isinstance(recorded, tuple) else recorded)
                == (list(wanted) if isinstance(wanted, tuple) else wanted))  # fmt: skip


def _options_of(kind: type[PostProcessor]) -> dict[str, Any]:
    """Return default values by option."""
    fields: Any = kind
    return {
        each.name: each.default for each in dataclasses.fields(fields) if each.init and each.name not in _NOT_OPTIONS
    }


def _settings_in(statistics: Statistics | None) -> Mapping[str, Any]:
    return {} if statistics is None or statistics.provenance is None else statistics.provenance.settings
