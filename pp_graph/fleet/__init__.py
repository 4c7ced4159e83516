"""Many models in one run: from raw exports to verified artifacts, resumed where it stopped."""

from __future__ import annotations

from pp_graph.fleet.difference import FleetDifference, diff_fleets
from pp_graph.fleet.history import RetunedFleet, retune_fleet, undo_retuning
from pp_graph.fleet.manifest import FleetReport, read_manifest
from pp_graph.fleet.running import run_fleet
from pp_graph.fleet.settings import FleetModel, FleetSettings, read_fleet

__all__ = [
    "FleetDifference",
    "FleetModel",
    "FleetReport",
    "FleetSettings",
    "RetunedFleet",
    "diff_fleets",
    "read_fleet",
    "read_manifest",
    "retune_fleet",
    "run_fleet",
    "undo_retuning",
]
