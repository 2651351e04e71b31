"""Policies and tables that the coordinator rolls out, on their way to where they act."""

from __future__ import annotations

from dataclasses import dataclass, field

from device_agent.effects import Effect, Fetch, Install
from device_agent.wire.messages import RolledOut, Rollout
from device_agent.wire.topics import COORDINATOR


@dataclass
class Rollouts:
    """Those whose content is still to come."""

    _kinds: dict[str, str] = field(default_factory=dict)

    def __contains__(self, digest: str) -> bool:
        """Whether a rollout waits for this content."""
        return digest in self._kinds

    def begin(self, rollout: Rollout) -> Effect:
        """Put it in force, or fetch it first."""
        ref = rollout.content
        if ref.data is not None:
            return Install(rollout.kind, ref.digest, ref.data)
        self._kinds[ref.digest] = rollout.kind
        return Fetch(COORDINATOR, ref.digest, ref.size_bytes)

    def take(self, digest: str) -> str | None:
        """The kind of what waits for this content, which is here or cannot be had; None: nothing does."""
        return self._kinds.pop(digest, None)


def outcome(kind: str, digest: str, error: str | None) -> RolledOut:
    """What is said of a rollout; None: it is in force."""
    return RolledOut(kind=kind, digest=digest, in_force=error is None, reason=(error or "")[:500])
