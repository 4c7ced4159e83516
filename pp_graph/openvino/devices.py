"""Devices: how their names are written, which are on this machine, and what each can take.

A meta device's profile follows from its members: static sizes if one of them needs those, states if all keep them,
precisions that all can be asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import DeviceError, TargetError
from pp_graph.openvino.core import openvino_core
from pp_graph.openvino.device_profiles import DEVICES, DeviceProfile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


_PLAIN: Final = re.compile(r"(?P<kind>[A-Z]+)(?P<index>(\.\d+)*)")
_WITH_BATCH: Final = re.compile(r"(?P<name>[^()]*)\((?P<batch>\d+)\)")


@dataclass(frozen=True)
class DeviceName:
    """A device as it was written, taken apart.

    Attributes:
        text: As written.
        profile: Profile of its kind; members are not looked at.
        members: Devices of a meta device, without the number of requests in a batch.
        batch: Requests in a batch, as in `BATCH:GPU(4)`; None where OpenVINO is to choose.
    """

    text: str
    profile: DeviceProfile
    members: tuple[DeviceName, ...] = ()
    batch: int | None = None


def parse_device(device: str) -> DeviceName:
    """Take the name of a device apart.

    Raises:
        DeviceError: No such device is known, or a meta device is written with members that it cannot have.
    """
    kind, colon, rest = device.partition(":")
    profile = _profile_of(kind)
    if profile is None or (profile.members is None and colon):
        raise _unknown(device)
    if profile.members is None:
        return DeviceName(device, profile)
    texts = rest.split(",") if rest else []
    if (colon and not texts) or len(texts) < profile.members.fewest:
        raise DeviceError(
            f"Device '{device}' names no device to run on, expected at least {max(1, profile.members.fewest)} behind "
            f"'{kind}:'. Write {_examples(profile)}."
        )
    if profile.members.most is not None and len(texts) > profile.members.most:
        raise DeviceError(
            f"Device '{device}' names {len(texts)} devices, expected {profile.members.most} for {kind}. "
            f"Write {_examples(profile)}."
        )
    batch = None
    if profile.members.batch:
        texts, batch = _without_batch(device, texts)
    members = tuple(_member(device, profile, text) for text in texts)
    twice = [member.text for index, member in enumerate(members) if member in members[:index]]
    if twice:
        raise DeviceError(f"Device '{device}' names {twice[0]} twice, expected each device once. Leave one out.")
    return DeviceName(device, profile, members, batch)


def split_devices(text: str) -> list[str]:
    """Take a list of devices apart, such as `CPU,GPU,HETERO:GPU,CPU`.

    What follows a meta device with members belongs to it, up to the next meta device.
    """
    found: list[str] = []
    for each in (part.strip() for part in text.split(",")):
        last = _profile_of(found[-1].partition(":")[0]) if found and ":" in found[-1] else None
        several = last is not None and last.members is not None and last.members.most is None
        mine = _profile_of(each)
        if several and each and (mine is None or mine.members is None) and ":" not in each:
            found[-1] += f",{each}"
        elif each:
            found.append(each)
    return found


def how_to_write() -> str:
    """The known devices and how the meta devices are written, for messages."""
    metas = [profile.written[-1] for profile in DEVICES if profile.members is not None]
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
    plain = ", ".join(each.name for each in DEVICES if each.members is None)
    if own is None and _profile_of(text.partition(":")[0]) is None:
        raise DeviceError(
            f"Device '{text}' in '{device}' is not known, expected one of: {plain}. Write {_examples(profile)}, "
            "without spaces."
        )
    if own is None or own.members is not None:
        raise DeviceError(
            f"Device '{device}' has '{text}' among its members, expected one of: {plain}. Meta devices cannot be "
            f"nested: write {_examples(profile)}."
        )
    return DeviceName(text, own)


MODES: Final = ("latency", "throughput")
"""What a device can be asked to be good at."""

RECOMMENDED: Final = "recommended"
"""Stands for f32 wherever the device can be asked for it, and for its own precision elsewhere."""

_HINT: Final = "INFERENCE_PRECISION_HINT"


def device_profile(device: str) -> DeviceProfile:
    """Profile of a device such as `CPU`, `GPU.1` or `HETERO:GPU,CPU`.

    Raises:
        DeviceError: No such device is known, or it is written with members that it cannot have.
    """
    return _merged(parse_device(device))


def _merged(name: DeviceName) -> DeviceProfile:
    profile = name.profile
    members = [member.profile for member in name.members]
    if profile.members is None or not members:
        return profile
    join: Callable[..., frozenset[str]] = (
        frozenset.intersection if profile.members.fall_back else lambda *sets: frozenset().union(*sets)
    )
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
    """Devices that OpenVINO sees on this machine; meta devices are not among them."""
    return tuple(openvino_core().available_devices)


def runnable_devices() -> str:
    """What can be run on here, for messages."""
    return f"{', '.join((*available_devices(), 'AUTO'))} (or a meta device of these, such as HETERO:CPU)"


def absent_members(device: str) -> tuple[str, ...]:
    """Devices that a name stands for and that are not on this machine.

    Raises:
        DeviceError: No such device is known.
    """
    name = parse_device(device)
    here = available_devices()
    asked = name.members or (() if name.profile.members is not None else (name,))
    # GPU stands for GPU.0 where there are several.
    return tuple(
        each.text for each in asked if not any(have == each.text or have.split(".", 1)[0] == each.text for have in here)
    )


def require_device(device: str) -> None:
    """Make sure that something can run on a device here.

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
    device: str, mode: str = "latency", inference_precision: str | None = RECOMMENDED
) -> dict[str, str]:
    """Properties to compile a model with, for a device that need not be on this machine.

    Args:
        device: Device, such as `CPU` or `HETERO:GPU,CPU`.
        mode: `latency` for one image as soon as possible, `throughput` for as many as possible.
        inference_precision: Precision to run the network in: `f32`, `bf16` or `f16`. None leaves it to the device.
            `recommended` is f32 on every device that can be asked for it, as decisions drift in others.

    Returns:
        Property name to value, for `core.compile_model(model, device, properties)`.

    Raises:
        DeviceError: No such device is known.
        TargetError: The mode is not known, or the device cannot be asked for the precision.
    """
    if mode not in MODES:
        raise TargetError(f"Mode '{mode}' is not known, expected one of: {', '.join(MODES)}. Choose one.")
    profile = device_profile(device)
    tuned = profile.latency if mode == "latency" else profile.throughput
    return {**tuned, **profile.always, **precision_properties(device, inference_precision)}


