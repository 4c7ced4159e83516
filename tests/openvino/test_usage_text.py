"""The text beside a converted model: its programs run, and nothing in it goes stale."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.errors import OutputFileError
from pp_graph.openvino import OpenVINOModel
from pp_graph.openvino.usage import renamed_usage, usage_path, usage_text
from pp_graph.openvino.usage_tensors import ELEMENT_TYPES
from pp_graph.retuning import retune
from tests.conftest import DEMO
from tests.models import STATS, conv_model, from_text, identity_model, score_and_map

POST = pp.OneClassPostProcessor(STATS)


@dataclass(frozen=True)
class Case:
    """A model, what the table of its outputs says, and lines of the text."""

    raw: onnx.ModelProto | str
    outputs: dict[str, tuple[str, str]]
    says: tuple[str, ...] = ()
    post: pp.OneClassPostProcessor = POST
    fusing: dict[str, Any] = field(default_factory=dict)
    converting: dict[str, Any] = field(default_factory=dict)
    file: str = "model.xml"


def from_image(image: str, reduce: str, score: str) -> onnx.ModelProto:
    return from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        raw (float[{image}] image) => (float score, float heat) {{
            heat = ReduceMean<{reduce}>(image)
            score = ReduceMax<{score}>(heat)
        }}"""
    )


def odd_names() -> onnx.ModelProto:
    """Names that no language takes as they are, and a half-precision input."""
    names = {"in|0: `class`": "heat/map:0", "für 'x' \"y\"": "score\\level"}
    nodes = [helper.make_node("Cast", [source], [target], to=TensorProto.FLOAT) for source, target in names.items()]
    shapes = {"heat/map:0": ["N", 1, 4, 4], "score\\level": ["N", 1]}
    ports = [
        [helper.make_tensor_value_info(name, kind, shapes[target]) for name, target in pairs]
        for kind, pairs in (
            (TensorProto.FLOAT16, list(names.items())),
            (TensorProto.FLOAT, [(target, target) for target in names.values()]),
        )
    ]
    graph = helper.make_graph(nodes, "raw", *ports)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def kept(*names: str, **settings: Any) -> pp.OneClassPostProcessor:
    return pp.OneClassPostProcessor(STATS, outputs=names or None, **settings)


ALL = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
BOTH = {"pred_score": "float32", "pred_label": "bool", "anomaly_map": "float32", "pred_mask": "bool"}


def shapes(score: str, heat: str) -> dict[str, tuple[str, str]]:
    return {name: (dtype, score if index < 2 else heat) for index, (name, dtype) in enumerate(BOTH.items())}


