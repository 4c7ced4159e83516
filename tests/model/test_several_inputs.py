"""Every verb handles models with several inputs, scalars, states and outputs of any rank."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import pp_graph as pp
from pp_graph import cli
from pp_graph.data import feed_model, fix_inputs, open_images
from pp_graph.errors import DataError
from pp_graph.model import ModelInput, batch_places, image_input
from pp_graph.model.batch import output_axes
from pp_graph.sessions import Session, run_in_batches
from tests.models import STATS, from_text

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(1, 1, (5, 3, 8, 8)).astype(np.float32)
COUNT = len(IMAGES)
POST = pp.OneClassPostProcessor(STATS)


def model(inputs: str, body: str, outputs: str = "") -> onnx.ModelProto:
    """image (N,3,8,8) -> pred_score (N,1), anomaly_map (N,1,8,8); `body` computes `gained` from the inputs."""
    return from_text(
        f"""<ir_version: 8, opset_import: ["": 17], producer_name: "tests">
        raw (float[N,3,8,8] image{inputs}) => (float[N,1] pred_score, float[N,1,8,8] anomaly_map{outputs}) {{
            {body}
            anomaly_map = ReduceMean <axes = [1], keepdims = 1> (gained)
            top = ReduceMax <axes = [2, 3], keepdims = 0> (anomaly_map)
            pred_score = Identity (top)
        }}"""
    )


SCALAR = model(
    ", int64 sr",
    """rate = Cast <to = 1> (sr)
       unit = Constant <value = float {16000}> ()
       gain = Div (rate, unit)
       gained = Mul (image, gain)""",
)
STATE = model(
    ", float[2,N,4] state",
    """level = ReduceMean <axes = [0, 2], keepdims = 0> (state)
       axes = Constant <value = int64[3] {1, 2, 3}> ()
       wide = Unsqueeze (level, axes)
       gained = Add (image, wide)
       next_state = Tanh (state)""",
    ", float[2,N,4] next_state",
)
SWITCH = model(
    ", bool flip",
    """gain = If (flip) <
            then_branch = yes () => (float[1] two) { two = Constant <value = float[1] {2}> () },
            else_branch = no () => (float[1] one) { one = Constant <value = float[1] {1}> () }>
       gained = Mul (image, gain)""",
)
VECTORS = model(
    ", float[1] one, float[1,1] square, float[K] many",
    """product = Mul (one, square)
       gains = Mul (many, product)
       gained = Mul (image, gains)""",
)
TABLE = from_text(
    """<ir_version: 8, opset_import: ["": 17]>
    raw (float[2,N,4] state, float[N,8] x) => (float[N,1] pred_score, int64[2,N] signs) {
        axes = Constant <value = int64[1] {1}> ()
        level = ReduceMean <axes = [0, 2], keepdims = 0> (state)
        wide = Unsqueeze (level, axes)
        sum = ReduceMean <axes = [1], keepdims = 1> (x)
        pred_score = Add (sum, wide)
        means = ReduceMean <axes = [2], keepdims = 0> (state)
        sign = Sign (means)
        signs = Cast <to = 7> (sign)
    }"""
)


def command_line(arguments: list[str]) -> SimpleNamespace:
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        status = cli.run(arguments)
    return SimpleNamespace(exit_code=status, output=stdout.getvalue() + stderr.getvalue(), stderr=stderr.getvalue())


CASES: dict[str, tuple[onnx.ModelProto, str, dict[str, np.ndarray], dict[str, object], list[str]]] = {
    # model, images, other arrays in the data, values for all images, the same values on the command line
    "scalar": (SCALAR, "image", {"sr": np.array(24000)}, {"sr": 24000}, ["sr=24000"]),
    "state": (STATE, "image", {"state": RNG.normal(0, 1, (2, COUNT, 4))}, {"state": 0.5}, ["state=0.5"]),
    "switch": (SWITCH, "image", {"flip": np.array(True)}, {"flip": True}, ["flip=true"]),
    "vectors": (
        VECTORS,
        "image",
        {"one": np.array([0.5]), "square": np.array([[3]]), "many": RNG.normal(0, 1, 8)},
        {"one": 0.5, "square": [[3]], "many": np.arange(8)},
        ["one=0.5", "square=3", "many=0,1,2,3,4,5,6,7"],
    ),
    "table": (TABLE, "x", {"state": RNG.normal(0, 1, (2, COUNT, 4))}, {"state": -1}, ["state=-1"]),
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, dict, dict, list[str]]:
    proto, name, others, values, texts = CASES[request.param]
    images = IMAGES if name == "image" else IMAGES[:, 0, 0]
    return proto, {name: images, **others}, values, texts


def reference(proto: onnx.ModelProto, feeds: dict) -> tuple[np.ndarray, np.ndarray | None]:
    """Return raw score and map of all images from one run in onnxruntime."""
    import onnxruntime as ort

    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    kinds = {each.name: each.type for each in session.get_inputs()}
    dtypes = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
    found = session.run(None, {name: np.asarray(feeds[name]).astype(dtypes[kind]) for name, kind in kinds.items()})
    return found[0], found[1] if found[1].dtype == np.float32 and found[1].ndim == 4 else None


def check(found: pp.Predictions, proto: onnx.ModelProto, feeds: dict) -> None:
    score, anomaly_map = reference(proto, feeds)
    raw = {"pred_score": score} if anomaly_map is None else {"pred_score": score, "anomaly_map": anomaly_map}
    expected = POST(raw)
    assert np.array_equal(found.pred_label, expected.pred_label)
    assert found.pred_label.sum() > 0 or score.max() < 1.25
    np.testing.assert_allclose(found.pred_score, expected.pred_score, atol=1e-6)
    if anomaly_map is not None:
        assert np.array_equal(found.pred_mask, expected.pred_mask)


def full(proto: onnx.ModelProto, images: dict, values: dict) -> dict:
    """Expand values to the whole batch."""
    fixed = fix_inputs(values, pp.RawModel.open(proto).inputs)
    return {**images, **fixed.arrays(COUNT)}


def only_images(data: dict, values: dict) -> dict:
    return {name: array for name, array in data.items() if name not in values}


class TestEveryWay:
    def test_is_stripped_to_the_byte(self, case: tuple, tmp_path: Path) -> None:
        proto, *_ = case
        onnx.save(proto, tmp_path / "raw.onnx")
        fused = pp.fuse(tmp_path / "raw.onnx", POST)
        assert [each.name for each in fused.network.inputs] == [each.name for each in proto.graph.input]
        fused.save(tmp_path / "fused.onnx")
        pp.strip(tmp_path / "fused.onnx").save(tmp_path / "stripped.onnx")
        assert (tmp_path / "stripped.onnx").read_bytes() == (tmp_path / "raw.onnx").read_bytes()

    @pytest.mark.sample(every=4)
    def test_verifies(self, case: tuple, tmp_path: Path) -> None:
        proto, data, values, texts = case
        onnx.save(proto, tmp_path / "raw.onnx")
        pp.fuse(proto, POST).save(tmp_path / "fused.onnx")
        pp.convert(tmp_path / "fused.onnx").save(tmp_path / "model.xml")
        np.savez(tmp_path / "data.npz", **data)
        np.savez(tmp_path / "images.npz", **only_images(data, values))
        for artifact in ("fused.onnx", "model.xml"):
            assert pp.verify(tmp_path / "raw.onnx", tmp_path / artifact, data, batch_size=2).passed
            images = only_images(data, values)
            assert pp.verify(tmp_path / "raw.onnx", tmp_path / artifact, images, fixed_inputs=values).passed
            paths = ["verify", str(tmp_path / "raw.onnx"), str(tmp_path / artifact), "--data"]
            options = [word for text in texts for word in ("--input", text)]
            for rest in ([str(tmp_path / "data.npz")], [str(tmp_path / "images.npz"), *options]):
                done = command_line([*paths, *rest])
                assert done.exit_code == 0, done.output
            done = command_line([*paths, str(tmp_path / "images.npz")])
            assert done.exit_code == 2
            assert "nothing feeds" in done.stderr
            assert f"--input {next(iter(values))}=VALUE" in done.stderr

    def test_runs(self, case: tuple, tmp_path: Path) -> None:
        proto, data, values, _ = case
        path = pp.convert(pp.fuse(proto, POST)).save(tmp_path / "model.xml")
        images = only_images(data, values)
        runner = pp.load(path)
        if "many" not in data:  # `many` has five items or one, unless its size is fixed
            check(runner(data), proto, data)
        fixed = pp.load(path, fixed_inputs=values)
        assert [each.name for each in fixed.inputs] == list(images)
        check(fixed(images), proto, full(proto, images, values))
        (only,) = images.values()
        check(fixed(only), proto, full(proto, images, values))
        one = fixed(only[1])
        assert one.pred_label.tolist() == fixed(only).pred_label[1:2].tolist()
        with pytest.raises(DataError, match=r"nothing feeds .*fixed_inputs="):
            runner(only)
        with pytest.raises(DataError, match="is given twice, by --input .fixed_inputs. and by an array"):
            fixed({**images, **{name: np.asarray(value) for name, value in values.items()}})

    @pytest.mark.sample(every=3)
    def test_runs_with_a_batch_that_is_fixed(self, case: tuple, tmp_path: Path) -> None:
        proto, data, values, _ = case
        shapes = {
            each.name: [
                2 if dim.dim_param == "N" else 8 if dim.dim_param else dim.dim_value
                for dim in each.type.tensor_type.shape.dim
            ]
            for each in proto.graph.input
        }
        artifact = pp.convert(pp.fuse(proto, POST), input_shape=shapes)
        images = only_images(data, values)
        # Five images in three runs; the last is padded.
        check(pp.load(artifact)(data), proto, data)
        check(pp.load(artifact, fixed_inputs=values)(images), proto, full(proto, images, values))
        assert pp.verify(pp.RawModel.open(proto), artifact, data).passed
        assert pp.verify(pp.RawModel.open(proto), artifact, data, batch_size=1).passed
        assert pp.verify(pp.RawModel.open(proto), artifact, images, fixed_inputs=values).passed

    def test_streams_image_by_image(self, case: tuple, tmp_path: Path) -> None:
        proto, data, values, _ = case
        np.savez(tmp_path / "data.npz", **data)
        np.savez(tmp_path / "images.npz", **only_images(data, values))
        artifact = pp.convert(pp.fuse(proto, POST))
        fixed = pp.load(artifact, fixed_inputs=values)
        whole = fixed(only_images(data, values)).pred_label
        assert np.array_equal(
            np.concatenate([each.pred_label for each in fixed.stream(tmp_path / "images.npz")]), whole
        )
        if "many" not in data:
            runner = pp.load(artifact)
            found = [each.pred_label for each in runner.stream(tmp_path / "data.npz")]
            assert np.array_equal(np.concatenate(found), runner(data).pred_label)

    @pytest.mark.sample(every=4)
    def test_calibrates(self, case: tuple, tmp_path: Path) -> None:
        proto, data, values, texts = case
        label = np.array([0, 0, 0, 1, 1])
        onnx.save(proto, tmp_path / "raw.onnx")
        pp.convert(pp.fuse(proto, POST)).save(tmp_path / "model.xml")
        np.savez(tmp_path / "images.npz", **only_images(data, values), label=label)
        score, _ = reference(proto, data)
        constant, _ = reference(proto, full(proto, only_images(data, values), values))
        for name in ("raw.onnx", "model.xml"):
            if name == "raw.onnx" or "many" not in data:
                found = pp.calibrate(tmp_path / name, {**data, "label": label}, batch_size=2).statistics.image
                np.testing.assert_allclose([found.min, found.max], [score.min(), score.max()], rtol=1e-5)
            options = [word for text in texts for word in ("--input", text)]
            target = tmp_path / f"{name}.json"
            arguments = ["calibrate", str(tmp_path / name), "--data", str(tmp_path / "images.npz"), "-o", str(target)]
            done = command_line([*arguments, *options])
            assert done.exit_code == 0, done.output
            found = pp.Statistics.load(target).image
            np.testing.assert_allclose([found.min, found.max], [constant.min(), constant.max()], rtol=1e-5)

    def test_is_described(self, case: tuple, tmp_path: Path) -> None:
        proto, data, *_ = case
        path = pp.convert(pp.fuse(proto, POST)).save(tmp_path / "model.xml")
        text = path.with_suffix(".usage.md").read_text()
        program = text.split("```python\n")[1].split("```")[0]
        if "many" in data:
            program = program.replace("many = np.zeros((1,)", "many = np.zeros((8,)")
        found: dict = {}
        exec(program.replace('"model.xml"', repr(str(path))), found)  # the program in the usage text
        assert found["pred_label"].shape == (1, 1)
        if "state" in data:
            assert "`state` | float32 | (2, N, 4) | ? N ?" in text
        assert pp.inspect(path)

    def test_runs_from_the_command_line(self, case: tuple, tmp_path: Path) -> None:
        proto, data, values, texts = case
        pp.convert(pp.fuse(proto, POST)).save(tmp_path / "model.xml")
        np.savez(tmp_path / "images.npz", **only_images(data, values))
        options = [word for text in texts for word in ("--input", text)]
        arguments = ["run", str(tmp_path / "model.xml"), str(tmp_path / "images.npz"), "-o", str(tmp_path / "out")]
        done = command_line([*arguments, *options])
        assert done.exit_code == 0, done.output
        assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == COUNT + 1


def test_outputs_of_any_rank_pass_through(tmp_path: Path) -> None:
    proto = model(
        ", int64 sr",
        """gained = Identity (image)
           rank0 = ReduceMean <keepdims = 0> (image)
           rates = Identity (sr)
           first = ArgMax <axis = 1, keepdims = 0> (image)
           rank1 = ReduceMax <axes = [1, 2], keepdims = 0> (first)
           axes = Constant <value = int64[1] {1}> ()
           rank5 = Unsqueeze (image, axes)
           table = Constant <value = float[3,2] {1, 2, 3, 4, 5, 6}> ()""",
        ", float rank0, int64 rates, int64[N] rank1, float[N,1,3,8,8] rank5, float[3,2] table",
    )
    onnx.save(proto, tmp_path / "raw.onnx")
    fused = pp.fuse(tmp_path / "raw.onnx", POST)
    assert {"rank0", "rates", "rank1", "rank5", "table"} < {each.name for each in fused.network.model.graph.outputs}
    fused.save(tmp_path / "fused.onnx")
    pp.strip(tmp_path / "fused.onnx").save(tmp_path / "stripped.onnx")
    assert (tmp_path / "stripped.onnx").read_bytes() == (tmp_path / "raw.onnx").read_bytes()
    path = pp.convert(fused).save(tmp_path / "model.xml")
    text = path.with_suffix(".usage.md").read_text()
    assert "| `rank0` | float32 | () |" in text
    assert "(N, 1, 3, 8, 8)" in text
    data = {"image": IMAGES, "sr": np.array(3)}
    report = pp.verify(tmp_path / "raw.onnx", path, data)
    assert report.passed
    errors = {error.name: error.max_abs for error in report.errors}
    assert {"rates", "rank1", "rank5", "table"} < errors.keys()
    assert max(errors[name] for name in ("rates", "rank1", "rank5", "table")) == 0
    assert errors["rank0"] < 1e-5
    check(pp.load(path)(data), proto, data)
    # With a fixed batch, two runs cannot give the mean of all images, but constants can be joined.
    fixed = pp.convert(fused, input_shape={"image": [4, 3, 8, 8], "sr": []})
    assert pp.verify(tmp_path / "raw.onnx", fixed, {**data, "image": IMAGES[:4]}).passed
    with pytest.raises(DataError, match=r"Output 'rank0' has shape \(\) .* takes 4 images at a time"):
        pp.verify(tmp_path / "raw.onnx", fixed, data)


# --- where the batch is ---


def inputs_of(**shapes: tuple | None) -> list[ModelInput]:
    return [ModelInput(name, "float32", shape) for name, shape in shapes.items()]


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        ({"sr": (), "image": ("N", 3, 8, 8)}, "image"),
        ({"gain": ("N", 1), "image": ("N", 3, 8, 8)}, "image"),
        ({"state": (2, None, 4), "x": (None, 8)}, "x"),
        ({"state": (2, "N", 4, 8), "x": ("N", 8)}, "x"),
        ({"many": ("K",), "image": (1, 3, 8, 8)}, "image"),
        ({"one": (1,), "x": (1, 8)}, "x"),
        ({"image": (1, 3, "H", "W"), "points": ("P", 2)}, "image"),
        ({"image": None, "sr": ()}, "image"),
        ({"left": ("N", 3, 8, 8), "right": ("N", 3, 8, 8)}, "left"),
        ({"sr": ()}, None),
        ({}, None),
    ],
)
def test_the_input_of_the_images(shapes: dict, name: str | None) -> None:
    found = image_input(inputs_of(**shapes))
    assert (None if found is None else found.name) == name


@pytest.mark.parametrize(
    ("image", "other", "axes", "certain"),
    [
        (("N", 3, 8, 8), (), (), False),
        (("N", 3, 8, 8), (1,), (), False),
        (("N", 3, 8, 8), (2, "N", 4), (1,), True),
        (("N", 3, 8, 8), ("K", "N"), (1,), True),
        (("N", 3, 8, 8), ("K",), (0,), False),
        ((None, 3, 8, 8), (2, None, 4), (1,), True),
        ((None, 3, 8, 8), (None, 1), (0,), True),
        ((None, 3, 8, 8), (None, None, 4), (0, 1), False),
        ((4, 3, 8, 8), (4, 1), (0,), False),
        ((4, 3, 8, 8), (2, 4, 8), (1,), False),
        ((1, 3, 8, 8), (1, 1, 8), (0, 1), False),
        ((4, 3, 8, 8), (None, 4), (0, 1), False),
        (("N", 3, 8, 8), None, (0,), False),
        ((3, 3, 8, 8), (3, 3, 8, 8), (0,), False),
    ],
)
def test_the_axis_of_the_batch(image: tuple, other: tuple | None, axes: tuple, certain: bool) -> None:
    places = batch_places(inputs_of(image=image, other=other))
    assert (places["image"].axes, places["image"].certain) == ((0,), True)
    assert (places["other"].axes, places["other"].certain) == (axes, certain)


def test_names_say_where_outputs_have_the_batch() -> None:
    shapes = {"a": (2, "N", 4), "b": (2, 3), "c": None, "d": ("N",)}
    assert output_axes(inputs_of(x=("N", 8)), shapes, named_only=True) == {"a": 1, "d": 0}
    assert output_axes(inputs_of(x=(1, 8)), shapes, named_only=True) == {}


class Recorder(Session):
    """Session that takes two images at a time and returns its feeds and a few other outputs."""

    description = "test"

    def __init__(self, **shapes: tuple) -> None:
        self.inputs = tuple(inputs_of(**shapes))
        self.fed: list[dict] = []

    def run(self, feeds):
        self.fed.append(dict(feeds))
        return {**feeds, "mean": feeds["x"].mean()[None][0], "same": np.float32(3)}


def test_cutting_and_joining() -> None:
    session = Recorder(x=(2, 8), state=(3, 2, 4), gain=(), many=(2, 3))
    x, state = RNG.normal(0, 1, (5, 8)), RNG.normal(0, 1, (3, 5, 4))
    feeds = {"x": x, "state": state, "gain": np.array(2.0), "many": np.ones((2, 3))}
    with pytest.raises(DataError, match=r"Output 'mean' has shape \(\) .* 3 runs"):
        run_in_batches(session, feeds)
    assert [{name: array.shape for name, array in fed.items()} for fed in session.fed] == [
        {"x": (2, 8), "state": (3, 2, 4), "gain": (), "many": (2, 3)}
    ] * 3
    assert np.array_equal(session.fed[2]["state"][:, 1], state[:, 4])  # padded
    session.run = lambda fed: {**fed, "same": np.float32(3)}
    found = run_in_batches(session, {name: array for name, array in feeds.items() if name != "many"})
    assert np.array_equal(found["x"], x)
    assert np.array_equal(found["state"], state)
    assert found["same"] == 3
    # A first axis of the batch's size is the batch, unless symbolic names differ.
    square = Recorder(x=(2, 8), state=(2, 2, 4))
    square.run = dict
    state = RNG.normal(0, 1, (2, 5, 4))
    assert np.array_equal(run_in_batches(square, {"x": x, "state": state}, {"state": 1})["state"], state)


def test_a_state_as_deep_as_there_are_images(tmp_path: Path) -> None:
    # Sizes alone are ambiguous for a state with as many layers as images; recorded axes decide.
    artifact = pp.convert(pp.fuse(TABLE, POST), input_shape={"state": [2, 2, 4], "x": [2, 8]})
    assert artifact.conversion["batch_axes"] == {"state": 1}
    data = {"x": IMAGES[:2, 0, 0], "state": RNG.normal(0, 1, (2, 2, 4)).astype(np.float32)}
    whole = pp.load(artifact)(data).pred_score
    np.savez(tmp_path / "data.npz", **data)
    found = [each.pred_score for each in pp.load(artifact).stream(tmp_path / "data.npz")]
    assert np.array_equal(np.concatenate(found), whole)


# --- feeds ---


def test_counts_what_the_images_input_holds() -> None:
    # The state comes first, and the other array has both of its sizes too.
    inputs = inputs_of(state=(8, "N", 4), x=("N", 8))
    images = feed_model(open_images({"state": np.zeros((8, 5, 4)), "x": np.zeros((5, 8))}), inputs)
    assert len(images) == 5
    assert images.read(1, 3, inputs)["state"].shape == (8, 2, 4)
    assert len(open_images({"state": np.zeros((2, 4, 4)), "x": np.zeros((4, 8)), "sr": np.array(1)})) == 4


def test_numbers_keep_their_meaning() -> None:
    wanted = [ModelInput("x", "float32", ("N", 8)), ModelInput("k", "int32", ()), ModelInput("g", "float32", ("N",))]
    x = np.zeros((2, 8))
    found = open_images({"x": x, "k": np.int64(7), "g": np.array([0, 255], np.uint8)}).read(0, 2, wanted)
    assert found["k"].dtype == np.int32
    assert found["k"].shape == ()
    assert found["g"].tolist() == [0, 255]  # not an image, so not scaled
    for dtype, value in [("int32", 0.5), ("int32", 2**31), ("uint8", -1), ("uint8", 256.0), ("bool", 2),
                         ("float32", 2**24 + 1), ("float32", 1e300), ("float16", 70000), ("int64", np.nan), ("int64", 2.0**63),
                         ("int64", np.uint64(2**64 - 1)), ("float32", "loud")]:  # fmt: skip
        with pytest.raises(DataError, match="Array for input 'k' holds .*, expected"):
            fix_inputs({"k": value}, [*inputs_of(x=("N", 8)), ModelInput("k", dtype, ())])
    for dtype, value in [("int32", 3.0), ("bool", 1), ("float32", 2**24), ("float16", 0.1), ("int64", True)]:
        fixed = fix_inputs({"k": value}, [*inputs_of(x=("N", 8)), ModelInput("k", dtype, ())])
        assert fixed.arrays(4)["k"].dtype == dtype
        assert fixed.arrays(4)["k"].shape == ()


def test_values_fill_their_inputs() -> None:
    inputs = inputs_of(x=("N", 8), state=(2, "N", 4), row=("N", 3), square=(1, 1), many=("K",), pair=(2,))
    values = {"state": np.arange(8).reshape(2, 1, 4), "row": [1, 2, 3], "square": 5, "many": [1, 2], "pair": 0}
    fixed = fix_inputs(values, inputs)
    assert [each.name for each in fixed.rest] == ["x"]
    sizes = {name: array.shape for name, array in fixed.arrays(3).items()}
    assert sizes == {"state": (2, 3, 4), "row": (3, 3), "square": (1, 1), "many": (2,), "pair": (2,)}
    assert np.array_equal(fixed.arrays(3)["state"][:, 2], np.arange(8).reshape(2, 4))
    cases = [
        ({"sr": 1}, r"Input 'sr' does not exist. The inputs are: 'x' float32 \(N, 8\), 'state'"),
        ({"x": 1}, "Input 'x' takes the images"),
        ({"many": 1}, r"Value for input 'many' has shape \(\), expected \(K,\)\. Its open sizes cannot be inferred"),
        ({"pair": [1, 2, 3]}, r"Value for input 'pair' has shape \(3,\), expected \(2,\)"),
        ({"pair": [[1], [2, 3]]}, "Value for input 'pair' is not an array"),
        ({"square": np.zeros((1, 1, 1))}, r"Value for input 'square' has shape \(1, 1, 1\), expected \(1, 1\)"),
    ]
    for given, message in cases:
        with pytest.raises(DataError, match=message):
            fix_inputs(given, inputs)
    with pytest.raises(DataError, match=r"expected \(\)"):
        fix_inputs({"sr": [1]}, inputs_of(sr=()))


def test_inputs_without_a_feed_are_named_with_both_remedies(tmp_path: Path) -> None:
    from PIL import Image

    onnx.save(SCALAR, tmp_path / "raw.onnx")
    pp.fuse(tmp_path / "raw.onnx", POST).save(tmp_path / "fused.onnx")
    message = (
        r"'image' float32 \(N, 3, 8, 8\), 'sr' int64 \(\)\): nothing feeds 'sr'\. .*"
        r"--data FILE\.npz\), or .* --input sr=VALUE \(fixed_inputs=\{'sr': \.\.\.\}\)"
    )
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / "red.png")
    for images in (tmp_path / "images", {"image": IMAGES}):
        with pytest.raises(DataError, match=message):
            pp.verify(tmp_path / "raw.onnx", tmp_path / "fused.onnx", images)
    # Images come from a folder, the other input from a value.
    report = pp.verify(tmp_path / "raw.onnx", tmp_path / "fused.onnx", tmp_path / "images", fixed_inputs={"sr": 8000})
    assert report.passed
    assert report.image_names == ("red.png",)
    with pytest.raises(DataError, match="Input 'sr' is given twice, by --input"):
        pp.verify(
            tmp_path / "raw.onnx",
            tmp_path / "fused.onnx",
            {"image": IMAGES, "sr": np.array(1)},
            fixed_inputs={"sr": 8000},
        )


@pytest.mark.slow
def test_int8_is_calibrated_with_all_inputs(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    from onnx import numpy_helper

    proto = from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        raw (float[N,3,8,8] image, float[2,N,4] state, int64 sr) => (float[N,1] pred_score, float[N,1,8,8] anomaly_map)
        <float[8,3,3,3] w = {}> {
            rate = Cast <to = 1> (sr)
            scaled = Mul (image, rate)
            c = Conv <pads = [1, 1, 1, 1]> (scaled, w)
            r = Relu (c)
            level = ReduceMean <axes = [0, 2], keepdims = 0> (state)
            axes = Constant <value = int64[3] {1, 2, 3}> ()
            wide = Unsqueeze (level, axes)
            sum = Add (r, wide)
            d = Mul (sum, sum)
            anomaly_map = ReduceMean <axes = [1], keepdims = 1> (d)
            pred_score = ReduceMax <axes = [2, 3], keepdims = 0> (anomaly_map)
        }""".replace("\n        <float[8,3,3,3] w = {}>", "")
    )
    proto.graph.initializer.append(numpy_helper.from_array(RNG.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32), "w"))
    onnx.save(proto, tmp_path / "raw.onnx")
    fused = pp.fuse(tmp_path / "raw.onnx", POST).save(tmp_path / "fused.onnx")
    data = {"image": IMAGES, "state": RNG.normal(0, 1, (2, COUNT, 4)), "sr": np.array(2)}
    np.savez(tmp_path / "images.npz", image=IMAGES, state=data["state"])
    whole = pp.convert(fused, precision="int8", quantization=pp.Quantization(data))
    assert pp.verify(tmp_path / "raw.onnx", whole, data).passed
    part = pp.Quantization({"image": IMAGES}, fixed_inputs={"state": 0, "sr": 2})
    shapes = {"image": [2, 3, 8, 8], "state": [2, 2, 4]}
    fixed = pp.convert(fused, precision="int8", quantization=part, input_shape=shapes)
    assert pp.verify(tmp_path / "raw.onnx", fixed, data).passed
    arguments = ["convert", str(fused), "-o", str(tmp_path / "model.xml"), "--precision", "int8"]
    calibration = ["--calibration-data", str(tmp_path / "images.npz")]
    done = command_line([*arguments, *calibration, "--input", "sr=2"])
    assert done.exit_code == 0, done.output
    done = command_line([*arguments, *calibration, "--force"])
    assert done.exit_code == 2
    assert "nothing feeds 'sr'" in done.stderr
    done = command_line([*arguments[:-2], "--input", "sr=2", "--force"])
    assert done.exit_code == 2
    assert "--input applies only to --precision int8" in done.stderr


