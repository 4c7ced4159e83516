"""Commands ended, interrupted or refused at every change of a file: old or new is whole, or the next verb tells.

python -m tests.sweeps.kill_points [--match TEXT] [--every N] [--json result.json]
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import numpy_helper

import pp_graph as pp
from tests.models import STATS
from tests.sweeps import forked, hostile_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

_EVENTS: Final = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
WAYS: Final = ("kill", "ENOSPC", "EROFS", "SIGINT", "SIGTERM")
"""What happens at a point: the process is ended, the change fails, or a signal comes."""


@dataclass(frozen=True)
class Case:
    """A command that replaces files.

    Attributes:
        name: Verb and form of the output.
        before: Command that writes the old files; empty if `command` changes a file in place.
        command: Command that writes the new ones.
        outputs: The files.
        probe: Command that reads them.
        patched: True to patch also small files in place.
    """

    name: str
    before: str
    command: str
    outputs: tuple[str, ...]
    probe: str = "run {} images -o probe --save none --force"
    patched: bool = False


_PAIR: Final = ("out.onnx.data", "out.onnx")
_TRIPLE: Final = ("out.bin", "out.usage.md", "out.xml")
CASES: Final = (
    Case("fuse", "fuse raw.onnx --stats stats.json -o out.onnx", "fuse raw.onnx --stats other.json -o out.onnx --force",
         ("out.onnx",)),
    Case("fuse with weights", "fuse a/raw.onnx --stats stats.json --copy-weights -o out.onnx",
         "fuse b/raw.onnx --stats stats.json --copy-weights -o out.onnx --force", _PAIR),
    Case("convert", "convert a/raw.onnx --stats stats.json -o out.xml",
         "convert b/raw.onnx --stats other.json -o out.xml --force", _TRIPLE),
    Case("convert, other names", "convert raw.onnx --stats stats.json -o out.xml",
         "convert raw.onnx --stats stats.json --outputs pred_label,pred_mask,pred_score,anomaly_map --map-size 20x20 "
         "-o out.xml --force", _TRIPLE),
    Case("retune", "retune fused.onnx --stats stats.json -o out.onnx",
         "retune fused.onnx --stats other.json -o out.onnx --force", ("out.onnx",)),
    Case("retune IR", "retune model.xml --stats stats.json -o out.xml",
         "retune model.xml --stats other.json -o out.xml --force", _TRIPLE),
    Case("retune in place", "retune fused.onnx --stats stats.json -o out.onnx", "retune out.onnx --stats other.json",
         ("out.onnx",)),
    Case("retune large in place", "retune fused.onnx --stats stats.json -o out.onnx",
         "retune out.onnx --stats other.json", ("out.onnx",), patched=True),
    Case("retune IR in place", "retune model.xml --stats stats.json -o out.xml", "retune out.xml --stats other.json",
         _TRIPLE),
    Case("retune IR in place, rewritten", "retune model.xml --stats stats.json -o out.xml",
         "retune out.xml --image-sensitivity 0", _TRIPLE),
    Case("retune with weights", "retune a/fused.onnx --stats stats.json -o out.onnx",
         "retune b/fused.onnx --stats other.json -o out.onnx --force", _PAIR),
    Case("retune with weights in place", "fuse a/raw.onnx --stats stats.json --copy-weights -o out.onnx",
         "retune out.onnx --stats other.json", _PAIR),
    Case("calibrate", "calibrate raw.onnx --data images -o out.json",
         "calibrate raw.onnx --data images --recall 0.9 -o out.json --force", ("out.json",), "stats show {}"),
    Case("calibrate --retune", "calibrate fused.onnx --data images --retune out.onnx",
         "calibrate fused.onnx --data images --recall 0.9 --retune out.onnx --force", ("out.onnx",)),
    Case("run", "run fused.onnx images -o out", "run model.xml images -o out --force", ("out",), ""),
)  # fmt: skip


def make_assets(folder: Path) -> None:
    """Write models, two networks with weights beside them, and statistics."""
    hostile_inputs.make_assets(folder)
    levels = {name: pp.LevelStatistics(threshold=2.0, min=0.25, max=4.0) for name in ("image", "pixel")}
    pp.Statistics(**levels).save(folder / "other.json", overwrite=True)
    STATS.save(folder / "stats.json", overwrite=True)
    model = onnx.load(folder / "raw.onnx")
    for name, factor in (("a", 1), ("b", 2)):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        for tensor in changed.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
        (folder / name).mkdir(exist_ok=True)
        onnx.save(changed, folder / name / "raw.onnx", save_as_external_data=True, location="w.bin", size_threshold=10)
        pp.fuse(folder / name / "raw.onnx", pp.OneClassPostProcessor(STATS)).save(folder / name / "fused.onnx")


def _watch(folder: Path, happen: Callable[[int], None]) -> None:
    """Call `happen` with a running number before each change of a file in a folder, and amid writes in place."""
    state = {"count": 0, "busy": False}

    def point() -> None:
        state["count"] += 1
        (folder.parent / f"{folder.name}.count").write_text(str(state["count"]))
        happen(state["count"])

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if state["busy"] or (event != "open" and event not in _EVENTS):
            return
        path = (
            arguments[0]
            if isinstance(arguments[0], str)
            else os.fspath(arguments[0])
            if isinstance(arguments[0], Path)
            else ""
        )
        if event == "open" and not (arguments[1] and set(arguments[1]) & set("wax+")):
            return
        if event == "open" and arguments[1] is None:
            return
        if not path or not os.path.abspath(path).startswith(f"{folder}{os.sep}") or path.endswith("log.txt"):  # noqa: PTH100
            return
        state["busy"] = True
        try:
            point()
        finally:
            state["busy"] = False

    from pp_graph.model import patching
    from pp_graph.retuning import ir_file

    whole = patching.write_at

    def in_halves(stream: Any, start: int, content: bytes) -> None:
        middle = len(content) // 2
        whole(stream, start, content[:middle])
        point()
        whole(stream, start + middle, content[middle:])
        point()

    patching.write_at = ir_file.write_at = in_halves
    sys.addaudithook(hook)


def _run(case: Case, folder: Path, way: str, at: int, limit: int | None = None) -> forked.Outcome:
    """Run a case's command, and let something happen at a point."""

    def happen(number: int) -> None:
        if number != at:
            return
        if way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif way in ("SIGINT", "SIGTERM"):
            os.kill(os.getpid(), signal.SIGINT if way == "SIGINT" else signal.SIGTERM)
        else:
            raise OSError(getattr(errno, way), os.strerror(getattr(errno, way)))

    def work() -> int:
        from pp_graph.cli import main
        from pp_graph.retuning import onnx_file

        os.chdir(folder)
        if case.patched:
            onnx_file._COPIED_AT_MOST = 0
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            if way == "kill":
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        _watch(folder, happen)
        sys.argv = ["pp-graph", *case.command.split(" ")]
        main()
        return 0

    return forked.start(work, folder / "log.txt").outcome()


