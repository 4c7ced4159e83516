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
"""Name of a value in the outputs or the batch, or its position in a batch that is a tuple or list."""

_OPTIONS: Final = {"pred_score": "score_key=", "anomaly_map": "map_key="}
"""The callback's option for the name of each raw value."""
_LABEL_NAMES: Final = ("label", "gt_label")
_MASK_NAMES: Final = ("mask", "gt_mask")
_MAX_LISTED: Final = 20
_NUMPY_FLOATS: Final = (torch.float16, torch.float32, torch.float64)


@dataclasses.dataclass(frozen=True)
class Keys:
    """Names of the values in a step's output. None means the usual names.

    Attributes:
        score: Name of the raw score in the outputs, if the post-processor reads one.
        map: Name of the raw map in the outputs, if the post-processor reads one.
        label: Name of the labels in the outputs or the batch, or their position in the batch.
        mask: The same for masks.
    """

    score: str | None = None
    map: str | None = None
    label: Key | None = None
    mask: Key | None = None

    def raw(self, outputs: object, roles: Sequence[Role], step: str) -> dict[str, Any]:
        """Return the raw values in a step's outputs, by the names a post-processor accepts.

        Args:
            outputs: Return value of the step.
            roles: Roles of the post-processor.
            step: Name of the step, for error messages.

        Returns:
            NumPy arrays for tensors; other values unchanged.

        Raises:
            DataError: There are no raw values, or one that the user named is missing.
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
                    f"{step} returned {_described(outputs)}, expected '{key}' among it. Return it there, or pass "
                    f"its name with {_OPTIONS[name]}."
                )
        if not found:
            options = " and ".join(_OPTIONS[name] for name in names if name in _OPTIONS)
            raise DataError(
                f"{step} returned {_described(outputs)}, expected {' or '.join(map(repr, names))} among it, the raw "
                "values of the model. Return a dict with at least one of them"
                f"{f', or pass their names with {options}' if options else ''}."
            )
        return found

    def truth(self, outputs: object, batch: object, step: str) -> tuple[Any, list[npt.NDArray[np.bool_] | None] | None]:
        """Return labels and masks from the outputs, otherwise from the batch; None if missing.

        Args:
            outputs: Return value of the step.
            batch: Batch that the step received.
            step: Name of the step, for error messages.

        Returns:
            Labels (N,), and for each image a mask (H,W) or None.

        Raises:
            DataError: A value that the user named is missing, or a mask has an invalid shape or value.
        """
        label = self._label_or_mask(self.label, _LABEL_NAMES, outputs, batch, step, "label_key")
        mask = self._label_or_mask(self.mask, _MASK_NAMES, outputs, batch, step, "mask_key")
        return None if label is None else to_numpy(label), None if mask is None else _masks(mask)

    @staticmethod
    def _label_or_mask(
        key: Key | None, usual_names: Sequence[str], outputs: object, batch: object, step: str, option: str
    ) -> Any:
        if isinstance(key, int):
            if isinstance(batch, Sequence) and -len(batch) <= key < len(batch):
                return batch[key]
            raise DataError(
                f"The batch is {_described(batch)}, expected a tuple or list with a value at position {key} "
                f"({option}={key}). Pass another position, or a name."
            )
        names = usual_names if key is None else (key,)
        value = value_of(outputs, names)
        if value is None:
            value = value_of(batch, names)
        if value is None and key is not None:
            raise DataError(
                f"{step} returned {_described(outputs)}, and the batch is {_described(batch)}, expected '{key}' in one "
                f"of them. Return it, or pass its name or its position in the batch with {option}=."
            )
        return value


def write_predictions(outputs: object, predictions: Predictions, step: str) -> None:
    """Add predictions to a step's outputs, as tensors on the same device.

    Args:
        outputs: Return value of the step: a mutable mapping or an object with assignable attributes.
        predictions: The predictions.
        step: Name of the step, for error messages.

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
                "with assignable attributes: a callback can only change the outputs in place. Return a dict (for a "
                "NamedTuple, outputs._asdict())."
            ) from error


def to_numpy(value: Any) -> Any:
    """Convert a tensor, or each tensor of a list, to NumPy without loss; return other values unchanged."""
    if isinstance(value, list | tuple):
        return [to_numpy(each) for each in value]
    if not isinstance(value, torch.Tensor):
        return value
    tensor = value.detach().cpu()
    if tensor.is_floating_point() and tensor.dtype not in _NUMPY_FLOATS:
        # NumPy has no bfloat16; float32 represents all of its values.
        tensor = tensor.float()
    return tensor.numpy()


def _masks(value: Any) -> list[npt.NDArray[np.bool_] | None]:
    value = to_numpy(value)
    if isinstance(value, np.ndarray):
        return list(mask_flags(without_channel(value, "Masks"), "Masks"))
    if not isinstance(value, Sequence):
        raise DataError(f"Masks are {_described(value)}, expected (N,H,W) or (N,1,H,W), or a list of one per image.")
    return [
        None if mask is None else mask_flags(mask, f"The mask of image {index} of the batch")
        for index, mask in enumerate(value)
    ]


def value_of(source: object, names: Sequence[str]) -> Any:
    """Return the first value that is not None."""
    for name in names:
        if isinstance(source, Mapping):
            value = source.get(name)
        else:
            # Attributes of a tensor, such as `names`, are not outputs.
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
    if source is None:
        return "None"
    if isinstance(source, torch.Tensor):
        return f"a tensor of shape {tuple(source.shape)}"
    kind = type(source).__name__
    names = _names(source)
    if names is not None:
        listed = ", ".join(repr(name) for name in names[:_MAX_LISTED]) or "nothing in it"
        return f"a {kind} with {listed}{' and more' if len(names) > _MAX_LISTED else ''}"
    return f"a {kind} of {len(source)}" if isinstance(source, tuple | list) else f"a {kind}"


def _device(outputs: object) -> torch.device:
    for name in _names(outputs) or []:
        value = value_of(outputs, (name,))
        if isinstance(value, torch.Tensor):
            return value.device
    return torch.device("cpu")
