"""Who may enter a broker of ours and which topics each may use: one rule set for both brokers.

The passwords file is mosquitto's own format (PBKDF2-HMAC-SHA-512), which the embedded broker reads too.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Mapping

from device_agent.wire.topics import COORDINATOR, ROOT, check_id
from firmware_profiles.errors import UserError

_ITERATIONS = 101
"""mosquitto 2.0's own count. The secrets are generated, 24 random bytes, so stretching adds nothing."""

WRITE = tuple(f"{ROOT}/+/%u/{leaf}" for leaf in ("status", "hello", "telemetry", "up", "up/bulk", "peer/+"))
"""Where a device may publish; %u is its name."""

READ = (
    f"{ROOT}/+/%u/down/#",
    f"{ROOT}/+/{COORDINATOR}/#",
    f"{ROOT}/+/+/peer/%u",
    f"{ROOT}/+/+/peer/all",
)
"""What a device may subscribe to."""


def covers(allowed: str, asked: str) -> bool:
    """Whether everything that the filter or topic `asked` matches is matched by the filter `allowed` too."""
    rule, levels = allowed.split("/"), asked.split("/")
    for index, part in enumerate(rule):
        if part == "#":
            return True
        if index >= len(levels) or levels[index] == "#" or part not in ("+", levels[index]):
            return False
    return len(rule) == len(levels)


def may_publish(user: str, topic: str) -> bool:
    """Whether a user may publish to a topic."""
    return user == COORDINATOR or any(covers(rule.replace("%u", user), topic) for rule in WRITE)


def may_subscribe(user: str, pattern: str) -> bool:
    """Whether a user may subscribe to a filter: every topic it could match must be allowed."""
    return user == COORDINATOR or any(covers(rule.replace("%u", user), pattern) for rule in READ)


def may_use_client_id(user: str, client_id: str) -> bool:
    """Whether a user may connect under a client id: its name, after a fleet's and before `bulk` at most.

    Otherwise any device could end any other's connection by taking its client id.
    """
    return re.fullmatch(rf"([a-z0-9-]+[-/])?{re.escape(user)}([-/]bulk)?", client_id) is not None


def mosquitto_rules() -> str:
    """The same rules as a mosquitto acl_file."""
    lines = [f"user {COORDINATOR}", "topic readwrite #", ""]
    lines += [f"pattern write {rule}" for rule in WRITE]
    lines += [f"pattern read {rule}" for rule in READ]
    return "\n".join(lines) + "\n"


def hash_passwords(credentials: Mapping[str, str]) -> str:
    """The passwords file for user name -> password.

    Raises:
        UserError: a user name is not an id.
    """
    return "".join(
        f"{check_id(user, 'user name')}:{_hash(password)}\n" for user, password in credentials.items()
    )


def read_passwords(text: str, where: str) -> dict[str, str]:
    """Parse a passwords file into user name -> hash.

    Raises:
        UserError: a line is not `name:$7$iterations$salt$hash`.
    """
    hashes: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        user, colon, stored = line.partition(":")
        if not colon or not re.fullmatch(r"\$7\$\d{1,7}\$[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+", stored):
            raise UserError(
                f"{where}:{number} is not name:$7$iterations$salt$hash: make it with mosquitto_passwd"
            )
        hashes[user] = stored
    return hashes


def password_is(password: str, stored: str) -> bool:
    """Whether a password belongs to a stored hash; takes the same time for every wrong one."""
    _, _, iterations, salt, digest = stored.split("$")
    return hmac.compare_digest(
        _stretch(password, base64.b64decode(salt), int(iterations)), base64.b64decode(digest)
    )


def _hash(password: str) -> str:
    salt = os.urandom(12)
    digest = _stretch(password, salt, _ITERATIONS)
    return f"$7${_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _stretch(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations, dklen=64)
