"""How devices are written: `CPU`, `GPU.1`, `AUTO:GPU,CPU`, `HETERO:GPU,CPU`, `BATCH:GPU(4)`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pp_graph.errors import DeviceError
from pp_graph.targets.devices.profiles import DEVICES, DeviceProfile

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
