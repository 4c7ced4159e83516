from __future__ import annotations

import copy
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

import pp_graph as pp

# Runtimes compile a model an example, so time says nothing here.
COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Whoever runs the tests meets the same examples. A sweep looks for others, and prints how to replay what it finds.
settings.register_profile("default", COMMON, derandomize=True, max_examples=40)
settings.register_profile("sweep", COMMON, derandomize=False, print_blob=True)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
settings.load_profile(PROFILE)
# Hypothesis also draws numbers that stand in modules of ours, as far as they are loaded: examples would follow which
# tests ran before in the same process.
providers.is_local_module_file = lambda path: False


def examples(count: int) -> settings:
    """Settings of a property test: so many examples, and three times as many in a sweep."""
    return settings(max_examples=3 * count if PROFILE == "sweep" else count)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Who debugs gets one process: with -s or --pdb, and for tests that are named one by one."""
    named = any("::" in argument for argument in config.args)
    return 0 if named or config.option.capture == "no" else None


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow all but every n-th parameter set of a test with `@pytest.mark.sample(every=n)`."""
    seen: Counter[str] = Counter()
    for item in items:
        sample = item.get_closest_marker("sample")
        if sample is not None:
            test = item.nodeid.split("[", 1)[0]
            if seen[test] % sample.kwargs["every"]:
                item.add_marker("slow")
            seen[test] += 1


ROOT = Path(__file__).parent.parent
DEMO = ROOT / "pp_graph" / "demo" / "data"
BRICK = Path(os.environ.get("PP_GRAPH_CASES", ROOT.parent / "shared" / "cases")) / "brick_padim16"


@pytest.fixture(autouse=True)
def same_numbers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test draws does not follow which tests ran before it in the same process."""
    if hasattr(request.module, "RNG"):
        monkeypatch.setattr(request.module, "RNG", copy.deepcopy(request.module.RNG))
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


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
