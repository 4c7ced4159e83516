"""Time compiled models in turns with the f32 model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.benchmarking.contenders import set_input_shapes
from pp_graph.benchmarking.measuring import ratio_of_medians, time_in_rounds
from pp_graph.openvino.timed_session import TimedSession

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.openvino import OpenVINOModel
    from pp_graph.steps import Array

_WARM_UP_RUNS: Final = 3
_FEWEST_ROUNDS: Final = 7
_PROFILED_RUNS: Final = 15


@dataclass(frozen=True)
class Timing:
    """Latency of a model.

    Attributes:
        milliseconds: Median time of a run.
        ratio: Median time divided by that of the f32 model in the same rounds.
        ratio_low: Lower end of its 95 % confidence interval.
        ratio_high: Upper end.
    """

    milliseconds: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True)
class Stopwatch:
    """Times models on one batch, with fixed sizes and the latency hint.

    Attributes:
        feeds: Input name to array.
        device: Device to run on.
    """

    feeds: Mapping[str, Array]
    device: str

    def compile(self, artifact: OpenVINOModel, precision: str, *, profile: bool = False) -> TimedSession:
        """Compile a model for the sizes of the batch.

        Raises:
            TargetError: OpenVINO cannot compile the model.
        """
        model = artifact.network.clone()
        set_input_shapes(model, {name: array.shape for name, array in self.feeds.items()})
        return TimedSession(model, self.feeds, device=self.device, precision=precision, profile=profile)

    def compare(self, base: TimedSession, others: Sequence[TimedSession], seconds: float) -> list[Timing]:
        """Run models in rounds of random order, each twice in a round, and time the second run.

        Args:
            base: The f32 model.
            others: Other models.
            seconds: Time to measure for; at least seven rounds are run.

        Returns:
            Timings of `base` and of the others.
        """
        sessions = [base, *others]
        for session in sessions:
            for _ in range(_WARM_UP_RUNS):
                session.infer()
        times = time_in_rounds([session.infer for session in sessions], seconds, _FEWEST_ROUNDS)
        return [Timing(float(np.median(each)), *ratio_of_medians(each, times[0])) for each in times]

    def operator_times(self, artifact: OpenVINOModel, precision: str) -> dict[str, float]:
        """Return the median microseconds of executed operators, by the names of the original ones."""
        times: dict[str, float] = {}
        for each in self.compile(artifact, precision, profile=True).operator_times(_PROFILED_RUNS):
            times[each.name] = times.get(each.name, 0.0) + each.microseconds
        return times
