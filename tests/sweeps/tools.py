"""Fused models through the tools of others: their decisions, and what strip, retune and verify then say.

    python -m tests.sweeps.tools [--match TEXT] [--json result.json] [--write]

`--write` replaces the table in docs/compatibility.md. Tools that are not installed are listed as not run. See
`OPENVINO_EP` and `NODE_MODULES` in `tool_list` for those that need an environment of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

import pp_graph as pp
from pp_graph.errors import PPGraphError
from tests.classifiers import classifier
from tests.detectors import CELLS, SIZE, detector, scene
from tests.models import conv_model, run
from tests.sweeps.tool_list import TOOLS, Array, Feeds, Tool

PAGE: Final = Path(__file__).parents[2] / "docs" / "compatibility.md"
COLUMNS: Final = ("decisions", "strip", "retune", "verify")
_SECONDS: Final = 600
_IMAGES: Final = 4


@dataclass(frozen=True)
class Kind:
    """A fused model of a kind, with what retune changes in it."""

    raw: Callable[[], onnx.ModelProto]
    post: Callable[[Array | None], pp.PostProcessor]
    change: dict[str, Any]


def _anomaly(**options: Any) -> Callable[[Array | None], pp.PostProcessor]:
    def post(heat: Array | None) -> pp.PostProcessor:
        assert heat is not None
        level = pp.LevelStatistics(
            threshold=float(np.quantile(heat, 0.97)), min=float(heat.min()), max=float(heat.max())
        )
        return pp.OneClassPostProcessor(pp.Statistics(image=level, pixel=level), **options)

    return post


KINDS: Final = {
    "anomaly": Kind(conv_model, _anomaly(), {"pixel_sensitivity": 0.6}),
    "classifier": Kind(
        lambda: classifier(4),
        lambda _: pp.ClassificationPostProcessor(top=2, unknown_below=0.5, multi_label=0.6),
        {"unknown_below": 0.7},
    ),
    "detector": Kind(
        lambda: detector((7, CELLS)),
        lambda _: pp.DetectionPostProcessor(confidence=0.3, max_detections=20),
        {"confidence": 0.6},
    ),
    "regions": Kind(lambda: conv_model(18), _anomaly(regions=5), {"pixel_sensitivity": 0.6}),
    "runtime thresholds": Kind(conv_model, _anomaly(thresholds="runtime"), {"pixel_sensitivity": 0.6}),
}


def feeds_of(kind: str) -> Feeds:
    """Images, and for the detector candidates."""
    rng = np.random.default_rng(0)
    side = 8 if kind == "classifier" else SIZE
    feeds = {"image": rng.normal(0, 1, (_IMAGES, 3, side, side)).astype(np.float32)}
    if kind == "detector":
        boxes, scores = scene(rng, _IMAGES, CELLS, 3)
        feeds["in0"] = np.concatenate([boxes, scores], 2).transpose(0, 2, 1).copy()
    return feeds


def build(kind: str, folder: Path, *, fixed: bool = False) -> pp.FusedModel:
    """Write `raw.onnx`, `fused.onnx` and `fused.xml` of a kind into a folder."""
    made, feeds = KINDS[kind], feeds_of(kind)
    raw = made.raw()
    if fixed:  # some runtimes need fixed sizes
        for each in (*raw.graph.input, *raw.graph.output):
            sizes = {"N": _IMAGES, "H": SIZE, "W": SIZE}
            for dim in each.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_value = sizes[dim.dim_param]
    onnx.save(raw, folder / "raw.onnx")
    fused = pp.fuse(folder / "raw.onnx", made.post(run(raw, feeds).get("anomaly_map")), keep_raw=True)
    fused.save(folder / "fused.onnx", overwrite=True)
    return fused


def _run_file(path: Path, feeds: Feeds) -> Feeds:
    if path.suffix == ".onnx":
        return run(str(path), feeds)
    import openvino as ov

    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(feeds)
    return {name: found[port] for port in compiled.outputs for name in port.get_names()}


def _wrong(program: pp.Program, names: dict[str, str], found: Feeds) -> tuple[int, int]:
    """Count decisions that differ from the reference on the raw values that came with them."""
    values = {role: found[name].astype(np.float32) for role, name in names.items()}
    expected = program.run(values)
    pairs = [(found[output.name], expected[output.name]) for output in program.outputs if output.name in expected]
    decided = [(one, other) for one, other in pairs if other.dtype.kind in "biu"]
    return sum(int((one != other).sum()) for one, other in decided), sum(other.size for _, other in decided)


def _said(verb: Callable[[], str]) -> tuple[str, str]:
    """Return what a verb says, and the message of a refusal."""
    try:
        said, _, why = verb().partition(": ")
    except PPGraphError as error:
        return "refused", str(error)
    except Exception as error:
        return "**crashed**", f"{type(error).__name__}: {error}"
    return said, why


def _told(error: Exception) -> str:
    """The line of a message that names the error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip("> \t")]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else type(error).__name__)


