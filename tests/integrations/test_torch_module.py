"""Post-processors as torch modules: decisions, state dicts, exports."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; it is optional")

import pp_graph as pp  # noqa: E402
from pp_graph.errors import PostProcessorError, StatisticsError, TargetError  # noqa: E402
from pp_graph.integrations.torch import (  # noqa: E402
    InferenceBatch,
    OneClassPostProcessor,
    PostProcessor,
    PostProcessorModule,
)
from pp_graph.postprocessors import ROLES  # noqa: E402
from pp_graph.steps import Compare, MaxOverMap, Step  # noqa: E402
from tests.models import STATS, identity_model, run, score_and_map  # noqa: E402

F32 = np.float32


def raw_values(post: pp.OneClassPostProcessor, seed: int = 0, side: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,1) and maps (N,1,H,W) at, just below and just above every cutoff, with NaN and infinities."""
    rng = np.random.default_rng(seed)
    anomaly_map = rng.normal(0.9, 0.7, (4, 1, side, side)).astype(F32)
    special = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1e-45, 3e38], F32)
    signature = pp.Signature.of_shapes({"raw_score": (None, 1), "raw_map": (None, 1, side, side)}, ROLES)
    cuts = [F32(step.cutoffs) for step in post.bind(signature).comparisons.values() if step.cutoffs < np.inf]
    near = [np.nextafter(cut, F32(side)) for cut in cuts for side in (-np.inf, np.inf)]
    values = np.concatenate([special, np.array(cuts + near, F32)])
    anomaly_map[0].ravel()[: len(values)] = values
    scores = np.resize(np.concatenate([values, rng.normal(1.2, 0.6, 4).astype(F32)]), (len(values) + 4, 1))
    return scores, np.resize(anomaly_map, (len(scores), 1, side, side))


def fused_outputs(post: pp.OneClassPostProcessor, score: np.ndarray, anomaly_map: np.ndarray) -> dict[str, np.ndarray]:
    return run(pp.fuse(score_and_map(), post), {"level": score, "image": anomaly_map})


