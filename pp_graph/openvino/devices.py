"""Device names, the devices of this machine, and the capabilities of each device.

A meta device needs static shapes if a member does. It supports the states and inference precisions that all members
support.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import DeviceError, TargetError
from pp_graph.openvino.core import openvino_core
from pp_graph.openvino.device_profiles import DEVICES, DeviceProfile
from pp_graph.reprs import short_repr

if TYPE_CHECKING:
    from collections.abc import Callable

    from pp_graph.fusion import Provenance


_PRECISIONS: Final = ("FP64", "FP32", "BF16", "FP16", "INT8", "INT4")
_PLAIN: Final = re.compile(r"(?P<kind>[A-Z]+)(?P<index>(\.\d+)*)")
_WITH_BATCH: Final = re.compile(r"(?P<name>[^()]*)\((?P<batch>\d+)\)")


@dataclass(frozen=True)
class DeviceName:
    """A parsed device name.

    Attributes:
        text: The name as written.
        kind: Profile of its kind, regardless of members.
        members: Members of a meta device.
        batch: Requests in a batch, as in `BATCH:GPU(4)`; None if OpenVINO chooses.
    """

    text: str
    kind: DeviceProfile
    members: tuple[DeviceName, ...] = ()
    batch: int | None = None

    @cached_property
    def profile(self) -> DeviceProfile:
        """Profile of the device; that of a meta device depends on its members."""
        if not self.members:
            return self.kind
        members = [member.kind for member in self.members]
        both = (self.kind, *members)
        join: Callable[..., frozenset[str]] = frozenset.intersection if self.kind.falls_back else frozenset.union
        defaults = {member.default_precision for member in members}
        return replace(
            self.kind,
            dynamic_shapes=all(each.dynamic_shapes for each in both),
            default_precision=defaults.pop() if len(defaults) == 1 else None,
            precisions=tuple(
                precision
                for precision in members[0].precisions
                if all(precision in member.precisions for member in members)
            ),
            states=all(each.states for each in both),
            unsupported=join(*(member.unsupported for member in members)),
            on_host=join(*(member.on_host for member in members)),
            dynamic_remark="; ".join(each.dynamic_remark for each in both if each.dynamic_remark) or None,
            remarks=(
                *self.kind.remarks,
                *(f"{member.name}: {remark}" for member in members for remark in member.remarks),
            ),
        )


def parse_device(device: str) -> DeviceName:
    """Parse a device name.

    Raises:
        DeviceError: The device is unknown, or a meta device has invalid members.
    """
    name, colon, rest = device.partition(":")
    kind = _kind_of(name)
    if kind is None or (not kind.meta and colon):
        raise _unknown(device)
    if not kind.meta:
        return DeviceName(device, kind)
    texts = rest.split(",") if rest else []
    if not texts and (colon or not kind.members_optional):
        raise DeviceError(
            f"Device '{device}' names no device to run on, expected at least 1 after '{name}:'. "
            f"Write {_examples(kind)}."
        )
    batch = None
    if kind.groups_requests:
        if len(texts) > 1:
            raise DeviceError(
                f"Device '{device}' names {len(texts)} devices, expected 1 for {name}. Write {_examples(kind)}."
            )
        texts[0], batch = _split_batch(device, texts[0])
    members = tuple(_member(device, kind, text) for text in texts)
    twice = [member.text for index, member in enumerate(members) if member in members[:index]]
    if twice:
        raise DeviceError(f"Device '{device}' names {twice[0]} twice, expected each device once. Leave one out.")
    return DeviceName(device, kind, members, batch)


def split_devices(text: str) -> list[str]:
    """Split a list of devices, such as `CPU,GPU,HETERO:GPU,CPU`.

    Plain devices after a meta device with members are members too, up to the next meta device.
    """
    devices: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        last = _kind_of(devices[-1].partition(":")[0]) if devices and ":" in devices[-1] else None
        kind = _kind_of(part)
        if last and last.meta and not last.groups_requests and ":" not in part and not (kind and kind.meta):
            devices[-1] += f",{part}"
        else:
            devices.append(part)
    return devices


def _kind_of(name: str) -> DeviceProfile | None:
    match = _PLAIN.fullmatch(name)
    for profile in DEVICES:
        if match and profile.name == match["kind"] and (profile.indexed or not match["index"]):
            return profile
    return None


def _unknown(device: str) -> DeviceError:
    lower_case = _kind_of(device.partition(":")[0].upper()) is not None and device != device.upper()
    metas = [kind.written[-1] for kind in DEVICES if kind.meta]
    return DeviceError(
        f"Device '{device}' is not known, expected one of: {', '.join(kind.name for kind in DEVICES)} (with an index "
        f"such as GPU.1 if there are several; meta devices are written {', '.join(metas)})."
        + (f" Names are in capitals: {device.upper()}." if lower_case else "")
    )


def _examples(kind: DeviceProfile) -> str:
    return " or ".join(kind.written)


def _split_batch(device: str, member: str) -> tuple[str, int | None]:
    """Split `GPU(4)` into the member and the number of requests; None without parentheses."""
    if "(" not in member and ")" not in member:
        return member, None
    match = _WITH_BATCH.fullmatch(member)
    if match is None or int(match["batch"]) < 1:
        raise DeviceError(
            f"Device '{device}' has an invalid number of requests, expected a whole number from 1 in parentheses. "
            "Write BATCH:GPU(4)."
        )
    return match["name"], int(match["batch"])


def _member(device: str, meta: DeviceProfile, text: str) -> DeviceName:
    kind = _kind_of(text)
    plain = ", ".join(each.name for each in DEVICES if not each.meta)
    if kind is None and _kind_of(text.partition(":")[0]) is None:
        raise DeviceError(
            f"Device '{text}' in '{device}' is not known, expected one of: {plain}. Write {_examples(meta)}, "
            "without spaces."
        )
    if kind is None or kind.meta:
        raise DeviceError(
            f"Device '{device}' has '{text}' among its members, expected one of: {plain}. Meta devices cannot be "
            f"nested: write {_examples(meta)}."
        )
    return DeviceName(text, kind)


PERFORMANCE_HINTS: Final = ("latency", "throughput")
"""Goals that OpenVINO can optimise a compiled model for."""

OWN: Final = "own"
"""Inference precision that a search chose for an artifact, otherwise f32."""

RECOMMENDED: Final = "recommended"
"""Inference precision f32 if the device supports it, otherwise the device's default."""

