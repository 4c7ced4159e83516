"""`Collector`: what one validation saw, on this process and on all of them."""

from __future__ import annotations

import pickle
import zlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch.distributed

from pp_graph.calibration import Calibrator
from pp_graph.calibration.spill import SpilledMaps
from pp_graph.data.labels import without_channel
from pp_graph.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pp_graph.calibration import CalibrationResult
    from pp_graph.calibration.calibration import CalibratorSettings

Masks = list[npt.NDArray[np.bool_] | None] | None

_FASTEST: Final = 1


class Collector:
    """Takes in the batches of one validation, and gives what is found in all of them on all processes.

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
            OutputFileError: There is no room for the maps.
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
