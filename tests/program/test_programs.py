"""Programs: roles and outputs of any names and axes, bound once, described, and fused as they compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import pp_graph as pp
from pp_graph.errors import OutputRoleError, PostProcessorError, RecipeError
from pp_graph.fusion import Provenance
from pp_graph.postprocessors import CLASS_ROLES, ROLES
from pp_graph.program import PACKED_NAME, Output, Role, Signature, check_packed, unpacked
from pp_graph.program import program as program_module
from pp_graph.program.packing import packed_output
from pp_graph.steps import Accepts, Array, Emitter, Keep, MaxOverMap, MeanOverMap, Step, TopKMean
from pp_graph.values import Scale, ValueType
from tests.models import STATS, conv_model, identity_model, run, score_and_map

F32 = np.float32
RNG = np.random.default_rng(0)
FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
Shape = list[str | int | None]


def copies(opset: int = 17, **outputs: Shape | tuple[int, Shape]) -> onnx.ModelProto:
    """A model that copies `<name>_in` to `<name>`, each of an element type and a shape."""
    typed = {name: each if isinstance(each, tuple) else (FLOAT, each) for name, each in outputs.items()}
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"{name}_in"], [name]) for name in typed],
        "raw",
        [helper.make_tensor_value_info(f"{name}_in", dtype, shape) for name, (dtype, shape) in typed.items()],
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in typed.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def fed(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Feeds of a model of `copies`."""
    return {f"{name}_in": array for name, array in arrays.items()}


def recipe(
    *steps: Mapping[str, Any],
    roles: tuple[Any, ...] = (),
    outputs: tuple[Any, ...] = (),
    statistics: pp.Statistics | None = None,
) -> pp.RecipePostProcessor:
    return pp.RecipePostProcessor(statistics, steps, roles=roles, declared_outputs=outputs)


def kept(role: Mapping[str, Any] | Role) -> pp.RecipePostProcessor:
    """A recipe with one output, `y`."""
    name = role.name if isinstance(role, Role) else role["name"]
    return recipe({"step": "keep", "source": name, "target": "y"}, roles=(role,), outputs=("y",))


def assert_fuses(raw: onnx.ModelProto, post: pp.PostProcessor, arrays: Mapping[str, Array]) -> pp.FusedModel:
    """Fuse, compare with the program in NumPy, check, build again from provenance, and strip to the raw model."""
    fused = pp.fuse(raw, post)
    onnx.checker.check_model(fused.to_proto(), full_check=True)
    found = run(fused, fed(arrays))
    names = {role: output.name for role, output in fused.provenance.raw.read.items()}
    values = fused.program.run({role: arrays[name] for role, name in names.items()})
    for output in fused.outputs:
        array, expected = found[output.name], values[output.name]
        assert array.dtype == expected.dtype == output.dtype
        assert array.shape == expected.shape
        assert output.axes is not None
        assert len(output.axes) == array.ndim
        assert all(size in (None, has) for size, has in zip(output.sizes, array.shape, strict=True))
        if array.dtype == F32:
            np.testing.assert_allclose(array, expected, atol=1e-6)
        else:
            assert np.array_equal(array, expected), output.name
    again = Provenance.from_json(fused.provenance.to_json()).bind()
    assert again.outputs == fused.program.outputs
    assert again.post.parameters() == post.parameters()
    assert pp.strip(fused).to_proto() == raw
    return fused


DETECTOR_STEPS = (
    {"step": "sigmoid", "source": "objectness", "target": "confidence"},
    {"step": "compare", "source": "confidence", "target": "found", "level": 0.3},
    {"step": "keep", "source": "boxes", "target": "corners"},
)
DETECTOR_ROLES = ({"name": "objectness", "axes": "NK"}, {"name": "boxes", "axes": "NKP", "sizes": {"P": 4}})
DETECTOR_OUTPUTS = (
    "confidence",
    {"name": "found", "meaning": "decision", "description": "whether there is something"},
    {"name": "corners", "axes": "NKP", "meaning": "box"},
)
DETECTOR_YAML = """\
roles:
  - {name: objectness, axes: NK}
  - name: boxes
    axes: NKP
    sizes: {P: 4}
steps:
  - {step: sigmoid, source: objectness, target: confidence}
  - {step: compare, source: confidence, target: found, level: 0.3}
  - {step: keep, source: boxes, target: corners}
outputs:
  - confidence
  - {name: found, meaning: decision, description: whether there is something}
  - {name: corners, axes: NKP, meaning: box}
"""


