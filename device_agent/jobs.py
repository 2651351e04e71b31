"""What drives training jobs: a port of the agent's node."""

from __future__ import annotations

from typing import Protocol

from device_agent.orders import JobRequest
from firmware_profiles.resources import Pause


class Jobs(Protocol):
    """Drives training jobs; tells the node by `job_progress`, `job_paused`, `job_done`, `job_failed`."""

    def start(self, request: JobRequest) -> None:
        """Train this order; give up what ran before."""
        ...

    def stop(self) -> None:
        """Give up what runs, within one mini-batch."""
        ...

    def prepare(self) -> None:
        """A run is on: load what training needs."""
        ...

    def install(self, kind: str, content: bytes) -> None:
        """Put a policy or a table in force at the next mini-batch.

        Raises:
            EdgetideError: it cannot be used; what was in force stays.
        """
        ...

    def cpu_share_fraction(self) -> float | None:
        """The share granted last, None before the first."""
        ...

    def allowance(self) -> float | Pause:
        """Cores that learning may take on average at this moment, by the policy, or why it may not learn."""
        ...

    def core_seconds(self) -> float:
        """Core-seconds computed so far."""
        ...
