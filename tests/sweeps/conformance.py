"""Fuse, run, convert and strip the models that ship with onnx: its node cases and its light, simple and pytorch models.

    python -m tests.sweeps.conformance [--match TEXT] [--json result.json] [--markdown table.md]

Each case runs in a worker process with limits, because a runtime may end the whole process on a model.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import resource
import subprocess
import sys
import tempfile
import threading
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

import pp_graph as pp
from pp_graph.errors import OpsetError, PPGraphError
from pp_graph.steps import Compare, EncodeDecision, InvertDecision, Keep

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Array = np.ndarray[Any, Any]

SHIPPED: Final = Path(onnx.__file__).parent / "backend" / "test" / "data"
_KINDS: Final = ("simple", "pytorch-converted", "pytorch-operator")
_AXES: Final = "KPTCWNH"  # the batch is not first: the first size of a node case is anything
_SECONDS: Final = 300
_RAISED: Final = 13
"""Opset for the models that are too old, where raising it changes no bit."""
_BYTES: Final = 12 * 2**30
_NUMBERS: Final = {
    "FLOAT": "float32",
    "FLOAT16": "float32",
    "BFLOAT16": "float32",
    "DOUBLE": "float32",
    "BOOL": "bool",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
}


@dataclass(frozen=True)
class Case:
    """A model with one set of inputs; None for an input without a value."""

    name: str
    model: onnx.ModelProto
    feeds: dict[str, Any]


class Stage:
    """The part of a case that runs; a parent process reads it if the worker ends."""

    def __init__(self, *, printed: bool) -> None:
        self.printed = printed

    def __call__(self, name: str) -> None:
        if self.printed:
            print(f"> {name}", flush=True)


def shipped_names() -> list[str]:
    """Names of the models that the wheel holds as files."""
    light = sorted(path.stem for path in (SHIPPED / "light").glob("*.onnx"))
    return [*(f"{kind}/{path.name}" for kind in _KINDS for path in sorted((SHIPPED / kind).iterdir())), *light]


def shipped_case(name: str) -> Case:
    """Read a model that the wheel holds as a file. Light models come without inputs."""
    if "/" not in name:
        model = onnx.load(SHIPPED / "light" / f"{name}.onnx")
        rng = np.random.default_rng(0)
        weights = {tensor.name for tensor in model.graph.initializer}
        shapes = {
            value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
            for value in model.graph.input
            if value.name not in weights
        }
        return Case(name, model, {key: rng.random(shape, np.float32) for key, shape in shapes.items()})
    model = onnx.load(SHIPPED / name / "model.onnx")
    weights = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in weights]
    files = [SHIPPED / name / "test_data_set_0" / f"input_{place}.pb" for place in range(len(values))]
    fed = {value.name: _read(value.type, file) for value, file in zip(values, files, strict=True) if file.exists()}
    return Case(name, model, fed)


def _fed(value: Any) -> Any:
    """Return a value of the node cases, which hold types that NumPy lacks as protobuf."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _read(declared: onnx.TypeProto, file: Path) -> Any:
    if declared.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(file.read_bytes()))
    return numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes()))


@functools.cache
def node_cases() -> dict[str, Case]:
    """All node cases, by name. Takes some five seconds."""
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collected = node.collect_testcases(None)
    cases = {}
    for each in collected:
        given = each.data_sets[0][0]
        feeds = {value.name: _fed(array) for value, array in zip(each.model.graph.input, given, strict=False)}
        cases[f"node/{each.name}"] = Case(f"node/{each.name}", each.model, feeds)
    return cases


def find_case(name: str) -> Case:
    """Return a case by name."""
    return node_cases()[name] if name.startswith("node/") else shipped_case(name)