class TestOwnNames:
    raw = copies(logits=["N", 6], rectangles=["N", 6, 4], features=["N", 6, 32])
    arrays: ClassVar[dict[str, Array]] = {
        "logits": RNG.normal(0, 2, (3, 6)).astype(F32),
        "rectangles": RNG.uniform(0, 64, (3, 6, 4)).astype(F32),
        "features": np.zeros((3, 6, 32), F32),
    }
    post = recipe(*DETECTOR_STEPS, roles=DETECTOR_ROLES, outputs=DETECTOR_OUTPUTS)

    def test_end_to_end(self) -> None:
        fused = assert_fuses(self.raw, self.post, self.arrays)
        assert list(fused.output_names) == ["confidence", "found", "corners", "features"]
        assert fused.notes == ()
        assert {role: match.output.name for role, match in fused.program.signature.matches.items()} == {
            "objectness": "logits",
            "boxes": "rectangles",
        }
        found = run(fused, fed(self.arrays))
        assert found["found"].any()
        assert not found["found"].all()
        assert np.array_equal(found["corners"], self.arrays["rectangles"])
        assert np.array_equal(found["features"], self.arrays["features"])
        # A decision about a sigmoid is a cutoff on the network's output.
        assert fused.program.comparisons["found"].source == "objectness"
        assert list(fused.provenance.cutoffs) == ["found"]

    def test_outputs_are_described(self) -> None:
        confidence, found, corners = pp.fuse(self.raw, self.post).outputs
        assert confidence.type == ValueType("NK", (None, 6))
        assert confidence.scale == Scale(0.0, 1.0)
        assert confidence.bounded
        assert (found.meaning, found.dtype, found.decides) == ("decision", "bool", True)
        assert found.description == "whether there is something"
        assert (corners.meaning, corners.unchanged, corners.scale) == ("box", "boxes", None)
        assert not any(output.per_pixel for output in (confidence, found, corners))

    def test_in_numpy_by_the_names_of_the_roles(self) -> None:
        predictions = self.post({"objectness": self.arrays["logits"], "boxes": self.arrays["rectangles"]})
        assert list(predictions) == ["confidence", "found", "corners"]
        assert np.array_equal(predictions.found, run(pp.fuse(self.raw, self.post), fed(self.arrays))["found"])
        with pytest.raises(PostProcessorError, match=r"'boxes' has rank 3 and shape \(3, 6, 5\), expected \(N,K,4\)\."):
            self.post({"boxes": np.zeros((3, 6, 5))})
        with pytest.raises(PostProcessorError, match="Raw outputs hold 'logits', expected 'objectness' and 'boxes'"):
            self.post({"logits": self.arrays["logits"]})

    def test_from_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "post.yaml").write_text(DETECTOR_YAML)
        post = pp.RecipePostProcessor.load(tmp_path / "post.yaml")
        assert post == self.post
        assert_fuses(self.raw, post, self.arrays)

    def test_saved_and_changed(self, tmp_path: Path) -> None:
        fused = pp.FusedModel.load(pp.fuse(self.raw, self.post).save(tmp_path / "fused.onnx"))
        assert fused.program.outputs == fused.outputs
        steps = [dict(step, level=0.6) if step["step"] == "compare" else step for step in DETECTOR_STEPS]
        tuned = fused.with_program(fused.program.replace(recipe=steps))
        before, after = (run(each, fed(self.arrays))["found"] for each in (fused, tuned))
        assert after.sum() < before.sum()
        assert np.array_equal(after, tuned.program.run({"objectness": self.arrays["logits"]} | {
            "boxes": self.arrays["rectangles"]
        })["found"])  # fmt: skip
        assert pp.strip(tuned).to_proto() == self.raw

    def test_roles_and_outputs_as_objects(self) -> None:
        post = recipe(
            *DETECTOR_STEPS,
            roles=(Role("objectness", ("NK",), required=True), Role("boxes", ("NKP",), {"P": 4}, required=True)),
            outputs=(Output("confidence"), Output("found", meaning="decision"), Output("corners", ("NKP",), "box")),
        )
        assert_fuses(self.raw, post, self.arrays)

    def test_the_post_processor_can_be_copied(self) -> None:
        assert dataclasses.replace(self.post, statistics=STATS) == self.post.with_statistics(STATS)

    def test_those_of_an_anomaly_model_beside_others(self) -> None:
        post = recipe(
            {"step": "compare", "source": "raw_score", "target": "pred_label", "level": 0.5},
            {"step": "keep", "source": "boxes", "target": "corners"},
            roles=("raw_score", DETECTOR_ROLES[1]),
            outputs=("pred_label", "corners"),
        )
        raw = copies(score=["N", 1], rectangles=["N", 6, 4])
        arrays = {"score": RNG.normal(0.5, 1, (3, 1)).astype(F32), "rectangles": self.arrays["rectangles"]}
        fused = assert_fuses(raw, post, arrays)
        assert list(fused.output_names) == ["pred_label", "corners"]