SETTINGS = {
    "default": {},
    "sensitive": {"image_sensitivity": 0.8, "pixel_sensitivity": 0.25},
    "everything": {"image_sensitivity": 1.0, "pixel_sensitivity": 0.0},
    "nan is normal": {"on_nan": "normal"},
    "raw": {"normalize": False},
    "bytes": {"mask_dtype": "u8_255"},
    "runtime": {"thresholds": "runtime"},
    "labels alone": {"outputs": ("pred_label", "pred_mask")},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_module_is_the_fused_graph(name: str) -> None:
    post = pp.OneClassPostProcessor(STATS, **SETTINGS[name])
    score, anomaly_map = raw_values(post)
    expected = fused_outputs(post, score, anomaly_map)
    found = PostProcessorModule(post)(torch.from_numpy(score), torch.from_numpy(anomaly_map))
    assert isinstance(found, InferenceBatch)
    assert {key for key, value in found._asdict().items() if value is not None} == set(expected)
    for key, value in expected.items():
        assert np.array_equal(getattr(found, key).numpy(), value, equal_nan=value.dtype.kind == "f"), key
        assert getattr(found, key).numpy().dtype == value.dtype


def test_packed_predictions_come_as_one_tensor() -> None:
    post = pp.OneClassPostProcessor(STATS, pack=True)
    score, anomaly_map = raw_values(post)
    expected = fused_outputs(post, score, anomaly_map)["predictions"]
    found = PostProcessorModule(post)(torch.from_numpy(score), torch.from_numpy(anomaly_map))
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize("shape", [(3, 5, 6), (3, 1, 5, 6), (3, 5, 6, 1)])
def test_forms_of_maps(shape: tuple[int, ...]) -> None:
    post = pp.OneClassPostProcessor(STATS, map_size=(9, 7))
    anomaly_map = np.random.default_rng(0).normal(1, 1, shape).astype(F32)
    expected = post({"anomaly_map": anomaly_map})
    found = PostProcessorModule(post)(anomaly_map=torch.from_numpy(anomaly_map))
    assert np.array_equal(found.pred_label.numpy(), expected.pred_label)
    assert found.pred_mask.shape == expected.pred_mask.shape
    np.testing.assert_allclose(found.anomaly_map.numpy(), expected.anomaly_map, atol=2e-6)


def test_ways_to_hand_over_predictions() -> None:
    module = OneClassPostProcessor(statistics=STATS).train()
    score, anomaly_map = (torch.from_numpy(each) for each in raw_values(module.post))
    expected = module(score, anomaly_map)
    given = InferenceBatch(pred_score=score, anomaly_map=anomaly_map)
    batch = types.SimpleNamespace(pred_score=score, anomaly_map=anomaly_map, pred_label=None, image=3)
    for way in (given, batch, {"pred_score": score, "anomaly_map": anomaly_map, "pred_mask": None}):
        for one, other in zip(module.eval()(way), expected, strict=True):
            assert torch.equal(one, other)
    for half in (torch.float16, torch.bfloat16):
        found = module(score.to(half), anomaly_map.to(half))
        wanted = module.post({"pred_score": score.to(half).float(), "anomaly_map": anomaly_map.to(half).float()})
        assert found.pred_score.dtype == torch.float32
        assert np.array_equal(found.pred_mask.numpy(), wanted.pred_mask)
    assert not module(score.requires_grad_(), anomaly_map).pred_score.requires_grad


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "neither 'pred_score' nor 'anomaly_map'"),
        ((InferenceBatch(),), "neither 'pred_score' nor 'anomaly_map'"),
        ((torch.zeros(2, 3),), r"'pred_score' has rank 2 and shape \(2, 3\)|\(\?, 3\)"),
        ((None, torch.zeros(2, 3, 4, 4)), "'anomaly_map' has rank 4"),
        ((torch.zeros(2), torch.zeros(3, 4, 4)), "'pred_score' holds 2 images and 'anomaly_map' 3"),
        ((torch.zeros(2, dtype=torch.bool),), "'pred_score' holds torch.bool"),
        (({"pred_score": np.zeros(2)},), "'pred_score' is ndarray, expected a torch.Tensor"),
        (({"score": torch.zeros(2)},), "Raw outputs hold 'score'"),
        (({"pred_score": torch.zeros(2)}, torch.zeros(2, 4, 4)), "pred_score is dict, expected a tensor"),
    ],
)
def test_what_does_not_fit(given: tuple, message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        OneClassPostProcessor(statistics=STATS)(*given)
    assert issubclass(PostProcessorError, ValueError)


@dataclasses.dataclass(frozen=True)
class Defects(pp.PostProcessor):
    """Reads `heat` and writes outputs with other names than an anomaly model's."""

    roles = (pp.Role("heat", ("NCHW",), {"C": 1}, required=True),)
    declared_outputs = (pp.Output("worst", ("NC",)), pp.Output("defects", ("NCHW",), "decision"))
    statistics: pp.Statistics | None = None
    limit: float = 0.5

    def steps(self, raw: pp.Signature) -> tuple[Step, ...]:
        del raw
        return MaxOverMap("heat", "worst"), Compare("heat", "defects", self.limit)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_outputs_of_other_names_come_as_a_dict() -> None:
    import onnx

    heat = np.random.default_rng(0).normal(0.5, 0.3, (3, 1, 5, 6)).astype(F32)
    heat[0, 0, 0, :3] = (0.5, np.nextafter(F32(0.5), F32(1)), np.nan)
    expected = run(pp.fuse(identity_model({"heat": ["N", 1, "H", "W"]}), Defects()), {"heat_in": heat})
    module, given = PostProcessorModule(Defects()), torch.from_numpy(heat)
    for found in (
        module(given),
        module(heat=given),
        module({"heat": given}),
        module(types.SimpleNamespace(heat=given)),
    ):
        assert type(found) is dict
        assert list(found) == list(expected) == ["worst", "defects"]
        for name, value in expected.items():
            assert np.array_equal(found[name].numpy(), value, equal_nan=value.dtype.kind == "f")
            assert found[name].numpy().dtype == value.dtype
    # A trace accepts maps of any size.
    traced = torch.jit.trace(module, (torch.zeros(1, 1, 4, 4),))
    for found, value in zip(traced(given), expected.values(), strict=True):
        assert np.array_equal(found.numpy(), value, equal_nan=value.dtype.kind == "f")
    model = onnx_of(module, (torch.zeros(2, 1, 5, 6),), ["heat"], list(expected))
    assert np.array_equal(run(onnx.load_from_string(model), {"heat": heat})["defects"], expected["defects"])


@pytest.mark.parametrize(
    ("given", "named", "message"),
    [
        ((), {}, "Raw outputs hold no 'heat', expected it"),
        ((), {"other": torch.zeros(2)}, "Raw outputs hold 'other', expected 'heat'"),
        ((torch.zeros(2, 1, 4, 4), torch.zeros(2)), {}, "Two tensors are given, expected one, 'heat'"),
        ((torch.zeros(2, 1, 4, 4),), {"heat": torch.zeros(2, 1, 4, 4)}, "'heat' is given by position and by name"),
        ((torch.zeros(2, 3, 4, 4),), {}, r"'heat' has rank 4 and shape .*, expected \(N,1,H,W\)"),
        ((torch.zeros(2, 1, 4, 4) > 0,), {}, "'heat' holds torch.bool, expected floating-point numbers"),
    ],
)
def test_what_does_not_fit_other_roles(given: tuple, named: dict, message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        PostProcessorModule(Defects())(*given, **named)


def test_what_no_step_reads_may_be_given() -> None:
    """A model returns a score and a map, and the post-processor reads only the map."""
    post = pp.RecipePostProcessor(None, [Compare("raw_map", "pred_mask", 0.5)])
    anomaly_map = torch.rand(2, 1, 4, 4)
    for given in (
        (None, anomaly_map),
        (torch.ones(2), anomaly_map),
        (InferenceBatch(torch.ones(2), None, anomaly_map),),
    ):
        found = PostProcessorModule(post)(*given)
        assert torch.equal(found.pred_mask, anomaly_map > 0.5)


def test_the_abstract_class_must_be_written_out() -> None:
    with pytest.raises(TypeError, match="abstract"):
        PostProcessor()

    class Doubled(PostProcessor):
        def forward(self, predictions: InferenceBatch) -> InferenceBatch:
            return predictions._replace(pred_score=predictions.pred_score * 2)

    assert Doubled()(InferenceBatch(torch.ones(2))).pred_score.tolist() == [2, 2]
    with pytest.raises(PostProcessorError, match="The post-processor is Doubled, expected a pp_graph.PostProcessor"):
        PostProcessorModule(Doubled())


NAMES = ["_image_threshold", "image_min", "image_max", "_pixel_threshold", "pixel_min", "pixel_max"]


def test_anomalibs_state_dict_loads_and_changes_decisions(brick: Path) -> None:
    checkpoint = torch.load(brick / "post_processor.ckpt", weights_only=True)
    state = {name.removeprefix("post_processor."): value for name, value in checkpoint["state_dict"].items()}
    assert sorted(state) == sorted(NAMES)
    module = OneClassPostProcessor(statistics=STATS)
    before = module.post
    module.load_state_dict(state, strict=True)
    module.load_checkpoint_config(checkpoint["anomalib_post_processor_config"])
    assert module.checkpoint_config() == checkpoint["anomalib_post_processor_config"]
    imported = pp.Statistics.load(brick / "post_processor.ckpt")
    assert (module.statistics.image, module.statistics.pixel) == (imported.image, imported.pixel)
    post = pp.OneClassPostProcessor(imported)
    score, anomaly_map = raw_values(post)
    expected = fused_outputs(post, score, anomaly_map)
    found = module(torch.from_numpy(score), torch.from_numpy(anomaly_map))
    assert np.array_equal(found.pred_mask.numpy(), expected["pred_mask"])
    assert not np.array_equal(found.pred_mask.numpy(), fused_outputs(before, score, anomaly_map)["pred_mask"])
    # Our state dict has the same keys, shapes and types.
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name])
        assert (value.shape, value.dtype) == (state[name].shape, state[name].dtype)


