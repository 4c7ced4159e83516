"""What every way of running a model has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
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


def run_in_batches(session: Session, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run a session whose batch may be fixed: cut the images to it, and fill up the last cut.

    Args:
        session: The session.
        feeds: Input name to array, batch first.

    Returns:
        Output name to array, batch first.
    """
    count = len(next(iter(feeds.values())))
    fixed = [each.shape[0] for each in session.inputs if each.shape and isinstance(each.shape[0], int)]
    if not fixed or fixed[0] == count:
        return session.run(feeds)
    size = fixed[0]
    parts: list[dict[str, Array]] = []
    for start in range(0, count, size):
        cut = {name: array[start : start + size] for name, array in feeds.items()}
        missing = size - len(next(iter(cut.values())))
        if missing:
            cut = {name: np.concatenate([array, array[-1:].repeat(missing, 0)]) for name, array in cut.items()}
        outputs = session.run(cut)
        parts.append({name: array[: size - missing] for name, array in outputs.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