MISTAKES = {
    "roles:\n  - {name: heat, axes: NK}\n  - name: boxes\n    axes: NKQ\n": (
        "line 6, field 'axes': roles has the axes 'NKQ', expected some of N, C, H, W, K, P, J, T"
    ),
    "roles:\n  - {name: heat, axes: NK}\n  - {name: boxes}\n": (
        "line 5: roles holds .*missing required field `axes`. Write it as {name: heat, axes: NCHW"
    ),
    "roles:\n  - {name: heat, axis: NK}\n": "line 4, field 'axis': roles holds .*unknown field `axis`",
    "roles:\n  - {name: heat, axes: NK, sizes: {C: 1}}\n": (
        "line 4, field 'sizes': role 'heat' has a size for the axis 'C', expected one of N, K"
    ),
    "roles:\n  - {name: heat, axes: NK, sizes: {K: 0}}\n": "line 4, field 'sizes': roles holds .*Expected `int` >= 1",
    "roles:\n  - {name: heat, axes: NK, dtype: float16}\n": "line 4, field 'dtype': roles holds .*'float16'",
    "roles:\n  - {name: heat, axes: []}\n": "line 4, field 'axes': roles has an entry without axes",
    "roles:\n  - {name: '', axes: NK}\n": "line 4, field 'name': roles holds .*length >= 1",
    "roles:\n  - heat\n": "line 4: roles holds 'heat': Expected `object`",
    "roles: heat\n": "line 3, field 'roles': roles is 'heat', expected a list",
    "roles:\n  - {name: heat, axes: NK}\n  - {name: heat, axes: NKP}\n": (
        "line 3, field 'roles': roles lists 'heat' twice, expected each name once"
    ),
    "roles:\n  - {name: boxes, axes: NK}\n": "line 2: Step 'y' .Keep. reads 'heat', which is not there; there are 'boxes'",
    "roles:\n  - {name: heat, axes: NK}\noutputs:\n  - y\n  - {name: z, meaning: colour}\n": (
        "line 7, field 'meaning': outputs holds .*'colour'"
    ),
    "roles:\n  - {name: heat, axes: NK}\noutputs: [y, y]\n": "line 5, field 'outputs': outputs lists 'y' twice",
    "roles:\n  - {name: heat, axes: NK}\noutputs: [z]\n": "The steps write 'y', expected some of z: the model returns only these",
    "roles:\n  - {name: heat, axes: NK}\noutputs:\n  - {name: y, axes: NKP}\n": (
        r"line 2: Step 'y' .Keep. writes float32 \(N,K\), expected \(N,K,P\)\. Give it another target"
    ),
    "roles:\n  - {name: heat, axes: NK}\noutputs:\n  - {name: y, meaning: decision}\n": (
        r"line 2: Step 'y' .Keep. writes float32 \(N,K\), expected bool"
    ),
}


@pytest.mark.parametrize("declarations", MISTAKES)
def test_mistakes_are_named_with_line_and_field(tmp_path: Path, declarations: str) -> None:
    path = tmp_path / "post.yaml"
    path.write_text("steps:\n  - {step: keep, source: heat, target: y}\n" + declarations)
    with pytest.raises(RecipeError, match=f"Recipe '.*post.yaml'.*(?s:{MISTAKES[declarations]})"):
        pp.RecipePostProcessor.load(path)


def test_roles_and_outputs_belong_to_steps(tmp_path: Path) -> None:
    path = tmp_path / "post.yaml"
    path.write_text("post_processor: OneClassPostProcessor\nroles: []\n")
    with pytest.raises(RecipeError, match="line 2, field 'roles': belongs to 'steps'"):
        pp.RecipePostProcessor.load(path)


EACH_NUMBER = (
    {"step": "min_max_normalize", "threshold": 0.5, "minimum": 0.0, "maximum": 1.0},
    {"step": "sigmoid"},
    {"step": "z_score", "mean": 0.5, "std": 2.0},
    {"step": "quantile_map", "quantiles": (0.0, 0.5, 2.0)},
    {"step": "compare", "level": 0.25, "on_nan": "normal"},
    {"step": "keep"},
)
"""Steps that compute each number from the one at its place."""

EACH_CLASS = (
    {"step": "softmax"},
    {"step": "select_class", "index": 1},
    {"step": "compare_per_class", "class_levels": (0.1, 0.2, 0.3)},
)


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("step", [*EACH_NUMBER, *EACH_CLASS], ids=lambda step: step["step"])
@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("N", ["N"]),
        ("NK", ["N", 7]),
        ("NKP", ["N", 7, 4]),
        ("NPK", ["N", 4, "K"]),
        ("NT", ["N", "T"]),
        ("NKC", ["N", 7, 3]),
        ("NCK", ["N", 3, "K"]),
        ("NTHW", ["N", 2, 5, 6]),
        ("NTCHW", ["N", 2, 3, 5, 6]),
        ("KP", [7, 4]),
    ],
)
def test_steps_on_any_axes(axes: str, shape: Shape, step: Mapping[str, Any]) -> None:
    raw = copies(opset=11, x=shape)
    x = RNG.normal(0, 1, [size if isinstance(size, int) else 3 for size in shape]).astype(F32)
    x.reshape(-1)[1] = np.nan
    entry = {**step, "source": "numbers", "target": "y"}
    if step in EACH_CLASS and "C" not in axes:
        with pytest.raises(PostProcessorError, match="expected an axis of classes"):
            recipe(entry, roles=({"name": "numbers", "axes": axes},), outputs=("y",))
        return
    post = recipe(entry, roles=({"name": "numbers", "axes": axes},), outputs=("y",))
    (output,) = assert_fuses(raw, post, {"x": x}).outputs
    assert output.axes == axes


