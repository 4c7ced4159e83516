"""Benchmarks: what they measure, what they refuse, and how two of them compare."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.benchmarking import compare_reports, load_report
from pp_graph.benchmarking.contenders import has_torch, host_post_processing
from pp_graph.benchmarking.measuring import ratio_of_medians
from pp_graph.benchmarking.operator_groups import group_times
from pp_graph.cli import run as run_cli
from pp_graph.errors import DataError
from pp_graph.openvino.timed_session import OperatorTime, TimedSession
from tests.conftest import DEMO
from tests.models import conv_model

RAW = DEMO / "raw.onnx"


@pytest.fixture(scope="module")
def report(demo_ir_path: Path, demo_fused_path: Path) -> pp.BenchmarkReport:
    return pp.benchmark(
        RAW,
        [demo_ir_path, demo_fused_path],
        devices=["CPU", "GPU", "NPU"],
        inference_precisions=["f32", "default"],
        against=["host-numpy", RAW],
        seconds=0.2,
    )


def test_everything_is_measured(report: pp.BenchmarkReport, demo_ir_path: Path, demo_fused_path: Path) -> None:
    names = ["raw", "raw + host-numpy", str(RAW), str(demo_ir_path), str(demo_fused_path)]
    assert [(each.asked_precision, each.name) for each in report.results] == [
        (precision, name) for precision in ("f32", "default") for name in names
    ]
    assert {*report.absent_devices} | {each.device for each in report.results} == {"CPU", "GPU", "NPU"}
    for each in report.results:
        assert 0 < each.median_ms <= each.p90_ms <= each.p99_ms
        assert each.ratio_low <= each.ratio <= each.ratio_high
        assert each.throughput > 0
        assert each.in_flight >= 2
        assert each.runs >= 5
    raw, host, again, ours, fused = report.results[:5]
    assert raw.ratio == raw.ratio_low == raw.ratio_high == 1
    assert raw.precision == ours.precision == "f32"
    # Score and map of float32; ours returns a label and a mask of bytes besides.
    pixels = 256 * 256
    assert raw.bytes_in == 3 * pixels * 4
    assert raw.bytes_out == 4 + pixels * 4
    assert ours.bytes_out == 4 + 1 + pixels * 5
    assert raw.peak_mib is not None
    assert raw.peak_mib > 20
    assert host.peak_mib is None
    assert fused.peak_mib is None
    assert set(ours.groups_us) == {"network", "tail", "post-processing"}
    assert ours.groups_us["network"] > 0
    assert ours.groups_us["tail"] > 0
    assert ours.groups_us["post-processing"] > 0
    assert raw.groups_us["post-processing"] == 0
    assert again.groups_us.keys() == raw.groups_us.keys()
    assert report.machine["cores"]
    assert "openvino" in report.versions


def test_reports_survive_json(report: pp.BenchmarkReport, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(report.to_json())
    assert load_report(tmp_path / "a.json") == report
    (tmp_path / "a.json").write_text('{"machine": 3}')
    with pytest.raises(pp.PPGraphError, match="is not a benchmark report"):
        load_report(tmp_path / "a.json")
    with pytest.raises(pp.PPGraphError, match=r"Report '.*nowhere\.json' cannot be read"):
        load_report(tmp_path / "nowhere.json")


def test_comparison_tells_what_changed(report: pp.BenchmarkReport) -> None:
    def scaled(each, factor):
        return msgspec.structs.replace(
            each, ratio=each.ratio * factor, ratio_low=each.ratio_low * factor, ratio_high=each.ratio_high * factor
        )

    first, second, *rest = report.results
    changed = msgspec.structs.replace(
        report,
        machine={**report.machine, "cores": "64"},
        results=[scaled(first, 0.01), scaled(second, 100), *rest[:-1]],
    )
    changes, differences = compare_reports(report, changed)
    assert [each.verdict for each in changes] == ["faster", "slower", *["same"] * (len(rest) - 1), "only in one"]
    assert differences == [f"machine, cores: {report.machine['cores']} → 64"]


def test_ratio_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    disturbance = 1 + rng.exponential(0.2, 400)
    reference = 10 * disturbance * rng.normal(1, 0.02, 400)
    times = 3 * disturbance * rng.normal(1, 0.02, 400)
    ratio, low, high = ratio_of_medians(times, reference)
    assert low < 0.3 < high
    assert ratio == pytest.approx(0.3, rel=0.03)
    assert high - low < 0.03  # a round slows down both, so the interval is narrow


@pytest.mark.parametrize("kind", ["host-numpy", "host-torch"])
def test_the_host_computes_what_the_graph_does(kind: str, demo_fused_path: Path, demo_images: np.ndarray) -> None:
    if kind == "host-torch" and not has_torch():
        pytest.skip("torch is not installed; it is optional")
    from tests.models import run

    raw = run(str(RAW), {"image": demo_images})
    after = host_post_processing(kind, pp.FusedModel.load(demo_fused_path))(raw)
    fused = run(str(demo_fused_path), {"image": demo_images})
    for name in ("pred_score", "anomaly_map", "pred_label", "pred_mask"):
        found = getattr(after, name) if kind == "host-numpy" else after[name].numpy()
        np.testing.assert_allclose(found.astype(float), fused[name].astype(float), atol=1e-4)


def test_operators_are_put_into_groups(demo_fused_path: Path) -> None:
    provenance = pp.FusedModel.load(demo_fused_path).provenance
    names = [
        "conv",
        "pp_graph/tail/MatMul",
        "pp_graph/network/Gather,conv2",
        "pred_mask.0",
        "pp_graph/pred_score/Add",
        "resize",
    ]
    times = [OperatorTime(name, "", "jit", 10.0**index) for index, name in enumerate(names)]
    parts = {"resize": "tail", "conv": "network", "conv2": "network"}
    groups, slowest = group_times(times, parts, provenance)
    assert groups == {"network": 101.0, "tail": 100010.0, "post-processing": 11000.0}
    assert slowest[0] == ("resize", "jit", 100000.0)


BAD = [
    ({"inference_precisions": ["int4"]}, "Inference precision 'int4' is not known"),
    ({"batch": 0}, "Batch is 0"),
    ({"inference_precisions": []}, "No inference precision is given"),
    ({"devices": []}, "No device is given"),
    ({"input_shape": {"foo": [1, 3, 256, 256]}}, "Input 'foo' does not exist"),
    ({"batch": 2, "input_shape": [4, 3, 256, 256]}, "Batch is 2, but input 'image' is \\(4, 3, 256, 256\\)"),
    ({"hint": "power"}, "Hint 'power' is not known"),
    ({"seconds": float("nan")}, "Seconds are nan"),
    ({"devices": ["GPU.7"]}, "None of the devices GPU.7 is on this machine"),
    ({"devices": ["TPU"]}, "Device 'TPU' is not known"),
    ({"against": ["nowhere.onnx"]}, "Model 'nowhere.onnx' does not exist"),
    ({"against": ["host-numpy", "host-numpy"]}, "'raw \\+ host-numpy' is given twice"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_bad_settings(settings: dict, message: str, demo_ir_path: Path) -> None:
    with pytest.raises(pp.PPGraphError, match=message):
        pp.benchmark(RAW, [demo_ir_path], **{"against": [], "seconds": 0.1, "memory": False, **settings})


def test_models_with_other_inputs_are_refused(demo_ir_path: Path, tmp_path: Path) -> None:
    import onnx

    from tests.models import conv_model

    onnx.save(conv_model(), tmp_path / "other.onnx")
    model = onnx.load(tmp_path / "other.onnx")
    model.graph.input[0].name = model.graph.node[0].input[0] = "picture"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(pp.PPGraphError, match="it has no such input 'picture'"):
        pp.benchmark(RAW, [demo_ir_path], against=[tmp_path / "other.onnx"], seconds=0.1, memory=False)


def test_command_line(demo_ir_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.json"
    command = ["benchmark", str(RAW), str(demo_ir_path), "--seconds", "0.2", "--against", "host-numpy", "--no-memory",
               "--inference-precision", "f32", "--device", "CPU,GPU"]  # fmt: skip
    assert run_cli([*command, "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "ratio to raw (95 %)" in text
    assert "post-processing" in text
    if not any(name.startswith("GPU") for name in __import__("openvino").Core().available_devices):
        assert "GPU: not on this machine, not measured" in text
    assert len(load_report(out).results) == 3
    assert run_cli([*command, "--json", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert run_cli([*command, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["name"] == "raw"
    assert run_cli(["benchmark", "--compare", str(out), str(out)]) == 0
    assert "same" in capsys.readouterr().out
    assert run_cli(["benchmark", "--compare", str(out), str(out), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["changes"][0]["verdict"] == "same"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["benchmark"], "Give the raw model and at least one artifact"),
        (["benchmark", "raw.onnx"], "Give the raw model and at least one artifact"),
        (["benchmark", "raw.onnx", "a.xml", "--json", "raw.onnx"], "expected a name ending in .json"),
        (["benchmark", "raw.onnx", "a.xml", "--json", "nowhere/a.json"], "does not exist"),
        (["benchmark", "raw.onnx", "a.xml"], "a.xml"),
        (["benchmark", "--json", "raw.onnx", "a.xml"], "Give the raw model and at least one artifact"),
        (["benchmark", "--compare", "a.json", "b.json"], "cannot be read"),
        (["benchmark", "raw.onnx", "--compare", "a.json", "b.json"], "takes two reports and no models"),
    ],
)
def test_bad_command_lines(arguments, message, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "raw.onnx").write_bytes(RAW.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert run_cli(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_a_layer_that_took_in_its_activation_is_a_layer() -> None:
    parts = {"sigmoid": "tail", "conv": "network"}
    groups, _ = group_times([OperatorTime("conv/WithoutBiases,sigmoid", "", "jit", 5.0)], parts, None)
    assert groups["network"] == 5
    assert group_times([OperatorTime("conv", "", "jit", 5.0)], None, None)[0] == {}


@pytest.mark.slow
def test_what_a_model_fixes_is_its_batch(tmp_path: Path, demo_post: pp.OneClassPostProcessor) -> None:
    """Throughput and bytes are those of an image, whatever the batch and whoever fixes it."""
    import onnx

    model = onnx.load(RAW)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].Clear()
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "raw.onnx")
    ours = pp.convert(pp.fuse(tmp_path / "raw.onnx", demo_post)).save(tmp_path / "ours.xml")
    report = pp.benchmark(tmp_path / "raw.onnx", [ours], against=[], seconds=0.3, memory=False)
    assert report.settings["batch"] == "2"
    assert report.results[0].bytes_in == 3 * 256 * 256 * 4
    with pytest.raises(pp.PPGraphError, match="Batch is 4, but input"):
        pp.benchmark(tmp_path / "raw.onnx", [ours], against=[], batch=4, seconds=0.1, memory=False)


def test_models_that_do_not_belong_together_are_named(
    demo_ir_path: Path, demo_fused_path: Path, tmp_path: Path
) -> None:
    import onnx

    model = onnx.load(RAW)
    model.doc_string = "another file"
    onnx.save(model, tmp_path / "other.onnx")
    report = pp.benchmark(tmp_path / "other.onnx", [demo_ir_path], against=[demo_fused_path], seconds=0.2, memory=False)
    assert any("was not made from this raw model" in note for note in report.notes)
    assert any("Fewer than 30 runs" in note for note in report.notes)
    with pytest.raises(pp.PPGraphError, match="is fused already, expected the raw model"):
        pp.benchmark(demo_fused_path, [demo_ir_path], seconds=0.1)


def test_a_failing_callback_ends_the_run(demo_ir_path: Path) -> None:
    from pp_graph.benchmarking.contenders import read_openvino, set_input_shapes

    model = read_openvino(demo_ir_path)
    set_input_shapes(model, {"image": [1, 3, 256, 256]})
    timed = TimedSession(model, {"image": np.zeros((1, 3, 256, 256), np.float32)})

    def fail(_: object) -> None:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        timed.run_in_flight(0.2, fail)


def test_files_in_the_current_folder_are_not_imported(
    demo_ir_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    report = pp.benchmark(RAW, [demo_ir_path], against=[], inference_precisions=["f32"], seconds=0.1)
    assert all(each.peak_mib for each in report.results)


@pytest.mark.slow
def test_artifacts_in_memory(tmp_path: Path) -> None:
    raw = tmp_path / "raw.onnx"
    onnx.save(conv_model(), raw)
    level = pp.LevelStatistics(threshold=1.0, min=0.0, max=2.0)
    fused = pp.fuse(raw, pp.OneClassPostProcessor(pp.Statistics(image=level, pixel=level)))
    quick = {
        "seconds": 0.05,
        "memory": False,
        "against": [],
        "input_shape": [1, 3, 16, 16],
        "inference_precisions": ["f32"],
    }
    one = pp.benchmark(raw, pp.convert(fused), **quick)
    assert [each.name for each in one.results] == ["raw", "in memory"]
    two = pp.benchmark(raw, [fused, pp.convert(fused)], **quick)
    assert [each.name for each in two.results] == ["raw", "in memory", "in memory 2"]
    with pytest.raises(DataError, match="An artifact is a int, expected the path of an IR"):
        pp.benchmark(raw, [3], **quick)  # type: ignore[list-item]
    with pytest.raises(DataError, match="raw is a FusedModel, expected the path of the raw ONNX model"):
        pp.benchmark(fused, fused, **quick)  # type: ignore[arg-type]
