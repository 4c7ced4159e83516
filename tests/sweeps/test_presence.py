"""Every field of every ONNX message: what fuse accepts, strip gives back to the byte."""

from __future__ import annotations

import pytest

from tests.sweeps.presence import counts, sweep


def _check(every: int) -> None:
    records = sweep(every)
    print(counts(records))
    failed = [record for record in records if record["kind"] not in ("equal", "refused")]
    assert not failed
    assert counts(records)["equal"] > len(records) // 2


def test_sample_of_the_fields_is_stripped_to_the_byte() -> None:
    _check(41)


@pytest.mark.sweep
def test_every_field_is_stripped_to_the_byte() -> None:
    _check(1)
