"""What each task does. It runs in a process of its own, and returns what goes into its record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pp_graph.benchmarking import benchmark
from pp_graph.calibration import calibrate
from pp_graph.conversion import convert
from pp_graph.errors import DataError, DeviceError, TargetError
from pp_graph.fleet.plan import slot_of
from pp_graph.fleet.post_processing import build_post_processor, changes_to
from pp_graph.fleet.rates import measure_rates, truth_of
from pp_graph.fleet.settings import AUTO
from pp_graph.fleet.tuned import numbers_of, tune_artifact
from pp_graph.fusion import FusedModel, fuse
from pp_graph.model import RawModel
from pp_graph.opening import open_artifact
from pp_graph.openvino.devices import absent_members, runnable_devices
from pp_graph.packaging import package
from pp_graph.precision import choose_precision
from pp_graph.precision.decisions import RECALIBRATED
from pp_graph.quantization.quantization import Quantization
from pp_graph.report import write_benchmark_report, write_verification_report
from pp_graph.retuning import retune
from pp_graph.statistics import Statistics
from pp_graph.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from pp_graph.calibration import CalibrationResult
    from pp_graph.fleet.plan import Task
    from pp_graph.fleet.store import Store
    from pp_graph.openvino import OpenVINOModel


def work_on(task: Task, store: Store) -> dict[str, Any]:
    """Do a task.

    Returns:
        The record: key, key of the conversion, result, and size and time of change of the files that were written.

    Raises:
        PPGraphError: Something does not fit; see the function that the task calls.
    """
    if task.problem:
        raise DataError(task.problem)
    absent = absent_members(task.device) if task.kind in _RUNNING or task.precision == AUTO else ()
    if absent:
        raise DeviceError(
            f"device '{absent[0]}' is not on this machine, expected one of: {runnable_devices()}. "
            f"{_NOT_MADE if task.precision == AUTO else _MADE} Run the fleet on a machine that has the device, or on a "
            "cluster of such machines (--scheduler), or take it out of 'devices'."
        )
    result, files = WORK[task.kind](task, store)
    return {"key": task.key, "converted": task.converted, "result": result, "files": store.stamps(files)}


_RUNNING: Final = ("recalibrate", "verify", "benchmark")
"""Tasks that run an artifact on its device."""
_MADE: Final = "The artifact is made, and was not checked."
_NOT_MADE: Final = "There is no artifact, because the search for a precision runs on the device."
_Done = tuple[dict[str, Any], "Iterable[Path]"]


def _inspect(task: Task, store: Store) -> _Done:
    del store
    raw = RawModel.open(task.model.path)
    return {
        "opset": raw.opset,
        "bytes": raw.weight_bytes,
        "inputs": {port.name: str(port.shape) for port in raw.inputs},
    }, ()


def _calibrate(task: Task, store: Store) -> _Done:
    model = task.model
    found = calibrate(model.path, model.data, roles=model.roles, resamples=0, **model.calibrate.keywords())
    return _save_statistics(found, store.statistics(model.name))


def _recalibrate(task: Task, store: Store) -> _Done:
    model = task.model
    found = calibrate(
        open_artifact(store.artifact(model.name, task.variant)),
        model.data,
        device=task.device,
        inference_precision=_executed(task, store),
        resamples=0,
        **model.calibrate.keywords(),
    )
    return _save_statistics(found, store.statistics(model.name, task.variant))


def _save_statistics(found: CalibrationResult, path: Path) -> _Done:
    found.save(path, overwrite=True)
    levels = {name: level.to_dict() for name, level in found.levels.items()}
    return {name: {"f1": (level["metrics"] or {}).get("f1"), "warnings": level["warnings"]}
            for name, level in levels.items()}, (path,)  # fmt: skip


def _statistics(task: Task, store: Store) -> Statistics | None:
    """Return the statistics of a model, or of its artifact if it was calibrated again."""
    model = task.model
    own = store.statistics(model.name, task.variant)
    if task.device and task.kind != "convert" and (model.recalibrate or _found_own(task, store)):
        return Statistics.load(own)
    if model.statistics is not None:
        return Statistics.load(model.statistics)
    return Statistics.load(store.statistics(model.name)) if model.calibrated else None


def _fuse(task: Task, store: Store) -> _Done:
    model = task.model
    fused = fuse(model.path, build_post_processor(model, _statistics(task, store)), roles=model.roles)
    path = fused.save(store.fused(model.name), overwrite=True)
    return {"notes": list(fused.notes)}, (path,)


def _convert(task: Task, store: Store) -> _Done:
    model = task.model
    fused = FusedModel.load(store.fused(model.name))
    # The fused model may be older than the statistics, and quantising may look at decisions.
    statistics, changes = changes_to(fused.provenance, _statistics(task, store), task.numbers)
    if statistics is not None or changes:
        fused = retune(fused, statistics, **changes)
    sizes: dict[str, Any] = {"device": task.device, "batch": model.batch, "input_shape": model.input_shape}
    result: dict[str, Any] = {}
    further: list[Path] = []
    if task.precision == AUTO:
        artifact, result = _choose(task, store, fused, sizes)
        if result["recalibrated"]:
            assert artifact.provenance.statistics is not None
            further = [store.statistics(model.name, task.variant)]
            artifact.provenance.statistics.save(further[0], overwrite=True)
    else:
        quantization = Quantization(model.data) if task.precision == "int8" else None
        artifact = convert(fused, precision=task.precision, quantization=quantization, **sizes)
    path = artifact.save(store.artifact(model.name, task.variant), overwrite=True)
    files = (path, path.with_suffix(".bin"), path.with_suffix(".usage.md"), *further)
    return {"notes": list(artifact.notes), **result}, files


def _choose(
    task: Task, store: Store, fused: FusedModel, sizes: Mapping[str, Any]
) -> tuple[OpenVINOModel, dict[str, Any]]:
    """Search for the fastest precision within the limits; a search that was ended goes on where it was."""
    model, state = task.model, store.search(task.model.name, task.variant)
    state.parent.mkdir(parents=True, exist_ok=True)
    choice = choose_precision(
        fused,
        model.data,
        labels=None if model.boxes is None else truth_of(model, fused.provenance),
        max_label_flips=model.limits.label_flips,
        max_pixel_flips=model.limits.pixel_flips,
        budget=model.search_minutes,
        state=state,
        **sizes,
    )
    return choice.artifact, {
        "plan": f"{choice.chosen.plan}",
        "inference_precision": choice.inference_precision,
        "recalibrated": choice.chosen.decided.thresholds == RECALIBRATED,
    }


def _found_own(task: Task, store: Store) -> bool:
    """True if the search for a precision found thresholds of its own."""
    return bool(store.result(_conversion(task)).get("recalibrated"))


def _executed(task: Task, store: Store) -> str | None:
    """Return the precision that an artifact runs in."""
    found: str | None = store.result(_conversion(task)).get("inference_precision", task.model.executed)
    return found


def _conversion(task: Task) -> str:
    return slot_of(task.model.name, task.variant, "convert")


def _tune(task: Task, store: Store) -> _Done:
    path = store.artifact(task.model.name, task.variant)
    return tune_artifact(path, _statistics(task, store), task.numbers), (path, path.with_suffix(".bin"))


def _verify(task: Task, store: Store) -> _Done:
    model = task.model
    path = store.artifact(model.name, task.variant)
    artifact, executed = open_artifact(path), _executed(task, store)
    report = verify(
        model.path,
        path,
        model.data,
        device=task.device,
        inference_precision=executed,
        max_label_flips=model.limits.label_flips,
        max_pixel_flips=model.limits.pixel_flips,
    )
    page = path.with_name("verification.html")
    write_verification_report(report, page, overwrite=True)
    return {
        "passed": report.passed,
        "verdict": report.verdict,
        "failures": list(report.failures),
        "warnings": list(report.warnings),
        "images": report.images,
        "postprocessing_flips": report.postprocessing_flips,
        "drift": {drift.kind: {"flips": drift.flips, "total": drift.total} for drift in report.drift},
        "rates": measure_rates(model, artifact, task.device, executed),
        "numbers": numbers_of(artifact.provenance),
        "inference_precision": executed,
    }, (page,)


def _package(task: Task, store: Store) -> _Done:
    path = store.artifact(task.model.name, task.variant)
    written: list[Path] = []
    for target in task.model.packages:
        folder = path.with_name("packages") / target
        package(path, folder, task.model.data, target=target, name=task.model.name, overwrite=True)
        written += sorted(each for each in folder.rglob("*") if each.is_file())
    return {"targets": list(task.model.packages)}, written


def _benchmark(task: Task, store: Store) -> _Done:
    model = task.model
    path = store.artifact(model.name, task.variant)
    assert model.benchmark_seconds is not None
    report = benchmark(
        model.path,
        [path],
        devices=[task.device],
        inference_precisions=[_executed(task, store) or "default"],
        against=[],
        images=model.data,
        input_shape=None if model.input_shape is None else [size or model.batch or 1 for size in model.input_shape],
        seconds=model.benchmark_seconds,
        memory=False,
    )
    found = {each.name: each for each in report.results}
    own = next((each for name, each in found.items() if name != "raw"), None)
    if own is None:
        raise TargetError(f"Device '{task.device}' gave no times, expected some. Leave out 'benchmark_seconds'.")
    page = path.with_name("benchmark.html")
    write_benchmark_report(report, page, overwrite=True)
    return {
        "median_ms": own.median_ms,
        "raw_median_ms": found["raw"].median_ms if "raw" in found else None,
        "ratio": own.ratio,
        "ratio_low": own.ratio_low,
        "ratio_high": own.ratio_high,
        "machine": report.machine,
    }, (page,)


WORK: Final[dict[str, Callable[[Task, Store], _Done]]] = {
    "inspect": _inspect,
    "calibrate": _calibrate,
    "fuse": _fuse,
    "convert": _convert,
    "recalibrate": _recalibrate,
    "tune": _tune,
    "verify": _verify,
    "package": _package,
    "benchmark": _benchmark,
}
