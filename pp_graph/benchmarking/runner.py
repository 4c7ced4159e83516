"""Time several models in turns, so that disturbances affect all of them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from pp_graph.benchmarking.contenders import Contender, find_contenders, read_contender, remarks_about, set_input_shapes
from pp_graph.benchmarking.inputs import Array, fixed_shapes, make_feeds
from pp_graph.benchmarking.measuring import describe_machine, describe_versions, ratio_of_medians, time_in_rounds
from pp_graph.benchmarking.new_process import Figures, measure_in_new_process
from pp_graph.benchmarking.operator_groups import group_times, parts_of
from pp_graph.benchmarking.report import BenchmarkReport, ContenderReport
from pp_graph.data import fix_inputs
from pp_graph.errors import DataError, DeviceError
from pp_graph.files import writing_temporarily
from pp_graph.fusion import METADATA_KEY, Artifact, FusedModel
from pp_graph.model import RawModel, format_shape, image_input
from pp_graph.opening import kind_of
from pp_graph.openvino.compiling import INFERENCE_PRECISIONS
from pp_graph.openvino.devices import PERFORMANCE_HINTS, absent_members, runnable_devices
from pp_graph.openvino.timed_session import TimedSession
from pp_graph.progress import shows_progress
from pp_graph.version import __version__

if TYPE_CHECKING:
    from pp_graph.data import ImageSource
    from pp_graph.preprocessing import Preprocessing

Progress = Callable[[float], None]
"""Called with the seconds just spent on measuring; True shows a progress bar."""

_WARM_UP_RUNS: Final = 5
_FEWEST_ROUNDS: Final = 5
_ENOUGH_ROUNDS: Final = 30
_PROFILED_RUNS: Final = 15
_LATENCY_SHARE: Final = 0.8
_THROUGHPUT_TURNS: Final = 4
"""Turns of each model in the time for throughput."""


@dataclass
class _Entry:
    """A compiled contender and its measurements: milliseconds of each run; runs in flight, and their seconds."""

    contender: Contender
    session: TimedSession
    times: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    finished: int = 0
    busy: float = 0.0

    def run(self) -> None:
        self.session.infer()
        if self.contender.after is not None:
            self.contender.after(self.session.inferred())


@shows_progress("Measuring", seconds=True)
def benchmark(
    raw: str | Path,
    artifacts: str | Path | Artifact | Sequence[str | Path | Artifact],
    *,
    devices: Sequence[str] = ("CPU",),
    inference_precisions: Sequence[str] = ("f32", "default"),
    batch: int | None = None,
    dynamic: bool = False,
    input_shape: Mapping[str, Sequence[int]] | Sequence[int] | None = None,
    hint: str = "latency",
    against: Sequence[str | Path] | None = None,
    images: ImageSource | None = None,
    frame_size: tuple[int, int] | None = None,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
    seconds: float = 10.0,
    memory: bool = True,
    cache_dir: str | Path | None = None,
    progress: Progress | bool | None = None,
) -> BenchmarkReport:
    """Time artifacts against the raw model, post-processing on the host, and other models.

    All models run in one process, in rounds with random order, after a warm-up. In each round a model runs twice:
    the first run brings its weights into the caches, as in a stream of images; the second is timed. A ratio compares
    times of the same rounds. Unless `dynamic`, every model is compiled for the same fixed shapes.

    Args:
        raw: Raw ONNX model.
        artifacts: Models made by pp_graph: IRs (.xml), or fused .onnx files, which are converted, or such models in
            memory. One, or several.
        devices: Devices. The report lists those that are not on this machine; they are not measured.
        inference_precisions: `f32`, `bf16`, `f16`, or `default` for the device's own choice.
        batch: Images per run, if the raw model leaves the batch open; None for 1, or for the model's fixed batch.
        dynamic: Keep dynamic sizes dynamic.
        input_shape: Shape of the image input, or of each input by name, if the raw model has dynamic sizes besides the
            batch.
        hint: `latency` or `throughput`.
        against: `host-numpy`, `host-torch` and paths of other models; None for NumPy, and torch if it is installed.
        images: Images to run on; None for random numbers.
        frame_size: Height and width of random frames, for an artifact that resizes frames of any size.
        fixed_inputs: Values of inputs that do not take images, such as `{"sr": 16000}`; see
            `pp_graph.data.fix_inputs`.
        seconds: Time to measure for each device and precision.
        memory: Also measure peak memory and compile time, each model in a new process.
        cache_dir: Folder to keep compiled models in. Compile times in new processes are then those of reading them.
        progress: Called with the seconds just spent on measuring; True shows a progress bar.

    Raises:
        DataError: A setting is out of range, or the images do not fit.
        DeviceError: A device is unknown, or none of the devices is on this machine.
        ModelError: A model cannot be read.
        ProvenanceError: An artifact was not made by pp_graph.
        TargetError: A model cannot be read, compiled or run.
        OutputFileError: The cache's folder cannot be written.
    """
    inference_precisions = list(dict.fromkeys(inference_precisions))
    _check(inference_precisions, batch, hint, seconds)
    if not isinstance(raw, str | Path):
        raise DataError(f"raw is a {type(raw).__name__}, expected the path of the raw ONNX model. Save it first.")
    raw = Path(raw)
    opened = RawModel.open(raw)
    if METADATA_KEY in opened.model.metadata_props:
        raise DataError(
            f"Model '{raw}' is fused already, expected the raw model to compare with. Give the raw export, or restore "
            "it with pp-graph strip."
        )
    with _files_of(artifacts) as given:
        contenders, notes = find_contenders(raw, given, against)
        notes += remarks_about(opened, contenders)
        here, absent = _split_devices(devices)
        shapes = fixed_shapes(opened, batch, input_shape, fix_inputs(fixed_inputs, opened.inputs))
        main_input = image_input(opened.inputs)
        batch = 1 if main_input is None else shapes[main_input.name][0]
        taking_frames = list(dict.fromkeys(each.preprocessing for each in contenders if each.preprocessing is not None))
        feeds = make_feeds(opened, shapes, batch, images, taking_frames, frame_size, fixed_inputs)
        results: list[ContenderReport] = []
        advance = progress if callable(progress) else None
        for device in here:
            for precision in inference_precisions:
                asked = None if precision == "default" else precision
                setting = _Setting(device, asked, hint, not dynamic, feeds, batch, cache_dir)
                results += _run_setting(setting, contenders, seconds, notes, memory=memory, progress=advance)
    if any(each.runs < _ENOUGH_ROUNDS for each in results):
        notes.append(f"Fewer than {_ENOUGH_ROUNDS} runs of a model: p99 and intervals are unreliable. Measure longer.")
    if cache_dir is not None:
        notes.append(f"Models were compiled with the cache in '{cache_dir}': compile times are those of reading it.")
    return BenchmarkReport(
        machine=describe_machine(),
        versions=describe_versions(__version__),
        settings={
            "raw": f"{raw.name}, sha256 {opened.sha256[:16]}",
            "devices": ", ".join(devices),
            "precisions": ", ".join(inference_precisions),
            "batch": str(batch),
            "hint": hint,
            "shapes": "open" if dynamic else "fixed",
            "input": ", ".join(f"{name} {format_shape(tuple(sizes))}" for name, sizes in shapes.items()),
            "data": "random numbers" if images is None else str(images) if isinstance(images, str | Path) else "images",
            "seconds": f"{seconds:g}",
            **({} if cache_dir is None else {"cache": str(cache_dir)}),
        },
        absent_devices=absent,
        results=results,
        notes=notes,
    )


@contextlib.contextmanager
def _files_of(artifacts: str | Path | Artifact | Sequence[str | Path | Artifact]) -> Iterator[list[tuple[str, Path]]]:
    """Yield name and file of each artifact; those in memory are written to a temporary folder."""
    found: list[tuple[str, Path]] = []
    with tempfile.TemporaryDirectory() as folder:
        for each in [artifacts] if isinstance(artifacts, str | Path | Artifact) else artifacts:
            if isinstance(each, Artifact):
                place = Path(folder) / f"{len(found)}{'.onnx' if isinstance(each, FusedModel) else '.xml'}"
                with writing_temporarily():
                    each.save(place)
                same = sum(name.startswith("in memory") for name, _ in found)
                found.append((f"in memory {same + 1}" if same else "in memory", place))
            elif isinstance(each, str | Path):
                found.append((str(each), Path(each)))
            else:
                raise DataError(
                    f"An artifact is a {type(each).__name__}, expected the path of an IR (.xml) or of a fused .onnx, "
                    "or what fuse, convert and open return."
                )
        yield found


def _check(precisions: Sequence[str], batch: int | None, hint: str, seconds: float) -> None:
    known = (*INFERENCE_PRECISIONS, "default")
    for precision in precisions:
        if precision not in known:
            raise DataError(f"Inference precision '{precision}' is not known, expected one of: {', '.join(known)}.")
    if not precisions:
        raise DataError(f"No inference precision is given, expected some of: {', '.join(known)}.")
    if batch is not None and batch < 1:
        raise DataError(f"Batch is {batch}, expected at least 1.")
    if hint not in PERFORMANCE_HINTS:
        raise DataError(f"Hint '{hint}' is not known, expected one of: {', '.join(PERFORMANCE_HINTS)}.")
    if not 0 < seconds < float("inf"):
        raise DataError(f"Seconds are {seconds:g}, expected a positive number, such as 10.")


def _split_devices(devices: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the devices that are on this machine, and those that are not."""
    if not devices:
        raise DataError("No device is given, expected at least one, such as CPU.")
    absent = [device for device in dict.fromkeys(devices) if absent_members(device)]
    here = [device for device in dict.fromkeys(devices) if device not in absent]
    if not here:
        raise DeviceError(
            f"None of the devices {', '.join(absent)} is on this machine, expected one of: {runnable_devices()}."
        )
    return here, absent


