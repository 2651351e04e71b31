"""Makes the study's data sets out of the raw files they come in.

    python -m benchmarks.prepare_data --data RAW --out DIR [--only fashion cifar digits traces]

| written | from | content |
|---|---|---|
| `fashion-mnist/` | `fashion-mnist/` | the four idx files as they are |
| `cifar10.npz` | `cifar10-jpeg/cifar10_jpeg_pack.npz` | 50000 + 10000 images 32x32x3, as their JPEGs decode |
| `digits.npz` | `fsdd/fsdd_int16_8khz.npz` | spoken digits, 32 log-mel bands x 47 frames; takes 0-4 test |
| `vm_traces.npz` | `google-cluster-vm/vm_cpu_mem_f32.npz` | shares of CPU and memory in use, every 5 min |

All but the last are what `--data` takes. The same raw files give the same bytes.

CIFAR-10 is a lossy re-encoding here: accuracies do not compare with those published for the original.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import UserError
from models.data.raw import check_size

WINDOW = 4000
"""Samples of a spoken digit, at 8 kHz; about 70 % of the clips are shorter and get silence around them."""

NUM_TEST_TAKES = 5
PARTS_PER_SPEAKER = 17
"""Owners per speaker: with 6 speakers 102, enough for a hundred devices of one voice each (nearly)."""

SAMPLE_RATE_HZ = 8000
FRAME, HOP, NUM_BANDS = 256, 80, 32
"""Samples of a frame (32 ms), samples from one to the next (10 ms), and mel bands."""

IMAGE_SIZE = 32
MAX_CLIPS = 1_000_000

Arrays = dict[str, NDArray[Any]]


def read_pack(path: Path, keys: tuple[str, ...]) -> Arrays:
    """The named arrays of an npz file; nothing pickled is opened.

    Raises:
        UserError: the file is not there or not whole, or an array is missing.
    """
    try:
        with np.load(path, allow_pickle=False) as pack:
            return {key: pack[key] for key in keys}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: cannot be read: {error}. Give the folder of raw data with --data."
        ) from None


def decode_images(header: NDArray[np.uint8], data: NDArray[np.uint8], offsets: NDArray[Any]) -> NDArray[Any]:
    """JPEG images of one size whose common header is stored once.

    Args:
        header: uint8 [H], goes before each image's own bytes.
        data: uint8 [B], the images' bytes one after another.
        offsets: [N + 1], where each begins in `data`, and the end of the last.

    Returns:
        uint8 [N, 32, 32, 3].

    Raises:
        UserError: Pillow is not installed, or an image is not a JPEG of that size.
    """
    check_size(len(offsets) - 1, IMAGE_SIZE * IMAGE_SIZE * 3, "images")
    images = np.empty((len(offsets) - 1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    first = header.tobytes()
    for index, (start, stop) in enumerate(pairwise(offsets.tolist())):
        images[index] = decode_image(first + data[start:stop].tobytes(), index)
    return images


def decode_image(data: bytes, index: int) -> NDArray[Any]:
    """One JPEG as uint8 [32, 32, 3]; raises as `decode_images`."""
    try:
        from PIL import Image  # noqa: PLC0415 (an optional package)
    except ImportError as error:
        raise UserError(f"images are decoded with Pillow: install edgetide[images] ({error})") from error
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise UserError(f"image {index} is no JPEG: {error}. Copy the file again.") from None
    if pixels.shape != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise UserError(f"image {index} is of shape {pixels.shape}, not {IMAGE_SIZE}x{IMAGE_SIZE} pixels")
    return pixels


def cifar(raw: Path) -> Arrays:
    """CIFAR-10 (Krizhevsky 2009), re-encoded as JPEG."""
    parts = ("train", "test")
    keys = tuple(f"{part}_{kind}" for part in parts for kind in ("bytes", "offsets", "y"))
    pack = read_pack(raw / "cifar10-jpeg" / "cifar10_jpeg_pack.npz", ("header", *keys))
    arrays: Arrays = {}
    for part in parts:
        images = decode_images(pack["header"], pack[f"{part}_bytes"], pack[f"{part}_offsets"])
        # The pack is sorted by class, and whoever takes the first few would get one class.
        order = np.argsort(np.random.Philox(key=0).random_raw(len(images)), kind="stable")
        arrays[f"x_{part}"], arrays[f"y_{part}"] = images[order], pack[f"{part}_y"][order]
    return arrays


def loudest_window(clip: NDArray[np.int16], length: int) -> NDArray[np.int16]:
    """The stretch of most energy; a shorter clip is centred in silence.

    Args:
        clip: int16 [T].
        length: samples that come out.

    Returns:
        int16 [length].
    """
    missing = length - len(clip)
    if missing >= 0:
        return np.pad(clip, (missing // 2, missing - missing // 2))
    energy = np.concatenate([[0], np.cumsum(clip.astype(np.int64) ** 2)])
    start = int(np.argmax(energy[length:] - energy[:-length]))
    return clip[start : start + length]


def mel_filters(num_bands: int, frame: int, rate_hz: int) -> NDArray[np.float64]:
    """Triangles of equal width on the mel scale, from 0 to half the sampling rate.

    Returns:
        float64 [num_bands, frame // 2 + 1].

    References:
        Davis and Mermelstein, Comparison of parametric representations for monosyllabic word recognition,
        IEEE Transactions on Acoustics, Speech, and Signal Processing 28(4), 1980.
    """
    highest_mel = 2595 * np.log10(1 + rate_hz / 2 / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, highest_mel, num_bands + 2) / 2595) - 1)
    bins_hz = np.arange(frame // 2 + 1) * rate_hz / frame
    low, centre, high = corners_hz[:-2, None], corners_hz[1:-1, None], corners_hz[2:, None]
    return np.maximum(0, np.minimum((bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)))


def log_mel(window: NDArray[np.int16]) -> NDArray[np.float32]:
    """Logarithm of the energy in each mel band over time, about -1..1.

    Args:
        window: int16 [WINDOW].

    Returns:
        float32 [NUM_BANDS, 1 + (WINDOW - FRAME) // HOP].
    """
    frames = np.lib.stride_tricks.sliding_window_view(window / 32768, FRAME)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME), axis=1)) ** 2
    energy = power @ mel_filters(NUM_BANDS, FRAME, SAMPLE_RATE_HZ).T
    return ((np.log(energy.T + 1e-6) + 5) / 10).astype(np.float32)


def digits(raw: Path) -> Arrays:
    """Free Spoken Digits by speaker; an owner is one speaker on some of the takes.

    References:
        Jakobovski et al., Free Spoken Digit Dataset: the test is takes 0 to 4 of each speaker and digit.
    """
    keys = ("samples", "offsets", "label", "speaker", "take")
    pack = read_pack(raw / "fsdd" / "fsdd_int16_8khz.npz", keys)
    offsets = pack["offsets"]
    if len(offsets) - 1 > MAX_CLIPS:
        raise UserError(f"{len(offsets) - 1} clips are more than the {MAX_CLIPS} that are read")
    clips = np.stack(
        [
            log_mel(loudest_window(pack["samples"][start:stop], WINDOW))
            for start, stop in pairwise(offsets.tolist())
        ]
    )
    take = pack["take"].astype(np.int64)
    is_test = take < NUM_TEST_TAKES
    owner = pack["speaker"].astype(np.int64) * PARTS_PER_SPEAKER + take % PARTS_PER_SPEAKER
    return {
        "x_train": clips[~is_test],
        "y_train": pack["label"][~is_test],
        "x_test": clips[is_test],
        "y_test": pack["label"][is_test],
        "owner_train": owner[~is_test],
    }


def traces(raw: Path) -> Arrays:
    """Load of virtual machines of a Google cluster: `util` float32 [n, 288, 2], CPU and memory in %."""
    pack = read_pack(raw / "google-cluster-vm" / "vm_cpu_mem_f32.npz", ("util", "vm"))
    return {"util": np.clip(pack["util"], 0.0, 100.0), "vm": pack["vm"]}


def copy_fashion(raw: Path, out: Path) -> None:
    """Copy the idx files of Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv 1708.07747).

    Raises:
        UserError: they are not there.
    """
    files = sorted((raw / "fashion-mnist").glob("*-ubyte.gz"))
    if not files:
        raise UserError(f"{raw / 'fashion-mnist'}: holds no idx files (train-images-idx3-ubyte.gz, …)")
    (out / "fashion-mnist").mkdir(exist_ok=True)
    for file in files:
        shutil.copyfile(file, out / "fashion-mnist" / file.name)
    print(f"{out / 'fashion-mnist'}: {len(files)} files")


FILES: dict[str, tuple[str, Callable[[Path], Arrays]]] = {
    "cifar": ("cifar10.npz", cifar),
    "digits": ("digits.npz", digits),
    "traces": ("vm_traces.npz", traces),
}


def main(arguments: list[str] | None = None) -> int:
    """Write the chosen files; returns the exit status."""
    parser = argparse.ArgumentParser(description="Make the study's data sets out of raw files.")
    parser.add_argument("--data", metavar="RAW", type=Path, required=True, help="folder of the raw files")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder that is written to")
    parser.add_argument("--only", nargs="+", choices=["fashion", *FILES], default=["fashion", *FILES])
    options = parser.parse_args(arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        if "fashion" in options.only:
            copy_fashion(options.data, options.out)
        for kind in (kind for kind in FILES if kind in options.only):
            name, make = FILES[kind]
            arrays: dict[str, Any] = make(options.data)
            partial = options.out / f"{name}.partial"
            with partial.open("wb") as file:
                np.savez(file, **arrays)
            partial.replace(options.out / name)
            shapes = ", ".join(f"{key} {list(array.shape)}" for key, array in arrays.items())
            print(f"{options.out / name}: {shapes}")
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