def test_decisions_of_the_brick_are_anomalibs(brick: Path) -> None:
    module = OneClassPostProcessor(statistics=pp.Statistics.load(brick / "stats.json"))
    reference = np.load(brick / "ref.npz")
    images = np.load(brick / "images.npz")["image"][:8].astype(F32) / 255
    raw = run(str(brick / "raw.onnx"), {"input": images})
    found = module({name: torch.from_numpy(raw[name]) for name in ("pred_score", "anomaly_map")})
    masks = np.unpackbits(reference["pred_mask"]).reshape(80, 1, 256, 256)[:8].astype(bool)
    assert np.array_equal(found.pred_label.numpy().ravel(), reference["pred_label"][:8].ravel())
    assert np.array_equal(found.pred_mask.numpy(), masks)


def test_anomalibs_own_post_processor_takes_the_state() -> None:
    post_processing = pytest.importorskip(
        "anomalib.post_processing", reason="Anomalib is not installed; it is optional"
    )
    theirs = post_processing.PostProcessor()
    theirs.load_state_dict(OneClassPostProcessor(statistics=STATS).state_dict(), strict=True)
    ours = OneClassPostProcessor()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert ours.statistics == STATS


WRITES = {
    "in place": lambda module: module._image_threshold.fill_(2.5),
    "copied": lambda module: module._image_threshold.copy_(torch.tensor(2.5)),
    "assigned": lambda module: setattr(module, "_image_threshold", torch.tensor(2.5)),
    "as statistics": lambda module: setattr(
        module,
        "statistics",
        pp.Statistics(image=pp.LevelStatistics(threshold=2.5, min=0.5, max=3.0), pixel=STATS.pixel),
    ),
    "state dict": lambda module: module.load_state_dict({**module.state_dict(), "_image_threshold": torch.tensor(2.5)}),
    "state dict, assigned": lambda module: module.load_state_dict(
        {**module.state_dict(), "_image_threshold": torch.tensor(2.5)}, assign=True
    ),
}


