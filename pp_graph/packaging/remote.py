"""Run `bench.py` of a package on other machines over SSH, with the system's `ssh` and `scp`."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pp_graph.benchmarking import BenchmarkReport, load_report
from pp_graph.errors import DataError, PPGraphError, TargetError
from pp_graph.packaging.manifest import read_manifest
from pp_graph.saving import Saved
from pp_graph.summary import Block, Line, Remark, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_HOST: Final = re.compile(
    r"(?:(?P<user>[\w.][\w.-]*)@)?(?P<host>[\w.][\w.-]*|\[[0-9a-fA-F:.]+\])(?::(?P<port>\d{1,5}))?"
)
_SAFE: Final = re.compile(r"[\w./~+-]+")
_ABSOLUTE: Final = re.compile(r"/[\w./+-]+")
_DEFAULTS: Final = ("BatchMode=yes", "ConnectTimeout=15")
"""No questions are asked, because nobody may be there to answer. Options of the user come first, and win."""


@dataclass(frozen=True)
class Host:
    """A machine to reach over SSH.

    Attributes:
        name: `user@host:port`, as it was given.
        target: `user@host`, as ssh takes it.
        port: Port; None for that of the user's configuration.
    """

    name: str
    target: str
    port: str | None

    @classmethod
    def parse(cls, text: str) -> Host:
        """Parse `user@host:port`; user and port may be left out, and an IPv6 address is in brackets.

        Raises:
            DataError: It is not such a name.
        """
        found = _HOST.fullmatch(text)
        if found is None or not 0 < int(found["port"] or 22) < 65536:
            raise DataError(
                f"Host '{text}' is not one, expected user@host or user@host:port, such as pi@192.168.0.7:22. An IPv6 "
                "address is in brackets."
            )
        user = "" if found["user"] is None else f"{found['user']}@"
        return cls(text, user + found["host"], found["port"])


@dataclass(frozen=True)
class HostResult:
    """What a machine returned.

    Attributes:
        host: Its name, as it was given.
        report: Report of `bench.py`; None if it could not run.
        differences: What `check.py` found to differ; empty if nothing does.
        error: Why there is no report; None if there is one.
    """

    host: str
    report: BenchmarkReport | None
    differences: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, repr=False)
class RemoteBenchmark(Saved):
    """Latency of a package on several machines.

    Attributes:
        hosts: One result for each machine.
    """

    hosts: tuple[HostResult, ...]

    @property
    def passed(self) -> bool:
        """True if all machines decide as the golden results say."""
        return not any(each.differences for each in self.hosts)

    @property
    def failed(self) -> bool:
        """True if a machine returned no report."""
        return any(each.report is None for each in self.hosts)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values."""
        return {"hosts": [msgspec.to_builtins(each) for each in self.hosts]}

    def summary(self) -> list[Block]:
        """Return the results as tables."""
        return list(self._blocks())

    def _blocks(self) -> Iterator[Block]:
        rows = [
            (
                each.host,
                result.device,
                result.asked_precision
                if result.precision == result.asked_precision
                else f"{result.asked_precision} ({result.precision})",
                result.name,
                f"{result.median_ms:.2f}",
                f"{result.p99_ms:.2f}",
                f"{result.ratio:.3f} ({result.ratio_low:.3f}–{result.ratio_high:.3f})",
                f"{result.throughput:,.0f}",
            )
            for each in self.hosts
            if each.report is not None
            for result in each.report.results
        ]
        columns = ("host", "device", "precision", "model", "median ms", "p99 ms", "ratio to raw (95 %)", "images/s")
        if rows:
            yield Table("Latency where it runs", columns, rows)
        for each in self.hosts:
            if each.report is not None:
                machine = each.report.machine
                known = [machine.get("processor"), f"{machine.get('cores')} cores", machine.get("memory")]
                about = ", ".join(str(part) for part in known if part is not None)
                decided = "; ".join(each.differences) or "all decisions are equal"
                yield Line(f"{each.host}: {about}; check: {decided}")
        for each in self.hosts:
            if each.error is not None:
                yield Remark(f"Error: {each.error}")
            for note in () if each.report is None else each.report.notes:
                yield Remark(f"Note: {each.host}: {note}")

    def __repr__(self) -> str:
        """Return the hosts in a line."""
        return f"<RemoteBenchmark on {', '.join(each.host for each in self.hosts)}>"


