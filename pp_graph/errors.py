"""Every error that pp_graph raises on purpose.

    PPGraphError
    ├── ModelError               the ONNX file cannot be used as a raw model
    │   ├── OutputRoleError      score and map cannot be told apart, or are not there
    │   └── OpsetError           the model's opset lacks an operator that a step needs
    ├── StatisticsError          a statistics file or value is missing, malformed or impossible
    ├── CalibrationError         scores and labels do not give the statistics that were asked for
    ├── PostProcessorError       a post-processor's parameters or inputs do not fit
    │   └── RecipeError          a recipe names a step or a field that is not there or does not fit
    ├── FusionError              the post-processing cannot be written into this graph
    │   ├── AlreadyFusedError    the model already carries a post-processing
    │   └── ProvenanceError      pp_graph's metadata is absent or unreadable
    ├── TargetError              OpenVINO or onnxruntime cannot take the model
    │   ├── DeviceError          the device is not on this machine
    │   ├── AccuracyError        quantising costs more right decisions than was allowed
    │   └── VerificationError    a converted model decides otherwise than what it was made from
    ├── DataError                images or arrays do not fit the model
    ├── ExtraError               an optional library is not installed
    └── OutputFileError          a result cannot be written where it was asked for

Each message says the thing, what was expected, what was found, and how to mend it.
Errors about values are also `ValueError`, so that callers need not know this tree.
"""

from __future__ import annotations


class PPGraphError(Exception):
    """Base of every error raised on purpose by pp_graph."""


class ModelError(PPGraphError, ValueError):
    """The ONNX file cannot be used as a raw model."""


class OutputRoleError(ModelError):
    """The outputs that hold score and map are ambiguous or missing."""


class OpsetError(ModelError):
    """The model's opset lacks an operator that a step needs."""


class StatisticsError(PPGraphError, ValueError):
    """A statistics file or value is missing, malformed or impossible."""


class CalibrationError(PPGraphError, ValueError):
    """Scores and labels do not give the statistics that were asked for."""


class PostProcessorError(PPGraphError, ValueError):
    """A post-processor's parameters or inputs do not fit."""


class RecipeError(PostProcessorError):
    """A recipe names a step or a field that is not there, or does not fit.

    Attributes:
        problem: What is wrong.
        field: The field that it is about; None where it is about a whole step.
        index: Index of the step; None where it is about the whole recipe.
    """

    def __init__(self, problem: str, *, field: str | None = None, index: int | None = None) -> None:
        self.problem = problem
        self.field = field
        self.index = index
        where = [] if index is None else [f"Step {index + 1}"]
        where += [] if field is None or index is None else [f"field '{field}'"]
        super().__init__(": ".join([*([", ".join(where)] if where else []), problem]))


class FusionError(PPGraphError, ValueError):
    """The post-processing cannot be written into this graph."""


class AlreadyFusedError(FusionError):
    """The model already carries a post-processing."""


class ProvenanceError(FusionError):
    """The metadata that pp_graph writes is absent or unreadable."""


class TargetError(PPGraphError, RuntimeError):
    """OpenVINO or onnxruntime cannot take the model."""


class DeviceError(TargetError):
    """The device is not on this machine."""


class AccuracyError(TargetError):
    """Quantising costs more right decisions than was allowed."""


class VerificationError(TargetError):
    """A converted model decides differently from the model it was made from."""


class DataError(PPGraphError, ValueError):
    """Images or arrays do not fit the model."""


class ExtraError(PPGraphError, ImportError):
    """A library that is an optional extra is not installed."""


class OutputFileError(PPGraphError, OSError):
    """A result cannot be written where it was asked for."""
