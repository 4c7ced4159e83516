"""Run a raw model and its raised form on the same random inputs, and compare every bit."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pp_graph.errors import OpsetError
from pp_graph.model import fidelity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import onnxruntime as ort

    from pp_graph.model.raw_model import ModelInput, RawModel

    Array = npt.NDArray[Any]

_SIZES: Final = (64, 96, 128, 224, 256, 320, 448, 512, 640, 1024, 32, 16, 8, 1)
"""Tried for sizes that a model leaves open, until two of them run."""
_BATCHES: Final = (1, 3)
_SPREADS: Final = ((0.0, 1.0), (0.0, 100.0), (0.0, 1e-3), (128.0, 64.0))
"""Mean and deviation of random inputs: around zero, large, near zero, and far from it as pixels are."""
_INTEGERS_BELOW: Final = (10, 2)
"""Integers may be indices into a table of unknown length."""
_SLOW_S: Final = 5.0
_FEW: Final = 2
"""Trials of a model that takes longer than `_SLOW_S` for one."""
_SILENT: Final = 4


class _Trial(NamedTuple):
    """Settings of random inputs.

    Attributes:
        batch: Stands for a first size that is open.
        size: Stands for other sizes that are open.
        spread: Mean and deviation of numbers.
        below: What integers are smaller than.
    """

    batch: int
    size: int
    spread: tuple[float, float]
    below: int


def difference(raw: RawModel, raised: RawModel) -> str | None:
    """Describe how a raised model's outputs differ from the raw model's.

    Both run in onnxruntime, once as they are and once optimised as by default: some of its optimisations know an
    operator at one opset and not at another.

    Args:
        raw: The raw model.
        raised: The same at a later opset.

    Returns:
        The first difference, for people; None where all bits of all outputs are the same.

    Raises:
        OpsetError: The raw model cannot be tried out.
    """
    import onnxruntime as ort

    inputs = raw.inputs
    unknown = next((each for each in inputs if each.shape is None or not _is_number(each.dtype)), None)
    if unknown is not None:
        raise _untried(f"input '{unknown.name}' is not declared as numbers of a known rank")
    trials: Sequence[_Trial] = ()
    levels = ort.GraphOptimizationLevel
    for level, how in ((levels.ORT_DISABLE_ALL, "unoptimised"), (levels.ORT_ENABLE_ALL, "optimised as by default")):
        try:
            session = _session(raw, level)
        except Exception as error:
            raise _untried(f"the raw model does not load there ({first_line(error)})") from error
        trials = trials or _trials(session, inputs)
        expected = [_digests(_run(session, _feeds(inputs, trial))) for trial in trials]
        del session  # a model of 2 GB is not held twice
        try:
            session = _session(raised, level)
            outputs = ((trial, _run(session, _feeds(inputs, trial))) for trial in trials)
            other = next(
                (pair for pair, digests in zip(outputs, expected, strict=True) if _digests(pair[1]) != digests), None
            )
        except Exception as error:
            return f"onnxruntime does not run it there ({first_line(error)})"
        if other is not None:
            trial, found = other
            del session, outputs
            again = _run(_session(raw, level), _feeds(inputs, trial))
            if _digests(again) != expected[trials.index(trial)]:
                raise _untried("the raw model gives other numbers each time it runs on the same inputs")
            return f"{_described(again, found)} (a batch of {trial.batch} in onnxruntime, {how})"
    return None


def _untried(why: str) -> OpsetError:
    return OpsetError(
        f"Raising the opset cannot be tried out in onnxruntime: {why}. A model is raised only where that shows that it "
        "still computes the same. Export it again with a later opset_version instead."
    )


def _is_number(dtype: str | None) -> bool:
    import numpy as np

    return dtype is not None and np.dtype(dtype).kind in "fiub"


def _session(model: RawModel, level: ort.GraphOptimizationLevel) -> ort.InferenceSession:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.graph_optimization_level = level
    # Threads that wait by spinning take the processor from those that compute, where others compute, too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    files = {str(each.location): Path(each.path).resolve() for each in model.external_tensors()}
    content: str | bytes
    if model.source is not None and not model.edited and not files:
        content = str(model.source)
    else:
        proto = model.to_proto()
        if files:
            # Where they really are: onnxruntime follows no link out of the folder, as a hub's cache has them.
            folder = Path(os.path.commonpath([file.parent for file in files.values()]))
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
            for tensor in fidelity.external_protos(proto):
                place = next(entry for entry in tensor.external_data if entry.key == "location")
                place.value = files[place.value].relative_to(folder).as_posix()
        content = proto.SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _trials(session: ort.InferenceSession, inputs: Sequence[ModelInput]) -> list[_Trial]:
    """Inputs on which the raw model runs: two sizes and two batches where it leaves them open."""
    shapes = [each.shape or () for each in inputs]
    any_size = any(not isinstance(size, int) for shape in shapes for size in shape[1:])
    any_batch = any(shape and not isinstance(shape[0], int) for shape in shapes)
    integers = any((each.dtype or "").startswith(("int", "uint")) for each in inputs)
    running: list[_Trial] = []
    reason = ""
    took = 0.0
    for below, size in itertools.product(
        _INTEGERS_BELOW if integers else _INTEGERS_BELOW[:1], _SIZES if any_size else _SIZES[:1]
    ):
        trial = _Trial(_BATCHES[0], size, _SPREADS[0], below)
        start = time.monotonic()
        try:
            _run(session, _feeds(inputs, trial))
        except Exception as error:
            reason = reason or first_line(error)
            continue
        took = max(took, time.monotonic() - start)
        running.append(trial)
        if len(running) == (_FEW if any_size and took < _SLOW_S else 1):
            break
    if not running:
        raise _untried(f"the raw model does not run on random inputs ({reason})")
    if any_batch:
        batched = running[0]._replace(batch=_BATCHES[1])
        # Some exports take one image alone, whatever they declare.
        with contextlib.suppress(Exception):
            _run(session, _feeds(inputs, batched))
            running.append(batched)
    trials = [trial._replace(spread=spread) for spread in _SPREADS for trial in running]
    return trials if took < _SLOW_S else trials[:_FEW]


def _feeds(inputs: Sequence[ModelInput], trial: _Trial) -> dict[str, Array]:
    import numpy as np

    rng = np.random.default_rng([trial.batch, trial.size])
    feeds = {}
    for each in inputs:
        dtype = np.dtype(each.dtype)
        shape = tuple(
            size if isinstance(size, int) else trial.batch if axis == 0 else trial.size
            for axis, size in enumerate(each.shape or ())
        )
        array: Array
        if dtype.kind == "f":
            array = rng.normal(*trial.spread, shape)
        elif dtype.kind == "b":
            array = rng.integers(0, 2, shape)
        else:
            # What has one byte is a picture.
            array = rng.integers(0, 256 if dtype == np.uint8 else trial.below, shape)
        feeds[each.name] = np.asarray(array).astype(dtype)
    return feeds


def _run(session: ort.InferenceSession, feeds: Mapping[str, Array]) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _digests(outputs: Mapping[str, Array]) -> dict[str, str]:
    """A hash of each output's bits; one NaN is as good as another."""
    import numpy as np

    digests = {}
    for name, array in outputs.items():
        if not isinstance(array, np.ndarray):
            raise _untried(f"output '{name}' is no tensor")
        plain = np.where(np.isnan(array), np.array(np.nan, array.dtype), array) if array.dtype.kind == "f" else array
        content = repr(plain.tolist()).encode() if plain.dtype.kind == "O" else np.ascontiguousarray(plain).tobytes()
        digests[name] = f"{plain.dtype} {plain.shape} {hashlib.sha256(content).hexdigest()}"
    return digests


