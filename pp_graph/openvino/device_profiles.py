"""Facts about OpenVINO's devices, which OpenVINO reports only for devices that are present.

To add a device, add an entry to `DEVICES`. Sources, read in 2026 and checked on a CPU with OpenVINO 2026.4 if possible:
OpenVINO's documentation ("Inference Devices and Modes", "Precision Control", "Supported Devices"), the GPU plugin's
`primitives_list.hpp`, the NPU plugin's `README.md` (2026.1 and later) and pull request 29793, which removes `f32` from
the inference precisions of the NPU. None and an empty set mean "unknown".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class DeviceProfile:
    """Capabilities of a kind of device.

    Attributes:
        name: OpenVINO's name of the device, without an index.
        summary: One line about it.
        written: Ways to write it.
        dynamic_shapes: False if every input needs a fixed shape at compilation.
        default_precision: Default inference precision; None if it differs between machines or members.
        precisions: Inference precisions that can be requested.
        states: False if states (`ReadValue`, `Assign`) do not work.
        always: Compile properties that keep decisions the same from the first image on.
        hint_properties: Compile properties for each performance hint, besides `PERFORMANCE_HINT`.
        unsupported: Types of operators that the plugin lacks.
        on_host: Types of operators that the plugin runs on the host's CPU.
        dynamic_remark: Drawback of dynamic shapes, if they are allowed.
        indexed: True if there may be several, as in `GPU.1`.
        meta: True if it combines other devices, its members, as in `HETERO:GPU,CPU`.
        members_optional: True if the meta device may be written without members.
        groups_requests: True if it groups the requests of one member, as in `BATCH:GPU(4)`.
        falls_back: True if operators that one member lacks run on another.
        remarks: Advice for deployment.
    """

    name: str
    summary: str
    written: tuple[str, ...]
    dynamic_shapes: bool = True
    default_precision: str | None = None
    precisions: tuple[str, ...] = ("f32", "bf16", "f16")
    states: bool = True
    always: Mapping[str, str] = field(default_factory=dict)
    hint_properties: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    unsupported: frozenset[str] = frozenset()
    on_host: frozenset[str] = frozenset()
    dynamic_remark: str | None = None
    indexed: bool = False
    meta: bool = False
    members_optional: bool = False
    groups_requests: bool = False
    falls_back: bool = False
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-serialisable values."""
        return {
            "name": self.name,
            "summary": self.summary,
            "written": list(self.written),
            "dynamic_shapes": self.dynamic_shapes,
            "default_precision": self.default_precision,
            "precisions": list(self.precisions),
            "states": self.states,
            "unsupported": sorted(self.unsupported),
            "on_host": sorted(self.on_host),
            "remarks": [*self.remarks, *([self.dynamic_remark] if self.dynamic_remark else [])],
        }


DEVICES: tuple[DeviceProfile, ...] = (
    DeviceProfile(
        "CPU",
        summary="x86-64 and Arm processors",
        written=("CPU",),
        remarks=(
            "runs in bf16 or f16 by default if the processor supports it: drift of the network then flips decisions",
            "an NCHW input, as exported, is the fastest",
        ),
    ),
    DeviceProfile(
        "GPU",
        summary="Intel graphics, integrated and discrete",
        written=("GPU", "GPU.1"),
        default_precision="f16",
        precisions=("f32", "f16"),
        # Operators that OpenVINO does not decompose and that are not in the plugin's table.
        unsupported=frozenset({"BitwiseNot", "Inverse", "StringTensorPack", "StringTensorUnpack"}),
        on_host=frozenset({"DetectionOutput", "NonMaxSuppression", "Proposal"}),
        dynamic_remark=("OpenVINO documents dynamic sizes on the GPU as a preview: operators may fail or be slow"),
        indexed=True,
        remarks=(
            "THROUGHPUT may group requests into batches; ALLOW_AUTO_BATCHING=NO prevents this",
            "f16 is faster; count the decisions that it flips with pp-graph verify before you request it",
        ),
    ),
    DeviceProfile(
        "NPU",
        summary="neural processors of Intel Core Ultra",
        written=("NPU",),
        dynamic_shapes=False,
        default_precision="f16",
        precisions=("f16",),
        indexed=True,
        remarks=(
            "computes in f16 only: calibrate thresholds on the NPU itself",
            "a batch above one may run image by image",
        ),
    ),
    DeviceProfile(
        "AUTO",
        summary="OpenVINO chooses one of the devices",
        written=("AUTO", "AUTO:GPU,CPU"),
        # Without members it chooses between GPU and CPU, never the NPU.
        precisions=("f32",),
        # Otherwise the CPU runs the first images while another device compiles, and may decide differently.
        always={"ENABLE_STARTUP_FALLBACK": "NO"},
        meta=True,
        members_optional=True,
        falls_back=True,
        remarks=(
            "the choice depends on the machine: verify and calibrate on the machine you deploy to",
            "after a failed run it continues on another device; ENABLE_RUNTIME_FALLBACK=NO raises an error instead",
        ),
    ),
    DeviceProfile(
        "HETERO",
        summary="splits a model: operators that the first device cannot run go to the next",
        written=("HETERO:GPU,CPU",),
        meta=True,
        falls_back=True,
        remarks=("works with the NPU only for some models",),
    ),
    DeviceProfile(
        "BATCH",
        summary="groups requests into batches",
        written=("BATCH:GPU", "BATCH:GPU(4)"),
        # A batch of requests ignores a state set on one of them (seen with 2026.4).
        states=False,
        # Milliseconds that a request waits for others; the default is 1000.
        hint_properties={"latency": {"AUTO_BATCH_TIMEOUT": "0"}, "throughput": {"AUTO_BATCH_TIMEOUT": "100"}},
        dynamic_remark="BATCH groups nothing if sizes are dynamic or a batch above one is fixed",
        meta=True,
        groups_requests=True,
        remarks=(
            "the application must keep a full batch of requests in flight",
            "on the CPU it groups requests only if the name has a number, as in BATCH:CPU(4)",
        ),
    ),
    DeviceProfile(
        "MULTI",
        summary="spreads requests over devices (legacy; OpenVINO advises AUTO)",
        written=("MULTI:GPU,CPU",),
        meta=True,
        remarks=("the same image may run on different devices, in different precisions",),
    ),
)
"""The kinds of devices that pp_graph knows: plain devices, then meta devices."""
