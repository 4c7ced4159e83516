"""Rewrite the raw model's tail to compute the same values in less time.

To add a rule, write one file and list it in `RULES`.
"""

from __future__ import annotations

from pp_graph.fusion.tail.channel_selection import ChannelSelection
from pp_graph.fusion.tail.convolution_collapse import PROJECTION, ConvolutionCollapse
from pp_graph.fusion.tail.exporter_leftovers import ExporterLeftovers
from pp_graph.fusion.tail.flattened_transpose import FlattenedTranspose
from pp_graph.fusion.tail.monotone_reduction import MonotoneReduction
from pp_graph.fusion.tail.partial_order import GroupedOrder, ShorterOrder
from pp_graph.fusion.tail.quadratic_form import QuadraticForm
from pp_graph.fusion.tail.rewriting import (
    NETWORK_SCOPE,
    TAIL_SCOPE,
    ReplacedPart,
    RewrittenTail,
    TailRecord,
    restore_tail,
    rewrite_tail,
)
from pp_graph.fusion.tail.row_selection import RowSelection
from pp_graph.fusion.tail.rule import Match, Miss, Rule
from pp_graph.fusion.tail.separable_collapse import SeparableCollapse
from pp_graph.fusion.tail.separable_convolution import SeparableConvolution
from pp_graph.fusion.tail.view import tail_names

RULES: tuple[Rule, ...] = (
    SeparableCollapse(),
    SeparableConvolution(),
    ChannelSelection(),
    ConvolutionCollapse(),
    RowSelection(),
    MonotoneReduction(),
    ShorterOrder(),
    GroupedOrder(),
    QuadraticForm(),
    FlattenedTranspose(),
    ExporterLeftovers(),
)
"""All rewrite rules. If proposals overlap, the one that saves most is applied."""

__all__ = [
    "NETWORK_SCOPE",
    "PROJECTION",
    "RULES",
    "TAIL_SCOPE",
    "Match",
    "Miss",
    "ReplacedPart",
    "RewrittenTail",
    "Rule",
    "TailRecord",
    "restore_tail",
    "rewrite_tail",
    "tail_names",
]
