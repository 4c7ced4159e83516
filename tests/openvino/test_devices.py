"""Devices: how they are written, what they take, what runs on them here, and what can be checked without them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest

import pp_graph as pp
from pp_graph.cli import run as run_cli
from pp_graph.errors import DeviceError, TargetError
from pp_graph.openvino.compiling import compile_for, running_precision
from pp_graph.openvino.core import openvino_core
from pp_graph.openvino.device_check import DeviceCheck, check_for_device
from pp_graph.openvino.device_profiles import DEVICES
from pp_graph.openvino.devices import (
    PERFORMANCE_HINTS,
    available_devices,
    describe_device,
    device_profile,
    list_devices,
    parse_device,
    recommended_properties,
    require_device,
    split_devices,
)
from pp_graph.openvino.island.float32 import executed_precision, island_precisions
from pp_graph.openvino.timed_session import TimedSession
from pp_graph.raw_values import open_raw_values
from tests.conftest import DEMO
from tests.models import STATS, conv_model, from_text, identity_model

POST = pp.OneClassPostProcessor(STATS)
IMAGE = np.random.default_rng(0).normal(0, 1, (6, 3, 9, 11)).astype(np.float32)
ONE = [1, 3, 9, 11]
RUN_HERE = ("CPU", "AUTO", "AUTO:CPU", "HETERO:CPU", "BATCH:CPU", "BATCH:CPU(4)", "MULTI:CPU")
WRITTEN = [name for profile in DEVICES for name in profile.written]
HAS_BF16 = "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def fused() -> pp.FusedModel:
    return pp.fuse(conv_model(), POST)


@pytest.fixture(scope="module")
def static(fused: pp.FusedModel) -> pp.OpenVINOModel:
    return pp.convert(fused, input_shape=ONE)


class TestNames:
    @pytest.mark.parametrize("profile", DEVICES, ids=lambda profile: profile.name)
    def test_every_way_a_profile_says_is_known(self, profile: object) -> None:
        for name in profile.written:
            assert parse_device(name).kind is profile
            assert device_profile(name).name == profile.name

    def test_taken_apart(self) -> None:
        name = parse_device("BATCH:GPU.1(16)")
        assert ([each.text for each in name.members], name.batch) == (["GPU.1"], 16)
        assert [each.text for each in parse_device("HETERO:NPU,GPU,CPU").members] == ["NPU", "GPU", "CPU"]
        assert device_profile("GPU.0.1").name == "GPU", "a tile of a GPU"

    @pytest.mark.parametrize(
        ("device", "message"),
        [
            ("TPU", r"'TPU' is not known, expected one of: CPU, GPU, NPU, AUTO, HETERO, .*GPU\.1.*BATCH:GPU\(4\)"),
            ("", "Device '' is not known"),
            ("cpu", r"'cpu' is not known.*Names are in capitals: CPU\."),
            ("CPU.1", r"'CPU\.1' is not known"),
            ("GPU.", r"'GPU\.' is not known"),
            ("CPU:GPU", "'CPU:GPU' is not known"),
            (
                "HETERO",
                r"'HETERO' names no device to run on, expected at least 1 after 'HETERO:'. Write HETERO:GPU,CPU",
            ),
            ("HETERO:", "'HETERO:' names no device"),
            ("AUTO:", "'AUTO:' names no device"),
            ("BATCH", r"names no device to run on.*Write BATCH:GPU or BATCH:GPU\(4\)"),
            ("HETERO:CPU,TPU", "'TPU' in 'HETERO:CPU,TPU' is not known, expected one of: CPU, GPU, NPU"),
            ("HETERO:GPU, CPU", "' CPU' in .* without spaces"),
            ("AUTO:HETERO:CPU", "has 'HETERO:CPU' among its members.*cannot be nested"),
            ("HETERO:AUTO", "has 'AUTO' among its members.*cannot be nested"),
            ("HETERO:CPU,CPU", "names CPU twice"),
            ("BATCH:GPU,CPU", "names 2 devices, expected 1 for BATCH"),
            ("BATCH:GPU(0)", r"invalid number of requests, expected a whole number from 1.*BATCH:GPU\(4\)"),
            ("BATCH:GPU(4", "an invalid number of requests"),
            ("HETERO:GPU(4)", r"'GPU\(4\)' in 'HETERO:GPU\(4\)' is not known"),
        ],
    )
    def test_errors(self, device: str, message: str, fused: pp.FusedModel) -> None:
        with pytest.raises(DeviceError, match=message):
            pp.convert(fused, device=device)

    @pytest.mark.parametrize(
        ("text", "devices"),
        [
            ("CPU", ["CPU"]),
            ("CPU, GPU", ["CPU", "GPU"]),
            ("CPU,HETERO:GPU,CPU", ["CPU", "HETERO:GPU,CPU"]),
            ("HETERO:GPU,CPU,AUTO,BATCH:CPU(4),GPU", ["HETERO:GPU,CPU", "AUTO", "BATCH:CPU(4)", "GPU"]),
            ("AUTO:GPU,CPU,HETERO:GPU,CPU", ["AUTO:GPU,CPU", "HETERO:GPU,CPU"]),
        ],
    )
    def test_lists(self, text: str, devices: list[str]) -> None:
        assert split_devices(text) == devices


class TestProfiles:
    def test_a_meta_device_is_what_its_members_are(self) -> None:
        assert device_profile("HETERO:GPU,CPU").dynamic_shapes
        assert not device_profile("HETERO:NPU,CPU").dynamic_shapes
        assert device_profile("HETERO:GPU,CPU").precisions == ("f32", "f16")
        assert device_profile("AUTO:NPU,CPU").precisions == ("f16",)
        assert device_profile("BATCH:GPU").default_precision == "f16"
        assert device_profile("HETERO:NPU,CPU").default_precision is None
        assert device_profile("MULTI:GPU,CPU").unsupported == device_profile("GPU").unsupported
        assert not device_profile("HETERO:GPU,CPU").unsupported, "the CPU runs what the GPU lacks"
        assert not device_profile("BATCH:CPU(4)").states
        assert device_profile("HETERO:GPU,CPU").states

    @pytest.mark.parametrize("device", [*WRITTEN, "HETERO:NPU,GPU,CPU"])
    @pytest.mark.parametrize("mode", PERFORMANCE_HINTS)
    def test_recommended_properties(self, device: str, mode: str) -> None:
        found = recommended_properties(device, mode)
        assert found["PERFORMANCE_HINT"] == mode.upper()
        assert all(isinstance(value, str) for value in found.values())
        able = "f32" in device_profile(device).precisions
        assert (found.get("INFERENCE_PRECISION_HINT") == "f32") == able, "f32 wherever it can be asked for"
        assert "INFERENCE_PRECISION_HINT" not in recommended_properties(device, mode, None)

    def test_a_member_without_f32_is_not_asked_for_it(self) -> None:
        found = recommended_properties("HETERO:NPU,CPU")
        assert found["DEVICE_PROPERTIES"] == "{CPU:{INFERENCE_PRECISION_HINT:f32}}"

    def test_bad_wishes(self) -> None:
        with pytest.raises(
            TargetError, match="'NPU' does not support inference precision f32, expected one of: f16.*default"
        ):
            recommended_properties("NPU", inference_precision="f32")
        with pytest.raises(
            TargetError, match="'HETERO:GPU,CPU' does not support inference precision bf16, expected one of: f32, f16"
        ):
            recommended_properties("HETERO:GPU,CPU", inference_precision="bf16")
        with pytest.raises(TargetError, match="Mode 'fast' is not known, expected one of: latency, throughput"):
            recommended_properties("CPU", "fast")


@pytest.mark.parametrize("device", RUN_HERE)
class TestRunning:
    @pytest.mark.parametrize("mode", PERFORMANCE_HINTS)
    def test_recommended_properties_are_taken(self, device: str, mode: str, static: pp.OpenVINOModel) -> None:
        compiled = openvino_core().compile_model(static.network, device, recommended_properties(device, mode))
        assert executed_precision(compiled) == "f32"
        assert running_precision(compiled, None) == "f32"

    def test_f32_is_f32(self, device: str, static: pp.OpenVINOModel) -> None:
        compiled = compile_for(static.network, device, "f32", {})
        assert executed_precision(compiled) == "f32"
        assert running_precision(compiled, "f32") == "f32"
        assert set(island_precisions(compiled, "pp_graph").values()) == {"f32"}
        by_default = compile_for(static.network, device, None, {})
        assert running_precision(by_default, None) == describe_device("CPU").default_precision
        assert running_precision(by_default, None) == executed_precision(by_default)
        mode = {"EXECUTION_MODE_HINT": "ACCURACY"}
        assert running_precision(compile_for(static.network, device, None, mode), None) == "f32"

    @pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16")
    def test_bf16_spares_the_post_processing(self, device: str, static: pp.OpenVINOModel) -> None:
        compiled = compile_for(static.network, device, "bf16", {})
        assert running_precision(compiled, "bf16") == executed_precision(compiled) == "bf16"
        assert set(island_precisions(compiled, "pp_graph").values()) == {"f32"}

    @pytest.mark.sample(every=7)
    @pytest.mark.parametrize("shape", [None, ONE], ids=["open", "fixed"])
    def test_verified(self, device: str, shape: list[int] | None, fused: pp.FusedModel, tmp_path: Path) -> None:
        path = pp.convert(fused, device=device, input_shape=shape).save(tmp_path / "model.xml")
        for precision in ("f32", None):
            report = pp.verify(
                pp.RawModel.open(conv_model()), path, IMAGE, device=device, inference_precision=precision
            )
            assert report.passed
            assert report.postprocessing_flips == 0
            assert set(report.island.values()) == {"f32"}
            assert precision is None or report.artifact == f"OpenVINO on {device}, f32"

    def test_raw_values(self, device: str, static: pp.OpenVINOModel) -> None:
        found = open_raw_values(static, device=device).run({"image": IMAGE})
        wanted = open_raw_values(static, device="CPU").run({"image": IMAGE})
        for role, values in wanted.items():
            np.testing.assert_allclose(found[role], values, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("hint", PERFORMANCE_HINTS)
    def test_timed(self, device: str, hint: str, static: pp.OpenVINOModel) -> None:
        feeds = {"image": IMAGE[:1]}
        timed = TimedSession(static.network, feeds, device=device, performance_hint=hint, profile=True)
        timed.infer()
        assert timed.precision == "f32"
        assert timed.run_in_flight(0.01, None)[0] > 0
        names = {each.name for each in timed.operator_times(2)}
        assert any("pp_graph/" in name for name in names), "its own operators are found, whatever part they run in"

    def test_checked(self, device: str, static: pp.OpenVINOModel) -> None:
        check = check_for_device(static, device)
        assert check.here
        assert not check.errors
        assert any(line == "compilation (runs in f32, the post-processing in f32)" for line in check.passed)
        assert [line.split(" (")[0] for line in check.not_run] == ["decisions", "latency"]


def test_batched_requests_run_as_a_batch() -> None:
    # A network that sees its batch, which none should: it adds the number of images to each.
    model = from_text(
        """<ir_version: 8, opset_import: ["": 17]> raw (float[N,1,H,W] image) => (float[N,1,H,W] heat) {
            sizes = Shape <start = 0, end = 1> (image)
            batch = Cast <to = 1> (sizes)
            heat = Add(image, batch)
        }"""
    )
    artifact = pp.convert(pp.fuse(model, POST, tail=False), input_shape=[1, 1, 4, 5])
    image = np.zeros((6, 1, 4, 5), np.float32)
    for device, batch in (("CPU", 1), ("BATCH:CPU(4)", 4)):
        values = open_raw_values(artifact, device=device).run({"image": image})
        assert np.array_equal(values["raw_map"], image + batch), "each image in a full batch, the last ones too"


@pytest.mark.slow
def test_images_of_a_batch_are_not_mixed_up(static: pp.OpenVINOModel) -> None:
    session = static.session(device="BATCH:CPU(4)")
    assert session.inputs[0].shape == (None, 3, 9, 11), "it takes any number of images"
    together = session.run({"image": IMAGE})
    alone = static.session(device="CPU")
    streamed = session.stream((index, {"image": IMAGE[index : index + 1]}) for index in range(len(IMAGE)))
    for index, found in streamed:
        for name, values in alone.run({"image": IMAGE[index : index + 1]}).items():
            np.testing.assert_allclose(together[name][index : index + 1], values, atol=1e-6)
            np.testing.assert_allclose(found[name], values, atol=1e-6)


@pytest.mark.parametrize("device", WRITTEN)
def test_converting_needs_no_device(device: str, fused: pp.FusedModel, tmp_path: Path) -> None:
    path = pp.convert(fused, device=device, input_shape=ONE).save(tmp_path / "model.xml")
    assert pp.OpenVINOModel.load(path).conversion["device"] == device
    check = check_for_device(pp.OpenVINOModel.load(path), device)
    assert not check.errors
    if check.here:
        assert pp.verify(pp.RawModel.open(conv_model()), path, IMAGE, device=device).passed
        return
    assert "compilation" in check.not_run
    with pytest.raises(DeviceError, match="is not on this machine, expected one of: CPU, .*pp-graph convert --device"):
        pp.verify(pp.RawModel.open(conv_model()), path, IMAGE, device=device, inference_precision=None)


def test_a_member_that_is_not_here() -> None:
    for device in ("AUTO:GPU.7,CPU", "HETERO:GPU.7,CPU", "BATCH:GPU.7(4)"):
        with pytest.raises(DeviceError, match=rf"Device 'GPU\.7' of '{device[:4]}.* is not on this machine"):
            require_device(device)


class TestStaticShapes:
    def test_the_command_has_the_models_sizes(self) -> None:
        fixed = pp.convert(DEMO / "raw.onnx", post=POST, device="NPU")
        assert tuple(fixed.network.input(0).shape) == (1, 3, 256, 256)
        assert fixed.notes[-1].startswith("The batch is fixed to 1")
        with pytest.raises(
            TargetError,
            match=r"'image' has the dynamic shape .*batch included.* --input-shape 1,3,HEIGHT,WIDTH .*HEIGHT and WIDTH",
        ):
            pp.convert(pp.fuse(conv_model(), POST), device="HETERO:NPU,CPU")
        fused = pp.fuse(identity_model({"s": ["N"], "m": ["N", "H", "W"]}), POST)
        with pytest.raises(TargetError, match="--input-shape m_in:1,HEIGHT,WIDTH "):
            pp.convert(fused, device="NPU")
        assert pp.convert(fused, device="NPU", input_shape={"s_in": [1], "m_in": [1, 4, 5]})

    def test_an_artifact_for_another_device(self, fused: pp.FusedModel) -> None:
        check = check_for_device(pp.convert(fused), "NPU")
        assert [finding.check for finding in check.errors] == ["shapes"]
        assert "expected a static one, batch included: NPU" in check.errors[0].message

    def test_sizes_that_only_a_run_shows(self) -> None:
        model = conv_model()
        model.graph.node.append(onnx.helper.make_node("NonZero", ["h2"], ["where"]))
        model.graph.output.append(onnx.helper.make_tensor_value_info("where", onnx.TensorProto.INT64, [4, "K"]))
        artifact = pp.convert(pp.fuse(model, POST, keep_raw=True), device="NPU", input_shape=ONE)
        assert warnings(check_for_device(artifact, "NPU"))["shapes"].startswith("1 NonZero ('")
        assert "shapes" not in warnings(check_for_device(artifact, "CPU"))

    def test_open_sizes_are_doubtful(self, fused: pp.FusedModel, static: pp.OpenVINOModel) -> None:
        artifact = pp.convert(fused)
        for device, message in (
            ("GPU", "a preview"),
            ("HETERO:GPU,CPU", "a preview"),
            ("BATCH:CPU(4)", "groups nothing"),
        ):
            assert message in warnings(check_for_device(artifact, device))["shapes"]
            assert "shapes" not in warnings(check_for_device(static, device))
        two = pp.convert(fused, input_shape=[2, *ONE[1:]])
        assert "a batch above one is fixed" in warnings(check_for_device(two, "BATCH:CPU(4)"))["shapes"]
        assert "Write BATCH:CPU(4)" in warnings(check_for_device(static, "BATCH:CPU"))["shapes"]


def warnings(check: DeviceCheck) -> dict[str, str]:
    assert not check.errors
    return {finding.check: finding.message for finding in check.findings}


class TestChecks:
    def test_operators(self) -> None:
        model = conv_model()
        model.graph.node.append(onnx.helper.make_node("Cast", ["h2"], ["whole"], to=onnx.TensorProto.INT32))
        model.graph.node.append(onnx.helper.make_node("BitwiseNot", ["whole"], ["inverted"]))
        model.graph.output.append(
            onnx.helper.make_tensor_value_info("inverted", onnx.TensorProto.INT32, ["N", 8, "H", "W"])
        )
        model.opset_import[0].version = 18
        model.graph.node[3].attribute.pop(0)  # axes are an input from opset 18 on
        model.graph.node[3].input.append("hw")
        model.graph.initializer.append(onnx.helper.make_tensor("hw", onnx.TensorProto.INT64, [2], [2, 3]))
        artifact = pp.convert(pp.fuse(model, POST, keep_raw=True), input_shape=ONE)
        message = warnings(check_for_device(artifact, "GPU"))["operators"]
        assert message.startswith("1 BitwiseNot ('")
        assert "HETERO" in message
        assert "operators" not in warnings(check_for_device(artifact, "HETERO:GPU,CPU"))
        assert "operators" not in warnings(check_for_device(artifact, "CPU"))

    def test_operators_in_branches(self) -> None:
        model = from_text(
            """<ir_version: 8, opset_import: ["": 18]> raw (float[N,1,H,W] image) => (float[N,1,H,W] heat) {
                peak = ReduceMax <keepdims = 0> (image)
                zero = Constant <value = float {0.0}> ()
                above = Greater(peak, zero)
                heat = If (above) <
                    then_branch = a () => (float[N,1,H,W] one) {
                        whole = Cast <to = 6> (image)
                        inverted = BitwiseNot(whole)
                        one = Cast <to = 1> (inverted)
                    },
                    else_branch = b () => (float[N,1,H,W] other) { other = Identity(image) }>
            }"""
        )
        artifact = pp.convert(pp.fuse(model, POST, tail=False), input_shape=[1, 1, 4, 5])
        assert "1 BitwiseNot" in warnings(check_for_device(artifact, "GPU"))["operators"]

    def test_f32_is_not_to_be_had(self, static: pp.OpenVINOModel) -> None:
        assert "NPU cannot run in f32 and uses f16" in warnings(check_for_device(static, "NPU"))["precision"]
        assert "precision" not in warnings(check_for_device(static, "GPU"))
        with pytest.raises(TargetError, match="'NPU' does not support inference precision f32, expected one of: f16"):
            compile_for(static.network, "NPU", "f32", {})

    def test_marks_and_constants(self, fused: pp.FusedModel, tmp_path: Path) -> None:
        for precision in ("f32", "f16"):
            artifact = pp.convert(fused, precision=precision, input_shape=ONE)
            path = artifact.save(tmp_path / f"{precision}.xml")
            for each in (artifact, pp.OpenVINOModel.load(path)):
                assert {"marks", "constants"}.isdisjoint(warnings(check_for_device(each, "GPU")))
        text = path.read_text()
        mark = '<attribute name="DisablePrecisionConversion" version="0" value="dynamic:bf16,f16" />'
        assert text.count(mark) > 10
        path.write_text(text.replace(mark, "", 3))
        message = warnings(check_for_device(pp.OpenVINOModel.load(path), "GPU"))["marks"]
        counts, _, _ = message.partition(" of the post-processing lack the mark")
        assert sum(int(each) for each in re.findall(r"(\d+) [A-Z]\w+ \('", counts)) == 3

    def test_constants_saved_the_plain_way(self, fused: pp.FusedModel, tmp_path: Path) -> None:
        path = pp.convert(fused, input_shape=ONE).save(tmp_path / "model.xml")
        text = path.read_text()
        path.write_text(text.replace("DisablePrecisionConversion", "Whatever"))
        ov.save_model(openvino_core().read_model(path), tmp_path / "plain.xml")  # compresses to f16 by default
        found = warnings(check_for_device(pp.OpenVINOModel.load(tmp_path / "plain.xml"), "GPU"))
        assert "are f16, expected f32" in found["constants"]
        assert "lack the mark" in found["marks"]

    def test_marks_cover_the_rewritten_tail(self, demo_ir_path: Path) -> None:
        artifact = pp.OpenVINOModel.load(demo_ir_path)
        assert any(record.float32 for record in artifact.provenance.tail)
        check = check_for_device(artifact, "GPU")
        assert any(line.startswith("float32 marks (on all") for line in check.passed)

    def test_states(self, static: pp.OpenVINOModel) -> None:
        from openvino import opset13 as ops

        model = static.network.clone()
        cutoff = next(node for node in model.get_ops() if node.get_friendly_name() == "pp_graph/pred_mask/cutoff")
        readers = list(cutoff.output(0).get_target_inputs())
        state = ops.read_value(cutoff, "cutoff", ov.Type.f32, list(cutoff.get_output_shape(0)))
        for reader in readers:
            reader.replace_source_output(state.output(0))
        model = ov.Model(model.get_results(), [ops.assign(state, "cutoff")], model.get_parameters())
        artifact = pp.OpenVINOModel(model, static.provenance, "f32")
        assert "states (1)" in check_for_device(artifact, "CPU").passed
        assert "1 states" in warnings(check_for_device(artifact, "BATCH:CPU(4)"))["states"]


def test_devices_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    found = {each.name: each for each in list_devices()}
    assert {profile.name for profile in DEVICES} <= {name.split(".")[0] for name in found}
    metas = {profile.name for profile in DEVICES if profile.meta}
    assert {name for name, each in found.items() if each.here} == {*available_devices(), *metas}
    cpu = found["CPU"]
    assert "FP32" in cpu.precisions
    session = pp.convert(pp.fuse(conv_model(), POST)).session(precision=None)
    assert cpu.default_precision == session.precision, "what OpenVINO runs unless told otherwise"
    assert found["NPU"].dynamic_shapes is False
    assert run_cli(["devices"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in found)
    assert "BATCH:GPU(4)" in out
    assert "INFERENCE_PRECISION_HINT=f32" in out
    assert max(map(len, out.splitlines())) > 160, "whole in a pipe"
    assert run_cli(["devices", "--json"]) == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)["devices"]}
    assert set(listed) == set(found)
    assert listed["CPU"]["properties"]["latency"] == recommended_properties("CPU")
    assert listed["HETERO"]["profile"]["written"] == ["HETERO:GPU,CPU"]


@pytest.mark.parametrize("device", ["CPU", "NPU", "HETERO", "HETERO:NPU,CPU", "BATCH:CPU(4)"])
def test_one_device(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["devices", device]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{device}\n")
    assert "for throughput" in out
    assert run_cli(["devices", device, "--json"]) == 0
    info = json.loads(capsys.readouterr().out)["device"]
    assert info["name"] == device
    assert info["dynamic_shapes"] == ("NPU" not in device)
    assert run_cli(["devices", "TPU", "--json"]) == 2
    assert "is not known" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_convert_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str], demo_fused_path: Path) -> None:
    def convert(device: str, *more: str) -> tuple[int, str, str]:
        status = run_cli(["convert", str(demo_fused_path), "-o", str(tmp_path / "m.xml"), "--device", device, *more])
        return status, *capsys.readouterr()

    status, out, err = convert("GPU")
    assert status == 0
    assert "Checked for GPU" in out
    assert "float32 marks" in out
    assert "Warning (shapes): OpenVINO documents dynamic sizes on the GPU as a preview" in err
    if not describe_device("GPU").here:
        assert "which is not on this machine" in out
        for part in ("compilation", "the precision it really runs in", "decisions (pp-graph verify --device GPU, on a"):
            assert part in out
    status, out, _ = convert("BATCH:CPU(4)", "--force", "--json")
    check = json.loads(out)["device_check"]
    assert (check["here"], check["findings"][0]["check"]) == (True, "shapes")
    assert any("--device 'BATCH:CPU(4)'" in line for line in check["not_run"]), "as a shell needs it"
    status, out, err = convert("NPU", "--force", "--input-shape", "1,3,256,?")
    assert status == 2
    assert "--input-shape 1,3,256,WIDTH" in err
    assert convert("NPU", "--force", "--input-shape", "1,3,256,256")[0] == 0