def _described(expected: Mapping[str, Array], found: Mapping[str, Array]) -> str:
    """The first output that differs, and by how much."""
    import numpy as np

    own, other = _digests(expected), _digests(found)
    name = next(name for name in own if own[name] != other[name])
    before, after = expected[name], found[name]
    if before.shape != after.shape or before.dtype != after.dtype:
        given, wanted = (f"{each.dtype} of shape {each.shape}" for each in (after, before))
        return f"output '{name}' is {given} instead of {wanted}"
    if before.dtype.kind not in "fiub":
        return f"output '{name}' differs"
    wide, narrow = before.astype(np.float64), after.astype(np.float64)
    lost = np.isnan(wide) != np.isnan(narrow)
    with np.errstate(invalid="ignore"):
        errors = np.where(lost, np.inf, np.abs(wide - narrow))
    differ = lost | (~np.isnan(wide) & ((wide != narrow) | (np.signbit(wide) != np.signbit(narrow))))
    largest = np.nanmax(errors[differ], initial=0.0)
    return f"output '{name}' differs in {differ.sum():,} of {before.size:,} numbers, by up to {largest:.3g}"


def first_line(error: BaseException) -> str:
    """First line of an error, without the place in C++ code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = (lines or [type(error).__name__])[0]
    for before in ("failed: ", "FAIL : "):
        text = text.rpartition(before)[2] or text
    return text.rstrip(".")
