from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, version_converter

import pp_graph as pp
from pp_graph.cli import run as run_command
from pp_graph.errors import OpsetError, ProvenanceError, TargetError
from pp_graph.model import RawModel
from pp_graph.model.opset_raising import RaisedOpset, raise_opset, undo
from pp_graph.postprocessors import RecipePostProcessor
from tests.models import STATS, from_text, run

Convert = Callable[[onnx.ModelProto, int], onnx.ModelProto]


def network(opset: int, *, ir_version: int = 6, constants: bool = False) -> onnx.ModelProto:
    """Operators of opsets 9 to 11 whose settings later opsets read from inputs."""
    rng = np.random.default_rng(opset)
    scales = np.array([1, 1, 2, 2], np.float32)
    weights = {
        "w": rng.normal(0, 0.3, (20, 3, 3, 3)).astype(np.float32),
        "v": rng.normal(0, 0.3, (1, 20, 1, 1)).astype(np.float32),
        "scale": rng.normal(1, 0.1, 20).astype(np.float32),
        "bias": rng.normal(0, 0.1, 20).astype(np.float32),
        "mean": rng.normal(0, 0.1, 20).astype(np.float32),
        "var": rng.uniform(0.5, 2, 20).astype(np.float32),
        "scales": scales,
    }
    node = helper.make_node
    if opset >= 11:
        weights |= {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "roi": np.zeros(0, np.float32)}
        weights |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
        pad = node("Pad", ["image", "pads"], ["padded"], mode="reflect")
        clip = node("Clip", ["normed", "low", "high"], ["clipped"])
        resizes = [
            node("Resize", ["clipped", "roi", "scales"], ["nearest"], mode="nearest"),
            node("Resize", ["clipped", "roi", "scales"], ["linear"], mode="linear"),
        ]
    else:
        kind = "Upsample" if opset == 9 else "Resize"
        pad = node("Pad", ["image"], ["padded"], mode="constant", value=0.25, pads=[0, 0, 1, 1, 0, 0, 1, 1])
        clip = node("Clip", ["normed"], ["clipped"], max=6.0)
        resizes = [
            node(kind, ["clipped", "scales"], ["nearest"], mode="nearest"),
            node(kind, ["clipped", "scales"], ["linear"], mode="linear"),
        ]
    dropout = {"ratio": 0.3} if opset < 12 else {}
    nodes = [
        pad,
        node("Conv", ["padded", "w"], ["conv"], name="conv", doc_string="the only layer"),
        node("BatchNormalization", ["conv", "scale", "bias", "mean", "var"], ["normed"], epsilon=1e-3),
        clip,
        *resizes,
        node("Sum", ["nearest", "linear"], ["both"]),
        node("Dropout", ["both"], ["kept"], **dropout),
        node("Softmax", ["kept"], ["soft"], name="soft", axis=1),
        node("Mul", ["soft", "kept"], ["weighed"]),
        node("Conv", ["weighed", "v"], ["last"]),
        node("Unsqueeze", ["last"], ["wide"], axes=[4]),
        node("Squeeze", ["wide"], ["heat"], axes=[4]),
        node("ReduceSum", ["heat"], ["summed"], axes=[1, 2], keepdims=0),
        node("ReduceMax", ["summed"], ["score"], axes=[1], keepdims=0),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    if constants:
        nodes = [node("Constant", [], [each.name], value=each) for each in tensors] + nodes
        tensors = []
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])
    defaults = [helper.make_tensor_value_info(each.name, each.data_type, list(each.dims)) for each in tensors]
    graph = helper.make_graph(
        nodes,
        "raw",
        [image, *(defaults if ir_version < 4 else [])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("heat", TensorProto.FLOAT, ["N", 1, "h", "w"]),
        ],
        tensors,
        value_info=[helper.make_tensor_value_info("conv", TensorProto.FLOAT, ["N", 20, "H", "W"])],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version, producer_name="old exporter"
    )


def write(model: onnx.ModelProto, path: Path, *, external: bool = False) -> Path:
    """Write a model as an exporter does, with external weights if requested."""
    if external:
        onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    else:
        path.write_bytes(model.SerializeToString())
    return path


