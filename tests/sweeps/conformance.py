"""Fuse, run, convert and strip a case: each of its outputs with each fitting post-processor."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

import pp_graph as pp
from pp_graph.errors import OpsetError, PPGraphError
from pp_graph.steps import Compare, EncodeDecision, InvertDecision, Keep
from tests.sweeps.raw_runs import brief, close, difference, equal, read_values, runner, steady

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.sweeps.onnx_cases import Case

KINDS: Final = ("right", "refused", "raw not runnable", "runtime", "wrong", "crashed")
"""What an attempt can show. `runtime`: the raw model alone, measured, differs in this runtime in the same way."""
_AXES: Final = "KPTCWNH"  # the batch is not first: the first size of a node case is anything
_RAISED: Final = (13, 18)
"""Opsets for the models that are too old, where raising them changes no bit."""
_STEADY_RUNS: Final = 5
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


class Stage:
    """The part of a case that runs; a parent process reads it if the worker ends."""

    def __init__(self, *, printed: bool) -> None:
        self.printed = printed

    def __call__(self, name: str) -> None:
        if self.printed:
            print(f"> {name}", flush=True)


class Tried(Exception):
    """A result that ends an attempt: kind, stage and reason."""

    def __init__(self, kind: str, stage: str, reason: str) -> None:
        super().__init__(kind, stage, reason)
        self.record = {"kind": kind, "stage": stage, "reason": reason}


def fitting_posts(dtype: str, shape: tuple[int, ...]) -> dict[str, tuple[pp.PostProcessor, str]]:
    """Post-processors for an output, with the role it takes, by name."""
    rank = len(shape)
    axes = (_AXES[:rank],) if rank else ("N",)  # no role has rank 0: this is refused
    steps: list[Any] = [Keep("value", "pp_kept"), Compare("value", "pp_above", level=0.25)]
    if dtype == "bool":
        steps = [InvertDecision("value", "pp_other"), EncodeDecision("value", "pp_bytes")]
    elif dtype != "float32":
        steps = [Keep("value", "pp_kept")]
    recipe = pp.RecipePostProcessor(
        recipe=tuple(steps),
        roles=(pp.Role("value", axes, dtype=dtype),),
        declared_outputs=tuple(pp.Output(step.target) for step in steps),
    )
    posts: dict[str, tuple[pp.PostProcessor, str]] = {"recipe": (recipe, "value")}
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


def try_case(case: Case, folder: Path, stage: Stage) -> Iterator[dict[str, str]]:
    """Try a case: each of its outputs with each fitting post-processor, with embedded and with external weights.

    Yields:
        `kind` (one of `KINDS`), `runtime`, `output`, `post`, `stage`, `reason`.
    """
    for form in ("embedded", "external"):
        raw = folder / form / "raw.onnx"
        raw.parent.mkdir()
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        if form == "external":
            _store_as_bytes(model)
            convert_model_to_external_data(model, location="raw.data", size_threshold=0, convert_attribute=True)
            onnx.save(model, raw)
            if not (raw.parent / "raw.data").exists():
                return
        else:
            raw.write_bytes(model.SerializeToString())
        yield from _try_file(case, raw, form, stage)


def _store_as_bytes(model: onnx.ModelProto) -> None:
    """Write numbers as bytes, because onnx moves no others to another file."""
    attributes = [attribute.t for node in model.graph.node for attribute in node.attribute if attribute.HasField("t")]
    for tensor in (*model.graph.initializer, *attributes):
        if tensor.data_type != onnx.TensorProto.STRING:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))


def _try_file(case: Case, raw: Path, form: str, stage: Stage) -> Iterator[dict[str, str]]:
    stage("raw")
    expected, name = _raw_values(raw, ("onnxruntime", "reference"), case.feeds)
    if expected is None:
        yield {"kind": "raw not runnable", "runtime": "-", "form": form, "stage": "raw", "reason": name}
        return
    stage("raw OpenVINO")
    in_openvino, why = _raw_values(raw, ("openvino",), case.feeds)
    for output in case.model.graph.output:
        value = expected.get(output.name)
        kind = onnx.TensorProto.DataType.Name(output.type.tensor_type.elem_type)
        if not isinstance(value, np.ndarray) or not output.type.HasField("tensor_type") or kind not in _NUMBERS:
            continue
        for label, (post, role) in fitting_posts(_NUMBERS[kind], value.shape).items():
            about = {"form": form, "output": output.name, "post": label}
            outputs = {each.name for each in case.model.graph.output}
            attempt = _Attempt(raw, post, {role: output.name}, case.feeds, outputs, stage)
            yield {**about, "runtime": name, **attempt.result(attempt.in_onnx, name, expected)}
            if in_openvino is None:
                result = {"kind": "raw not runnable", "stage": "raw", "reason": why}
            elif attempt.fused is None:
                continue
            else:
                result = attempt.result(attempt.in_openvino, in_openvino)
            yield {**about, "runtime": "openvino", **result}


def _raw_values(raw: Path, runtimes: tuple[str, ...], feeds: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return the outputs of the raw model in the first runtime that runs it, and its name; or None and why."""
    problems = []
    for runtime in runtimes:
        try:
            return runner(raw, runtime)(feeds), runtime
        except Exception as error:  # runtimes have no common base
            problems.append(f"{runtime}: {brief(error)}")
    return None, problems[0]