@pytest.mark.parametrize("axes", ["NTHW", "NTCHW", "CHW"])
@pytest.mark.parametrize("step", [MaxOverMap("x", "y"), MeanOverMap("x", "y"), TopKMean("x", "y", k=2)], ids=str)
def test_steps_over_maps_say_which_maps(step: Step, axes: str) -> None:
    post = recipe(step, roles=(Role("x", ("NHW", axes)),), outputs=("y",))  # type: ignore[arg-type]
    with pytest.raises(PostProcessorError, match=r"expected the axes \(N,H,W\) or \(N,C,H,W\) or \(N,H,W,C\)"):
        post.bind(Signature({"x": ValueType(axes).resized(C=1, H=5, W=6, T=2)}))


@dataclass(frozen=True)
class IsIndex(Step):
    """True for one index."""

    accepts = (Accepts(dtypes=("int64",)),)
    source: str
    target: str
    index: int = 1

    def output_type(self, value: ValueType) -> ValueType:
        return value.as_dtype("bool")

    def reference(self, array: Array) -> Array:
        return np.asarray(array == np.int64(self.index))

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        index = op.constant((self.index,), "index")
        return op.node("Equal", [value, index], {}, np.dtype(np.bool_), op.shape_of(value))


class TestIntegers:
    post = recipe(
        {"step": "is_index", "source": "kinds", "target": "wanted", "index": 2},
        roles=({"name": "kinds", "axes": "NK", "dtype": "int64"},),
        outputs=("wanted",),
    )

    @pytest.mark.parametrize(("element", "dtype"), [(INT64, np.int64), (INT32, np.int32)])
    def test_indices_are_read(self, element: int, dtype: type) -> None:
        raw = copies(labels=(element, ["N", 5]), scores=["N", 5])
        labels = RNG.integers(0, 4, (3, 5)).astype(dtype)
        fused = pp.fuse(raw, self.post)
        assert list(fused.output_names) == ["wanted", "scores"]
        found = run(fused, fed({"labels": labels, "scores": np.zeros((3, 5), F32)}))
        assert np.array_equal(found["wanted"], labels == 2)
        assert np.array_equal(self.post({"kinds": labels}).wanted, labels == 2)
        assert fused.program.signature["kinds"] == ValueType("NK", (None, 5), "int64")
        assert pp.strip(fused).to_proto() == raw

    def test_a_map_of_indices_is_cropped(self) -> None:
        post = recipe(
            {"step": "crop_border", "source": "kinds", "target": "inner", "border": 1},
            roles=({"name": "kinds", "axes": "NHW", "dtype": "int64"},),
            outputs=({"name": "inner", "meaning": "class"},),
        )
        arrays = {"labels": RNG.integers(0, 4, (2, 7, 8))}
        (output,) = assert_fuses(copies(labels=(INT64, ["N", 7, 8])), post, arrays).outputs
        assert (output.meaning, output.dtype, output.sizes) == ("class", "int64", (None, 5, 6))
        assert not output.decides

    def test_numbers_are_none(self) -> None:
        raw = copies(labels=["N", 5])
        with pytest.raises(OutputRoleError, match=r"'labels' \(N, 5\): holds FLOAT, expected INT64"):
            pp.fuse(raw, self.post)
        with pytest.raises(OutputRoleError, match="Output 'labels' holds FLOAT, expected INT64 for a role 'kinds'"):
            pp.fuse(raw, self.post, roles={"kinds": "labels"})
        with pytest.raises(PostProcessorError, match="'kinds' holds float32, expected int64"):
            self.post({"kinds": np.zeros((2, 5), F32)})
        role = {"name": "kinds", "axes": "NK", "dtype": "int64"}
        with pytest.raises(PostProcessorError, match="reads 'kinds', which is int64 .*, expected float32"):
            recipe({"step": "sigmoid", "source": "kinds", "target": "y"}, roles=(role,), outputs=({"name": "y"},))

    def test_kept(self) -> None:
        post = kept({"name": "kinds", "axes": "NK", "dtype": "int64"})
        arrays = {"labels": RNG.integers(0, 4, (2, 5))}
        (output,) = assert_fuses(copies(labels=(INT64, ["N", 5])), post, arrays).outputs
        assert (output.dtype, output.unchanged) == ("int64", "kinds")


