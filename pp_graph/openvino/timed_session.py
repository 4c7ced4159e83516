"""`TimedSession`: measure the times of a model and of its operators."""

from __future__ import annotations

import re
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.openvino.compiling import shared_outputs
from pp_graph.openvino.core import first_line
from pp_graph.openvino.island.float32 import operator_precisions
from pp_graph.openvino.session import OpenVINOSession

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import openvino as ov

    from pp_graph.sessions.session import Array

_HETERO_PART: Final = re.compile(r"^subgraph\d+: ")
_NOT_EXECUTED: Final = ("Parameter", "Result", "Constant")


@dataclass(frozen=True)
class OperatorTime:
    """Time of an executed operator.

    Attributes:
        name: Names of the original operators, joined by commas if they were merged.
        kind: Type of the executed operator.
        implementation: Kernel and its precision.
        microseconds: Median time.
    """

    name: str
    kind: str
    implementation: str
    microseconds: float


class TimedSession(OpenVINOSession):
    """A session with fixed inputs, for one thread.

    Args:
        model: The model; it is not changed.
        feeds: Input name to array, for all runs.
        device: Device to run on.
        precision: Inference precision; see `OpenVINOSession`.
        performance_hint: `latency` or `throughput`.
        profile: Allow `operator_times`. Slows down every run.
        cache_dir: Folder to keep the compiled model in; see `OpenVINOSession`.

    Raises:
        DeviceError: The device is not on this machine.
        TargetError: OpenVINO cannot compile the model, or it does not accept the inputs.
    """

    def __init__(
        self,
        model: ov.Model,
        feeds: Mapping[str, Array],
        *,
        device: str = "CPU",
        precision: str | None = "f32",
        performance_hint: str = "latency",
        profile: bool = False,
        cache_dir: str | Path | None = None,
    ) -> None:
        import openvino as ov

        super().__init__(
            model,
            device=device,
            precision=precision,
            performance_hint=performance_hint,
            profile=profile,
            cache_dir=cache_dir,
        )
        taken = self._take_request(feeds)
        self._compiled, self._request = taken.compilation.compiled, taken.request
        self._feeds = {name: ov.Tensor(np.asarray(array, order="C")) for name, array in feeds.items()}
        try:
            for name, tensor in self._feeds.items():
                self._request.set_tensor(name, tensor)
        except RuntimeError as error:
            raise TargetError(
                f"The model does not accept the inputs: {first_line(error)}. Compare models with the same inputs and "
                "sizes."
            ) from error

    def infer(self) -> None:
        """Run once.

        Raises:
            TargetError: The runtime fails.
        """
        try:
            self._request.infer()
        except RuntimeError as error:
            raise TargetError(f"OpenVINO failed on a batch: {first_line(error)}. Do all models take it?") from error

    def inferred(self) -> dict[str, Array]:
        """Return the outputs of the last `infer`, without copying."""
        return shared_outputs(self._request, self._places)

    def border_bytes(self) -> tuple[int, int]:
        """Return the bytes of all inputs and of all outputs of the last `infer`."""
        sent = sum(int(tensor.get_byte_size()) for tensor in self._feeds.values())
        returned = sum(int(tensor.get_byte_size()) for tensor in self._request.output_tensors)
        return sent, returned

    def run_in_flight(self, seconds: float, after: Callable[[dict[str, Array]], object] | None) -> tuple[int, float]:
        """Keep `in_flight` requests busy.

        Args:
            seconds: Time to start requests for.
            after: Function called with the outputs of each run, such as post-processing on the host.

        Returns:
            Number of finished runs, and seconds taken.
        """
        import openvino as ov

        queue = ov.AsyncInferQueue(self._compiled, self.in_flight)
        failures: list[BaseException] = []

        def finish(request: ov.InferRequest, _: object) -> None:
            try:
                if after is not None:
                    after(shared_outputs(request, self._places))
            except BaseException as error:
                failures.append(error)

        queue.set_callback(finish)
        done = 0
        start = time.perf_counter()
        try:
            while time.perf_counter() - start < seconds and not failures:
                queue.start_async(self._feeds)
                done += 1
        finally:
            queue.wait_all()
        if failures:
            raise failures[0]
        return done, time.perf_counter() - start

    def operator_precisions(self) -> dict[str, str]:
        """Return the precision of each executed operator; see `island.float32.operator_precisions`."""
        return operator_precisions(self._compiled)

    def operator_times(self, runs: int) -> list[OperatorTime]:
        """Return the median time of each executed operator; needs a session with `profile`."""
        original = {}
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            if "originalLayersNames" in info:
                original[node.get_friendly_name()] = str(info["originalLayersNames"].value)
        times: dict[tuple[str, str, str], list[float]] = {}
        for _ in range(runs):
            self.infer()
            for operator in self._request.profiling_info:
                if operator.node_type not in _NOT_EXECUTED:
                    key = (_HETERO_PART.sub("", operator.node_name), operator.node_type, operator.exec_type)
                    times.setdefault(key, []).append(operator.real_time.total_seconds() * 1e6)
        return [
            OperatorTime(original.get(name) or name, kind, implementation, statistics.median(microseconds))
            for (name, kind, implementation), microseconds in times.items()
        ]
