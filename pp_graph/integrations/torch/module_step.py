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
import torch

from pp_graph.errors import PostProcessorError
from pp_graph.extras import require_extra
from pp_graph.integrations.exporting import OPSET, reason_for
from pp_graph.steps import Array, GraphStep

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import onnx

    from pp_graph.values import ValueType

_TENSOR_ATTRIBUTES: Final = frozenset({"_parameters", "_buffers", "_modules"})
_CACHE_SIZE: Final = 16


@dataclass(frozen=True)
class ModuleStep(GraphStep):
    """A step written as a `torch.nn.Module`.

    The reference is a copy of the module in evaluation mode, in float32 on the CPU. `torch.onnx.export` (dynamo)
    exports that copy into the fused model, once for modules with the same weights. `forward` takes one tensor per value
    and returns one tensor, float32 or bool; `GraphStep` lists its shapes. The export keeps only one branch of a Python
    `if`: use `torch.where` for conditions on values.

    Attributes:
        source: Name of the value to read, float32 or bool: the first argument of `forward`.
        target: Name of the value to write, float32 or bool.
        module: The module; it is not changed.
        others: Names of the values for the other arguments of `forward`.

    Raises:
        PostProcessorError: `module` is not a torch module.
    """

    module: Any

    def __post_init__(self) -> None:
        """Check the module."""
        super().__post_init__()
        if not isinstance(self.module, torch.nn.Module):
            raise PostProcessorError(
                f"module of '{self.target}' is {self.module!r}, expected a torch.nn.Module. Pass an instance."
            )

    def content(self) -> Hashable:
        """Return a key of the module's classes and contents; None if they cannot be compared."""
        return _content(self.module)

    def reference(self, *arrays: Array) -> Array:
        """Run the module without gradients."""
        module = prepared(self.module)
        with torch.no_grad():
            result = module(*map(_tensor, arrays))
        if not isinstance(result, torch.Tensor):
            raise PostProcessorError(
                f"module {type(self.module).__name__} returns {type(result).__name__}, expected one tensor. Return the "
                f"value of '{self.target}'."
            )
        return np.asarray(result.numpy())

    def model(self, types: Sequence[ValueType], example: tuple[Array, ...]) -> onnx.ModelProto:
        """Export the module with an open batch size, and with open height and width if they are unknown.

        Raises:
            ExtraError: onnxscript, which torch's exporter needs, is not installed.
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
    """Export a torch module, with an open batch size, and with open height and width if they are unknown.

    Args:
        module: The module, in evaluation mode; see `prepared`.
        types: Types of the values that it reads.
        example: Arrays of these types.
        outputs: Names of its outputs.
        inputs: Names of its inputs; None for `input_0`, `input_1`, ...

    Raises:
        ExtraError: onnxscript, which torch's exporter needs, is not installed.
        PostProcessorError: torch cannot export it.
    """
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
                opset_version=OPSET,
                input_names=list(inputs or (f"input_{place}" for place in range(len(types)))),
                output_names=list(outputs),
                dynamic_shapes=(dynamic,) if inputs is not None else dynamic,
                external_data=False,
                verbose=False,
            )
    except Exception as failure:  # the exporter's errors have no common base
        raise PostProcessorError(
            f"torch.onnx.export refuses module {type(module).__name__}: {reason_for(failure)}. Write it with "
            "operations that torch exports; torch.onnx.export(module, example, dynamo=True) prints details."
        ) from failure
    finally:
        logger.setLevel(level)
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _open_axes(value: ValueType) -> dict[int, Any]:
    places = range(value.rank)
    is_open = {place: value.axes[place] == "N" or value.sizes[place] is None for place in places}
    # If one side of a map is open, export both as open.
    sides = set() if value.map_size is not None else {value.axes.find("H"), value.axes.find("W")}
    return {place: torch.export.Dim.AUTO for place in places if is_open[place] or place in sides}


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array, bool if array.dtype == bool else np.float32))


_prepared_modules: OrderedDict[Hashable, Any] = OrderedDict()


def prepared(module: Any) -> Any:
    """Return a copy in evaluation mode, in float32 on the CPU."""
    content = _content(module)
    if content in _prepared_modules:
        return _prepared_modules[content]
    prepared = copy.deepcopy(module).cpu().float().eval()
    if content is not None:
        _prepared_modules[content] = prepared
        if len(_prepared_modules) > _CACHE_SIZE:
            _prepared_modules.popitem(last=False)
    return prepared


def _content(module: Any) -> Hashable:
    """Return a key of a module's classes and contents; None if an attribute cannot be pickled.

    It contains the classes themselves, because a redefined class may compute something else under the same name.
    """
    digest = hashlib.sha256()
    kinds = []
    for name, submodule in module.named_modules():
        kinds.append(type(submodule))
        attributes = {key: value for key, value in vars(submodule).items() if key not in _TENSOR_ATTRIBUTES}
        try:
            digest.update(pickle.dumps((name, attributes)))
        except Exception:  # pickle raises errors of many types
            return None
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.flatten().view(torch.uint8).numpy().tobytes())
    return (*kinds, digest.hexdigest())