@pytest.mark.parametrize("way", WRITES)
@pytest.mark.parametrize("copied", [False, True])
def test_decisions_follow_the_buffers(way: str, copied: bool) -> None:
    module = OneClassPostProcessor(statistics=STATS)
    score = torch.tensor([1.5, 2.0, 2.4, 2.6])
    assert module(score).pred_label.tolist() == [True] * 4
    if copied:
        module = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    WRITES[way](module)
    assert module(score).pred_label.tolist() == [False, False, False, True]
    assert module.statistics.image.threshold == 2.5


def test_sensitivities_may_be_assigned() -> None:
    module = OneClassPostProcessor(image_sensitivity=0.5, statistics=STATS)
    assert module(torch.tensor([1.0])).pred_label.tolist() == [False]
    module.image_sensitivity = 0.9
    assert module(torch.tensor([1.0])).pred_label.tolist() == [True]
    assert module.checkpoint_config()["image_sensitivity"] == 0.9
    with pytest.raises(PostProcessorError, match="pixel_sensitivity is 2"):
        module.pixel_sensitivity = 2
    module.load_checkpoint_config({"enable_normalization": False, "image_sensitivity": 0.7})
    assert (module.post.normalize, module.image_sensitivity) == (False, 0.5)


def test_statistics_that_are_not_known_or_impossible() -> None:
    module = OneClassPostProcessor()
    assert all(torch.isnan(value) for value in module.state_dict().values())
    assert module.statistics is None
    assert torch.isnan(module.image_threshold)
    with pytest.raises(StatisticsError, match="has no statistics"):
        module(torch.zeros(2))
    module._pixel_threshold.fill_(3.0)
    assert module.image_threshold.item() == 3.0
    with pytest.raises(StatisticsError, match=r"lack 'image.min' and 'image.max'"):
        module(torch.zeros(2))
    module.image_min.fill_(float("inf"))
    with pytest.raises(StatisticsError, match="'min' is inf"):
        module(torch.zeros(2))


def test_numbers_that_float32_rounds_stay_as_they_were_given() -> None:
    @dataclasses.dataclass(frozen=True)
    class Exact(pp.OneClassPostProcessor):
        pass

    stats = pp.Statistics(image=pp.LevelStatistics(threshold=0.1, min=0.0, max=1.0), pixel=STATS.pixel)
    module = PostProcessorModule(Exact(stats))
    assert module.post.statistics.image.threshold == 0.1
    assert module.half()._image_threshold.dtype == torch.float32
    assert module.double().to("cpu").post.statistics.image.threshold == 0.1
    assert module.state_dict()["_image_threshold"].item() == F32(0.1)


def test_the_device_meta() -> None:
    module = OneClassPostProcessor(statistics=STATS)
    state = module.state_dict()
    moved = copy.deepcopy(module).to("meta").to_empty(device="cpu")
    moved.load_state_dict(state)
    assert moved.statistics == STATS


def test_autocast_changes_nothing() -> None:
    module = OneClassPostProcessor(statistics=STATS, map_size=(40, 40))
    score, anomaly_map = (torch.from_numpy(each) for each in raw_values(module.post))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(score, anomaly_map)
    for one, other in zip(found, module(score, anomaly_map), strict=True):
        assert torch.equal(torch.nan_to_num(one.float()), torch.nan_to_num(other.float()))


