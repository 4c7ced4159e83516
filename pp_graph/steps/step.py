"""What a step is: two twins that compute the same, one in ONNX and one in NumPy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pp_graph.errors import PostProcessorError

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter

Array = npt.NDArray[Any]

OnNaN = Literal["anomalous", "normal"]
"""What a NaN in the raw values counts as."""


class Step(ABC):
    """One step of a post-processing: reads a named value, writes another.

    Subclasses are frozen dataclasses whose fields are the step's parameters.

    Attributes:
        source: Name of the value read.
        target: Name of the value written.
        exact: Whether every runtime computes the same bits. What a decision reads from a step that is not is a raw
            value of the runtime's own: `verify` makes it visible, and counts its difference as drift.
    """

    exact: ClassVar[bool] = True
    source: str
    target: str

    @abstractmethod
    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the step into a graph.

        Args:
            op: The vocabulary of operators, at the graph's opset.
            value: What the step reads; float32.

        Returns:
            What the step computes.
        """

    @abstractmethod
    def reference(self, array: Array) -> Array:
        """Compute the step in NumPy.

        Args:
            array: What the step reads; float32.

        Returns:
            What the step computes; its specification.
        """


def as_float32(number: float, what: str) -> np.float32:
    """Round a parameter to float32, the precision in which every step computes.

    Raises:
        PostProcessorError: The number is not finite in float32.
    """
    with np.errstate(over="ignore"):
        rounded = np.float32(number)
    if not np.isfinite(rounded):
        raise PostProcessorError(f"{what} is {number}, expected a number that is finite in float32.")
    return rounded
