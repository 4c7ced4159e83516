"""Images, tables and models in an object store, with a server of its own protocol on this machine."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import pp_graph as pp
from tests.cell_detector import cells, save_boxes, save_scenes
from tests.conftest import DEMO, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("moto", "flask", "s3fs")),
        reason="needs an S3 server and client: pip install 'moto[server]' s3fs",
    ),
]
BUCKET = "s3://plant-7"
TABLE = "\n".join(
    [
        "path,label",
        *(
            f"{file.relative_to(DEMO).as_posix()},{'normal' if file.parent.name == 'good' else 'anomalous'}"
            for file in sorted((DEMO / "images").rglob("*.png"))
        ),
    ]
)


@pytest.fixture(scope="module")
def environment(demo_ir_path: Path) -> Iterator[dict[str, str]]:
    """Variables with which commands reach a store that holds the demo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(150):
                try:
                    urllib.request.urlopen(f"{address}/moto-api/", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.2)
            import s3fs

            keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "eu-west-1"}
            system = s3fs.S3FileSystem(key="key", secret="secret", endpoint_url=address)
            system.mkdir("plant-7")
            for folder in ("images", "ground_truth"):
                for file in (DEMO / folder).rglob("*.png"):
                    system.pipe(f"plant-7/{file.relative_to(DEMO)}", file.read_bytes())
            system.pipe("plant-7/raw.onnx", (DEMO / "raw.onnx").read_bytes())
            for ending in (".xml", ".bin"):
                system.pipe(f"plant-7/model{ending}", demo_ir_path.with_suffix(ending).read_bytes())
            system.pipe("plant-7/list.csv", TABLE.encode())
            yield {**os.environ, **keys, "AWS_ENDPOINT_URL": address, "PYTHONPATH": str(ROOT)}
        finally:
            server.terminate()


def called(environment: dict[str, str], *given: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pp_graph", *given], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stderr


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("data", ["images", "list.csv"])
def test_calibrate(environment: dict[str, str], data: str, tmp_path: Path) -> None:
    for name in ("images", "ground_truth", "raw.onnx"):
        (tmp_path / name).symlink_to(DEMO / name)
    (tmp_path / "list.csv").write_text(TABLE)
    for name, base, more in (
        ("here", str(tmp_path), []),
        ("store", BUCKET, []),
        ("workers", BUCKET, ["--workers", "2", "--batch", "2"]),
    ):
        given = ["--data", f"{base}/{data}", "-o", str(tmp_path / f"{name}.json"), "--bootstrap", "0"]
        called(environment, "calibrate", f"{base}/raw.onnx", *given, *more)
    assert (tmp_path / "store.json").read_bytes() == (tmp_path / "here.json").read_bytes()
    assert (tmp_path / "workers.json").read_bytes() == (tmp_path / "here.json").read_bytes()


def test_calibrate_a_detector(environment: dict[str, str], tmp_path: Path) -> None:
    import s3fs

    data = tmp_path / "cells"
    scenes = save_scenes(data / "images", 8)
    save_boxes(data / "images", scenes)
    pp.fuse(cells(), pp.DetectionPostProcessor(head="yolov8", confidence=0.5)).save(data / "detector.onnx")
    system = s3fs.S3FileSystem(key="key", secret="secret", endpoint_url=environment["AWS_ENDPOINT_URL"])
    for file in data.rglob("*.*"):
        system.pipe(f"plant-7/cells/{file.relative_to(data)}", file.read_bytes())
    for name, base, more in (
        ("here", str(data), []),
        ("store", f"{BUCKET}/cells", []),
        ("workers", f"{BUCKET}/cells", ["--workers", "2", "--batch", "2"]),
    ):
        given = ["--data", f"{base}/images", "--boxes", f"{base}/images", "-o", str(tmp_path / f"{name}.json")]
        called(environment, "calibrate", f"{base}/detector.onnx", *given, *more)
        assert (tmp_path / f"{name}.json").read_bytes() == (tmp_path / "here.json").read_bytes()


def test_run(environment: dict[str, str], demo_ir_path: Path, tmp_path: Path) -> None:
    called(environment, "run", str(demo_ir_path), str(DEMO / "images"), "-o", str(tmp_path / "here"))
    for name, more in (("store", []), ("workers", ["--workers", "2"])):
        called(environment, "run", f"{BUCKET}/model.xml", f"{BUCKET}/images", "-o", str(tmp_path / name), *more)
        assert files_of(tmp_path / name) == files_of(tmp_path / "here")


def test_errors_name_the_url(environment: dict[str, str], tmp_path: Path) -> None:
    denied = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    out = ["-o", str(tmp_path / "out.json")]
    missing = called(environment, "calibrate", f"{BUCKET}/absent.onnx", "--data", f"{BUCKET}/images", *out, status=2)
    assert f"{BUCKET}/absent.onnx" in " ".join(missing.split())
    absent = called(environment, "calibrate", f"{BUCKET}/raw.onnx", "--data", f"{BUCKET}/nothing", *out, status=2)
    assert f"{BUCKET}/nothing" in " ".join(absent.split())
    refused = called(
        {**denied, "AWS_ENDPOINT_URL": environment["AWS_ENDPOINT_URL"], "AWS_EC2_METADATA_DISABLED": "true"},
        "calibrate", f"{BUCKET}/raw.onnx", "--data", f"{BUCKET}/images", *out, status=2,
    )  # fmt: skip
    assert f"{BUCKET}/images' cannot be reached" in " ".join(refused.split())
    assert "credentials" in refused
    assert "Traceback" not in missing + absent + refused
