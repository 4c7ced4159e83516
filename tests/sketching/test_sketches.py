from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.sketching.drawing import shorten
from tests.conftest import DEMO
from tests.models import from_text

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sketches")
    post = pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"))
    return [
        pp.fuse(DEMO / "raw.onnx", post).save(folder / "fused.onnx"),
        pp.convert(DEMO / "raw.onnx", post=post).save(folder / "model.xml"),
    ]


@pytest.mark.parametrize("place", [0, 1])
def test_artifacts_show_decisions_on_raw_values_and_what_leads_to_them(artifacts: list[Path], place: int) -> None:
    found = pp.inspect(artifacts[place])
    drawn = texts(found.sketch())
    cutoffs = found.provenance.cutoffs
    assert f"pred_label: raw_score ≥ {cutoffs['pred_label']:.9g}" in drawn
    assert f"pred_mask: raw_map ≥ {cutoffs['pred_mask']:.9g}" in drawn
    assert {"Network", "Raw outputs", "Post-processing", "Outputs", "bool (N, 1, 256, 256)"} <= set(drawn)
    keys = {part.key for part in found.end}
    for part in found.end:
        if part.kind in ("raw", "step", "output"):
            assert set(part.reads) <= keys, "every box is connected"
    assert found.sketch() in found._repr_html_()


def test_raw_models_show_likely_roles_and_count_what_is_not_drawn() -> None:
    found = pp.inspect(DEMO / "raw.onnx")
    drawn = texts(found.sketch())
    assert any(text.startswith("score: ") for text in drawn)
    before = next(int(match[1]) for text in drawn if (match := re.match(r"… (\d+) operators before", text)))
    layers = [part for part in found.end if part.kind == "layer" and part.key != "before"]
    assert before + len(layers) <= found.nodes
    assert len(layers) == 8


def test_of_a_large_graph_only_the_end_is_drawn() -> None:
    chain = "\n".join(f"v{index} = Relu(v{index - 1})" for index in range(1, 10_000))
    model = from_text(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[N,1] v0) => (float[N,1] y) {{ {chain}\n y = Abs(v9999) }}'
    )
    drawn = texts(pp.inspect(model).sketch())
    assert "… 9,992 operators before" in drawn
    assert len(drawn) < 40


def test_names_are_escaped_and_shortened_in_the_middle() -> None:
    name = "<b>&" + "x" * 300 + "\x01end"
    model = from_text('<ir_version: 8, opset_import: ["": 17]> g (float[N,1] x) => (float[N,1] y) { y = Relu(x) }')
    model.graph.node[0].name = name
    svg = pp.inspect(model).sketch()
    shown = next(text for text in texts(svg) if text.startswith("<b>&"))
    assert "…" in shown
    assert len(shown) < 60
    whole = [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}title")]
    assert any("x" * 300 in text for text in whole)
    assert shorten("abcdefghij", 5) == "ab…ij"


def test_command_writes_a_sketch_and_never_over_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["inspect", str(DEMO / "raw.onnx"), "--sketch"]
    sketch = tmp_path / "raw.svg"
    assert run([*arguments, str(sketch)]) == 0
    assert ET.parse(sketch).getroot().tag == f"{SVG}svg"
    capsys.readouterr()
    assert run([*arguments, str(sketch)]) == 2
    assert "exists" in capsys.readouterr().err
    assert run([*arguments, str(tmp_path / "raw.png")]) == 2
    assert "expected '.svg'" in capsys.readouterr().err
