"""The numbers that an artifact decides with."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import msgspec

from pp_graph.fleet.post_processing import changes_to
from pp_graph.retuning import prepare_retuning

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pp_graph.fusion import Provenance
    from pp_graph.statistics import Statistics


def tune_artifact(path: Path, statistics: Statistics | None, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Give an artifact statistics and numbers, if it has others.

    Args:
        path: The artifact.
        statistics: Its statistics; None keeps its own.
        numbers: Values by parameter.

    Returns:
        What it decides with, its hash and size.

    Raises:
        PPGraphError: See `pp_graph.retune`.
    """
    provenance = prepare_retuning(path).provenance
    changed, changes = changes_to(provenance, statistics, numbers)
    if changed is not None or changes:
        provenance = prepare_retuning(path, changed, **changes).write().provenance
    return {**numbers_of(provenance), **identity_of(path)}


def numbers_of(provenance: Provenance) -> dict[str, Any]:
    """Return statistics, parameters and cutoffs, as JSON values."""
    found = provenance.statistics
    levels = None if found is None else {name: msgspec.to_builtins(getattr(found, name)) for name in ("image", "pixel")}
    return {"statistics": levels, "parameters": dict(provenance.parameters), "cutoffs": dict(provenance.cutoffs)}


def identity_of(path: Path) -> dict[str, Any]:
    """Return hash and size of an artifact's two files."""
    files = (path, path.with_suffix(".bin"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return {"sha256": digest.hexdigest(), "bytes": sum(file.stat().st_size for file in files)}


def number_columns(tuned: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of the manifest that follow from the numbers of an artifact."""
    levels = tuned["statistics"] or {"image": {}, "pixel": {}}
    parameters, cutoffs = tuned["parameters"], tuned["cutoffs"]
    return {
        **{f"{level}_threshold": levels[level].get("threshold") for level in levels},
        "image_cutoff": _single(cutoffs.get("pred_label")),
        "pixel_cutoff": _single(cutoffs.get("pred_mask")),
        "image_sensitivity": parameters.get("image_sensitivity"),
        "pixel_sensitivity": parameters.get("pixel_sensitivity"),
        "cutoffs": json.dumps(cutoffs, sort_keys=True),
        "parameters": json.dumps(parameters, sort_keys=True),
        "artifact_sha256": tuned["sha256"],
        "bytes": tuned["bytes"],
    }


def _single(cutoff: Any) -> float | None:
    return cutoff if isinstance(cutoff, float) else None
