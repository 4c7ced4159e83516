"""Hostile files, made from what pp_graph itself reads and writes."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree

import msgspec
import numpy as np
import onnx
import yaml

import pp_graph as pp
from pp_graph.fusion.provenance import _digest
from pp_graph.statistics import ScoreHistogram
from tests.models import STATS, conv_model
from tests.sweeps import hostile_models

if TYPE_CHECKING:
    from collections.abc import Iterator

ASSETS: Final = Path(__file__).parents[1] / "assets" / "statistics"
_DEEP: Final = 100_000
RECIPE: Final = """schema_version: 1
steps:
  - {step: gaussian_blur, source: raw_map, target: smooth, sigma: 2}
  - step: min_max_normalize
    source: smooth
    target: anomaly_map
    threshold: $pixel.threshold
    minimum: $pixel.min
    maximum: $pixel.max
  - {step: compare, source: anomaly_map, target: above, level: 0.5}
  - {step: remove_small_regions, source: above, target: pred_mask, min_area: 20}
  - {step: top_k_mean, source: smooth, target: pred_score, fraction: 0.1}
  - {step: compare, source: pred_score, target: pred_label, level: $image.threshold}
"""
VALUES: Final[tuple[Any, ...]] = (
    None, True, -1, 0, 2**31, 2**63, -(2**70), 1e308, float("nan"), float("-inf"), "", "x" * 100_000, "../../etc",
    "\x00", "9" * 5000, [], {}, [[[[[]]]]], [1] * 100_000,
)  # fmt: skip
"""Values to put in place of any other."""


@dataclass(frozen=True)
class Hostile:
    """A file to give to the verbs.

    Attributes:
        name: What is wrong with it.
        kind: What it replaces.
        content: Its bytes.
        beside: Files beside it, by ending.
        known: True for a kind that once went wrong, which goes through every verb.
    """

    name: str
    kind: str
    content: bytes
    beside: dict[str, bytes] = field(default_factory=dict)
    known: bool = False


def make_assets(folder: Path) -> None:
    """Write what is not hostile: models, statistics, images and arrays."""
    from PIL import Image

    model = conv_model()
    for port in (*model.graph.input, *model.graph.output):
        for axis in port.type.tensor_type.shape.dim[2:]:
            axis.dim_value = 16
    onnx.save(model, folder / "raw.onnx")
    histogram = ScoreHistogram(ends=(0.25, 0.5, 1.0), normal=(20, 20, 0), anomalous=(0, 1, 20))
    statistics = msgspec.structs.replace(STATS, histogram=histogram)
    statistics.save(folder / "stats.json", overwrite=True)
    (folder / "scores.csv").write_text("score\n0.25\n0.5\n")
    post = pp.OneClassPostProcessor(statistics, map_size=(24, 24))
    fused = pp.fuse(folder / "raw.onnx", post)
    fused.save(folder / "fused.onnx", overwrite=True)
    pp.convert(fused).save(folder / "model.xml", overwrite=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 16, 16, 3), np.uint8)
    for place, image in enumerate(pixels):
        file = folder / "images" / ("good" if place % 2 else "bad") / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    np.savez(folder / "images.npz", image=pixels, labels=np.arange(8) % 2)
    np.save(folder / "images.npy", pixels)
    np.savez(folder / "scores.npz", scores=rng.random(40), labels=np.arange(40) % 2)


def damaged(content: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield a file with flipped bits, cut, with bytes left out or twice."""
    rng = random.Random(seed)
    for place in range(count):
        at = rng.randrange(len(content))
        match place % 5:
            case 0 | 1:
                changed = bytearray(content)
                for _ in range(1 + place % 3):
                    changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
                yield f"flipped #{place}", bytes(changed)
            case 2:
                yield f"cut at {at}", content[:at]
            case 3:
                yield f"without {at}", content[:at] + content[at + rng.randrange(1, 40) :]
            case _:
                changed = bytearray(content)
                changed[at : at + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, struct.pack("<q", -1), b"\x7f" * 8])
                yield f"overwritten at {at}", bytes(changed)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in entries:
        yield from _places(each, (*path, key))


