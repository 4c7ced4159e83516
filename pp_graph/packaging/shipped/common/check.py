"""Check this package on the machine that will run it: golden images must give the expected results.

Exit status: 0 all decisions are equal and all numbers near, 1 something differs, 2 the check could not run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from packaged_model import FOLDER, MANIFEST, Array, Model, PackageError

# Rounding differs between processors, and a device that computes in f16 or bf16 rounds more.
NEAR = {"f32": 1e-3}
NEAR_OTHERS = 2e-2


def compare(expected: Array, found: Array, spec: Mapping[str, Any], near: float, share: float) -> str | None:
    """Compare an output with its expectation.

    Args:
        expected: The golden array.
        found: What this machine computes.
        spec: The output, from the manifest.
        near: Largest allowed difference of a number, relative to the largest expected one (at least 1).
        share: Largest allowed share of decisions about pixels that differ.

    Returns:
        What differs; None if nothing does.
    """
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return f"is {found.dtype} {found.shape}, expected {expected.dtype} {expected.shape}"
    if spec["channels"]:  # several outputs along the last axis
        parts = [
            (each["name"], compare(expected[..., at], found[..., at], {**each, "channels": []}, near, share))
            for at, each in enumerate(spec["channels"])
        ]
        return "; ".join(f"{name} {text}" for name, text in parts if text) or None
    if spec["exact"]:
        differing = int(np.count_nonzero(expected != found))
        allowed = share * expected.size if "H" in (spec["axes"] or "") else 0
        if differing <= allowed:
            return None
        if expected.size == 1:
            return f"is {found.ravel()[0]}, expected {expected.ravel()[0]}"
        return f"differs in {differing:,} of {expected.size:,} decisions"
    finite = expected[np.isfinite(expected)].astype(np.float64)
    scale = max(1.0, float(np.abs(finite).max())) if finite.size else 1.0
    with np.errstate(invalid="ignore"):
        off = ~np.isclose(found.astype(np.float64), expected.astype(np.float64), 0, near * scale, equal_nan=True)
    if not off.any():
        return None
    with np.errstate(invalid="ignore"):
        largest = np.nanmax(np.abs(found.astype(np.float64) - expected.astype(np.float64)))
    return f"differs in {int(off.sum()):,} of {off.size:,} numbers by up to {largest:.3g} (allowed {near * scale:.3g})"


def golden(index: int, side: str) -> list[Array]:
    """Return the arrays of a golden image in the order of the manifest; `side` is `input` or `output`."""
    folder = FOLDER / "golden" / str(index)
    return [np.load(folder / f"{side}_{place}.npy") for place in range(len(MANIFEST[f"{side}s"]))]


def check(device: str | None, near: float | None, share: float) -> tuple[dict[str, list[str]], str]:
    """Run the golden images.

    Returns:
        What differs, by image, and the precision that the model ran in.
    """
    model = Model(device)
    differences: dict[str, list[str]] = {}
    for index, name in enumerate(MANIFEST["golden"]["images"]):
        inputs = {spec["name"]: array for spec, array in zip(MANIFEST["inputs"], golden(index, "input"), strict=True)}
        found = model(inputs)
        near = NEAR.get(model.precision(), NEAR_OTHERS) if near is None else near
        texts = [
            (spec["name"], compare(expected, found[spec["name"]], spec, near, share))
            for spec, expected in zip(MANIFEST["outputs"], golden(index, "output"), strict=True)
        ]
        differences[name] = [f"{output} {text}" for output, text in texts if text]
    return differences, model.precision()


def main() -> int:
    """Parse the command line, check, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help=f"OpenVINO device (default: {MANIFEST['device']})")
    parser.add_argument("--near", type=float, help="allowed difference of numbers (default: 0.001, 0.02 below f32)")
    parser.add_argument("--pixels", type=float, default=0.0, help="allowed share of differing pixels (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    try:
        differences, precision = check(given.device, given.near, given.pixels)
    except (PackageError, OSError, RuntimeError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    equal = not any(differences.values())
    device = given.device or MANIFEST["device"]
    if given.json:
        print(json.dumps({"equal": equal, "device": device, "precision": precision, "differences": differences}))
        return 0 if equal else 1
    for name, texts in differences.items():
        print(f"{name}: {'; '.join(texts) or 'as expected'}")
    expected = MANIFEST["golden"]
    print(
        f"{device} in {precision}: "
        + ("all decisions are equal" if equal else "not as expected")
        + f" (expected: {expected['device']} in {expected['precision']}, {expected['runtime']})"
    )
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
