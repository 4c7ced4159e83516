"""Hash every file that fusing, converting, retuning and stripping write, so that two versions can be compared.

    python benchmarks/written_bytes.py [--text] > before.txt
    python benchmarks/written_bytes.py [--text] --check before.txt

For each case (folders of --cases that hold raw.onnx and stats.json, the demo, models of tests/) and each form one line,
`sha256  case/form/file`. `--text` also hashes texts for people: `.usage.md` files, and error messages where a form is
refused. With `--check` the files that differ are listed, and the exit status is 1 if there are any. Takes four minutes,
and 2 GB in the temporary folder. Only the command line, public names, examples/ and tests/ are used, so that the same
script runs before and after a change of everything else.

OpenVINO numbers the names it generates per process (`Multiply_349390`), so these names are renumbered within each IR
file before comparing. Everything else is compared byte for byte.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import itertools
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # this checkout is compared, whatever is installed

import onnx  # noqa: E402

import pp_graph as pp  # noqa: E402
from pp_graph.cli import run  # noqa: E402
from pp_graph.steps import levels_as_text  # noqa: E402
from tests.models import STATS, conv_model, from_text, identity_model, score_and_map  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DEMO = ROOT / "pp_graph" / "demo" / "data"
DATA = ROOT / "tests" / "assets"
INPUTS = Path("inputs")
MODELS = ("fused.onnx", "model.xml")
FOR_PEOPLE = (".md", ".txt")

# --- what is written: entries of a table are parted by semicolons ----------------------------------------------------


def table(text: str) -> list[str]:
    return [" ".join(entry.split()) for entry in text.split(";")]


def named(text: str) -> str:
    """The name of a form: its options, as a folder may be called."""
    return re.sub(r"[^\w.]+", "_", text).strip("_") or "default"


FEW_FORMS = table("""
    ; --keep-raw; --no-normalize; --on-nan normal; --outputs pred_label,pred_mask; --mask-dtype u8_255;
    --map-size 37x51; --pack; --thresholds runtime; --image-sensitivity 0 --pixel-sensitivity 1;
    --image-sensitivity 0.3 --pixel-sensitivity 0.9""")
SUBSETS = [
    f"--outputs {','.join(names)}"
    for count in range(1, 5)
    for names in itertools.combinations(("pred_score", "pred_label", "anomaly_map", "pred_mask"), count)
]
FORMS = list(
    dict.fromkeys([
        *FEW_FORMS,
        *SUBSETS,
        *table("""
    --no-tail; --no-threshold; --no-normalize --no-threshold; --no-normalize --on-nan normal; --no-match-thresholds;
    --mask-dtype u8; --mask-dtype f32; --mask-dtype u8 --outputs pred_mask; --map-size input;
    --map-size 100x64 --outputs pred_mask; --pack --keep-raw --on-nan normal; --raise-opset 18 --keep-raw;
    --pack --thresholds runtime --map-size 37x51; --thresholds runtime --on-nan normal;
    --thresholds runtime --no-normalize; --thresholds runtime --mask-dtype u8_255;
    --image-sensitivity 1 --pixel-sensitivity 0; --image-sensitivity 0.123456789"""),
    ])
)  # fmt: skip
CONVERSIONS = [
    *(f"--device {each} --input-shape {{fixed}}" for each in ("GPU.1", "NPU", "AUTO", "AUTO:GPU,CPU", "BATCH:GPU(4)")),
    *(f"--scale 255 --resize {each} --input-shape {{open}}" for each in ("cubic", "bilinear_pillow", "bicubic_pillow")),
    *table("""
    --precision f16; --device GPU; --device GPU --precision f16; --device HETERO:GPU,CPU --precision f16;
    --input-shape {fixed}; --input-shape {input}:{fixed} --precision f16; --input-shape {open};
    --pack --map-size 64x48 --thresholds runtime; --outputs pred_mask --mask-dtype u8_255 --precision f16;
    --model-info scale_values=255,255,255 --model-info reverse_input_channels=True --input-shape {fixed};
    --input-dtype u8 --scale 255;
    --channel-order BGR --scale 255 --mean 123.7,116.3,103.5 --precision f16;
    --input-layout NCHW --channel-order BGR --mean 1,2,3 --scale 50,51,52;
    --input-dtype u16 --scale 65535 --model-channel-order BGR;
    --input-dtype f32 --mean 0.5 --model-layout NCHW --image-input {input};
    --resize nearest --channel-order BGR --thresholds runtime --input-shape {open};
    --resize linear --frame-size 48x64 --device NPU --input-shape {fixed}"""),
]
RETUNINGS = table(f"""
    --stats {INPUTS}/other.json; --image-sensitivity 0.3; --image-sensitivity 0;
    --image-sensitivity 0.123456789 --pixel-sensitivity 0.9""")

RANGE = "min_max_normalize, threshold: $pixel.threshold, minimum: $pixel.min, maximum: $pixel.max"
BOUNDED = table(f"""
    {RANGE}; plain_min_max, minimum: -1, maximum: 2, on_nan: normal; z_score, mean: 0.5, std: 0.25; sigmoid; keep;
    temperature, temperature: 1.5; platt_scaling, slope: 2, intercept: -1; gaussian_cdf, mean: 0.5, std: 0.25;
    piecewise_linear, inputs: [0, 1, 2], outputs: [0, 0.75, 1]; quantile_map, quantiles: [0, 0.5, 0.5, 2]""")
MAPS = table("""
    gaussian_blur, sigma: 1; gaussian_blur, sigma: 2, kernel_size: 5; median_filter, size: 3; median_filter, size: 5;
    resize_map, height: 9, width: 31; crop_border, border: 2; crop_border, border: [1, 2, 3, 4]; per_image_min_max""")
SCORES = table("max_over_map; mean_over_map; top_k_mean, k: 7; top_k_mean, fraction: 0.05")
MASKS = table("""
    erode_mask; dilate_mask; open_mask; close_mask; erode_mask, size: 5, shape: cross; mask_by_label, label: pred_label;
    close_mask, size: 7, shape: disk; remove_small_regions, min_area: 7; hysteresis, strong: strong;
    remove_small_regions, min_area: 3, connectivity: 4; encode_decision, dtype: u8_255; encode_decision, dtype: f32""")
DECIDED = table("""
    compare, level: 0.5 raw_map>weak; compare, level: 0.9 raw_map>strong; compare, level: 0.5 raw_score>pred_label""")
SEVERAL = table(f"""
    gaussian_blur, sigma: 1 raw_map>smooth; {RANGE} smooth>anomaly_map; compare, level: 0.5 anomaly_map>above;
    remove_small_regions, min_area: 20 above>pred_mask; top_k_mean, fraction: 0.01 smooth>pred_score;
    sigmoid pred_score>likely; compare, level: 0.6 likely>pred_label""")
CLASSES = {
    "softmax": """softmax raw_score>pred_score; softmax raw_map>anomaly_map;
        compare_per_class, class_levels: [0.2, 0.25, 0.3, 0.35] pred_score>pred_label;
        compare_per_class, class_levels: [0.2, 0.25, 0.3, 0.35], on_nan: normal anomaly_map>pred_mask""",
    "select_class": "select_class, index: 2 raw_map>anomaly_map; compare, level: 0.5 anomaly_map>pred_mask",
}
DETECTOR = """roles:
  - {name: objectness, axes: NK}
  - {name: boxes, axes: NKP, sizes: {P: 4}}
