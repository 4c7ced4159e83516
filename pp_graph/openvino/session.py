"""`OpenVINOSession`: run a model in OpenVINO batch by batch or with several requests in flight."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, OrderedDict, deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.model import FrameFormat, ModelInput
from pp_graph.openvino.caching import cache_properties, is_from_cache
from pp_graph.openvino.compiling import (
    Compilation,
    Request,
    compile_for,
    require_inference_precision,
    running_precision,
)
from pp_graph.openvino.core import first_line, partial_shape, port_name
from pp_graph.openvino.devices import (
    PRECISION_HINT,
    RECOMMENDED,
    parse_device,
    precision_properties,
    recommended_properties,
    require_device,
)
from pp_graph.openvino.input_shapes import reshape
from pp_graph.openvino.island.float32 import island_precisions, names_operators
from pp_graph.openvino.island.island import add_probes
from pp_graph.sessions.session import Array, Session, cut_to_batch, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from pathlib import Path

    import openvino as ov

    from pp_graph.preprocessing import Preprocessing

Tag = TypeVar("Tag")

_LEAST_IN_FLIGHT: Final = 2
_KEPT_SIZES: Final = 4
"""Number of sizes of the inputs for which a compilation is kept."""
_OFTEN: Final = 4
"""Batches of further sizes after which one of them replaces the size that was used longest ago."""

Sizes = tuple[tuple[int, ...], ...]
"""Shapes of all inputs, in order."""


class OpenVINOSession(Session):
    """A model compiled for a device.

    Several threads may call `run` and `stream` at the same time.

    Args:
        model: The model; it is not changed.
        device: Device to run on.
        precision: Inference precision: `f32`, `bf16` or `f16`. `recommended` means f32 if the device supports it; None
            means the device's default, which may be bf16 or f16.
        performance_hint: `latency` or `throughput`. None sets no hint; on BATCH, it always runs full batches of
            requests, so that results do not depend on timing.
        probes: Names of inner tensors to return as further outputs.
        preprocessing: Preprocessing in the model; None if it does not take frames.
        island: Prefix of the names of the post-processing's operators, to read the precisions that they run in; None
            for a model without post-processing.
        decides: Raise if the compiled model has no operators with this prefix.
        profile: Measure the times of operators, for `TimedSession`. Slows down every run.
        cache_dir: Folder to keep the compiled model in; see `caching`. None keeps nothing.
        fit_sizes: Compile a model with open sizes again for the sizes that come, because OpenVINO fuses less with open
            ones. Up to four sizes are kept.

    Attributes:
        in_flight: Number of requests that `stream` keeps busy.
        compile_seconds: Time that compiling took.

    Raises:
        DeviceError: The device is not on this machine.
        OutputFileError: The cache's folder cannot be written.
        TargetError: The precision or performance hint is unknown, OpenVINO cannot compile the model, or the compiled
            model lacks the post-processing.
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
        cache_dir: str | Path | None = None,
        fit_sizes: bool = False,
    ) -> None:
        require_device(device)
        if precision != RECOMMENDED:
            require_inference_precision(precision)
        settings = (
            precision_properties(device, precision)
            if performance_hint is None
            else recommended_properties(device, performance_hint, precision)
        )
        if cache_dir is not None:
            settings = {**settings, **cache_properties(model, cache_dir)}
        requested = settings.get(PRECISION_HINT) if precision == RECOMMENDED else precision
        count = len(model.outputs)
        if probes:
            model = model.clone()
            add_probes(model, probes)
        self._model = model
        self._compile: Callable[[ov.Model], ov.CompiledModel] = partial(
            compile_for,
            device=device,
            precision=requested,
            settings={**settings, "PERF_COUNT": True} if profile else settings,
        )
        start = time.perf_counter()
        compiled = self._compile(model)
        self.compile_seconds = time.perf_counter() - start
        # Compiling may add names of inner tensors that turned out to be the same.
        self._places = {name: place for place in range(count) for name in model.outputs[place].get_names()}
        self._places |= {name: place for place, name in enumerate(probes, count)}
        self._group = _requests_in_batch(compiled, device) if performance_hint is None else 1
        self.inputs = tuple(self._input(port, preprocessing) for port in compiled.inputs)
        self.outputs = tuple(self._places)
        self.precision = running_precision(compiled, requested)
        unmet = requested is not None and requested != self.precision and " " not in self.precision
        note = f" ({requested} is not to be had)" if unmet else ""
        cached = ", from the cache" if cache_dir is not None and is_from_cache(compiled) else ""
        self.description = f"OpenVINO on {device}, {self.precision}{note}{cached}"
        self.island = {} if island is None else island_precisions(compiled, island)
        if decides and not self.island and names_operators(compiled):
            raise TargetError(
                f"The compiled model has no operators under '{island}/', expected the post-processing: the precision "
                "of its decisions is unknown. The model was changed after it was converted: convert the fused model "
                "again."
            )
        self.in_flight = max(_LEAST_IN_FLIGHT, int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))
        self._lock = threading.RLock()
        # None until a state is changed, because setting states takes time with every request.
        self._states: dict[str, Array] | None = None
        self._open: Compilation | None = self._compilation(compiled)
        self._fits = fit_sizes and self._group == 1 and any(None in (each.shape or (None,)) for each in self.inputs)
        self._fitted: OrderedDict[Sizes, Compilation] = OrderedDict()
        self._further: Counter[Sizes] = Counter()

    def _input(self, port: ov.Output, preprocessing: Preprocessing | None) -> ModelInput:
        """Describe an input: with a frame format if it takes frames, with an open batch if requests are grouped."""
        name, shape = port_name(port), partial_shape(port)
        frames = None
        if preprocessing is not None and preprocessing.input == name:
            frames = FrameFormat(preprocessing.layout, preprocessing.channel_order)
        return ModelInput(
            name=name,
            dtype=np.dtype(port.get_element_type().to_dtype()).name,
            shape=(None, *shape[1:]) if shape and self._group > 1 else shape,
            frames=frames,
        )

    def set_states(self, states: Mapping[str, Array]) -> None:
        """Set states from the next batch on; states that are not given return to their defaults."""
        with self._lock:
            self._states = dict(states)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch."""
        return self._run_grouped(feeds) if self._group > 1 else self._finish(self._start(feeds, share=True))

    def stream(
        self, batches: Iterable[tuple[Tag, Mapping[str, Array]]]
    ) -> Generator[tuple[Tag, dict[str, Array]], None, None]:
        """Run batches with several requests in flight.

        Unlike OpenVINO's `AsyncInferQueue`, this keeps the order of the batches without buffering results, and a batch
        that fails does not make the next ones fail.

        Args:
            batches: A tag of your choice, and input name to array, for each batch. At most `in_flight` + 1 batches are
                read ahead of the results.

        Yields:
            The tag, and output name to array, in the order of the batches. At most one further batch is read
            before a finished result is yielded, so that results do not wait for a slow source.

        Raises:
            TargetError: The runtime fails on a batch. Results of earlier batches are yielded first; likewise if
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

    def _start(self, feeds: Mapping[str, Array], *, share: bool = False) -> Request:
        request = self._take_request(feeds, share=share)
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
        """Run a failed batch again, in a new compilation.

        With dynamic sizes, OpenVINO 2026.4 on CPU remembers sizes that it failed on: valid batches, also those in
        flight, then fail with the same error until one has other sizes. So a compilation is not used again after a
        failure, and a batch is only invalid if it fails alone.
        """
        with self._lock:
            if self._open is failed.compilation:
                self._open = None
        alone = self._compilation(self._compile(self._model))
        request = alone.take(self._states)
        try:
            request.start(failed.feeds())
            outputs = request.outputs()
        except RuntimeError as error:
            raise _failed(error) from error
        request.give_back()
        with self._lock:
            if self._open is None:
                self._open = alone
        return outputs

    def _run_grouped(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one image per request and always a full batch of requests, since fewer would run another graph."""
        single = [replace(each, shape=(1, *each.shape[1:])) if each.shape else each for each in self.inputs]
        cuts = list(cut_to_batch(single, feeds))
        results: list[dict[str, Array]] = []
        with self._lock:  # requests created one after the other form a batch
            requests = [self._take_request(feeds) for _ in range(self._group)]
            try:
                for start in range(0, len(cuts), self._group):
                    for offset, request in enumerate(requests):
                        request.start(cuts[min(start + offset, len(cuts) - 1)].feeds)
                    results += [request.outputs() for request in requests]
            except (RuntimeError, TypeError, ValueError) as error:
                raise _failed(error) from error
            for request in requests:
                request.give_back()
        return joined(results[: len(cuts)], cuts, 1)

    def _take_request(self, feeds: Mapping[str, Array], *, share: bool = False) -> Request:
        with self._lock:
            chosen = (self._fitted_to(feeds) if self._fits else None) or self._open
            if chosen is None:
                chosen = self._open = self._compilation(self._compile(self._model))
            return chosen.take(self._states, share=share)

    def _fitted_to(self, feeds: Mapping[str, Array]) -> Compilation | None:
        """Return the compilation for the sizes of a batch; None to run it in the one with open sizes."""
        if any(each.name not in feeds for each in self.inputs):
            return None
        sizes = tuple(np.shape(feeds[each.name]) for each in self.inputs)
        if sizes not in self._fitted:
            if len(self._fitted) >= _KEPT_SIZES:
                self._further[sizes] += 1
                if self._further[sizes] < _OFTEN:
                    return None
                self._further.clear()
                self._fitted.popitem(last=False)
            fixed = self._model.clone()
            try:
                reshape(fixed, {port_name(port): list(shape) for port, shape in zip(fixed.inputs, sizes, strict=True)})
                self._fitted[sizes] = self._compilation(self._compile(fixed))
            except (RuntimeError, TargetError):
                return None  # the open model will say what is wrong with these sizes
        self._fitted.move_to_end(sizes)
        return self._fitted[sizes]

    def _compilation(self, compiled: ov.CompiledModel) -> Compilation:
        # Appending to a deque is thread-safe; a full deque drops its oldest request.
        return Compilation(compiled, self._places, deque(maxlen=self.in_flight), deque(maxlen=self.in_flight))


def _requests_in_batch(compiled: ov.CompiledModel, device: str) -> int:
    """Return the number of requests that BATCH runs together; 1 if it groups none, or for another device."""
    name = parse_device(device)
    if not name.kind.groups_requests:
        return 1
    count = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    shapes = [partial_shape(port) for port in compiled.inputs]
    single = all(shape and shape[0] == 1 and None not in shape for shape in shapes)
    return min(name.batch or count, count) if single else 1


def _failed(error: BaseException) -> TargetError:
    return TargetError(
        f"OpenVINO failed on a batch: {first_line(error)}. Do the images have the model's size and layout?"
    )