def fitting_posts(dtype: str, shape: tuple[int, ...]) -> dict[str, tuple[pp.PostProcessor, str]]:
    """Post-processors for an output, with the role it takes, by name."""
    rank = len(shape)
    axes = (_AXES[:rank],) if rank else ("N",)
    steps: list[Any] = [Keep("value", "pp_kept"), Compare("value", "pp_above", level=0.25)]
    if dtype == "bool":
        steps = [InvertDecision("value", "pp_other"), EncodeDecision("value", "pp_bytes")]
    elif dtype != "float32":
        steps = [Keep("value", "pp_kept")]
    posts: dict[str, tuple[pp.PostProcessor, str]] = {
        "recipe": (
            pp.RecipePostProcessor(
                recipe=tuple(steps),
                roles=(pp.Role("value", axes, dtype=dtype),),
                declared_outputs=tuple(pp.Output(step.target) for step in steps),
            ),
            "value",
        )
    }
    level = pp.LevelStatistics(threshold=0.3, min=-0.5, max=1.5)
    anomaly = pp.OneClassPostProcessor(pp.Statistics(image=level, pixel=level))
    if dtype == "float32" and (rank == 1 or (rank == 2 and shape[1] == 1)):
        posts["score"] = anomaly, "raw_score"
    elif dtype == "float32" and rank == 2:
        posts["classification"] = pp.ClassificationPostProcessor(unknown_below=0.4), "raw_logits"
    elif dtype == "float32" and rank == 4:
        if shape[1] == 1:
            posts["map"] = anomaly, "raw_map"
        posts["segmentation"] = pp.SegmentationPostProcessor(), "raw_logits"
    return posts


class Tried(Exception):
    """A result that ends an attempt: kind, stage and reason."""

    def __init__(self, kind: str, stage: str, reason: str) -> None:
        super().__init__(kind, stage, reason)
        self.record = {"kind": kind, "stage": stage, "reason": reason}


def try_case(case: Case, folder: Path, stage: Stage) -> Iterator[dict[str, str]]:
    """Try a case: each of its outputs with each fitting post-processor, with embedded and with external weights.

    Yields:
        `kind` (right, refused, raw not runnable, wrong, crashed), `runtime`, `output`, `post`, `stage`, `reason`.
    """
    for form in ("embedded", "external"):
        raw = folder / form / "raw.onnx"
        raw.parent.mkdir()
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        if form == "external":
            convert_model_to_external_data(model, location="raw.data", size_threshold=0, convert_attribute=True)
            onnx.save(model, raw)
            if not (raw.parent / "raw.data").exists():
                return
        else:
            raw.write_bytes(model.SerializeToString())
        yield from _try_file(case, raw, form, stage)


def _try_file(case: Case, raw: Path, form: str, stage: Stage) -> Iterator[dict[str, str]]:
    stage("raw")
    run, name = _raw_runner(raw, case)
    if run is None:
        yield {"kind": "raw not runnable", "runtime": "-", "form": form, "stage": "raw", "reason": name}
        return
    expected = run(case.feeds)
    again = run(case.feeds)
    stage("raw OpenVINO")
    openvino, why = _openvino_raw(raw, case.feeds)
    names = {output.name for output in case.model.graph.output}
    for output in case.model.graph.output:
        value = expected[output.name]
        kind = onnx.TensorProto.DataType.Name(output.type.tensor_type.elem_type)
        if not isinstance(value, np.ndarray) or not output.type.HasField("tensor_type") or kind not in _NUMBERS:
            continue
        for label, (post, role) in fitting_posts(_NUMBERS[kind], value.shape).items():
            about = {"form": form, "output": output.name, "post": label}
            steady = {key: each for key, each in expected.items() if _equal(each, again[key])}
            attempt = _Attempt(raw, post, {role: output.name}, case.feeds, names, stage)
            yield {**about, "runtime": name, **attempt.result(attempt.in_onnx, name, steady)}
            if openvino is None:
                result = {"kind": "raw not runnable", "stage": "raw", "reason": why}
            elif attempt.fused is None:
                continue
            else:
                result = attempt.result(attempt.in_openvino, openvino)
            yield {**about, "runtime": "openvino", **result}


def _raw_runner(raw: Path, case: Case) -> tuple[Any, str]:
    """Return a function that runs the raw model in onnxruntime or else in onnx's evaluator, and the runtime's name."""
    problems = []
    for name in ("onnxruntime", "reference"):
        try:
            run = _runner(raw, name)
            run(case.feeds)
        except Exception as error:  # runtimes have no common base
            problems.append(f"{name}: {_brief(error)}")
        else:
            return run, name
    return None, problems[0]


