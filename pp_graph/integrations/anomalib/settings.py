"""The statistics and settings that an Anomalib post-processor holds in memory."""

from __future__ import annotations

from typing import Any, Final

from pp_graph.errors import StatisticsError
from pp_graph.statistics import LevelStatistics, Statistics, StatisticsProvenance
from pp_graph.statistics.anomalib_checkpoint import BUFFERS, SETTINGS, read_settings
from pp_graph.statistics.source import as_number
from pp_graph.version import __version__

NOT_VALIDATED: Final = (
    "Validate the model first (engine.validate, or engine.fit with a validation set), or pass statistics=..."
)


def read_post_processor(module: Any) -> Statistics:
    """Read the statistics of an Anomalib post-processor, or of any module with the same buffers.

    Args:
        module: A `torch.nn.Module` with the buffers `_image_threshold`, `image_min`, `image_max`, `_pixel_threshold`,
            `pixel_min`, `pixel_max`, one number each, NaN if unknown. Its settings are attributes such as
            `image_sensitivity` and `enable_normalization`.

    Returns:
        The statistics. The `settings` of their provenance are keyword arguments of `OneClassPostProcessor`.

    Raises:
        StatisticsError: The module has no such buffers, one is invalid, or all are unknown.
    """
    kind = type(module).__name__
    state = module.state_dict() if hasattr(module, "state_dict") else {}
    if not any(name in state for name in BUFFERS):
        raise StatisticsError(
            f"Post-processor {kind} has no buffers '_image_threshold', 'image_min' and so on, expected those of "
            "Anomalib's PostProcessor. Pass the numbers with statistics=..."
        )
    levels: dict[str, dict[str, float | None]] = {"image": {}, "pixel": {}}
    for name, (level, end) in BUFFERS.items():
        try:
            number = float(state[name]) if name in state else None
        except (TypeError, ValueError, RuntimeError):
            raise StatisticsError(
                f"Buffer '{name}' of post-processor {kind} is not a tensor with one number."
            ) from None
        try:
            levels[level][end] = as_number(name, number)
        except StatisticsError as error:
            raise StatisticsError(f"Post-processor {kind}: {error}") from None
    if all(number is None for numbers in levels.values() for number in numbers.values()):
        raise StatisticsError(
            f"The model has no statistics yet: every threshold and range of its post-processor {kind} is unknown. "
            f"{NOT_VALIDATED}"
        )
    settings, notes = settings_of(module)
    try:
        image, pixel = (LevelStatistics(**levels[level]) for level in ("image", "pixel"))
    except StatisticsError as error:
        raise StatisticsError(f"Post-processor {kind}: {error}") from None
    return Statistics(
        image=image,
        pixel=pixel,
        provenance=StatisticsProvenance(
            source=f"Anomalib's {kind} in memory", pp_graph_version=__version__, settings=settings, notes=notes
        ),
    )


def settings_of(module: Any) -> tuple[dict[str, Any], list[str]]:
    """Return an Anomalib post-processor's settings as keyword arguments of `OneClassPostProcessor`, and notes.

    Raises:
        StatisticsError: A setting has the wrong type.
    """
    # The last two identify MEBinPostProcessor.
    names = (*SETTINGS, "sample_rate", "min_interval_len")
    return read_settings({name: getattr(module, name) for name in names if hasattr(module, name)})