class TestRoles:
    def test_more_than_one_reading_lists_them(self) -> None:
        raw, post = copies(a=["N", 7], b=["N", 7], c=["N", 7, 4]), kept({"name": "scores", "axes": "NK"})
        with pytest.raises(OutputRoleError) as caught:
            pp.fuse(raw, post)
        assert str(caught.value) == (
            "2 outputs can be read as the role 'scores':\n"
            "  'a' (N, 7): rank 2, (N,K)\n"
            "  'b' (N, 7): rank 2, (N,K)\n"
            "Choose one with roles={'scores': ...} (--role scores=NAME)."
        )
        assert list(pp.fuse(raw, post, roles={"scores": "b"}).output_names) == ["y", "a", "c"]

    def test_a_name_decides_where_sizes_do_not(self) -> None:
        role = {"name": "scores", "axes": "NK", "names": ["Conf"]}
        fused = pp.fuse(copies(**{"a": ["N", 7], "head/conf:0": ["N", 7]}), kept(role))
        assert fused.program.signature.outputs == {"scores": "head/conf:0"}
        assert fused.program.signature.matches["scores"].why == "rank 2, (N,K); chosen among 2 by its name"

    def test_one_output_named_twice(self) -> None:
        post = recipe(*DETECTOR_STEPS, roles=DETECTOR_ROLES, outputs=DETECTOR_OUTPUTS)
        with pytest.raises(
            OutputRoleError, match="Output 'a' is named both as the role 'objectness' and as the role 'boxes'"
        ):
            pp.fuse(copies(a=["N", 7]), post, roles={"objectness": "a", "boxes": "a"})
        with pytest.raises(
            OutputRoleError, match="Role 'raw_map' is given as 'a' and map_output as 'b', expected one of them"
        ):
            pp.fuse(score_and_map(), pp.OneClassPostProcessor(STATS), roles={"raw_map": "a"}, map_output="b")

    @pytest.mark.parametrize(
        ("roles", "message"),
        [
            ({"heat": "a"}, "Role 'heat' is not known, expected one of: objectness, boxes"),
            ({"boxes": "c"}, "Output 'c' given as boxes does not exist. The outputs are: 'a', 'b'"),
            ({"boxes": "a"}, r"Output 'a' has rank 2 and shape \(N, 7\), expected rank 3 \(N,K,4\)"),
        ],
    )
    def test_names_that_cannot_be(self, roles: Mapping[str, str], message: str) -> None:
        post = recipe(*DETECTOR_STEPS, roles=DETECTOR_ROLES, outputs=DETECTOR_OUTPUTS)
        with pytest.raises(OutputRoleError, match=message):
            pp.fuse(copies(a=["N", 7], b=["N", 7, 4]), post, roles=roles)

    def test_a_role_that_leaves_no_choice_is_settled_first(self) -> None:
        roles = [{"name": "classes", "axes": "NKP"}, {"name": "boxes", "axes": "NKP", "sizes": {"P": 4}}]
        for order in (roles, roles[::-1]):
            post = recipe(
                {"step": "keep", "source": "classes", "target": "y"},
                {"step": "keep", "source": "boxes", "target": "z"},
                roles=tuple(order),
                outputs=("y", "z"),
            )
            found = pp.fuse(copies(a=["N", 7, 80], b=["N", 7, 4]), post).program.signature.outputs
            assert found == {"classes": "a", "boxes": "b"}

    def test_a_missing_role_is_told_from_those_that_were_found(self) -> None:
        post = recipe(*DETECTOR_STEPS, roles=DETECTOR_ROLES, outputs=DETECTOR_OUTPUTS)
        with pytest.raises(OutputRoleError) as caught:
            pp.fuse(copies(a=["N", 7], b=["N", 7, 5]), post)
        assert str(caught.value) == (
            "No output can be read as a role 'boxes', (N,K,4). The outputs are:\n"
            "  'a' (N, 7): read as the role 'objectness'\n"
            "  'b' (N, 7, 5): shape (N, 7, 5) is neither role 'objectness' (N,K) nor role 'boxes' (N,K,4)\n"
            "Export what the post-processing reads, or name it with roles={'boxes': ...} (--role boxes=NAME)."
        )

    def test_one_that_may_be_missing(self) -> None:
        post = recipe(
            {"step": "keep", "source": "boxes", "target": "y"},
            {"step": "keep", "source": "extra", "target": "z"},
            roles=(DETECTOR_ROLES[1], {"name": "extra", "axes": "NT", "required": False}),
            outputs=("y", "z"),
        )
        with pytest.raises(PostProcessorError, match="reads 'extra', which is not there; there are 'boxes'"):
            pp.fuse(copies(a=["N", 7, 4]), post)
        assert list(pp.fuse(copies(a=["N", 7, 4], b=["N", "T"]), post).output_names) == ["y", "z"]

    def test_a_reading_that_rests_on_an_open_size_is_a_note(self) -> None:
        post = kept(DETECTOR_ROLES[1])
        fused = pp.fuse(copies(a=["N", 7, "P"]), post)
        assert fused.notes == (
            "Output 'a' (N, 7, P) is taken for the role 'boxes': rank 3; size 3 is open and taken as 4.",
        )
        # One whose sizes are known is taken first, and then there is nothing to note.
        known = pp.fuse(copies(a=["N", 7, "P"], b=["N", 9, 4]), post)
        assert known.program.signature.outputs == {"boxes": "b"}
        assert known.notes == ()

    def test_recipes_look_for_what_they_read_only(self) -> None:
        post = recipe({"step": "keep", "source": "raw_map", "target": "anomaly_map"})
        assert [role.name for role in post.roles] == ["raw_map"]
        # Two outputs could be the score, and nobody asks.
        fused = pp.fuse(copies(a=["N"], b=["N", 1], c=["N", 5, 6]), post)
        assert list(fused.output_names) == ["anomaly_map", "a", "b"]
        # Callers may pass all outputs of a model, including unread ones.
        assert list(post({"pred_score": np.zeros(2), "anomaly_map": np.zeros((2, 5, 6))})) == ["anomaly_map"]


