"""Device names, the devices of this machine, and the capabilities of each device.

A meta device needs static shapes if one of its members does. It has the states and inference precisions that all of its
members have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import DeviceError, TargetError
from pp_graph.openvino.core import openvino_core
from pp_graph.openvino.device_profiles import DEVICES, DeviceProfile

if TYPE_CHECKING:
    from collections.abc import Callable


_PLAIN: Final = re.compile(r"(?P<kind>[A-Z]+)(?P<index>(\.\d+)*)")
_WITH_BATCH: Final = re.compile(r"(?P<name>[^()]*)\((?P<batch>\d+)\)")


@dataclass(frozen=True)
class DeviceName:
    """A parsed device name.

    Attributes:
        text: The name as written.
        profile: Profile of its kind, without regard to members.
        members: Devices of a meta device, without the number of requests in a batch.
        batch: Requests in a batch, as in `BATCH:GPU(4)`; None if OpenVINO chooses.
    """

    text: str
    profile: DeviceProfile
    members: tuple[DeviceName, ...] = ()
    batch: int | None = None


def parse_device(device: str) -> DeviceName:
    """Parse a device name.

    Raises:
        DeviceError: The device is unknown, or a meta device has members that it cannot have.
    """
    kind, colon, rest = device.partition(":")
    profile = _profile_of(kind)
    if profile is None or (not profile.meta and colon):
        raise _unknown(device)
    if not profile.meta:
        return DeviceName(device, profile)
    texts = rest.split(",") if rest else []
    if not texts and (colon or not profile.members_optional):
        raise DeviceError(
            f"Device '{device}' names no device to run on, expected at least 1 behind '{kind}:'. "
            f"Write {_examples(profile)}."
        )
    batch = None
    if profile.groups_requests:
        if len(texts) > 1:
            raise DeviceError(
                f"Device '{device}' names {len(texts)} devices, expected 1 for {kind}. Write {_examples(profile)}."
            )
        texts, batch = _without_batch(device, texts)
    members = tuple(_member(device, profile, text) for text in texts)
    twice = [member.text for index, member in enumerate(members) if member in members[:index]]
    if twice:
        raise DeviceError(f"Device '{device}' names {twice[0]} twice, expected each device once. Leave one out.")
    return DeviceName(device, profile, members, batch)


def split_devices(text: str) -> list[str]:
    """Split a list of devices, such as `CPU,GPU,HETERO:GPU,CPU`.

    Plain devices after a meta device with members belong to it, up to the next meta device.
    """
    devices: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        last = _profile_of(devices[-1].partition(":")[0]) if devices and ":" in devices[-1] else None
        profile = _profile_of(part)
        if last and last.meta and not last.groups_requests and ":" not in part and not (profile and profile.meta):
            devices[-1] += f",{part}"
        else:
            devices.append(part)
    return devices


def how_to_write() -> str:
    """List the known devices and how to write meta devices, for messages."""
    metas = [profile.written[-1] for profile in DEVICES if profile.meta]
    return (
        f"{', '.join(profile.name for profile in DEVICES)} (with an index such as GPU.1 where there are several; "
        f"meta devices are written {', '.join(metas)})"
    )


def _profile_of(kind: str) -> DeviceProfile | None:
    match = _PLAIN.fullmatch(kind)
    for profile in DEVICES:
        if match and profile.name == match["kind"] and (profile.indexed or not match["index"]):
            return profile
    return None


def _unknown(device: str) -> DeviceError:
    capital = _profile_of(device.partition(":")[0].upper()) is not None and device != device.upper()
    return DeviceError(
        f"Device '{device}' is not known, expected one of: {how_to_write()}."
        + (f" Names are in capitals: {device.upper()}." if capital else "")
    )


def _examples(profile: DeviceProfile) -> str:
    return " or ".join(profile.written)


def _without_batch(device: str, texts: list[str]) -> tuple[list[str], int | None]:
    name = texts[0]
    if "(" not in name and ")" not in name:
        return texts, None
    match = _WITH_BATCH.fullmatch(name)
    if match is None or int(match["batch"]) < 1:
        raise DeviceError(
            f"Device '{device}' has no number of requests that can be read, expected one from 1 on in parentheses. "
            "Write BATCH:GPU(4)."
        )
    return [match["name"]], int(match["batch"])


def _member(device: str, profile: DeviceProfile, text: str) -> DeviceName:
    own = _profile_of(text)
    plain = ", ".join(each.name for each in DEVICES if not each.meta)
    if own is None and _profile_of(text.partition(":")[0]) is None:
        raise DeviceError(
            f"Device '{text}' in '{device}' is not known, expected one of: {plain}. Write {_examples(profile)}, "
            "without spaces."
        )
    if own is None or own.meta:
        raise DeviceError(
            f"Device '{device}' has '{text}' among its members, expected one of: {plain}. Meta devices cannot be "
            f"nested: write {_examples(profile)}."
        )
    return DeviceName(text, own)


PERFORMANCE_HINTS: Final = ("latency", "throughput")
"""What OpenVINO can optimise a compiled model for."""

RECOMMENDED: Final = "recommended"
"""f32 if the device can be asked for it, otherwise the device's default."""

