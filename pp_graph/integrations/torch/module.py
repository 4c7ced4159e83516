"""Post-processors as torch modules."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import torch
from torch import nn

from pp_graph.errors import PostProcessorError
from pp_graph.integrations.torch.batch import (
    FIELDS,
    InferenceBatch,
    Predictions,
    TracedPredictions,
    raw_tensors,
    signature_of_tensors,
)
from pp_graph.integrations.torch.interpreter import (
    TorchGraph,
    compile_post_processor,
    is_exporting,
    is_jit_traced,
    is_strict_trace,
    without_trace_warnings,
)
from pp_graph.integrations.torch.output_names import prepare_output_names, with_output_names
from pp_graph.postprocessors import PostProcessor as Described
from pp_graph.program import PACKED_NAME
from pp_graph.statistics import LevelStatistics, Statistics
from pp_graph.statistics.anomalib_checkpoint import BUFFERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pp_graph.program import Signature

_KEPT_GRAPHS: Final = 16
"""Number of signatures whose compiled graphs are kept."""


def _is_callback_base(base: type) -> bool:
    """Return True for `Callback` of one of Lightning's packages."""
    return base.__name__ == "Callback" and base.__module__.split(".", 1)[0] in ("lightning", "pytorch_lightning")


def _hooks(base: type) -> list[str]:
    return [name for name in vars(base) if name.startswith("on_") or name in ("setup", "teardown")]


Numbers = dict[str, float | None]
"""Calibrated numbers by buffer name; None for unknown."""