def test_frames_and_another_input(tmp_path: Path) -> None:
    onnx.save(SCALAR, tmp_path / "raw.onnx")
    fused = pp.fuse(tmp_path / "raw.onnx", POST)
    path = pp.convert(fused, preprocessing=pp.Preprocessing(scale=(255,), input="image")).save(tmp_path / "model.xml")
    frames = RNG.integers(0, 256, (COUNT, 8, 8, 3)).astype(np.uint8)
    assert pp.verify(tmp_path / "raw.onnx", path, {"image": frames, "sr": np.array(24000)}).passed
    assert pp.verify(tmp_path / "raw.onnx", path, frames, fixed_inputs={"sr": 24000}, batch_size=2).passed
    values = (frames.astype(np.float32) / 255).transpose(0, 3, 1, 2)
    check(pp.load(path, fixed_inputs={"sr": 24000})(frames), SCALAR, {"image": values, "sr": 24000})


def test_benchmarks_states(tmp_path: Path) -> None:
    onnx.save(STATE, tmp_path / "raw.onnx")
    path = pp.convert(pp.fuse(tmp_path / "raw.onnx", POST)).save(tmp_path / "model.xml")
    settings = {"inference_precisions": ["f32"], "seconds": 0.1, "memory": False, "against": ["host-numpy"]}
    for further in (
        {"batch": 3},
        {"batch": 3, "fixed_inputs": {"state": 0}},
        {"images": {"image": IMAGES, "state": RNG.normal(0, 1, (2, COUNT, 4))}, "batch": 4},
    ):
        report = pp.benchmark(tmp_path / "raw.onnx", [path], **settings, **further)
        assert report.settings["input"] == f"image ({further['batch']}, 3, 8, 8), state (2, {further['batch']}, 4)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sr", "is not an input with its value, expected NAME=VALUE"),
        ("=3", "is not an input with its value"),
        ("sr=", "is not an input with its value"),
        ("sr=loud", "has the value 'loud', expected a number, true, false, or an .npy file"),
        ("sr=1_000", "has the value '1_000'"),
        ("sr=1,,2", "has the value ''"),
        ("sr=nowhere.npy", "'nowhere.npy' cannot be read"),
    ],
)
def test_impossible_values(text: str, message: str, tmp_path: Path) -> None:
    done = command_line(["verify", "raw.onnx", "fused.onnx", "--data", "x.npz", "--input", text])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_values_on_the_command_line(tmp_path: Path) -> None:
    from pp_graph.cli.options import parse_inputs

    np.save(tmp_path / "state.npy", np.arange(3))
    texts = ("sr=16000", "gain=0.5,-1e3,nan", "flip=true", "off=False", f"state={tmp_path / 'state.npy'}", "a:0=3")
    found = parse_inputs(texts)
    assert found is not None
    assert found.pop("state").tolist() == [0, 1, 2]
    assert str(found) == "{'sr': 16000, 'gain': [0.5, -1000.0, nan], 'flip': True, 'off': False, 'a:0': 3}"
    assert parse_inputs(()) is None
    done = command_line(["calibrate", "--scores", "x.csv", "--input", "sr=1"])
    assert "--input has no effect with --scores" in done.stderr


