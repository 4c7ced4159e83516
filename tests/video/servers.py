"""Videos to read, and servers on the loopback that stream them: HTTP (multipart MJPEG) and RTSP (H.264)."""

from __future__ import annotations

import contextlib
import io
import re
import socketserver
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from PIL import Image

from tests.conftest import DEMO


def demo_frames(repeats: int = 1) -> list[np.ndarray]:
    """The demo's pictures, six normal ones first, each several times; uint8 (256,256,3)."""
    files = sorted((DEMO / "images").rglob("*.png"), key=lambda file: (file.parent.name != "good", file))
    return [np.asarray(Image.open(file).convert("RGB")) for file in files for _ in range(repeats)]


def write_video(
    file: Path | io.BytesIO,
    frames: Sequence[np.ndarray],
    *,
    rate: int = 10,
    codec: str = "libx264",
    form: str | None = None,
    faststart: bool = False,
) -> None:
    options = {"movflags": "+faststart"} if faststart else {}
    with av.open(str(file) if isinstance(file, Path) else file, "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "10", "g": "5"} if codec == "libx264" else {}
        stream.time_base = Fraction(1, rate)
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


_Part = TypeVar("_Part")


class Stream:
    """A server that can be cut off and come back.

    Attributes:
        url: Its address.
        connections: Number of connections so far that got frames.
        silent: True keeps connections open and sends nothing.
    """

    url: str
    connections = 0

    def __init__(self) -> None:
        self.reachable = True
        self.silent = False
        self._cuts = 0

    def cut(self, seconds: float) -> None:
        """Close all connections, and serve nobody for a while."""
        self.reachable = False
        self._cuts += 1
        timer = threading.Timer(seconds, self._come_back)
        timer.daemon = True
        timer.start()

    def _come_back(self) -> None:
        self.reachable = True

    def paced(self, parts: Sequence[_Part], rate: float) -> Iterator[_Part]:
        """Yield parts at a rate a second, until the stream is cut or all are out."""
        self.connections += 1
        cuts, start = self._cuts, time.monotonic()
        for index, part in enumerate(parts):
            time.sleep(max(0.0, start + index / rate - time.monotonic()))
            while self.silent and self._cuts == cuts:
                time.sleep(0.05)
            if self._cuts != cuts:
                return
            yield part


@contextlib.contextmanager
def mjpeg_stream(frames: Sequence[np.ndarray], rate: float, *, user: str | None = None) -> Iterator[Stream]:
    """Serve frames again and again over HTTP, as network cameras do."""
    stream = Stream()
    parts = []
    for frame in frames:
        data = io.BytesIO()
        Image.fromarray(frame).save(data, "JPEG", quality=95)
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data.getvalue())}\r\n\r\n"
        parts.append(head.encode() + data.getvalue() + b"\r\n")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not stream.reachable:
                self.send_error(503)
                return
            if user is not None and "Authorization" not in self.headers:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with contextlib.suppress(OSError):
                for part in stream.paced(parts * 1000, rate):
                    self.wfile.write(part)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stream.url = f"http://{'' if user is None else user + '@'}127.0.0.1:{server.server_port}/video"
    with serving(server):
        yield stream


_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    "a=fmtp:96 packetization-mode=1\r\na=framerate:{rate}\r\na=control:track\r\n"
)
_LARGEST = 1400


def h264_payloads(frames: Sequence[np.ndarray], rate: int) -> list[list[bytes]]:
    """The payloads of RTP packets for each frame: H.264 units, large ones in fragments (RFC 6184 section 5.8)."""
    file = io.BytesIO()
    write_video(file, frames, rate=rate, form="h264")
    file.seek(0)
    payloads = []
    with av.open(file, format="h264") as container:
        for packet in container.demux(video=0):
            units = [unit for unit in re.split(b"\\x00\\x00\\x00?\\x01", bytes(packet)) if unit]
            payloads.append([payload for unit in units for payload in _fragments(unit)])
    return [each for each in payloads if each]


def _fragments(unit: bytes) -> list[bytes]:
    if len(unit) <= _LARGEST:
        return [unit]
    parts = [unit[start : start + _LARGEST] for start in range(1, len(unit), _LARGEST)]
    flags = [0x80 if place == 0 else 0x40 if place == len(parts) - 1 else 0 for place in range(len(parts))]
    return [bytes([unit[0] & 0xE0 | 28, flag | unit[0] & 0x1F]) + part for flag, part in zip(flags, parts, strict=True)]


@contextlib.contextmanager
def rtsp_stream(frames: Sequence[np.ndarray], rate: int) -> Iterator[Stream]:
    """Serve frames over RTSP as cameras do: H.264 in RTP, in the connection of the control channel (RFC 2326)."""
    stream = Stream()
    payloads = h264_payloads(frames, rate)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while stream.reachable and (line := self.rfile.readline().decode()):
                method = line.split(" ")[0]
                headers = dict(iter(self._header, None))
                body = _SDP.format(rate=rate) if method == "DESCRIBE" else ""
                answer = {
                    "OPTIONS": "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n",
                    "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n",
                    "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n",
                    "PLAY": "Session: 1\r\nRange: npt=0.000-\r\n",
                }.get(method, "")
                self.wfile.write(f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\n{answer}\r\n{body}".encode())
                if method == "PLAY":
                    with contextlib.suppress(OSError):
                        self._play()
                    return

        def _header(self) -> tuple[str, str] | None:
            name, _, value = self.rfile.readline().decode().partition(":")
            return (name.lower(), value.strip()) if value else None

        def _play(self) -> None:
            number = 0
            for index, parts in enumerate(stream.paced(payloads, rate)):
                for part in parts:
                    marker = 0x80 if part is parts[-1] else 0
                    header = struct.pack(
                        ">BBHII", 0x80, marker | 96, number & 0xFFFF, index * 90000 // rate & 0xFFFFFFFF, 1
                    )
                    self.wfile.write(struct.pack(">cBH", b"$", 0, len(header) + len(part)) + header + part)
                    number += 1

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stream.url = f"rtsp://127.0.0.1:{server.server_address[1]}/video"
    with serving(server):
        yield stream


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
