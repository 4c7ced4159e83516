"""Predict: prints one JSON object for each picture."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from packaged_model import MANIFEST, Model, PackageError, as_json, read_picture, to_input


def named(texts: list[str], option: str) -> dict[str, str]:
    """Split NAME=VALUE."""
    for text in texts:
        if not all(text.partition("=")):
            raise PackageError(f"'{text}' is not {option} NAME=VALUE.")
    return {text.partition("=")[0]: text.partition("=")[2] for text in texts}


def numbers(text: str) -> list[float]:
    """Parse comma-separated numbers."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise PackageError(f"'{text}' is not a number, or several with commas between them.") from error


def main() -> int:
    """Parse the command line, predict, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    known = ", ".join(MANIFEST["cutoffs"]) or "this model has none"
    parser.add_argument("pictures", nargs="+", help="of the model's size: .npy, .ppm or .pgm; others with Pillow")
    parser.add_argument("--device", help=f"OpenVINO device (default: {MANIFEST['device']})")
    parser.add_argument("--cutoff", action="append", default=[], metavar="NAME=VALUE[,VALUE...]",
                        help=f"smallest raw value for which a decision is true: {known}")  # fmt: skip
    parser.add_argument("--input", action="append", default=[], metavar="NAME=FILE.npy", help="array of another input")
    parser.add_argument("--save", type=Path, metavar="DIR", help="also write each output as PICTURE.OUTPUT.npy")
    given = parser.parse_args()
    try:
        cutoffs = {name: numbers(text) for name, text in named(given.cutoff, "--cutoff").items()}
        model = Model(given.device, cutoffs)
        others = {name: read_picture(file) for name, file in named(given.input, "--input").items()}
        stems = [Path(path).stem for path in given.pictures]
        if given.save is not None and len(set(stems)) < len(stems):
            raise PackageError("Two pictures have the same name, expected others for --save. Predict one at a time.")
        main_input = next(spec for spec in MANIFEST["inputs"] if spec["image"])
        for path in given.pictures:
            results = model({main_input["name"]: to_input(read_picture(path), main_input), **others})
            if given.save is not None:
                given.save.mkdir(parents=True, exist_ok=True)
                for name, array in results.items():
                    np.save(given.save / f"{Path(path).stem}.{name.replace('/', '_')}.npy", array)
            print(json.dumps({"picture": path, **as_json(results)}))
    except (PackageError, OSError, RuntimeError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
