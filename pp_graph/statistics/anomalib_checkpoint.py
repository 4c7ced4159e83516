"""Checkpoints and state dicts of Anomalib 2.x."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pp_graph.errors import StatisticsError
from pp_graph.one_class_options import OPTIONS
from pp_graph.statistics.source import StatisticsFormat, as_number
from pp_graph.statistics.torch_file import TorchZip, mappings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pp_graph.statistics.source import StatisticsFile
    from pp_graph.statistics.statistics import Statistics

    _Dicts = list[tuple[tuple[str, ...], dict[Any, Any]]]

BUFFERS: Final = {
    "_image_threshold": ("image", "threshold"), "image_min": ("image", "min"), "image_max": ("image", "max"),
    "_pixel_threshold": ("pixel", "threshold"), "pixel_min": ("pixel", "min"), "pixel_max": ("pixel", "max"),
}  # fmt: skip
_ATTRIBUTE: Final = "post_processor"
_WRAPPERS: Final = ("_orig_mod", "module", "model")
"""Components that `torch.compile`, data parallelism and Lightning modules put before a name."""
_CONFIG: Final = "anomalib_post_processor_config"
SETTINGS: Final = {
    "enable_normalization": "normalize", "enable_thresholding": "threshold",
    "enable_threshold_matching": "match_thresholds", "image_sensitivity": "image_sensitivity",
    "pixel_sensitivity": "pixel_sensitivity",
}  # fmt: skip
_ADAPTIVE: Final = ("sample_rate", "min_interval_len")
"""Settings of MEBinPostProcessor."""

_ZIP: Final = b"PK\x03\x04"
_LEGACY: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
NOT_NORMALIZED: Final = (
    "Anomalib's normalisation was off; without it Anomalib compares raw values with 1 - sensitivity, pp_graph with the "
    "threshold, and sensitivities have no meaning."
)


class AnomalibCheckpoint(StatisticsFormat):
    """A Lightning checkpoint, a state dict or an exported `model.pt` with the buffers of Anomalib's PostProcessor."""

    title: ClassVar[str] = "Anomalib 2.x checkpoint"

    def recognises(self, file: StatisticsFile) -> bool:
        """True for a zip, or for the consecutive pickles of torch before 1.6."""
        return file.head.startswith((_ZIP, _LEGACY))

    def read(self, file: StatisticsFile) -> Statistics:
        """Read the buffers, and the settings if the checkpoint has them."""
        to_number: Callable[[Any], float]
        if file.head.startswith(_LEGACY):
            content, to_number = _load_legacy(file.path), float
        else:
            archive = TorchZip(file.path)
            content, to_number = archive.content, archive.number
        dicts = list(mappings(content))
        callback = _find_callback(dicts)
        if callback is not None:
            return self._of_callback(file, callback)
        prefix, stored = _find_buffers(dicts, to_number)
        levels: dict[str, dict[str, float | None]] = {"image": {}, "pixel": {}}
        for buffer, tensor in stored.items():
            level, field = BUFFERS[buffer]
            try:
                number = to_number(tensor)
            except StatisticsError as error:
                raise StatisticsError(f"'{prefix}{buffer}': {error}") from None
            except (TypeError, ValueError, RuntimeError, AttributeError):
                raise StatisticsError(
                    f"'{prefix}{buffer}' is not a tensor with one number. Save the checkpoint again."
                ) from None
            levels[level][field] = as_number(f"{prefix}{buffer}", number)
        settings, notes = _find_settings(dicts)
        return self.statistics(file, levels["image"], levels["pixel"], settings=settings, notes=notes)

    def _of_callback(self, file: StatisticsFile, state: dict[Any, Any]) -> Statistics:
        """Read the state of pp_graph's own Lightning callback."""
        try:
            levels = {level: dict(state["statistics"][level]) for level in ("image", "pixel")}
            numbers = {
                level: {end: as_number(f"{level}.{end}", found.get(end)) for end in ("threshold", "min", "max")}
                for level, found in levels.items()
            }
        except (TypeError, KeyError, ValueError):
            raise StatisticsError(
                "the state of its PostProcessorCallback is damaged, expected statistics of both levels. Save the "
                "checkpoint again."
            ) from None
        parameters = state["parameters"] if isinstance(state["parameters"], dict) else {}
        own = state["post_processor"] == "OneClassPostProcessor"
        settings = {name: value for name, value in parameters.items() if own and name in OPTIONS}
        notes = ["The model was trained after these statistics were found."] if state.get("outdated") else []
        return self.statistics(file, numbers["image"], numbers["pixel"], settings=settings, notes=notes)


