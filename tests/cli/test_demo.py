from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pp_graph.demo import DATA, run_demo
from pp_graph.errors import OutputFileError


@pytest.mark.slow
def test_demo_does_the_whole_job(tmp_path: Path) -> None:
    said: list[str] = []
    result = run_demo(tmp_path / "out", say=said.append)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "fused.onnx",
        "model.xml",
        "model.bin",
        "model.usage.md",
        "model_f16.xml",
        "model_f16.bin",
        "model_f16.usage.md",
        "predictions.png",
        "inputs",
    }
    assert (tmp_path / "out" / "inputs" / "raw.onnx").read_bytes() == (DATA / "raw.onnx").read_bytes()
    assert len(list((tmp_path / "out" / "inputs" / "images").rglob("*.png"))) == 12
    assert len(list((tmp_path / "out" / "inputs" / "ground_truth").rglob("*_mask.png"))) == 6
    assert all(report.passed for report in result.reports.values())
    assert len(result.reports) == 3
    assert said
    # the model is right about every photograph that comes with it
    for image in result.images:
        assert image.pred_label == (not image.name.startswith("good")), image.name
        assert (image.anomalous_pixels > 100) == image.pred_label
    picture = np.asarray(Image.open(result.files["picture"]))
    assert picture.shape[0] > 12 * 256
    assert len(np.unique(picture)) > 100
    with pytest.raises(OutputFileError, match="exists already"):
        run_demo(tmp_path / "out")
    run_demo(tmp_path / "out", overwrite=True)
    (tmp_path / "blocked" / "predictions.png").mkdir(parents=True)
    with pytest.raises(OutputFileError, match="is in the way"):
        run_demo(tmp_path / "blocked", overwrite=True)
    assert [file.name for file in (tmp_path / "blocked").iterdir()] == ["predictions.png"]


def test_package_data_is_small() -> None:
    assert sum(file.stat().st_size for file in DATA.rglob("*") if file.is_file()) < 4 * 2**20
