"""What a post-processor returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pp_graph.steps import Array

_ANOMALY = ("pred_score", "pred_label", "anomaly_map", "pred_mask")


class Predictions(Mapping[str, Any]):
    """Post-processed outputs of a batch, by name: `predictions["pred_mask"]` or `predictions.pred_mask`.

    The outputs of anomaly models can always be asked for by attribute; they are None where the model or the settings do
    not give them:

    - `pred_score`: score an image, float32, (N,) or (N,1); in [0, 1] when normalised;
    - `pred_label`: whether each image is anomalous, bool, shape of `pred_score`;
    - `anomaly_map`: score a pixel, float32, (N,H,W), (N,1,H,W) or (N,H,W,1); in [0, 1] when normalised;
    - `pred_mask`: whether each pixel is anomalous, bool, shape of `anomaly_map`.

    Args:
        values: Arrays by name of the output; None for what there is not.
        named: Further ones.
    """

    def __init__(self, values: Mapping[str, Array | None] | None = None, **named: Array | None) -> None:
        given = {**(values or {}), **named}
        self._values: dict[str, Array] = {name: array for name, array in given.items() if array is not None}

    def __getitem__(self, name: str) -> Array:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__.get("_values", {})
        if name in values:
            return values[name]
        if name in _ANOMALY:
            return None
        raise AttributeError(f"Predictions have no '{name}', expected one of: {', '.join(values) or 'none'}.")

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}={array.dtype}{list(array.shape)}" for name, array in self._values.items())
        return f"Predictions({shapes})"
