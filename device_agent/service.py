"""The resident agent process: `edgetide agent run` becomes this one, without the command line's libraries.

A board keeps the process for months; what parsed its options once need not stay in memory with it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from device_agent.logs import set_up_logs
from device_agent.runtime import AgentConfig, run_agent
from firmware_profiles.errors import EdgetideError
from firmware_profiles.process import own_argv

VARIABLE = "EDGETIDE_AGENT_SERVICE"
"""Carries the configuration: unlike arguments, only this user can read it, and it may hold a password."""


class Service(msgspec.Struct, frozen=True):
    """What the process is told."""

    config: AgentConfig
    log_level: str


def become(service: Service) -> NoReturn:
    """Replace this process, which keeps its pid."""
    text = msgspec.json.encode(service, enc_hook=_path_to_text).decode()
    # The arguments are for people who look at the process list.
    argv = own_argv("device_agent.service", "agent", "run", "--id", service.config.device)
    # A BLAS reads its number of threads once, when NumPy is loaded.
    threads = {"OPENBLAS_NUM_THREADS": str(service.config.num_threads)}
    os.execve(argv[0], argv, {**threads, **os.environ, VARIABLE: text})  # noqa: S606 - our own program


def main() -> None:
    """Run the agent this process was told to be."""
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        sys.exit("edgetide: error: this is started by `edgetide agent run`")
    service = msgspec.json.decode(text, type=Service, dec_hook=_text_to_path)
    try:
        set_up_logs(service.log_level)
        run_agent(service.config)
    except EdgetideError as error:
        sys.exit(f"edgetide: error: {error}")


def _path_to_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} is no part of an agent's configuration")


def _text_to_path(kind: type, value: Any) -> Path:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(f"{kind.__name__} is no part of an agent's configuration")


if __name__ == "__main__":
    main()
