"""Checkpoints and state dicts of Anomalib 2.x."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec
import numpy as np

from pp_graph.errors import PostProcessorError, StatisticsError
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
_HYPERPARAMETERS: Final = frozenset({"hyper_parameters", "_hparams", "_hparams_initial"})
"""Where Lightning keeps the arguments of a model's constructor."""
_CALLBACK_KEYS: Final = frozenset({"version", "statistics", "post_processor", "parameters"})
"""Keys in the state of `integrations.lightning.PostProcessorCallback`."""
_CALLBACK_VERSION: Final = 1
_CALLBACK_TITLE: Final = "checkpoint of pp_graph's Lightning callback"
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
        group = _choose([*_callbacks(dicts), *_buffer_groups(dicts, to_number)], dicts)
        if group.callback is not None:
            return self._of_callback(file, group)
        levels: dict[str, dict[str, float | None]] = {"image": {}, "pixel": {}}
        for buffer, tensor in group.stored.items():
            level, field = BUFFERS[buffer]
            name = f"{group.prefix}{buffer}"
            try:
                number = to_number(tensor)
            except StatisticsError as error:
                raise StatisticsError(f"'{name}': {error}") from None
            except (TypeError, ValueError, RuntimeError, AttributeError):
                raise StatisticsError(f"'{name}' is not a tensor with one number. Save the checkpoint again.") from None
            levels[level][field] = as_number(name, number)
        settings, notes = _find_settings(dicts)
        return self.statistics(file, levels["image"], levels["pixel"], settings=settings, notes=notes)

    def _of_callback(self, file: StatisticsFile, group: _Group) -> Statistics:
        """Build the statistics of pp_graph's own Lightning callback."""
        state, stored = group.callback or {}, group.stored
        parameters = state["parameters"] if isinstance(state["parameters"], dict) else {}
        own = state["post_processor"] == "OneClassPostProcessor"
        settings = {name: value for name, value in parameters.items() if own and name in OPTIONS}
        for name, value in settings.items():
            try:
                OPTIONS[name].check(value)
            except PostProcessorError as error:
                raise StatisticsError(f"in '{group.label}': {error} Save the checkpoint again.") from None
        levels: dict[str, dict[str, float | None]] = {"image": {}, "pixel": {}}
        for buffer, (level, field) in BUFFERS.items():
            levels[level][field] = stored[buffer]
        notes = ["The model was trained after these statistics were found."] if state.get("outdated") else []
        statistics = self.statistics(file, levels["image"], levels["pixel"], settings=settings, notes=notes)
        assert statistics.provenance is not None, "`statistics` sets it"
        return msgspec.structs.replace(
            statistics, provenance=msgspec.structs.replace(statistics.provenance, source=_CALLBACK_TITLE)
        )


@dataclass(frozen=True)
class _Group:
    """The numbers of one post-processor in a checkpoint.

    Attributes:
        path: Keys that lead to the dict that holds them.
        prefix: What their names begin with in that dict.
        stored: Stored numbers, by the names of `BUFFERS`.
        known: Those that are finite, in float32; None for one that cannot be read.
        rank: Groups of a lower rank are preferred to others with the same numbers.
        callback: State of pp_graph's Lightning callback, if it holds the numbers.
    """

    path: tuple[str, ...]
    prefix: str
    stored: dict[str, Any]
    known: dict[str, np.float32 | None]
    rank: int
    callback: dict[Any, Any] | None = None

    @property
    def label(self) -> str:
        """Prefix of the names, or the path of a group without one."""
        return self.prefix or self.full_label

    @property
    def full_label(self) -> str:
        """Path and prefix."""
        return "/".join((*self.path, self.prefix) if self.prefix else self.path) or "no prefix"

    @property
    def is_initial(self) -> bool:
        """True for a post-processor as the model's constructor got it, before validation."""
        return any(part in _HYPERPARAMETERS for part in self.path)

    def agrees(self, other: _Group) -> bool:
        """True if all known numbers equal those of another group."""
        return all(name in other.known and other.known[name] == number for name, number in self.known.items())


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


