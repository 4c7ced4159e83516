"""Every error that pp_graph raises on purpose.

    PPGraphError
    ├── ModelError               the ONNX file cannot be used as a raw model
    │   ├── OutputRoleError      the outputs that hold score and map are ambiguous or missing
    │   └── OpsetError           the model's opset lacks an operator that a step needs
    ├── StatisticsError          a statistics file or value is missing, malformed or impossible
    ├── CalibrationError         scores and labels do not allow the requested statistics
    ├── PostProcessorError       a post-processor's parameters or inputs do not fit
    │   └── RecipeError          a recipe has a step or a field that does not exist or does not fit
    ├── FusionError              the post-processing cannot be written into this graph
    │   ├── AlreadyFusedError    the model already has post-processing
    │   └── ProvenanceError      pp_graph's metadata is missing or unreadable
    ├── TargetError              OpenVINO or onnxruntime cannot load or run the model
    │   ├── DeviceError          the device is unknown, malformed or not on this machine
    │   ├── AccuracyError        quantising costs more correct decisions than allowed
    │   └── VerificationError    a converted model decides differently from its original
    ├── DataError                images or arrays do not fit the model
    │   ├── UnlabelledError      images have neither labels nor masks
    │   └── VideoError           a video, camera or stream cannot be opened or read
    ├── SettingsError            a file of settings has a field that does not exist or does not fit
    ├── ClusterError             a Dask cluster does not answer, or its workers cannot share the work
    ├── ExtraError               an optional library is not installed
    └── OutputFileError          an output cannot be written

Each message names the thing, what was found, what was expected, and how to fix it.
Errors about values are also `ValueError`, so that callers need not know this tree. `StatisticsWarning` is a warning.
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


class StatisticsWarning(UserWarning):
    """The statistics were calibrated on a different model."""


class CalibrationError(PPGraphError, ValueError):
    """Scores and labels do not allow the requested statistics."""


class PostProcessorError(PPGraphError, ValueError):
    """A post-processor's parameters or inputs do not fit."""


class RecipeError(PostProcessorError):
    """A recipe has a step or a field that does not exist or does not fit.

    Attributes:
        problem: Description of the problem.
        field: Name of the field; None if the problem concerns a whole step.
        index: Index of the step; None if the problem concerns the whole recipe.
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
    """The model already has post-processing."""


class ProvenanceError(FusionError):
    """pp_graph's metadata is missing or unreadable."""


class TargetError(PPGraphError, RuntimeError):
    """OpenVINO or onnxruntime cannot load or run the model."""


class DeviceError(TargetError):
    """The device is unknown, malformed or not on this machine."""


class AccuracyError(TargetError):
    """Quantising costs more correct decisions than allowed."""


class VerificationError(TargetError):
    """A converted model decides differently from its original."""


class DataError(PPGraphError, ValueError):
    """Images or arrays do not fit the model."""


class UnlabelledError(DataError):
    """Images have neither labels nor masks."""


class VideoError(DataError):
    """A video, camera or stream cannot be opened or read to its end."""


class SettingsError(PPGraphError, ValueError):
    """A file of settings has a field that does not exist or does not fit; the message names line and field."""


class ClusterError(PPGraphError, RuntimeError):
    """A Dask cluster does not answer, or its workers cannot share the work."""


class ExtraError(PPGraphError, ImportError):
    """A library that is an optional extra is not installed."""


class OutputFileError(PPGraphError, OSError):
    """An output cannot be written."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 image`, `1,200 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith(('x', 's')) else 's'}"


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error, without source positions in C++, to quote in a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = (lines or [type(error).__name__])[0]
    for marker in ("failed: ", "FAIL : "):
        text = text.rpartition(marker)[2] or text
    return text.rstrip(".")