@pytest.mark.parametrize("sizes", [["N", "N"], [4, 4], [None, None]], ids=["open", "fixed", "without names"])
def test_a_state_is_not_a_map(sizes: list, tmp_path: Path) -> None:
    """The one-class post-processor does not take a state (2,N,4) for a map, because its batch is not first."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["image"], ["prob"], axes=[1], keepdims=1),
            helper.make_node("Tanh", ["state"], ["stateN"]),
        ],
        "recurrent",
        [value("image", TensorProto.FLOAT, [sizes[0], 16]), value("state", TensorProto.FLOAT, [2, sizes[1], 4])],
        [value("prob", TensorProto.FLOAT, [sizes[0], 1]), value("stateN", TensorProto.FLOAT, [2, sizes[1], 4])],
    )
    raw = tmp_path / "raw.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), raw)
    stats = pp.Statistics(image=pp.LevelStatistics(threshold=0.5, min=0.0, max=1.0), pixel=pp.LevelStatistics())
    for settings in ({}, {"outputs": ("pred_label",)}):
        fused = pp.fuse(raw, pp.OneClassPostProcessor(stats, **settings))
        assert set(fused.provenance.raw.read) == {"raw_score"}
        assert "stateN" in fused.output_names
    data = {"image": RNG.random((4, 16), np.float32), "state": RNG.normal(0, 1, (2, 4, 4)).astype(np.float32)}
    path = pp.convert(fused).save(tmp_path / "model.xml")
    assert pp.verify(raw, path, data).passed
    assert np.allclose(pp.load(path)(data)["stateN"], np.tanh(data["state"]), atol=1e-6)
    assert pp.strip(fused).save(tmp_path / "again.onnx").read_bytes() == raw.read_bytes()