@dataclass(frozen=True)
class _Setting:
    """A device, a precision, and how to run the models there."""

    device: str
    precision: str | None
    hint: str
    static: bool
    feeds: Mapping[Preprocessing | None, dict[str, Array]]
    batch: int
    cache_dir: str | Path | None

    def shapes(self, contender: Contender) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.feeds[contender.preprocessing].items()}

    def compile(self, contender: Contender, *, profile: bool = False) -> TimedSession:
        model = read_contender(contender)
        if self.static:
            set_input_shapes(model, self.shapes(contender))
        return TimedSession(
            model,
            self.feeds[contender.preprocessing],
            device=self.device,
            precision=self.precision,
            performance_hint=self.hint,
            profile=profile,
            cache_dir=self.cache_dir,
        )


def _run_setting(
    setting: _Setting,
    contenders: Sequence[Contender],
    seconds: float,
    notes: list[str],
    *,
    memory: bool,
    progress: Progress | None,
) -> list[ContenderReport]:
    entries = [_Entry(contender, setting.compile(contender)) for contender in contenders]
    for entry in entries:
        for _ in range(_WARM_UP_RUNS):
            entry.run()
    progress = progress or (lambda _: None)
    times = time_in_rounds([entry.run for entry in entries], seconds * _LATENCY_SHARE, _FEWEST_ROUNDS, progress)
    for entry, each in zip(entries, times, strict=True):
        entry.times = each
    _measure_throughput(entries, seconds * (1 - _LATENCY_SHARE), progress)
    return [_report(setting, entry, entries[0], notes, memory=memory) for entry in entries]


