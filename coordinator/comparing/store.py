"""Results of finished runs, one file each, written whole or not at all and trusted only if they fit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from coordinator.comparing.plan import PlannedRun
from coordinator.comparing.summary import RunOutcome
from firmware_profiles.errors import UserError

FORMAT = "edgetide-run-1"
MAX_BYTES = 256 * 2**20


class StoredRun(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a file.

    Attributes:
        format: FORMAT. check: SHA-256 of the rest as canonical JSON, in hex.
        scenario, method, seed, digest: of the planned run. wall_s: seconds it took.
        result: of the simulation, without the devices' single pauses.
    """

    format: Literal["edgetide-run-1"]
    check: str
    scenario: str
    method: str
    seed: int
    digest: str
    wall_s: float
    result: dict[str, Any]


class Found(NamedTuple):
    """What there is of a run: its outcome, or what is wrong with the file, or neither."""

    outcome: RunOutcome | None
    complaint: str | None


def open_folder(folder: Path) -> None:
    """Make a folder that can be written to.

    Raises:
        UserError: that is not allowed there, or a file is in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"results cannot be written to {folder}: {error.strerror or error}; name another folder by --out"
        ) from error


def to_content(
    result: Mapping[str, Any], *, scenario: str, method: str, seed: int, digest: str, wall_s: float
) -> bytes:
    """The file of a finished run.

    Args:
        result: as `coordinator.twins.result.to_json` tells it.
        scenario: its name.
        method: its name.
        seed: of the run.
        digest: of the planned run.
        wall_s: seconds it took.
    """
    devices = [
        {key: value for key, value in device.items() if key != "pauses"}
        for device in result.get("devices", ())
    ]
    body = {
        "scenario": scenario,
        "method": method,
        "seed": seed,
        "digest": digest,
        "wall_s": wall_s,
        "result": {**result, "devices": devices},
    }
    return json.dumps({"format": FORMAT, "check": _check(body), **body}).encode()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it holds either what it held or all of the new.

    Raises:
        OSError: the disk refused.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def read_stored(path: Path, run: PlannedRun) -> Found:
    """Read the result of a run, if it is there, whole, and of this very run."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return Found(None, f"{path}: is larger than any result")
        return Found(_checked(path.read_bytes(), run), None)
    except FileNotFoundError:
        return Found(None, None)
    except OSError as error:
        return Found(None, f"{path}: cannot be read ({error.strerror or error})")
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        return Found(None, f"{path}: is no result of this run ({error})")


def _checked(content: bytes, run: PlannedRun) -> RunOutcome:
    """The outcome in a file's content.

    Raises:
        ValueError: it is torn, was changed, or is of another run.
    """
    stored = msgspec.json.decode(content, type=StoredRun)
    body = json.loads(content)
    del body["format"], body["check"]
    if stored.check != _check(body):
        raise ValueError("it was changed after it was written")
    for name in ("scenario", "method", "seed", "digest"):
        if (found := getattr(stored, name)) != getattr(run, name):
            raise ValueError(f"{name} is {found}")
    return msgspec.convert({**stored.result, "wall_s": stored.wall_s}, RunOutcome)


def _check(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
