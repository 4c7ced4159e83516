"""Models that earlier versions wrote are read, verified, retuned and stripped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import pp_graph as pp
from pp_graph.errors import ProvenanceError
from tests.conftest import ROOT

FILES = ROOT / "tests" / "assets" / "provenance"
IMAGES = np.random.default_rng(0).random((6, 3, 12, 12), np.float32)


@pytest.mark.parametrize("ending", ["onnx", "xml"])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_earlier_versions_are_read(version: int, ending: str, tmp_path: Path) -> None:
    for file in FILES.glob(f"schema_{version}.*"):
        shutil.copy(file, tmp_path)
    path = tmp_path / f"schema_{version}.{ending}"
    artifact = pp.open(path)
    assert artifact.provenance.schema_version == 4
    read = artifact.provenance.raw.read
    assert {role: (each.name, each.axes) for role, each in read.items()} == {
        "raw_score": ("pred_score", "NC"),
        "raw_map": ("anomaly_map", "NCHW"),
    }
    assert [output.name for output in artifact.outputs] == ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
    assert artifact.outputs[2].scale == (0.0, 1.0, 0.5)
    report = pp.verify(FILES / "raw.onnx", path, IMAGES)
    assert report.passed, report.failures
    assert report.raw_matches
    # Version 3 has a resized map, and cutoffs that can be changed.
    assert list(artifact.provenance.intermediates) == (["resized_map"] if version == 3 else [])
    assert len(artifact.provenance.adjustable) == (2 if version == 3 else 0)
    in_memory = pp.retune(artifact, image_sensitivity=0.3, pixel_sensitivity=0.7)
    done = pp.retune(path, image_sensitivity=0.3, pixel_sensitivity=0.7)
    # Version 1 wrote the bounds of Clip differently in ONNX.
    assert done.way == ("rewritten" if (version, ending) == (1, "onnx") else "constants")
    tuned = pp.open(path)
    assert tuned.provenance.emission is not None, "what is written is of the present version"
    assert tuned.provenance.cutoffs == in_memory.provenance.cutoffs != artifact.provenance.cutoffs
    assert pp.verify(FILES / "raw.onnx", path, IMAGES).passed
    assert pp.verify(FILES / "raw.onnx", in_memory, IMAGES).passed


@pytest.mark.parametrize("version", [1, 2, 3])
def test_earlier_versions_are_stripped(version: int, tmp_path: Path) -> None:
    pp.strip(FILES / f"schema_{version}.onnx").save(tmp_path / "raw.onnx")
    assert (tmp_path / "raw.onnx").read_bytes() == (FILES / "raw.onnx").read_bytes()


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    text = pp.open(FILES / "schema_3.onnx").provenance.to_json()
    later = json.dumps({**json.loads(text), "schema_version": 5})
    with pytest.raises(ProvenanceError, match="schema version 5, expected at most 4"):
        pp.Provenance.from_json(later)


def test_an_edited_record_is_not_retuned(tmp_path: Path) -> None:
    artifact = pp.retune(pp.open(FILES / "schema_3.onnx"), image_sensitivity=0.5)
    record = json.loads(artifact.provenance.to_json())
    assert pp.Provenance.from_json(json.dumps(record)).check_unedited() is None
    record["statistics"]["image"]["threshold"] = 15.0
    artifact.network.model.metadata_props["pp_graph"] = json.dumps(record)
    artifact.save(tmp_path / "edited.onnx")
    with pytest.raises(ProvenanceError, match="was edited after it was written"):
        pp.retune(tmp_path / "edited.onnx", pixel_sensitivity=0.3)
