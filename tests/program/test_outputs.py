"""Roles of outputs: by shape and rank first, by name second; an error if several remain."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from pp_graph.errors import OutputRoleError
from pp_graph.model import RawModel, describe_outputs
from pp_graph.postprocessors import ROLES, merged_roles
from pp_graph.program import RoleMatch, find_roles
from tests.models import conv_model, from_text, identity_model


def find(model: onnx.ModelProto | RawModel, **named: str) -> dict[str, RoleMatch]:
    return find_roles(describe_outputs(RawModel.open(model)), ROLES, merged_roles(None, **named))


def roles(shapes: dict[str, list], **named: str) -> tuple[str | None, str | None]:
    found = {role: match.output.name for role, match in find(identity_model(shapes), **named).items()}
    return found.get("raw_score"), found.get("raw_map")


@pytest.mark.parametrize("score", [["N"], ["N", 1], [1], [1, 1], [None], [None, 1]], ids=str)
@pytest.mark.parametrize(
    "anomaly_map",
    [["N", "H", "W"], ["N", 1, 64, 64], [1, 64, 64], ["N", 64, 64, 1], [None, 1, None, None], [None, None, None]],
    ids=str,
)
def test_shapes_decide(score: list, anomaly_map: list) -> None:
    shapes = {"537": anomaly_map, "Identity:0": score}
    if isinstance(score[0], int) and isinstance(anomaly_map[0], int) and score[0] != anomaly_map[0]:
        pytest.skip("not one batch")
    assert roles(shapes) == ("Identity:0", "537")


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"map": ["N", 1, 8, 8]}, (None, "map")),
        ({"score": ["N"]}, ("score", None)),
        ({"embedding": ["N", 512], "out": ["N", 1]}, ("out", None)),
        ({"features": ["N", 64, 8, 8], "out": ["N", 1, 8, 8]}, (None, "out")),
        # names decide if several shapes fit
        ({"a": ["N", 1, 8, 8], "anomaly_map": ["N", 1, 8, 8]}, (None, "anomaly_map")),
        ({"aux": ["N"], "model/pred_score:0": ["N", 1]}, ("model/pred_score:0", None)),
        # a size that is known beats one that is open
        ({"embedding": ["N", None], "out": ["N", 1]}, ("out", None)),
        ({"pyramid": ["N", "C", 8, 8], "out": ["N", 1, 8, 8]}, (None, "out")),
        # and shape beats name
        ({"anomaly_map": ["N", 3, 8, 8], "x": ["N", 1, 8, 8]}, (None, "x")),
    ],
)
def test_choices(shapes: dict[str, list], expected: tuple[str | None, str | None]) -> None:
    assert roles(shapes) == expected


def test_named_by_the_caller() -> None:
    shapes = {"a": ["N", 1, 8, 8], "b": ["N", 1, 8, 8], "s": ["N"], "t": ["N"]}
    assert roles(shapes, score_output="t", map_output="a") == ("t", "a")


@pytest.mark.parametrize(
    ("shapes", "named", "message"),
    [
        (
            {"a": ["N", 1, 8, 8], "b": ["N", 1, 8, 8]},
            {},
            r"2 outputs can be read as the map:\n  'a'.*\n  'b'.*\n.*--map-output",
        ),
        (
            {"a": ["N"], "b": ["N", 1]},
            {},
            r"2 outputs can be read as the score:\n  'a' \(N,\).*\n  'b' \(N, 1\).*\n.*--score-output",
        ),
        ({"logits": ["N", 1000]}, {}, r"No output can be read.*\n  'logits' \(N, 1000\).*\n.*--score-output"),
        ({"a": ["N"]}, {"score_output": "b"}, "Output 'b' given as score_output does not exist.*Did you mean 'a'"),
        (
            {"map": ["N", 5]},
            {"map_output": "map"},
            r"Output 'map' has rank 2 and shape \(N, 5\), expected rank 3 \(N,H,W\) or rank 4",
        ),
        ({"m": ["N", 1, 8, 8]}, {"score_output": "m"}, r"Output 'm' has rank 4.*expected rank 1 \(N,\) or rank 2"),
        ({"a": ["N"]}, {"score_output": "a", "map_output": "a"}, "named both as the score and as the map"),
    ],
)
def test_errors_list_candidates_and_flags(shapes: dict[str, list], named: dict[str, str], message: str) -> None:
    with pytest.raises(OutputRoleError, match=message):
        roles(shapes, **named)


def test_integers_are_no_scores() -> None:
    model = identity_model({"label": ["N"]}, dtype=TensorProto.INT64)
    with pytest.raises(OutputRoleError, match="'label' .*holds INT64, expected floating-point"):
        find(model)
    with pytest.raises(OutputRoleError, match="Output 'label' holds INT64, expected floating-point numbers"):
        find(model, score_output="label")


def test_class_vector_without_batch_is_no_score() -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["": 17]> g (float[1,3] x) => (float[1000] y) <int64[1] n = {1000}> {
            m = ReduceMean <keepdims = 0> (x)
            y = Expand(m, n)
        }"""
    )
    with pytest.raises(OutputRoleError, match="its first size is 1000, which is not the batch"):
        find(model)


def declare(model: onnx.ModelProto, name: str, shape: list | None) -> onnx.ModelProto:
    for output in model.graph.output:
        if output.name == name:
            output.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model


@pytest.mark.parametrize("declared", [None, [-1, -1, -1, -1], ["?", "?", "?", "?"], [0, 0, 0, 0]], ids=str)
def test_missing_shapes_are_inferred(declared: list | None) -> None:
    found = find(declare(conv_model(), "anomaly_map", declared))["raw_map"]
    assert found.output.name == "anomaly_map"
    assert found.type.size("C") == 1


@pytest.mark.parametrize("declared", [[1, 1, 64, 64], ["N", 5], ["N", 3, "H", "W"]], ids=str)
def test_wrong_declarations_are_corrected_and_noted(declared: list) -> None:
    raw = RawModel.open(declare(conv_model(), "anomaly_map", declared))
    found = find(raw)["raw_map"].output
    assert found.name == "anomaly_map"
    assert found.shape[:2] == ("N", 1)
    assert "declared as" in found.note
    # the declaration in the graph stays as it is
    dims = raw.to_proto().graph.output[1].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == declared


def test_channels_last() -> None:
    found = find(conv_model(channels_last=True))["raw_map"]
    assert found.why == "rank 4, one number per pixel, (N,H,W,1)"
    assert found.type.axes == "NHWC"


def test_describe_gives_every_output() -> None:
    described = describe_outputs(RawModel.open(conv_model()))
    assert [info.name for info in described] == ["pred_score", "anomaly_map"]
    assert [info.dtype for info in described] == ["FLOAT", "FLOAT"]