PRECISION_HINT: Final = "INFERENCE_PRECISION_HINT"


def device_profile(device: str) -> DeviceProfile:
    """Return the profile of a device such as `CPU`, `GPU.1` or `HETERO:GPU,CPU`.

    Raises:
        DeviceError: The device is unknown, or a meta device has invalid members.
    """
    return parse_device(device).profile


def available_devices() -> tuple[str, ...]:
    """Return the devices of this machine, without meta devices."""
    return tuple(openvino_core().available_devices)


def runnable_devices() -> str:
    """List the devices of this machine, for messages."""
    return f"{', '.join((*available_devices(), 'AUTO'))} (or a meta device of these, such as HETERO:CPU)"


def absent_members(device: str) -> tuple[str, ...]:
    """Return the device, or members of a meta device, that are not on this machine.

    Raises:
        DeviceError: The device is unknown.
    """
    name = parse_device(device)
    plain = name.members or (() if name.kind.meta else (name,))
    # If there are several GPUs, GPU means GPU.0.
    here = {text for device in available_devices() for text in (device, device.split(".", 1)[0])}
    return tuple(each.text for each in plain if each.text not in here)


def require_device(device: str) -> None:
    """Raise if a device, or a member of it, is not on this machine.

    Raises:
        DeviceError: The device is unknown, or not on this machine; the message lists the devices of this machine.
    """
    absent = absent_members(device)
    if absent:
        subject = f"Device '{device}'" if absent[0] == device else f"Device '{absent[0]}' of '{device}'"
        raise DeviceError(
            f"{subject} is not on this machine, expected one of: {runnable_devices()}. Run this on a machine that has "
            f"it. pp-graph convert --device {device} works here too, and reports the checks that it could run."
        )


