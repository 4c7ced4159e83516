"""Export a torch model to raw ONNX, and compare the two."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pp_graph.errors import DataError, ModelError
from pp_graph.extras import check_extra

if TYPE_CHECKING:
    from pathlib import Path

Array = npt.NDArray[Any]
Example = torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]
"""One input; several in the order of `forward`; or by the names of its parameters."""

OPSET: Final = 18
_SINGLE: Final = "output"


def named_inputs(model: nn.Module, example: Example) -> dict[str, torch.Tensor]:
    """Example inputs by the names of the parameters of `forward`.

    Raises:
        DataError: They are no tensors, or do not fit `forward`.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    if not isinstance(example, torch.Tensor | Mapping | tuple | list):
        raise DataError(
            f"The example is {type(example).__name__}, expected a torch.Tensor, several in a tuple, or a mapping of "
            "them. Convert it first, such as with torch.from_numpy."
        )
    if isinstance(example, Mapping):
        given = dict(example)
        unknown = [name for name in given if name not in names]
        if unknown:
            raise DataError(
                f"The example holds '{unknown[0]}', expected the parameters of {type(model).__name__}.forward: "
                f"{', '.join(names)}. Name one of these."
            )
    else:
        tensors = [example] if isinstance(example, torch.Tensor) else list(example)
        if len(tensors) > len(names) and not any(each.kind is each.VAR_POSITIONAL for each in parameters):
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
        raise DataError("The example is empty, expected the model's inputs: a tensor, several, or a mapping of them.")
    if len({len(tensor) for tensor in given.values()}) > 1:
        sizes = ", ".join(f"'{name}' {len(tensor)}" for name, tensor in given.items())
        raise DataError(f"The example inputs hold different batches: {sizes}. Give as many images of each.")
    return given


def named_outputs(found: object, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's outputs by name, without None.

    Args:
        found: A tensor, or a tuple, list, mapping, dataclass or named tuple of them.
        model: The model, for messages.

    Raises:
        ModelError: Something else is among it.
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
        named = {each.name: getattr(found, each.name) for each in dataclasses.fields(found)}
    else:
        raise ModelError(
            f"{type(model).__name__} returns {type(found).__name__}, expected a tensor, or a tuple, dict, dataclass or "
            "named tuple of tensors. Wrap it in a module that returns score and map."
        )
    named = {name: value for name, value in named.items() if value is not None}
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"{type(model).__name__} returns {type(value).__name__} as '{name}', expected tensors alone. Wrap it "
                "in a module that returns score and map."
            )
    if not named:
        raise ModelError(f"{type(model).__name__} returns nothing, expected a score, a map, or both.")
    return named


class _Flat(nn.Module):
    """Wraps a model so that it returns a tuple, which every exporter takes."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self._names = tuple(names)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model(**dict(zip(self._names, inputs, strict=True))) if self._by_name else self.model(*inputs)
        return tuple(named_outputs(found, self.model).values())

    @property
    def _by_name(self) -> bool:
        known = inspect.signature(self.model.forward).parameters
        return all(name in known and known[name].kind is not inspect.Parameter.POSITIONAL_ONLY for name in self._names)


@contextlib.contextmanager
def as_deployed(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its modules back into the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Device of a model's first weight."""
    weights = [*model.parameters(), *model.buffers()]
    return weights[0].device if weights else torch.device("cpu")


def run_model(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    """Run a model in evaluation mode. Returns arrays by name.

    Raises:
        DataError: The model does not take the inputs.
        ModelError: It returns something else than tensors.
    """
    device = device_of(model)
    flat = _Flat(model, list(inputs))
    with as_deployed(model):
        arguments = [tensor.to(device) for tensor in inputs.values()]
        try:
            found = model(**dict(zip(inputs, arguments, strict=True))) if flat._by_name else model(*arguments)
        except Exception as error:
            shapes = ", ".join(f"'{name}' {tuple(tensor.shape)}" for name, tensor in inputs.items())
            raise DataError(
                f"{type(model).__name__} does not take {shapes}: {_reason(error)}. Give other images."
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
        model: The model; it is left as it was.
        inputs: Example inputs by name.
        output_names: Names for its outputs, in their order.
        path: The file to write.
        opset: Opset of the file.
        dynamic_batch: Whether the batch stays open; otherwise it is that of the example.

    Raises:
        ModelError: torch cannot export it.
        ExtraError: onnxscript is not installed, which torch exports with.
    """
    check_extra("onnxscript", "torch", "exporting from torch")
    device = device_of(model)
    arguments = [tensor.to(device) for tensor in inputs.values()]
    shapes = None
    if dynamic_batch:
        batch = torch.export.Dim("batch")
        # A batch of one would be taken for a fixed size.
        arguments = [torch.cat([each, each]) if len(each) == 1 else each for each in arguments]
        shapes = (tuple({0: batch} for _ in arguments),)
    try:
        with as_deployed(model), warnings.catch_warnings():
            # About torch's own insides.
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
    except Exception as error:  # torch raises many kinds
        hint = " Where the model cannot take any batch, export it with dynamic_batch=False." if dynamic_batch else ""
        raise ModelError(f"torch cannot export {type(model).__name__}: {_reason(error)}.{hint}") from error


def _reason(error: BaseException) -> str:
    """First line of the error at the start of the chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def largest_difference(expected: Array, found: Array) -> float:
    """The largest difference as a part of the largest expected number; infinite where form or NaN differ."""
    if expected.shape != found.shape or not np.array_equal(np.isnan(expected), np.isnan(found)):
        return float("inf")
    with np.errstate(invalid="ignore"):
        difference = np.where(expected == found, 0.0, np.abs(expected.astype(np.float64) - found))
    scale = float(np.max(np.abs(expected), where=np.isfinite(expected), initial=0.0))
    most = float(np.nanmax(difference, initial=0.0))
    return most / scale if scale > 0 and np.isfinite(most) else most
