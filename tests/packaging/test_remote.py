"""`benchmark --remote` over the loopback, with a server of this test."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pp_graph as pp
from pp_graph.benchmarking import load_report
from pp_graph.cli import run
from pp_graph.errors import DataError
from pp_graph.packaging.remote import Host

SSHD = shutil.which("sshd", path=f"/usr/sbin{os.pathsep}{os.environ.get('PATH', '')}")
needs_sshd = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None, reason="sshd is missing (Debian: apt install openssh-server)"
)


@dataclass(frozen=True)
class Server:
    host: str
    options: tuple[str, ...]
    folders: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    (folder / "tmp").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd of root separates its privileges
    settings = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": folder / "host_key", "PidFile": folder / "pid",
        "AuthorizedKeysFile": folder / "authorized_keys", "StrictModes": "no", "UsePAM": "no", "PermitRootLogin": "yes",
        "PasswordAuthentication": "no", "KbdInteractiveAuthentication": "no", "Subsystem": "sftp internal-sftp",
        "SetEnv": f"TMPDIR={folder / 'tmp'}",
    }  # fmt: skip
    (folder / "config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    log = (folder / "log").open("w")
    process = subprocess.Popen([str(SSHD), "-D", "-e", "-f", folder / "config"], stderr=log)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        options = (
            f"IdentityFile={folder / 'key'}", "IdentitiesOnly=yes", "StrictHostKeyChecking=no",
            f"UserKnownHostsFile={folder / 'known'}",
        )  # fmt: skip
        yield Server(f"{getpass.getuser()}@127.0.0.1:{port}", options, folder / "tmp")
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def arguments(package: Path, server: Server, *more: str) -> list[str]:
    options = [word for option in server.options for word in ("--ssh-option", option)]
    python = ["--remote-python", sys.executable, "--inference-precision", "f32", "--seconds", "0.3"]
    return ["benchmark", str(package), "--remote", server.host, *options, *python, *more]


@needs_sshd
@pytest.mark.slow
def test_two_hosts_in_one_table(
    python_package: Path, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = server.host.replace("127.0.0.1", "localhost")
    target = tmp_path / "bench.json"
    assert run(arguments(python_package, server, "--remote", other, "--json", str(target))) == 0
    text = capsys.readouterr().out
    for host in (server.host, other):
        assert host in text
        assert f"{host}: " in text
    assert text.count("check: all decisions are equal") == 2
    assert text.count("raw + host") >= 2
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    before, after = map(load_report, files)
    assert [each.name for each in before.results] == [each.name for each in after.results]
    assert run(["benchmark", "--compare", *map(str, files)]) == 0
    assert list(server.folders.iterdir()) == []  # nothing stays there


@needs_sshd
@pytest.mark.slow
def test_a_package_that_decides_otherwise(
    python_package: Path, adjustable_ir: Path, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "deploy"
    shutil.copytree(python_package, folder)
    pp.retune(adjustable_ir, image_sensitivity=0.0, output=folder / "tuned.xml")
    for ending in (".xml", ".bin"):
        (folder / "tuned").with_suffix(ending).replace((folder / "model").with_suffix(ending))
    assert run(arguments(folder, server, "--json")) == 1
    (found,) = json.loads(capsys.readouterr().out)["hosts"]
    assert "pred_label is False, expected True" in found["differences"][0]
    assert found["report"]["results"]


@needs_sshd
@pytest.mark.slow
def test_hosts_that_fail(python_package: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    closed = server.host.rpartition(":")[0] + ":1"
    given = arguments(python_package, server, "--remote", closed)
    given[given.index("--remote-python") + 1] = "/nowhere/python"
    assert run([*given, "--json"]) == 2
    first, second = json.loads(capsys.readouterr().out)["hosts"]
    assert f"A program failed on '{server.host}'" in first["error"]
    assert "Name another with --remote-python" in first["error"]
    assert f"Host '{closed}' cannot be reached with ssh" in second["error"]
    assert list(server.folders.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--remote", "-oProxyCommand=x"], "Host '-oProxyCommand=x' is not one"),
        (["--remote", "pi@box:99999"], "Host 'pi@box:99999' is not one, expected user@host"),
        (["--remote", "pi@box;ls"], "Host 'pi@box;ls' is not one"),
        (["--remote", "pi@box", "--remote", "pi@box"], "Host 'pi@box' is given twice"),
        (["--remote", "pi@box", "--remote-python", "python; ls"], "is not the path of a program"),
        (["--remote", "pi@box", "--inference-precision", "bf16"], "Precision 'bf16' is not one"),
        (["--remote", "pi@box", "--device", "$(ls)"], "Device '$(LS)' is not one"),
        (["--remote", "pi@box", "--seconds", "0"], "Seconds are 0, expected a positive number"),
        (["--remote", "pi@box", "--input-shape", "1,3,8,8"], "--input-shape is about this machine"),
        (["--remote", "pi@box", "--json", "bench.txt"], "is not a report file"),
        (["--remote-python", "python"], "--remote-python is about other machines"),
        (["second", "--remote", "pi@box"], "--remote takes one package"),
    ],
    ids=lambda each: " ".join(each)[:40] if isinstance(each, list) else "",
)
def test_bad_input(python_package: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["benchmark", str(python_package), *more]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_not_a_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["benchmark", str(tmp_path), "--remote", "pi@box"]) == 2
    assert "is not a package: package.json cannot be read" in " ".join(capsys.readouterr().err.split())


def test_names_of_hosts() -> None:
    assert Host.parse("pi@192.168.0.7:2222") == Host("pi@192.168.0.7:2222", "pi@192.168.0.7", "2222")
    assert Host.parse("box") == Host("box", "box", None)
    assert Host.parse("pi@[fe80::1]:22").target == "pi@[fe80::1]"
    with pytest.raises(DataError, match="An IPv6 address is in brackets"):
        Host.parse("pi@fe80::1")