def _content(folder: Path, outputs: tuple[str, ...]) -> dict[str, bytes]:
    files = [folder / name for name in outputs]
    files += [file for path in files for file in path.rglob("*")]
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(files)
        if file.is_file() and ".pp_graph_" not in str(file)
    }


def _strays(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob(".pp_graph_*")]


def _probe(case: Case, folder: Path) -> tuple[forked.Outcome, str]:
    shutil.rmtree(folder / "probe", ignore_errors=True)
    outcome = forked.command(case.probe.replace("{}", case.outputs[-1]).split(" "), folder).outcome()
    table = folder / "probe" / "predictions.csv"
    return outcome, table.read_text() if table.is_file() else outcome.output


class Trial:
    """A case with its old and its new files, and what they compute."""

    def __init__(self, case: Case, assets: Path, folder: Path) -> None:
        """Run the case without disturbance."""
        self.case, self._folder = case, folder
        self._start = folder / "start"
        shutil.copytree(assets, self._start)
        done = forked.command(case.before.split(" "), self._start).outcome()
        assert done.status == 0, done.output
        self.old, self.old_results = _content(self._start, case.outputs), self._probed(self._start)
        work = self._fresh()
        done = _run(case, work, "none", 0)
        assert done.status == 0, done.output
        self.points = int((folder / "work.count").read_text())
        self.new, self.new_results = _content(work, case.outputs), self._probed(work)
        assert self.old != self.new

    def _probed(self, folder: Path) -> str:
        return _probe(self.case, folder)[1] if self.case.probe else ""

    def _fresh(self) -> Path:
        work = self._folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self._start, work)
        return work

    def disturb(self, way: str, at: int, limit: int | None = None) -> dict[str, object]:
        """Run the command, let something happen, look at the files, and run it again."""
        work = self._fresh()
        outcome = _run(self.case, work, way, at, limit)
        kind, why = self._state(work)
        strays = _strays(work)
        if outcome.kind not in ("0", "1", "2") and not (way == "kill" and outcome.status in (-9, -25)):
            kind, why = "wrong", f"exit: {outcome.kind} {outcome.status}: {outcome.output[-300:]}"
        if strays:  # a folder as young as this one may be another process's
            old = time.time() - 10
            for stray in strays:
                os.utime(work / stray, (old, old))
        again = _run(self.case, work, "none", 0)
        if again.status != 0:
            kind, why = "wrong", f"again: {again.output[-300:]}"
        elif _strays(work):
            kind, why = "wrong", f"strays after running again: {_strays(work)}"
        elif _content(work, self.case.outputs) != self.new and (
            not self.case.probe or self._probed(work) != self.new_results
        ):
            kind, why = "wrong", "other files after running again"
        name = f"{way} at {at}/{self.points}" if limit is None else f"{way} at {limit} bytes"
        return {"case": self.case.name, "point": name, "kind": kind, "why": why}

    def _state(self, work: Path) -> tuple[str, str]:
        content = _content(work, self.case.outputs)
        if content in (self.old, self.new):
            return "old" if content == self.old else "new", ""
        if not self.case.probe:
            tables = {name for name in content if name.endswith((".csv", ".json"))}
            for kind, whole in (("old", self.old), ("new", self.new)):
                pictures = {name for name in whole if not name.endswith((".csv", ".json"))}
                if all(content.get(name) == whole.get(name) for name in tables | pictures) and tables:
                    return kind, "a table of two"
            return ("told", "no tables") if not tables else ("wrong", f"tables beside mixed files: {tables}")
        outcome, result = _probe(self.case, work)
        if outcome.kind == "2" and any(text in outcome.output for text in ("Copy", "again", "fuse", "does not exist")):
            return "told", outcome.output.strip().splitlines()[-1]
        if outcome.kind == "0" and result in (self.old_results, self.new_results):
            differing = [n for n in self.old if content.get(n) not in (self.old[n], self.new.get(n))]
            usage = [name for name in content if name.endswith(".md")]
            same = all(content[n] in (self.old[n], self.new[n]) for n in usage)
            return (
                ("old" if result == self.old_results else "new", f"computes the same; {differing}")
                if same
                else ("wrong", "guide")
            )
        return "wrong", f"{outcome.kind}: {outcome.output[-300:]}"


