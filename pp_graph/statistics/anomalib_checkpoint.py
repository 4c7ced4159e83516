"""Checkpoints and state dicts of Anomalib 2.x."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pp_graph.errors import StatisticsError
from pp_graph.statistics.source import StatisticsFormat, as_number

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
_PREFIX: Final = "post_processor."
_CONFIG: Final = "anomalib_post_processor_config"
SETTINGS: Final = {
    "enable_normalization": "normalize", "enable_thresholding": "threshold",
    "enable_threshold_matching": "match_thresholds", "image_sensitivity": "image_sensitivity",
    "pixel_sensitivity": "pixel_sensitivity",
}  # fmt: skip
_ADAPTIVE: Final = ("sample_rate", "min_interval_len")
"""Settings that only MEBinPostProcessor has."""

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
        """True if torch wrote the file, as a zip or, before 1.6, as consecutive pickles."""
        return file.head.startswith((_ZIP, _LEGACY))

    def read(self, file: StatisticsFile) -> Statistics:
        """Read the buffers, and the settings where the checkpoint has them."""
        to_number: Callable[[Any], float]
        if file.head.startswith(_LEGACY):
            content, to_number = _load_legacy(file.path), _float
        else:
            from pp_graph.statistics.torch_file import TorchZip

            archive = TorchZip(file.path)
            content, to_number = archive.content, archive.number
        dicts = _all_dicts(content)
        prefix, stored = _find_buffers(dicts)
        levels: dict[str, dict[str, float | None]] = {"image": {}, "pixel": {}}
        for buffer, tensor in stored.items():
            level, end = BUFFERS[buffer]
            try:
                number = to_number(tensor)
            except (TypeError, ValueError, RuntimeError, AttributeError) as error:
                if isinstance(error, StatisticsError):
                    raise StatisticsError(f"'{prefix}{buffer}': {error}") from None
                raise StatisticsError(f"'{prefix}{buffer}' is not a tensor with one number. Save it again.") from None
            levels[level][end] = as_number(f"{prefix}{buffer}", number)
        settings, notes = _find_settings(dicts)
        return self.statistics(file, levels["image"], levels["pixel"], settings=settings, notes=notes)


def _float(tensor: Any) -> float:
    return float(tensor)


def _load_legacy(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise StatisticsError(
            "it is in the format of torch before 1.6, which only torch itself reads, and torch is not installed. "
            "Install it (pip install torch), or save the file again with a newer torch."
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, and refuses what is not plain data
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise StatisticsError(
            f"torch.load(weights_only=True) refuses it: {reason} Save its state dict alone, with a newer torch."
        ) from None


def _all_dicts(content: Any) -> _Dicts:
    from pp_graph.statistics.torch_file import mappings

    return list(mappings(content))


def _find_buffers(dicts: _Dicts) -> tuple[str, dict[str, Any]]:
    """The prefix of the post-processor's buffers and the buffers, by their names without it."""
    named: dict[str, dict[str, Any]] = {}
    bare: dict[str, dict[str, Any]] = {}
    keys: list[str] = []
    for path, entries in dicts:
        names = [key for key in entries if isinstance(key, str)]
        keys += names
        for name in names:
            prefix, _, buffer = name.rpartition(".")
            if buffer not in BUFFERS or entries[name] is None:
                continue
            if f"{prefix}.".endswith(_PREFIX):
                named.setdefault(f"{'/'.join(path)}:{prefix}.", {})[buffer] = entries[name]
            elif not prefix:
                bare.setdefault(f"{'/'.join(path)}:", {})[buffer] = entries[name]
    # A checkpoint may also carry the post-processor it was configured with, which was never calibrated.
    for found in (named, bare):
        whole = {name: buffers for name, buffers in found.items() if any("threshold" in each for each in buffers)}
        if len(whole) > 1:
            listed = ", ".join(f"'{name.partition(':')[2] or name}'" for name in whole)
            raise StatisticsError(
                f"it holds {len(whole)} post-processors, under {listed}, expected one. Save the state dict of the one "
                "that is meant."
            )
        for name, buffers in whole.items():
            return name.partition(":")[2], buffers
    shown = ", ".join(f"'{key}'" for key in keys[:5]) or "nothing"
    raise StatisticsError(
        f"it has no buffers of a post-processor, expected '{_PREFIX}_image_threshold' and the like as Anomalib 2.x "
        f"writes them; found {shown}{', …' if len(keys) > 5 else ''}. Validate the model with Anomalib 2.x, or name "
        "the metadata.json of an earlier version."
    )


def _find_settings(dicts: _Dicts) -> tuple[dict[str, Any], list[str]]:
    """Keyword arguments of `OneClassPostProcessor`, and notes."""
    configs = [entries for path, entries in dicts if path == (_CONFIG,)]
    # Before 2.7 only a pickled post-processor has them, as attributes.
    configs += [entries for _, entries in dicts if "enable_normalization" in entries and "_buffers" in entries]
    if not configs:
        return {}, ["The checkpoint has no settings of the post-processor (Anomalib 2.7 writes them): defaults apply."]
    return read_settings(configs[0])


def read_settings(config: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """Anomalib's settings as ours."""
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