def _load_legacy(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise StatisticsError(
            "it is in the format of torch before 1.6, and reading that needs torch. Install it (pip install torch), or "
            "save the file again with a newer torch."
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise StatisticsError(
            f"torch.load(weights_only=True) cannot read it: {reason} Save only its state dict, with a newer torch."
        ) from None


def _find_buffers(dicts: _Dicts, to_number: Callable[[Any], float]) -> tuple[str, dict[str, Any]]:
    """Find the post-processor's buffers. Returns their prefix, and the tensors by name without prefix.

    Wrappers (`torch.compile`, `DataParallel`, a Lightning module) put a component before the name. Groups under
    `post_processor` come first, then those without a name, then those under any other attribute.
    """
    ranked: tuple[dict[str, dict[str, Any]], ...] = ({}, {}, {})
    keys: list[str] = []
    for path, entries in dicts:
        names = [key for key in entries if isinstance(key, str)]
        keys += names
        for name in names:
            prefix, _, buffer = name.rpartition(".")
            if buffer not in BUFFERS or entries[name] is None:
                continue
            parts = [part for part in prefix.split(".") if part not in _WRAPPERS]
            rank = 0 if parts and parts[-1] == _ATTRIBUTE else 2 if parts else 1
            label = f"{'/'.join(path)}:{prefix}{'.' if prefix else ''}"
            ranked[rank].setdefault(label, {})[buffer] = entries[name]
    # A checkpoint may also contain an uncalibrated post-processor in its hyperparameters. That has no threshold.
    for candidates in ranked:
        calibrated = {
            name: tensors for name, tensors in candidates.items() if any("threshold" in buffer for buffer in tensors)
        }
        if len({repr(_numbers(tensors, to_number)) for tensors in calibrated.values()}) > 1:
            listed = ", ".join(f"'{name.partition(':')[2] or name}'" for name in calibrated)
            raise StatisticsError(
                f"it has {len(calibrated)} post-processors with different numbers, under {listed}, expected one. Save "
                "the state dict of one model."
            )
        for name, tensors in calibrated.items():
            return name.partition(":")[2], tensors
    shown = ", ".join(f"'{key}'" for key in keys[:5]) or "nothing"
    raise StatisticsError(
        f"it has no buffers of a post-processor, expected '{_ATTRIBUTE}._image_threshold' and others from Anomalib 2.x "
        f"or pp_graph; found {shown}{', …' if len(keys) > 5 else ''}. Validate the model, or pass the metadata.json of "
        "an earlier version."
    )


def _numbers(tensors: Mapping[str, Any], to_number: Callable[[Any], float]) -> dict[str, object]:
    """Convert tensors to numbers for comparison; None for a tensor without a number, which `read` reports."""
    found: dict[str, object] = {}
    for name in sorted(tensors):
        try:
            found[name] = to_number(tensors[name])
        except Exception:  # damaged in any way
            found[name] = None
    return found


def _find_callback(dicts: _Dicts) -> dict[Any, Any] | None:
    """Find the state of pp_graph's Lightning callback that has statistics; None if there is none."""
    names = {"version", "statistics", "post_processor", "parameters"}
    states = [entries for _, entries in dicts if names <= set(entries)]
    return next((state for state in states if state["statistics"] is not None), None)


def _find_settings(dicts: _Dicts) -> tuple[dict[str, Any], list[str]]:
    """Find the settings, as keyword arguments of `OneClassPostProcessor`, and notes."""
    configs = [entries for path, entries in dicts if path == (_CONFIG,)]
    # Before Anomalib 2.7, they are attributes of a pickled post-processor.
    configs += [entries for _, entries in dicts if "enable_normalization" in entries and "_buffers" in entries]
    if not configs:
        return {}, ["The checkpoint has no settings of the post-processor (Anomalib 2.7 writes them): defaults apply."]
    return read_settings(configs[0])


def read_settings(config: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """Translate Anomalib's settings into keyword arguments of `OneClassPostProcessor`, and notes."""
    settings: dict[str, Any] = {}
    notes: list[str] = []
    for theirs, ours in SETTINGS.items():
        value = config.get(theirs)
        if value is None:
            continue
        if not isinstance(value, bool if theirs.startswith("enable") else int | float):
            raise StatisticsError(
                f"its setting '{theirs}' is a {type(value).__name__}, expected "
                f"{'True or False' if theirs.startswith('enable') else 'a number'}. Save the checkpoint again."
            )
        settings[ours] = value
    if settings.get("normalize") is False:
        notes.append(NOT_NORMALIZED)
        settings = {name: value for name, value in settings.items() if not name.endswith("sensitivity")}
    if all(name in config for name in _ADAPTIVE):
        notes.append(
            "The masks of Anomalib's MEBinPostProcessor come from a threshold of each image's own; pp_graph compares "
            "with the one pixel threshold, so masks differ."
        )
    return settings, notes
