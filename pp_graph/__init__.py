"""Write post-processing into ONNX models, convert them to OpenVINO, and prove that no decision changed.

    import pp_graph as pp

    stats = pp.calibrate("raw.onnx", "images/").statistics  # or pp.Statistics.load("stats.json")
    post = pp.OneClassPostProcessor(stats, image_sensitivity=0.5, pixel_sensitivity=0.5)
    fused = pp.fuse("raw.onnx", post)
    fused.save("fused.onnx")
    artifact = pp.convert(fused, device="CPU", precision="f32")
    artifact.save("model.xml")
    report = pp.verify("raw.onnx", artifact, "images/")
    predictions = pp.load("model.xml")("images/")

Names are imported on first use, so that `import pp_graph` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pp_graph.version import __version__

if TYPE_CHECKING:
    from pp_graph.benchmarking import BenchmarkReport, benchmark
    from pp_graph.calibration import (
        BoxCalibration,
        CalibrationResult,
        Calibrator,
        ConfidenceGoal,
        calibrate,
        calibrate_classifier,
        calibrate_detector,
        calibrate_scores,
    )
    from pp_graph.conversion import convert
    from pp_graph.errors import PPGraphError
    from pp_graph.exploring import Exploration, explore
    from pp_graph.fleet import FleetReport, run_fleet
    from pp_graph.fusion import Artifact, FusedModel, Provenance, cutoffs_for, fuse, strip
    from pp_graph.inspection import Inspection, inspect
    from pp_graph.model import RawModel
    from pp_graph.monitoring import DriftMonitor, DriftReport, drift
    from pp_graph.opening import open_artifact as open  # noqa: A004 - the verb of this package
    from pp_graph.openvino import OpenVINOModel
    from pp_graph.packaging import Package, package
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
    from pp_graph.precision import PrecisionChoice, choose_precision
    from pp_graph.preprocessing import Preprocessing
    from pp_graph.program import Output, OutputDescription, Predictions, Program, Role, Signature
    from pp_graph.quantization import Quantization
    from pp_graph.retuning import retune
    from pp_graph.running import Runner, load
    from pp_graph.statistics import LevelStatistics, Statistics
    from pp_graph.verification import VerificationReport, verify
    from pp_graph.video import Frame, Video, open_video

_EXPORTS = {
    "Artifact": "pp_graph.fusion",
    "BenchmarkReport": "pp_graph.benchmarking",
    "BoxCalibration": "pp_graph.calibration",
    "CalibrationResult": "pp_graph.calibration",
    "Calibrator": "pp_graph.calibration",
    "ClassificationPostProcessor": "pp_graph.postprocessors",
    "ConfidenceGoal": "pp_graph.calibration",
    "DetectionPostProcessor": "pp_graph.postprocessors",
    "DriftMonitor": "pp_graph.monitoring",
    "DriftReport": "pp_graph.monitoring",
    "Exploration": "pp_graph.exploring",
    "FleetReport": "pp_graph.fleet",
    "Frame": "pp_graph.video",
    "FusedModel": "pp_graph.fusion",
    "Inspection": "pp_graph.inspection",
    "LevelStatistics": "pp_graph.statistics",
    "OneClassPostProcessor": "pp_graph.postprocessors",
    "OpenVINOModel": "pp_graph.openvino",
    "Output": "pp_graph.program",
    "OutputDescription": "pp_graph.program",
    "PPGraphError": "pp_graph.errors",
    "Package": "pp_graph.packaging",
    "PostProcessor": "pp_graph.postprocessors",
    "PrecisionChoice": "pp_graph.precision",
    "Predictions": "pp_graph.program",
    "Preprocessing": "pp_graph.preprocessing",
    "Program": "pp_graph.program",
    "Provenance": "pp_graph.fusion",
    "Quantization": "pp_graph.quantization",
    "RawModel": "pp_graph.model",
    "RecipePostProcessor": "pp_graph.postprocessors",
    "RegionsPostProcessor": "pp_graph.postprocessors",
    "Role": "pp_graph.program",
    "Runner": "pp_graph.running",
    "SegmentationPostProcessor": "pp_graph.postprocessors",
    "SequencePostProcessor": "pp_graph.postprocessors",
    "Signature": "pp_graph.program",
    "Statistics": "pp_graph.statistics",
    "VerificationReport": "pp_graph.verification",
    "Video": "pp_graph.video",
    "calibrate": "pp_graph.calibration",
    "calibrate_classifier": "pp_graph.calibration",
    "calibrate_detector": "pp_graph.calibration",
    "calibrate_scores": "pp_graph.calibration",
    "choose_precision": "pp_graph.precision",
    "convert": "pp_graph.conversion",
    "cutoffs_for": "pp_graph.fusion",
    "drift": "pp_graph.monitoring",
    "explore": "pp_graph.exploring",
    "fuse": "pp_graph.fusion",
    "inspect": "pp_graph.inspection",
    "load": "pp_graph.running",
    "open": "pp_graph.opening",
    "open_video": "pp_graph.video",
    "package": "pp_graph.packaging",
    "retune": "pp_graph.retuning",
    "benchmark": "pp_graph.benchmarking",
    "run_fleet": "pp_graph.fleet",
    "strip": "pp_graph.fusion",
    "verify": "pp_graph.verification",
}

_NAMES_THERE = {"open": "open_artifact"}
"""Names that mean something else inside a package."""

__all__ = [
    "Artifact",
    "BenchmarkReport",
    "BoxCalibration",
    "CalibrationResult",
    "Calibrator",
    "ClassificationPostProcessor",
    "ConfidenceGoal",
    "DetectionPostProcessor",
    "DriftMonitor",
    "DriftReport",
    "Exploration",
    "FleetReport",
    "Frame",
    "FusedModel",
    "Inspection",
    "LevelStatistics",
    "OneClassPostProcessor",
    "OpenVINOModel",
    "Output",
    "OutputDescription",
    "PPGraphError",
    "Package",
    "PostProcessor",
    "PrecisionChoice",
    "Predictions",
    "Preprocessing",
    "Program",
    "Provenance",
    "Quantization",
    "RawModel",
    "RecipePostProcessor",
    "RegionsPostProcessor",
    "Role",
    "Runner",
    "SegmentationPostProcessor",
    "SequencePostProcessor",
    "Signature",
    "Statistics",
    "VerificationReport",
    "Video",
    "__version__",
    "benchmark",
    "calibrate",
    "calibrate_classifier",
    "calibrate_detector",
    "calibrate_scores",
    "choose_precision",
    "convert",
    "cutoffs_for",
    "drift",
    "explore",
    "fuse",
    "inspect",
    "load",
    "open",
    "open_video",
    "package",
    "retune",
    "run_fleet",
    "strip",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), _NAMES_THERE.get(name, name))
        globals()[name] = value
        return value
    raise AttributeError(f"module 'pp_graph' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
