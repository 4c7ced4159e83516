"""What every way of running a model has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.model import ModelInput

Array = npt.NDArray[Any]


class Session(ABC):
    """A model loaded into a runtime.

    Attributes:
        inputs: What to feed.
        description: Runtime, device and precision, for people.
    """

    inputs: tuple[ModelInput, ...]
    description: str

    @abstractmethod
    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch.

        Args:
            feeds: Input name to array.

        Returns:
            Output name to array; further values that were asked for at opening under their names.

        Raises:
            TargetError: The runtime fails on this batch.
        """
