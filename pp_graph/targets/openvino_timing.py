"""A model compiled as it ships, made to be timed: requests, what crosses the border, and time an operator."""

from __future__ import annotations

import re
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import TargetError
from pp_graph.targets.devices.devices import MODES, openvino_core, recommended_properties, require_device
from pp_graph.targets.openvino_ports import first_line, partial_shape, port_name
from pp_graph.targets.openvino_session import compile_for, running_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import openvino as ov

    from pp_graph.model import Shape

Array = npt.NDArray[Any]

HINTS: Final = MODES
_LEAST_IN_FLIGHT: Final = 2
_HETERO_PART: Final = re.compile(r"^subgraph\d+: ")
_IMMEDIATE: Final = ("Parameter", "Result", "Constant")


@dataclass(frozen=True)
class OperatorTime:
    """Time of an executed operator.

    Attributes:
        name: Names of the original operators that it stands for.
        kind: Its type in the runtime.
        implementation: The kernel, with its precision.
        microseconds: Median time.
    """

    name: str
    kind: str
    implementation: str
    microseconds: float


def read_openvino(path: Path) -> ov.Model:
    """Read an ONNX file or an IR as anybody would.

    Raises:
        TargetError: OpenVINO cannot read it.
    """
    if not path.is_file():
        raise TargetError(f"Model '{path}' does not exist, expected an .onnx file or an IR (.xml). Check the path.")
    try:
        return openvino_core().read_model(path)
    except RuntimeError as error:
        raise TargetError(f"OpenVINO cannot read '{path}': {first_line(error)}. Is it an .onnx or an .xml?") from error


def fix_shapes(model: ov.Model, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give every input the sizes it is run with. Changes the model in place.

    Raises:
        TargetError: The model cannot take them.
    """
    try:
        model.reshape({port_name(port): list(shapes[port_name(port)]) for port in model.inputs})
    except (KeyError, RuntimeError) as error:
        wanted = ", ".join(f"{name} {tuple(sizes)}" for name, sizes in shapes.items())
        reason = f"it has no such input {error}" if isinstance(error, KeyError) else first_line(error)
        raise TargetError(
            f"The model cannot take the shapes {wanted}: {reason}. All models compared need the same inputs."
        ) from error


class TimedModel:
    """A compiled model that is fed the same inputs again and again.

    Args:
        model: The model.
        device: Device to run on.
        inference_precision: `f32`, `bf16` or `f16`; None leaves it to the device.
        hint: `latency` or `throughput`.

    Attributes:
        precision: The precision that the device runs in.
        compile_seconds: How long compiling took.
        inputs: Name, NumPy type and shape of each input.

    Raises:
        DeviceError: The device is not on this machine.
        TargetError: OpenVINO cannot compile the model.
    """

    def __init__(
        self, model: ov.Model, *, device: str, inference_precision: str | None, hint: str, profile: bool = False
    ) -> None:
        require_device(device)
        settings = {**recommended_properties(device, hint, None), "PERF_COUNT": profile}
        start = time.perf_counter()
        self._compiled = compile_for(model, device, inference_precision, settings)
        self.compile_seconds = time.perf_counter() - start
        self._request = self._compiled.create_infer_request()
        self.precision = running_precision(self._compiled, inference_precision)
        self.inputs: tuple[tuple[str, np.dtype[Any], Shape | None], ...] = tuple(
            (port_name(port), np.dtype(port.get_element_type().to_dtype()), partial_shape(port))
            for port in self._compiled.inputs
        )

    def feed(self, feeds: Mapping[str, Array]) -> None:
        """Set the inputs, once for all runs."""
        import openvino as ov

        self._feeds = {name: ov.Tensor(np.ascontiguousarray(array)) for name, array in feeds.items()}
        try:
            for name, tensor in self._feeds.items():
                self._request.set_tensor(name, tensor)
        except RuntimeError as error:
            raise TargetError(
                f"A model cannot be fed: {first_line(error)}. All models compared need the same inputs and sizes."
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

    def outputs(self) -> dict[str, Array]:
        """What the last run returned, without a copy."""
        return {
            name: self._request.get_tensor(port).data for port in self._compiled.outputs for name in port.get_names()
        }

    def border_bytes(self) -> tuple[int, int]:
        """Bytes that went in and came out in the last run."""
        sent = sum(int(tensor.get_byte_size()) for tensor in self._feeds.values())
        returned = sum(int(self._request.get_tensor(port).get_byte_size()) for port in self._compiled.outputs)
        return sent, returned

    def run_in_flight(
        self, seconds: float, after: Callable[[dict[str, Array]], object] | None
    ) -> tuple[int, float, int]:
        """Keep several requests busy.

        Args:
            seconds: How long.
            after: Work on the host with the outputs of each run.

        Returns:
            Runs finished, seconds taken, requests in flight.
        """
        import openvino as ov

        count = max(_LEAST_IN_FLIGHT, int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))
        queue = ov.AsyncInferQueue(self._compiled, count)
        failures: list[BaseException] = []
        ports = {name: port for port in self._compiled.outputs for name in port.get_names()}

        def finish(request: ov.InferRequest, _: object) -> None:
            try:
                if after is not None:
                    after({name: request.get_tensor(port).data for name, port in ports.items()})
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
        return done, time.perf_counter() - start, count

    def operator_times(self, runs: int) -> list[OperatorTime]:
        """Median time of each executed operator; the model must have been compiled with `profile`."""
        original = {}
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            if "originalLayersNames" in info:
                original[node.get_friendly_name()] = str(info["originalLayersNames"].value)
        times: dict[tuple[str, str, str], list[float]] = {}
        for _ in range(runs):
            self.infer()
            for each in self._request.profiling_info:
                if each.node_type not in _IMMEDIATE:
                    key = (_HETERO_PART.sub("", each.node_name), each.node_type, each.exec_type)
                    times.setdefault(key, []).append(each.real_time.total_seconds() * 1e6)
        return [
            OperatorTime(original.get(name) or name, kind, implementation, statistics.median(each))
            for (name, kind, implementation), each in times.items()
        ]