@dataclass
class _Attempt:
    raw: Path
    post: pp.PostProcessor
    roles: dict[str, str]
    feeds: Mapping[str, Any]
    outputs: set[str]
    stage: Stage
    fused: Any = None
    now: str = ""

    def result(self, attempt: Any, *arguments: Any) -> dict[str, str]:
        try:
            attempt(*arguments)
        except Tried as result:
            return result.record
        except PPGraphError as error:
            # A model that fuse accepted can be saved, inspected and stripped.
            kind = "wrong" if self.now in ("save", "inspect", "strip", "strip a changed model") else "refused"
            return {"kind": kind, "stage": self.now, "reason": brief(error)}
        except Exception as error:
            return {"kind": "crashed", "stage": self.now, "reason": brief(error)}
        return {"kind": "right", "stage": "", "reason": ""}

    def at(self, stage: str) -> None:
        self.now = stage
        self.stage(stage)

    def in_onnx(self, runtime: str, expected: Mapping[str, Any]) -> None:
        self.at("fuse")
        fused = self._fuse()
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
        self.at("strip a changed model")
        changed = onnx.load(path, load_external_data=False)
        changed.graph.doc_string += "changed"
        path.with_name("changed.onnx").write_bytes(changed.SerializeToString())
        if runtime == "onnxruntime":  # which checks what strip returns
            pp.strip(path.with_name("changed.onnx"))
        self.at("run")
        self._compare(runtime, runner(path, runtime)(self.feeds), expected)

    def _fuse(self) -> Any:
        for opset in (None, *_RAISED):
            try:
                return pp.fuse(self.raw, self.post, roles=self.roles, keep_raw=True, raise_opset=opset)
            except OpsetError as error:
                refusal = error
        raise refusal

    def in_openvino(self, expected: Mapping[str, Any]) -> None:
        self.at("convert")
        artifact = pp.convert(self.fused)
        path = self.raw.with_name("model.xml")
        self.at("save OpenVINO")
        artifact.save(path, overwrite=True)
        self.at("load OpenVINO")
        session = pp.open(path).session("CPU")
        self.at("run OpenVINO")
        names = {each.name for each in session.inputs}  # OpenVINO drops some that nothing reads
        fed = {name: np.asarray(value) for name, value in self.feeds.items() if name in names}
        self._compare("openvino", session.run(fed), expected)

    def _compare(self, runtime: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        record = self.fused.provenance
        named = {old: new for new, old in record.raw.renamed.items()}
        same = close if record.tail else equal
        kept = {name: found[named.get(name, name)] for name in self.outputs & expected.keys()}
        unlike = [name for name, value in kept.items() if not same(value, expected[name])]
        if unlike:
            again = steady(self.raw, runtime, self.feeds, _STEADY_RUNS)
            lasting = [name for name in unlike if name in again]
            if lasting:
                raise Tried("wrong", f"raw output in {runtime}", difference(kept[lasting[0]], expected[lasting[0]]))
        program = self.fused.program
        values = {
            role: found[read.tensor].astype(program.signature[role].dtype) for role, read in record.raw.read.items()
        }
        problem = self._unlike_numpy(found, values)
        if problem is None and unlike:
            raise Tried("runtime", f"raw output in {runtime}", "the raw model returns other numbers in each session")
        if problem is None:
            return
        # A runtime may round or clip an output, unlike the value that an operator reads.
        roles = {role: (read.name, program.signature[role].dtype) for role, read in record.raw.read.items()}
        read_as = read_values(self.raw, runtime, self.feeds, roles)
        if self._unlike_numpy(found, read_as) is None:
            reason = "the raw model returns other numbers than its operators read"
            raise Tried("runtime", f"post-processing in {runtime}", reason)
        raise Tried("wrong", f"{problem[0]} in {runtime}", problem[1])

    def _unlike_numpy(self, found: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return the first output that differs from NumPy on raw values, and how; None if none does."""
        program = self.fused.program
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            twins = program.run(dict(values))
        for output in program.outputs:
            own, twin = found[output.name], np.asarray(twins[output.name])
            exact = output.dtype != "float32" or output.name.startswith("pp_")
            if own.dtype != twin.dtype or not (equal if exact else close)(own, twin):
                return f"'{output.name}'", difference(own, twin)
        return None