class PostProcessor(nn.Module, ABC):
    """Base class of post-processors as torch modules: a model's outputs in, predictions out.

    For a custom one, implement `forward`. `pp_graph.fuse` takes such a module as it is: it traces the module and
    verifies decisions against it. To retune it without the module, describe it in steps: inherit from
    `pp_graph.PostProcessor` and wrap that in `PostProcessorModule`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a Lightning callback without a hook.

        Raises:
            PostProcessorError: The class is a callback, and does nothing as one.
        """
        super().__init_subclass__(**kwargs)
        callbacks = [base for base in cls.__mro__ if _is_callback_base(base)]
        if callbacks and all(getattr(cls, hook) is getattr(callbacks[0], hook) for hook in _hooks(callbacks[0])):
            raise PostProcessorError(
                f"{cls.__name__} is a Lightning callback that overrides no hook, so it would do nothing. Inherit from "
                "pp_graph.integrations.torch.OneClassPostProcessor, which finds its statistics in validation, or write "
                "hooks such as on_validation_epoch_end."
            )

    def __init__(self) -> None:
        super().__init__()
        prepare_output_names([*FIELDS, PACKED_NAME])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        prepare_output_names([*FIELDS, PACKED_NAME])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`. Predictions given as an `InferenceBatch` can be changed in place there."""
        if isinstance(self, PostProcessorModule):
            return super().__call__(*args, **kwargs)
        if args and isinstance(args[0], InferenceBatch):
            args = (Predictions(**args[0]._asdict()), *args[1:])
        result = super().__call__(*args, **kwargs)
        if not isinstance(result, (InferenceBatch, Predictions)):
            return result
        found = {name: value for name, value in result._asdict().items() if value is not None}
        return InferenceBatch(**with_output_names(found))

    def to_post_processor(self) -> Described:
        """Return the post-processor to fuse: here the module, traced when it meets a raw model."""
        from pp_graph.integrations.torch.tracing import ModulePostProcessor

        return ModulePostProcessor(None, self)

    def __getattr__(self, name: str) -> Any:
        """Raise a helpful error if a Lightning trainer uses this module as a callback."""
        if name == "state_key":
            raise AttributeError(
                f"{type(self).__name__} is a torch module and not a Lightning callback. Use "
                "pp_graph.integrations.torch.OneClassPostProcessor, which is both, or pass PostProcessorCallback(post) "
                "of pp_graph.integrations.lightning to the trainer."
            )
        return super().__getattr__(name)

    @abstractmethod
    def forward(self, predictions: Any) -> Any:
        """Post-process a batch.

        Args:
            predictions: The model's outputs: an object or a mapping with `pred_score` and `anomaly_map`, or other
                values that the post-processor reads.

        Returns:
            An `InferenceBatch` or an object with its fields; a dict if the outputs have other names.
        """


class PostProcessorModule(PostProcessor):
    """Runs a `pp_graph.PostProcessor` in torch.

    It runs the operators that `pp_graph.fuse` writes, so on CPU it decides exactly like the fused graph.

    The calibrated numbers are buffers with the names and shapes of Anomalib 2.x's `PostProcessor` (`_image_threshold`,
    `image_min`, …; NaN for unknown), so each loads the other's state dict, and decisions follow the buffers. As in
    Anomalib, the state dict does not contain sensitivities. Training mode has no effect, half-precision values are
    converted to float32, and gradients are not tracked.

    Args:
        post: The post-processor.
        input_size: Height and width of the model's images, for `map_size="input"`; None if unknown.

    Raises:
        PostProcessorError: `post` is not a post-processor.
    """

    _post: Described | None
    _post_numbers: Numbers
    _graphs: dict[Signature, TorchGraph]
    _read: dict[str, torch.Tensor]
    _read_versions: list[int | None]
    _views: list[Any]
    _read_numbers: Numbers

    def __init__(self, post: Described, *, input_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        if not isinstance(post, Described):
            raise PostProcessorError(
                f"The post-processor is {type(post).__name__}, expected a pp_graph.PostProcessor such as "
                "pp_graph.OneClassPostProcessor(pp_graph.Statistics.load('stats.json'))."
            )
        self._input_size = input_size
        self._original = post
        for name, number in _numbers_of(post.statistics).items():
            self.register_buffer(name, torch.tensor(math.nan if number is None else number, dtype=torch.float32))
        self._forget()
        self._refresh()
        prepare_output_names(output.name for output in post.declared_outputs)

    def to_post_processor(self) -> Described:
        """Return `post`."""
        return self.post

    @property
    def post(self) -> Described:
        """The post-processor with the current numbers of the buffers.

        Raises:
            StatisticsError: The buffers hold invalid statistics, such as `min` above `max`.
        """
        numbers = self._numbers()
        if self._post is None or numbers != self._post_numbers:
            post = self._original
            # Keep the original numbers while the buffers hold their float32 roundings.
            if numbers != _numbers_of(post.statistics):
                post = post.with_statistics(_statistics_from(numbers))
            self._post, self._post_numbers = post, numbers
            self._graphs = {}
        return self._post

    @property
    def statistics(self) -> Statistics | None:
        """The calibrated numbers. Assigning writes them into the buffers."""
        return self.post.statistics

    @statistics.setter
    def statistics(self, statistics: Statistics | None) -> None:
        self._original = self._original.with_statistics(statistics)
        with torch.no_grad():
            for name, number in _numbers_of(statistics).items():
                getattr(self, name).fill_(math.nan if number is None else number)
        self._post = None
        self._refresh()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(
        self, pred_score: Any = None, anomaly_map: torch.Tensor | None = None, **values: torch.Tensor | None
    ) -> Any:
        """Post-process the raw outputs of a batch.

        Args:
            pred_score: Scores, (N,) or (N,1). Or all values as a mapping, or as an object with the attributes
                `pred_score` and `anomaly_map`, such as Anomalib's `InferenceBatch`.
            anomaly_map: Maps, (N,H,W), (N,1,H,W) or (N,H,W,1).
            values: Values of other roles, by name. A post-processor that reads neither score nor map also accepts its
                first two roles by position.

        Returns:
            An `InferenceBatch`, with None for missing outputs. If the post-processor declares outputs of other names, a
            dict of one tensor per output, in their order. With `pack`, one tensor (N,H,W,4). Under `torch.jit.trace`,
            which does not support None, a tuple of the existing outputs in the same order; with `strict=False` a dict,
            from which `openvino.convert_model` takes the names of the outputs.

        Raises:
            ValueError: All values are missing, or one has a different shape or element type.
            StatisticsError: Statistics that the post-processor needs are unknown.
            TargetError: An operator cannot run in torch, or cannot be exported from it.
        """
        post = self.post
        raw = raw_tensors(pred_score, anomaly_map, values, post.roles)
        graph = self._graph(post, signature_of_tensors(raw, post.roles, self._input_size))
        device = next(iter(raw.values())).device
        with _in_float32(device):
            found = graph(raw)
        found = with_output_names(found)
        if post.pack:
            (packed,) = found.values()
            return packed
        if is_jit_traced():
            # A trace that is not strict, as that of openvino.convert_model, keeps the names.
            return tuple(found.values()) if is_strict_trace() else TracedPredictions(found)
        # The declared outputs decide, so that a post-processor always returns the same type.
        is_anomaly = {output.name for output in post.declared_outputs} <= set(InferenceBatch._fields)
        return InferenceBatch(**found) if is_anomaly else found

    def _graph(self, post: Described, signature: Signature) -> TorchGraph:
        if signature not in self._graphs:
            if len(self._graphs) == _KEPT_GRAPHS:
                self._graphs.clear()
            self._graphs[signature] = compile_post_processor(post.bind(signature))
        return self._graphs[signature]

    def _forget(self) -> None:
        """Reset everything that was derived from the buffers."""
        self._post = None
        self._post_numbers = {}
        self._graphs = {}
        self._read = {}
        self._read_versions = []
        self._views = []
        self._read_numbers = {}

    def _numbers(self) -> Numbers:
        """Return the current numbers of the buffers; during an export, the numbers read before it."""
        if not is_exporting():
            # Always, because writes through .data, as DistributedDataParallel makes, do not change the version.
            self._refresh()
            return self._read_numbers
        # Tensors have no values during an export, so check that the last numbers read are still current.
        written = [_version(buffer) for buffer in self._read.values()] != self._read_versions
        if written or not self._views_unchanged():
            raise PostProcessorError(
                "The statistics of the post-processor were written to since it last ran, expected numbers that are "
                "known before the export. Assign module.statistics, or call the module once, and export again."
            )
        return self._read_numbers

    def _views_unchanged(self) -> bool:
        """Return True if the buffers still hold the numbers last read, or if their memory is not accessible."""
        return all(
            np.array_equal(view, np.float32(np.nan if number is None else number), equal_nan=True)
            for view, number in zip(self._views, self._read_numbers.values(), strict=False)
        )

    def _refresh(self) -> None:
        """Read the buffers, in one transfer."""
        buffers = {name: self._buffers[name] for name in BUFFERS}
        found = [buffer for buffer in buffers.values() if buffer is not None]
        if len(found) < len(BUFFERS) or any(buffer.is_meta or type(buffer) is not torch.Tensor for buffer in found):
            return  # the buffers have no values, as on the device "meta"
        with torch.no_grad(), without_trace_warnings():
            numbers = torch.stack([buffer.float().reshape(()) for buffer in found]).tolist()
            on_cpu = all(buffer.device.type == "cpu" and buffer.dtype == torch.float32 for buffer in found)
            self._views = [buffer.detach().numpy() for buffer in found] if on_cpu else []
        self._read = dict(zip(BUFFERS, found, strict=True))
        self._read_versions = [_version(buffer) for buffer in found]
        self._read_numbers = {
            name: None if math.isnan(number) else number for name, number in zip(BUFFERS, numbers, strict=True)
        }

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in BUFFERS and "_read" in self.__dict__:
            self._refresh()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._refresh()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move the buffers to another device, but keep their precision."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        restore_precision(self, before)
        self._refresh()
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A copy has other buffers, so it must not share anything derived from these.
        return {name: value for name, value in self.__dict__.items() if name not in _DERIVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()
        self._refresh()
        prepare_output_names(output.name for output in self._original.declared_outputs)


_DERIVED: Final = ("_post", "_post_numbers", "_graphs", "_read", "_read_versions", "_read_numbers", "_views")


def restore_precision(module: nn.Module, before: Mapping[str, torch.Tensor | None]) -> None:
    """Undo a change of element type of the calibrated numbers, because rounding them would flip decisions.

    Args:
        module: Module whose buffers were moved or converted.
        before: Its buffers before that.
    """
    for name in BUFFERS:
        original, moved = before[name], module._buffers[name]
        if original is not None and moved is not None and moved.dtype != original.dtype:
            module._buffers[name] = original.to(moved.device)


def _version(buffer: torch.Tensor) -> int | None:
    """Return the number of in-place writes to a tensor; None if torch does not count them."""
    return None if buffer.is_inference() else buffer._version


def _numbers_of(statistics: Statistics | None) -> Numbers:
    """Return calibrated numbers, rounded to float32 like the buffers."""
    numbers: Numbers = {}
    for buffer, (level, end) in BUFFERS.items():
        number = None if statistics is None else getattr(getattr(statistics, level), end)
        numbers[buffer] = None if number is None else float(np.float32(number))
    return numbers


def _statistics_from(numbers: Numbers) -> Statistics | None:
    levels: dict[str, dict[str, float | None]] = {"image": {}, "pixel": {}}
    for buffer, (level, end) in BUFFERS.items():
        levels[level][end] = numbers[buffer]
    if all(number is None for number in numbers.values()):
        return None
    return Statistics(image=LevelStatistics(**levels["image"]), pixel=LevelStatistics(**levels["pixel"]))


@contextlib.contextmanager
def _in_float32(device: torch.device) -> Iterator[None]:
    """Disable autocast and TensorFloat32, which compute in less than float32."""
    if is_exporting() or is_jit_traced():
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            cudnn: Any = torch.backends.cudnn
            flags = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
            stack.enter_context(cudnn.flags(**flags, allow_tf32=False))
        yield
