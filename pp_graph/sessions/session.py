"""What every way of running a model has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pp_graph.model import ModelInput

Array = npt.NDArray[Any]


class Session(ABC):
    """A model loaded into a runtime.

    Attributes:
        inputs: What to feed.
        outputs: Names of what it returns, each under every name it has.
        description: Runtime, device and precision, for people.
        precision: The precision that the network runs in, which may not be the one asked for.
        island: Precision of each operator of the post-processing, where the runtime was asked for it.
    """

    inputs: tuple[ModelInput, ...]
    outputs: tuple[str, ...]
    description: str
    precision: str
    island: dict[str, str]

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
    cuts = list(cut_to_batch(session.inputs, feeds))
    if len(cuts) == 1 and not cuts[0].filled:
        return session.run(feeds)
    parts = [{name: array[: cut.count] for name, array in session.run(cut.feeds).items()} for cut in cuts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Cut:
    """A part of a batch that a model can take.

    Attributes:
        feeds: Input name to array, batch first.
        count: Items in it that were asked for.
        filled: Whether more follow, only to fill the batch up.
    """

    feeds: Mapping[str, Array]
    count: int
    filled: bool


def cut_to_batch(inputs: Sequence[ModelInput], feeds: Mapping[str, Array]) -> Iterator[Cut]:
    """Cut a batch of any size to the batch that a model fixes; the last cut is filled up with its last item.

    Args:
        inputs: The model's inputs.
        feeds: Input name to array, batch first.

    Yields:
        The cuts in order; the whole batch at once where the model leaves it open.
    """
    count = len(next(iter(feeds.values())))
    fixed = [each.shape[0] for each in inputs if each.shape and isinstance(each.shape[0], int)]
    if not fixed or fixed[0] == count:
        yield Cut(feeds, count, filled=False)
        return
    size = fixed[0]
    for start in range(0, count, size):
        cut = {name: array[start : start + size] for name, array in feeds.items()}
        missing = size - len(next(iter(cut.values())))
        if missing:
            cut = {name: np.concatenate([array, array[-1:].repeat(missing, 0)]) for name, array in cut.items()}
        yield Cut(cut, size - missing, filled=missing > 0)
