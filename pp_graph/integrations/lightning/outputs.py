"""Read scores, maps, labels and masks from a step's outputs and batch, and write predictions back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from pp_graph.data.labels import mask_flags, without_channel
from pp_graph.errors import DataError
from pp_graph.postprocessors.input_checks import given_as

if TYPE_CHECKING:
    import numpy.typing as npt

    from pp_graph.program import Predictions, Role

Key = str | int
"""Where a value is: its name in the outputs or in the batch, or its position in a batch that is a tuple or list."""

_OPTIONS: Final = {"pred_score": "score_key=", "anomaly_map": "map_key="}
"""How to say what raw values are called, by their usual name."""
_LABEL_NAMES: Final = ("label", "gt_label")
_MASK_NAMES: Final = ("mask", "gt_mask")
_MOST_LISTED: Final = 20
_NUMPY_FLOATS: Final = (torch.float16, torch.float32, torch.float64)


@dataclasses.dataclass(frozen=True)
class Keys:
    """Names of the values in a step's output. None means the usual names.

    Attributes:
        score: Name of the raw score in the outputs, where the post-processor reads one.
        map: Name of the raw map in the outputs, where the post-processor reads one.
        label: Name of the labels in the outputs or the batch, or position in the batch.
        mask: The same for masks.
    """

    score: str | None = None
    map: str | None = None
    label: Key | None = None
    mask: Key | None = None

    def raw(self, outputs: object, roles: Sequence[Role], step: str) -> dict[str, Any]:
        """Raw values in a step's outputs, by the names a post-processor takes.

        Args:
            outputs: What the step returned.
            roles: What the post-processor reads.
            step: Name of the step, for errors.

        Returns:
            NumPy arrays, or whatever else was not a tensor.

        Raises:
            DataError: There are none, or one that was asked for by its name is not there.
        """
        keys = {"pred_score": self.score, "anomaly_map": self.map}
        names = [given_as(role) for role in roles]
        found = {}
        for name in names:
            key = keys.get(name)
            value = value_of(outputs, (name if key is None else key,))
            if value is not None:
                found[name] = to_numpy(value)
            elif key is not None:
                raise DataError(
                    f"{step} returned {_described(outputs)}, expected '{key}' among it. Return it there, or name what "
                    f"holds it with {_OPTIONS[name]}."
                )
        if not found:
            options = " and ".join(_OPTIONS[name] for name in names if name in _OPTIONS)
            raise DataError(
                f"{step} returned {_described(outputs)}, expected {' or '.join(map(repr, names))} among it, the raw "
                "values of the model. Return a dict with at least one of them"
                f"{f', or say how they are called with {options}' if options else ''}."
            )
        return found

    def truth(self, outputs: object, batch: object, step: str) -> tuple[Any, list[npt.NDArray[np.bool_] | None] | None]:
        """Labels and masks from the outputs, otherwise from the batch; None if missing.

        Args:
            outputs: What the step returned.
            batch: What the step was given.
            step: Name of the step, for errors.

        Returns:
            Labels (N,), and a mask (H,W) an image, None where an image has none.

        Raises:
            DataError: What was asked for by its key is not there, or a mask holds something else.
        """
        label = self._true(self.label, _LABEL_NAMES, outputs, batch, step, "label_key")
        mask = self._true(self.mask, _MASK_NAMES, outputs, batch, step, "mask_key")
        return None if label is None else to_numpy(label), None if mask is None else _masks(mask)

    @staticmethod
    def _true(key: Key | None, usual: Sequence[str], outputs: object, batch: object, step: str, option: str) -> Any:
        if isinstance(key, int):
            if isinstance(batch, Sequence) and -len(batch) <= key < len(batch):
                return batch[key]
            raise DataError(
                f"The batch is {_described(batch)}, expected a tuple or list with something at position {key} "
                f"({option}={key}). Give the position that holds it, or a name."
            )
        names = usual if key is None else (key,)
        value = value_of(outputs, names)
        if value is None:
            value = value_of(batch, names)
        if value is None and key is not None:
            raise DataError(
                f"{step} returned {_described(outputs)}, and the batch is {_described(batch)}, expected '{key}' in one "
                f"of them. Return it, or say where it is with {option}=, a name or a position in the batch."
            )
        return value


def write_predictions(outputs: object, predictions: Predictions, step: str) -> None:
    """Add predictions to a step's outputs, as tensors on their device.

    Args:
        outputs: What the step returned: a mapping or an object that can be changed.
        predictions: The predictions.
        step: Name of the step, for errors.

    Raises:
        DataError: The outputs cannot be changed.
    """
    device = _device(outputs)
    for name, array in predictions.items():
        value = torch.from_numpy(np.array(array)).to(device)
        try:
            if isinstance(outputs, MutableMapping):
                outputs[name] = value
            else:
                setattr(outputs, name, value)
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(
                f"{step} returned {_described(outputs)}, in which '{name}' cannot be set, expected a dict or an object "
                "whose fields can be: Lightning gives a callback no way to hand back another one. Return a "
                "dict (of a NamedTuple, outputs._asdict())."
            ) from error


def to_numpy(value: Any) -> Any:
    """Convert a tensor, or each of a list, to NumPy without loss; return anything else unchanged."""
    if isinstance(value, list | tuple):
        return [to_numpy(each) for each in value]
    if not isinstance(value, torch.Tensor):
        return value
    tensor = value.detach().cpu()
    if tensor.is_floating_point() and tensor.dtype not in _NUMPY_FLOATS:
        # NumPy has no bfloat16; float32 holds all of its numbers.
        tensor = tensor.float()
    return tensor.numpy()


def _masks(value: Any) -> list[npt.NDArray[np.bool_] | None]:
    value = to_numpy(value)
    if isinstance(value, np.ndarray):
        return list(mask_flags(without_channel(value, "Masks"), "Masks"))
    if not isinstance(value, Sequence):
        raise DataError(f"Masks are {_described(value)}, expected (N,H,W) or (N,1,H,W), or a list with one an image.")
    return [
        None if mask is None else mask_flags(mask, f"The mask of image {index} of the batch")
        for index, mask in enumerate(value)
    ]


def value_of(source: object, names: Sequence[str]) -> Any:
    """The first of some names that is there and is not None."""
    for name in names:
        if isinstance(source, Mapping):
            value = source.get(name)
        else:
            # A tensor has attributes of its own, which are no values of ours.
            value = None if isinstance(source, torch.Tensor) else getattr(source, name, None)
        if value is not None:
            return value
    return None


def _names(source: object) -> list[str] | None:
    if isinstance(source, Mapping):
        return [str(name) for name in source]
    fields = getattr(source, "_fields", None)
    if isinstance(fields, tuple):
        return [str(name) for name in fields]
    if dataclasses.is_dataclass(source):
        return [field.name for field in dataclasses.fields(source)]
    if isinstance(source, torch.Tensor) or not hasattr(source, "__dict__"):
        return None
    return [name for name in vars(source) if not name.startswith("_")]


def _described(source: object) -> str:
    """Describe an object for error messages."""
    if source is None:
        return "None"
    if isinstance(source, torch.Tensor):
        return f"a tensor of shape {tuple(source.shape)}"
    kind = type(source).__name__
    names = _names(source)
    if names is not None:
        held = ", ".join(repr(name) for name in names[:_MOST_LISTED]) or "nothing in it"
        return f"a {kind} with {held}{' and more' if len(names) > _MOST_LISTED else ''}"
    return f"a {kind} of {len(source)}" if isinstance(source, tuple | list) else f"a {kind}"


def _device(outputs: object) -> torch.device:
    names = _names(outputs) or []
    for name in names:
        value = value_of(outputs, (name,))
        if isinstance(value, torch.Tensor):
            return value.device
    return torch.device("cpu")
