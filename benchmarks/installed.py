"""How large an environment is: the files that installed packages list, without what pip itself brings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
OURS = "edgetide"
PACKAGES = ("firmware_profiles", "models", "dse", "device_agent", "coordinator")


def needed(requirements: Sequence[str]) -> set[str]:
    """Names of all packages that these requirements bring, themselves among them, by the installed metadata.

    Args:
        requirements: such as "edgetide[onnx]".

    Raises:
        PackageNotFoundError: one of them is not installed here.
    """
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    open_ = [Requirement(text) for text in requirements]
    while open_:
        wanted = open_.pop()
        name = _normalised(wanted.name)
        found.add(name)
        for extra in ("", *wanted.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in metadata.requires(name) or ():
                needs = Requirement(text)
                if needs.marker is None or needs.marker.evaluate({"extra": extra}):
                    open_.append(needs)
    return found


def installed_bytes(names: Iterable[str]) -> int:
    """Bytes of the files of these packages; of edgetide those of the checkout, which may be linked in."""
    return sum(_own_bytes() if name == OURS else _listed_bytes(name) for name in names)


def _listed_bytes(name: str) -> int:
    paths = (Path(str(file.locate())) for file in metadata.files(name) or ())
    return sum(path.stat().st_size for path in paths if path.is_file())


def _own_bytes() -> int:
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*"))
    return sum(path.stat().st_size for path in paths if path.is_file() and "__pycache__" not in path.parts)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
