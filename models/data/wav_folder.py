"""Folders of WAV files by class: PCM of 8, 16, 24 or 32 bits, any rate, any number of channels."""

from __future__ import annotations

import math
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import UserError
from models.data.class_folders import ClassFile, find_files, has_files
from models.data.raw import (
    AUDIO_SCALE,
    RawPart,
    RawSplit,
    Source,
    check_size,
    fraction,
    positive_float,
    positive_int,
    read_options,
)

SUFFIXES = frozenset({".wav", ".wave"})
DEFAULT_RATE_HZ = 8000
DEFAULT_SECONDS = 1.0
MAX_RATE_HZ = 1_000_000


def has_wav(folder: Path) -> bool:
    """Tell whether a folder holds class folders with WAV files."""
    return has_files(folder, SUFFIXES)


def read_wav_folder(source: Source) -> RawSplit:
    """Read <class>/<clip> or train/<class>/<clip> and test/<class>/<clip> as int16 [N, 1, rate * seconds].

    Channels are averaged, clips brought to one rate, cut at the end or filled with silence.
    Options: `rate_hz=8000`, `seconds=1`, `test=0.2` (share held out).

    Raises:
        UserError: a clip is damaged, empty or not PCM.
    """
    options = read_options(source, {"rate_hz": positive_int, "seconds": positive_float, "test": fraction})
    rate_hz = options.get("rate_hz", DEFAULT_RATE_HZ)
    num_values = round(rate_hz * options.get("seconds", DEFAULT_SECONDS))
    found = find_files(source.path, SUFFIXES, source.seed, options.get("test", 0.2))
    check_size(len(found.train) + len(found.test), 2 * num_values, str(source.path))
    return RawSplit(
        RawPart(*_read_all(found.train, rate_hz, num_values), str(source.path)),
        RawPart(*_read_all(found.test, rate_hz, num_values), str(source.path)),
        AUDIO_SCALE,
        0.0,
        found.class_names,
    )


def _read_all(
    files: Sequence[ClassFile], rate_hz: int, num_values: int
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    clips = np.zeros((len(files), 1, num_values), np.int16)
    for row, file in enumerate(files):
        clip = read_clip(file.path, rate_hz, num_values)
        clips[row, 0, : len(clip)] = clip
    return clips, np.array([file.label for file in files], np.int64)


def read_clip(path: Path, rate_hz: int, num_values: int) -> NDArray[np.int16]:
    """Read the first `num_values` of one clip at `rate_hz`, mono; shorter where the clip ends.

    Raises:
        UserError: it is damaged, empty or not PCM.
    """
    try:
        with wave.open(str(path), "rb") as file:
            own_rate_hz, num_channels, width = (
                file.getframerate(),
                file.getnchannels(),
                file.getsampwidth(),
            )
            if not 1 <= own_rate_hz <= MAX_RATE_HZ or num_channels < 1 or width not in {1, 2, 3, 4}:
                raise UserError(
                    f"{path}: {8 * width} bits, {num_channels} channels at {own_rate_hz} Hz cannot be read. "
                    "Convert it to 16-bit PCM."
                )
            num_wanted = -(-num_values * own_rate_hz // rate_hz) + 1
            # A header may promise anything; no frame is smaller than a byte.
            content = file.readframes(min(num_wanted, path.stat().st_size))
    except (wave.Error, EOFError) as error:
        raise UserError(
            f"{path}: not a readable WAV file ({error}). Convert it to 16-bit PCM or remove it."
        ) from None
    num_frames = len(content) // (width * num_channels)
    if num_frames == 0:
        raise UserError(f"{path}: holds no sound. Remove it or record it again.")
    values = _decode(content[: num_frames * width * num_channels], width)
    mono = values.reshape(num_frames, num_channels).mean(axis=1)
    mono = _resample(mono, own_rate_hz, rate_hz)[:num_values]
    return np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)


def _decode(content: bytes, width: int) -> NDArray[np.float64]:
    """PCM bytes to -1..1: 8 bits are unsigned, all others signed little-endian."""
    if width == 1:
        return np.frombuffer(content, np.uint8) / 128.0 - 1.0
    raw = np.frombuffer(content, np.uint8).reshape(-1, width)
    padded = np.zeros((len(raw), 4), np.uint8)  # the missing low bytes are zero
    padded[:, 4 - width :] = raw
    return padded.view("<i4")[:, 0] / 2.0**31


def _resample(values: NDArray[np.float64], from_hz: int, to_hz: int) -> NDArray[np.float64]:
    """Change the rate in the frequency domain: what the new rate cannot hold is cut off, not folded back."""
    if from_hz == to_hz:
        return values
    divisor = math.gcd(from_hz, to_hz)
    num_periods = -(-len(values) * divisor // from_hz)  # filled to a length that both rates divide: no drift
    num_in, num_out = num_periods * from_hz // divisor, num_periods * to_hz // divisor
    spectrum = np.fft.rfft(values, num_in)
    kept = np.zeros(num_out // 2 + 1, np.complex128)
    num_kept = min(len(kept), len(spectrum))
    kept[:num_kept] = spectrum[:num_kept]
    resampled = np.fft.irfft(kept, num_out) * (num_out / num_in)
    return resampled[: -(-len(values) * to_hz // from_hz)]