IMAGES = np.random.default_rng(7).normal(0.3, 1, (2, 3, 40, 56)).astype(np.float32)


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("storage", ["embedded", "external", "constants", "inputs"])
@pytest.mark.parametrize("opset", [9, 10, 11])
def test_computes_the_same_bits_and_goes_back_to_the_byte(tmp_path: Path, opset: int, storage: str) -> None:
    model = network(opset, constants=storage == "constants", ir_version=3 if storage == "inputs" else 6)
    path = write(model, tmp_path / "raw.onnx", external=storage == "external")
    expected = run(str(path), {"image": IMAGES})
    raw = RawModel.open(path)
    raised, record = raise_opset(raw, 18)
    assert record is not None
    assert (raw.opset, raised.opset, record.before, record.after) == (opset, 18, opset, 18)
    assert [value.name for value in raised.model.graph.inputs] == [value.name for value in raw.model.graph.inputs]
    file = raised.save(tmp_path / "raised.onnx")
    onnx.checker.check_model(str(file))
    found = run(str(file), {"image": IMAGES})
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }
    # Unchanged operators are those of the file, including doc strings and domains.
    assert any(node.doc_string == "the only layer" for node in raised.to_proto().graph.node)
    undo(RawModel.open(file), record).save(tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == path.read_bytes()
    assert raw.to_proto().SerializeToString() == path.read_bytes(), "the model that was given is as it was"


def test_the_converter_sees_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def convert(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
        seen.append(model.ByteSize())
        return version_converter_itself(model, target)

    version_converter_itself = version_converter.convert_version
    monkeypatch.setattr(version_converter, "convert_version", convert)
    model = network(11)
    for index in range(4):
        big = np.random.default_rng(index).normal(0, 1, (1, 1, 256, 256)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(big, f"big{index}"))
    raised, record = raise_opset(RawModel.open(model), 18)
    assert record is not None
    assert seen[0] < 8_000 < 1_000_000 < raised.to_proto().ByteSize()
    assert len(msgspec.json.encode(record)) < 3_000


def test_undo_keeps_the_current_weights(tmp_path: Path) -> None:
    path = write(network(11), tmp_path / "raw.onnx", external=True)
    raised, record = raise_opset(RawModel.open(path), 18)
    assert record is not None
    (tmp_path / "elsewhere").mkdir()
    moved = raised.save(tmp_path / "elsewhere" / "raised.onnx")
    back = undo(RawModel.open(moved), record).save(tmp_path / "elsewhere" / "back.onnx")
    assert run(str(back), {"image": IMAGES})["heat"].tobytes() == run(str(path), {"image": IMAGES})["heat"].tobytes()


def test_weights_that_are_links(tmp_path: Path) -> None:
    # As in a hub's cache, links have other names and folders than their targets.
    (tmp_path / "blobs").mkdir()
    path = write(network(11), tmp_path / "raw.onnx", external=True)
    for name in ("raw.onnx", "weights.bin"):
        (tmp_path / name).rename(tmp_path / "blobs" / f"hash-of-{name}")
        (tmp_path / name).symlink_to(tmp_path / "blobs" / f"hash-of-{name}")
    raised, record = raise_opset(RawModel.open(path), 18)
    assert record is not None
    assert undo(raised, record).to_proto().SerializeToString() == path.read_bytes()


BRANCHES = """<ir_version: 8, opset_import: ["": 11]>
raw (float[N,1,H,W] image) => (float[N,1,H,W] heat)
<float[1] zero = {0}> {
    mean = ReduceMean<axes = [0, 1, 2, 3], keepdims = 0>(image)
    level = Constant<value = float {0.0}>()
    above = Greater(mean, level)
    heat = If(above) <
        then_branch = yes () => (float[N,1,H,W] first) {
            a = Softmax<axis = 1>(image)
            first = Add(a, zero)
        },
        else_branch = no () => (float[N,1,H,W] second) {
            table = Constant<value = float[400] {VALUES}>()
            total = ReduceSum<axes = [0], keepdims = 1>(table)
            b = Unsqueeze<axes = [0]>(image)
            c = Squeeze<axes = [0]>(b)
            second = Mul(c, total)
        }
    >
}""".replace("VALUES", ",".join(["0.5"] * 400))


def test_bodies_of_operators() -> None:
    model = from_text(BRANCHES)
    raised, record = raise_opset(RawModel.open(model), 18)
    assert record is not None
    for sign in (-1, 1):
        feeds = {"image": np.full((2, 1, 4, 4), sign, np.float32)}
        assert run(raised.to_proto(), feeds)["heat"].tobytes() == run(model, feeds)["heat"].tobytes()
    assert undo(raised, record).to_proto().SerializeToString() == model.SerializeToString()
    assert [note.split()[0] for note in record.notes()] == ["The", "Branches"]
    # Inferred declarations in subgraphs do not count as a change.
    assert raise_opset(RawModel.open(model), 12)[1].nodes == []


def test_a_model_at_the_target_is_returned() -> None:
    raw = RawModel.open(network(11))
    for target in (None, 9, 11):
        assert raise_opset(raw, target) == (raw, None)


@pytest.mark.parametrize("target", [0, 1000, True, 18.0])
def test_impossible_targets(target: int) -> None:
    with pytest.raises(OpsetError, match=r"raise_opset \(--raise-opset\) is .*expected an opset up to \d+.*Use 18"):
        raise_opset(RawModel.open(network(11)), target)


def changed_from(opset: int, change: Callable[[onnx.NodeProto], None]) -> Convert:
    """Return a converter that also changes the last operator, from an opset on."""
    itself = version_converter.convert_version

    def convert(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
        found = itself(model, target)
        if target >= opset:
            change(found.graph.node[-1])
        return found

    return convert


def take_the_minimum(node: onnx.NodeProto) -> None:
    node.op_type = "ReduceMin"


def keep_axes(node: onnx.NodeProto) -> None:
    next(each for each in node.attribute if each.name == "keepdims").i = 1


@pytest.mark.parametrize(("opset", "instead"), [(15, r"Opset 14 works: use raise_opset=14"), (9, "Leave out the step")])
def test_other_numbers_are_refused(monkeypatch: pytest.MonkeyPatch, opset: int, instead: str) -> None:
    monkeypatch.setattr(version_converter, "convert_version", changed_from(opset, take_the_minimum))
    with pytest.raises(
        OpsetError,
        match=r"The model does not compute the same at opset 18 as at its own, 11: output 'score' differs in 1 of 1 "
        rf"numbers, by up to \d.* \(a batch of 1 in onnxruntime, unoptimised\), .*rewrote .*ReduceMax.* {instead}",
    ):
        raise_opset(RawModel.open(network(11)), 18)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (keep_axes, r"'score' is float32 of shape \(1, 1\) instead of float32 of shape \(1,\)"),
        (lambda node: setattr(node, "op_type", "Nonsense"), "onnxruntime does not run it there"),
    ],
)
def test_other_outputs_are_refused(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[onnx.NodeProto], None], message: str
) -> None:
    monkeypatch.setattr(version_converter, "convert_version", changed_from(9, change))
    with pytest.raises(OpsetError, match=message):
        raise_opset(RawModel.open(network(11)), 12)