def _runner(path: Path, name: str) -> Any:
    if name == "reference":
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(str(path))

        def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                return dict(zip(evaluator.output_names, evaluator.run(None, dict(feeds)), strict=True))

        return run
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _openvino_raw(raw: Path, feeds: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    import openvino as ov

    if any(not isinstance(array, np.ndarray) or array.dtype.kind in "OUS" for array in feeds.values()):
        return None, "an input is no numeric tensor"
    try:
        core = ov.Core()
        compiled = core.compile_model(core.read_model(raw), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        if any("bf16" in str(port.element_type) for port in (*compiled.inputs, *compiled.outputs)):
            return None, "bfloat16, which OpenVINO's Python exchanges as float16"
        results = [compiled(dict(feeds), share_inputs=False) for _ in range(2)]
        found = [{n: np.array(r[port]) for port in compiled.outputs for n in port.names} for r in results]
    except Exception as error:
        return None, _brief(error)
    return {key: each for key, each in found[0].items() if _equal(each, found[1][key])}, ""


@dataclass
class _Attempt:
    raw: Path
    post: pp.PostProcessor
    roles: dict[str, str]
    feeds: Mapping[str, Any]
    outputs: set[str]
    stage: Stage
    fused: Any = None

    def result(self, attempt: Any, *arguments: Any) -> dict[str, str]:
        self.now = ""
        try:
            attempt(*arguments)
        except Tried as result:
            return result.record
        except PPGraphError as error:
            # A model that fuse accepted can be saved, inspected and stripped.
            kind = "wrong" if self.now in ("save", "inspect", "strip") else "refused"
            return {"kind": kind, "stage": self.now, "reason": _brief(error)}
        except Exception as error:
            return {"kind": "crashed", "stage": self.now, "reason": _brief(error)}
        return {"kind": "right", "stage": "", "reason": ""}

    def at(self, stage: str) -> None:
        self.now = stage
        self.stage(stage)

    def in_onnx(self, runtime: str, expected: Mapping[str, Any]) -> None:
        self.at("fuse")
        try:
            fused = pp.fuse(self.raw, self.post, roles=self.roles, keep_raw=True)
        except OpsetError:
            fused = pp.fuse(self.raw, self.post, roles=self.roles, keep_raw=True, raise_opset=_RAISED)
        self.at("save")
        path = self.raw.with_name("fused.onnx")
        fused.save(path, overwrite=True)
        self.fused = fused
        self.at("inspect")
        pp.inspect(path)
        self.at("strip")
        stripped = pp.strip(path).save(self.raw.with_name("stripped.onnx"), overwrite=True)
        if stripped.read_bytes() != self.raw.read_bytes():
            raise Tried("wrong", "strip", "bytes differ")
        self.at("run")
        self._compare(runtime, _runner(path, runtime)(self.feeds), expected)

    def in_openvino(self, expected: Mapping[str, Any]) -> None:
        self.at("convert")
        artifact = pp.convert(self.fused)
        path = self.raw.with_name("model.xml")
        self.at("save OpenVINO")
        artifact.save(path, overwrite=True)
        self.at("load OpenVINO")
        session = pp.open(path).session("CPU")
        self.at("run OpenVINO")
        self._compare("openvino", session.run(self.feeds), expected)

    def _compare(self, runtime: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        record = self.fused.provenance
        named = {old: new for new, old in record.raw.renamed.items()}
        for name in self.outputs & expected.keys():  # OpenVINO gives a port further names
            value = expected[name]
            same = _close if record.tail else _equal
            if not same(found[named.get(name, name)], value):
                raise Tried("wrong", f"raw output in {runtime}", _difference(found[named.get(name, name)], value))
        program = self.fused.program
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = {
                role: found[read.tensor].astype(program.signature[role].dtype) for role, read in record.raw.read.items()
            }
            twins = program.run(values)
        for output in program.outputs:
            own, twin = found[output.name], np.asarray(twins[output.name])
            exact = output.dtype != "float32" or output.name.startswith("pp_")
            # Runtimes compute float16 in float32, and round it only where it is an output.
            narrow = {"float16": 2**-10, "bfloat16": 2**-7}.get(next(iter(program.signature.narrow.values()), ""))
            if narrow is not None and output.dtype == "float32":
                same = np.allclose(own, twin, rtol=narrow, atol=narrow, equal_nan=True)
            else:
                same = (_equal if exact else _close)(own, twin)
            if own.dtype != twin.dtype or not same:
                raise Tried("wrong", f"'{output.name}' in {runtime}", _difference(own, twin))


def _equal(one: Any, other: Any) -> bool:
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        if isinstance(one, list) and isinstance(other, list):
            return len(one) == len(other) and all(map(_equal, one, other))
        return bool(one is None and other is None) or bool(np.all(one == other))
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    same = one == other
    return bool(np.all(same | ((one != one) & (other != other))))


def _close(one: Any, other: Any) -> bool:
    """True if numbers agree within the tolerance of `pp.verify`, 1e-5 of the largest one."""
    if one.shape != other.shape:
        return False
    numbers = np.abs(other[np.isfinite(other)]) if other.dtype.kind == "f" else np.abs(other)
    scale = float(numbers.max()) if numbers.size else 1.0
    return bool(np.allclose(one, other, rtol=1e-5, atol=1e-5 * scale, equal_nan=True))


def _difference(one: Any, other: Any) -> str:
    if not (isinstance(one, np.ndarray) and isinstance(other, np.ndarray)):
        return f"{type(one).__name__} for {type(other).__name__}"
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"{one.dtype} {one.shape} for {other.dtype} {other.shape}"
    places = np.flatnonzero(((one != other) & ~((one != one) & (other != other))).ravel())
    return f"{places.size} of {one.size} differ, {one.ravel()[places[:1]]} for {other.ravel()[places[:1]]}"


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1] if 'openvino' in type(error).__module__ else lines[0]}"[:300]


def reason_kind(reason: str) -> str:
    """Shorten a reason to what cases have in common: no names, numbers or shapes."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", reason)
    return re.sub(r"\([^()]*\)|\d[\d,.]*", "…", text)[:110]


def work() -> None:
    """Try the cases that standard input names, one a line, and print results as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as folder:
            for record in try_case(find_case(line.strip()), Path(folder), Stage(printed=True)):
                print(f"= {json.dumps(record)}", flush=True)
        print(".", flush=True)


def sweep(names: list[str], *, progress: bool = False) -> list[dict[str, str]]:
    """Try cases in worker processes; a new one follows a worker that ended or took too long."""
    records: list[dict[str, str]] = []
    worker: subprocess.Popen[str] | None = None
    for place, name in enumerate(names):
        if worker is None:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.sweeps.conformance", "--worker"],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        assert worker.stdin is not None
        assert worker.stdout is not None
        alarm = threading.Timer(_SECONDS, worker.kill)
        alarm.start()
        stage = "start"
        worker.stdin.write(f"{name}\n")
        worker.stdin.flush()
        for line in worker.stdout:
            if line.startswith("> "):
                stage = line[2:].strip()
            elif line.startswith("= "):
                records.append({"case": name, **json.loads(line[2:])})
            elif line.startswith("."):
                break
        else:
            kind = "raw not runnable" if stage.startswith("raw") else "crashed"
            code = worker.wait()
            reason = f"the process ended with {code}"
            records.append({"case": name, "kind": kind, "runtime": "-", "stage": stage, "reason": reason})
            worker = None
        alarm.cancel()
        if progress and place % 100 == 99:
            print(f"{place + 1} of {len(names)}", flush=True)
    if worker is not None:
        assert worker.stdin is not None
        worker.stdin.close()
        worker.wait()
    return records


def table(records: list[dict[str, str]]) -> str:
    """Return the counts as Markdown."""
    kinds = ("right", "refused", "raw not runnable", "wrong", "crashed")
    runtimes = sorted({record["runtime"] for record in records})
    lines = [f"| runtime | {' | '.join(kinds)} |", "|---|" + "---|" * len(kinds)]
    counts = Counter((record["runtime"], record["kind"]) for record in records)
    lines += [f"| {each} | {' | '.join(str(counts[each, kind]) for kind in kinds)} |" for each in runtimes]
    reasons = Counter(
        (record["kind"], record["stage"], reason_kind(record["reason"])) for record in records if record["reason"]
    )
    lines += ["", "| kind | at | reason | times |", "|---|---|---|---|"]
    lines += [
        f"| {kind} | {stage} | {reason.replace('|', '/')} | {count} |"
        for (kind, stage, reason), count in sorted(reasons.items(), key=lambda each: (each[0][0], -each[1]))
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the sweep and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--match", default="")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    if arguments.worker:
        work()
        return
    names = [name for name in (*node_cases(), *shipped_names()) if re.search(arguments.match, name)]
    records = sweep(names, progress=True)
    print(f"{len(names)} models\n\n{table(records)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))
    if arguments.markdown:
        arguments.markdown.write_text(table(records) + "\n")


if __name__ == "__main__":
    main()