class TestWhatNoStepReads:
    def test_a_state_stays(self) -> None:
        """As in a recurrent model, whose state is the input of the next call."""
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            [
                helper.make_node("ReduceMax", ["x"], ["score"], axes=[1], keepdims=1),
                helper.make_node("Tanh", ["state"], ["state_out"]),
            ],
            "raw",
            [info("x", FLOAT, ["N", 8]), info("state", FLOAT, [None, None, None])],
            [info("score", FLOAT, ["N", 1]), info("state_out", FLOAT, [None, None, None])],
        )
        raw = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
        post = recipe(
            {"step": "keep", "source": "raw_score", "target": "pred_score"},
            {"step": "compare", "source": "raw_score", "target": "pred_label", "level": 0.5},
        )
        fused = pp.fuse(raw, post)
        assert list(fused.output_names) == ["pred_score", "pred_label", "state_out"]
        feeds = {"x": RNG.normal(0, 1, (2, 8)).astype(F32), "state": np.ones((2, 1, 4), F32)}
        assert np.array_equal(run(fused, feeds)["state_out"], run(raw, feeds)["state_out"])
        assert pp.strip(fused).to_proto() == raw

    def test_it_is_renamed_where_a_post_processed_output_has_its_name(self) -> None:
        post = recipe({"step": "keep", "source": "raw_map", "target": "anomaly_map"})
        raw = copies(pred_score=["N", 1], anomaly_map=["N", 1, 4, 5], other=["N", 4, 5])
        fused = pp.fuse(raw, post, map_output="other")
        # A raw score must not be taken for a normalised one, though the recipe writes none.
        assert list(fused.output_names) == ["anomaly_map", "raw_pred_score", "raw_anomaly_map"]
        assert pp.strip(fused).to_proto() == raw

    def test_a_class_of_ones_own_keeps_it(self) -> None:
        @dataclass(frozen=True)
        class Scored(pp.PostProcessor):
            statistics: pp.Statistics | None = None

            def steps(self, raw: Signature) -> tuple[Step, ...]:
                return (Keep("raw_score", "pred_score"),)

        fused = pp.fuse(score_and_map(), Scored())
        assert list(fused.output_names) == ["pred_score", "heat"]
        assert list(fused.program.ignored) == ["raw_map"]

    def test_only_outputs_that_were_chosen_leave_it_out(self) -> None:
        post = pp.OneClassPostProcessor(STATS, outputs=("pred_label",))
        raw = copies(s=["N", 1], m=["N", 1, 4, 5], embedding=["N", 64])
        fused = pp.fuse(raw, post)
        assert list(fused.output_names) == ["pred_label", "embedding"]
        assert list(pp.fuse(raw, post, keep_raw=True).output_names) == ["pred_label", "s", "m", "embedding"]
        assert pp.strip(fused).to_proto() == raw


class TestClasses:
    """Recipes with steps on classes read values with an axis of classes."""

    @pytest.mark.parametrize(
        "steps",
        [
            (
                {"step": "select_class", "source": "raw_score", "target": "pred_score", "index": 1},
                {"step": "compare", "source": "pred_score", "target": "pred_label", "level": 0.5},
            ),
            (
                {"step": "softmax", "source": "raw_score", "target": "pred_score"},
                {
                    "step": "compare_per_class",
                    "source": "pred_score",
                    "target": "pred_label",
                    "class_levels": [0.25] * 4,
                },
            ),
            (
                # The classes are asked for two steps later.
                {"step": "temperature", "source": "raw_score", "target": "cooler", "temperature": 2.0},
                {"step": "keep", "source": "cooler", "target": "pred_score"},
                {
                    "step": "compare_per_class",
                    "source": "pred_score",
                    "target": "pred_label",
                    "class_levels": [0.1] * 4,
                },
            ),
        ],
        ids=["select", "softmax", "later"],
    )
    def test_of_images(self, steps: tuple[Mapping[str, Any], ...]) -> None:
        post = recipe(*steps)
        assert post.roles == CLASS_ROLES[:1]
        logits = RNG.normal(0, 1, (6, 4)).astype(F32)
        fused = assert_fuses(copies(logits=["N", 4]), post, {"logits": logits})
        found = run(fused, fed({"logits": logits}))["pred_label"]
        assert found.any()
        assert not found.all()
        assert np.array_equal(post({"pred_score": logits}).pred_label, found)

    @pytest.mark.parametrize("axes", ["NCHW", "NHWC"])
    def test_of_pixels(self, axes: str) -> None:
        post = recipe(
            {"step": "softmax", "source": "raw_map", "target": "each"},
            {"step": "select_class", "source": "each", "target": "anomaly_map", "index": 2},
            {"step": "compare", "source": "anomaly_map", "target": "pred_mask", "level": 0.4},
            {"step": "max_over_map", "source": "anomaly_map", "target": "pred_score"},
        )
        assert post.roles == CLASS_ROLES[1:]
        x = RNG.normal(0, 1, (2, 3, 8, 8)).astype(F32)
        x = np.moveaxis(x, 1, 3) if axes == "NHWC" else x
        (score, anomaly_map, mask) = assert_fuses(copies(heat=["N", *x.shape[1:]]), post, {"heat": x}).outputs
        assert score.scale == anomaly_map.scale == Scale(0.0, 1.0)
        assert (anomaly_map.axes, mask.per_pixel) == (axes, True)

    def test_others_do_not(self) -> None:
        post = recipe({"step": "keep", "source": "raw_score", "target": "pred_score"})
        assert post.roles == ROLES[:1]
        with pytest.raises(OutputRoleError, match=r"shape \(N, 4\) is not one number per image \(N,\) or \(N,1\)"):
            pp.fuse(copies(logits=["N", 4]), post)


