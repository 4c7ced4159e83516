"""Time of retuning a file as the model grows: in place, to a different file, and by loading and saving the model.

    python benchmarks/retuning.py [--megabytes 10,1000] [--external 4000] [--runs 9] [--case FOLDER] [--json FILE]

For each size, the benchmark retunes an ONNX file with embedded weights (below the 2 GB that protobuf takes) and an IR,
and one ONNX file with external weights; with `--case` also the raw.onnx and stats.json of a folder. Times are medians
of runs in one process, after imports; each run sets a different sensitivity, so that something changes. "to_another"
retunes into a different file, "copy_alone" copies the bytes only, and "anew" opens, retunes and saves the model, the
general path. All files are made in a temporary folder (in `--folder`, to choose the disk) and removed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from large_models import make_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LEVEL = {"threshold": 1.3, "min": 0.4, "max": 3.1}


def models(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path]]:
    """Lay out one fused or converted model after the other, and remove each when the next is requested."""
    import pp_graph as pp

    level = pp.LevelStatistics(**_LEVEL)
    post = pp.OneClassPostProcessor(pp.Statistics(image=level, pixel=level))
    if arguments.case is not None:
        own = pp.OneClassPostProcessor(pp.Statistics.load(arguments.case / "stats.json"))
        fused = pp.fuse(arguments.case / "raw.onnx", own).save(folder / "case.onnx")
        yield f"{arguments.case.name}, ONNX", fused
        yield f"{arguments.case.name}, IR", pp.convert(fused).save(folder / "case.xml")
        fused.unlink()
    for megabytes in arguments.megabytes:
        raw = make_chain(folder, megabytes, external=False, distinct=True)
        fused = pp.fuse(raw, post).save(folder / "fused.onnx")
        raw.unlink()
        yield f"{megabytes} MB embedded, ONNX", fused
        pp.convert(fused).save(folder / "model.xml")
        fused.unlink()
        yield f"{megabytes} MB, IR", folder / "model.xml"
        (folder / "model.bin").unlink()
    for megabytes in arguments.external:
        raw = make_chain(folder, megabytes, external=True, distinct=True)
        yield f"{megabytes} MB external, ONNX", pp.fuse(raw, post).save(folder / "fused.onnx")


def median_ms(run: Callable[[], Any], runs: int) -> float:
    """Median time of some runs, in milliseconds."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def measure(path: Path, runs: int) -> dict[str, float]:
    """Retune a file in every way."""
    import pp_graph as pp

    turns = itertools.cycle(np.linspace(0.31, 0.69, 20).tolist())
    other = path.with_stem("other")
    beside = [file for file in (path, path.with_suffix(".bin")) if file.exists()]

    def in_place() -> None:
        assert pp.retune(path, image_sensitivity=next(turns)).way == "constants"

    def to_another() -> None:
        assert pp.retune(path, image_sensitivity=next(turns), output=other, overwrite=True).way == "constants"

    def copy() -> None:
        for file in beside:
            shutil.copyfile(file, file.with_stem("other"))

    def anew() -> None:
        pp.retune(pp.open(path), image_sensitivity=next(turns)).save(other, overwrite=True)

    in_place()  # imports
    found = {"in_place_ms": median_ms(in_place, runs)}
    # Gigabytes are written here: fewer runs, and no file is written over another.
    for name, run, times in (("to_another_ms", to_another, 3), ("copy_alone_ms", copy, 3), ("anew_ms", anew, 1)):
        found[name] = median_ms(run, times)
        for file in beside:
            file.with_stem("other").unlink()
    return found


def main() -> None:
    """Measure and print."""

    def sizes(text: str) -> list[int]:
        return [int(part) for part in text.split(",") if part]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=sizes, default=[10, 1000])
    parser.add_argument("--external", type=sizes, default=[4000])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--case", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    columns = ("in_place_ms", "to_another_ms", "copy_alone_ms", "anew_ms")
    rows = []
    print(f"{'model':28} {'MB on disk':>10} " + " ".join(f"{name:>14}" for name in columns))
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        for name, path in models(arguments, folder):
            parts = [path, path.with_suffix(".bin"), *([folder / "weights.bin"] if "external" in name else [])]
            size = sum(file.stat().st_size for file in parts if file.exists()) / 1e6
            row = {"model": name, "megabytes_on_disk": round(size, 1), **measure(path, arguments.runs)}
            print(f"{name:28} {size:10.1f} " + " ".join(f"{row[column]:14.1f}" for column in columns), flush=True)
            rows.append(row)
    finally:
        shutil.rmtree(folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
