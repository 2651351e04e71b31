"""What `edgetide agent bench` writes: a profile of this very board, and a table with measured seconds."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import psutil
import yaml

from device_agent.bench import Calibration
from firmware_profiles.errors import UserError
from firmware_profiles.profile import EngineName, FirmwareProfile, Speed
from firmware_profiles.resources import Snapshot
from models.table import ParetoTable, dump_table

_MAX_TEXT = 500
_MAX_SOURCE = 1000


def measured_profile(
    board: FirmwareProfile,
    engine: EngineName,
    calibration: Calibration,
    *,
    name: str,
    num_cores: int,
    basis: str,
) -> FirmwareProfile:
    """The profile of this board with the measured speed of one engine; those of others stay.

    Args:
        board: what the board is taken for.
        engine: that was timed.
        calibration: what was found.
        name: of the new profile.
        num_cores: of this machine.
        basis: what was measured, and when; cut off at 500 characters.
    """
    found = calibration.exact_coefficients
    speed = Speed(
        core_seconds_per_mac=_rounded(found.core_seconds_per_mac),
        core_seconds_per_step=_rounded(found.core_seconds_per_step),
        core_seconds_per_activation_byte=_rounded(found.core_seconds_per_activation_byte),
        measured=True,
        basis=basis[:_MAX_TEXT],
    )
    total_bytes = psutil.virtual_memory().total
    return msgspec.structs.replace(
        board,
        name=name,
        num_cores=num_cores,
        memory_total_bytes=total_bytes,
        memory_reserve_bytes=min(board.memory_reserve_bytes, total_bytes // 2),
        speeds={**board.speeds, engine: speed},
    )


def profile_name(path: Path) -> str:
    """The name that a profile in this file bears.

    Raises:
        UserError: nothing of the file's name can be one.
    """
    name = re.sub(r"[^a-z0-9-]+", "-", path.stem.lower()).strip("-")[:64]
    if not name:
        raise UserError(f"--profile-out {path}: call the file such as my-board.yaml; it names the profile")
    return name


def measured_table(table: ParetoTable, basis: str) -> ParetoTable:
    """The table with a line about its seconds in its source, at most 1000 characters in all."""
    line = f"; core_seconds: {basis}"[:_MAX_SOURCE]
    before = table.source.split("; core_seconds: ")[0]
    return msgspec.structs.replace(table, source=before[: _MAX_SOURCE - len(line)] + line)


def write_profile(path: Path, profile: FirmwareProfile, *, force: bool) -> None:
    """Write a profile file whole or not at all.

    Raises:
        UserError: it is there already and `force` is not given, or it cannot be written.
    """
    text = yaml.safe_dump(msgspec.to_builtins(profile), sort_keys=False, allow_unicode=True, width=100)
    _write(path, text, force=force)


def write_table(path: Path, table: ParetoTable, *, force: bool) -> None:
    """Write a table file whole or not at all.

    Raises:
        UserError: it is there already and `force` is not given, or it cannot be written.
    """
    _write(path, dump_table(table), force=force)


def refuse_existing(path: Path | None, option: str, *, force: bool) -> None:
    """Say so before anything is measured.

    Raises:
        UserError: the file is there already and `force` is not given.
    """
    if path is not None and path.exists() and not force:
        raise UserError(f"{option} {path} is there already; give --force to replace it, or another name")


def describe_state(before: Snapshot, after: Snapshot) -> str:
    """Temperature, throttling, clock and others' use of the CPU in one clause, as far as they are known."""
    parts = []
    if before.temperature_celsius is not None and after.temperature_celsius is not None:
        parts.append(f"{before.temperature_celsius:.0f} to {after.temperature_celsius:.0f} °C")
    if after.throttled is not None:
        parts.append("throttled" if before.throttled or after.throttled else "not throttled")
    if after.clock_hz is not None:
        parts.append(f"{after.clock_hz / 1e6:.0f} MHz")
    if after.cpu_others_fraction is not None:
        parts.append(f"others used {after.cpu_others_fraction:.0%} of the CPU")
    return ", ".join(parts)


def _write(path: Path, text: str, *, force: bool) -> None:
    refuse_existing(path, "the file", force=force)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, "utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.4g}")