_HINT: Final = "INFERENCE_PRECISION_HINT"


def device_profile(device: str) -> DeviceProfile:
    """Return the profile of a device such as `CPU`, `GPU.1` or `HETERO:GPU,CPU`.

    Raises:
        DeviceError: The device is unknown, or a meta device has members that it cannot have.
    """
    return _merged(parse_device(device))


def _merged(name: DeviceName) -> DeviceProfile:
    profile = name.profile
    members = [member.profile for member in name.members]
    if not members:
        return profile
    join: Callable[..., frozenset[str]] = frozenset.intersection if profile.falls_back else frozenset.union
    defaults = {member.default_precision for member in members}
    dynamic = [each for each in (profile, *members) if each.dynamic_remark]
    return replace(
        profile,
        dynamic_shapes=all(each.dynamic_shapes for each in (profile, *members)),
        default_precision=defaults.pop() if len(defaults) == 1 else None,
        precisions=tuple(
            precision for precision in members[0].precisions if all(precision in each.precisions for each in members)
        ),
        states=all(each.states for each in (profile, *members)),
        unsupported=join(*(member.unsupported for member in members)),
        on_host=join(*(member.on_host for member in members)),
        dynamic_remark="; ".join(each.dynamic_remark or "" for each in dynamic) or None,
        remarks=(*profile.remarks, *(f"{each.name}: {remark}" for each in members for remark in each.remarks)),
    )


def available_devices() -> tuple[str, ...]:
    """Return the devices that OpenVINO sees on this machine, without meta devices."""
    return tuple(openvino_core().available_devices)


def runnable_devices() -> str:
    """List the devices of this machine, for messages."""
    return f"{', '.join((*available_devices(), 'AUTO'))} (or a meta device of these, such as HETERO:CPU)"


def absent_members(device: str) -> tuple[str, ...]:
    """Return the devices behind a name that are not on this machine.

    Raises:
        DeviceError: The device is unknown.
    """
    name = parse_device(device)
    here = available_devices()
    asked = name.members or (() if name.profile.meta else (name,))
    # GPU stands for GPU.0 where there are several.
    return tuple(
        each.text for each in asked if not any(have == each.text or have.split(".", 1)[0] == each.text for have in here)
    )


def require_device(device: str) -> None:
    """Raise if a device, or a member of it, is not on this machine.

    Raises:
        DeviceError: The device is not known, or not on this machine; the message lists those that are.
    """
    absent = absent_members(device)
    if absent:
        which = f"Device '{device}'" if absent[0] == device else f"Device '{absent[0]}' of '{device}'"
        raise DeviceError(
            f"{which} is not on this machine, expected one of: {runnable_devices()}. Nothing can be proven or measured "
            f"here for a device that is absent: run this on a machine that has it. pp-graph convert --device {device} "
            "works here, and reports what could be checked without it."
        )


def recommended_properties(
    device: str, performance_hint: str = "latency", inference_precision: str | None = RECOMMENDED
) -> dict[str, str]:
    """Return properties to compile a model with. The device need not be on this machine.

    Args:
        device: Device, such as `CPU` or `HETERO:GPU,CPU`.
        performance_hint: `latency` for one image as soon as possible, `throughput` for as many as possible.
        inference_precision: `f32`, `bf16` or `f16`. None means the device's default; `recommended` means f32 on every
            device that can be asked for it, since other precisions drift.

    Returns:
        Property name to value, for `core.compile_model(model, device, properties)`.

    Raises:
        DeviceError: The device is unknown.
        TargetError: The performance hint is unknown, or the device cannot be asked for the precision.
    """
    if performance_hint not in PERFORMANCE_HINTS:
        raise TargetError(
            f"Mode '{performance_hint}' is not known, expected one of: {', '.join(PERFORMANCE_HINTS)}. Choose one."
        )
    profile = device_profile(device)
    return {
        "PERFORMANCE_HINT": performance_hint.upper(),
        **profile.hint_properties.get(performance_hint, {}),
        **profile.always,
        **precision_properties(device, inference_precision),
    }


