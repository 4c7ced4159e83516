"""Values of outputs are the same, whoever ran the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributed import Client

import pp_graph as pp
from tests.conftest import DEMO


def test_values_of_outputs(photos: Path, two_workers: Client) -> None:
    one, other = (pp.inspect(DEMO / "raw.onnx", data=photos, client=client) for client in (None, two_workers))
    assert one.values
    assert one.to_dict() == other.to_dict()


@pytest.mark.slow
def test_unlabelled_arrays_of_an_odd_number(
    demo_images: np.ndarray, demo_fused_path: Path, two_workers: Client
) -> None:
    arrays = {"image": np.concatenate([demo_images, demo_images[:5]])}
    one, other = (pp.inspect(demo_fused_path, data=arrays, client=client) for client in (None, two_workers))
    assert one.values
    assert one.to_dict() == other.to_dict()