def precision_properties(device: str, inference_precision: str | None) -> dict[str, str]:
    """Properties that make a device run in a precision; see `recommended_properties`.

    Raises:
        DeviceError: No such device is known.
        TargetError: The device cannot be asked for the precision.
    """
    name = parse_device(device)
    able = _merged(name).precisions
    if inference_precision is None:
        return {}
    if inference_precision != RECOMMENDED:
        # What is not known of a device that chooses by itself is left to OpenVINO.
        if inference_precision not in able and not (name.profile.members is not None and not name.members):
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
    """A device that pp_graph knows, or that this machine has.

    Attributes:
        name: OpenVINO's name of it, such as `GPU.1`.
        here: Whether OpenVINO sees it on this machine, or can form it of what it sees.
        full_name: What it is; None where it is not here.
        precisions: Precisions that it computes in, as OpenVINO names them; empty where it is not here.
        default_precision: Precision in which it runs a network unless told otherwise; None where that is not known.
        dynamic_shapes: Whether inputs may have sizes that are not known at compilation; None for a kind of device that
            has no profile.
        profile: What its kind can take; None for a kind that has no profile.
    """

    name: str
    here: bool
    full_name: str | None
    precisions: tuple[str, ...]
    default_precision: str | None
    dynamic_shapes: bool | None
    profile: DeviceProfile | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON, with the recommended properties."""
        example = None if self.profile is None else _example(self)
        return {
            "name": self.name,
            "here": self.here,
            "full_name": self.full_name,
            "precisions": list(self.precisions),
            "default_precision": self.default_precision,
            "dynamic_shapes": self.dynamic_shapes,
            "profile": None if self.profile is None else self.profile.to_dict(),
            "example": example,
            "properties": {} if example is None else {mode: recommended_properties(example, mode) for mode in MODES},
        }


def _example(info: DeviceInfo) -> str:
    """A name that can be run as it is written; that of a meta device needs members."""
    assert info.profile is not None
    members = info.profile.members
    return info.profile.written[-1] if members is not None and members.fewest and ":" not in info.name else info.name


def list_devices() -> tuple[DeviceInfo, ...]:
    """Devices of this machine, then those that pp_graph converts for and that are not here, then meta devices."""
    here = [_describe(name) for name in available_devices()]
    kinds = {info.name.split(".", 1)[0] for info in here}
    others = [
        DeviceInfo(
            profile.name,
            profile.members is not None,
            None,
            (),
            profile.default_precision,
            profile.dynamic_shapes,
            profile,
        )
        for profile in _plain_first(DEVICES)
        if profile.name not in kinds
    ]
    return (*here, *others)


def describe_device(device: str) -> DeviceInfo:
    """What is known of one device; of a meta device without members, what is known of its kind.

    Raises:
        DeviceError: No such device is known.
    """
    kind = next((each for each in DEVICES if each.name == device and each.members is not None), None)
    if kind is not None:
        return DeviceInfo(device, True, None, (), kind.default_precision, kind.dynamic_shapes, kind)
    profile = device_profile(device)
    here = [name for name in available_devices() if device in (name, name.split(".", 1)[0])]
    if here:
        return _describe(here[0])
    return DeviceInfo(
        device, not absent_members(device), None, (), profile.default_precision, profile.dynamic_shapes, profile
    )


def _plain_first(profiles: Iterable[DeviceProfile]) -> list[DeviceProfile]:
    return sorted(profiles, key=lambda profile: profile.members is not None)


_PRECISIONS: Final = ("FP64", "FP32", "BF16", "FP16", "INT8", "INT4")


def _describe(name: str) -> DeviceInfo:
    core = openvino_core()

    def ask(what: str) -> Any:
        try:
            return core.get_property(name, what)
        except RuntimeError:
            return None  # not every plugin answers every question

    capabilities = ask("OPTIMIZATION_CAPABILITIES") or ()
    hint = ask(_HINT)
    profile = next((each for each in DEVICES if each.name == name.split(".", 1)[0]), None)
    return DeviceInfo(
        name=name,
        here=True,
        full_name=ask("FULL_DEVICE_NAME"),
        precisions=tuple(each for each in _PRECISIONS if each in capabilities),
        default_precision=None if hint is None else str(hint.get_type_name()),
        dynamic_shapes=None if profile is None else profile.dynamic_shapes,
        profile=profile,
    )