def precision_properties(device: str, inference_precision: str | None) -> dict[str, str]:
    """Return the properties that select an inference precision; see `recommended_properties`.

    Raises:
        DeviceError: The device is unknown.
        TargetError: The device cannot be asked for the precision.
    """
    name = parse_device(device)
    able = _merged(name).precisions
    if inference_precision is None:
        return {}
    if inference_precision != RECOMMENDED:
        # What is not known of a device that chooses by itself is left to OpenVINO.
        if inference_precision not in able and not (name.profile.meta and not name.members):
            raise TargetError(
                f"Device '{device}' cannot be asked to run in {inference_precision}, expected one of: "
                f"{', '.join(able) or 'its own'}. Ask for one of these, or leave it to the device "
                "(inference_precision=None, --inference-precision default)."
            )
        return {_HINT: inference_precision}
    if "f32" in able:
        return {_HINT: "f32"}
    # A hint for all would be refused by the member that lacks it.
    some = [member.text for member in name.members if "f32" in member.profile.precisions]
    return {"DEVICE_PROPERTIES": f"{{{','.join(f'{each}:{{{_HINT}:f32}}' for each in some)}}}"} if some else {}


@dataclass(frozen=True)
class DeviceInfo:
    """A device of this machine, or one that pp_graph knows.

    Attributes:
        name: OpenVINO's name of it, such as `GPU.1`.
        here: True if OpenVINO sees it on this machine; for a meta device, if it sees all members.
        profile: Profile of its kind; None for a kind that pp_graph does not know.
        default_precision: Default inference precision; None if not known.
        full_name: OpenVINO's description; None if the device is absent.
        precisions: Precisions that it computes in, by OpenVINO's names; empty if the device is absent.
    """

    name: str
    here: bool
    profile: DeviceProfile | None
    default_precision: str | None
    full_name: str | None = None
    precisions: tuple[str, ...] = ()

    @property
    def dynamic_shapes(self) -> bool | None:
        """False if inputs need fixed shapes; None if not known."""
        return None if self.profile is None else self.profile.dynamic_shapes

    @property
    def example(self) -> str | None:
        """A name that can be used as it is; that of a meta device has members."""
        if self.profile is None:
            return None
        needs_members = self.profile.meta and not self.profile.members_optional and ":" not in self.name
        return self.profile.written[-1] if needs_members else self.name

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-serialisable values, with the recommended properties."""
        example = self.example
        return {
            "name": self.name,
            "here": self.here,
            "full_name": self.full_name,
            "precisions": list(self.precisions),
            "default_precision": self.default_precision,
            "dynamic_shapes": self.dynamic_shapes,
            "profile": None if self.profile is None else self.profile.to_dict(),
            "example": example,
            "properties": {}
            if example is None
            else {hint: recommended_properties(example, hint) for hint in PERFORMANCE_HINTS},
        }


def list_devices() -> tuple[DeviceInfo, ...]:
    """Return the devices of this machine, then known devices that are absent, then meta devices."""
    here = [_ask_openvino(name) for name in available_devices()]
    kinds = {info.name.split(".", 1)[0] for info in here}
    others = [
        DeviceInfo(profile.name, profile.meta, profile, profile.default_precision)
        for profile in DEVICES
        if profile.name not in kinds
    ]
    return (*here, *others)


def describe_device(device: str) -> DeviceInfo:
    """Describe one device; for a meta device without members, its kind.

    Raises:
        DeviceError: The device is unknown.
    """
    kind = _profile_of(device)
    if kind is not None and kind.meta:
        return DeviceInfo(device, True, kind, kind.default_precision)
    profile = device_profile(device)
    here = [name for name in available_devices() if device in (name, name.split(".", 1)[0])]
    if here:
        return _ask_openvino(here[0])
    return DeviceInfo(device, not absent_members(device), profile, profile.default_precision)


def _ask_openvino(name: str) -> DeviceInfo:
    def ask(key: str) -> Any:
        try:
            return openvino_core().get_property(name, key)
        except RuntimeError:
            return None  # not every plugin has every property

    capabilities = ask("OPTIMIZATION_CAPABILITIES") or ()
    default = ask(_HINT)
    return DeviceInfo(
        name,
        here=True,
        profile=next((each for each in DEVICES if each.name == name.split(".", 1)[0]), None),
        default_precision=None if default is None else str(default.get_type_name()),
        full_name=ask("FULL_DEVICE_NAME"),
        precisions=tuple(each for each in _PRECISIONS if each in capabilities),
    )


_PRECISIONS: Final = ("FP64", "FP32", "BF16", "FP16", "INT8", "INT4")