def try_tool(tool: Tool, kind: str, folder: Path) -> dict[str, str]:
    """Run a tool on a model of a kind, and the verbs on what it made."""
    fused = build(kind, folder, fixed=tool.package.startswith("opencv"))
    feeds = feeds_of(kind)
    untouched = run(fused, feeds)
    names = {role: record.tensor for role, record in fused.provenance.raw.read.items()}
    source = folder / "fused.onnx"
    if tool.reads == "ir":
        source = pp.convert(fused).save(folder / "fused.xml", overwrite=True)
    record = dict.fromkeys(COLUMNS, "—")
    try:
        if tool.change is None:
            assert tool.outputs is not None
            found = tool.outputs(source, feeds)
        else:
            path = tool.change(source, feeds, folder)
    except Exception as error:
        return {**record, "decisions": "tool fails", "why decisions": _told(error)}
    if tool.change is not None:
        try:
            found = _run_file(path, feeds)
        except Exception as error:
            record |= {"decisions": "does not run", "why decisions": _told(error)}
            found = {}
    wrong = 0
    if found:
        missing = sorted({*fused.output_names, *names.values()} - set(found))
        if missing:
            return {**record, "decisions": "outputs lost", "why decisions": ", ".join(missing)}
        wrong, total = _wrong(fused.program, names, found)
        moved = sum(int((found[name] != x).sum()) for name, x in untouched.items() if x.dtype.kind in "biu")
        record["decisions"] = "**wrong**" if wrong else "equal" if not moved else "drift"
        if wrong or moved:
            record["why decisions"] = f"{wrong or moved:,} of {total:,}"
    if tool.change is None:
        return record
    verbs = {
        "strip": lambda: _strip(path, folder, found, feeds),
        "retune": lambda: _retune(path, folder, fused, kind, names, feeds),
        "verify": lambda: _verify(path, folder, feeds, wrong=bool(wrong)),
    }
    for name, verb in verbs.items():
        if name == "strip" and path.suffix != ".onnx":
            continue
        record[name], why = _said(verb)
        if why:
            record[f"why {name}"] = why.splitlines()[0]
    return record


def _strip(path: Path, folder: Path, found: Feeds, feeds: Feeds) -> str:
    stripped = pp.strip(path).save(folder / "stripped.onnx", overwrite=True)
    if stripped.read_bytes() == (folder / "raw.onnx").read_bytes():
        return "raw file"
    outputs, raw = _run_file(stripped, feeds), run(str(folder / "raw.onnx"), feeds)
    if list(outputs) != list(raw):
        return f"**wrong**: outputs are {', '.join(outputs)}, those of the raw model {', '.join(raw)}"
    for record in pp.open(folder / "fused.onnx").provenance.raw.read.values():
        own = found.get(record.tensor, raw[record.name])
        if not np.allclose(own, outputs[record.name], atol=1e-2 * np.abs(own).max()):
            return f"**wrong**: '{record.name}' differs"
    return "raw model"


def _retune(path: Path, folder: Path, fused: pp.FusedModel, kind: str, names: dict[str, str], feeds: Feeds) -> str:
    change = KINDS[kind].change
    tuned = folder / f"tuned{path.suffix}"
    pp.retune(path, output=tuned, overwrite=True, **change)
    wrong, total = _wrong(fused.program.replace(**change), names, _run_file(tuned, feeds))
    return f"**wrong**: {wrong:,} of {total:,} decisions" if wrong else "right"


def _verify(path: Path, folder: Path, feeds: Feeds, *, wrong: bool) -> str:
    report = pp.verify(folder / "raw.onnx", path, feeds)
    if not report.postprocessing_exact:
        return f"fails: {report.postprocessing_failures[0]}"
    if wrong:
        return "**wrong**: passes a model whose decisions are wrong"
    return "passes" if report.passed else f"reports drift: {report.failures[0]}"


