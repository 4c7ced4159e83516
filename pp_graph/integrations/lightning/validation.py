"""Collect the outputs of a validation, on one device or several."""

from __future__ import annotations

import pickle
import zlib
from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from torch.utils.data.distributed import DistributedSampler

from pp_graph.calibration import Calibrator
from pp_graph.calibration.calibration import SpilledMaps
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
    """Tells which images of a batch are there only to fill it up.

    `DistributedSampler`, which Lightning puts into validation loaders, starts again at the first image where the images
    do not divide by the processes. Those images come last on their process.

    Args:
        trainer: The trainer that validates.
    """

    def __init__(self, trainer: Any) -> None:
        # `trainer.val_dataloaders` is that of the last fit even while validate() runs with another.
        fitting = trainer.state.fn == "fit"
        loop = trainer.fit_loop.epoch_loop.val_loop if fitting else trainer.validate_loop
        combined = getattr(loop, "_combined_loader", None)
        self._loaders = list(getattr(combined, "flattened", ()))
        self._seen: defaultdict[int, int] = defaultdict(int)

    def in_batch(self, images: int, batch_idx: int, dataloader_idx: int | None) -> int:
        """Number of repeated images at the end of a batch.

        Args:
            images: Images of the batch.
            batch_idx: Its index.
            dataloader_idx: Index of its loader; None where Lightning gave none.
        """
        if dataloader_idx is None and len(self._loaders) != 1:
            # Several loaders that are read side by side: whose images these are is not known.
            return 0
        index = dataloader_idx or 0
        self._seen[index] += images
        loader = self._loaders[index] if index < len(self._loaders) else None
        sampler = getattr(loader, "sampler", None)
        if not isinstance(sampler, DistributedSampler):
            return 0
        # Where a step gives more or fewer images than it was given, which ones are repeated is not known.
        if batch_idx != len(loader) - 1 or self._seen[index] != len(sampler):  # type: ignore[arg-type]
            return 0
        own = range(sampler.rank, len(sampler.dataset), sampler.num_replicas)  # type: ignore[arg-type]
        return max(0, len(sampler) - len(own))


Masks = list[npt.NDArray[np.bool_] | None] | None

_FASTEST: Final = 1


class Collector:
    """Collects the batches of one validation and joins those of all processes.

    Args:
        settings: Keyword arguments of `Calibrator`.
        one_pass: Count maps once, with a bound, instead of keeping them in a temporary file for a second pass.
        processes: How many processes validate together.

    Raises:
        CalibrationError: An estimator or the placement is not known.
        ExtraError: An estimator needs a library that is not installed.
        DataError: There are several processes, and torch.distributed does not connect them.
    """

    def __init__(self, settings: CalibratorSettings, *, one_pass: bool = False, processes: int = 1) -> None:
        self._calibrator = Calibrator(**settings)
        self._one_pass = one_pass
        self._together = processes > 1
        connected = torch.distributed.is_available() and torch.distributed.is_initialized()
        if self._together and not connected:
            raise DataError(
                f"{processes} processes validate together, expected torch.distributed to connect them. Use a strategy "
                "that starts it, such as 'ddp', or validate on one device."
            )
        self._stack = ExitStack()
        self._maps: SpilledMaps | None = None
        self._masks: SpilledMaps | None = None
        self._truths: list[tuple[Any, list[bool] | None]] = []

    def add(self, *, scores: Any, maps: Any, labels: Any, masks: Masks) -> None:
        """Take in a batch; arguments as of `Calibrator.update`.

        Raises:
            DataError: They do not fit.
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
        known = None
        if masks is not None:
            known = [mask is not None for mask in masks]
            nothing = np.zeros(maps.shape[1:], np.bool_)
            self._masks.write(np.stack([nothing if mask is None else mask.reshape(nothing.shape) for mask in masks]))
        self._truths.append((None if labels is None else np.array(labels), known))

    def _kept(self) -> Iterator[tuple[npt.NDArray[Any], Any, Masks]]:
        if self._maps is None or self._masks is None:
            return
        masks = self._masks.read()
        for maps, (labels, known) in zip(self._maps.read(), self._truths, strict=True):
            if known is None:
                yield maps, labels, None
            else:
                flags = next(masks)
                yield maps, labels, [flags[index] if there else None for index, there in enumerate(known)]

    def result(self, *, resamples: int) -> CalibrationResult:
        """What all batches give, the same on every process; every process must call it.

        Args:
            resamples: Draws for the image level's confidence intervals; 0 for none.

        Raises:
            CalibrationError: There were no images, or their scores do not allow an estimate.
        """
        calibrator = self._merged(self._calibrator)
        while not self._one_pass and (further := calibrator.refine()) is not None:
            for maps, labels, masks in self._kept():
                further.update(maps=maps, labels=labels, masks=masks)
            calibrator = self._merged(further)
        return calibrator.result(resamples=resamples)

    def _merged(self, calibrator: Calibrator) -> Calibrator:
        """The states of all processes in one, added up in the order of their ranks."""
        if not self._together:
            return calibrator
        # Mostly zeros: megabytes become kilobytes.
        packed = zlib.compress(pickle.dumps(calibrator), _FASTEST)
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, packed)
        states: Sequence[Calibrator] = [pickle.loads(zlib.decompress(each)) for each in gathered]  # noqa: S301 - our own
        for other in states[1:]:
            states[0].merge(other)
        return states[0]

    def close(self) -> None:
        """Give the disk space back."""
        self._stack.close()


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
        """Collect the outputs of a step.

        Raises:
            DataError: It lacks what is needed, or it does not fit together.
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
