"""Run pip as it decides on another machine: scripts/pip_for.py PYTHON_VERSION MACHINE PIP_ARGUMENT… .

`pip --python-version --platform` chooses wheels for another machine, but evaluates environment markers
(`; python_version < '3.11'`) for the interpreter that runs it. Here the standard library's answers that
markers are made from are those of the other machine, so that both agree.
"""

from __future__ import annotations

import platform
import runpy
import sys


def main() -> None:
    """Become pip."""
    if len(sys.argv) < 4 or sys.argv[1].count(".") != 1:
        sys.exit(
            "usage: pip_for.py PYTHON_VERSION MACHINE PIP_ARGUMENT…, such as 3.11 aarch64 download numpy"
        )
    version, machine, *arguments = sys.argv[1:]
    major, minor = version.split(".")
    platform.machine = lambda: machine
    platform.python_version = lambda: f"{version}.0"
    platform.python_version_tuple = lambda: (major, minor, "0")
    sys.argv = ["pip", *arguments]
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