class TestCompiledOnce:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[Signature]:
        found: list[Signature] = []
        compile_steps = program_module.compile_steps

        def counting(steps: Any, signature: Signature, **options: Any) -> Any:
            found.append(signature)
            return compile_steps(steps, signature, **options)

        monkeypatch.setattr("pp_graph.program.program.compile_steps", counting)
        return found

    @pytest.mark.parametrize(
        "post",
        [
            pp.OneClassPostProcessor(STATS, map_size=(4, 4)),
            recipe({"step": "compare", "source": "raw_map", "target": "pred_mask", "level": 0.5}),
        ],
        ids=lambda post: type(post).__name__,
    )
    def test_by_fuse(self, post: pp.PostProcessor, calls: list[Signature]) -> None:
        fused = pp.fuse(conv_model(), post)
        assert fused.program.cutoffs == fused.provenance.cutoffs
        assert fused.program.signature["raw_map"].per_pixel
        run(fused, {"image": np.zeros((1, 3, 8, 8), F32)})
        assert len(calls) == 1

    def test_by_a_file(self, calls: list[Signature], tmp_path: Path) -> None:
        path = pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS)).save(tmp_path / "fused.onnx")
        fused = pp.FusedModel.load(path)
        assert [output.name for output in fused.outputs] == ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
        assert len(calls) == 1  # the output is recorded
        assert fused.program is fused.program
        assert len(calls) == 2

    def test_by_a_batch_in_numpy(self, calls: list[Signature]) -> None:
        program = pp.OneClassPostProcessor(STATS).bind(Signature({"raw_score": ValueType("N")}))
        for batch in (1, 5):
            assert program.predictions(program.run({"raw_score": np.zeros(batch, F32)})).pred_label.shape == (batch,)
        assert len(calls) == 1


class TestDescriptions:
    def outputs(self, **settings: Any) -> dict[str, pp.OutputDescription]:
        return {
            each.name: each for each in pp.fuse(score_and_map(), pp.OneClassPostProcessor(STATS, **settings)).outputs
        }

    def test_normalised(self) -> None:
        found = self.outputs()
        for name in ("pred_score", "anomaly_map"):
            assert found[name].scale == Scale(0.0, 1.0, 0.5)
            assert found[name].bounded
            assert found[name].unchanged is None
            assert found[name].meaning == "number"
        assert found["pred_score"].type == ValueType("NC", (None, 1))
        assert found["anomaly_map"].type == ValueType("NCHW", (None, 1, None, None))
        assert [each.decides for each in found.values()] == [False, True, False, True]
        assert found["pred_mask"].type == ValueType("NCHW", (None, 1, None, None), "bool")
        assert found["pred_mask"].decision_values is None

    def test_unchanged(self) -> None:
        found = self.outputs(normalize=False)
        assert (found["pred_score"].unchanged, found["anomaly_map"].unchanged) == ("raw_score", "raw_map")
        assert found["pred_score"].scale is None
        assert not found["pred_score"].bounded

    @pytest.mark.parametrize(
        ("dtype", "element", "numbers"),
        [("u8", "uint8", (0.0, 1.0)), ("u8_255", "uint8", (0.0, 255.0)), ("f32", "float32", (0.0, 1.0))],
    )
    def test_decisions_as_numbers(self, dtype: str, element: str, numbers: tuple[float, float]) -> None:
        mask = self.outputs(mask_dtype=dtype)["pred_mask"]
        assert (mask.decides, mask.dtype, mask.decision_values) == (True, element, numbers)
        post = recipe(
            {"step": "compare", "source": "raw_map", "target": "above", "level": 0.5},
            {"step": "encode_decision", "source": "above", "target": "pred_mask", "dtype": dtype},
        )
        assert pp.fuse(score_and_map(), post).outputs[0].decision_values == numbers

    def test_packed(self) -> None:
        fused = pp.fuse(score_and_map(), pp.OneClassPostProcessor(STATS, pack=True))
        (packed,) = fused.outputs
        assert packed.name == PACKED_NAME
        assert (packed.axes, packed.sizes) == ("NHWC", (None, None, None, 4))
        assert [each.name for each in packed.channels] == ["anomaly_map", "pred_score", "pred_label", "pred_mask"]
        assert {each.dtype for each in packed.channels} == {"float32"}
        assert [each.decision_values for each in packed.channels] == [None, None, (0.0, 1.0), (0.0, 1.0)]
        assert packed.channels[0].scale == Scale(0.0, 1.0, 0.5)
        assert fused.program.predicted == packed.channels
        feeds = {"level": np.array([[1.0], [2.0]], F32), "image": RNG.normal(0.7, 1, (2, 1, 5, 7)).astype(F32)}
        array = run(fused, feeds)[PACKED_NAME]
        check_packed(array, packed)
        expected = run(pp.fuse(score_and_map(), pp.OneClassPostProcessor(STATS)), feeds)
        for name, found in unpacked(array, packed).items():
            assert found.dtype == expected[name].dtype
            assert np.array_equal(found, expected[name]), name

    def test_scales_follow_the_steps(self) -> None:
        post = recipe(
            {"step": "gaussian_blur", "source": "raw_map", "target": "smooth", "sigma": 1.0},
            {
                "step": "piecewise_linear",
                "source": "smooth",
                "target": "anomaly_map",
                "inputs": [0, 1],
                "outputs": [-5, 3],
            },
            {"step": "max_over_map", "source": "anomaly_map", "target": "pred_score"},
            {"step": "compare", "source": "smooth", "target": "pred_mask", "level": 0.5},
        )
        score, anomaly_map, mask = pp.fuse(score_and_map(), post).outputs
        assert score.scale == anomaly_map.scale == Scale(-5.0, 3.0)
        assert not anomaly_map.bounded
        assert mask.scale is None

    def test_values_that_runtimes_round_differently(self) -> None:
        post = recipe(
            {"step": "gaussian_blur", "source": "raw_map", "target": "smooth", "sigma": 1.0},
            {"step": "sigmoid", "source": "smooth", "target": "anomaly_map"},
            {"step": "compare", "source": "anomaly_map", "target": "pred_mask", "level": 0.5},
        )
        program = pp.fuse(score_and_map(), post).program
        # The mask compares the blurred map: a decision moves in front of a sigmoid, but not of a blur, which is not pointwise.
        assert program.intermediates == ("smooth",)
        assert program.comparisons["pred_mask"].source == "smooth"
        assert program.decisions == {"pred_mask": program.comparisons["pred_mask"]}


