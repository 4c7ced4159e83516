"""Run a converted model in OpenVINO from several threads, and with several requests in flight."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from pp_graph.errors import TargetError
from pp_graph.targets.devices.devices import RECOMMENDED, recommended_properties, require_device
from pp_graph.targets.openvino_ports import first_line, port_name
from pp_graph.targets.openvino_session import (
    compile_for,
    compiled_inputs,
    require_inference_precision,
    running_precision,
)
from pp_graph.targets.session import Array, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    import openvino as ov

    from pp_graph.targets.openvino_model import OpenVINOModel

Tag = TypeVar("Tag")

_LEAST_IN_FLIGHT: Final = 2


@dataclass(frozen=True)
class _Compilation:
    """A compiled model, with requests of it that nobody uses at the moment."""

    compiled: ov.CompiledModel
    idle: deque[ov.InferRequest]

    def take(self, states: Mapping[str, Array] | None) -> _Request:
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        if states is not None:
            _set_states(request, states)
        return _Request(self, request)


@dataclass(frozen=True)
class _Request:
    """A request, and the compilation that it belongs to."""

    compilation: _Compilation
    request: ov.InferRequest

    def start(self, feeds: Mapping[str, Array]) -> None:
        self.request.start_async(dict(feeds))  # takes a copy

    def outputs(self) -> dict[str, Array]:
        """Wait for the outputs, and copy them."""
        self.request.wait()
        ports = self.compilation.compiled.outputs
        return {name: self.request.get_tensor(port).data.copy() for port in ports for name in port.get_names()}

    def feeds(self) -> dict[str, Array]:
        """What it was started with; the caller's arrays may have changed since."""
        return {port_name(port): self.request.get_tensor(port).data.copy() for port in self.compilation.compiled.inputs}

    def is_done(self) -> bool:
        try:
            return bool(self.request.wait_for(0))
        except RuntimeError:
            return True  # it failed, and says so when its turn comes

    def give_back(self) -> None:
        self.compilation.idle.append(self.request)


class OpenVINORequests(Session):
    """A converted model, compiled as it is recommended for a device, with as many requests as its callers need.

    Any number of threads may call `run` and `stream` at the same time: each takes requests of its own.

    Args:
        artifact: The model.
        device: Device to run on.
        inference_precision: Precision to run the network in: `f32`, `bf16` or `f16`; `recommended` for f32 wherever
            the device can be asked for it. None leaves it to the device, which may choose bf16 or f16 by itself.
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
        if inference_precision != RECOMMENDED:
            require_inference_precision(inference_precision)
        settings = recommended_properties(device, mode, inference_precision)
        if inference_precision == RECOMMENDED:
            inference_precision = settings.get("INFERENCE_PRECISION_HINT")
        self._compile: Callable[[], ov.CompiledModel] = lambda: compile_for(
            artifact.model, device, inference_precision, settings
        )
        compiled = self._compile()
        self.inputs = compiled_inputs(compiled, artifact.provenance)
        self.outputs = tuple(name for port in compiled.outputs for name in port.get_names())
        self.precision = running_precision(compiled, inference_precision)
        self.description = f"OpenVINO on {device}, {self.precision}"
        self.in_flight = max(_LEAST_IN_FLIGHT, int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))
        self._lock = threading.Lock()
        # None until a state was changed: what costs time with every request need not be done.
        self._states: dict[str, Array] | None = None
        self._current: _Compilation | None = self._compilation(compiled)

    def set_states(self, states: Mapping[str, Array]) -> None:
        """Run with other values of the model's states from the next batch on; those not named get their defaults."""
        with self._lock:
            self._states = dict(states)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch."""
        return self._finish(self._start(feeds))

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
        flights: deque[tuple[Tag, _Request]] = deque()
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
                try:
                    flights.append((tag, self._start(feeds)))
                except TargetError as error:
                    failure = error
                if landed is not None:
                    yield landed
                while flights and flights[0][1].is_done():
                    yield self._land(flights)
            while flights:
                yield self._land(flights)
            if failure is not None:
                raise failure
        finally:
            for _, request in flights:
                with contextlib.suppress(RuntimeError):
                    request.request.wait()
                    request.give_back()

    def _land(self, flights: deque[tuple[Tag, _Request]]) -> tuple[Tag, dict[str, Array]]:
        tag, request = flights.popleft()
        return tag, self._finish(request)

    def _start(self, feeds: Mapping[str, Array]) -> _Request:
        request = self._take_request()
        try:
            request.start(feeds)
        except (RuntimeError, TypeError, ValueError) as error:
            raise _failed(error) from error
        return request

    def _finish(self, request: _Request) -> dict[str, Array]:
        try:
            outputs = request.outputs()
        except RuntimeError:
            return self._run_alone(request)
        request.give_back()
        return outputs

    def _run_alone(self, failed: _Request) -> dict[str, Array]:
        """Run a batch that failed once more, in a compilation of its own.

        With open sizes, OpenVINO 2026.4 on CPU remembers sizes that it failed on: batches that are good then fail with
        the same error, those in flight included, until one of other sizes comes. So a compilation in which anything
        failed is not used again, and a batch is only at fault if it fails alone.
        """
        with self._lock:
            if self._current is failed.compilation:
                self._current = None
        alone = self._compilation(self._compile())
        request = alone.take(self._states)
        try:
            request.start(failed.feeds())
            outputs = request.outputs()
        except RuntimeError as error:
            raise _failed(error) from error
        request.give_back()
        with self._lock:
            if self._current is None:
                self._current = alone
        return outputs

    def _take_request(self) -> _Request:
        with self._lock:
            if self._current is None:
                self._current = self._compilation(self._compile())
            return self._current.take(self._states)

    def _compilation(self, compiled: ov.CompiledModel) -> _Compilation:
        # Appending to a deque is atomic; one that is full forgets its oldest request.
        return _Compilation(compiled, deque(maxlen=self.in_flight))


def _set_states(request: ov.InferRequest, states: Mapping[str, Array]) -> None:
    import openvino as ov

    for state in request.query_state():
        if state.name in states:
            state.state = ov.Tensor(states[state.name])
        else:
            state.reset()


def _failed(error: BaseException) -> TargetError:
    return TargetError(
        f"OpenVINO failed on a batch: {first_line(error)}. Do the images have the size and layout of the model?"
    )