@pytest.mark.parametrize(
    ("mode", "scale", "same"),
    [("linear", 1.5, True), ("linear", 0.75, True), ("nearest", 3.0, True), ("nearest", 0.75, False)],
)
def test_resize_of_opset_10(mode: str, scale: float, same: bool) -> None:
    # The converter omits the coordinates of opset 10, and shrinking took other neighbours then.
    text = f"""<ir_version: 6, opset_import: ["": 10]>
        raw (float[N,1,H,W] image) => (float[N,1,h,w] heat) {{
            scales = Constant<value = float[4] {{1.0, 1.0, {scale}, {scale}}}>()
            heat = Resize<mode = "{mode}">(image, scales)
        }}"""
    raw = RawModel.open(from_text(text))
    if same:
        assert raise_opset(raw, 18)[0].opset == 18
    else:
        with pytest.raises(
            OpsetError, match=r"output 'heat' differs .* rewrote Resize\. Leave out the step that needs it"
        ):
            raise_opset(raw, 18)


def test_signs_of_zero_and_nan_are_bits() -> None:
    from pp_graph.model.opset_trial import _described, _digests

    zero, nan = np.zeros(3, np.float32), np.full(3, np.nan, np.float32)
    assert _digests({"x": zero}) != _digests({"x": -zero})
    assert _digests({"x": nan}) == _digests({"x": -nan})
    assert _described({"x": zero}, {"x": -zero}) == "output 'x' differs in 3 of 3 numbers, by up to 0"
    assert _described({"x": zero}, {"x": nan}) == "output 'x' differs in 3 of 3 numbers, by up to inf"


