"""Whether a 64-bit ARM board gets the agent with [onnx] from wheels alone: scripts/check-aarch64-wheels.

For every Python version it lets pip choose and download the wheels of `constraints.txt` for glibc 2.28
(Debian 10, Ubuntu 20.04, and whatever is newer), and prints what each package weighs. With `--install`
it installs them into a folder instead, for the board to take.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_VERSIONS = ("3.10", "3.11", "3.12", "3.13")
MACHINE = "aarch64"
GLIBC_MINORS = range(28, 16, -1)
"""A board with glibc 2.28 takes wheels that were built for 2.17 (the first on this machine) to 2.28."""

PACKAGES = ("firmware_profiles", "models", "dse", "device_agent", "coordinator")


def platform_options() -> list[str]:
    """Options of pip for every wheel tag that such a board takes."""
    tags = [f"manylinux_2_{minor}_{MACHINE}" for minor in GLIBC_MINORS] + [f"manylinux2014_{MACHINE}"]
    return [option for tag in tags for option in ("--platform", tag)]


def pip_command(python_version: str, action: str, source: Path) -> list[str]:
    """A pip command that decides as on such a board, from wheels only, for edgetide and what it needs."""
    return [
        sys.executable,
        str(ROOT / "scripts/pip_for.py"),
        python_version,
        MACHINE,
        action,
        "--disable-pip-version-check",
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={python_version}",
        *platform_options(),
        f"--constraint={ROOT / 'constraints.txt'}",
        f"{source}[onnx]",
    ]


def copy_source(folder: Path) -> Path:
    """What edgetide is built from, apart from the checkout: building leaves files behind."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def wheel_sizes_bytes(folder: Path) -> dict[str, int]:
    """Package and version -> size of its wheel."""
    wheels = sorted(folder.glob("*.whl"), key=lambda path: path.name.lower())
    return {"-".join(path.name.split("-")[:2]): path.stat().st_size for path in wheels}


def collect(python_version: str, source: Path) -> dict[str, int] | str:
    """Download the wheels for one Python version; returns their sizes, or what pip said is missing."""
    with tempfile.TemporaryDirectory(prefix="edgetide-wheels-") as folder:
        argv = [*pip_command(python_version, "download", source), "--dest", folder]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return wheel_sizes_bytes(Path(folder))
    return _reason(done.stdout, done.stderr)


def _reason(said: str, errors: str) -> str:
    """The lines of pip's output that name what is missing."""
    _, _, conflict = said.partition("The conflict is caused by:\n")
    lines = [line for line in errors.splitlines() if line.startswith("ERROR")]
    return "\n".join([*lines, *conflict.partition("\n\n")[0].splitlines()]) or errors


def print_table(sizes_bytes: dict[str, dict[str, int]]) -> None:
    """One line per package and version, one column of MB per Python version, and the sums."""
    names = sorted({name for found in sizes_bytes.values() for name in found}, key=str.lower)
    width = max(len(name) for name in names)
    print(f"{'wheel, MB':{width}}" + "".join(f"{version:>8}" for version in sizes_bytes))
    for name in names:
        cells = (f"{found[name] / 1e6:8.2f}" if name in found else " " * 8 for found in sizes_bytes.values())
        print(f"{name:{width}}" + "".join(cells))
    print(f"{'all':{width}}" + "".join(f"{sum(found.values()) / 1e6:8.2f}" for found in sizes_bytes.values()))


def check(versions: list[str], source: Path) -> int:
    """Download and print; 1 if a package has no wheel for some Python version."""
    found, missing = {}, {}
    for version in versions:
        print(f"Python {version} …", file=sys.stderr)
        collected = collect(version, source)
        (missing if isinstance(collected, str) else found)[version] = collected
    if found:
        print_table(found)
    for version, said in missing.items():
        print(f"Python {version} on {MACHINE}: not every package comes as a wheel:\n{said}", file=sys.stderr)
    return 1 if missing else 0


def main() -> int:
    """Check, or install."""
    made = argparse.ArgumentParser(
        description="Whether 64-bit ARM gets the agent with [onnx] from wheels alone."
    )
    made.add_argument("--python-version", action="append", choices=PYTHON_VERSIONS, help="only this one")
    made.add_argument("--install", metavar="FOLDER", help="install for the one Python version named")
    options = made.parse_args()
    versions = options.python_version or list(PYTHON_VERSIONS)
    if options.install and len(versions) != 1:
        made.error("--install wants one --python-version")
    with tempfile.TemporaryDirectory(prefix="edgetide-source-") as folder:
        source = copy_source(Path(folder))
        if not options.install:
            return check(versions, source)
        argv = [*pip_command(versions[0], "install", source), "--target", options.install, "--quiet"]
        return subprocess.run(argv, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
