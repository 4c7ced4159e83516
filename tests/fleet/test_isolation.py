"""A task that crashes, takes all memory or never ends is stopped, and says so."""

from __future__ import annotations

import ctypes
import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest

from pp_graph.errors import ModelError
from pp_graph.fleet.isolation import ProcessError, Seats, TaskError, run_isolated


def crash() -> None:
    ctypes.string_at(0)


def allocate() -> int:
    return int(np.ones(2**30, np.float64).sum())


def run_forever() -> None:
    sum(itertools.repeat(1))  # in C, where Python handles no signal


def refuse() -> None:
    raise ModelError("Model 'x' is no model. Name another.")


def defect() -> None:
    print("before the defect")
    raise ZeroDivisionError("one by zero")


def describe() -> tuple[int, int]:
    return os.getpid(), len(os.sched_getaffinity(0))


def isolated(function: object, folder: Path, seconds: float = 60.0) -> object:
    core = min(os.sched_getaffinity(0))
    return run_isolated(function, (), seconds=seconds, memory=2**32, cores=frozenset({core}), log=folder / "log.txt")  # type: ignore[arg-type]


def test_returns_from_another_process_on_its_cores(tmp_path: Path) -> None:
    process, cores = isolated(describe, tmp_path)  # type: ignore[misc]
    assert process != os.getpid()
    assert cores == 1
    assert not (tmp_path / "log.txt").exists()


@pytest.mark.parametrize(
    ("function", "seconds", "message", "again"),
    [
        (crash, 60.0, r"ended by SIGSEGV", True),
        (allocate, 60.0, r"more memory than 4 GiB \(field 'memory'\)", False),
        (run_forever, 1.0, r"took more than 1 s and was stopped \(field 'timeout'\)", False),
        (refuse, 60.0, r"^Model 'x' is no model. Name another.$", False),
        (defect, 60.0, r"unexpected ZeroDivisionError: one by zero; see '.*log.txt'", False),
    ],
)
def test_says_how_it_ended(function: object, seconds: float, message: str, again: bool, tmp_path: Path) -> None:
    started = time.perf_counter()
    with pytest.raises(ProcessError, match=message) as caught:
        isolated(function, tmp_path, seconds)
    assert caught.value.again == again
    assert time.perf_counter() - started < 50
    if function is defect:
        assert "before the defect" in (tmp_path / "log.txt").read_text()


def test_errors_survive_the_way_from_a_worker() -> None:
    import pickle

    sent = TaskError("cam7/CPU-f32/verify", "cam7, CPU f32: verify", "took too long", absent=True)
    received = pickle.loads(pickle.dumps(sent))
    assert (str(received), received.slot, received.absent) == (
        "cam7, CPU f32: verify: took too long", "cam7/CPU-f32/verify", True,
    )  # fmt: skip


def test_seats_share_all_cores() -> None:
    available = os.sched_getaffinity(0)
    seats = Seats(len(available))
    taken = [seats._free.get() for _ in available]
    assert frozenset().union(*taken) == available
    assert all(len(cores) == 1 for cores in taken)
    crowded = Seats(len(available) + 1)
    assert all(len(crowded._free.get()) == 1 for _ in range(len(available) + 1))
