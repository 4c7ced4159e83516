"""State of the callback in a checkpoint."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pp_graph.errors import StatisticsError
from pp_graph.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.postprocessors import PostProcessor

_VERSION: Final = 1
NO_STATISTICS: Final = (
    "No validation has run yet, and no checkpoint with statistics was read, expected calibrated numbers. Run "
    "trainer.fit or trainer.validate before, give ckpt_path=, or build the callback with a post-processor that has "
    "statistics."
)
OUTDATED: Final = (
    "The model was trained on since the validation that the statistics are from, expected statistics of these weights: "
    "thresholds may not fit."
)


def saved_state(post: PostProcessor, *, outdated: bool) -> dict[str, Any]:
    """Statistics and parameters of a post-processor, as JSON has them, so that a checkpoint loads with `weights_only`.

    Args:
        post: The post-processor.
        outdated: Whether the model was trained on since its statistics were found.
    """
    statistics = None if post.statistics is None else msgspec.json.decode(post.statistics.to_json())
    return {"version": _VERSION, "statistics": statistics, "outdated": outdated, **_described(post)}


def statistics_in(state: Mapping[str, Any], post: PostProcessor) -> Statistics | None:
    """The statistics in a checkpoint; warns where they were used with other parameters than now.

    Args:
        state: What `saved_state` returned.
        post: The post-processor that is to have them.

    Raises:
        StatisticsError: The state is of a later version, or damaged.
    """
    if state.get("version") != _VERSION:
        raise StatisticsError(
            f"The checkpoint's post-processor state has version {state.get('version')!r}, expected {_VERSION}. Upgrade "
            "pp_graph, or validate again."
        )
    ours = _flat(_described(post))
    theirs = _flat(state)
    changed = [
        f"{name} was {theirs.get(name)!r} and is {ours.get(name)!r}"
        for name in {**theirs, **ours}
        if theirs.get(name) != ours.get(name)
    ]
    if changed:
        warnings.warn(
            f"The checkpoint was saved with another post-processor, so decisions may differ: {'; '.join(changed)}. "
            "What the callback was built with holds.",
            stacklevel=3,
        )
    statistics = state.get("statistics")
    return None if statistics is None else Statistics.from_json(msgspec.json.encode(statistics))


def _described(post: PostProcessor) -> dict[str, Any]:
    return {
        "post_processor": type(post).__name__,
        "parameters": msgspec.json.decode(msgspec.json.encode(post.parameters())),
    }


def _flat(state: Mapping[str, Any]) -> dict[str, Any]:
    return {"post_processor": state.get("post_processor"), **state.get("parameters", {})}
