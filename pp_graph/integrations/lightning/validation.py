"""Collect the outputs of a validation, on one device or several."""

from __future__ import annotations

import pickle
import zlib
from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from torch.utils.data.distributed import DistributedSampler

from pp_graph.calibration import Calibrator
from pp_graph.calibration.spilled_maps import SpilledMaps
from pp_graph.data.labels import without_channel
from pp_graph.errors import DataError
from pp_graph.postprocessors.input_checks import checked_values, given_as
from pp_graph.program import Signature

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pp_graph.calibration import CalibrationResult
    from pp_graph.calibration.calibration import CalibratorSettings
    from pp_graph.integrations.lightning.outputs import Keys
    from pp_graph.postprocessors import PostProcessor
    from pp_graph.program import CompiledSteps
    from pp_graph.statistics import Level


class Duplicates:
    """Counts the images of a batch that only fill it up.

    Lightning gives validation loaders a `DistributedSampler`. If the number of images is not a multiple of the number
    of processes, it repeats the first images as the last ones of a process.
    """

    def __init__(self, trainer: Any) -> None:
        # Inside validate(), `trainer.val_dataloaders` may still be the loaders of the last fit.
        fitting = trainer.state.fn == "fit"
        loop = trainer.fit_loop.epoch_loop.val_loop if fitting else trainer.validate_loop
        combined = getattr(loop, "_combined_loader", None)
        self._loaders = list(getattr(combined, "flattened", ()))
        self._seen: defaultdict[int, int] = defaultdict(int)

    def in_batch(self, images: int, batch_idx: int, dataloader_idx: int | None) -> int:
        """Return the number of repeated images at the end of a batch.

        Args:
            images: Number of images in the batch.
            batch_idx: Index of the batch.
            dataloader_idx: Index of its loader; None if Lightning passed none.
        """
        if dataloader_idx is None and len(self._loaders) != 1:
            # Lightning reads several loaders in parallel, so the loader of these images is unknown.
            return 0
        index = dataloader_idx or 0
        self._seen[index] += images
        loader = self._loaders[index] if index < len(self._loaders) else None
        sampler = getattr(loader, "sampler", None)
        if not isinstance(sampler, DistributedSampler):
            return 0
        # If a step returned more or fewer images than it received, the repeated ones are unknown.
        if batch_idx != len(loader) - 1 or self._seen[index] != len(sampler):  # type: ignore[arg-type]
            return 0
        distinct = range(sampler.rank, len(sampler.dataset), sampler.num_replicas)  # type: ignore[arg-type]
        return max(0, len(sampler) - len(distinct))


Masks = list[npt.NDArray[np.bool_] | None] | None


