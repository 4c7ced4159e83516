from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import pp_graph as pp

# Runtimes compile a model an example, so time says nothing here; CI must not meet other examples than a desk.
settings.register_profile(
    "default", deadline=None, derandomize=bool(os.environ.get("CI")), suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "pp_graph" / "demo" / "data"
BRICK = Path(os.environ.get("PP_GRAPH_CASES", ROOT.parent / "shared" / "cases")) / "brick_padim16"


@pytest.fixture(scope="session")
def brick() -> Path:
    if not (BRICK / "raw.onnx").exists():
        pytest.skip(f"the case 'brick_padim16' is not beside the project ({BRICK.parent.name}/ is missing)")
    return BRICK


@pytest.fixture(scope="session")
def demo_post() -> pp.OneClassPostProcessor:
    return pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"))


@pytest.fixture(scope="session")
def demo_images() -> np.ndarray:
    from pp_graph.data import open_images
    from pp_graph.model import RawModel

    images = open_images(DEMO / "images")
    return images.read(0, len(images), RawModel.open(DEMO / "raw.onnx").inputs)["image"]


@pytest.fixture(scope="session")
def demo_fused_path(tmp_path_factory: pytest.TempPathFactory, demo_post: pp.OneClassPostProcessor) -> Path:
    return pp.fuse(DEMO / "raw.onnx", demo_post).save(tmp_path_factory.mktemp("fused") / "fused.onnx")


@pytest.fixture(scope="session")
def demo_ir_path(tmp_path_factory: pytest.TempPathFactory, demo_fused_path: Path) -> Path:
    return pp.convert(demo_fused_path).save(tmp_path_factory.mktemp("ir") / "model.xml")
