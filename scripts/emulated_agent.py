"""Run `edgetide agent run` on an emulated board: scripts/emulated_agent.py OPTION… .

The agent replaces itself by a resident process. The kernel could not start that, a program of the board,
so here it is started through the emulator, which the environment variable EMULATOR names.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from coordinator.cli import main

replace_process = os.execve


def replace_on_board(path: str, argv: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """`os.execve` by way of the emulator."""
    emulator = os.environ["EMULATOR"]
    replace_process(emulator, [emulator, path, *argv[1:]], environment)


if __name__ == "__main__":
    os.execve = replace_on_board
    sys.argv = ["edgetide", "agent", "run", *sys.argv[1:]]
    sys.exit(main())