def test_errors_of_the_converter_are_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
        raise RuntimeError("/onnx/convert.h:12: adapt: Assertion `false` failed: No adapter for Upsample\nmore lines")

    monkeypatch.setattr(version_converter, "convert_version", fail)
    with pytest.raises(
        OpsetError, match=r"at opset 11 and cannot be raised to 18: .* reports 'No adapter for Upsample'\. "
    ):
        raise_opset(RawModel.open(network(11)), 18)


def test_models_that_could_not_be_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    itself = version_converter.convert_version

    def reorder(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
        found = itself(model, target)
        first = onnx.NodeProto()
        first.CopyFrom(found.graph.node[0])
        del found.graph.node[0]
        found.graph.node.append(first)
        return found

    monkeypatch.setattr(version_converter, "convert_version", reorder)
    with pytest.raises(
        OpsetError, match="strip could not restore the original file to the byte once the opset is raised to 12"
    ):
        raise_opset(RawModel.open(network(11)), 12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            """<ir_version: 8, opset_import: ["": 11, "mine": 1]>
            raw (float[N,1] image) => (float[N,1] score) { score = mine.Own(image) }""",
            "cannot be compared with its raised form in onnxruntime: the raw model does not load there .*Export it again",
        ),
        (
            """<ir_version: 8, opset_import: ["": 11]>
            raw (float[N,1] image) => (float[N,1] score) {
                noise = RandomNormalLike(image)
                score = Add(image, noise)
            }""",
            "returns other numbers each time",
        ),
        (
            """<ir_version: 8, opset_import: ["": 11]>
            raw (float[N,K] image) => (float[N,7] score) {
                shape = Constant<value = int64[2] {-1, 7}>()
                narrow = Reshape(image, shape)
                wide = MatMul(image, narrow)
                score = Identity(wide)
            }""",
            "does not run on random inputs",
        ),
        (
            """<ir_version: 8, opset_import: ["": 11]>
            raw (string[N] image) => (string[N] score) { score = Identity(image) }""",
            "input 'image' is not declared as numbers",
        ),
        (
            """<ir_version: 8, opset_import: ["mine": 1]>
            raw (float[N,1] image) => (float[N,1] score) { score = mine.Own(image) }""",
            "imports only mine, expected an opset of ONNX itself",
        ),
        (
            """<ir_version: 8, opset_import: ["": 11, "mine": 1]>
            raw (float[N,1] image) => (float[N,1] score) { score = mine.Own(image) }
            <domain: "mine", opset_import: ["": 11]> Own (x) => (y) { y = Relu(x) }""",
            "has 1 local functions",
        ),
    ],
)
def test_models_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(OpsetError, match=message):
        raise_opset(RawModel.open(from_text(text)), 18)


