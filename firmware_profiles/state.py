"""Where edgetide keeps what must outlive a process."""

from __future__ import annotations

import os
from pathlib import Path


def default_state(name: str) -> Path:
    """`$XDG_STATE_HOME/edgetide/<name>`, or `~/.local/state/edgetide/<name>`.

    References:
        XDG Base Directory Specification 0.8: a relative value is ignored.
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    return root / "edgetide" / name
