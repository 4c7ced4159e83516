"""Run the conformance sweep: onnx's node cases, the models that it ships, and all opset and IR versions.

    python -m tests.sweeps.conformance_run [--match TEXT] [--workers N] [--json result.json] [--markdown table.md]

Each case runs in a worker process with limits, because a runtime may end the whole process on a model.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.sweeps.conformance import KINDS, Stage, try_case
from tests.sweeps.onnx_cases import case_names, find_case

_SECONDS: Final = 300
_BYTES: Final = 12 * 2**30


def work() -> None:
    """Try the cases that standard input names, one a line, and print results as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as folder:
            for record in try_case(find_case(line.strip()), Path(folder), Stage(printed=True)):
                print(f"= {json.dumps(record)}", flush=True)
        print(".", flush=True)


def sweep(names: list[str], *, workers: int = 2, progress: bool = False) -> list[dict[str, str]]:
    """Try cases in worker processes; a new one follows a worker that ended or took too long."""
    found: dict[str, list[dict[str, str]]] = {}
    queue = iter(names)
    lock = threading.Lock()

    def attend() -> None:
        worker: subprocess.Popen[str] | None = None
        while True:
            with lock:
                name = next(queue, None)
            if name is None:
                break
            worker = worker or _start_worker()
            found[name], ended = _tried(name, worker)
            if ended:
                _close(worker)
                worker = None
            if progress and len(found) % 100 == 0:
                print(f"{len(found)} of {len(names)}", flush=True)
        if worker is not None:
            _close(worker)

    with ThreadPoolExecutor(workers) as pool:
        for each in [pool.submit(attend) for _ in range(workers)]:
            each.result()
    return [record for name in names for record in found[name]]


def _start_worker() -> subprocess.Popen[str]:
    # Two workers with a pool of threads for every core each are slower than with one thread.
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sweeps.conformance_run", "--worker"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _close(worker: subprocess.Popen[str]) -> None:
    with worker:  # which closes its pipes and waits
        pass


def _tried(name: str, worker: subprocess.Popen[str]) -> tuple[list[dict[str, str]], bool]:
    """Return what a worker found of a case, and whether it ended."""
    records: list[dict[str, str]] = []
    assert worker.stdin is not None
    assert worker.stdout is not None
    alarm = threading.Timer(_SECONDS, worker.kill)
    alarm.start()
    stage = "start"
    try:
        worker.stdin.write(f"{name}\n")
        worker.stdin.flush()
        for line in worker.stdout:
            if line.startswith("> "):
                stage = line[2:].strip()
            elif line.startswith("= "):
                records.append({"case": name, **json.loads(line[2:])})
            elif line.startswith("."):
                return records, False
    finally:
        alarm.cancel()
    kind = "raw not runnable" if stage.startswith("raw") else "crashed"
    reason = f"the process ended with {worker.wait()}"
    records.append({"case": name, "kind": kind, "runtime": "-", "stage": stage, "reason": reason})
    return records, True


def reason_kind(reason: str) -> str:
    """Shorten a reason to what cases have in common: no names, numbers or shapes."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", reason)
    return re.sub(r"/\S+|\([^()]*\)|\d[\d,.]*", "…", text)[:110]


def table(records: list[dict[str, str]]) -> str:
    """Return the counts as Markdown."""
    runtimes = sorted({record["runtime"] for record in records})
    lines = [f"| runtime | {' | '.join(KINDS)} |", "|---|" + "---|" * len(KINDS)]
    counts = Counter((record["runtime"], record["kind"]) for record in records)
    lines += [f"| {each} | {' | '.join(str(counts[each, kind]) for kind in KINDS)} |" for each in runtimes]
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
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    if arguments.worker:
        work()
        return
    names = [name for name in case_names() if re.search(arguments.match, name)]
    records = sweep(names, workers=arguments.workers, progress=True)
    print(f"{len(names)} models\n\n{table(records)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))
    if arguments.markdown:
        arguments.markdown.write_text(table(records) + "\n")


if __name__ == "__main__":
    main()
