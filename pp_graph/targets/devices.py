"""What each OpenVINO device can take, as data; a new device is one more profile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

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
