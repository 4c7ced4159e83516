"""Hostile pictures and arrays."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tests.sweeps.hostile_inputs import Hostile, damaged, zipped

if TYPE_CHECKING:
    from collections.abc import Iterator

_FORMATS: Final = {
    "png": {}, "jpg": {"format": "JPEG"}, "gif": {}, "bmp": {}, "tif": {"format": "TIFF"}, "webp": {}, "ppm": {},
    "tga": {}, "qoi": {}, "jp2": {"format": "JPEG2000"}, "dds": {},
}  # fmt: skip


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(width: int, height: int, *, colour: int = 2, depth: int = 8, rows: int | None = None) -> bytes:
    """Return a black PNG of any size in few bytes.

    Args:
        width: Width it declares.
        height: Height it declares.
        colour: 0 for gray, 2 for RGB.
        depth: Bits a channel.
        rows: Rows it holds; None for all.
    """
    packer = zlib.compressobj(9)
    row = bytes(1 + width * (3 if colour == 2 else 1) * depth // 8)
    held = height if rows is None else rows
    body = b"".join(packer.compress(row) for _ in range(held)) + packer.flush()
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def pictures(count: int, *, large: bool) -> Iterator[Hostile]:
    """Yield damaged pictures of each format, and pictures of unusual sizes, which take seconds to make."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for ending, options in _FORMATS.items():
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, **{"format": ending.upper(), **options})
        for name, changed in damaged(stream.getvalue(), count, 6):
            yield Hostile(f"{ending} {name}", f"picture.{ending}", changed)
    if not large:
        return
    for name, content in {
        "169 megapixels": png(13000, 13000),
        "100 megapixels of gray in 16 bits": png(10000, 10000, colour=0, depth=16),
        "300 megapixels": png(20000, 15000, rows=1),
        "2**31 - 1 wide": png(1, 1).replace(struct.pack(">I", 1), struct.pack(">I", 2**31 - 1), 1),
        "one row of 2**26": png(2**26, 1),
        "one column of 2**22": png(1, 2**22, colour=0),
        "169 megapixels of which one row is there": png(13000, 13000, rows=1),
        "no pixels": png(0, 0),
    }.items():
        yield Hostile(f"png {name}", "picture.png", content, known=True)
    stream = io.BytesIO()
    frames = [Image.fromarray(pixels)] * 3000
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    yield Hostile("gif 3,000 frames", "picture.gif", stream.getvalue(), known=True)
    for chunk in (b"zTXt", b"iCCP"):
        text = chunk[:3] + b"\0\0" + zlib.compress(bytes(1 << 28), 9)
        bomb = png(16, 16)
        yield Hostile(
            f"png {chunk.decode()} bomb", "picture.png", bomb[:33] + _chunk(chunk, text) + bomb[33:], known=True
        )


def npy(shape: Any, descr: str, content: bytes = b"", *, fortran: Any = False) -> bytes:
    """Return an array file with any header."""
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def arrays(folder: Path, count: int) -> Iterator[Hostile]:
    """Yield arrays with other headers, bombs, and damaged files."""
    whole = np.random.default_rng(0).random((4, 3, 16, 16), np.float32).tobytes()
    headers: dict[str, bytes] = {
        "no bytes each": npy("(10**9,)", "'|S0'"),
        "no characters": npy("(1000000000,)", "'<U0'"),
        "voids": npy("(1000000000, 3, 16, 16)", "'|V0'"),
        "objects": npy("(4,)", "'|O'", b"cposix\nsystem\n(Vtouch owned\ntR."),
        "negative": npy("(-1, 3, 16, 16)", "'<f4'", whole),
        "huge": npy("(9223372036854775807, 3, 16, 16)", "'<f4'", whole),
        "product of 2**64": npy("(4294967296, 4294967296)", "'|u1'", whole),
        "1,000 axes": npy("(" + "1," * 1000 + ")", "'<f4'", whole[:4]),
        "text as shape": npy("'abc'", "'<f4'", whole),
        "float as shape": npy("(4.0, 3, 16, 16)", "'<f4'", whole),
        "fortran as text": npy("(4, 3, 16, 16)", "'<f4'", whole, fortran="'yes'"),
        "complex": npy("(4, 3, 16, 16)", "'<c8'", whole * 2),
        "dates": npy("(4, 3, 16, 16)", "'<M8[ns]'", whole * 2),
        "long double": npy("(4, 3, 16, 16)", "'<f16'", whole * 4),
        "structure": npy("(4,)", "[('a', '<f4', (3, 16, 16))]", whole),
        "deep structure": npy("(4,)", "[('a', " * 40 + "'<f4'" + ")]" * 40, whole),
        "expression": npy("(__import__('os').system('touch owned'),)", "'<f4'", whole),
        "deep expression": npy("(" * 5000 + ")" * 5000, "'<f4'", whole),
        "long number": npy("(" + "9" * 9000 + ",)", "'<f4'", whole),
        "not a number": npy("(4, 3, 16, 16)", "'<f4'", np.full(3072, np.nan, "<f4").tobytes()),
        "no images": npy("(0, 3, 16, 16)", "'<f4'"),
        "no pixels": npy("(4, 3, 0, 0)", "'<f4'"),
        "scalar": npy("()", "'<f4'", whole[:4]),
        "text": npy("(4,)", "'<U4'", bytes(64)),
        "bool": npy("(4, 3, 16, 16)", "'|b1'", bytes(3072)),
        "int64 at the limit": npy("(4, 3, 16, 16)", "'<i8'", b"\x7f" * 3072 * 8),
    }
    for name, content in headers.items():
        yield Hostile(f"npy {name}", "array.npy", content, known=True)
        labels = npy("(4,)", "'<i8'", struct.pack("<4q", 0, 1, 0, 1))
        yield Hostile(f"npz {name}", "array.npz", zipped({"image.npy": content, "labels.npy": labels}), known=True)
    zeros = npy("(5592405, 3, 4, 4)", "'|u1'", bytes(5592405 * 48))
    yield Hostile("npz bomb", "array.npz", zipped({"image.npy": zeros}), known=True)
    zeros = npy("(1, 3, 8192, 8192)", "'|u1'", bytes(3 << 26))
    yield Hostile("npz bomb of one image", "array.npz", zipped({"image.npy": zeros}), known=True)
    many = zipped({f"a{place}.npy": npy("()", "'<f4'", bytes(4)) for place in range(5000)})
    yield Hostile("npz 5,000 arrays", "array.npz", many, known=True)
    scores = zipped(
        {"scores.npy": npy("(134217728,)", "'|i1'", bytes(1 << 27)), "labels.npy": npy("(1,)", "'|i1'", b"1")}
    )
    yield Hostile("scores bomb", "scores.npz", scores, known=True)
    for file, kind in (("images.npy", "array.npy"), ("images.npz", "array.npz"), ("scores.npz", "scores.npz")):
        for name, changed in damaged((folder / file).read_bytes(), count * 4, 7):
            yield Hostile(f"{file} {name}", kind, changed)
    for name, content in {
        "empty": b"", "long line": b"score,label\n" + b"1" * 900_000, "many columns": b"a," * 200_000,
        "zeros": bytes(500_000), "no label": b"score\n1\n", "not UTF-8": b"\xff\xfe\xfa",
        "long number": b"score,label\n" + b"9" * 5000 + b",1\n1,0\n",
    }.items():  # fmt: skip
        yield Hostile(f"csv {name}", "scores.csv", content, known=True)
