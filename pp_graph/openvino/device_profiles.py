"""What each OpenVINO device can take, as data; a new device is one more entry in `DEVICES`.

Sources, read in 2026, and checked on OpenVINO 2026.4 where a CPU shows it:

- the pages of OpenVINO's documentation on each device and mode ("Inference Devices and Modes", "Precision Control",
  "Supported Devices"), sources `docs/articles_en` of github.com/openvinotoolkit/openvino;
- the GPU plugin's table of operators (`src/plugins/intel_gpu/include/intel_gpu/plugin/primitives_list.hpp`, its version
  of 2025);
- the NPU plugin's `README.md` (2026.1 and later), and pull request 29793, which takes `f32` out of the precisions that
  the NPU may be asked for.

What could not be traced to one of these is left out: None and an empty set mean "not known", never "none".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Members:
    """Which devices a meta device is written with, as in `HETERO:GPU,CPU`.

    Attributes:
        fewest: How many at least; 0 where OpenVINO chooses among all.
        most: How many at most; None for any number.
        batch: Whether a member takes the number of requests in a batch, as in `BATCH:GPU(4)`.
        fall_back: Whether what one member cannot run goes to the next one.
    """

    fewest: int
    most: int | None
    batch: bool = False
    fall_back: bool = False


@dataclass(frozen=True)
class DeviceProfile:
    """What a kind of device can take.

    Attributes:
        name: OpenVINO's name of the device, without an index.
        summary: What it is, for people.
        written: Ways to write it.
        dynamic_shapes: Whether inputs may have sizes that are not known at compilation.
        default_precision: Precision in which it runs a network unless told otherwise; None where that differs between
            machines or members.
        precisions: Precisions that it can be asked for.
        states: Whether values that outlive a run (`ReadValue`, `Assign`) work there.
        latency: Compile properties for one image as soon as possible.
        throughput: Compile properties for as many images as possible.
        always: Compile properties without which it would not decide the same from the first image on.
        input_layout: What is known of the layout that inputs should have.
        unsupported: Types of operators for which its plugin has no implementation.
        on_host: Types of operators that its plugin runs on the host's CPU instead.
        dynamic_remark: What speaks against open sizes where they are allowed.
        indexed: Whether there may be several, as in `GPU.1`.
        members: Which devices it is written with; None for a device of its own.
        remarks: What else to know before shipping on it.
    """

    name: str
    summary: str
    written: tuple[str, ...]
    dynamic_shapes: bool
    default_precision: str | None
    precisions: tuple[str, ...]
    states: bool
    latency: Mapping[str, str]
    throughput: Mapping[str, str]
    always: Mapping[str, str] = field(default_factory=dict)
    input_layout: str | None = None
    unsupported: frozenset[str] = frozenset()
    on_host: frozenset[str] = frozenset()
    dynamic_remark: str | None = None
    indexed: bool = False
    members: Members | None = None
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "name": self.name,
            "summary": self.summary,
            "written": list(self.written),
            "dynamic_shapes": self.dynamic_shapes,
            "default_precision": self.default_precision,
            "precisions": list(self.precisions),
            "states": self.states,
            "input_layout": self.input_layout,
            "unsupported": sorted(self.unsupported),
            "on_host": sorted(self.on_host),
            "remarks": [*self.remarks, *([self.dynamic_remark] if self.dynamic_remark else [])],
        }


_LATENCY: Final = {"PERFORMANCE_HINT": "LATENCY"}
_THROUGHPUT: Final = {"PERFORMANCE_HINT": "THROUGHPUT"}
_FLOATING: Final = ("f32", "bf16", "f16")

DEVICES: tuple[DeviceProfile, ...] = (
    DeviceProfile(
        "CPU",
        summary="x86-64 and Arm processors",
        written=("CPU",),
        dynamic_shapes=True,
        # bf16 or f16 where the processor computes in it natively, f32 elsewhere.
        default_precision=None,
        precisions=_FLOATING,
        states=True,
        # One stream for latency, several for throughput: the hints choose NUM_STREAMS and threads by themselves, and
        # know more than one processor socket.
        latency=_LATENCY,
        throughput=_THROUGHPUT,
        input_layout=(
            "NCHW, as exported: convolutions compute with channels last, and an NCHW input costs one reorder; an NHWC "
            "input whose pixels are normalised first costs a transposition besides"
        ),
        remarks=(
            "runs bf16 (or f16) by default where the processor has it, and drift of the network then flips decisions",
            "operators without a kernel of their own run in OpenVINO's reference implementation",
            "with fixed sizes OpenVINO optimises more",
        ),
    ),
    DeviceProfile(
        "GPU",
        summary="Intel graphics, integrated and discrete",
        written=("GPU", "GPU.1"),
        dynamic_shapes=True,
        default_precision="f16",
        precisions=("f32", "f16"),
        states=True,
        latency=_LATENCY,
        throughput=_THROUGHPUT,
        # Of the operators that OpenVINO reads and does not decompose, those that the plugin's table lacks.
        unsupported=frozenset({"BitwiseNot", "Inverse", "StringTensorPack", "StringTensorUnpack"}),
        on_host=frozenset({"DetectionOutput", "NonMaxSuppression", "Proposal"}),
        dynamic_remark=(
            "OpenVINO documents open sizes on the GPU as a preview: an operator may fail, and what works may be slow"
        ),
        indexed=True,
        remarks=(
            "THROUGHPUT may group requests into batches by itself; ALLOW_AUTO_BATCHING=NO keeps them apart",
            "f16 is faster; ask for it only after pp-graph verify has counted what its drift flips",
        ),
    ),
    DeviceProfile(
        "NPU",
        summary="neural processors of Intel Core Ultra",
        written=("NPU",),
        dynamic_shapes=False,
        default_precision="f16",
        precisions=("f16",),
        states=True,
        latency=_LATENCY,
        throughput=_THROUGHPUT,
        indexed=True,
        remarks=(
            "computes in f16 and cannot be asked for f32: calibrate thresholds on it, with what it computes",
            "a batch above one may be run as so many single images",
        ),
    ),
    DeviceProfile(
        "AUTO",
        summary="OpenVINO chooses one of the devices",
        written=("AUTO", "AUTO:GPU,CPU"),
        dynamic_shapes=True,
        default_precision=None,
        # Without members it chooses among GPU and CPU; the NPU has to be named.
        precisions=("f32",),
        states=True,
        latency=_LATENCY,
        throughput=_THROUGHPUT,
        # Otherwise the CPU runs the first images while another device compiles, and decides a little differently.
        always={"ENABLE_STARTUP_FALLBACK": "NO"},
        members=Members(0, None, fall_back=True),
        remarks=(
            "which device decides is known on the machine only: verify and calibrate there",
            "after a failed run it goes on with another device; ENABLE_RUNTIME_FALLBACK=NO makes that an error",
        ),
    ),
    DeviceProfile(
        "HETERO",
        summary="splits a model: what the first device cannot run goes to the next",
        written=("HETERO:GPU,CPU",),
        dynamic_shapes=True,
        default_precision=None,
        precisions=_FLOATING,
        states=True,
        latency=_LATENCY,
        throughput=_THROUGHPUT,
        members=Members(1, None, fall_back=True),
        remarks=("works with the NPU for certain models only",),
    ),
    DeviceProfile(
        "BATCH",
        summary="groups requests into batches",
        written=("BATCH:GPU", "BATCH:GPU(4)"),
        dynamic_shapes=True,
        default_precision=None,
        precisions=_FLOATING,
        # A value set on one request is not what a batch of requests computes with (seen on 2026.4).
        states=False,
        # A request that stays alone waits for others as long as this, a second unless told otherwise; 0 is for none.
        latency={**_LATENCY, "AUTO_BATCH_TIMEOUT": "0"},
        throughput={**_THROUGHPUT, "AUTO_BATCH_TIMEOUT": "100"},
        dynamic_remark="BATCH groups nothing where sizes are open or a batch above one is fixed",
        members=Members(1, 1, batch=True),
        remarks=(
            "the application must keep as many requests in flight as there are in a batch",
            "on the CPU it groups only with a number, as in BATCH:CPU(4)",
        ),
    ),
    DeviceProfile(
        "MULTI",
        summary="spreads requests over devices (legacy; OpenVINO advises AUTO)",
        written=("MULTI:GPU,CPU",),
        dynamic_shapes=True,
        default_precision=None,
        precisions=_FLOATING,
        states=True,
        latency=_LATENCY,
        throughput=_THROUGHPUT,
        members=Members(1, None),
        remarks=("equal images may be decided on different devices, in different precisions",),
    ),
)
"""The kinds of devices that pp_graph converts for."""
