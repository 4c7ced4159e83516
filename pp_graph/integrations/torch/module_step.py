"""A step written as a `torch.nn.Module`, which is its own reference."""

from __future__ import annotations

import copy
import hashlib
import logging
import pickle
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.extras import require_extra
from pp_graph.steps import Array, GraphStep

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import onnx

    from pp_graph.values import ValueType

_OPSET: Final = 18
"""Opset at which torch writes its operators; other ones are made of that."""
_TENSORS: Final = frozenset({"_parameters", "_buffers", "_modules"})
_KEPT: Final = 16


@dataclass(frozen=True)
class ModuleStep(GraphStep):
    """A step written as a `torch.nn.Module`.

    A copy of it in evaluation mode, in float32 on the CPU, is the reference; that copy is exported with
    `torch.onnx.export` (dynamo) and written into the fused model. `forward` takes a tensor a value that is read and
    returns one tensor, float32 or bool; see `GraphStep` for its shapes. What `forward` decides in Python, it decides
    once: write `torch.where` for what depends on numbers. A module with the same weights is exported once.

    Attributes:
        source: Name of the value read, float32 or bool: the first argument of `forward`.
        target: Name of the value written, float32 or bool.
        module: The module; it is not changed.
        others: Names of the values for the further arguments of `forward`.

    Raises:
        ExtraError: torch is not installed.
        PostProcessorError: `module` is no module.
    """

    module: Any

    def __post_init__(self) -> None:
        """Check the module."""
        super().__post_init__()
        torch = require_extra("torch", "torch", "a step written as a torch module")
        if not isinstance(self.module, torch.nn.Module):
            raise PostProcessorError(
                f"module of '{self.target}' is {self.module!r}, expected a torch.nn.Module. Give an instance."
            )

    def content(self) -> Hashable:
        """Key of the module: its classes and their content; None if they cannot be compared."""
        return _content(self.module)

    def reference(self, *arrays: Array) -> Array:
        """Run the module without gradients."""
        import torch

        module = prepared(self.module)
        with torch.no_grad():
            result = module(*map(_tensor, arrays))
        if not isinstance(result, torch.Tensor):
            raise PostProcessorError(
                f"module {type(self.module).__name__} returns {type(result).__name__}, expected one tensor. Return the "
                "one that this step is to write."
            )
        return np.asarray(result.numpy())

    def model(self, types: Sequence[ValueType], example: tuple[Array, ...]) -> onnx.ModelProto:
        """The module as torch exports it, with an open batch, and open heights and widths where they are not known.

        Raises:
            ExtraError: onnxscript, which torch exports with, is not installed.
            PostProcessorError: torch cannot export it.
        """
        return exported(prepared(self.module), types, example, ["output"])


def exported(
    module: Any,
    types: Sequence[ValueType],
    example: tuple[Array, ...],
    outputs: Sequence[str],
    inputs: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """Export a torch module, with an open batch, and open heights and widths where they are not known.

    Args:
        module: The module, in evaluation mode; see `prepared`.
        types: Types of the values that it reads.
        example: Arrays of these types.
        outputs: Names of its outputs.
        inputs: Names of its inputs; None for `input_0`, `input_1`, ...

    Raises:
        ExtraError: onnxscript, which torch exports with, is not installed.
        PostProcessorError: torch cannot export it.
    """
    import torch

    require_extra("onnxscript", "torch", "exporting a torch module")
    dynamic = tuple(_open_axes(value) for value in types)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(map(_tensor, example)),
                dynamo=True,
                opset_version=_OPSET,
                input_names=list(inputs or (f"input_{place}" for place in range(len(types)))),
                output_names=list(outputs),
                dynamic_shapes=(dynamic,) if inputs is not None else dynamic,
                external_data=False,
                verbose=False,
            )
    except Exception as failure:  # the exporter's errors have no common base
        cause = failure.__cause__ or failure
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise PostProcessorError(
            f"torch.onnx.export refuses module {type(module).__name__}: {reason} Write it with operations "
            "that torch exports; torch.onnx.export(module, example, dynamo=True) says more."
        ) from failure
    finally:
        logger.setLevel(level)
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _open_axes(value: ValueType) -> dict[int, Any]:
    import torch

    places = range(value.rank)
    is_open = {place: value.axes[place] == "N" or value.sizes[place] is None for place in places}
    # A map of which one side is open has no known size.
    sides = set() if value.map_size is not None else {value.axes.find("H"), value.axes.find("W")}
    return {place: torch.export.Dim.AUTO for place in places if is_open[place] or place in sides}


def _tensor(array: Array) -> Any:
    import torch

    return torch.from_numpy(np.array(array, bool if array.dtype == bool else np.float32))


_modules: OrderedDict[Hashable, Any] = OrderedDict()


def prepared(module: Any) -> Any:
    """Return a copy in evaluation mode, in float32 on the CPU."""
    content = _content(module)
    if content in _modules:
        return _modules[content]
    prepared = copy.deepcopy(module).cpu().float().eval()
    if content is not None:
        _modules[content] = prepared
        if len(_modules) > _KEPT:
            _modules.popitem(last=False)
    return prepared


def _content(module: Any) -> Hashable:
    """Classes and content of a module; None where an attribute cannot be compared.

    Classes are compared by themselves: a class that was written anew under its old name is another one.
    """
    digest = hashlib.sha256()
    kinds = []
    for name, each in module.named_modules():
        kinds.append(type(each))
        plain = {key: value for key, value in vars(each).items() if key not in _TENSORS}
        try:
            digest.update(pickle.dumps((name, plain)))
        except Exception:  # what cannot be pickled raises errors of many kinds
            return None
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.flatten().view(_bytes()).numpy().tobytes())
    return (*kinds, digest.hexdigest())


def _bytes() -> Any:
    import torch

    return torch.uint8
