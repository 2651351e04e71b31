"""Topics as validated values: edgetide/v1/<fleet>/<sender>/<leaf...>.

A device publishes only under its own id and subscribes only to its own `down/#`, to the
coordinator's fleet-wide topics and to its neighbours' `peer/<itself>` and `peer/all`.
"""

from __future__ import annotations

import re

from firmware_profiles.errors import PeerError, UserError

ROOT = "edgetide/v1"
COORDINATOR = "coordinator"
RESERVED_IDS = frozenset({COORDINATOR, "all"})
_ID = re.compile(r"[a-z0-9-]{1,64}")


def check_id(value: str, what: str = "device id") -> str:
    """Return the id if it is legal.

    Raises:
        UserError: it is not `[a-z0-9-]{1,64}`, or a device took a reserved name.
    """
    if not _ID.fullmatch(value) or (what == "device id" and value in RESERVED_IDS):
        raise UserError(
            f"{what} {value!r} is not usable: use 1 to 64 of a-z, 0-9 and '-', but not {sorted(RESERVED_IDS)}"
        )
    return value


def device_topic(fleet: str, device: str, leaf: str) -> str:
    """Where a device publishes: leaf is status, hello, telemetry, up, up/bulk, peer/<id> or peer/all."""
    return f"{ROOT}/{fleet}/{device}/{leaf}"


def down_topic(fleet: str, device: str, *, bulk: bool = False) -> str:
    """Where the coordinator writes to one device."""
    return f"{ROOT}/{fleet}/{device}/down/bulk" if bulk else f"{ROOT}/{fleet}/{device}/down"


def fleet_topic(fleet: str, leaf: str) -> str:
    """Where the coordinator writes to everybody: leaf is run (retained)."""
    return f"{ROOT}/{fleet}/{COORDINATOR}/{leaf}"


def parse_topic(topic: str) -> tuple[str, str, str]:
    """Split a topic into (fleet, sender, leaf).

    Raises:
        PeerError: it is not one of ours.
    """
    parts = topic.split("/", 4)
    if (
        len(parts) != 5
        or "/".join(parts[:2]) != ROOT
        or not (_ID.fullmatch(parts[2]) and _ID.fullmatch(parts[3]))
    ):
        raise PeerError(f"topic {topic!r} is not {ROOT}/<fleet>/<id>/<leaf>")
    return parts[2], parts[3], parts[4]


def matches(pattern: str, topic: str) -> bool:
    """Whether an MQTT filter with + and # matches a topic."""
    filters, levels = pattern.split("/"), topic.split("/")
    for index, part in enumerate(filters):
        if part == "#":
            return True
        if index >= len(levels) or part not in ("+", levels[index]):
            return False
    return len(filters) == len(levels)
