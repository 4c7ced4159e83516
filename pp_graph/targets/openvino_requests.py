"""Run a converted model in OpenVINO from several threads, and with several requests in flight."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

from pp_graph.errors import TargetError
from pp_graph.targets.devices import require_device
from pp_graph.targets.openvino_model import OpenVINOModel, first_line
from pp_graph.targets.openvino_session import (
    compile_for,
    compiled_inputs,
    require_inference_precision,
    running_precision,
)
from pp_graph.targets.session import Array, Session

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

    import openvino as ov

    Flight = tuple["Tag", ov.InferRequest]

Tag = TypeVar("Tag")

MODES: Final = ("latency", "throughput")
_LEAST_IN_FLIGHT: Final = 2


class OpenVINORequests(Session):
    """A converted model, compiled as it is recommended for a device, with as many requests as its callers need.

    Any number of threads may call `run` and `stream` at the same time: each takes requests of its own.

    Args:
        artifact: The model.
        device: Device to run on.
        inference_precision: Precision to run the network in: `f32`, `bf16` or `f16`. None leaves it to
            the device, which may choose bf16 or f16 by itself.
        mode: What the device is asked to be good at: `latency` or `throughput`.

    Attributes:
        outputs: Names of the outputs, each under every name it has.
        precision: The precision that the device runs in.
        in_flight: Requests that `stream` keeps busy.

    Raises:
        DeviceError: The device is not on this machine.
        TargetError: The precision or the mode is not known, or OpenVINO cannot compile the model.
    """

    def __init__(
        self, artifact: OpenVINOModel, *, device: str, inference_precision: str | None, mode: str = "latency"
    ) -> None:
        require_device(device)
        require_inference_precision(inference_precision)
        settings = recommended_properties(device, mode, inference_precision)
        self._compiled = compile_for(artifact.model, device, inference_precision, settings)
        self._ports = {name: port for port in self._compiled.outputs for name in port.get_names()}
        self.inputs = compiled_inputs(self._compiled)
        self.outputs = tuple(self._ports)
        self.precision = running_precision(self._compiled, inference_precision)
        self.description = f"OpenVINO on {device}, {self.precision}"
        self.in_flight = max(_LEAST_IN_FLIGHT, int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))
        # Appending to and popping from a deque are atomic; one that is full forgets its oldest request.
        self._idle: deque[ov.InferRequest] = deque(maxlen=self.in_flight)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch."""
        request = self._take_request()
        self._start(request, feeds)
        outputs = self._finish(request)
        self._idle.append(request)
        return outputs

    def stream(
        self, batches: Iterable[tuple[Tag, Mapping[str, Array]]]
    ) -> Generator[tuple[Tag, dict[str, Array]], None, None]:
        """Run batches with several requests in flight.

        Requests wait in a row of their own instead of an `AsyncInferQueue`: results come in the order given without
        being kept in between, and one that failed does not fail those that follow, as the queue's errors do.

        Args:
            batches: What to know a batch by, and input name to array. At most `in_flight` + 1 are read ahead of what
                was yielded.

        Yields:
            The same tag with output name to array, in the order given. What is ready is yielded before a further batch
            than the next is read, so that results do not wait for a slow source.

        Raises:
            TargetError: The runtime fails on a batch; what came before it was yielded. Likewise for any error that
                `batches` raises.
        """
        flights: deque[Flight[Tag]] = deque()
        source = iter(batches)
        failure: Exception | None = None
        try:
            while failure is None:
                try:
                    tag, feeds = next(source)
                except StopIteration:
                    break
                except Exception as error:
                    failure = error
                    break
                landed = self._land(flights) if len(flights) == self.in_flight else None
                request = self._take_request()
                try:
                    self._start(request, feeds)
                except TargetError as error:
                    failure = error
                else:
                    flights.append((tag, request))
                if landed is not None:
                    yield landed
                while flights and _is_done(flights[0][1]):
                    yield self._land(flights)
            while flights:
                yield self._land(flights)
            if failure is not None:
                raise failure
        finally:
            for _, request in flights:
                with contextlib.suppress(RuntimeError):
                    request.wait()
                    self._idle.append(request)

    def _land(self, flights: deque[Flight[Tag]]) -> tuple[Tag, dict[str, Array]]:
        tag, request = flights.popleft()
        outputs = self._finish(request)
        self._idle.append(request)
        return tag, outputs

    def _take_request(self) -> ov.InferRequest:
        try:
            return self._idle.pop()
        except IndexError:
            return self._compiled.create_infer_request()

    def _start(self, request: ov.InferRequest, feeds: Mapping[str, Array]) -> None:
        try:
            request.start_async(dict(feeds))  # takes a copy
        except (RuntimeError, TypeError, ValueError) as error:
            raise _failed(error) from error

    def _finish(self, request: ov.InferRequest) -> dict[str, Array]:
        try:
            request.wait()
        except RuntimeError as error:
            raise _failed(error) from error
        return {name: request.get_tensor(port).data.copy() for name, port in self._ports.items()}


def recommended_properties(device: str, mode: str, inference_precision: str | None) -> dict[str, object]:
    """Settings to compile a model with for a device.

    Raises:
        TargetError: The mode is not known.
    """
    if mode not in MODES:
        raise TargetError(f"Mode '{mode}' is not known, expected one of: {', '.join(MODES)}. Choose one.")
    return {"PERFORMANCE_HINT": mode.upper()}


def _is_done(request: ov.InferRequest) -> bool:
    try:
        return bool(request.wait_for(0))
    except RuntimeError:
        return True  # it failed; `wait` says so in its turn


def _failed(error: BaseException) -> TargetError:
    return TargetError(
        f"OpenVINO failed on a batch: {first_line(error)}. Do the images have the size and layout of the model?"
    )