@pytest.mark.parametrize("kind", ["uint8", "int64", "bool", "float16"])
def test_inputs_of_other_types(kind: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 11]>
        raw ({kind}[N,8] image, float[5,2] table) => (float[N,1] score) {{
            index = Cast<to = 7>(image)
            {"rows = Gather<axis = 0>(table, index)" if kind == "int64" else "rows = Cast<to = 1>(image)"}
            flat = Flatten<axis = 1>(rows)
            score = ReduceMean<axes = [1], keepdims = 1>(flat)
        }}"""
    raised, record = raise_opset(RawModel.open(from_text(text)), 18)
    assert record is not None
    assert raised.opset == 18


def test_records_that_were_edited(tmp_path: Path) -> None:
    raised, record = raise_opset(RawModel.open(network(11)), 18)
    assert record is not None
    replace = msgspec.structs.replace
    bomb = base64.b64encode(zlib.compress(bytes(1 << 27))).decode()
    bad: list[tuple[RaisedOpset, str]] = [
        (replace(record, graph="?"), "cannot be read: "),
        (replace(record, graph=bomb), "cannot be read: "),
        (replace(record, nodes=record.nodes[:-1]), r"expected \d+ operators"),
        (replace(record, nodes=[*record.nodes[:-1], 99]), "operators are missing"),
        (replace(record, added=["nowhere"]), "the operator that computes 'nowhere' is missing"),
    ]
    for edited, message in bad:
        with pytest.raises(ProvenanceError, match=message):
            undo(raised, edited)
    _, branches = raise_opset(RawModel.open(from_text(BRANCHES)), 18)
    assert branches is not None
    changed = from_text(BRANCHES.replace("float[400]", "float[4]").replace(",0.5" * 396, ""))
    with pytest.raises(ProvenanceError, match="weight 'table.value' is missing"):
        undo(raise_opset(RawModel.open(changed), 18)[0], branches)


# Fused


REGIONS = RecipePostProcessor(
    None,
    (
        {"step": "compare", "source": "raw_map", "target": "weak", "level": 0.0},
        {"step": "remove_small_regions", "source": "weak", "target": "pred_mask", "min_area": 9},
    ),
)


def blurred(opset: int) -> onnx.ModelProto:
    """A network whose tail fusing rewrites. Raising replaces operators in the tail and before it."""
    line = np.exp(-((np.arange(33) - 16) ** 2) / 32.0)
    kernel = (np.outer(line, line) / line.sum() ** 2).astype(np.float32).reshape(1, 1, 33, 33)
    weights = {
        "w": np.random.default_rng(0).normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "scales": np.array([1, 1, 4, 4], np.float32),
        "kernel": kernel,
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w"], ["conv"], pads=[1, 1, 1, 1]),
        node("Softmax", ["conv"], ["soft"], axis=1),
        node("ReduceMean", ["soft"], ["mean"], axes=[1], keepdims=1),
        node("Upsample" if opset == 9 else "Resize", ["mean", "scales"], ["large"], mode="linear"),
        node("Pad", ["large"], ["padded"], mode="reflect", pads=[0, 0, 16, 16, 0, 0, 16, 16]),
        node("Conv", ["padded", "kernel"], ["anomaly_map"]),
        node("ReduceMax", ["anomaly_map"], ["pred_score"], axes=[1, 2, 3], keepdims=0),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "raw",
        [value("image", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [value("pred_score", TensorProto.FLOAT, ["N"]), value("anomaly_map", TensorProto.FLOAT, ["N", 1, 128, 128])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)


@pytest.mark.parametrize(("opset", "storage"), [(9, "external"), (10, "constants"), (11, "embedded")])
def test_fusing_and_stripping(tmp_path: Path, opset: int, storage: str) -> None:
    path = write(
        network(opset, constants=storage == "constants"), tmp_path / "raw.onnx", external=storage == "external"
    )
    with pytest.raises(
        OpsetError, match=r"expected 12 or later .* Fuse with raise_opset=18 \(--raise-opset 18\), export"
    ):
        pp.fuse(path, REGIONS)
    fused = pp.fuse(path, REGIONS, keep_raw=True, raise_opset=18)
    assert fused.network.opset == 18
    assert f"The opset was raised from {opset} to 18" in fused.notes[0]
    assert fused.provenance.summary()["opset"].startswith(f"raised from {opset} to 18")
    file = fused.save(tmp_path / "fused.onnx")
    expected, found = run(str(path), {"image": IMAGES}), run(str(file), {"image": IMAGES})
    assert {name: found[name].tobytes() for name in expected} == {
        name: each.tobytes() for name, each in expected.items()
    }
    assert 0 < found["pred_mask"].mean() < 1
    raw = pp.strip(file)
    assert raw.sha256 == RawModel.open(path).sha256
    assert raw.save(tmp_path / "back.onnx").read_bytes() == path.read_bytes()


def test_a_rewritten_tail(tmp_path: Path) -> None:
    path = write(blurred(9), tmp_path / "raw.onnx")
    fused = pp.fuse(path, pp.OneClassPostProcessor(STATS), raise_opset=18)
    assert fused.provenance.tail
    assert "raw_pred_score" in {value.name for node in fused.network.model.graph for value in node.outputs}
    file = fused.save(tmp_path / "fused.onnx")
    assert pp.strip(file).save(tmp_path / "back.onnx").read_bytes() == path.read_bytes()
    # Fusing again raises the opset again; new statistics only replace constants.
    loaded = pp.FusedModel.load(file)
    again = loaded.with_program(loaded.program.replace(mask_dtype="u8"))
    assert again.network.opset == 18
    assert pp.strip(again).save(tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    retuned = pp.retune(pp.FusedModel.load(file), image_sensitivity=0.7).save(tmp_path / "retuned.onnx")
    assert pp.strip(retuned).save(tmp_path / "third.onnx").read_bytes() == path.read_bytes()


def test_converting(tmp_path: Path) -> None:
    path = write(blurred(10), tmp_path / "raw.onnx")
    post = pp.OneClassPostProcessor(STATS)
    artifact = pp.convert(path, post=post, raise_opset=18)
    assert artifact.provenance.raised is None, "an IR cannot be stripped"
    with pytest.raises(TargetError, match="raise_opset was given without a post-processor"):
        pp.convert(path, raise_opset=18)


def test_nothing_to_raise(tmp_path: Path) -> None:
    fused = pp.fuse(network(11), pp.OneClassPostProcessor(STATS), raise_opset=11)
    assert fused.provenance.raised is None
    assert fused.notes == ()


def test_a_fused_model_that_was_changed(tmp_path: Path) -> None:
    fused = pp.fuse(network(11), REGIONS, raise_opset=18).to_proto()
    written = next(node for node in fused.graph.node if node.op_type == "ReduceSum")
    fused.graph.node.remove(written)
    for node in fused.graph.node:
        node.input[:] = ["heat" if name == written.output[0] else name for name in node.input]
    with pytest.raises(
        ProvenanceError, match="changed after its opset was raised: the operator that computes 'summed'"
    ):
        pp.strip(fused)


def test_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(network(11), tmp_path / "raw.onnx")
    fused, back, ir = tmp_path / "fused.onnx", tmp_path / "back.onnx", tmp_path / "model.xml"
    recipe = tmp_path / "post.yaml"
    recipe.write_text(
        "steps:\n"
        "  - {step: compare, source: raw_map, target: weak, level: 0.5}\n"
        "  - {step: remove_small_regions, source: weak, target: pred_mask, min_area: 9}\n"
    )
    post = ["--recipe", str(recipe)]
    assert run_command(["fuse", str(path), *post, "-o", str(fused)]) == 2
    assert "--raise-opset 18" in capfd.readouterr().err
    assert run_command(["fuse", str(path), *post, "-o", str(fused), "--raise-opset", "18", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["raised_opset"] == {"before": 11, "after": 18}
    assert run_command(["strip", str(fused), "-o", str(back)]) == 0
    assert back.read_bytes() == path.read_bytes()
    assert run_command(["convert", str(path), *post, "-o", str(ir), "--raise-opset", "18"]) == 0
    assert "The opset was raised from 11 to 18" in capfd.readouterr().err
    assert run_command(["convert", str(fused), "-o", str(ir), "--raise-opset", "18"]) == 2
    assert "--raise-opset applies only when convert fuses a raw MODEL" in capfd.readouterr().err
