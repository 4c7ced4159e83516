"""Export a torch model to raw ONNX, and compare the two."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pp_graph.errors import DataError, ModelError
from pp_graph.extras import check_extra
from pp_graph.integrations.exporting import OPSET, evaluating, reason_for

if TYPE_CHECKING:
    from pathlib import Path

Array = npt.NDArray[Any]
Example = torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]
"""One input, several in the order of `forward`, or inputs by parameter name."""

_SINGLE: Final = "output"


def named_inputs(model: nn.Module, example: Example) -> dict[str, torch.Tensor]:
    """Return the example inputs by parameter name of `forward`.

    Raises:
        DataError: They are not tensors, or do not fit `forward`.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in positional]
    if not isinstance(example, torch.Tensor | Mapping | tuple | list):
        raise DataError(
            f"The example is {type(example).__name__}, expected a torch.Tensor, or a tuple or mapping of tensors. "
            "Convert it first, such as with torch.from_numpy."
        )
    if isinstance(example, Mapping):
        given = dict(example)
        unknown = [name for name in given if name not in names]
        if unknown:
            raise DataError(
                f"The example holds '{unknown[0]}', expected the parameters of {type(model).__name__}.forward: "
                f"{', '.join(names)}. Use these names."
            )
    else:
        tensors = [example] if isinstance(example, torch.Tensor) else list(example)
        variadic = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
        if len(tensors) > len(names) and not variadic:
            raise DataError(
                f"The example holds {len(tensors)} inputs, expected at most {len(names)}: "
                f"{type(model).__name__}.forward takes {', '.join(names) or 'none'}."
            )
        names += [f"input_{index}" for index in range(len(names), len(tensors))]
        given = dict(zip(names, tensors, strict=False))
    for name, tensor in given.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.ndim or not len(tensor):
            what = f"a tensor {tuple(tensor.shape)}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise DataError(f"Example input '{name}' is {what}, expected a tensor with a batch of at least one image.")
    if not given:
        raise DataError("The example is empty, expected the model's inputs: a tensor, a tuple or a mapping.")
    if len({len(tensor) for tensor in given.values()}) > 1:
        sizes = ", ".join(f"'{name}' {len(tensor)}" for name, tensor in given.items())
        raise DataError(f"The example inputs hold different batches: {sizes}. Pass the same number of images for each.")
    return given


def named_outputs(found: object, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's outputs by name, without None.

    Args:
        found: A tensor, or a tuple, list, mapping, dataclass or named tuple of tensors.
        model: The model, for error messages.

    Raises:
        ModelError: It contains other types.
    """
    if isinstance(found, torch.Tensor):
        named: dict[str, Any] = {_SINGLE: found}
    elif isinstance(found, Mapping):
        named = {str(name): value for name, value in found.items()}
    elif isinstance(found, tuple) and hasattr(found, "_fields"):
        named = dict(zip(found._fields, found, strict=True))
    elif isinstance(found, tuple | list):
        named = {f"{_SINGLE}_{index}": value for index, value in enumerate(found)}
    elif dataclasses.is_dataclass(found):
        named = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    else:
        raise ModelError(
            f"{type(model).__name__} returns {type(found).__name__}, expected a tensor, or a tuple, dict, dataclass or "
            "named tuple of tensors. Wrap it in a module that returns score and map."
        )
    named = {name: value for name, value in named.items() if value is not None}
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"{type(model).__name__} returns {type(value).__name__} as '{name}', expected only tensors. Wrap it "
                "in a module that returns score and map."
            )
    if not named:
        raise ModelError(f"{type(model).__name__} returns nothing, expected a score, a map, or both.")
    return named


class _Flat(nn.Module):
    """Wraps a model so that it returns a tuple, as torch's exporter requires."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self._names = tuple(names)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(named_outputs(_call(self.model, dict(zip(self._names, inputs, strict=True))), self.model).values())


def _call(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> object:
    """Call a model with inputs by name if its `forward` allows it, otherwise by position."""
    parameters = inspect.signature(model.forward).parameters
    if all(name in parameters and parameters[name].kind is not inspect.Parameter.POSITIONAL_ONLY for name in inputs):
        return model(**inputs)
    return model(*inputs.values())


def _device_of(model: nn.Module) -> torch.device:
    weights = [*model.parameters(), *model.buffers()]
    return weights[0].device if weights else torch.device("cpu")


def run_model(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    """Run a model in evaluation mode and return its outputs by name.

    Raises:
        DataError: The model does not accept the inputs.
        ModelError: It returns other types than tensors.
    """
    device = _device_of(model)
    with evaluating(model):
        try:
            found = _call(model, {name: tensor.to(device) for name, tensor in inputs.items()})
        except Exception as error:
            shapes = ", ".join(f"'{name}' {tuple(tensor.shape)}" for name, tensor in inputs.items())
            raise DataError(
                f"{type(model).__name__} does not accept {shapes}: {reason_for(error)}. Pass other images."
            ) from error
        outputs = named_outputs(found, model)
        return {name: tensor.detach().float().cpu().numpy() for name, tensor in outputs.items()}


def export_raw(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    output_names: Sequence[str],
    path: Path,
    *,
    opset: int = OPSET,
    dynamic_batch: bool = True,
) -> None:
    """Export a model to ONNX with `torch.onnx.export(dynamo=True)`.

    Args:
        model: The model; it is not changed.
        inputs: Example inputs by name.
        output_names: Names for its outputs, in their order.
        path: The file to write.
        opset: Opset of the file.
        dynamic_batch: True to leave the batch size open; otherwise it is the example's.

    Raises:
        ModelError: torch cannot export it.
        ExtraError: onnxscript, which torch's exporter needs, is not installed.
    """
    check_extra("onnxscript", "torch", "exporting from torch")
    device = _device_of(model)
    arguments = [tensor.to(device) for tensor in inputs.values()]
    shapes = None
    if dynamic_batch:
        batch = torch.export.Dim("batch")
        # torch.export would treat a batch of one as a fixed size.
        arguments = [torch.cat([tensor, tensor]) if len(tensor) == 1 else tensor for tensor in arguments]
        shapes = (tuple({0: batch} for _ in arguments),)
    try:
        with evaluating(model), warnings.catch_warnings():
            # They concern torch's internals.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Flat(model, list(inputs)).eval(),
                tuple(arguments),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(inputs),
                output_names=list(output_names),
                opset_version=opset,
                verbose=False,
            )
            assert program is not None
            program.save(path)
    except Exception as error:  # torch raises many types
        hint = " If the model requires a fixed batch size, export it with dynamic_batch=False." if dynamic_batch else ""
        raise ModelError(f"torch cannot export {type(model).__name__}: {reason_for(error)}.{hint}") from error


def largest_difference(expected: Array, found: Array) -> float:
    """Return the largest difference as a fraction of the largest expected value; infinite if shapes or NaN differ."""
    if expected.shape != found.shape or not np.array_equal(np.isnan(expected), np.isnan(found)):
        return float("inf")
    with np.errstate(invalid="ignore"):
        difference = np.where(expected == found, 0.0, np.abs(expected.astype(np.float64) - found))
    scale = float(np.max(np.abs(expected), where=np.isfinite(expected), initial=0.0))
    largest = float(np.nanmax(difference, initial=0.0))
    return largest / scale if scale > 0 and np.isfinite(largest) else largest
