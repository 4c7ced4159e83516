"""Inputs and outputs of a post-processor in torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from pp_graph.errors import PostProcessorError
from pp_graph.integrations.torch.interpreter import is_jit_traced, is_traced, known_sizes
from pp_graph.postprocessors import ROLES
from pp_graph.postprocessors.input_checks import check_same_batch, check_shape, given_as, given_values
from pp_graph.program import Signature

if TYPE_CHECKING:
    from pp_graph.program import Role

_ANOMALY: Final = tuple(given_as(role) for role in ROLES)
"""Names under which anomaly models return score and map, in the order of `PostProcessorModule.forward`."""
_ACCEPTED_KINDS: Final = {"float32": "fiu", "bool": "b", "uint8": "u", "int32": "iu", "int64": "iu"}
"""NumPy kinds of the tensors accepted for each element type of a role."""


class InferenceBatch(NamedTuple):
    """Predictions of a batch, with the fields of Anomalib 2.x's `InferenceBatch` in the same order.

    Attributes:
        pred_score: Score of each image, float32, (N,) or (N,1); in [0, 1] if normalised.
        pred_label: True for anomalous images, bool, shape of `pred_score`.
        anomaly_map: Score of each pixel, float32, shape of the raw map; in [0, 1] if normalised.
        pred_mask: Nonzero for anomalous pixels, shape of `anomaly_map`.
    """

    pred_score: torch.Tensor | None = None
    pred_label: torch.Tensor | None = None
    anomaly_map: torch.Tensor | None = None
    pred_mask: torch.Tensor | None = None


FIELDS: Final = InferenceBatch._fields
"""Fields of predictions, in order."""


class Predictions:
    """Predictions that can be changed in place, with the fields of `InferenceBatch`."""

    _fields = FIELDS

    def __init__(self, **values: torch.Tensor | None) -> None:
        for name in FIELDS:
            setattr(self, name, values.get(name))

    def _asdict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in FIELDS}

    def _replace(self, **changes: torch.Tensor | None) -> Predictions:
        return Predictions(**{**self._asdict(), **changes})

    def __iter__(self) -> Iterator[Any]:
        return iter(self._asdict().values())


class TracedPredictions(dict[str, torch.Tensor]):
    """Predictions in a trace: a dict to the tracer, which takes the names from it, and an `InferenceBatch` to code."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values())

    def __getattr__(self, name: str) -> Any:
        """Return a prediction, None if there is none."""
        if name in FIELDS:
            return self.get(name)
        raise AttributeError(f"predictions have no field '{name}', expected one of: {', '.join(FIELDS)}")


def fields_of(predictions: object) -> dict[str, Any]:
    """Return the fields of predictions, given as an object or a mapping; empty for anything else."""
    if isinstance(predictions, Mapping):
        return {name: predictions.get(name) for name in FIELDS}
    if isinstance(predictions, torch.Tensor):
        return {}
    return {name: getattr(predictions, name, None) for name in FIELDS}


def other_fields(predictions: object) -> list[str]:
    """Return the names of tensors in predictions that are not fields of `InferenceBatch`."""
    if isinstance(predictions, Mapping):
        held: Mapping[str, Any] = predictions
    else:
        fields = getattr(predictions, "_fields", ())
        held = {**{name: getattr(predictions, name) for name in fields}, **getattr(predictions, "__dict__", {})}
    return [str(name) for name, value in held.items() if name not in FIELDS and isinstance(value, torch.Tensor)]


def raw_tensors(
    first: object, second: torch.Tensor | None, named: Mapping[str, torch.Tensor | None], roles: Sequence[Role]
) -> dict[str, torch.Tensor]:
    """Return the raw outputs of a batch by role, without gradients and in the element type of the role.

    Args:
        first: The scores, or the value of the first role; or all values as a mapping or an object with attributes.
        second: The map, or the value of the second role.
        named: Other values, by name.
        roles: Roles of the post-processor.

    Raises:
        PostProcessorError: All values are missing, or one has a different shape or element type.
    """
    given = given_values(_by_name(first, second, named, [given_as(role) for role in roles]), roles)
    values = {role.name: _typed(given[given_as(role)], role) for role in roles if given.get(given_as(role)) is not None}
    for role in roles:
        if role.name in values:
            check_shape(known_sizes(values[role.name]), role)
    if not is_traced():
        check_same_batch({name: len(value) for name, value in values.items()}, roles)
    return values


def signature_of_tensors(
    values: Mapping[str, torch.Tensor], roles: Sequence[Role], input_size: tuple[int, int] | None
) -> Signature:
    """Return the signature of raw values by role. Sizes that an export leaves open are unknown."""
    shapes = {name: known_sizes(value) for name, value in values.items()}
    signature = Signature.of_shapes(shapes, roles, input_size=input_size)
    if not is_jit_traced():
        return signature
    # A trace accepts values of any size and checks none.
    open_types = {name: value.resized(H=None, W=None, K=None, T=None) for name, value in signature.items()}
    return Signature(open_types, input_size)


def _by_name(
    first: object, second: torch.Tensor | None, named: Mapping[str, torch.Tensor | None], names: Sequence[str]
) -> object:
    """Return the values by name, without unknown names whose value is None. Other unknown names raise later."""
    # The map is the second argument even if the post-processor reads no score.
    places = _ANOMALY if set(names) & set(_ANOMALY) else names
    if first is not None and not isinstance(first, torch.Tensor):
        if second is not None or named:
            other = next(iter(named), places[-1])
            raise PostProcessorError(
                f"{places[0]} is {type(first).__name__}, expected a tensor next to {other}. Pass both as tensors, or "
                "one object that holds both."
            )
        given: Any = first
    else:
        if second is not None and len(places) < 2:
            raise PostProcessorError(f"Two tensors are given, expected one, '{places[0]}'. Omit the second.")
        given = dict(zip(places, (first, second), strict=False))
        repeated = next((name for name in named if given.get(name) is not None), None)
        if repeated is not None:
            raise PostProcessorError(f"'{repeated}' is given by position and by name, expected it once. Omit one.")
        given |= named
    if not isinstance(given, Mapping):
        return given
    return {name: value for name, value in given.items() if name in names or value is not None}


def _typed(value: object, role: Role) -> torch.Tensor:
    name = given_as(role)
    if not isinstance(value, torch.Tensor):
        raise PostProcessorError(f"'{name}' is {type(value).__name__}, expected a torch.Tensor. Convert it first.")
    if _kind(value.dtype) not in _ACCEPTED_KINDS[role.dtype]:
        expected = "floating-point numbers" if role.dtype == "float32" else role.dtype
        raise PostProcessorError(
            f"'{name}' holds {value.dtype}, expected {expected}. Pass the raw output of the model."
        )
    dtype: Any = getattr(torch, role.dtype)
    return value.detach().to(dtype)


def _kind(dtype: torch.dtype) -> str:
    """Return the NumPy kind of an element type."""
    if dtype == torch.bool or dtype.is_complex:
        return "b" if dtype == torch.bool else "c"
    return "f" if dtype.is_floating_point else "i" if dtype.is_signed else "u"