class TestArraysThatDoNotFit:
    def test_another_rank_names_the_output(self, tmp_path: Path) -> None:
        fused = pp.fuse(score_and_map(), pp.OneClassPostProcessor(STATS))
        loaded = pp.FusedModel.load(fused.save(tmp_path / "fused.onnx"))
        for program in (fused.program, loaded.program):
            with pytest.raises(
                PostProcessorError,
                match=r"Output 'score', read as 'raw_score', has rank 3, .*but the file declares rank 2, float32 \(N,1\)",
            ):
                program.run({"raw_score": np.zeros((2, 1, 4), F32), "raw_map": np.zeros((2, 1, 5, 6), F32)})

    def test_an_empty_batch(self) -> None:
        post = pp.OneClassPostProcessor(STATS)
        for shape, score in (((0, 1, 4, 5), (0, 1)), ((0, 4, 5), (0,))):
            found = post({"anomaly_map": np.zeros(shape, F32)})
            assert found.pred_score.shape == found.pred_label.shape == score
            assert found.pred_mask.shape == shape

    @pytest.mark.parametrize("shape", [(2, 1, 0, 5), (2, 1, 4, 0), (0, 1, 0, 0), (2, 0, 5)])
    def test_a_map_without_pixels(self, shape: tuple[int, ...]) -> None:
        x = np.zeros(shape, F32)
        with pytest.raises(PostProcessorError, match="with at least one pixel"):
            pp.OneClassPostProcessor(STATS)({"anomaly_map": x})
        with pytest.raises(PostProcessorError, match=r"'raw_map' has shape .*, expected at least one pixel"):
            pp.OneClassPostProcessor(STATS).predict({"raw_map": x})
        with pytest.raises(PostProcessorError, match=r"'raw_score' is computed has shape .*one pixel"):
            MaxOverMap("raw_map", "raw_score").reference(x)


@pytest.mark.parametrize("name", ["regions", PACKED_NAME])
def test_further_outputs_cannot_be_packed(name: str) -> None:
    program = pp.fuse(score_and_map(), pp.OneClassPostProcessor(STATS)).program
    assert packed_output(program.outputs, program.types).name == PACKED_NAME
    further = msgspec.structs.replace(program.outputs[0], name=name)
    with pytest.raises(PostProcessorError, match=f"cannot be packed: '{name}' has no place among anomaly_map"):
        packed_output([*program.outputs, further], {**program.types, name: program.types["pred_score"]})


def test_axes_that_fit_in_two_ways() -> None:
    model = identity_model({"rows": ["N", 84, 100]})
    step = {"step": "compare", "source": "rows", "target": "kept", "level": 0.5}
    declared = {"name": "rows", "axes": ["NKP", "NPK"]}
    with pytest.raises(
        OutputRoleError,
        match=r"'rows' \(N, 84, 100\) can be read as the role 'rows' in 2 ways, as \(N,K,P\) or \(N,P,K\)",
    ):
        pp.fuse(model, recipe(step, roles=(declared,), outputs=("kept",)))
    for changed, axes in (({"axes": "NPK"}, "NPK"), ({"sizes": {"K": 100}}, "NPK"), ({"sizes": {"P": 100}}, "NKP")):
        fused = pp.fuse(model, recipe(step, roles=({**declared, **changed},), outputs=("kept",)))
        assert fused.outputs[0].axes == axes
