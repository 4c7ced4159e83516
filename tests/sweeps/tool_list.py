"""Tools that people run on ONNX models and IRs, each as a function from a file to a file or to outputs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

OPENVINO_EP: Final = "OPENVINO_EP_PYTHON"
"""Environment variable: a Python with onnxruntime-openvino, which cannot be installed beside onnxruntime."""
NODE_MODULES: Final = "NODE_MODULES"
"""Environment variable: a folder `node_modules` with onnxruntime-web."""


class NotInstalledError(Exception):
    """The tool is not on this machine."""


@dataclass(frozen=True)
class Tool:
    """A tool.

    Attributes:
        name: Name in the table.
        package: Distribution whose version the table shows.
        change: Writes the changed model into a folder and returns its path; None for a runtime.
        outputs: Runs the model and returns outputs by name; None for a converter.
        reads: `onnx` or `ir`, the kind of artifact it is given.
    """

    name: str
    package: str
    change: Callable[[Path, Feeds, Path], Path] | None = None
    outputs: Callable[[Path, Feeds], Feeds] | None = None
    reads: str = "onnx"

    @property
    def version(self) -> str:
        """Version of the package, or the reason why it is not run."""
        if self.package == "onnxruntime-openvino":
            return _version_by(os.environ.get(OPENVINO_EP))
        if self.package == "onnxruntime-web":
            found = Path(os.environ.get(NODE_MODULES, "none")) / self.package / "package.json"
            return str(json.loads(found.read_text())["version"]) if found.exists() and shutil.which("node") else ""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return ""


def _version_by(python: str | None) -> str:
    if python is None:
        return ""
    code = "from importlib.metadata import version; print(version('onnxruntime-openvino'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def _of_proto(convert: Callable[[onnx.ModelProto], Any]) -> Callable[[Path, Feeds, Path], Path]:
    """A tool that takes a model in memory and returns one."""

    def change(path: Path, feeds: Feeds, folder: Path) -> Path:
        onnx.save(convert(onnx.load(path)), folder / "changed.onnx")
        return folder / "changed.onnx"

    return change


def _onnxsim(model: onnx.ModelProto) -> Any:
    import onnxsim

    return onnxsim.simplify(model)[0]


def _onnxslim(model: onnx.ModelProto) -> Any:
    import onnxslim

    return onnxslim.slim(model)


def _onnxoptimizer(model: onnx.ModelProto) -> Any:
    import onnxoptimizer

    return onnxoptimizer.optimize(model)


def _onnxscript(model: onnx.ModelProto) -> Any:
    import onnxscript.optimizer

    return onnxscript.optimizer.optimize(model)


def _float16_common(model: onnx.ModelProto) -> Any:
    from onnxconverter_common import float16

    return float16.convert_float_to_float16(model, keep_io_types=True)


def _float16_onnxruntime(model: onnx.ModelProto) -> Any:
    from onnxruntime.transformers import float16

    return float16.convert_float_to_float16(model, keep_io_types=True)


def _offline(level: str) -> Callable[[Path, Feeds, Path], Path]:
    def change(path: Path, feeds: Feeds, folder: Path) -> Path:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(folder / "changed.onnx")
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return folder / "changed.onnx"

    return change


def _quantize_dynamic(path: Path, feeds: Feeds, folder: Path) -> Path:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(path, folder / "changed.onnx")
    return folder / "changed.onnx"


def _quantize_static(path: Path, feeds: Feeds, folder: Path) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = [feeds]

        def get_next(self) -> Feeds | None:
            return self._left.pop() if self._left else None

    quantize_static(path, folder / "changed.onnx", Reader())
    return folder / "changed.onnx"


def _nncf_onnx(path: Path, feeds: Feeds, folder: Path) -> Path:
    import nncf

    quantised = nncf.quantize(onnx.load(path), nncf.Dataset([feeds]))
    onnx.save(quantised, folder / "changed.onnx")
    return folder / "changed.onnx"


def _nncf_ir(path: Path, feeds: Feeds, folder: Path) -> Path:
    import nncf
    import openvino as ov

    quantised = nncf.quantize(ov.Core().read_model(path), nncf.Dataset([feeds]))
    ov.save_model(quantised, folder / "changed.xml", compress_to_fp16=False)
    return folder / "changed.xml"


def _save_model(*, f16: bool) -> Callable[[Path, Feeds, Path], Path]:
    def change(path: Path, feeds: Feeds, folder: Path) -> Path:
        import openvino as ov

        model = ov.convert_model(path) if path.suffix == ".onnx" else ov.Core().read_model(path)
        ov.save_model(model, folder / "changed.xml", compress_to_fp16=f16)
        return folder / "changed.xml"

    return change


def _ovc(path: Path, feeds: Feeds, folder: Path) -> Path:
    with contextlib.redirect_stdout(io.StringIO()):
        command = [sys.executable, "-m", "openvino.tools.ovc", str(path), "--output_model", str(folder / "changed.xml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
    return folder / "changed.xml"


def _opencv(path: Path, feeds: Feeds) -> Feeds:
    import cv2

    net = cv2.dnn.readNetFromONNX(str(path))
    for name, array in feeds.items():
        net.setInput(array, name)
    names = [output.name for output in onnx.load(path).graph.output]
    return dict(zip(names, net.forward(names), strict=True))


_IN_OPENVINO_EP: Final = """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.log_severity_level = 4
session = ort.InferenceSession(sys.argv[1], options, providers=[("OpenVINOExecutionProvider", {"device_type": "CPU"})])
assert session.get_providers()[0] == "OpenVINOExecutionProvider", session.get_providers()
names = [each.name for each in session.get_outputs()]
found = session.run(names, dict(np.load(sys.argv[2])))
np.savez(sys.argv[3], **dict(zip(names, found)))
"""


def _openvino_ep(path: Path, feeds: Feeds) -> Feeds:
    given, taken = path.with_name("ep_feeds.npz"), path.with_name("ep_outputs.npz")
    np.savez(given, **feeds)  # type: ignore[arg-type]
    _called([os.environ[OPENVINO_EP], "-c", _IN_OPENVINO_EP, str(path), str(given), str(taken)])
    return dict(np.load(taken))


_IN_NODE: Final = """
const fs = require('fs');
const ort = require(process.argv[2] + '/onnxruntime-web');
(async () => {
  const given = JSON.parse(fs.readFileSync(process.argv[4]));
  const session = await ort.InferenceSession.create(fs.readFileSync(process.argv[3]), { executionProviders: ['wasm'] });
  const feeds = {};
  for (const [name, each] of Object.entries(given))
    feeds[name] = new ort.Tensor('float32', Float32Array.from(each.data), each.dims);
  const found = await session.run(feeds);
  const text = (key, value) => (typeof value === 'bigint' ? Number(value) : value);
  const outputs = {};
  for (const [name, each] of Object.entries(found))
    outputs[name] = { type: each.type, dims: each.dims, data: Array.from(each.data) };
  fs.writeFileSync(process.argv[5], JSON.stringify(outputs, text));
})().catch((error) => { console.error(String(error)); process.exit(1); });
"""


def _onnxruntime_web(path: Path, feeds: Feeds) -> Feeds:
    script, given, taken = (path.with_name(name) for name in ("run.cjs", "given.json", "taken.json"))
    script.write_text(_IN_NODE)
    given.write_text(json.dumps({name: {"data": x.ravel().tolist(), "dims": x.shape} for name, x in feeds.items()}))
    modules = str(Path(os.environ[NODE_MODULES]).resolve())
    _called(["node", str(script), modules, str(path), str(given), str(taken)])
    found = json.loads(taken.read_text())
    return {name: np.array(each["data"], each["type"]).reshape(each["dims"]) for name, each in found.items()}


def _called(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
        raise RuntimeError(next((line for line in reversed(lines) if "rror" in line), "it failed without a message"))


TOOLS: Final = (
    Tool("onnxsim", "onnxsim", _of_proto(_onnxsim)),
    Tool("onnxslim", "onnxslim", _of_proto(_onnxslim)),
    Tool("onnxoptimizer", "onnxoptimizer", _of_proto(_onnxoptimizer)),
    Tool("onnxscript optimizer", "onnxscript", _of_proto(_onnxscript)),
    Tool("onnxruntime, saved at basic", "onnxruntime", _offline("ORT_ENABLE_BASIC")),
    Tool("onnxruntime, saved at extended", "onnxruntime", _offline("ORT_ENABLE_EXTENDED")),
    Tool("onnxruntime, saved at all", "onnxruntime", _offline("ORT_ENABLE_ALL")),
    Tool("float16 of onnxconverter-common", "onnxconverter-common", _of_proto(_float16_common)),
    Tool("float16 of onnxruntime.transformers", "onnxruntime", _of_proto(_float16_onnxruntime)),
    Tool("quantize_dynamic", "onnxruntime", _quantize_dynamic),
    Tool("quantize_static", "onnxruntime", _quantize_static),
    Tool("nncf.quantize on the ONNX model", "nncf", _nncf_onnx),
    Tool("nncf.quantize on the IR", "nncf", _nncf_ir, reads="ir"),
    Tool("ov.save_model of the ONNX model, f32", "openvino", _save_model(f16=False)),
    Tool("ov.save_model of the ONNX model, f16", "openvino", _save_model(f16=True)),
    Tool("ov.save_model of the IR, f32", "openvino", _save_model(f16=False), reads="ir"),
    Tool("ov.save_model of the IR, f16", "openvino", _save_model(f16=True), reads="ir"),
    Tool("ovc", "openvino", _ovc),
    Tool("OpenVINO execution provider", "onnxruntime-openvino", outputs=_openvino_ep),
    Tool("OpenCV dnn", "opencv-python-headless", outputs=_opencv),
    Tool("onnxruntime-web in node", "onnxruntime-web", outputs=_onnxruntime_web),
)
