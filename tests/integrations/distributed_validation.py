"""Run by a test in two processes: validate, and write the statistics of each process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np

from pp_graph.integrations.lightning import PostProcessorCallback
from tests.integrations.lightning_models import replayed, replaying_module, trainer


def main(folder: Path) -> None:
    with np.load(folder / "data.npz") as data:
        arrays = dict(data)
    for pixel in ("f1", "pro"):
        # sigma depends on the mean of the normal scores, which changes if one of them counts twice.
        callback = PostProcessorCallback(image="sigma", pixel=pixel)
        module = replaying_module(pl, lambda batch: {name: batch[name] for name in ("pred_score", "anomaly_map")})
        running = trainer(pl, callback, devices=2, strategy="ddp", max_epochs=1, limit_train_batches=1)
        if pixel == "pro":
            running.validate(module, replayed(2, **arrays), verbose=False)
            found = callback.statistics
        else:
            running.fit(module, replayed(2, **arrays), replayed(2, **arrays))
            found = callback.statistics
            # A validation after the fit must not use the loaders of the fit.
            few = {name: array[:3] for name, array in arrays.items()}
            running.validate(module, replayed(2, **few), verbose=False)
            assert callback.result.record.images == 3
        (folder / f"{pixel}{os.environ.get('LOCAL_RANK', '0')}.json").write_text(found.to_json())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