class Network(torch.nn.Module):
    """A model with its post-processor inside."""

    def __init__(self, post: pp.PostProcessor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(3, 1, 3, padding=1)
        self.post_processor = PostProcessorModule(post)

    def forward(self, image: torch.Tensor) -> InferenceBatch:
        return self.post_processor(anomaly_map=self.layer(image))


def onnx_of(module: torch.nn.Module, example: tuple, names: list[str], outputs: list[str]) -> bytes:
    shapes = tuple({0: torch.export.Dim("batch")} for _ in example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # internals of torch
        program = torch.onnx.export(
            module, example, dynamo=True, dynamic_shapes=shapes, input_names=names, output_names=outputs, verbose=False
        )
    file = io.BytesIO()
    program.save(file)
    return file.getvalue()


OUTPUTS = ["pred_score", "pred_label", "anomaly_map", "pred_mask"]


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("name", ["default", "nan is normal", "runtime"])
def test_export_by_dynamo(name: str) -> None:
    import onnx

    post = pp.OneClassPostProcessor(STATS, **SETTINGS[name])
    score, anomaly_map = raw_values(post)
    example = (torch.zeros(2, 1), torch.zeros(2, 1, 24, 24))
    model = onnx_of(PostProcessorModule(post), example, ["score", "map"], OUTPUTS)
    found = run(onnx.load_from_string(model), {"score": score, "map": anomaly_map})
    expected = fused_outputs(post, score, anomaly_map)
    assert list(found) == OUTPUTS
    for output in ("pred_label", "pred_mask"):
        assert np.array_equal(found[output], expected[output]), output
    for output in ("pred_score", "anomaly_map"):
        np.testing.assert_allclose(found[output], expected[output], atol=1e-6)


def test_export_of_a_model_that_holds_one() -> None:
    import onnx

    post = pp.OneClassPostProcessor(STATS, map_size=(20, 18))
    network = Network(post).eval()
    model = onnx_of(network, (torch.rand(2, 3, 12, 12),), ["image"], OUTPUTS)
    images = torch.randn(5, 3, 12, 12)
    found = run(onnx.load_from_string(model), {"image": images.numpy()})
    expected = network(images)
    assert found["pred_label"].tolist() == expected.pred_label.tolist()
    np.testing.assert_allclose(found["anomaly_map"], expected.anomaly_map.numpy(), atol=1e-5)
    assert found["pred_mask"].shape == (5, 1, 20, 18)


def test_export_before_the_first_call_and_after_a_write() -> None:
    import onnx

    module = OneClassPostProcessor(statistics=STATS)
    module.load_state_dict({**module.state_dict(), "_image_threshold": torch.tensor(2.5)})
    score = np.array([[2.4], [2.6]], F32)
    names = ["pred_score", "pred_label"]
    model = onnx_of(module, (torch.zeros(2, 1),), ["score"], names)
    assert run(onnx.load_from_string(model), {"score": score})["pred_label"].ravel().tolist() == [False, True]
    module._image_threshold.fill_(1.0)
    with pytest.raises(Exception, match="were written to since it last ran"):
        onnx_of(module, (torch.zeros(2, 1),), ["score"], names)
    module(torch.zeros(2, 1))
    model = onnx_of(module, (torch.zeros(2, 1),), ["score"], names)
    assert run(onnx.load_from_string(model), {"score": score})["pred_label"].ravel().tolist() == [True, True]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ["default", "nan is normal"])
def test_trace(name: str) -> None:
    post = pp.OneClassPostProcessor(STATS, **SETTINGS[name])
    score, anomaly_map = raw_values(post)
    traced = torch.jit.trace(PostProcessorModule(post), (torch.zeros(2, 1), torch.zeros(2, 1, 24, 24)))
    found = traced(torch.from_numpy(score), torch.from_numpy(anomaly_map))
    expected = fused_outputs(post, score, anomaly_map)
    for each, value in zip(found, expected.values(), strict=True):
        assert np.array_equal(each.numpy(), value, equal_nan=value.dtype.kind == "f")


@pytest.mark.sample(every=2)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["default", "nan is normal"])
def test_openvino_converts_the_module(name: str) -> None:
    import openvino as ov

    from pp_graph.openvino.core import openvino_core

    post = pp.OneClassPostProcessor(STATS, **SETTINGS[name])
    score, anomaly_map = raw_values(post)
    model = ov.convert_model(PostProcessorModule(post), example_input=(torch.zeros(2, 1), torch.zeros(2, 1, 24, 24)))
    found = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([score, anomaly_map])
    expected = fused_outputs(post, score, anomaly_map)
    for each, (output, value) in zip(found.values(), expected.items(), strict=True):
        if output in ("pred_label", "pred_mask"):
            assert np.array_equal(each, value), output
        else:
            np.testing.assert_allclose(each, value, atol=1e-6)


