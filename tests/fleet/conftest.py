from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from tests.models import conv_model


def write_models(folder: Path, count: int) -> None:
    """Models of different weights, and labelled images whose anomalies are bright spots with masks."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 0.2, (8, 3, 16, 16)).astype(np.float32)
    masks = np.zeros((8, 16, 16), np.uint8)
    for index in range(4):
        images[index, :, 4:8, 4:8] += 0.8
        masks[index, 4:8, 4:8] = 1
    (folder / "models").mkdir(parents=True)
    np.savez(folder / "data.npz", image=images, label=np.arange(8) < 4, mask=masks)
    for index in range(count):
        onnx.save(conv_model(seed=index), folder / "models" / f"cam{index}.onnx")


@pytest.fixture
def fleet(tmp_path: Path) -> Callable[..., Path]:
    """Write models and the file of a fleet of them, with further fields."""

    def make(count: int = 2, **fields: object) -> Path:
        if not (tmp_path / "models").exists():
            write_models(tmp_path, count)
        content = {
            "output": "out",
            "defaults": {"data": "data.npz"},
            "models": [{"path": "models/*.onnx", "tags": {"camera": "{stem}"}}],
            **fields,
        }
        (tmp_path / "fleet.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "fleet.yaml"

    return make
