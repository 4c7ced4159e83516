"""What each OpenVINO device can take, as data; a new device is one more profile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import DeviceError

if TYPE_CHECKING:
    from openvino import Core


@dataclass(frozen=True)
class DeviceProfile:
    """What a kind of device can take.

    Attributes:
        name: OpenVINO's name of the device, without an index.
        dynamic_shapes: Whether inputs may have sizes that are not known at compilation.
    """

    name: str
    dynamic_shapes: bool


DEVICES: tuple[DeviceProfile, ...] = (
    DeviceProfile("CPU", dynamic_shapes=True),
    DeviceProfile("GPU", dynamic_shapes=True),
    DeviceProfile("NPU", dynamic_shapes=False),
    DeviceProfile("AUTO", dynamic_shapes=True),
)


@cache
def openvino_core() -> Core:
    """The process's OpenVINO core; its plugins take a moment to load."""
    from openvino import Core

    return Core()


def device_profile(device: str) -> DeviceProfile:
    """Profile of a device such as `CPU` or `GPU.1`.

    Raises:
        DeviceError: No such device is known.
    """
    name, _, index = device.partition(".")
    for profile in DEVICES:
        if name == profile.name and (not index or index.isdecimal()) and not device.endswith("."):
            return profile
    raise DeviceError(
        f"Device '{device}' is not known, expected one of: {', '.join(p.name for p in DEVICES)} "
        "(with an index such as GPU.1 where there are several)."
    )


def available_devices() -> tuple[str, ...]:
    """Devices that OpenVINO sees on this machine."""
    return tuple(openvino_core().available_devices)


@dataclass(frozen=True)
class DeviceInfo:
    """A device that pp_graph knows, or that this machine has.

    Attributes:
        name: OpenVINO's name of it, such as `GPU.1`.
        here: Whether OpenVINO sees it on this machine.
        full_name: What it is; None where it is not here.
        precisions: Precisions that it computes in, as OpenVINO names them; empty where it is not here.
        default_precision: Precision in which it runs a network unless told otherwise; None where that is not known.
        dynamic_shapes: Whether inputs may have sizes that are not known at compilation; None for a kind of device that
            has no profile.
    """

    name: str
    here: bool
    full_name: str | None
    precisions: tuple[str, ...]
    default_precision: str | None
    dynamic_shapes: bool | None


def list_devices() -> tuple[DeviceInfo, ...]:
    """Devices of this machine, then those that pp_graph converts for and that are not here."""
    here = [_describe(name) for name in available_devices()]
    kinds = {info.name.split(".", 1)[0] for info in here}
    absent = [
        DeviceInfo(profile.name, profile.name == "AUTO", None, (), None, profile.dynamic_shapes)
        for profile in DEVICES
        if profile.name not in kinds
    ]
    return (*here, *absent)


_PRECISIONS: Final = ("FP64", "FP32", "BF16", "FP16", "INT8", "INT4")


def _describe(name: str) -> DeviceInfo:
    core = openvino_core()

    def ask(what: str) -> Any:
        try:
            return core.get_property(name, what)
        except RuntimeError:
            return None  # not every plugin answers every question

    capabilities = ask("OPTIMIZATION_CAPABILITIES") or ()
    hint = ask("INFERENCE_PRECISION_HINT")
    profile = next((each for each in DEVICES if each.name == name.split(".", 1)[0]), None)
    return DeviceInfo(
        name=name,
        here=True,
        full_name=ask("FULL_DEVICE_NAME"),
        precisions=tuple(each for each in _PRECISIONS if each in capabilities),
        default_precision=None if hint is None else str(hint.get_type_name()),
        dynamic_shapes=None if profile is None else profile.dynamic_shapes,
    )


def require_device(device: str) -> None:
    """Make sure that something can run on a device here.

    Raises:
        DeviceError: The device is not known, or not on this machine; the message lists those that are.
    """
    profile = device_profile(device)
    here = available_devices()
    if profile.name == "AUTO" or any(name == device or name.split(".", 1)[0] == device for name in here):
        return
    raise DeviceError(
        f"Device '{device}' is not on this machine, expected one of: {', '.join((*here, 'AUTO'))}. "
        "Choose one of these, or run on a machine that has it (converting for it works here)."
    )