def benchmark_remote(
    package: str | Path,
    hosts: Sequence[str],
    *,
    devices: Sequence[str] = (),
    precisions: Sequence[str] = ("f32", "default"),
    seconds: float = 10.0,
    python: str = "python3",
    ssh_options: Sequence[str] = (),
    progress: Callable[[str], object] = lambda _: None,
) -> RemoteBenchmark:
    """Copy a package to other machines, run its `check.py` and `bench.py` there, and fetch the reports.

    The machines need OpenVINO and NumPy. The package goes to a temporary folder, which is removed afterwards. Keys and
    host names are those of the user's SSH; nothing is asked for.

    Args:
        package: Folder that `package` wrote.
        hosts: `user@host` or `user@host:port`.
        devices: OpenVINO devices; empty for every device that a machine has.
        precisions: `f32`, and `default` for the device's own.
        seconds: Time to measure for each device and precision.
        python: Python there, such as `~/venv/bin/python`.
        ssh_options: Further options of ssh, such as `IdentityFile=key`.
        progress: Called with a line about each stage.

    Returns:
        The reports. A machine that cannot be reached, or on which a program fails, has an error in the place of one.

    Raises:
        DataError: The folder is not a package, or a host, Python, device, precision or time is not one.
        TargetError: There is no `ssh` or `scp` on this machine.
    """
    read_manifest(package)
    machines = [Host.parse(text) for text in hosts]
    _check(machines, devices, precisions, seconds, python)
    for name in ("ssh", "scp"):
        if shutil.which(name) is None:
            raise TargetError(f"Program '{name}' is not on this machine, expected OpenSSH's. Install it.")
    words = [f"--device={device}" for device in devices] + [f"--precision={each}" for each in precisions]
    run = _Run(Path(package).resolve(), python, [*words, f"--seconds={seconds:g}"], tuple(ssh_options), progress)
    return RemoteBenchmark(tuple(run.on(machine) for machine in machines))


def _check(
    hosts: Sequence[Host], devices: Sequence[str], precisions: Sequence[str], seconds: float, python: str
) -> None:
    if not hosts:
        raise DataError("No host is given, expected at least one, such as pi@192.168.0.7.")
    names = [each.name for each in hosts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"Host '{twice}' is given twice, expected each once. Leave one out.")
    if not _SAFE.fullmatch(python):
        raise DataError(f"Python '{python}' is not the path of a program, expected one such as ~/venv/bin/python.")
    wrong = next((each for each in precisions if each not in ("f32", "default")), None)
    if wrong is not None or not precisions:
        raise DataError(f"Precision '{wrong}' is not one that a package is timed in, expected f32 or default.")
    unknown = next((each for each in devices if not re.fullmatch(r"[A-Z][\w.:,()]*", each)), None)
    if unknown is not None:
        raise DataError(f"Device '{unknown}' is not one, expected a name such as CPU or GPU.1.")
    if not 0 < seconds < float("inf"):
        raise DataError(f"Seconds are {seconds:g}, expected a positive number, such as 10.")


@dataclass(frozen=True)
class _Run:
    """What to do on each machine."""

    package: Path
    python: str
    words: Sequence[str]
    options: tuple[str, ...]
    progress: Callable[[str], object]

    def on(self, host: Host) -> HostResult:
        try:
            folder = self._ssh(host, "mktemp -d").strip()
            if not _ABSOLUTE.fullmatch(folder):
                raise TargetError(f"Host '{host.name}' has no mktemp that makes a folder, expected a POSIX system.")
            try:
                return self._measured(host, folder)
            finally:
                self._ssh(host, f"rm -rf -- {folder}", checked=False)
        except PPGraphError as error:
            return HostResult(host.name, None, error=str(error))

    def _measured(self, host: Host, folder: str) -> HostResult:
        self.progress(f"{host.name}: copying")
        self._scp(host, str(self.package), f"{host.target}:{folder}/package")
        self.progress(f"{host.name}: checking")
        # With a status of 1 the check is done, and something differs.
        text = self._ssh(host, self._command(folder, "check.py", "--json") + " || test $? -eq 1")
        self.progress(f"{host.name}: measuring")
        self._ssh(host, self._command(folder, "bench.py", *self.words, "--output=bench.json", "--force"))
        with tempfile.TemporaryDirectory() as here:
            target = Path(here) / "bench.json"
            self._scp(host, f"{host.target}:{folder}/package/bench.json", str(target))
            report = load_report(target)
        try:
            found = json.loads(text)["differences"]
        except (ValueError, KeyError) as error:
            raise TargetError(f"check.py on '{host.name}' wrote no result: {text[:200]!r}.") from error
        differences = tuple(f"{name}: {each}" for name, texts in found.items() for each in texts)
        return HostResult(host.name, report, differences)

    def _command(self, folder: str, program: str, *words: str) -> str:
        return f"cd {folder}/package && {self.python} {program} {shlex.join(words)}"

    def _ssh(self, host: Host, command: str, *, checked: bool = True) -> str:
        port = [] if host.port is None else ["-p", host.port]
        return self._run(host, ["ssh", *self._options(), *port, "--", host.target.replace("[", "").replace("]", ""),
                                command], checked=checked)  # fmt: skip

    def _scp(self, host: Host, source: str, target: str) -> None:
        port = [] if host.port is None else ["-P", host.port]
        self._run(host, ["scp", "-q", "-r", *self._options(), *port, "--", source, target])

    def _options(self) -> list[str]:
        return [word for option in (*self.options, *_DEFAULTS) for word in ("-o", option)]

    def _run(self, host: Host, command: Sequence[str], *, checked: bool = True) -> str:
        done = subprocess.run(  # noqa: S603 - the system's ssh and scp
            command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if done.returncode == 0 or not checked:
            return done.stdout
        said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1].strip()
        if command[0] == "ssh" and done.returncode != 255:
            raise TargetError(
                f"A program failed on '{host.name}': {said} Does {self.python} there have OpenVINO and NumPy? Name "
                "another with --remote-python."
            )
        raise TargetError(
            f"Host '{host.name}' cannot be reached with {command[0]}: {said} Try ssh by hand first; a key or an agent "
            "is needed, since nothing is asked for."
        )
