"""Decisions of one-class models beside their cutoffs: element types, runtimes, forms and statistics, against NumPy.

    python -m tests.sweeps.numerics [--cases 600] [--seed 0] [--json result.json]

A case is a random combination of `CHOICES`. Every runtime decides about raw values at, beside and far from the cutoffs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnxruntime as ort

import pp_graph as pp
from pp_graph.openvino.core import openvino_core
from tests.sweeps.numeric_cases import (
    CHOICES,
    F32,
    SMALLEST_NORMAL,
    Array,
    Case,
    feeds_of,
    names_of,
    raw_model,
    rounded,
)

RUNTIMES: Final = ("onnxruntime off", "onnxruntime basic", "onnxruntime extended", "onnxruntime all", "OpenVINO f32",
                   "OpenVINO bf16", "torch")  # fmt: skip
_LEVELS: Final = dict(zip(
    RUNTIMES, ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"), strict=False
))  # fmt: skip
Run = tuple[str, dict[str, Array], tuple[float, float]]
"""Runtime, outputs by name, sensitivities of image and pixel."""


def runs(case: Case, fused: pp.FusedModel, feeds: dict[str, Array], folder: Path) -> Iterator[Run]:
    """Run a fused model in each runtime, and again with other cutoffs if these are adjustable."""
    own = (case.image_sensitivity, case.pixel_sensitivity)
    settings: list[tuple[tuple[float, float], dict[str, Array]]] = [(own, {})]
    if case.thresholds == "runtime" and case.normalize:
        other = dict(zip(("image_sensitivity", "pixel_sensitivity"), own[::-1], strict=True))
        known = other if case.outputs != "score" else {"image_sensitivity": own[1]}
        settings.append((own[::-1], pp.cutoffs_for(fused.provenance, **known)))
    given = {f"{name}_in": array / 2 if case.network == "computed" else array for name, array in feeds.items()}
    content = fused.to_proto().SerializeToString()
    for runtime, level in _LEVELS.items():
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        session = ort.InferenceSession(content, options)
        # It cannot return bfloat16 to Python.
        names = [each.name for each in session.get_outputs() if each.type != "tensor(bfloat16)"]
        for sensitivities, cutoffs in settings:
            yield runtime, dict(zip(names, session.run(names, {**given, **cutoffs}), strict=True)), sensitivities
    path = pp.convert(fused, precision=case.weights).save(folder / "model.xml", overwrite=True)
    for precision in ("f32", "bf16"):
        compiled = openvino_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": precision})
        request = compiled.create_infer_request()
        for sensitivities, cutoffs in settings:
            for state in request.query_state():
                if state.name in cutoffs:
                    state.state = _tensor(cutoffs[state.name])
            request.infer(given)
            found = {
                name: request.get_tensor(port).data.copy() for port in compiled.outputs for name in port.get_names()
            }
            yield f"OpenVINO {precision}", found, sensitivities
    if case.network != "computed":
        yield "torch", _in_torch(case, feeds), own


def _tensor(array: Array) -> Any:
    import openvino as ov

    return ov.Tensor(array)


def _in_torch(case: Case, feeds: Mapping[str, Array]) -> dict[str, Array]:
    import torch

    from pp_graph.integrations.torch import PostProcessorModule

    named = {"score": "pred_score", "heat": "anomaly_map"}
    tensors = {named[name]: torch.from_numpy(array).to(getattr(torch, case.dtype)) for name, array in feeds.items()}
    found = PostProcessorModule(case.post)(tensors)
    if case.form == "pack":
        return {"predictions": found.numpy()}
    return {name: value.numpy() for name, value in found._asdict().items() if value is not None}


def judged(case: Case, run: Run, feeds: Mapping[str, Array]) -> Counter[str]:
    """Compare a run's decisions and numbers with the reference on the raw values that it returned."""
    runtime, found, sensitivities = run
    counts: Counter[str] = Counter()
    given = {name: found.get(name, feeds[name]) for name in names_of(case)}
    if case.dtype == "bfloat16":  # OpenVINO returns its bits as float16
        given = {name: each.view(ml_dtypes.bfloat16) if name in found else each for name, each in given.items()}
    raw = _raw_of(case, {name: rounded(array, case.dtype) for name, array in given.items()})
    with np.errstate(over="ignore"):
        before = given if case.network == "computed" else feeds
        unrounded = _raw_of(case, {name: array.astype(F32) for name, array in before.items()})
    for name, level, number, decision, sensitivity in (
        ("score", "image", "pred_score", "pred_label", sensitivities[0]),
        ("heat", "pixel", "anomaly_map", "pred_mask", sensitivities[1]),
    ):
        if name not in raw:
            continue
        x = raw[name]
        value, decided = _outputs_of(case, found, number, decision, x.shape)
        expected = case.decide(x, level, sensitivity)
        same = decided == expected
        # Documented: a runtime may take a subnormal raw value for another one, and no cutoff is written as one.
        ends = [case.decide(np.full_like(x, end), level, sensitivity) for end in (-SMALLEST_NORMAL, 0, SMALLEST_NORMAL)]
        blurred = (np.abs(x) < SMALLEST_NORMAL) & (x != 0) & ~((ends[0] == ends[1]) & (ends[1] == ends[2]))
        counts["right"] += int((same & ~blurred).sum())
        counts["wrong"] += int((~same & ~blurred).sum())
        counts["subnormal"] += int(blurred.sum())
        small = 0 < F32(case.triple(level)[2]) - F32(case.triple(level)[1]) < SMALLEST_NORMAL
        if (case.normalize and not (small or abs(case.threshold(level)) < SMALLEST_NORMAL)) or runtime.startswith(
            "onnxruntime"
        ):
            near = np.zeros(x.shape, bool)
            # Documented: runtimes drop a cast to a narrow type before a cast back.
            for each in (x, unrounded[name]):
                number_expected = case.normalised(each, level) if case.normalize else each
                near |= np.isclose(value, number_expected, rtol=1e-6, atol=1e-5, equal_nan=True)
            counts["numbers"] += int(near.sum())
            counts["wrong numbers"] += int((~near).sum())
    return counts