steps:
  - {step: sigmoid, source: objectness, target: confidence}
  - {step: compare, source: confidence, target: found, level: 0.3}
  - {step: keep, source: boxes, target: corners}
outputs: [confidence, {name: found, meaning: decision}, {name: corners, axes: NKP, meaning: box}]
"""
PLUGINS = {
    "custom_step": "post_processor: LogPostProcessor\nparameters: {scale: 2.0}\n",
    "onnxscript_step": "post_processor: CalmPostProcessor\n",
    "torch_step": "post_processor: ContrastPostProcessor\n",
}
LEVELS = {
    "image_alone": (pp.LevelStatistics(threshold=1.25, min=0.5, max=3.0), pp.LevelStatistics()),
    "pixel_alone": (pp.LevelStatistics(), pp.LevelStatistics(threshold=0.75, min=-0.5, max=2.5)),
    "no_ranges": (pp.LevelStatistics(threshold=1.25), pp.LevelStatistics(threshold=0.75)),
    "equal": (pp.LevelStatistics(threshold=1.0, min=0.0, max=2.0),) * 2,
    "zero": (pp.LevelStatistics(threshold=0.0, min=0.0, max=1.0),) * 2,
    "empty_range": (pp.LevelStatistics(threshold=0.0, min=3.0, max=3.0),) * 2,
}
GRAPHS = {
    "function": """<ir_version: 8, opset_import: ["": 17, "local": 1], metadata_props: ["key": "value"]>
        g (float[N,1,H,W] x) => (float[N,1,H,W] heat) { heat = local.twice(x) }
        <domain: "local", opset_import: ["": 17]> twice (x) => (y) {
            pred_score = Constant <value = float {2.0}> () y = Mul(x, pred_score) }""",
    "branches": """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,1,H,W] x, bool flag) => (float[N,1,H,W] anomaly_map, float[N,1] pred_score) {
            anomaly_map = Relu(x)
            pred_score = If (flag) <
                then_branch = a () => (float[N,1] pred_label) {
                    pred_label = ReduceMax <axes = [2, 3], keepdims = 0> (anomaly_map) },
                else_branch = b () => (float[N,1] other) {
                    other = ReduceMin <axes = [2, 3], keepdims = 0> (anomaly_map) }> }""",
    "names": """<ir_version: 8, opset_import: ["": 17]> g (float[N,1,H,W] x) => (float[N,1,H,W] anomaly_map)
        <float pred_mask = {2.0}, float "pp_graph/pred_mask/cutoff" = {3.0}, float raw_anomaly_map = {0.5}> {
            [pred_label] pred_score = Mul(x, pred_mask)
            ["pp_graph/pred_score/Sub"] pred_label = Add(pred_score, "pp_graph/pred_mask/cutoff")
            [anomaly_map] anomaly_map = Mul(pred_label, raw_anomaly_map) }""",
    "others": """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,1,H,W] x) => (float[N,64] embedding, float[N,1,H,W] heat, int64[4] size) {
            heat = Relu(x) size = Shape(x) e = ReduceMean <axes = [2, 3], keepdims = 0> (x)
            one = Constant <value_ints = [1, 64]> () embedding = Expand(e, one) }""",
}
OLD_GRAPH = """<ir_version: 6, opset_import: ["": VERSION]>
    g (float[N,3,H,W] x) => (float[N] score, float[N,1,H,W] heat) {
        soft = Softmax <axis = 1> (x) kept = Dropout (soft) wide = Unsqueeze <axes = [4]> (kept)
        flat = Squeeze <axes = [4]> (wide) heat = ReduceSum <axes = [1], keepdims = 1> (flat)
        score = ReduceMax <axes = [1, 2, 3], keepdims = 0> (heat) }"""


def small_models() -> Iterator[tuple[str, onnx.ModelProto, list[str]]]:
    """Name, model and forms of models as the tests lay them out."""
    yield "score_and_map", score_and_map(), FORMS
    yield "score_only", identity_model({"score": ["N", 1]}), FORMS
    yield "map_only", identity_model({"heat": ["N", 1, "H", "W"]}), FORMS
    yield "network_nhwc", conv_model(channels_last=True), FEW_FORMS
    yield "ir_3", score_and_map(17, 3), FEW_FORMS
    for opset in range(9, 25):
        ir_version = {9: 4, 10: 5, 11: 6, 12: 7}.get(opset, 8 if opset < 19 else 10)
        yield f"opset_{opset}", conv_model(opset, ir_version), FEW_FORMS
    for name, dtype in (("f16", onnx.TensorProto.FLOAT16), ("f64", onnx.TensorProto.DOUBLE)):
        yield name, identity_model({"score": ["N", 1], "heat": ["N", 1, "H", "W"]}, dtype=dtype), FEW_FORMS
    for ranks in itertools.product(("N", "N1", "3"), ("NHW", "NHW1", "N1HW", "357")):
        score, heat = ([int(axis) if axis.isdigit() else axis for axis in axes] for axes in ranks)
        yield "rank_" + "_".join(ranks), identity_model({"score": score, "heat": heat}), FEW_FORMS
    for name, text in GRAPHS.items():
        yield name, from_text(text), FEW_FORMS
    for opset in (9, 11):
        raised = table("; --raise-opset 12; --raise-opset 18 --thresholds runtime")
        yield f"raised_{opset}", from_text(OLD_GRAPH.replace("VERSION", str(opset))), raised


def recipes() -> dict[str, list[str]]:
    """Every step at least once, with a decision after it: the fields of each step, and `source>target`."""
    maps = {named(each): [f"{each} raw_map>anomaly_map", "compare, level: 0.5 anomaly_map>pred_mask"]
            for each in BOUNDED + MAPS}  # fmt: skip
    scores = {f"score_{named(each)}": [f"{each} raw_score>pred_score", "compare, level: 0.5 pred_score>pred_label"]
              for each in BOUNDED}  # fmt: skip
    reduced = {named(each): [f"{each} raw_map>pred_score", "compare, level: 0.5 pred_score>pred_label"]
               for each in SCORES}  # fmt: skip
    masks = {named(each): [*DECIDED, f"{each} weak>pred_mask"] for each in MASKS}
    forms = ("dtype: u8", "dtype: u8_255, on_nan: normal", "dtype: f32", "runtime: true")
    compared = {named(form): [f"compare, level: $pixel.threshold, {form} raw_map>pred_mask"] for form in forms}
    levels = levels_as_text([[(row + column) / 40 for column in range(20)] for row in range(24)])
    per_pixel = [f'compare_per_pixel, pixel_levels: "{levels}" raw_map>pred_mask']
    return maps | scores | reduced | masks | compared | {"compare_per_pixel": per_pixel, "several": SEVERAL}


# --- writing ---------------------------------------------------------------------------------------------------------


def command(place: Path, *words: str | Path) -> bool:
    """Run a command line; if it fails, write its error message to a file in `place`."""
    place.mkdir(parents=True, exist_ok=True)
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        status = run([str(word) for word in words])
    if status != 0:
        with (place / "refused.txt").open("a") as stream:
            stream.write(said.getvalue())
    return status == 0


def write_form(place: Path, raw: Path, *words: str | Path, plugin: Iterable[str | Path] = ()) -> None:
    """Fuse, strip and convert."""
    fused = place / "fused.onnx"
    if command(place, *plugin, "fuse", raw, *words, "-o", fused):
        command(place, *plugin, "strip", fused, "-o", place / "stripped.onnx")
        command(place, *plugin, "convert", fused, "-o", place / "model.xml")


def write_forms(case: str, raw: Path, stats: Path, forms: Iterable[str], *words: str) -> None:
    for form in forms:
        write_form(Path(case, named(form)), raw, "--stats", stats, *words, *form.split())


def write_recipe(place: Path, raw: Path, recipe: Iterable[str] | str, *words: str | Path, **plugin: list[str]) -> None:
    """Write a recipe, given as text or as steps, and the files of a model fused with it."""
    file = INPUTS / "post.yaml"
    if not isinstance(recipe, str):
        entries = [re.fullmatch(r"(.*) (\w+)>(\w+)", entry).groups() for entry in recipe]  # type: ignore[union-attr]
        lines = ["  - {step: %s, source: %s, target: %s}\n" % entry for entry in entries]  # noqa: UP031
        recipe = "steps:\n" + "".join(lines)
    file.write_text("schema_version: 1\n" + recipe)
    write_form(place, raw, "--recipe", file, *words, **plugin)


def write_retunings(case: str, *forms: str) -> None:
    """Both kinds of file in memory, into another file, and in place."""
    for form in forms:
        names = [name for name in MODELS if Path(case, form, name).exists()]
        for change in RETUNINGS if names else []:
            place = Path(case, f"{form}_retuned_{named(change)}")
            shutil.copytree(Path(case, form), place, ignore=shutil.ignore_patterns("*.md", "*.txt"))
            for name in names:
                command(place, "retune", place / name, *change.split(), "-o", place / f"other_{name}")
                command(place, "retune", place / name, *change.split())
        for name in names:
            retuned = pp.retune(pp.open(Path(case, form, name)), image_sensitivity=0.2)
            retuned.save(Path(case, f"{form}_retuned_in_memory", name))


def write_main(case: str, raw: Path, stats: Path, size: int, forms: Iterable[str] = FORMS) -> None:
    """Forms, conversions and retunings of one model."""
    write_forms(case, raw, stats, forms)
    fused, entry = Path(case, "default", "fused.onnx"), onnx.load(raw, load_external_data=False).graph.input[0]
    batch = entry.type.tensor_type.shape.dim[0].dim_value
    filled = {"input": entry.name, "fixed": f"{batch or 1},3,{size},{size}", "open": f"{batch or '?'},3,{size},{size}"}
    for form in CONVERSIONS:
        place = Path(case, f"converted_{named(form)}")
        command(place, "convert", fused, *form.format(**filled).split(), "-o", place / "model.xml")
    for form in table("; --pack --thresholds runtime --map-size 37x51; --map-size input; --no-tail --keep-raw"):
        place = Path(case, f"converted_at_once_{named(form)}")
        command(place, "convert", raw, "--stats", stats, *form.split(), "-o", place / "model.xml")
    place = Path(case, "replaced")
    command(place, "fuse", fused, "--stats", stats, "--replace", "--pack", "-o", place / "fused.onnx")
    write_retunings(case, "default", "thresholds_runtime", "pack")


def write_demo(case: str = "demo") -> None:
    """Conversions that need images, and custom post-processors."""
    folder = shutil.copytree(DEMO, INPUTS / case)
    raw, stats, images = folder / "raw.onnx", folder / "stats.json", folder / "images"
    write_main(case, raw, stats, 256, [*FEW_FORMS, "--no-tail", "--map-size input"])
    fused = Path(case, "default", "fused.onnx")
    for preset in ("performance", "mixed"):
        place = Path(case, f"int8_{preset}")
        data = ("--precision", "int8", "--calibration-data", images, "--subset-size", "4", "--preset", preset)
        command(place, "convert", fused, *data, "-o", place / "model.xml")
    place = Path(case, "calibrated")
    command(place, "calibrate", raw, "--data", images, "-o", place / "own.json")
    command(place, "calibrate", fused, "--data", images, "--retune", place / "tuned.onnx")
    write_recipe(Path(case, "recipe"), raw, SEVERAL, "--stats", stats)
    for name, recipe in PLUGINS.items():
        plugin = ["--plugin", str(ROOT / "examples" / f"{name}.py")]
        write_recipe(Path(case, name), raw, recipe, "--stats", stats, plugin=plugin)


def save(case: str, model: onnx.ModelProto, **options: str | int) -> Path:
    path = INPUTS / case / "raw.onnx"
    path.parent.mkdir()
    onnx.save(model, path, **options)  # type: ignore[arg-type]
    return path


def write_steps(stats: Path) -> None:
    """Every step on each layout of a map, and at opsets that write it differently; classes; custom roles."""
    layouts = {"NHW": ["N", 24, 20], "N1HW": ["N", 1, 24, 20], "NHW1": ["N", 24, 20, 1], "open": ["N", 1, "H", "W"]}
    for layout, opset in (("NHW", 18), ("N1HW", 12), ("N1HW", 18), ("NHW1", 12), ("open", 18)):
        case = f"steps_{layout}_{opset}"
        raw = save(case, identity_model({"score": ["N", 1], "heat": layouts[layout]}, opset=opset))
        for name, steps in recipes().items():
            write_recipe(Path(case, name), raw, steps, "--stats", stats)
    for layout, shape in {"NCHW": ["N", 4, 16, 16], "NHWC": ["N", 16, 16, 4]}.items():
        raw = save(f"classes_{layout}", identity_model({"logits": ["N", 4], "heat": shape}))
        for name, text in CLASSES.items():
            write_recipe(Path(f"classes_{layout}", name), raw, table(text))
    raw = save("detector", identity_model({"logits": ["N", 6], "rectangles": ["N", 6, 4], "rest": ["N", 6, 32]}))
    write_recipe(Path("detector", "default"), raw, DETECTOR)
    raw = save("regions", conv_model(11, 6))
    for form in table("; --raise-opset 12; --raise-opset 18"):
        write_recipe(Path("regions", named(form)), raw, [*DECIDED, "open_mask weak>thin", MASKS[7] + " thin>pred_mask"],
                     *form.split())  # fmt: skip


def write_external(stats: Path) -> None:
    """External weights: referenced beside the model, copied elsewhere or on request."""
    raw = save("external", conv_model(), save_as_external_data=True, location="weights.bin", size_threshold=100)
    for form in table("; --thresholds runtime; --copy-weights"):
        write_form(Path("external", named(form)), raw, "--stats", stats, *form.split())
        place = shutil.copytree(raw.parent, Path("external", f"beside_{named(form)}"))
        write_form(place, place / "raw.onnx", "--stats", stats, *form.split())
    write_retunings("external", "default", "beside_default", "beside_thresholds_runtime")


def write_statistics(network: Path) -> None:
    """Statistics with missing and with equal numbers, and those in other tools' formats."""
    scores = save("scores", identity_model({"score": ["N", 1]}))
    for name, (image, pixel) in LEVELS.items():
        file = INPUTS / f"{name}.json"
        pp.Statistics(image=image, pixel=pixel).save(file)
        gaps = name in ("image_alone", "pixel_alone", "no_ranges")
        write_forms(f"levels_{name}", network, file, FEW_FORMS, *(["--no-normalize"] if gaps else []))
        write_forms(f"levels_{name}_of_scores", scores, file, table("; --no-normalize; --thresholds runtime"))
    for file in sorted(shutil.copytree(DATA / "statistics", INPUTS / "statistics").iterdir()):
        place = Path("statistics", file.name)
        command(place, "stats", "convert", file, "-o", place / "stats.json")
        write_form(place / "network", network, "--stats", file)
        write_form(place / "scores", scores, "--stats", file)


