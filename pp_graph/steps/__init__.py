"""The steps of post-processing. Each writes ONNX operators and has a NumPy reference.

To add one, write a class and an entry in `STEPS`; the tests compare every entry with its reference.
"""

from __future__ import annotations

from pp_graph.steps.class_maps import ClassAreas, ClassMap, MaskAreas, Matte
from pp_graph.steps.class_numbers import DropPixelAxes, InvertDecision, MaxOverClasses, TopMargin
from pp_graph.steps.classes import SelectClass, Softmax
from pp_graph.steps.compare import (
    DECISION_VALUES,
    NEVER,
    Compare,
    Cutoff,
    DecidingStep,
    DecisionType,
    EncodeDecision,
    find_cutoff,
    find_cutoffs,
    is_blurred,
    is_subnormal,
)
from pp_graph.steps.compare_many import ComparePerClass, ComparePerPixel, levels_as_text
from pp_graph.steps.filters import GaussianBlur, MedianFilter
from pp_graph.steps.geometry import CropBorder, ResizeMap
from pp_graph.steps.graph_step import GraphStep
from pp_graph.steps.interpolation import PiecewiseLinear, QuantileMap
from pp_graph.steps.masks import CloseMask, DilateMask, ErodeMask, MaskByLabel, OpenMask
from pp_graph.steps.min_max import MinMaxNormalize, PerImageMinMax, PlainMinMax, ZScore
from pp_graph.steps.operators.emitter import MINIMUM_OPSET, Emitter
from pp_graph.steps.probabilities import GaussianCDF, PlattScaling, Sigmoid, Temperature
from pp_graph.steps.reductions import MaxOverMap, MeanOverMap, TopKMean
from pp_graph.steps.region_table import RegionPart, RegionTable
from pp_graph.steps.regions import Hysteresis, RemoveSmallRegions
from pp_graph.steps.select_regions import SelectRegions
from pp_graph.steps.step import (
    CLASSES,
    DECISION,
    MAP,
    MAPS,
    MASK,
    NUMBERS,
    Accepts,
    Array,
    Keep,
    MonotoneChain,
    MonotoneStep,
    OnNaN,
    Step,
)
from pp_graph.steps.top_classes import ArgMax, ChoosingStep, GatherClasses, TopClasses
from pp_graph.values import ValueType

STEPS: tuple[type[Step], ...] = (
    MaxOverMap,
    ResizeMap,
    GaussianBlur,
    MedianFilter,
    CropBorder,
    MeanOverMap,
    TopKMean,
    MinMaxNormalize,
    PlainMinMax,
    PerImageMinMax,
    ZScore,
    Sigmoid,
    Softmax,
    SelectClass,
    DropPixelAxes,
    ArgMax,
    TopClasses,
    GatherClasses,
    MaxOverClasses,
    TopMargin,
    Temperature,
    PlattScaling,
    GaussianCDF,
    PiecewiseLinear,
    QuantileMap,
    Compare,
    ComparePerClass,
    ComparePerPixel,
    Keep,
    EncodeDecision,
    InvertDecision,
    MaskByLabel,
    ErodeMask,
    DilateMask,
    OpenMask,
    CloseMask,
    RemoveSmallRegions,
    Hysteresis,
    RegionTable,
    RegionPart,
    SelectRegions,
    ClassMap,
    ClassAreas,
    MaskAreas,
    Matte,
)

__all__ = [
    "CLASSES",
    "DECISION",
    "DECISION_VALUES",
    "MAP",
    "MAPS",
    "MASK",
    "MINIMUM_OPSET",
    "NEVER",
    "NUMBERS",
    "STEPS",
    "Accepts",
    "ArgMax",
    "Array",
    "ChoosingStep",
    "ClassAreas",
    "ClassMap",
    "CloseMask",
    "Compare",
    "ComparePerClass",
    "ComparePerPixel",
    "CropBorder",
    "Cutoff",
    "DecidingStep",
    "DecisionType",
    "DilateMask",
    "DropPixelAxes",
    "Emitter",
    "EncodeDecision",
    "ErodeMask",
    "GatherClasses",
    "GaussianBlur",
    "GaussianCDF",
    "GraphStep",
    "Hysteresis",
    "InvertDecision",
    "Keep",
    "MaskAreas",
    "MaskByLabel",
    "Matte",
    "MaxOverClasses",
    "MaxOverMap",
    "MeanOverMap",
    "MedianFilter",
    "MinMaxNormalize",
    "MonotoneChain",
    "MonotoneStep",
    "OnNaN",
    "OpenMask",
    "PerImageMinMax",
    "PiecewiseLinear",
    "PlainMinMax",
    "PlattScaling",
    "QuantileMap",
    "RegionPart",
    "RegionTable",
    "RemoveSmallRegions",
    "ResizeMap",
    "SelectClass",
    "SelectRegions",
    "Sigmoid",
    "Softmax",
    "Step",
    "Temperature",
    "TopClasses",
    "TopKMean",
    "TopMargin",
    "ValueType",
    "ZScore",
    "find_cutoff",
    "find_cutoffs",
    "is_blurred",
    "is_subnormal",
    "levels_as_text",
]