def recommended_properties(
    device: str, performance_hint: str = "latency", inference_precision: str | None = RECOMMENDED
) -> dict[str, str]:
    """Return properties to compile a model with; the device may be absent.

    Args:
        device: Device, such as `CPU` or `HETERO:GPU,CPU`.
        performance_hint: `latency` for the shortest time per image, `throughput` for the most images per second.
        inference_precision: `f32`, `bf16` or `f16`. None means the device's default; `recommended` means f32 if the
            device supports it, since other precisions drift.

    Returns:
        Property name to value, for `core.compile_model(model, device, properties)`.

    Raises:
        DeviceError: The device is unknown.
        TargetError: The performance hint is unknown, or the device does not support the precision.
    """
    if performance_hint not in PERFORMANCE_HINTS:
        raise TargetError(f"Mode '{performance_hint}' is not known, expected one of: {', '.join(PERFORMANCE_HINTS)}.")
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
        TargetError: The device does not support the precision.
    """
    name = parse_device(device)
    supported = name.profile.precisions
    if inference_precision is None:
        return {}
    if inference_precision != RECOMMENDED:
        # AUTO without members may choose a device that supports the precision.
        if inference_precision not in supported and not (name.kind.meta and not name.members):
            raise TargetError(
                f"Device '{device}' does not support inference precision {inference_precision}, expected one of: "
                f"{', '.join(supported) or 'default'}. Choose another, or the device's default "
                "(inference_precision=None, --inference-precision default)."
            )
        return {PRECISION_HINT: inference_precision}
    if "f32" in supported:
        return {PRECISION_HINT: "f32"}
    # A member without f32 would refuse a hint for all members.
    hints = [f"{member.text}:{{{PRECISION_HINT}:f32}}" for member in name.members if "f32" in member.kind.precisions]
    return {"DEVICE_PROPERTIES": f"{{{','.join(hints)}}}"} if hints else {}


def chosen_precision(provenance: Provenance, device: str) -> str | None:
    """Return the inference precision that a search chose for a converted model.

    Returns:
        `f32`, `bf16` or `f16`; None if there was no search, or if the device does not support the precision.

    Raises:
        DeviceError: The device is unknown.
    """
    precision = (provenance.conversion or {}).get("inference_precision")
    return precision if precision is not None and precision in device_profile(device).precisions else None


@dataclass(frozen=True)
class DeviceInfo:
    """A device of this machine, or a kind of device that pp_graph knows.

    Attributes:
        name: OpenVINO's name, such as `GPU.1`.
        here: True if the device, or every member of a meta device, is on this machine.
        profile: Its profile; None if pp_graph does not know the kind.
        default_precision: Default inference precision; None if unknown.
        full_name: OpenVINO's description; None if the device is absent.
        precisions: Supported precisions by OpenVINO's names, such as `FP32`; empty if the device is absent.
    """

    name: str
    here: bool
    profile: DeviceProfile | None
    default_precision: str | None
    full_name: str | None = None
    precisions: tuple[str, ...] = ()

    __repr__ = short_repr

    @property
    def dynamic_shapes(self) -> bool | None:
        """False if inputs need fixed shapes; None if unknown."""
        return None if self.profile is None else self.profile.dynamic_shapes

    @property
    def example(self) -> str | None:
        """A name that can be used directly; for a meta device, one with members."""
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
    """Describe a device, or the kind of a meta device without members.

    Raises:
        DeviceError: The device is unknown.
    """
    kind = _kind_of(device)
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
    default = ask(PRECISION_HINT)
    return DeviceInfo(
        name,
        here=True,
        profile=next((each for each in DEVICES if each.name == name.split(".", 1)[0]), None),
        default_precision=None if default is None else str(default.get_type_name()),
        full_name=ask("FULL_DEVICE_NAME"),
        precisions=tuple(each for each in _PRECISIONS if each in capabilities),
    )