class Collector:
    """Collects the batches of one validation and merges the counts of all processes.

    Args:
        settings: Keyword arguments of `Calibrator`.
        one_pass: Count maps once, with bounded error, instead of keeping them in a temporary file for a second pass.
        processes: Number of processes that validate together.

    Raises:
        CalibrationError: An estimator or the placement is unknown.
        ExtraError: An estimator needs a library that is not installed.
        DataError: There are several processes, and torch.distributed is not initialised.
    """

    def __init__(self, settings: CalibratorSettings, *, one_pass: bool = False, processes: int = 1) -> None:
        self._calibrator = Calibrator(**settings)
        self._one_pass = one_pass
        self._distributed = processes > 1
        connected = torch.distributed.is_available() and torch.distributed.is_initialized()
        if self._distributed and not connected:
            raise DataError(
                f"{processes} processes validate together, expected torch.distributed to connect them. Use a strategy "
                "that starts it, such as 'ddp', or validate on one device."
            )
        self._stack = ExitStack()
        self._maps: SpilledMaps | None = None
        self._masks: SpilledMaps | None = None
        self._labels_and_presence: list[tuple[Any, list[bool] | None]] = []

    def add(self, *, scores: Any, maps: Any, labels: Any, masks: Masks) -> None:
        """Add a batch; see `Calibrator.update`.

        Raises:
            DataError: A shape or value is invalid.
            OutputFileError: The disk is full.
        """
        self._calibrator.update(scores=scores, maps=maps, labels=labels, masks=masks)
        if maps is not None and not self._one_pass:
            self._keep(without_channel(np.asarray(maps), "Maps"), labels, masks)

    def _keep(self, maps: npt.NDArray[Any], labels: Any, masks: Masks) -> None:
        if self._maps is None or self._masks is None:
            self._maps = self._stack.enter_context(SpilledMaps())
            self._masks = self._stack.enter_context(SpilledMaps(np.bool_))
        with np.errstate(over="ignore"):
            self._maps.write(maps.astype(np.float32, copy=False))
        present = None
        if masks is not None:
            present = [mask is not None for mask in masks]
            empty = np.zeros(maps.shape[1:], np.bool_)
            self._masks.write(np.stack([empty if mask is None else mask.reshape(empty.shape) for mask in masks]))
        self._labels_and_presence.append((None if labels is None else np.array(labels), present))

    def _kept(self) -> Iterator[tuple[npt.NDArray[Any], Any, Masks]]:
        if self._maps is None or self._masks is None:
            return
        masks = self._masks.read()
        for maps, (labels, present) in zip(self._maps.read(), self._labels_and_presence, strict=True):
            if present is None:
                yield maps, labels, None
            else:
                yield maps, labels, [mask if known else None for mask, known in zip(next(masks), present, strict=True)]

    def result(self, *, resamples: int) -> CalibrationResult:
        """Return the calibration of all batches. Every process must call this and gets the same result.

        Args:
            resamples: Bootstrap resamples for the confidence intervals of the image level; 0 for none.

        Raises:
            CalibrationError: There were no images, or their scores do not allow an estimate.
        """
        calibrator = self._merged(self._calibrator)
        while not self._one_pass and (refined := calibrator.refine()) is not None:
            for maps, labels, masks in self._kept():
                refined.update(maps=maps, labels=labels, masks=masks)
            calibrator = self._merged(refined)
        return calibrator.result(resamples=resamples)

    def _merged(self, calibrator: Calibrator) -> Calibrator:
        """Merge the calibrators of all processes in the order of their ranks."""
        if not self._distributed:
            return calibrator
        # The counts are mostly zeros, so megabytes become kilobytes.
        packed = zlib.compress(pickle.dumps(calibrator), zlib.Z_BEST_SPEED)
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, packed)
        states: Sequence[Calibrator] = [pickle.loads(zlib.decompress(state)) for state in gathered]  # noqa: S301 - written above
        for other in states[1:]:
            states[0].merge(other)
        return states[0]

    def close(self) -> None:
        """Delete the temporary files."""
        self._stack.close()


_STEP = "validation_step"


class Validation:
    """Calibrates from the batches of one validation, without repeated images.

    Args:
        trainer: The trainer that validates.
        post: Chooses the values to calibrate; see `PostProcessor.calibrated_names`.
        keys: Names of scores, maps, labels and masks.
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
        """Collect the outputs of a step.

        Raises:
            DataError: A value is missing, or shapes do not match.
            OutputFileError: The disk is full.
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
                None if values is None else values[kept] for values in (scores, maps, labels, masks)
            )
        self._collector.add(scores=scores, maps=maps, labels=labels, masks=masks)

    def _to_calibrate(self, raw: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the scores and maps that are calibrated. The collector checks them if they are raw."""
        roles = self._post.roles
        values = {role.name: raw[given_as(role)] for role in roles if given_as(role) in raw}
        signature = Signature.of_values({name: np.asarray(value) for name, value in values.items()}, roles)
        if signature not in self._names:
            self._names[signature] = self._post.calibrated_names(signature)
        names = self._names[signature]
        if not set(names.values()) <= set(values):
            if signature not in self._compiled:
                self._compiled[signature] = self._post.bind_calibration(signature)
            values = self._compiled[signature].compute(checked_values(raw, roles), names.values())
        image, pixel = names.get("image"), names.get("pixel")
        return None if image is None else values[image], None if pixel is None else values[pixel]

    def result(self, *, resamples: int) -> CalibrationResult:
        """Return the calibration, the same on every process; see `Collector.result`."""
        return self._collector.result(resamples=resamples).with_record(**self._record)

    def close(self) -> None:
        """Delete the temporary files."""
        self._collector.close()
