"""The words of post-processing: each step is an ONNX subgraph and a NumPy function that agree.

A new step is one file and one entry in `STEPS`; the tests compare the twins of every entry.
"""

from __future__ import annotations

from pp_graph.steps.accepts import CLASSES, DECISION, MAP, MAPS, MASK, NUMBERS, Accepts
from pp_graph.steps.compare import DECISION_VALUES, Compare, DecidingStep, DecisionType
from pp_graph.steps.compare_per_class import ComparePerClass
from pp_graph.steps.compare_per_pixel import ComparePerPixel, levels_as_text
from pp_graph.steps.crop_border import CropBorder
from pp_graph.steps.cutoff import NEVER, Cutoff, find_cutoff, find_cutoffs, is_blurred, is_subnormal
from pp_graph.steps.emitter import MINIMUM_OPSET, Emitter
from pp_graph.steps.encode_decision import EncodeDecision
from pp_graph.steps.gaussian_blur import GaussianBlur
from pp_graph.steps.gaussian_cdf import GaussianCDF
from pp_graph.steps.graph_step import GraphStep
from pp_graph.steps.hysteresis import Hysteresis
from pp_graph.steps.keep import Keep
from pp_graph.steps.mask_by_label import MaskByLabel
from pp_graph.steps.max_over_map import MaxOverMap
from pp_graph.steps.mean_over_map import MeanOverMap
from pp_graph.steps.median_filter import MedianFilter
from pp_graph.steps.monotone_chain import MonotoneChain
from pp_graph.steps.morphology import CloseMask, DilateMask, ErodeMask, OpenMask
from pp_graph.steps.normalize import MinMaxNormalize
from pp_graph.steps.per_image_min_max import PerImageMinMax
from pp_graph.steps.piecewise_linear import PiecewiseLinear
from pp_graph.steps.plain_min_max import PlainMinMax
from pp_graph.steps.platt_scaling import PlattScaling
from pp_graph.steps.quantile_map import QuantileMap
from pp_graph.steps.remove_small_regions import RemoveSmallRegions
from pp_graph.steps.resize_map import ResizeMap
from pp_graph.steps.select_class import SelectClass
from pp_graph.steps.sigmoid import Sigmoid
from pp_graph.steps.softmax import Softmax
from pp_graph.steps.step import Array, MonotoneStep, OnNaN, Step
from pp_graph.steps.temperature import Temperature
from pp_graph.steps.top_k_mean import TopKMean
from pp_graph.steps.z_score import ZScore
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
    MaskByLabel,
    ErodeMask,
    DilateMask,
    OpenMask,
    CloseMask,
    RemoveSmallRegions,
    Hysteresis,
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
    "Array",
    "CloseMask",
    "Compare",
    "ComparePerClass",
    "ComparePerPixel",
    "CropBorder",
    "Cutoff",
    "DecidingStep",
    "DecisionType",
    "DilateMask",
    "Emitter",
    "EncodeDecision",
    "ErodeMask",
    "GaussianBlur",
    "GaussianCDF",
    "GraphStep",
    "Hysteresis",
    "Keep",
    "MaskByLabel",
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
    "RemoveSmallRegions",
    "ResizeMap",
    "SelectClass",
    "Sigmoid",
    "Softmax",
    "Step",
    "Temperature",
    "TopKMean",
    "ValueType",
    "ZScore",
    "find_cutoff",
    "find_cutoffs",
    "is_blurred",
    "is_subnormal",
    "levels_as_text",
]