def write_kept(stats: Path) -> None:
    """Tails of published models, and models that earlier versions wrote."""
    for raw in sorted(shutil.copytree(DATA / "tails", INPUTS / "tails").glob("*.onnx")):
        write_forms(f"tail_{raw.stem}", raw, stats, table("; --no-tail; --map-size 37x51 --thresholds runtime"))
    for version in ("1", "2", "3"):
        place = Path("earlier", version)
        place.mkdir(parents=True)
        for ending, name in ((".onnx", "fused.onnx"), (".xml", "model.xml"), (".bin", "model.bin")):
            shutil.copyfile(DATA / "provenance" / f"schema_{version}{ending}", place / name)
        command(place, "strip", place / "fused.onnx", "-o", place / "stripped.onnx")
        command(place, "convert", place / "fused.onnx", "-o", place / "converted.xml")
        write_retunings("earlier", version)


def write_all(folder: Path) -> Iterator[None]:
    """Write all cases into the current folder; yield whenever the caller may hash and delete the files so far."""
    INPUTS.mkdir()
    stats, others = INPUTS / "stats.json", INPUTS / "other.json"
    STATS.save(stats)
    image, pixel = (pp.LevelStatistics(threshold=12.0 + each, min=4.0 - each, max=28.0 - each) for each in (1, -0.5))
    pp.Statistics(image=image, pixel=pixel).save(others)
    for raw in sorted(folder.glob("*/raw.onnx")):
        case = INPUTS / raw.parent.name
        case.mkdir()
        for name in ("raw.onnx", "stats.json"):
            shutil.copyfile(raw.with_name(name), case / name)
        write_main(case.name, case / "raw.onnx", case / "stats.json", 256)
        yield
    write_demo()
    yield
    network = save("network", conv_model())
    write_main("network", network, stats, 32)
    yield
    for name, model, forms in small_models():
        write_forms(name, save(name, model), stats, forms)
        if name in ("score_and_map", "score_only", "map_only", "opset_9", "ir_3"):
            write_retunings(name, "default", "thresholds_runtime", "pack")
        yield
    write_statistics(network)
    for write in (write_steps, write_external, write_kept):
        write(stats)
        yield


