"""Boxes of regions: of the defects of an anomaly model, and of a map as text detectors return it.

Run it with `python examples/regions.py [FOLDER]`. It uses the model and the photographs in the package. The pictures
are in FOLDER/predictions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pp_graph as pp
from pp_graph.report import write_predictions

DATA = Path(pp.__file__).parent / "demo" / "data"


def main(folder: Path) -> dict[str, Any]:
    """Return the defects of each photograph, and what the other verbs found."""
    raw, images = DATA / "raw.onnx", DATA / "images"
    model = folder / "model.xml"
    post = pp.OneClassPostProcessor(pp.Statistics.load(DATA / "stats.json"), regions=3)
    pp.convert(raw, post=post).save(model, overwrite=True)
    report = pp.verify(raw, model, images)
    print(report.verdict)
    written = write_predictions(pp.load(model), images, folder / "predictions", overwrite=True)
    defects = {row.image: row.further["region_count"] for row in written.predictions}
    for row in written.predictions:
        for box, area, score in zip(
            *(row.further[f"region_{name}"] for name in ("boxes", "areas", "scores")), strict=True
        ):
            if area:
                print(f"{row.image}: {area} pixels at {box}, {score:.2f}")

    # The same map, read as a text detector's would be.
    boxes = folder / "boxes.xml"
    text = pp.RegionsPostProcessor(pixel_threshold=12.6, box_threshold=14, unclip=1.5, min_area=20, regions=10)
    pp.convert(raw, post=text).save(boxes, overwrite=True)
    retuned = pp.retune(boxes, box_threshold=15.0)
    return {
        "verified": report.passed and pp.verify(raw, boxes, images).passed,
        "retuned": True,
        "way": retuned.way,
        "defects": defects,
    }


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "regions_example")
    target.mkdir(parents=True, exist_ok=True)
    print(main(target))
