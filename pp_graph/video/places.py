"""Tell from a source whether it names a video, a camera or a stream."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from pp_graph.data.image_files import IMAGE_ENDINGS, match_files
from pp_graph.errors import VideoError
from pp_graph.urls import as_path

VIDEO_ENDINGS: Final = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".h264", ".h265", ".hevc", ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov",
     ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"}
)  # fmt: skip
"""Endings of files that are read as videos."""
FILE, CAMERA, STREAM = "file", "camera", "stream"
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_STREAMS: Final = frozenset(
    {"http", "https", "mms", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "tls", "udp", "unix"}
)
"""Schemes of streams. Images by other URLs, such as s3://, are read through fsspec."""
_READ_WHOLE: Final = IMAGE_ENDINGS | {".csv", ".npy", ".npz", ".parquet"}
"""Endings of images and tables, which also come over HTTP."""
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s]*@")
_DEVICE: Final = re.compile(r"/dev/video(\d+)")


class Place(NamedTuple):
    """Where frames come from.

    Attributes:
        kind: `file`, `camera` or `stream`.
        url: What FFmpeg opens: a path, a URL, or the name of a device.
        name: The same to show to people, without user name and password.
    """

    kind: str
    url: str
    name: str


def find_videos(given: object) -> tuple[Place, ...]:
    """Return the videos, cameras and streams that a source names, or none if it names something else.

    Args:
        given: The path of a video (see `VIDEO_ENDINGS`), a pattern such as `clips/*.mp4`, the number of a camera (if
            there is no file of that name), or a URL.

    Raises:
        VideoError: A pattern matches both videos and other files.
    """
    if isinstance(given, Place):
        return (given,)
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return (_camera(given),)
    if not isinstance(given, str | Path):
        return ()
    text, path = str(given), Path(given)
    scheme = _SCHEME.match(given) if isinstance(given, str) else None
    if scheme is not None and scheme[1].lower() == "file":
        path = as_path(text)
        text = str(path)
    elif scheme is not None:
        whole = Path(urlsplit(text).path).suffix.lower() in _READ_WHOLE
        streams = scheme[1].lower() in _STREAMS and not whole
        return (Place(STREAM, text, without_credentials(text)),) if streams else ()
    device = _DEVICE.fullmatch(text)
    if device is not None or (text.isdecimal() and len(text) < 4 and not path.exists()):
        return (_camera(int(text if device is None else device[1])),)
    files = match_files(text)
    videos = [file for file in files if file.suffix.lower() in VIDEO_ENDINGS]
    if files and videos and len(videos) < len(files):
        other = next(file for file in files if file not in videos)
        raise VideoError(
            f"Pattern '{text}' matches the video '{videos[0]}' and '{other}', which is none, expected only videos, or "
            "only images. Write the ending into the pattern, such as *.mp4."
        )
    if not files and path.suffix.lower() in VIDEO_ENDINGS and not path.is_dir():
        videos = [path]
    return tuple(Place(FILE, str(file), str(file)) for file in videos)


def _camera(number: int) -> Place:
    url = f"/dev/video{number}" if sys.platform.startswith("linux") else str(number)
    return Place(CAMERA, url, f"camera {number}")


def without_credentials(text: str) -> str:
    """Remove user name and password from the URLs in a text."""
    return _CREDENTIALS.sub("", text)


def not_a_video(path: Path) -> VideoError:
    """Return the error for a source that is no video."""
    kind = "an image" if path.suffix.lower() in IMAGE_ENDINGS else "a folder" if path.is_dir() else "no video"
    return VideoError(
        f"'{path}' is {kind}, expected a video (a file ending in {', '.join(sorted(VIDEO_ENDINGS))}), the number of a "
        "camera such as 0, or a URL such as rtsp://host/path. Check the name."
    )