def mutated(record: Any, each: int) -> Iterator[tuple[str, Any]]:
    """Yield a record with one value replaced, left out or added; every place with `each` of the hostile values."""
    turn = 0
    for path in _places(record):
        for _ in range(each):
            yield (
                f"{'.'.join(map(str, path))} = {str(VALUES[turn % len(VALUES)])[:20]!r}",
                _with(record, path, VALUES[turn % len(VALUES)]),
            )
            turn += 1
        if isinstance(path[-1], str):
            yield f"without {'.'.join(map(str, path))}", _with(record, path, ...)
            yield f"unknown key beside {'.'.join(map(str, path))}", _with(record, (*path[:-1], "unknown"), 1)


def _with(record: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = json.loads(json.dumps(record))
    target = changed
    for key in path[:-1]:
        target = target[key]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return changed


def _absent(struct_type: Any, record: dict[str, Any]) -> dict[str, Any]:
    """Add the fields that the JSON schema allows and the record lacks."""
    schema = msgspec.json.schema(struct_type)
    name = schema["$ref"].rpartition("/")[2]
    properties = schema["$defs"][name]["properties"]
    return {**dict.fromkeys(properties), **record}


def provenances(folder: Path, each: int) -> Iterator[Hostile]:
    """Yield fused models and IRs with another record of provenance."""
    model = onnx.load(folder / "fused.onnx")
    (entry,) = (entry for entry in model.metadata_props if entry.key == "pp_graph")
    record = json.loads(entry.value)
    record.pop("digest")
    from pp_graph.fusion import Provenance

    variants = [*mutated(_absent(Provenance, record), each), ("deep", "[" * _DEEP), ("deep objects", '{"a":' * _DEEP)]
    for place, (name, changed) in enumerate(variants):
        text = changed
        if not isinstance(changed, str):
            changed.pop("edited", None)
            try:
                text = json.dumps({**changed, "digest": _digest(changed)} if place % 2 else changed)
            except (msgspec.MsgspecError, TypeError, ValueError, OverflowError):
                text = json.dumps(changed)
        entry.value = text
        yield Hostile(f"provenance {name}", "fused", model.SerializeToString(), known=name.startswith("deep"))
        xml = ElementTree.parse(folder / "model.xml")
        for element in xml.iter("provenance"):
            element.set("value", text.replace("\0", ""))
        beside = {".bin": (folder / "model.bin").read_bytes()}
        yield Hostile(f"IR provenance {name}", "ir", ElementTree.tostring(xml.getroot()), beside)


def irs(folder: Path, every: int) -> Iterator[Hostile]:
    """Yield IRs with other attributes, elements left out, DOCTYPEs and nesting."""
    text = (folder / "model.xml").read_bytes()
    beside = {".bin": (folder / "model.bin").read_bytes()}
    xml = ElementTree.fromstring(text)
    turn = 0
    for number, element in enumerate(list(xml.iter())):
        for key, value in list(element.attrib.items()):
            turn += 1
            if turn % every:
                continue
            new = str(VALUES[turn % len(VALUES)]).replace("\0", "")[:100_000]
            element.set(key, new)
            yield Hostile(f"IR {element.tag}[{number}].{key} = {new[:20]!r}", "ir", ElementTree.tostring(xml), beside)
            element.set(key, value)
        for child in list(element)[:: 2 * every]:
            place = list(element).index(child)
            element.remove(child)
            yield Hostile(f"IR without {child.tag} in {element.tag}", "ir", ElementTree.tostring(xml), beside)
            element.insert(place, child)
            element.append(child)
            yield Hostile(f"IR {child.tag} twice in {element.tag}", "ir", ElementTree.tostring(xml), beside)
            del element[len(element) - 1]
    doctype = (
        b'<!DOCTYPE net [<!ENTITY a "aaaaaaaaaa">'
        + b"".join(b'<!ENTITY %c "%b">' % (98 + level, b"&%c;" % (97 + level) * 10) for level in range(9))
        + b"]>"
    )
    body = text[text.find(b"<net") :]
    yield Hostile("IR DOCTYPE bomb", "ir", doctype + body.replace(b'name="', b'name="&j;', 1), beside, known=True)
    outside = b'<!DOCTYPE net [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    yield Hostile("IR DOCTYPE outside", "ir", outside + body.replace(b'name="', b'name="&a;', 1), beside, known=True)
    yield Hostile("IR deep", "ir", b"<net>" * _DEEP + b"</net>" * _DEEP, beside, known=True)
    yield Hostile("IR .bin cut", "ir", text, {".bin": beside[".bin"][:100]}, known=True)
    yield Hostile("IR .bin empty", "ir", text, {".bin": b""}, known=True)
    for name, changed in damaged(text, 200 // every, 2):
        yield Hostile(f"IR {name}", "ir", changed, beside)


def statistics(folder: Path, each: int) -> Iterator[Hostile]:
    """Yield statistics: JSON, YAML, checkpoints and exports."""
    record = json.loads((folder / "stats.json").read_text())
    for name, changed in mutated(record, each):
        yield Hostile(f"statistics {name}", "stats", json.dumps(changed).encode())
    yield Hostile("statistics deep", "stats", b"[" * _DEEP, known=True)
    yield Hostile("statistics deep objects", "stats", b'{"image":' * _DEEP, known=True)
    yield Hostile("statistics aliases", "stats", _alias_bomb(b"image"), known=True)
    yield Hostile("statistics long number", "stats", b'{"image": {"threshold": ' + b"9" * 500_000 + b"}}", known=True)
    zeros = zlib.compress(bytes(1 << 28), 9)
    yield Hostile("zlib bomb", "stats", zeros, known=True)
    for name, pickled in {
        "3 million opcodes": b"\x80\x02" + b"}" * 3_000_000 + b".",
        "deep lists": b"\x80\x02" + b"]" * _DEEP + b"a" * (_DEEP - 1) + b".",
        "memo": b"\x80\x02" + b"]r\xff\xff\xff\x7f" + b".",
        "long": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
        "system": b"cposix\nsystem\n(Vtouch owned\ntR.",
    }.items():
        yield Hostile(f"checkpoint {name}", "checkpoint", zipped({"archive/data.pkl": pickled}), known=True)
    bomb = {"archive/data.pkl": b"\x80\x02" + bytes(1 << 28)}
    yield Hostile("checkpoint zip bomb", "checkpoint", zipped(bomb), known=True)
    for file in ("anomalib_2_7.ckpt", "legacy.pt", "plain.onnx", "metadata_1_x.json", "model.pt"):
        for name, changed in damaged((ASSETS / file).read_bytes(), 12 * each, 3):
            yield Hostile(f"{file} {name}", "checkpoint" if "json" not in file else "stats", changed)


def zipped(files: dict[str, bytes]) -> bytes:
    """Return a zip file with these files, compressed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _alias_bomb(first: bytes) -> bytes:
    lines = [b"a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [b"a%d: &a%d [%b]" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 10)]
    return b"\n".join([*lines, first + b": *a9"])


def recipes(each: int) -> Iterator[Hostile]:
    """Yield recipes with other values, deep, with aliases and tags."""
    for name, changed in mutated(yaml.safe_load(RECIPE), each):
        yield Hostile(f"recipe {name}", "recipe", yaml.safe_dump(changed).encode())
    for name, content in {
        "aliases": _alias_bomb(b"steps"),
        "deep": b"steps: " + b"[" * _DEEP,
        "tag": b"!!python/object/apply:os.system ['touch owned']",
        "long number": RECIPE.replace("sigma: 2", "sigma: " + "9" * 500_000).encode(),
        "sigma": RECIPE.replace("sigma: 2", "sigma: 1e9").encode(),
        "area": RECIPE.replace("min_area: 20", "min_area: " + "9" * 30).encode(),
        "merge": b"steps: [{<<: {<<: {a: 1}}}]",
        "many steps": RECIPE.encode()
        + b"".join(b"  - {step: compare, source: smooth, target: c%d, level: 0.5}\n" % n for n in range(1000)),
    }.items():
        yield Hostile(f"recipe {name}", "recipe", content, known=True)
    for name, changed in damaged(RECIPE.encode(), 20 * each, 4):
        yield Hostile(f"recipe {name}", "recipe", changed)


def models(folder: Path, count: int) -> Iterator[Hostile]:
    """Yield damaged raw and fused models, and models with one hostile part."""
    for kind in ("raw", "fused"):
        for name, changed in damaged((folder / f"{kind}.onnx").read_bytes(), count, 5):
            yield Hostile(f"{kind} {name}", kind, changed)
    for name, model in hostile_models.models():
        yield Hostile(f"model {name}", "raw", model, known=True)
