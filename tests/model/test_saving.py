"""Files appear whole or not at all, inputs are never overwritten, external weights stay where they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pp_graph as pp
from pp_graph.errors import ModelError, OutputFileError
from pp_graph.files import written_together
from tests.models import STATS, conv_model, run

POST = pp.OneClassPostProcessor(STATS)
IMAGE = np.random.default_rng(0).normal(0, 1, (2, 3, 9, 11)).astype(np.float32)


def external(folder: Path, model: onnx.ModelProto | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "raw.onnx"
    onnx.save(model or conv_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def names_in(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_weights_beside_the_output_are_referenced(tmp_path: Path) -> None:
    raw = external(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    pp.fuse(raw, POST).save(tmp_path / "fused.onnx")
    assert names_in(tmp_path) == {"raw.onnx", "weights.bin", "fused.onnx"}
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    found, plain = run(str(tmp_path / "fused.onnx"), {"image": IMAGE}), run(str(raw), {"image": IMAGE})
    assert np.array_equal(found["pred_label"], POST({"pred_score": plain["pred_score"]}).pred_label)
    onnx.checker.check_model(str(tmp_path / "fused.onnx"), full_check=True)


@pytest.mark.parametrize("ask", [False, True], ids=["elsewhere", "asked"])
def test_weights_are_copied_when_needed_or_asked(tmp_path: Path, ask: bool) -> None:
    raw = external(tmp_path / "a")
    target = tmp_path / ("a" if ask else "b") / "fused.onnx"
    pp.fuse(raw, POST).save(target, copy_weights=ask)
    assert (target.parent / "fused.onnx.data").exists()
    model = onnx.load(target, load_external_data=False)
    assert {entry.value for t in model.graph.initializer for entry in t.external_data if entry.key == "location"} == {
        "fused.onnx.data"
    }
    loaded, original = onnx.load(target), onnx.load(raw)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}
    for tensor in original.graph.initializer:
        assert np.array_equal(weights[tensor.name], numpy_helper.to_array(tensor))
    shutil.rmtree(tmp_path / "a") if not ask else (tmp_path / "a" / "weights.bin").unlink()
    assert set(run(str(target), {"image": IMAGE})) >= {"pred_label", "pred_mask"}
    stripped = pp.strip(target).save(target.parent / "again.onnx")
    assert onnx.load(stripped).graph == original.graph


def test_weights_in_attributes_and_subgraphs(tmp_path: Path) -> None:
    def tensor(name: str, offset: int) -> TensorProto:
        made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "deep/w.bin"), ("offset", offset), ("length", 8)):
            made.external_data.add(key=key, value=str(value))
        return made

    (tmp_path / "deep").mkdir()
    np.arange(4, dtype=np.float32).tofile(tmp_path / "deep" / "w.bin")
    branch = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])]
    then = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "then", [], branch, [tensor("w", 8)])
    other = helper.make_graph([helper.make_node("Identity", ["c"], ["y"])], "else", [], branch)
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], value=tensor("c", 0)),
            helper.make_node("If", ["flag"], ["s"], then_branch=then, else_branch=other),
        ],
        "g",
        [helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("s", TensorProto.FLOAT, [2])],
    )
    raw = tmp_path / "raw.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), raw)
    assert len(pp.RawModel.open(raw).external_tensors()) == 2
    copied = pp.fuse(raw, POST, keep_raw=True).save(tmp_path / "out" / "fused.onnx")
    loaded = onnx.load(copied)
    constant = next(node for node in loaded.graph.node if node.op_type == "Constant")
    assert numpy_helper.to_array(constant.attribute[0].t).tolist() == [0.0, 1.0]
    branches = next(node for node in loaded.graph.node if node.op_type == "If").attribute
    inner = next(each.g for each in branches if each.name == "then_branch")
    assert numpy_helper.to_array(inner.initializer[0]).tolist() == [2.0, 3.0]


def test_missing_and_short_weights(tmp_path: Path) -> None:
    raw = external(tmp_path)
    weights = tmp_path / "weights.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4])
    with pytest.raises(ModelError, match=r"'weights\.bin' of model .* bytes, expected at least .*cut short"):
        pp.RawModel.open(raw)
    weights.unlink()
    with pytest.raises(ModelError, match=r"keeps weight 'w1' in 'weights\.bin', which is not in"):
        pp.RawModel.open(raw)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd"])
def test_weights_outside_the_folder(tmp_path: Path, location: str) -> None:
    raw = external(tmp_path)
    model = onnx.load(raw, load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    raw.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="expected a file inside the model's folder"):
        pp.RawModel.open(raw)


def test_inputs_are_never_overwritten(tmp_path: Path) -> None:
    raw = external(tmp_path)
    link = tmp_path / "link.onnx"
    link.symlink_to(raw)
    fused = pp.fuse(raw, POST)
    for target in (raw, link, tmp_path / "weights.bin"):
        with pytest.raises(OutputFileError, match="is an input of this command"):
            fused.save(target)
    embedded = tmp_path / "embedded.onnx"
    onnx.save(conv_model(), embedded)
    before = embedded.read_bytes()
    with pytest.raises(OutputFileError, match="never overwritten"):
        pp.fuse(embedded, POST).save(embedded)
    assert embedded.read_bytes() == before


def test_existing_files_are_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "fused.onnx"
    target.write_text("precious")
    fused = pp.fuse(conv_model(), POST)
    with pytest.raises(OutputFileError, match=r"exists already\. Use --force"):
        fused.save(target)
    assert target.read_text() == "precious"
    fused.save(target, overwrite=True)
    onnx.checker.check_model(str(target))


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out.txt"

    def fail() -> None:
        with written_together(target, overwrite=False) as (draft,):
            draft.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path: Path) -> None:
    """A file-size limit acts like a full disk: writing fails half-way with an OSError."""
    onnx.save(conv_model(), tmp_path / "raw.onnx")
    POST.statistics.save(tmp_path / "stats.json")
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from pp_graph.cli import run\n"
        "import pp_graph.fusion\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "sys.exit(run(['fuse', 'raw.onnx', '--stats', 'stats.json', '-o', 'fused.onnx']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert "Error: Output 'fused.onnx' cannot be written: File too large" in done.stderr
    assert names_in(tmp_path) == {"raw.onnx", "stats.json"}


def test_folders_are_created_and_paths_may_be_odd(tmp_path: Path) -> None:
    target = tmp_path / "a folder" / "mödel (1).onnx"
    pp.fuse(conv_model(), POST).save(target)
    assert pp.FusedModel.load(target).provenance.post_processor == "OneClassPostProcessor"
    with pytest.raises(OutputFileError, match="is a folder, expected a file name"):
        pp.fuse(conv_model(), POST).save(tmp_path)


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    external(tmp_path)
    monkeypatch.chdir(tmp_path)
    pp.fuse("raw.onnx", POST).save("fused.onnx")
    pp.fuse("raw.onnx", POST).save("sub/fused.onnx")
    assert names_in(tmp_path) >= {"fused.onnx", "sub/fused.onnx", "sub/fused.onnx.data"}
    assert "pred_mask" in run("sub/fused.onnx", {"image": IMAGE})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 nodes and 0 outputs"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 100, "(is not|Is this) an ONNX model"),
        (conv_model().SerializeToString()[:300], "is not an ONNX model"),
    ],
    ids=["empty", "png", "truncated"],
)
def test_files_that_are_not_models(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "raw.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        pp.RawModel.open(path)


def test_paths_that_are_not_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        pp.RawModel.open(tmp_path / "nowhere.onnx")
    with pytest.raises(ModelError, match="is a folder, expected an ONNX file"):
        pp.RawModel.open(tmp_path)


def test_gigabytes_of_weights_are_not_read(tmp_path: Path) -> None:
    """Weights of 1 GB in a sparse file: fusing must need memory for the graph only."""
    side = 16384
    with (tmp_path / "w.bin").open("wb") as stream:
        stream.truncate(side * side * 4)
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[side, side], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "w.bin"), ("offset", 0), ("length", side * side * 4)):
        weight.external_data.add(key=key, value=str(value))
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("ReduceMax", ["h"], ["s"], axes=[1], keepdims=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", side])],
        [helper.make_tensor_value_info("s", TensorProto.FLOAT, ["N", 1])],
        [weight],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "raw.onnx"
    )
    # A separate process, because other tests set the peak memory of this one.
    code = (
        "import resource, sys, numpy, onnx_ir.passes.common\n"
        "import pp_graph as pp\n"
        "level = pp.LevelStatistics(threshold=1.0, min=0.0, max=2.0)\n"
        "post = pp.OneClassPostProcessor(pp.Statistics(image=level, pixel=level))\n"
        "pp.fuse, pp.RawModel\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "pp.fuse('raw.onnx', post).save('fused.onnx')\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60, "MiB on top of the imports"
    assert (tmp_path / "fused.onnx").stat().st_size < 10_000


def test_linked_weights_are_copied(tmp_path: Path) -> None:
    """Runtimes do not follow links out of the model's folder, such as those in a hub's cache."""
    real = external(tmp_path / "blobs")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in ("raw.onnx", "weights.bin"):
        (snapshot / name).symlink_to(tmp_path / "blobs" / name)
    target = pp.fuse(snapshot / "raw.onnx", POST).save(snapshot / "fused.onnx")
    assert (snapshot / "fused.onnx.data").exists()
    assert "pred_mask" in run(str(target), {"image": IMAGE})
    assert pp.verify(real, pp.convert(pp.fuse(snapshot / "raw.onnx", POST)), IMAGE).passed


def test_saving_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    external(tmp_path / "a")
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    fused = pp.fuse("raw.onnx", POST)
    monkeypatch.chdir(tmp_path / "b")
    fused.save("fused.onnx")
    assert "pred_mask" in run("fused.onnx", {"image": IMAGE})


def test_weights_of_a_model_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = external(tmp_path / "a")
    proto = onnx.load(raw, load_external_data=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"The model in memory keeps weight 'w1' in 'weights\.bin', which is not in"):
        pp.fuse(proto, POST)
    monkeypatch.chdir(tmp_path / "a")
    assert "pred_mask" in run(str(pp.fuse(proto, POST).save("fused.onnx")), {"image": IMAGE})


def test_checksums_of_weights_survive(tmp_path: Path) -> None:
    raw = external(tmp_path)
    model = onnx.load(raw, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data.add(key="checksum", value="0123")
    raw.write_bytes(model.SerializeToString())
    fused = pp.fuse(raw, POST).save(tmp_path / "fused.onnx")
    assert pp.strip(fused).save(tmp_path / "again.onnx").read_bytes() == raw.read_bytes()


def test_devices_and_pipes_are_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    fused = pp.fuse(conv_model(), POST)
    with pytest.raises(OutputFileError, match="is a device or pipe"):
        fused.save(pipe)
    assert pipe.is_fifo()
    with pytest.raises(ModelError, match="is a device or pipe, expected an ONNX file"):
        pp.RawModel.open(pipe)


@pytest.mark.parametrize("ending", [".json", ".pbtxt", ".xml", ".onnxtxt"])
def test_extensions_of_other_formats(tmp_path: Path, ending: str) -> None:
    with pytest.raises(OutputFileError, match=r"expected '\.onnx'"):
        pp.fuse(conv_model(), POST).save(tmp_path / f"fused{ending}")