def sweep(match: str = "", every: int = 1, ways: tuple[str, ...] = WAYS) -> list[dict[str, object]]:
    """Disturb each case at every n-th point in each way, and at some lengths of files."""
    records: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch).resolve()
        (root / "assets").mkdir()
        forked.warm_up()
        made = forked.start(lambda: make_assets(root / "assets") or 0, root / "log.txt").outcome()
        assert made.status == 0, made.output
        for number, case in enumerate(CASES):
            if match and match != case.name:
                continue
            (root / str(number)).mkdir()
            trial = Trial(case, root / "assets", root / str(number))
            for way in ways:
                records += [trial.disturb(way, at) for at in range(1, trial.points + 1, every)]
            for limit in (1, 100, 5000, 20000)[:: min(4, every)]:
                records += [trial.disturb(way, 0, limit) for way in ("kill", "ENOSPC")]
            shutil.rmtree(root / str(number))
            for record in records:
                if record["kind"] == "wrong" and record["case"] == case.name:
                    print(record, flush=True)
            print(case.name, trial.points, "points", counts([r for r in records if r["case"] == case.name]), flush=True)
    return records


def counts(records: list[dict[str, object]]) -> dict[str, int]:
    """Count what was found afterwards: old files, new ones, an error that tells, or something wrong."""
    return dict(sorted(Counter(str(record["kind"]) for record in records).items()))


def main() -> None:
    """Run the sweep and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default="")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    records = sweep(arguments.match, arguments.every)
    print(len(records), "kill points:", counts(records))
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