def test_a_loop_runs_in_torch_and_is_refused_when_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step with a loop runs; its export raises and names the export that works."""
    import onnx_ir as ir

    from pp_graph.steps import MaxOverMap

    def emit(self: MaxOverMap, op: object, value: ir.Value) -> ir.Value:
        del self
        body = ir.from_onnx_text(
            """<ir_version: 9, opset_import: ["": 18]> b (int64 i, bool go, float[N,1,H,W] m)
            => (bool more, float[N,1,H,W] out) { more = Identity(go) \n out = Add(m, m) }"""
        ).graph
        count = op._constant(np.array(3), "count")
        output = ir.Value(name=op._fresh("out"), type=ir.TensorType(ir.DataType.FLOAT))
        loop = ir.Node("", "Loop", [count, None, value], [ir.AttrGraph("body", body)], outputs=[output])
        loop.name = op._fresh("Loop")
        op._write(loop)
        return op.reduce("ReduceMax", output, (1, 2, 3), keepdims=False)

    monkeypatch.setattr(MaxOverMap, "emit", emit)
    module = PostProcessorModule(pp.OneClassPostProcessor(STATS, normalize=False))
    anomaly_map = torch.rand(2, 1, 4, 4)
    assert torch.equal(module(anomaly_map=anomaly_map).pred_score, anomaly_map.amax((1, 2, 3)) * 8)
    message = r"Step 'raw_score', operator Loop branches on the data, which torch cannot export.*export\(model, post"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated
        with pytest.raises(TargetError, match=message):
            torch.jit.trace(MapAlone(module), anomaly_map)
    with pytest.raises(Exception, match="branches on the data, which torch cannot export"):
        onnx_of(MapAlone(module), (anomaly_map,), ["map"], OUTPUTS)


class MapAlone(torch.nn.Module):
    def __init__(self, post_processor: PostProcessorModule) -> None:
        super().__init__()
        self.post_processor = post_processor

    def forward(self, anomaly_map: torch.Tensor) -> InferenceBatch:
        return self.post_processor(anomaly_map=anomaly_map)


def test_decisions_follow_writes_through_data() -> None:
    """As DistributedDataParallel does when it broadcasts buffers."""
    statistics = pp.Statistics(image=pp.LevelStatistics(threshold=1.25, min=0.0, max=4.0))
    module = OneClassPostProcessor(statistics=statistics)
    scores = torch.tensor([1.5, 2.4, 2.6])
    assert module(scores).pred_label.tolist() == [True, True, True]
    module._image_threshold.data.fill_(2.5)
    assert module(scores).pred_label.tolist() == [False, False, True]
    module._image_threshold.data.fill_(2.0)
    with pytest.raises(PostProcessorError, match="were written to since it last ran"):
        torch.export.export(module, (scores,))
    assert torch.compile(module, backend="eager")(scores).pred_label.tolist() == [False, True, True]


def test_trace_resizes_maps_of_any_size() -> None:
    statistics = pp.Statistics(
        image=pp.LevelStatistics(threshold=1.0, min=0.0, max=3.0),
        pixel=pp.LevelStatistics(threshold=1.0, min=0.0, max=3.0),
    )
    module = PostProcessorModule(pp.OneClassPostProcessor(statistics, map_size=(11, 40)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(module, (torch.rand(1, 1), torch.rand(1, 1, 24, 24)), check_trace=False)
    generator = torch.Generator().manual_seed(0)
    scores, maps = torch.rand(5, 1, generator=generator), torch.rand(5, 1, 30, 31, generator=generator) * 3
    for found, expected in zip(traced(scores, maps), module(scores, maps), strict=True):
        assert torch.equal(found, expected) if found.dtype == torch.bool else torch.allclose(found, expected, atol=1e-5)