def _raw_of(case: Case, raw: dict[str, Array]) -> dict[str, Array]:
    """Return what is compared: the score, or the maximum of the map, and the resized map."""
    if "heat" not in raw:
        return raw
    heat = raw["heat"]
    pixels = tuple(place for place, axis in enumerate(case.map) if axis in "HW")
    with np.errstate(all="ignore"):
        largest = heat.max(pixels).reshape(len(heat), *([] if case.map == "NHW" else [1]))
    places = tuple(slice(1, None, 3) if place in pixels else slice(None) for place in range(heat.ndim))
    return {"score": raw.get("score", largest), "heat": heat[places] if case.form == "map_size" else heat}


def _outputs_of(
    case: Case, found: Mapping[str, Array], number: str, decision: str, shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Return numbers and decisions in the shape of the raw value."""
    if case.form != "pack":
        one = {"u8_255": 255}.get(case.mask_dtype, 1) if decision == "pred_mask" else 1
        kind = {"u8": "uint8", "u8_255": "uint8", "f32": "float32"}.get(case.mask_dtype, "bool")
        given = found[decision]
        assert given.dtype == (kind if decision == "pred_mask" else bool), given.dtype
        assert given.shape == found[number].shape == shape, (given.shape, found[number].shape, shape)
        return found[number], given == one
    packed = found["predictions"]
    parts = [packed[..., place] for place in ((0, 3) if decision == "pred_mask" else (1, 2))]
    if decision == "pred_label":
        assert all((each == each[:, :1, :1]).all() or np.isnan(each).any() for each in parts)
        parts = [each[:, 0, 0] for each in parts]
    return parts[0].reshape(shape), parts[1].reshape(shape) == 1


def try_case(case: Case, folder: Path) -> list[dict[str, Any]]:
    """Return the counts of each runtime; a runtime that raises counts as crashed."""
    sensitivities = (case.image_sensitivity, case.pixel_sensitivity)
    feeds = feeds_of(case, sensitivities)
    fused = pp.fuse(raw_model(case, feeds), case.post, keep_raw=case.keep_raw)
    return [
        {
            "runtime": run[0],
            "dtype": case.dtype,
            "case": asdict(case),
            "sensitivities": run[2],
            **judged(case, run, feeds),
        }
        for run in runs(case, fused, feeds, folder)
    ]


def sweep(cases: int, seed: int = 0) -> list[dict[str, Any]]:
    """Try random cases; one that raises is recorded as crashed."""
    rng = np.random.default_rng(seed)
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(cases):
            case = Case.draw(rng)
            try:
                records += try_case(case, Path(folder))
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                records.append(
                    {"runtime": "-", "dtype": case.dtype, "case": asdict(case), "crashed": 1, "reason": reason}
                )
    return records


_KINDS: Final = ("right", "wrong", "subnormal", "numbers", "wrong numbers", "crashed")


def table(records: list[dict[str, Any]]) -> str:
    """Return the counts of each runtime and element type as Markdown."""
    lines = [f"| runtime | element type | {' | '.join(_KINDS)} |", "|---|---|" + "---:|" * len(_KINDS)]
    for runtime, dtype in itertools.product((*RUNTIMES, "-"), CHOICES["dtype"]):
        of = [each for each in records if (each["runtime"], each["dtype"]) == (runtime, dtype)]
        if of:
            numbers = " | ".join(f"{sum(each.get(kind, 0) for each in of):,}" for kind in _KINDS)
            lines.append(f"| {runtime} | {dtype} | {numbers} |")
    return "\n".join(lines)


def failures(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records with a wrong decision or number, or a crash."""
    return [each for each in records if each.get("wrong") or each.get("wrong numbers") or each.get("crashed")]


def main() -> None:
    """Run the sweep and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    records = sweep(arguments.cases, arguments.seed)
    for record in failures(records):
        print(record)
    print(table(records))
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
