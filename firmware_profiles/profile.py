"""What a board is: cores, memory, sensors, and how fast it trains."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from firmware_profiles.errors import UserError
from firmware_profiles.fit import nearest
from firmware_profiles.strict import load_strict, parse_strict

GENERIC = "generic-linux"
_MODEL_FILES = ("proc/device-tree/model", "sys/firmware/devicetree/base/model")
_MAX_MODEL_BYTES = 4096

_PROFILES = resources.files("firmware_profiles") / "profiles"

Name = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,64}$", description="1 to 64 of a-z, 0-9 and '-'")]
Text = Annotated[str, Meta(min_length=1, max_length=500)]
Bytes = Annotated[int, Meta(ge=1, le=2**53)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e6)]
SensorName = Literal["cpu", "memory", "battery", "temperature", "throttling", "clock"]
EngineName = Literal["torch", "onnx", "ort-training", "numpy"]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where the values of a profile come from."""

    title: Text
    url: Annotated[str, Meta(pattern=r"^https://", max_length=500, description="an https:// address")]


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """How long one core of the board computes for one mini-batch with one engine.

    Attributes:
        core_seconds_per_mac: seconds of one core per training MAC (forward and backward).
        core_seconds_per_step: seconds of one core that every mini-batch takes besides.
        core_seconds_per_activation_byte: and per byte of the mini-batch that the backward pass reads.
        measured: whether somebody measured it on this board. An estimate serves simulations only;
            on a device the steps really made replace it.
        basis: what was measured, or how it was estimated.
    """

    core_seconds_per_mac: Annotated[float, Meta(ge=0.0, le=1.0)]
    core_seconds_per_step: Seconds
    core_seconds_per_activation_byte: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    measured: bool
    basis: Text

    def __post_init__(self) -> None:
        """Refuse a board that takes no time."""
        if not (self.core_seconds_per_mac or self.core_seconds_per_activation_byte):
            raise ValueError("core_seconds_per_mac and core_seconds_per_activation_byte cannot both be 0")


class CoreWatts(msgspec.Struct, frozen=True, kw_only=True):
    """Power that a core which computes takes beyond an idle one.

    Attributes:
        value: watts of one core.
        measured: whether somebody measured it on this board.
        basis: what was measured, or who says so.
    """

    value: Annotated[float, Meta(gt=0.0, le=1e4)]
    measured: bool
    basis: Text


class FirmwareProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of board.

    Attributes:
        name: how it is called on the command line and the wire.
        board: its name for people.
        device_tree_models: what `/proc/device-tree/model` begins with on such a board.
        source: where num_cores, memory and temperature come from.
        num_cores: CPU cores.
        memory_total_bytes: memory of the smallest variant; a device reads its own.
        memory_reserve_bytes: memory that training never takes, for the system and its other work.
        throttle_celsius: where the board begins to slow itself down, None if it is not known.
        sensors: what the board publishes, for `agent doctor` and simulations.
        speeds: by engine; an engine that nobody measured or estimated is left out.
        core_watts: for joules; None where nobody knows.
    """

    name: Name
    board: Text
    device_tree_models: Annotated[tuple[Text, ...], Meta(max_length=32)]
    source: Source
    num_cores: Annotated[int, Meta(ge=1, le=65536)]
    memory_total_bytes: Bytes
    memory_reserve_bytes: Annotated[int, Meta(ge=0, le=2**53)]
    throttle_celsius: Annotated[float, Meta(ge=20.0, le=150.0)] | None
    sensors: Annotated[tuple[SensorName, ...], Meta(max_length=16)]
    speeds: dict[EngineName, Speed]
    core_watts: CoreWatts | None = None


def core_seconds(
    profile: FirmwareProfile, engine: str, macs: float, activation_bytes: float = 0.0
) -> float | None:
    """Seconds of one core for one mini-batch, or None if nobody knows.

    Args:
        profile: of the board.
        engine: by name.
        macs: training MACs of the mini-batch.
        activation_bytes: what the mini-batch's backward pass reads.
    """
    for name, speed in profile.speeds.items():
        if name == engine:
            return (
                speed.core_seconds_per_step
                + macs * speed.core_seconds_per_mac
                + activation_bytes * speed.core_seconds_per_activation_byte
            )
    return None


def list_profiles() -> tuple[str, ...]:
    """Names of the profiles that ship with edgetide."""
    return tuple(
        sorted(item.name[: -len(".yaml")] for item in _PROFILES.iterdir() if item.name.endswith(".yaml"))
    )


def load_profile(name_or_path: str | Path) -> FirmwareProfile:
    """Load a profile by its shipped name or from a YAML file.

    Raises:
        UserError: no such name, or the file cannot be read or does not fit.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith((".yaml", ".yml")):
        return load_strict(text, FirmwareProfile)
    if text not in list_profiles():
        raise UserError(
            f'there is no profile "{text}" (for a file give its path, such as ./{text}.yaml); '
            f"{nearest(text, list_profiles())}"
        )
    shipped = _PROFILES / f"{text}.yaml"
    return parse_strict(shipped.read_text(encoding="utf-8"), f"profiles/{text}.yaml", FirmwareProfile)


def detect_profile(root: str | Path = "/") -> FirmwareProfile:
    """Tell the board by its device tree; what is not known is `generic-linux`.

    Args:
        root: where `proc` and `sys` are, "/" on a device, a captured tree in tests.
    """
    model = next((found for path in _MODEL_FILES if (found := _read_model(Path(root) / path))), "")
    profiles = [load_profile(name) for name in list_profiles()]
    # The longest match wins, so that "… Orin Nano" is not taken for a "… Orin".
    matches = [
        (len(prefix), p) for p in profiles for prefix in p.device_tree_models if model.startswith(prefix)
    ]
    return max(matches, key=lambda match: match[0])[1] if matches else load_profile(GENERIC)


def _read_model(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_MODEL_BYTES)
    except OSError:
        return ""
    return content.split(b"\0")[0].decode("utf-8", "replace").strip()
