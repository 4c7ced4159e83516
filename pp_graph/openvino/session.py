"""Run a model in OpenVINO: a batch at a time, with several requests in flight, or on fixed inputs to be timed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.model import ModelInput
from pp_graph.openvino.compiling import (
    Compilation,
    OperatorTime,
    Request,
    compile_for,
    median_times,
    require_inference_precision,
    running_precision,
    shared_outputs,
)
from pp_graph.openvino.core import first_line, partial_shape, port_name
from pp_graph.openvino.devices import (
    RECOMMENDED,
    parse_device,
    precision_properties,
    recommended_properties,
    require_device,
)
from pp_graph.openvino.island.float32 import island_precisions, names_operators
from pp_graph.openvino.island.island import add_probes
from pp_graph.openvino.preprocessing import frame_format
from pp_graph.sessions.session import Array, Session, cut_to_batch, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    import openvino as ov

    from pp_graph.preprocessing import Preprocessing

Tag = TypeVar("Tag")

_LEAST_IN_FLIGHT: Final = 2


class OpenVINOSession(Session):
    """A model, compiled for a device.

    Any number of threads may call `run` and `stream` at the same time: each takes requests of its own. What times the
    model, from `feed` on, belongs to one thread.

    Args:
        model: The model; it is not changed.
        device: Device to run on.
        precision: Precision to run the network in: `f32`, `bf16` or `f16`; `recommended` for f32 wherever the device
            can be asked for it. None leaves it to the device, which may choose bf16 or f16 by itself.
        performance_hint: `latency` or `throughput`, as in deployment. None sets no hint and sends BATCH full batches of
            requests only, so that results do not depend on timing.
        probes: Names of inner tensors to return as well.
        preprocessing: What the model does with frames; None where it takes none.
        island: What the names of the post-processing's operators begin with; None looks none up.
        decides: Whether at least one of these must be found.
        profile: Make `operator_times` possible, which costs time.

    Attributes:
        in_flight: Requests that `stream` keeps busy.
        compile_seconds: How long compiling took.

    Raises:
        DeviceError: The device is not on this machine.
        TargetError: The precision or the performance hint is not known, or OpenVINO cannot compile the model.
    """

    def __init__(
        self,
        model: ov.Model,
        *,
        device: str = "CPU",
        precision: str | None = "f32",
        performance_hint: str | None = None,
        probes: Sequence[str] = (),
        preprocessing: Preprocessing | None = None,
        island: str | None = None,
        decides: bool = False,
        profile: bool = False,
    ) -> None:
        require_device(device)
        if precision != RECOMMENDED:
            require_inference_precision(precision)
        settings = (
            precision_properties(device, precision)
            if performance_hint is None
            else recommended_properties(device, performance_hint, precision)
        )
        wish = settings.get("INFERENCE_PRECISION_HINT") if precision == RECOMMENDED else precision
        count = len(model.outputs)
        if probes:
            model = model.clone()
            add_probes(model, probes)
        self._compile: Callable[[], ov.CompiledModel] = partial(
            compile_for, model, device, wish, {**settings, "PERF_COUNT": True} if profile else settings
        )
        start = time.perf_counter()
        compiled = self._compile()
        self.compile_seconds = time.perf_counter() - start
        self._places = {name: place for place in range(count) for name in compiled.outputs[place].get_names()}
        self._places |= {name: place for place, name in enumerate(probes, count)}
        self._group = _requests_in_batch(compiled, device) if performance_hint is None else 1
        self.inputs = tuple(self._input(port, preprocessing) for port in compiled.inputs)
        self.outputs = tuple(self._places)
        self.precision = running_precision(compiled, wish)
        unmet = wish is not None and wish != self.precision and " " not in self.precision
        self.description = f"OpenVINO on {device}, {self.precision}{f' ({wish} is not to be had)' if unmet else ''}"
        self.island = {} if island is None else island_precisions(compiled, island)
        if decides and not self.island and names_operators(compiled):
            raise TargetError(
                f"No operator of the post-processing is found under '{island}/' in the compiled model, expected those "
                "that decide, so nobody knows in which precision they run. The model was changed after it was "
                "converted: convert the fused model again."
            )
        self.in_flight = max(_LEAST_IN_FLIGHT, int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))
        self._lock = threading.RLock()
        # None until a state was changed: what costs time with every request need not be done.
        self._states: dict[str, Array] | None = None
        self._current: Compilation | None = self._compilation(compiled)

    def _input(self, port: ov.Output, preprocessing: Preprocessing | None) -> ModelInput:
        """What to feed: frames where these are preprocessed, any number of images where requests are grouped."""
        name, shape = port_name(port), partial_shape(port)
        return ModelInput(
            name=name,
            dtype=np.dtype(port.get_element_type().to_dtype()).name,
            shape=(None, *shape[1:]) if shape and self._group > 1 else shape,
            frames=frame_format(preprocessing, name),
        )

    def set_states(self, states: Mapping[str, Array]) -> None:
        """Run with other values of the model's states from the next batch on; those not named get their defaults."""
        with self._lock:
            self._states = dict(states)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch."""
        return self._run_grouped(feeds) if self._group > 1 else self._finish(self._start(feeds))

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
        if self._group > 1:
            yield from ((tag, self.run(feeds)) for tag, feeds in batches)
            return
        flights: deque[tuple[Tag, Request]] = deque()
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

    def _land(self, flights: deque[tuple[Tag, Request]]) -> tuple[Tag, dict[str, Array]]:
        tag, request = flights.popleft()
        return tag, self._finish(request)

    def _start(self, feeds: Mapping[str, Array]) -> Request:
        request = self._take_request()
        try:
            request.start(feeds)
        except (RuntimeError, TypeError, ValueError) as error:
            raise _failed(error) from error
        return request

    def _finish(self, request: Request) -> dict[str, Array]:
        try:
            outputs = request.outputs()
        except RuntimeError:
            return self._run_alone(request)
        request.give_back()
        return outputs

    def _run_alone(self, failed: Request) -> dict[str, Array]:
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

    def _run_grouped(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Feed images to requests one each, always a full batch of requests: a lone one would run another graph."""
        single = [replace(each, shape=(1, *each.shape[1:])) if each.shape else each for each in self.inputs]
        cuts = list(cut_to_batch(single, feeds))
        found: list[dict[str, Array]] = []
        with self._lock:  # those that were created one after the other make a batch
            requests = [self._take_request() for _ in range(self._group)]
            try:
                for start in range(0, len(cuts), self._group):
                    for offset, request in enumerate(requests):
                        request.start(cuts[min(start + offset, len(cuts) - 1)].feeds)
                    found += [request.outputs() for request in requests]
            except (RuntimeError, TypeError, ValueError) as error:
                raise _failed(error) from error
            for request in requests:
                request.give_back()
        return joined(found[: len(cuts)], cuts, 1)

    def _take_request(self) -> Request:
        with self._lock:
            if self._current is None:
                self._current = self._compilation(self._compile())
            return self._current.take(self._states)

    def _compilation(self, compiled: ov.CompiledModel) -> Compilation:
        # Appending to a deque is atomic; one that is full forgets its oldest request.
        return Compilation(compiled, self._places, deque(maxlen=self.in_flight))

    def feed(self, feeds: Mapping[str, Array]) -> None:
        """Set the inputs once, for all runs that are timed."""
        import openvino as ov

        taken = self._take_request()
        self._compiled, self._request = taken.compilation.compiled, taken.request
        self._fed = {name: ov.Tensor(np.asarray(array, order="C")) for name, array in feeds.items()}
        try:
            for name, tensor in self._fed.items():
                self._request.set_tensor(name, tensor)
        except RuntimeError as error:
            raise TargetError(
                f"A model cannot be fed: {first_line(error)}. All models compared need the same inputs and sizes."
            ) from error

    def infer(self) -> None:
        """Run once on what was fed.

        Raises:
            TargetError: The runtime fails.
        """
        try:
            self._request.infer()
        except RuntimeError as error:
            raise TargetError(f"OpenVINO failed on a batch: {first_line(error)}. Do all models take it?") from error

    def inferred(self) -> dict[str, Array]:
        """What the last `infer` returned, without a copy."""
        return shared_outputs(self._request, self._places)

    def border_bytes(self) -> tuple[int, int]:
        """Bytes that went in and came out in the last `infer`."""
        sent = sum(int(tensor.get_byte_size()) for tensor in self._fed.values())
        returned = sum(int(tensor.get_byte_size()) for tensor in self._request.output_tensors)
        return sent, returned

    def run_in_flight(self, seconds: float, after: Callable[[dict[str, Array]], object] | None) -> tuple[int, float]:
        """Keep `in_flight` requests busy with what was fed.

        Args:
            seconds: How long.
            after: Work on the host with the outputs of each run.

        Returns:
            Runs finished, and seconds taken.
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
                queue.start_async(self._fed)
                done += 1
        finally:
            queue.wait_all()
        if failures:
            raise failures[0]
        return done, time.perf_counter() - start

    def operator_times(self, runs: int) -> list[OperatorTime]:
        """Median time of each executed operator; the session must have been opened with `profile`."""

        def profiles() -> Iterator[Iterable[ov.ProfilingInfo]]:
            for _ in range(runs):
                self.infer()
                yield self._request.profiling_info

        return median_times(self._compiled, profiles())


def _requests_in_batch(compiled: ov.CompiledModel, device: str) -> int:
    """How many requests BATCH runs together; 1 where it groups none, and for every other device."""
    name = parse_device(device)
    if not name.profile.groups_requests:
        return 1
    count = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    shapes = [partial_shape(port) for port in compiled.inputs]
    single = all(shape and shape[0] == 1 and None not in shape for shape in shapes)
    return min(name.batch or count, count) if single else 1


def _failed(error: BaseException) -> TargetError:
    return TargetError(
        f"OpenVINO failed on a batch: {first_line(error)}. Do the images have the size and layout of the model?"
    )
