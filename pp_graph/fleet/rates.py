"""F1 and average precision of an artifact, on its device and in its precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pp_graph.calibration import BoxTruth
from pp_graph.data import choose_batch_size, feed_model, read_ahead
from pp_graph.errors import DataError
from pp_graph.model import fixed_batch
from pp_graph.quantization.truth import Truth, open_truth
from pp_graph.raw_values import open_raw_values

if TYPE_CHECKING:
    from pp_graph.fleet.settings import FleetModel
    from pp_graph.fusion import Artifact, Provenance


def truth_of(model: FleetModel, provenance: Provenance) -> Truth | None:
    """Open what is known about the images of a model; None if nothing is."""
    if model.boxes is not None:
        return BoxTruth.open(model.boxes, model.data, provenance)
    try:
        return open_truth(model.data, provenance)
    except DataError:  # no labels, or of another family
        return None


def measure_rates(model: FleetModel, artifact: Artifact, device: str, precision: str | None) -> dict[str, float]:
    """Run an artifact, and return rates of right decisions by name; empty without ground truth.

    Args:
        model: The model, with its images.
        artifact: The artifact.
        device: Device to run on.
        precision: Inference precision.
    """
    truth = truth_of(model, artifact.provenance)
    if truth is None:
        return {}
    values = open_raw_values(artifact, device=device, inference_precision=precision)
    truth = truth.fitted(values.inputs, artifact.provenance)
    judged: list[Any] = []
    size = choose_batch_size(values.inputs, fixed_batch(values.inputs))
    for start, stop, feeds in read_ahead(feed_model(truth.images, values.inputs, None), values.inputs, size):
        judged += truth.judge(artifact.program, values.run(feeds), range(start, stop))
    return {**truth.rates(judged), **truth.f1(judged)}
