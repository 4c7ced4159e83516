"""Hostile files through every verb: exit 0, 1 or 2 with a typed message, in bounded time and memory.

python -m tests.sweeps.hostile [--every N] [--first N] [--match TEXT] [--json result.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.sweeps import forked, hostile_data, hostile_inputs, hostile_models

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sweeps.hostile_inputs import Hostile

COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    "raw": (
        "inspect {}", "inspect {} --tail", "inspect {} --data images", "fuse {} --stats stats.json -o out.onnx",
        "convert {} --stats stats.json -o out.xml", "fuse {} --recipe recipe.yaml --stats stats.json -o out.onnx",
        "calibrate {} --data images -o out.json", "verify {} fused.onnx --data images", "strip {} -o out.onnx",
        "fuse {} --stats stats.json --raise-opset 20 -o out.onnx", "retune {} --image-sensitivity 0.6 -o out.onnx",
        "explore {} --data images --stats stats.json -o out.html", "stats show {}",
        "convert {} --task classification -o out.xml", "run {} images -o out",
    ),
    "fused": (
        "inspect {}", "strip {} -o out.onnx", "retune {} --stats stats.json -o out.onnx", "convert {} -o out.xml",
        "retune {} --image-sensitivity 0", "verify raw.onnx {} --data images", "run {} images -o out",
        "stats show {}", "fuse {} --replace --stats stats.json -o out.onnx", "calibrate {} --data images -o out.json",
        "explore {} --data images -o out.html", "package {} --for triton --images images -o out",
        "drift {} --scores scores.csv",
    ),
    "ir": (
        "inspect {}", "retune {} --stats stats.json -o out.xml", "verify raw.onnx {} --data images",
        "run {} images -o out", "stats show {}", "retune {} --image-sensitivity 0.7",
        "retune {} --image-sensitivity 0", "explore {} --data images -o out.html",
        "package {} --for cpp --images images -o out", "drift {} --scores scores.csv",
    ),
    "stats": (
        "drift {} --scores scores.csv", "stats show {}", "fuse raw.onnx --stats {} -o out.onnx",
        "retune fused.onnx --stats {} -o out.onnx",
    ),
    "checkpoint": ("stats show {}", "fuse raw.onnx --stats {} -o out.onnx"),
    "recipe": (
        "fuse raw.onnx --recipe {} --stats stats.json -o out.onnx", "inspect raw.onnx --recipe {}",
        "calibrate raw.onnx --data images --recipe {} -o out.json",
        "convert raw.onnx --recipe {} --stats stats.json -o out.xml",
    ),
    "array": (
        "calibrate raw.onnx --data {} -o out.json", "verify raw.onnx fused.onnx --data {}", "run fused.onnx {} -o out",
        "inspect raw.onnx --data {}", "calibrate --scores {} -o out.json",
    ),
    "scores": ("calibrate --scores {} -o out.json", "drift stats.json --scores {}"),
    "picture": (
        "run fused.onnx {} -o out", "run model.xml {} -o out --letterbox --save none",
        "verify raw.onnx fused.onnx --data {}", "run fused.onnx {} -o out --skip-broken",
        "explore fused.onnx --data {} -o out.html", "package model.xml --images {} -o out",
    ),
}  # fmt: skip
"""Commands by kind of input; {} is the file."""
OPTIONS: Final = (
    "--map-size 1x134217728", f"--map-size {'9' * 5000}x1", "--map-size 0x0", "--map-size 99999999999x1",
    f"--regions {'9' * 5000}", f"--raise-opset {'9' * 400}", "--image-threshold 1e400", "--image-threshold nan",
    f"--image-threshold {'9' * 5000}", "--image-sensitivity 1e-320", "--image-min 1 --image-max 1",
    "--score-output \x01", f"--score-output {'n' * 100_000}", "--role x", "--outputs ,,,", "--map-size 4096x4096",
    "--task classification --top 999999999", "--task detection --max-detections 99999999999",
    "--task classification --temperature 1e-320", f"--task classification --multi-label {','.join(['0.5'] * 20000)}",
)  # fmt: skip
"""Hostile options of fuse."""


_ENDINGS: Final = {"ir": "xml", "stats": "json", "checkpoint": "ckpt", "recipe": "yaml"}


def inputs(folder: Path, *, full: bool = True) -> Iterator[Hostile]:
    """Yield all hostile files; if not `full`, some that are quickly made."""
    if not full:
        yield from hostile_inputs.models(folder, 30)
        yield from hostile_inputs.recipes(1)
        yield from hostile_data.pictures(2, large=False)
        return
    yield from hostile_inputs.models(folder, 450)
    yield from hostile_inputs.provenances(folder, 3)
    yield from hostile_inputs.irs(folder, 1)
    yield from hostile_inputs.statistics(folder, 3)
    yield from hostile_inputs.recipes(3)
    yield from hostile_data.arrays(folder, 45)
    yield from hostile_data.pictures(24, large=True)


def commands(folder: Path, *, full: bool) -> Iterator[tuple[str, str, Hostile | None]]:
    """Yield a name, a command and its file; known kinds go through every verb, others through one."""
    for place, option in enumerate(OPTIONS):
        yield f"option {option[:40]}", f"fuse raw.onnx --stats stats.json -o out.onnx {option}", None
        if place % 5 == 0:
            yield f"option {option[:40]}", f"convert raw.onnx --stats stats.json -o out.xml {option}", None
    turns: Counter[str] = Counter()
    for hostile in inputs(folder, full=full):
        kind = hostile.kind.partition(".")[0]
        lines = COMMANDS[kind]
        chosen = lines if hostile.known else [lines[turns[kind] % len(lines)]]
        turns[kind] += not hostile.known
        unlimited = hostile.name.removeprefix("model ").startswith(hostile_models.COMPUTE_MUCH)
        for line in chosen:
            if unlimited and ("images" in line or "verify" in line):
                continue
            yield hostile.name, line, hostile


def _start(line: str, hostile: Hostile | None, assets: Path, folder: Path) -> tuple[forked.Started, set[str]]:
    """Start a command in a fresh copy of the assets, and list the files in it."""
    shutil.copytree(assets, folder)
    name = ""
    if hostile is not None:
        kind, _, ending = hostile.kind.partition(".")
        name = f"hostile.{ending or _ENDINGS.get(kind, 'onnx')}"
        for suffix, content in hostile.beside.items():
            (folder / "hostile").with_suffix(suffix).write_bytes(content)
        (folder / name).write_bytes(hostile.content)
    before = {path.name for path in folder.iterdir()}
    return forked.command([name if word == "{}" else word for word in line.split(" ")], folder), before


def _finish(entry: tuple[str, str, Path, forked.Started, set[str]]) -> dict[str, object]:
    name, line, folder, started, before = entry
    outcome = started.outcome()
    left = sorted({path.name for path in folder.iterdir()} - before - {"log.txt"})
    kind = "files left" if outcome.kind == "2" and left else outcome.kind
    shutil.rmtree(folder)
    record: dict[str, object] = {
        "input": name, "command": line[:200], "kind": kind, "status": outcome.status, "left": left,
        "seconds": outcome.seconds, "mib": outcome.bytes >> 20, "output": outcome.output[-3000:],
    }  # fmt: skip
    if kind not in ("0", "1", "2"):
        print(f"{kind}: {name}: {line[:100]} {outcome.seconds:.1f} s {record['mib']} MiB {left}", flush=True)
        print("   ", outcome.output[-400:].strip().replace("\n", "\n    "), flush=True)
    return record


def sweep(
    every: int = 1, *, first: int = 0, full: bool = True, match: str = "", workers: int = 2
) -> list[dict[str, object]]:
    """Run every n-th command, from the one with number `first` on."""
    records = []
    running: deque[tuple[str, str, Path, forked.Started, set[str]]] = deque()
    with tempfile.TemporaryDirectory() as scratch:
        assets = Path(scratch) / "assets"
        assets.mkdir()
        forked.warm_up()
        made = forked.start(lambda: hostile_inputs.make_assets(assets) or 0, Path(scratch) / "log.txt").outcome()
        assert made.kind == "0", made.output
        chosen = (each for each in commands(assets, full=full) if match in f"{each[0]}: {each[1]}")
        for number, (name, line, hostile) in enumerate(itertools.islice(chosen, first, None, every)):
            folder = Path(scratch) / str(number)
            running.append((name, line, folder, *_start(line, hostile, assets, folder)))
            if len(running) == workers:
                records.append(_finish(running.popleft()))
        records += map(_finish, running)
    return records


def counts(records: list[dict[str, object]]) -> dict[str, int]:
    """Count commands by exit status or what went wrong."""
    return dict(sorted(Counter(str(record["kind"]) for record in records).items()))


def main() -> None:
    """Run the sweep and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="fewer inputs of each kind")
    parser.add_argument("--match", default="")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    records = sweep(
        arguments.every,
        first=arguments.first,
        full=not arguments.small,
        match=arguments.match,
        workers=arguments.workers,
    )
    print(len(records), "commands:", counts(records))
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
