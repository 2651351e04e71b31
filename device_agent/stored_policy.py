"""The policy in force over restarts: one that was rolled out, until the owner writes another file.

Boards without a clock cannot tell which of two files is newer. So beside a rolled-out policy stands
the digest of the owner's file at that moment: while it is the same, the rolled-out one holds.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from device_agent.wire.codec import digest_of
from firmware_profiles.errors import UserError
from firmware_profiles.policy import Policy, load_policy, parse_policy, policy_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredPolicy:
    """Where a rolled-out policy is kept.

    Attributes:
        path: its file in the agent's state folder.
        given: the owner's file, or None for the default policy.
    """

    path: Path
    given: Path | None

    def in_force(self) -> tuple[Policy, str]:
        """The policy that holds now, with the digest the coordinator knows it by.

        Raises:
            UserError: the owner's file cannot be used.
        """
        policy = Policy() if self.given is None else load_policy(self.given)
        try:
            if self._owner_path.read_text("ascii") == self._owner_digest():
                content = self.path.read_bytes()
                return parse_policy(content.decode("utf-8"), str(self.path)), digest_of(content)
        except FileNotFoundError:
            pass  # none was rolled out
        except (OSError, UserError, ValueError) as error:
            log.warning("stored policy ignored: %s", error)
        return policy, policy_digest(policy)

    def keep(self, content: bytes) -> None:
        """Keep a policy that was rolled out. A disk that refuses does not stop the agent."""
        try:
            _replace(self.path, content)
            _replace(self._owner_path, self._owner_digest().encode("ascii"))
        except OSError as error:
            log.warning("policy in force but lost at a restart: %s cannot be written: %s", self.path, error)

    @property
    def _owner_path(self) -> Path:
        return self.path.with_suffix(".owner")

    def _owner_digest(self) -> str:
        return "default" if self.given is None else digest_of(self.given.read_bytes())


def _replace(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(path)
