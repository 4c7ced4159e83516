"""`Validation`: one validation of a trainer, from what its steps return to statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pp_graph.integrations.lightning.collector import Collector
from pp_graph.integrations.lightning.duplicates import Duplicates
from pp_graph.postprocessors.input_checks import checked_values, given_as
from pp_graph.program import Signature

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.calibration import CalibrationResult
    from pp_graph.calibration.calibration import CalibratorSettings
    from pp_graph.integrations.lightning.outputs import Keys
    from pp_graph.postprocessors import PostProcessor
    from pp_graph.program import CompiledSteps
    from pp_graph.statistics import Level

_STEP = "validation_step"


class Validation:
    """Reads batches as they come, leaves repeated images out, and estimates at the end.

    Args:
        trainer: The trainer that validates.
        post: Says which values are calibrated; see `PostProcessor.calibrated_names`.
        keys: Where scores, maps, labels and masks are.
        settings: Keyword arguments of `Calibrator`.
        one_pass: See `Collector`.
    """

    def __init__(
        self, trainer: Any, post: PostProcessor, keys: Keys, settings: CalibratorSettings, *, one_pass: bool
    ) -> None:
        self._post = post
        self._keys = keys
        self._names: dict[Signature, dict[Level, str]] = {}
        self._compiled: dict[Signature, CompiledSteps] = {}
        self._collector = Collector(settings, one_pass=one_pass, processes=trainer.world_size)
        self._duplicates = Duplicates(trainer)
        self._record = {
            "runtime": f"PyTorch {torch.__version__}",
            "device": str(trainer.strategy.root_device.type).upper(),
            "precision": str(trainer.precision),
        }

    def add(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int | None) -> None:
        """Take in what a step returned.

        Raises:
            DataError: It lacks what is needed, or it does not fit together.
            OutputFileError: There is no room for the maps.
        """
        raw = self._keys.raw(outputs, self._post.roles, _STEP)
        labels, masks = self._keys.truth(outputs, batch, _STEP)
        first = next(iter(raw.values()))
        images = len(first) if np.ndim(first) else 0
        repeated = self._duplicates.in_batch(images, batch_idx, dataloader_idx)
        scores, maps = self._to_calibrate(raw)
        if repeated:
            kept = slice(images - repeated)
            scores, maps, labels, masks = (
                None if each is None else each[kept] for each in (scores, maps, labels, masks)
            )
        self._collector.add(scores=scores, maps=maps, labels=labels, masks=masks)

    def _to_calibrate(self, raw: Mapping[str, Any]) -> tuple[Any, Any]:
        """Scores and maps whose threshold and range the statistics are; raw ones are checked by the collector."""
        roles = self._post.roles
        found = {role.name: raw[given_as(role)] for role in roles if given_as(role) in raw}
        signature = Signature.of_values({name: np.asarray(value) for name, value in found.items()}, roles)
        if signature not in self._names:
            self._names[signature] = self._post.calibrated_names(signature)
        names = self._names[signature]
        if not set(names.values()) <= set(found):
            values = checked_values(raw, roles)
            if signature not in self._compiled:
                self._compiled[signature] = self._post.bind_calibration(signature)
            found = self._compiled[signature].compute(values, names.values())
        image, pixel = names.get("image"), names.get("pixel")
        return None if image is None else found[image], None if pixel is None else found[pixel]

    def result(self, *, resamples: int) -> CalibrationResult:
        """What was found, the same on every process; see `Collector.result`."""
        return self._collector.result(resamples=resamples).with_record(**self._record)

    def close(self) -> None:
        """Give the disk space back."""
        self._collector.close()
