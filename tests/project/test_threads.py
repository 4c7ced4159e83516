"""Several threads fuse, convert, load and run at once: the same results as one after the other, and nothing global changes."""

from __future__ import annotations

import hashlib
import locale
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pp_graph as pp
from tests.conftest import DEMO, ROOT

_THREADS = 4


def do_all(folder: Path) -> str:
    """Fuse, convert, load and run; return a hash of what was written and predicted."""
    folder.mkdir(parents=True)
    post = pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"))
    fused = pp.fuse(DEMO / "raw.onnx", post)
    fused.save(folder / "fused.onnx")
    path = pp.convert(folder / "fused.onnx").save(folder / "model.xml")
    digest = hashlib.sha256(path.read_bytes() + (folder / "fused.onnx").read_bytes())
    for model in (folder / "fused.onnx", path):
        predictions = pp.load(model)(DEMO / "images" / "good")
        digest.update(predictions.pred_score.tobytes() + predictions.pred_mask.tobytes())
    return digest.hexdigest()


def in_threads(folder: Path) -> set[str]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return set(pool.map(do_all, [folder / str(place) for place in range(_THREADS)]))


def _settings() -> dict[str, Any]:
    """What a thread must not change even for a moment."""
    loggers = [logging.root, *(each for each in logging.root.manager.loggerDict.values() if hasattr(each, "level"))]
    return {
        "warnings": list(warnings.filters),
        "levels": {each.name: (each.level, each.disabled, len(each.handlers)) for each in loggers},
        "logging": logging.root.manager.disable,
        "environment": dict(os.environ),
        "locale": locale.setlocale(locale.LC_ALL),
        "folder": Path.cwd(),
        "signals": {each: signal.getsignal(each) for each in signal.valid_signals()},
        "streams": (sys.stdout, sys.stderr),
        "recursion": sys.getrecursionlimit(),
        "random": random.getstate(),
        "numpy": [part if isinstance(part, str | int | float) else part.tolist() for part in np.random.get_state()],  # noqa: NPY002
        "numpy errors": np.geterr(),
        "threads": threading.excepthook,
    }


def test_nothing_global_changes(tmp_path: Path) -> None:
    alone = do_all(tmp_path / "alone")  # imports what is imported late
    before, limit = _settings(), Image.MAX_IMAGE_PIXELS
    filters = {name: list(logging.getLogger(name).filters) for name in ("onnx_ir", "onnx_ir.serde")}
    seen: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            now = _settings()
            seen.extend(key for key, value in before.items() if now[key] != value)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert in_threads(tmp_path / "together") == {alone}
    finally:
        done.set()
        watcher.join()
    assert seen == []
    assert _settings() == before
    # Both have entries for as long as a file is being opened.
    assert limit == Image.MAX_IMAGE_PIXELS
    assert {name: list(logging.getLogger(name).filters) for name in filters} == filters


@pytest.mark.slow
def test_threads_that_import_everything_at_once(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tests.project.test_threads import in_threads; print(*in_threads(Path(sys.argv[1])))"
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "new")],
        check=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.split()
    assert found == [do_all(tmp_path / "alone")]


def test_warnings_are_silenced_in_one_thread_only(caplog: Any) -> None:
    from pp_graph.model.graphs import quiet_onnx_ir

    logger = logging.getLogger("onnx_ir.serde")
    with quiet_onnx_ir():
        logger.warning("here")
        other = threading.Thread(target=logger.warning, args=("elsewhere",))
        other.start()
        other.join()
    logger.warning("afterwards")
    assert caplog.messages == ["elsewhere", "afterwards"]