def _measure_throughput(entries: Sequence[_Entry], seconds: float, progress: Progress) -> None:
    turn = seconds / (_THROUGHPUT_TURNS * len(entries))
    for _ in range(_THROUGHPUT_TURNS):
        for entry in entries:
            done, busy = entry.session.run_in_flight(turn, entry.contender.after)
            entry.finished += done
            entry.busy += busy
            progress(busy)


def _report(setting: _Setting, entry: _Entry, reference: _Entry, notes: list[str], *, memory: bool) -> ContenderReport:
    contender = entry.contender
    times = entry.times
    ratio, low, high = ratio_of_medians(times, reference.times)
    sent, returned = entry.session.border_bytes()
    figures = _measure_in_new_process(setting, contender, notes) if memory and contender.after is None else None
    if contender.after is not None:
        groups: dict[str, float] = {}
        slowest: list[tuple[str, str, float]] = []
    else:
        profiled = setting.compile(contender, profile=True)
        provenance = contender.provenance
        # An artifact keeps the names of the raw model's operators.
        network = contender.path if provenance is None else reference.contender.path
        parts = None if kind_of(network) == "ir" else parts_of(network)
        groups, slowest = group_times(profiled.operator_times(_PROFILED_RUNS), parts, provenance)
    return ContenderReport(
        name=contender.name,
        device=setting.device,
        asked_precision=setting.precision or "default",
        precision=entry.session.precision,
        runs=len(times),
        median_ms=float(np.median(times)),
        p90_ms=float(np.quantile(times, 0.9)),
        p99_ms=float(np.quantile(times, 0.99)),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        throughput=entry.finished * setting.batch / entry.busy,
        in_flight=entry.session.in_flight,
        bytes_in=sent / setting.batch,
        bytes_out=returned / setting.batch,
        compile_seconds=entry.session.compile_seconds if figures is None else figures.compile_seconds,
        peak_mib=None if figures is None else round(figures.peak_mib, 1),
        groups_us=groups,
        slowest=slowest,
    )


def _measure_in_new_process(setting: _Setting, contender: Contender, notes: list[str]) -> Figures | None:
    """Measure peak memory and compile time; None if the model is converted in memory, or the process fails."""
    if contender.provenance is not None and kind_of(contender.path) == "onnx":
        return None
    shapes = setting.shapes(contender)
    try:
        return measure_in_new_process(
            contender.path,
            setting.device,
            setting.precision,
            setting.hint,
            shapes,
            static=setting.static,
            cache_dir=None if setting.cache_dir is None else str(setting.cache_dir),
        )
    except (OSError, ValueError) as error:
        notes.append(f"Peak memory of '{contender.path}' could not be measured: {error}")
        return None