CASES: dict[str, Case] = {
    "demo": Case(
        str(DEMO / "raw.onnx"),
        shapes("(N, 1)", "(N, 1, 256, 256)"),
        ("| `image` | float32 | (N, 3, 256, 256) | N C H W |", "number of images in a batch, any", "`raw.onnx`, a raw"),
        post=pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json")),
    ),
    "sizes open": Case(
        conv_model(),
        shapes("(N, 1)", "(N, 1, H, W)"),
        ("| `image` | float32 | (N, 3, H, W) |", "Open as well: height, width", "np.zeros((1, 3, 256, 256), np.float32)"),
    ),
    "batch of four, score (N,), map (N,H,W)": Case(
        from_image("4,3,12,16", "axes=[1], keepdims=0", "axes=[1,2], keepdims=0"),
        shapes("(4,)", "(4, 12, 16)"),
        ("is fixed at 4: fill up", "np.zeros((4, 3, 12, 16), np.float32)", "ov::Shape{4, 3, 12, 16}"),
    ),
    "channels last": Case(
        from_image("N,12,16,3", "axes=[3], keepdims=1", "axes=[1,2,3], keepdims=0"),
        shapes("(N,)", "(N, 12, 16, 1)"),
        ("| `image` | float32 | (N, 12, 16, 3) | N H W C |", "put your own here: N, H, W, C"),
    ),
    "several inputs": Case(
        score_and_map(),
        shapes("(N, 1)", "(N, 1, H, W)"),
        ("| `level` | float32 | (N, 1) | N ? |", 'model({"image": image, "level": level})'),
    ),
    "no map": Case(
        identity_model({"score": ["N"]}),
        {"pred_score": ("float32", "(N,)"), "pred_label": ("bool", "(N,)")},
        ("pp-graph retune model.xml --image-sensitivity",),
    ),
    "label and mask": Case(
        conv_model(),
        {"pred_label": ("bool", "(N, 1)"), "pred_mask": ("bool", "(N, 1, H, W)")},
        post=kept("pred_label", "pred_mask"),
    ),
    "the mask only": Case(
        conv_model(), {"pred_mask": ("bool", "(N, 1, H, W)")}, ("print(pred_mask.shape)",), post=kept("pred_mask")
    ),
    "no decisions": Case(
        conv_model(),
        {"pred_score": ("float32", "(N, 1)"), "anomaly_map": ("float32", "(N, 1, H, W)")},
        ("Post-processing is in it:",),
        post=kept(threshold=False),
    ),
    "not normalised": Case(
        conv_model(),
        shapes("(N, 1)", "(N, 1, H, W)"),
        ("| that of the raw model | anomaly score of each image as the network gives it, not normalised |",),
        post=kept(normalize=False),
    ),
    "raw outputs": Case(
        conv_model(),
        {
            **shapes("(N, 1)", "(N, 1, H, W)"),
            "raw_pred_score": ("float32", "(N, 1)"),
            "raw_anomaly_map": ("float32", "(N, 1, H, W)"),
        },
        ("raw value, output `anomaly_map` of the raw model",),
        fusing={"keep_raw": True},
    ),
    "another output": Case(
        identity_model({"pred_score": ["N"], "anomaly_map": ["N", 1, 8, 8], "features": ["N", 5, 7]}),
        {**shapes("(N,)", "(N, 1, 8, 8)"), "features": ("float32", "(N, 5, 7)")},
        ("further output of the raw model, unchanged",),
    ),
    "for a GPU, f16": Case(
        conv_model(),
        shapes("(N, 1)", "(N, 1, H, W)"),
        ("A GPU runs the network in f16", "network's weights in f16 and the post-processing's in f32", "--device GPU.1"),
        converting={"device": "GPU.1", "precision": "f16"},
    ),
    "for an NPU": Case(
        conv_model(),
        shapes("(1, 1)", "(1, 1, 64, 64)"),
        ("NPU computes the network in f16, and there is nothing to choose", 'compile_model("model.xml", "NPU", {"PERFORMANCE_HINT": "LATENCY"})'),
        converting={"device": "NPU", "input_shape": (1, 3, 64, 64)},
    ),
    "odd names": Case(
        odd_names(),
        shapes("(N, 1)", "(N, 1, 4, 4)"),
        ("| `` in\\|0: `class` `` | float16 |", "pp-graph retune 'a \"b\" ü.xml' --image-sensitivity"),
        file='a "b" ü.xml',
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every model with its text, each in a folder of its own."""
    paths = {}
    for name, case in CASES.items():
        fused = pp.fuse(case.raw, case.post, **case.fusing)
        folder = tmp_path_factory.mktemp("usage")
        paths[name] = pp.convert(fused, **case.converting).save(folder / case.file)
    return paths


def execute(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)\n```$", usage_path(path).read_text("utf-8"), re.DOTALL | re.MULTILINE)


def table(text: str, title: str) -> list[list[str]]:
    section = text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


@pytest.mark.parametrize("name", CASES)
def test_ports(name: str, written: dict[str, Path]) -> None:
    case, path = CASES[name], written[name]
    assert usage_path(path).name == f"{path.stem}.usage.md"
    text = usage_path(path).read_text("utf-8")
    found = {row[0].strip("`"): (row[1], row[2]) for row in table(text, "What comes out")}
    assert found == case.outputs
    for line in (*case.says, f"# `{path.name}`", f"`{path.stem}.bin`"):
        assert line in text, line
    decides = "pred_label" in found or "pred_mask" in found
    assert ("It decides by itself" in text) == ("NaN from the network counts as anomalous" in text) == decides
    commands = "".join(blocks(path, "bash"))
    adjustable = decides and name != "not normalised"
    assert ("--image-sensitivity" in commands) == (adjustable and "pred_label" in found)
    assert ("--pixel-sensitivity" in commands) == (adjustable and "pred_mask" in found)


@pytest.mark.sample(every=9)
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "device" not in case.converting])
def test_python_program(name: str, written: dict[str, Path], tmp_path: Path) -> None:
    """As it stands, and on inputs of one's own: it gives what our session gives."""
    path = written[name]
    program = blocks(path, "python")[0]
    assert len(program.splitlines()) <= 18
    shutil.copy(path, tmp_path / path.name)
    shutil.copy(path.with_suffix(".bin"), tmp_path / f"{path.stem}.bin")
    session = OpenVINOModel.load(path).session()
    made = re.findall(r"^(\w+) = (np\.zeros\(\((.*?)\), np\.(\w+)\))", program, re.MULTILINE)
    rng = np.random.default_rng(0)
    feeds = {}
    for port, (variable, zeros, sizes, dtype) in zip(session.inputs, made, strict=True):
        shape = [int(size) for size in sizes.split(",") if size.strip()]
        feeds[port.name] = rng.normal(0.7, 0.9, shape).astype(dtype)
        np.save(tmp_path / f"{variable}.npy", feeds[port.name])
        program = program.replace(f"{variable} = {zeros}", f'{variable} = np.load("{variable}.npy")')
    if name == "demo":
        from pp_graph.data import open_images

        images = open_images(DEMO / "images")
        feeds = images.read(0, len(images), session.inputs)
        np.save(tmp_path / "image.npy", feeds["image"])
    program += "\nnp.savez('found.npz', *[results[index] for index in range(len(results))])"
    for code in (blocks(path, "python")[0], program):
        done = execute(sys.executable, "-W", "error", "-c", code, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
    expected = session.run(feeds)
    with np.load(tmp_path / "found.npz") as found:
        assert len(found.files) == len(CASES[name].outputs)
        for output, array in zip(CASES[name].outputs, found.values(), strict=True):
            assert array.dtype == CASES[name].outputs[output][0]
            assert array.shape == expected[output].shape
            assert np.array_equal(array, expected[output]), output
    if name == "demo":
        assert 0 < expected["pred_label"].sum() < len(images)


def cpp_setup() -> tuple[str, list[str], Path]:
    """Compiler, flags, and OpenVINO's library folder; or a skip with what is missing."""
    import openvino

    compiler = shutil.which("g++") or shutil.which("clang++")
    folder = Path(openvino.__file__).parent
    if compiler is None or not (folder / "include" / "openvino" / "openvino.hpp").is_file():
        pytest.skip(f"no C++ {'compiler' if compiler is None else 'headers of OpenVINO'} here")
    return compiler, ["-std=c++17", "-isystem", str(folder / "include")], folder / "libs"


# Compiling takes seconds a program; those left out differ from these and from those that run in sizes and names only.
CPP = ("the mask only", "for an NPU", "raw outputs")


@pytest.mark.slow
@pytest.mark.parametrize("name", CPP)
def test_cpp_program_compiles(name: str, written: dict[str, Path], tmp_path: Path) -> None:
    compiler, flags, _ = cpp_setup()
    (tmp_path / "main.cpp").write_text(blocks(written[name], "cpp")[0], "utf-8")
    done = execute(compiler, *flags, "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "main.cpp", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("name", ["demo", "odd names"])
def test_cpp_program_runs(name: str, written: dict[str, Path], tmp_path: Path) -> None:
    compiler, flags, libraries = cpp_setup()
    library = next(iter(libraries.glob("libopenvino.so*")), None)
    if library is None:
        pytest.skip("OpenVINO's library cannot be linked to here")
    path = written[name]
    (tmp_path / "main.cpp").write_text(blocks(path, "cpp")[0], "utf-8")
    linking = [str(library), f"-Wl,-rpath,{libraries},-rpath-link,{libraries}"]
    done = execute(compiler, *flags, "-Wall", "-Wextra", "-Werror", "main.cpp", *linking, "-o", "main", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = execute(str(tmp_path / "main"), cwd=path.parent)
    assert done.returncode == 0, done.stderr
    session = OpenVINOModel.load(path).session()
    sizes = [
        re.search(r"np\.zeros\((\(.*?\)),", line) for line in blocks(path, "python")[0].splitlines() if "zeros" in line
    ]
    feeds = {
        port.name: np.zeros([int(size) for size in found[1].strip("()").split(",") if size.strip()], port.dtype)
        for port, found in zip(session.inputs, sizes, strict=True)
    }
    expected = session.run(feeds)
    score, label = done.stdout.split()
    np.testing.assert_allclose(float(score), expected["pred_score"].ravel()[0], rtol=1e-4)
    assert label == str(int(expected["pred_label"].ravel()[0]))


@pytest.mark.slow
def test_every_element_type_has_its_cpp_type(tmp_path: Path) -> None:
    """`Tensor::data<T>()` throws for a different type than the tensor's; here the compiler's own table is asked."""
    compiler, flags, _ = cpp_setup()
    asserts = "\n".join(
        f"static_assert(std::is_same_v<{'char' if kind == 'boolean' else name}, "
        f"ov::fundamental_type_for<ov::element::Type_t::{kind}>>);"
        for kind, (_, name) in ELEMENT_TYPES.items()
    )
    text = f"#include <openvino/openvino.hpp>\n#include <type_traits>\n{asserts}\nint main() {{}}\n"
    (tmp_path / "main.cpp").write_text(text)
    done = execute(compiler, *flags, "-fsyntax-only", "main.cpp", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


# --- it does not go stale ---


@pytest.mark.parametrize("name", CASES)
def test_retuning_leaves_the_text_true(name: str, written: dict[str, Path]) -> None:
    artifact = OpenVINOModel.load(written[name])
    stats = pp.Statistics(
        image=pp.LevelStatistics(threshold=7.25, min=1.5, max=13.0),
        pixel=pp.LevelStatistics(threshold=5.75, min=1.5, max=12.5),
    )
    moves = {"pred_label": {"image_sensitivity": 0.3}, "pred_mask": {"pixel_sensitivity": 0.8}}
    shift = (
        {}
        if name == "not normalised"
        else {key: value for decision in artifact.provenance.cutoffs for key, value in moves[decision].items()}
    )
    tuned = retune(artifact, stats, **shift)
    text = usage_path(written[name]).read_text("utf-8")
    assert usage_text(tuned.network, tuned.provenance, written[name].name) == text
    # And that of a model of another name is this text with the other name.
    for other in ("line 3.xml", "retuned.xml", "x-model.xml"):
        assert renamed_usage(text, written[name].name, other) == usage_text(tuned.network, tuned.provenance, other)


def test_where_the_text_lies() -> None:
    for path, expected in {"a/m.xml": "a/m.usage.md", "m.v2.XML": "m.v2.usage.md"}.items():
        assert usage_path(path) == Path(expected)


# --- files ---


def test_a_text_of_another_is_not_overwritten(demo_fused_path: Path, tmp_path: Path) -> None:
    artifact = pp.convert(demo_fused_path)
    foreign = tmp_path / "model.usage.md"
    foreign.write_text("precious")
    with pytest.raises(OutputFileError, match=r"model\.usage\.md' exists already. Use --force"):
        artifact.save(tmp_path / "model.xml")
    assert [file.name for file in tmp_path.iterdir()] == ["model.usage.md"]
    assert foreign.read_text() == "precious"
    artifact.save(tmp_path / "model.xml", overwrite=True)
    assert "An OpenVINO model" in foreign.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.bin", "model.usage.md", "model.xml"]


def test_all_three_files_or_none(demo_fused_path: Path, tmp_path: Path) -> None:
    artifact = pp.convert(demo_fused_path)
    (tmp_path / "model.usage.md").mkdir()
    with pytest.raises(OutputFileError, match=r"model\.usage\.md' is a folder"):
        artifact.save(tmp_path / "model.xml")
    assert [file.name for file in tmp_path.iterdir()] == ["model.usage.md"]


def test_command_line(
    demo_fused_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    convert = ["convert", str(demo_fused_path), "-o", "model.xml"]
    assert run(convert) == 0
    assert re.search(r"^  usage +model\.usage\.md$", capfd.readouterr().out, re.MULTILINE)
    assert run([*convert, "--force", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["usage"] == "model.usage.md"
    Path("other.usage.md").write_text("precious")
    tune = ["retune", "model.xml", "--image-sensitivity", "0.6", "-o", "other.xml"]
    assert run(tune) == 2
    assert "other.usage.md' exists already" in capfd.readouterr().err
    assert not Path("other.xml").exists()
    assert not Path("other.bin").exists()
    assert run([*tune, "--force"]) == 0
    assert Path("other.usage.md").read_text() == renamed_usage(
        Path("model.usage.md").read_text(), "model.xml", "other.xml"
    )


def test_calibrate_finds_out_beforehand(
    demo_ir_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tuned.usage.md").write_text("precious")
    images = str(DEMO / "images")
    assert run(["calibrate", str(demo_ir_path), "--data", images, "--retune", "tuned.xml", "-o", "own.json"]) == 2
    assert "tuned.usage.md' exists already" in capfd.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["tuned.usage.md"]