def _choose(groups: list[_Group], dicts: _Dicts) -> _Group:
    """Return the group with most numbers. Raise if there is none, or if others contradict it."""
    if not groups:
        keys = [key for _, entries in dicts for key in entries if isinstance(key, str)]
        shown = ", ".join(f"'{key}'" for key in keys[:5]) or "nothing"
        raise StatisticsError(
            f"it has no buffers of a post-processor, expected '{_ATTRIBUTE}._image_threshold' and others from Anomalib "
            f"2.x or pp_graph; found {shown}{', …' if len(keys) > 5 else ''}. Validate the model, or pass the "
            "metadata.json of an earlier version."
        )
    calibrated = [group for group in groups if group.known]
    validated = [group for group in calibrated if not group.is_initial] or calibrated
    candidates = sorted(validated or groups, key=lambda group: (-len(group.known), group.rank))
    chosen = candidates[0]
    different = [chosen, *(group for group in candidates[1:] if not group.agrees(chosen))]
    if len(different) > 1:
        labels = [group.label for group in different]
        if len(set(labels)) < len(labels):
            labels = [group.full_label for group in different]
        listed = ", ".join(f"'{label}'" for label in sorted(labels))
        raise StatisticsError(
            f"it has {len(different)} post-processors with different numbers, under {listed}, expected one. Save the "
            "state dict of one model."
        )
    return chosen


def _buffer_groups(dicts: _Dicts, to_number: Callable[[Any], float]) -> list[_Group]:
    """Find the buffers of post-processors, under any attribute and any wrapper.

    Wrappers (`torch.compile`, `DataParallel`, a Lightning module) put a component before the name. Groups without a
    threshold are left out: other modules may have an `image_min`, too.
    """
    groups = []
    for path, entries in dicts:
        found: dict[str, dict[str, Any]] = {}
        for name, value in entries.items():
            prefix, dot, buffer = name.rpartition(".") if isinstance(name, str) else ("", "", "")
            if buffer in BUFFERS and value is not None:
                found.setdefault(prefix + dot, {})[buffer] = value
        for prefix, stored in found.items():
            if not any("threshold" in buffer for buffer in stored):
                continue
            parts = [part for part in prefix.split(".") if part and part not in _WRAPPERS]
            rank = 1 if parts and parts[-1] == _ATTRIBUTE else 3 if parts else 2
            groups.append(_Group(path, prefix, stored, _known(stored, to_number), rank))
    return groups


def _callbacks(dicts: _Dicts) -> list[_Group]:
    """Find the states of pp_graph's Lightning callbacks that have statistics."""
    groups = []
    for path, state in dicts:
        if not set(state) >= _CALLBACK_KEYS or state["statistics"] is None:
            continue
        if state["version"] != _CALLBACK_VERSION:
            raise StatisticsError(
                f"the state of its PostProcessorCallback has version {state['version']!r}, expected "
                f"{_CALLBACK_VERSION}. Upgrade pp_graph, or validate again."
            )
        try:
            levels = {level: dict(state["statistics"][level]) for level in ("image", "pixel")}
            stored = {
                buffer: as_number(f"{level}.{field}", levels[level].get(field))
                for buffer, (level, field) in BUFFERS.items()
            }
        except (TypeError, KeyError, ValueError):
            raise StatisticsError(
                "the state of its PostProcessorCallback is damaged, expected statistics of both levels. Save the "
                "checkpoint again."
            ) from None
        known = _known({name: number for name, number in stored.items() if number is not None}, float)
        groups.append(_Group(path, "", stored, known, 0, state))
    return groups


def _known(stored: Mapping[str, Any], to_number: Callable[[Any], float]) -> dict[str, np.float32 | None]:
    """Return the finite numbers in float32, which buffers have; None for those that cannot be read."""
    known: dict[str, np.float32 | None] = {}
    for name, value in stored.items():
        try:
            with np.errstate(over="ignore"):
                number = np.float32(to_number(value))
        except Exception:  # damaged in any way; `read` says how
            known[name] = None
            continue
        if np.isfinite(number):
            known[name] = number
    return known


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