def work(tool: Tool, kinds: list[str]) -> None:
    """Try a tool on kinds of models, and print a record for each."""
    warnings.simplefilter("ignore")
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            record = try_tool(tool, kind, Path(folder))
        print(f"= {json.dumps({'kind': kind, **record})}", flush=True)


def sweep(match: str = "", kinds: tuple[str, ...] = tuple(KINDS)) -> list[dict[str, str]]:
    """Try every tool in a process of its own; one that ends counts as failed for the kind that it was given."""
    records: list[dict[str, str]] = []
    for tool in TOOLS:
        if not re.search(match, tool.name):
            continue
        version, left = tool.version, list(kinds)
        if not version:
            missing = dict.fromkeys(COLUMNS, "—") | {"decisions": "not run: not installed"}
            records += [{"tool": tool.name, "version": "", "kind": kind, **missing} for kind in kinds]
            continue
        while left:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.sweeps.tools", "--one", tool.name, *left],
                cwd=PAGE.parents[1],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                text=True,
            )
            alarm = threading.Timer(_SECONDS, worker.kill)
            alarm.start()
            assert worker.stdout is not None
            for line in worker.stdout:
                if line.startswith("= "):
                    records.append({"tool": tool.name, "version": version, **json.loads(line[2:])})
                    left.remove(records[-1]["kind"])
            worker.stdout.close()
            code = worker.wait()
            alarm.cancel()
            if left:
                ended = {"decisions": "tool fails", "why decisions": f"the process ended with {code}"}
                records.append(
                    {"tool": tool.name, "version": version, "kind": left.pop(0), **dict.fromkeys(COLUMNS, "—"), **ended}
                )
    return records


def failures(records: list[dict[str, str]]) -> list[dict[str, str]]:
    """Records of verbs that crashed, or were wrong about a model."""
    return [each for each in records if any("**" in each[column] for column in ("strip", "retune", "verify"))]


def table(records: list[dict[str, str]]) -> str:
    """Return the results of each tool, and the reasons, as Markdown."""
    lines = [f"| tool | version | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
    for tool in TOOLS:
        of = [each for each in records if each["tool"] == tool.name]
        cells = []
        for column in COLUMNS:
            said: dict[str, list[str]] = defaultdict(list)
            for each in of:
                said[each[column]].append(each["kind"])
            most = max(said, key=lambda text: len(said[text]), default="—")
            others = [f"{text} ({', '.join(kinds)})" for text, kinds in said.items() if text != most]
            cells.append("; ".join([most, *others]))
        if of:
            lines.append(f"| {tool.name} | {of[0]['version'] or '—'} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_reasons(records)])


def _reasons(records: list[dict[str, str]]) -> list[str]:
    """List what each tool did, and what the verbs said about it, once for all models of which they say the same."""
    kinds: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for each in records:
        why: dict[str, list[str]] = defaultdict(list)
        for column in COLUMNS:
            if f"why {column}" in each:
                about = each[column].strip("*") if column == "decisions" else f"{column} {each[column].strip('*')}"
                why[_shortened(each[f"why {column}"])].append(about)
        for reason, about in why.items():
            kinds[each["tool"], ", ".join(about), reason].append(each["kind"])
    lines = ["| tool | models | says | reason |", "|---|---|---|---|"]
    for (tool, about, reason), of in kinds.items():
        lines.append(f"| {tool} | {'all' if len(of) == len(KINDS) else ', '.join(of)} | {about} | {reason} |")
    return lines


def _shortened(reason: str) -> str:
    """Return the first sentence of a reason, without folders, and without what all reasons say."""
    reason = re.sub(r"(?<![\w])/[^\s']*/([\w.]+)", r"\1", reason).replace("|", "/")
    reason = re.sub(r"^The model was changed after it was fused(, as by [^:]*)?: ", "changed: ", reason)
    first = re.split(r"(?<=[a-z')])\. ", reason)[0]
    return first if len(first) < 160 else f"{first[:155]} ..."


def write_section(name: str, text: str) -> None:
    """Replace a generated section of the page."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, _, rest = PAGE.read_text("utf-8").partition(begin)
    assert rest, f"{PAGE.name} has no section {name!r}"
    PAGE.write_text(before + begin + text + end + rest.partition(end)[2], "utf-8")


def main() -> None:
    """Run the sweep, print the table, and write it into the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default="")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        work(next(tool for tool in TOOLS if tool.name == arguments.one[0]), arguments.one[1:])
        return
    records = sweep(arguments.match)
    print(table(records))
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))
    if arguments.write:
        write_section("tools", table(records))


if __name__ == "__main__":
    main()
