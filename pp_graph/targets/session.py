"""What every way of running a model has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pp_graph.model import Shape

FloatArray = npt.NDArray[np.generic]


@dataclass(frozen=True)
class InputSpec:
    """An input that a session must be fed.

    Attributes:
        name: Name in the model.
        dtype: Element type.
        shape: Sizes; None where any will do.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: Shape | None


class Session(ABC):
    """A model loaded into a runtime.

    Attributes:
        inputs: What to feed.
        description: Runtime, device and precision, for people.
    """

    inputs: tuple[InputSpec, ...]
    description: str

    @abstractmethod
    def run(self, feeds: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Run one batch.

        Args:
            feeds: Input name to array.

        Returns:
            Output name to array; further values that were asked for at opening under their names.

        Raises:
            TargetError: The runtime fails on this batch.
        """