# --- comparing -------------------------------------------------------------------------------------------------------

MADE_UP = re.compile(rb'<layer id="\d+" name="(?:pp_graph/preprocessing/)?([A-Z]\w*_\d+)"')
NUMBERED = re.compile(rb"\b[A-Z]\w*_\d+\b")


def comparable(file: Path) -> bytes:
    """The content of a file, with the names that OpenVINO generated numbered by their order in the file."""
    content = file.read_bytes()
    if file.suffix != ".xml":
        return content
    names = dict.fromkeys(match[1] for match in MADE_UP.finditer(content))
    anew = {name: b"%s #%d" % (name.rpartition(b"_")[0], index) for index, name in enumerate(names)}
    return NUMBERED.sub(lambda match: anew.get(match[0], match[0]), content)


def collect() -> dict[str, str]:
    """Hash what was written, by path, and remove it."""
    found: dict[str, str] = {}
    for case in [each for each in Path().iterdir() if each != INPUTS]:
        for file in filter(Path.is_file, case.rglob("*")):
            found[file.as_posix()] = hashlib.sha256(comparable(file)).hexdigest()
        shutil.rmtree(case)
    return found


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """One line for each file that is not the same."""
    words = {(True, True): "changed", (True, False): "missing", (False, True): "new"}
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    return [f"{words[name in before, name in after]:8} {name}" for name in names]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=ROOT.parent / "shared" / "cases", metavar="FOLDER")
    parser.add_argument("--text", action="store_true", help="also hash texts for people, after the rest")
    parser.add_argument("--check", type=Path, metavar="FILE", help="earlier output to compare with")
    asked = parser.parse_args()
    cases, lines = asked.cases.resolve(), [] if asked.check is None else asked.check.read_text().splitlines()
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for _ in write_all(cases):
            found |= collect()
    names = sorted(found, key=lambda name: (name.endswith(FOR_PEOPLE), name))
    after = {name: found[name] for name in names if asked.text or not name.endswith(FOR_PEOPLE)}
    if asked.check is None:
        print("\n".join(f"{digest}  {name}" for name, digest in after.items()))
        return 0
    before = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    changed = differences({name: before[name] for name in before if asked.text or not name.endswith(FOR_PEOPLE)}, after)
    print("\n".join([*changed, f"{len(changed)} of {len(after)} files differ"]))
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
