"""How a Python process of ours is started."""

from __future__ import annotations

import sys


def own_argv(module: str, *arguments: str) -> list[str]:
    """The command that runs `main()` of a module of ours with these arguments.

    `python -m` would look into the current folder first, and there is a `models` in many a user's.
    """
    run = (
        "import sys; sys.path[:] = [folder for folder in sys.path if folder]; sys.argv[0] = 'edgetide'; "
        f"from {module} import main; sys.exit(main())"
    )
    return [sys.executable, "-c", run, *arguments]
