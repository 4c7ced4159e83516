"""The words of post-processing: each step is an ONNX subgraph and a NumPy function that agree.

A new step is one file and one entry in `STEPS`; the tests compare the twins of every entry.
"""

from __future__ import annotations

from pp_graph.steps.compare import DECISION_VALUES, Compare, DecidingStep, DecisionType
from pp_graph.steps.cutoff import NEVER, Cutoff, find_cutoff
from pp_graph.steps.emitter import MINIMUM_OPSET, Emitter
from pp_graph.steps.encode_decision import EncodeDecision
from pp_graph.steps.form import DECISION, MAP, MASK, NUMBERS, Accepts, Form, MapAxes
from pp_graph.steps.hysteresis import Hysteresis
from pp_graph.steps.keep import Keep
from pp_graph.steps.mask_by_label import MaskByLabel
from pp_graph.steps.max_over_map import MaxOverMap
from pp_graph.steps.monotone_chain import MonotoneChain
from pp_graph.steps.morphology import CloseMask, DilateMask, ErodeMask, OpenMask
from pp_graph.steps.normalize import MinMaxNormalize
from pp_graph.steps.remove_small_regions import RemoveSmallRegions
from pp_graph.steps.resize_map import ResizeMap
from pp_graph.steps.step import Array, MonotoneStep, OnNaN, Step

STEPS: tuple[type[Step], ...] = (
    MaxOverMap,
    ResizeMap,
    MinMaxNormalize,
    Compare,
    Keep,
    EncodeDecision,
    MaskByLabel,
    ErodeMask,
    DilateMask,
    OpenMask,
    CloseMask,
    RemoveSmallRegions,
    Hysteresis,
)

__all__ = [
    "DECISION",
    "DECISION_VALUES",
    "MAP",
    "MASK",
    "MINIMUM_OPSET",
    "NEVER",
    "NUMBERS",
    "STEPS",
    "Accepts",
    "Array",
    "CloseMask",
    "Compare",
    "Cutoff",
    "DecidingStep",
    "DecisionType",
    "DilateMask",
    "Emitter",
    "ErodeMask",
    "Form",
    "Hysteresis",
    "Keep",
    "MapAxes",
    "MaskByLabel",
    "MaxOverMap",
    "MinMaxNormalize",
    "MonotoneChain",
    "MonotoneStep",
    "OnNaN",
    "OpenMask",
    "RemoveSmallRegions",
    "ResizeMap",
    "Step",
    "find_cutoff",
]
