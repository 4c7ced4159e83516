"""Packages: folders that run a model without pp_graph, and check and time themselves where they land."""

from __future__ import annotations

from pp_graph.packaging.manifest import MANIFEST, Manifest, read_manifest
from pp_graph.packaging.packaging import Package, package
from pp_graph.packaging.remote import RemoteBenchmark, benchmark_remote
from pp_graph.packaging.targets import TARGETS

__all__ = [
    "MANIFEST",
    "TARGETS",
    "Manifest",
    "Package",
    "RemoteBenchmark",
    "benchmark_remote",
    "package",
    "read_manifest",
]
