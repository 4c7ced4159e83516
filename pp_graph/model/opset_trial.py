"""Run a raw model and its raised form on the same random inputs, and compare every bit."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pp_graph.errors import OpsetError, first_line
from pp_graph.model import fidelity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import onnxruntime as ort

    from pp_graph.model.raw_model import ModelInput, RawModel

    Array = npt.NDArray[Any]

_SIZES: Final = (64, 96, 128, 224, 256, 320, 448, 512, 640, 1024, 32, 16, 8, 1)
"""Values for open sizes, tried in this order until two of them run."""
_BATCHES: Final = (1, 3)
_SPREADS: Final = ((0.0, 1.0), (0.0, 100.0), (0.0, 1e-3), (128.0, 64.0))
"""Mean and standard deviation of random inputs: normal, large, tiny, and like pixels."""
_INTEGERS_BELOW: Final = (10, 2)
"""Upper bounds of random integers, which may be indices into a table of unknown length."""
_SLOW_SECONDS: Final = 5.0
_SLOW_TRIALS: Final = 2
"""Number of trials of a model that takes longer than `_SLOW_SECONDS` for one."""
_FATAL_ONLY: Final = 4


class _Trial(NamedTuple):
    """Settings of random inputs.

    Attributes:
        batch: Value for an open first size.
        size: Value for all other open sizes.
        spread: Mean and standard deviation of floating-point inputs.
        below: Exclusive upper bound of integer inputs.
    """

    batch: int
    size: int
    spread: tuple[float, float]
    below: int


def difference(raw: RawModel, raised: RawModel) -> str | None:
    """Describe how a raised model's outputs differ from the raw model's.

    Both run in onnxruntime on random inputs, without and with its default optimisations, because some of these apply
    to an operator only at certain opsets.

    Args:
        raw: The raw model.
        raised: The raised model.

    Returns:
        The first difference, for people; None if all outputs are equal to the bit.

    Raises:
        OpsetError: The raw model cannot be run on random inputs, or its outputs are not deterministic.
    """
    import onnxruntime as ort

    inputs = raw.inputs
    unknown = next((port for port in inputs if port.shape is None or not _is_number(port.dtype)), None)
    if unknown is not None:
        raise _not_comparable(f"input '{unknown.name}' is not declared as numbers of a known rank")
    trials: Sequence[_Trial] = ()
    levels = ort.GraphOptimizationLevel
    for level, how in ((levels.ORT_DISABLE_ALL, "unoptimised"), (levels.ORT_ENABLE_ALL, "optimised as by default")):
        try:
            session = _session(raw, level)
        except Exception as error:
            raise _not_comparable(f"the raw model does not load there ({first_line(error)})") from error
        trials = trials or _trials(session, inputs)
        expected = [_digests(_run(session, _feeds(inputs, trial))) for trial in trials]
        del session  # do not keep two large models in memory
        try:
            session = _session(raised, level)
            results = ((trial, _run(session, _feeds(inputs, trial))) for trial in trials)
            deviating = next(
                (pair for pair, digests in zip(results, expected, strict=True) if _digests(pair[1]) != digests), None
            )
        except Exception as error:
            return f"onnxruntime does not run it there ({first_line(error)})"
        if deviating is not None:
            trial, raised_outputs = deviating
            del session, results
            raw_outputs = _run(_session(raw, level), _feeds(inputs, trial))
            if _digests(raw_outputs) != expected[trials.index(trial)]:
                raise _not_comparable("the raw model returns other numbers each time it runs on the same inputs")
            return f"{_described(raw_outputs, raised_outputs)} (a batch of {trial.batch} in onnxruntime, {how})"
    return None


def outputs_of_random_inputs(raw: RawModel, batch: int) -> dict[str, Array] | None:
    """Run a model in onnxruntime on random inputs.

    Args:
        raw: The model.
        batch: Value for an open first size.

    Returns:
        The outputs by name; None if the model does not run.
    """
    import onnxruntime as ort

    try:
        session = _session(raw, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
        return _run(session, _feeds(raw.inputs, _Trial(batch, batch, _SPREADS[0], _INTEGERS_BELOW[0])))
    except Exception:
        return None


def _not_comparable(why: str) -> OpsetError:
    return OpsetError(
        f"The model cannot be compared with its raised form in onnxruntime: {why}. Without this proof its opset is not "
        "raised. Export it again with a later opset_version instead."
    )


def _is_number(dtype: str | None) -> bool:
    import numpy as np

    return dtype is not None and np.dtype(dtype).kind in "fiub"


def _session(model: RawModel, level: ort.GraphOptimizationLevel) -> ort.InferenceSession:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.graph_optimization_level = level
    # Spinning threads slow down other processes on the same cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    files = {str(tensor.location): Path(tensor.path).resolve() for tensor in model.external_tensors()}
    content: str | bytes
    if model.source is not None and not model.edited and not files:
        content = str(model.source)
    else:
        proto = model.to_proto()
        if files:
            # Resolved, because onnxruntime does not follow links out of the folder, as in a hub's cache.
            folder = Path(os.path.commonpath([file.parent for file in files.values()]))
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
            for tensor in fidelity.external_protos(proto):
                place = next(entry for entry in tensor.external_data if entry.key == "location")
                place.value = files[place.value].relative_to(folder).as_posix()
        content = proto.SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _trials(session: ort.InferenceSession, inputs: Sequence[ModelInput]) -> list[_Trial]:
    """Find inputs on which the raw model runs, with two values for open sizes and two for an open batch."""
    shapes = [port.shape or () for port in inputs]
    any_size = any(not isinstance(size, int) for shape in shapes for size in shape[1:])
    any_batch = any(shape and not isinstance(shape[0], int) for shape in shapes)
    integers = any((port.dtype or "").startswith(("int", "uint")) for port in inputs)
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
        if len(running) == (_SLOW_TRIALS if any_size and took < _SLOW_SECONDS else 1):
            break
    if not running:
        raise _not_comparable(f"the raw model does not run on random inputs ({reason})")
    if any_batch:
        batched = running[0]._replace(batch=_BATCHES[1])
        # Some exports declare an open batch and run with one image only.
        with contextlib.suppress(Exception):
            _run(session, _feeds(inputs, batched))
            running.append(batched)
    trials = [trial._replace(spread=spread) for spread in _SPREADS for trial in running]
    return trials if took < _SLOW_SECONDS else trials[:_SLOW_TRIALS]


def _feeds(inputs: Sequence[ModelInput], trial: _Trial) -> dict[str, Array]:
    import numpy as np

    rng = np.random.default_rng([trial.batch, trial.size])
    feeds = {}
    for port in inputs:
        dtype = np.dtype(port.dtype)
        shape = tuple(
            size if isinstance(size, int) else trial.batch if axis == 0 else trial.size
            for axis, size in enumerate(port.shape or ())
        )
        array: Array
        if dtype.kind == "f":
            array = rng.normal(*trial.spread, shape)
        elif dtype.kind == "b":
            array = rng.integers(0, 2, shape)
        else:
            # uint8 inputs are images.
            array = rng.integers(0, 256 if dtype == np.uint8 else trial.below, shape)
        feeds[port.name] = np.asarray(array).astype(dtype)
    return feeds


def _run(session: ort.InferenceSession, feeds: Mapping[str, Array]) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _digests(outputs: Mapping[str, Array]) -> dict[str, str]:
    """Hash the bits of each output. All NaNs count as equal."""
    import numpy as np

    digests = {}
    for name, array in outputs.items():
        if not isinstance(array, np.ndarray):
            raise _not_comparable(f"output '{name}' is not a tensor")
        plain = np.where(np.isnan(array), np.array(np.nan, array.dtype), array) if array.dtype.kind == "f" else array
        content = repr(plain.tolist()).encode() if plain.dtype.kind == "O" else np.ascontiguousarray(plain).tobytes()
        digests[name] = f"{plain.dtype} {plain.shape} {hashlib.sha256(content).hexdigest()}"
    return digests


def _described(expected: Mapping[str, Array], found: Mapping[str, Array]) -> str:
    """Describe the first output that differs."""
    import numpy as np

    digests, found_digests = _digests(expected), _digests(found)
    name = next(name for name in digests if digests[name] != found_digests[name])
    before, after = expected[name], found[name]
    if before.shape != after.shape or before.dtype != after.dtype:
        return (
            f"output '{name}' is {after.dtype} of shape {after.shape} instead of {before.dtype} of shape {before.shape}"
        )
    if before.dtype.kind not in "fiub":
        return f"output '{name}' differs"
    before, after = before.astype(np.float64), after.astype(np.float64)
    one_nan = np.isnan(before) != np.isnan(after)
    with np.errstate(invalid="ignore"):
        errors = np.where(one_nan, np.inf, np.abs(before - after))
    differ = one_nan | (~np.isnan(before) & ((before != after) | (np.signbit(before) != np.signbit(after))))
    largest = np.nanmax(errors[differ], initial=0.0)
    return f"output '{name}' differs in {differ.sum():,} of {before.size:,} numbers, by up to {largest:.3g}"
