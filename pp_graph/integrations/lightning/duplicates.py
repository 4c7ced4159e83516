"""Images that a distributed sampler gave twice, so that every process has as many."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch.utils.data.distributed import DistributedSampler


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
        """How many images at the end of a batch are repeated.

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
