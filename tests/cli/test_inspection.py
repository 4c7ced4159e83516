from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.errors import OutputRoleError
from tests.conftest import DEMO
from tests.model.test_saving import external
from tests.models import conv_model, from_text, identity_model


def test_raw() -> None:
    found = pp.inspect(DEMO / "raw.onnx")
    assert found.kind == "raw ONNX"
    assert [(port.name, port.dtype, port.shape) for port in found.inputs] == [
        ("image", "float32", ("batch", 3, 256, 256))
    ]
    assert {port.name: port.role for port in found.outputs} == {"pred_score": "score", "anomaly_map": "map"}
    assert all(port.why for port in found.outputs)
    assert found.opset == 18
    assert found.producer.startswith("pytorch")
    assert found.weight_bytes > 1_000_000
    assert found.provenance is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_domains_functions_metadata_and_external_weights(tmp_path: Path) -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["": 17, "local": 1], metadata_props: ["key": "value"]>
        g (float[N,1] x) => (float[N,1] y) { y = local.f(x) }
        <domain: "local", opset_import: ["": 17]> f (x) => (y) { y = Relu(x) }"""
    )
    found = pp.inspect(model)
    assert (found.domains, found.functions, found.metadata, found.path) == ({"local": 1}, 1, ("key",), None)
    assert pp.inspect(external(tmp_path)).weight_files == ("weights.bin",)


def test_ambiguity_is_no_error_here(tmp_path: Path) -> None:
    model = identity_model({"a": ["N"], "b": ["N", 1], "c": ["N", 7]})
    found = pp.inspect(model)
    assert "2 outputs can be read as the score" in found.problem
    assert [port.role for port in found.outputs] == [None] * 3
    for named in (pp.inspect(model, score_output="b"), pp.inspect(model, roles={"raw_score": "b"})):
        assert named.problem is None
        assert [port.role for port in named.outputs] == [None, "score", None]
    with pytest.raises(OutputRoleError, match="does not exist"):
        pp.inspect(model, score_output="z")


def test_wrong_declaration_is_noted() -> None:
    model = conv_model()
    model.graph.output[1].CopyFrom(onnx.helper.make_tensor_value_info("anomaly_map", 1, [1, 1, 64, 64]))
    note = pp.inspect(model).outputs[1].note
    assert note.startswith("declared as (1, 1, 64, 64), but computed as (N, 1, ")


def test_a_foreign_post_processing_is_noticed() -> None:
    assert (
        "contain post-processing already"
        in pp.inspect(identity_model({"pred_score": ["N"], "pred_label": ["N"]})).problem
    )


@pytest.mark.parametrize("kind", ["fused ONNX", "OpenVINO IR"])
def test_fused_and_converted(kind: str, demo_fused_path: Path, demo_ir_path: Path) -> None:
    found = pp.inspect(demo_fused_path if kind == "fused ONNX" else demo_ir_path)
    assert found.kind == kind
    assert [port.name for port in found.outputs] == ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
    assert [port.dtype for port in found.outputs] == ["float32", "bool", "float32", "bool"]
    assert found.outputs[2].why == "anomaly score of each pixel; 0 to 1, threshold at 0.5"
    assert found.provenance.raw.file == "raw.onnx"
    assert (found.provenance.conversion is None) == (kind == "fused ONNX")
    json.dumps(found.to_dict(), allow_nan=False)


def test_values_tell_which_output_is_the_score(tmp_path: Path) -> None:
    model = identity_model({"a": ["N", 1], "b": ["N"], "boxes": ["N", 5, 4]})
    names = [each.name for each in model.graph.input]
    generator = np.random.default_rng(0)
    label = np.array([0, 1] * 50)
    noise = generator.normal(size=100).astype(np.float32)
    separated = (noise + 2 * label).astype(np.float32)
    arrays = dict(zip(names, (noise[:, None], separated, np.zeros((100, 5, 4), np.float32)), strict=True), label=label)
    arrays[names[0]][3] = np.nan
    found = {each.name: each for each in pp.inspect(model, data=arrays).values}
    assert [found[name].per for name in ("a", "b", "boxes")] == ["image", "image", "value"]
    pairs = separated[label == 1][:, None] > separated[label == 0][None]
    assert found["b"].auroc == pairs.mean(), "exact: there are no ties"
    assert found["b"].auroc_bound == (pairs.mean(), pairs.mean())
    assert found["b"].auroc > found["a"].auroc
    assert (found["b"].minimum, found["b"].maximum) == (separated.min(), separated.max())
    assert found["b"].mean == pytest.approx(separated.mean(dtype=np.float64))
    assert {kind: sum(counts) for kind, counts in found["b"].histogram.items()} == {"normal": 50, "anomalous": 50}
    assert (found["a"].nan, found["boxes"].auroc, found["boxes"].histogram) == (0.01, None, {})
    assert "b separates the classes best" in str(pp.inspect(model, data=arrays))


def test_values_of_scores_and_maps_on_labelled_images() -> None:
    found = pp.inspect(DEMO / "raw.onnx", data=DEMO / "images")
    score, pixels = found.values
    assert (score.per, score.count, pixels.per, pixels.count) == ("image", 12, "pixel", 12 * 256 * 256)
    assert score.auroc == 1
    assert "AUROC" in found._repr_html_()
    json.dumps(found.to_dict(), allow_nan=False)
