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
from pp_graph.postprocessors import PostProcessor as Described
from pp_graph.statistics import LevelStatistics, Statistics
from pp_graph.statistics.anomalib_checkpoint import BUFFERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pp_graph.program import Signature

_KEPT_GRAPHS: Final = 16
"""Signatures of raw values for which the operators are kept ready."""


def _is_callback_base(base: type) -> bool:
    """Return True for `Callback` of one of Lightning's packages."""
    return base.__name__ == "Callback" and base.__module__.split(".", 1)[0] in ("lightning", "pytorch_lightning")


def _hooks(base: type) -> list[str]:
    return [name for name in vars(base) if name.startswith("on_") or name in ("setup", "teardown")]


Numbers = dict[str, float | None]
"""Calibrated numbers by the name of their buffer; None for unknown."""


class PostProcessor(nn.Module, ABC):
    """Base class of post-processors as torch modules: a model's outputs in, predictions out.

    To write one of your own, inherit from it and implement `forward`; or describe it in steps (inherit from
    `pp_graph.PostProcessor`) and wrap it in `PostProcessorModule`, and it can be fused, converted and verified as well.
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
                f"{cls.__name__} is a Lightning callback that would do nothing: it has none of its hooks. Inherit from "
                "pp_graph.integrations.torch.OneClassPostProcessor, which finds its statistics in validation, or write "
                "hooks such as on_validation_epoch_end."
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`. Predictions given as an `InferenceBatch` can be changed in place there."""
        if not args or not isinstance(args[0], InferenceBatch) or isinstance(self, PostProcessorModule):
            return super().__call__(*args, **kwargs)
        result = super().__call__(Predictions(**args[0]._asdict()), *args[1:], **kwargs)
        return InferenceBatch(**result._asdict()) if isinstance(result, Predictions) else result

    def to_post_processor(self) -> Described:
        """Return the post-processor to fuse: here the module, traced when it meets a raw model."""
        from pp_graph.integrations.torch.tracing import ModulePostProcessor

        return ModulePostProcessor(None, self)

    def __getattr__(self, name: str) -> Any:
        """Say what a trainer needs instead of a torch module."""
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
            predictions: What the model returned: an object or a mapping with `pred_score` and `anomaly_map`, or
                whatever is read.

        Returns:
            An `InferenceBatch`, or what has its fields; a dict where the outputs have other names.
        """


class PostProcessorModule(PostProcessor):
    """Runs a `pp_graph.PostProcessor` in torch.

    It runs the operators that `pp_graph.fuse` writes, so its decisions on CPU are, bit for bit, those of the fused
    graph. The calibrated numbers are buffers with the names and shapes of Anomalib 2.x's `PostProcessor`
    (`_image_threshold`, `image_min`, …; NaN for unknown), so state dicts load both ways; decisions follow the buffers.
    Sensitivities are, as there, no part of the state dict. Training mode makes no difference, half-precision values are
    taken as float32, and no gradients are kept.

    Args:
        post: The post-processor.
        input_size: Height and width of the model's images, for `map_size="input"`; None where they are not known.

    Raises:
        PostProcessorError: `post` is no post-processor.
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
        self._given = post
        for name, number in _numbers_of(post.statistics).items():
            self.register_buffer(name, torch.tensor(math.nan if number is None else number, dtype=torch.float32))
        self._forget()
        self._refresh()

    def to_post_processor(self) -> Described:
        """Return `post`."""
        return self.post

    @property
    def post(self) -> Described:
        """The post-processor with the numbers that the buffers hold now.

        Raises:
            StatisticsError: The buffers hold numbers that no calibration can have produced.
        """
        numbers = self._numbers()
        if self._post is None or numbers != self._post_numbers:
            post = self._given
            # Numbers that the buffers only round are kept as they were given.
            if numbers != _numbers_of(post.statistics):
                post = post.with_statistics(_statistics_from(numbers))
            self._post, self._post_numbers = post, numbers
            self._graphs = {}
        return self._post

    @property
    def statistics(self) -> Statistics | None:
        """The calibrated numbers; assigning others writes them into the buffers."""
        return self.post.statistics

    @statistics.setter
    def statistics(self, statistics: Statistics | None) -> None:
        self._given = self._given.with_statistics(statistics)
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
            pred_score: Scores, (N,) or (N,1); or everything at once: a mapping, or an object with attributes,
                `pred_score` and `anomaly_map`, such as Anomalib's `InferenceBatch`.
            anomaly_map: Maps, (N,H,W), (N,1,H,W) or (N,H,W,1).
            values: Values of other roles, by name. A post-processor that reads neither score nor map takes the values
                of its first two roles by position as well.

        Returns:
            An `InferenceBatch`, with None for what there is not. Where the post-processor declares outputs of other
            names, a dict: a tensor for each output, by name, in their order. With `pack` one tensor, (N,H,W,4). In
            `torch.jit.trace`, which takes no None, a tuple of the predictions that there are; a dict with
            `strict=False`, from which `openvino.convert_model` takes the names of the outputs.

        Raises:
            ValueError: None is given, or one has another shape or element type.
            StatisticsError: A number that is needed is not known.
            TargetError: An operator cannot run in torch, or cannot be exported from it.
        """
        post = self.post
        raw = raw_tensors(pred_score, anomaly_map, values, post.roles)
        graph = self._graph(post, signature_of_tensors(raw, post.roles, self._input_size))
        device = next(iter(raw.values())).device
        with _in_float32(device):
            found = graph(raw)
        if post.pack:
            (packed,) = found.values()
            return packed
        if is_jit_traced():
            # A trace that is not strict, as that of openvino.convert_model, keeps the names.
            return tuple(found.values()) if is_strict_trace() else TracedPredictions(found)
        # What is declared decides, so that a post-processor always returns the same kind.
        usual = {output.name for output in post.declared_outputs} <= set(InferenceBatch._fields)
        return InferenceBatch(**found) if usual else found

    def _graph(self, post: Described, signature: Signature) -> TorchGraph:
        if signature not in self._graphs:
            if len(self._graphs) == _KEPT_GRAPHS:
                self._graphs.clear()
            self._graphs[signature] = compile_post_processor(post.bind(signature))
        return self._graphs[signature]

    def _forget(self) -> None:
        """Start without anything that follows from the buffers."""
        self._post = None
        self._post_numbers = {}
        self._graphs = {}
        self._read = {}
        self._read_versions = []
        self._views = []
        self._read_numbers = {}

    def _numbers(self) -> Numbers:
        """The numbers in the buffers, read anew if they were written to since they were read."""
        if is_exporting():
            # The buffers hold no numbers now; those that they held when they were read may have been written to.
            written = [_version(buffer) for buffer in self._read.values()] != self._read_versions
            if written or not self._seen_as_read():
                raise PostProcessorError(
                    "The statistics of the post-processor were written to since it last ran, expected numbers that are "
                    "known before the export. Assign module.statistics, or call the module once, and export again."
                )
            return self._read_numbers
        # What writes through .data, as DistributedDataParallel does, leaves no trace but the numbers.
        self._refresh()
        return self._read_numbers

    def _seen_as_read(self) -> bool:
        """True if the buffers still hold the numbers that were read, or if their memory cannot be read."""
        return all(
            np.array_equal(view, np.float32(np.nan if number is None else number), equal_nan=True)
            for view, number in zip(self._views, self._read_numbers.values(), strict=False)
        )

    def _refresh(self) -> None:
        """Read the buffers, in one transfer."""
        buffers = {name: self._buffers[name] for name in BUFFERS}
        found = [buffer for buffer in buffers.values() if buffer is not None]
        if len(found) < len(BUFFERS) or any(buffer.is_meta or type(buffer) is not torch.Tensor for buffer in found):
            return  # there is nothing to read, as on the device "meta"
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
        """Move the buffers to another device; in another precision, decisions would flip."""
        before = {name: self._buffers[name] for name in BUFFERS}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        self._refresh()
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A copy gets buffers of its own, so nothing that was read from these.
        return {name: value for name, value in self.__dict__.items() if name not in _FORGOTTEN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._forget()
        self._refresh()


_FORGOTTEN: Final = ("_post", "_post_numbers", "_graphs", "_read", "_read_versions", "_read_numbers", "_views")


def _version(buffer: torch.Tensor) -> int | None:
    """Number of in-place writes to a tensor; None if torch does not count them."""
    return None if buffer.is_inference() else buffer._version


def _numbers_of(statistics: Statistics | None) -> Numbers:
    """Calibrated numbers, rounded to float32 as the buffers hold them."""
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
    """Keep torch from computing in less than float32, which autocast and TensorFloat32 would."""
    if is_exporting() or is_jit_traced():
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            cudnn: Any = torch.backends.cudnn
            kept = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
            stack.enter_context(cudnn.flags(**kept, allow_tf32=False))
        yield
