"""Load of others over a day: recordings of virtual machines, and a process that resembles them."""

from __future__ import annotations

import functools
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from coordinator.twins.trace_kinds import Vm
from firmware_profiles.errors import UserError

Samples = NDArray[np.float64]

KEY = "util"
MAX_BYTES = 256 * 2**20
SYNTHETIC_SAMPLES = 288
"""Of one recording, as of one day at 5 minutes."""

SLOW_CORRELATION = 0.98
SLOW_FRACTION = 0.77


def recorded_load(vm: Vm, device: int, seed: int) -> Samples:
    """The share of the CPU that others use in one device's recording.

    Args:
        vm: which file, and what to make of it.
        device: number of the device.
        seed: draws who gets which recording.

    Returns:
        float64 [T] within low..high.

    Raises:
        UserError: the file cannot be used.
    """
    path = Path(vm.file)
    try:
        info = path.stat()
    except OSError as error:
        raise UserError(f"trace {vm.file} cannot be read: {error.strerror or error}") from error
    util = _load(path, info.st_size, info.st_mtime_ns)
    mine = np.random.default_rng((seed, len(util))).permutation(len(util))[device % len(util)]
    percent = util[mine, :, 0].astype(np.float64)
    if vm.rank:
        return vm.low + (vm.high - vm.low) * even_ranks(percent)
    return np.clip(percent / 100, vm.low, vm.high)


def synthetic_ranks(seed: str) -> Samples:
    """A recording of nobody, its ranks spread evenly over 0..1: float64 [SYNTHETIC_SAMPLES].

    A first-order autoregressive process with noise on top, y = sqrt(w) s + sqrt(1 - w) e with
    s[t] = r s[t-1] + sqrt(1 - r^2) e'[t], r = SLOW_CORRELATION and w = SLOW_FRACTION. Both were chosen
    so that ranks of 288 samples resemble those of the 1188 recordings of Google's cluster data (CPU use of
    virtual machines, a day at 5 minutes). As availability, 1 - 0.9 x rank, measured on both:

    ===================================  ==========  =======
    .                                    recordings  process
    ===================================  ==========  =======
    mean, by the ranks                         0.55     0.55
    standard deviation, by the ranks           0.26     0.26
    autocorrelation at 1, 6, 12 samples   0.61 0.56 0.52  0.63 0.53 0.42
    deviation / mean within 6 samples          0.26     0.29
    deviation / mean within 12 samples         0.30     0.32
    ===================================  ==========  =======

    References:
        Google cluster-usage traces; the ranks stand for the load of a machine that is used to the full.
    """
    rng = np.random.default_rng(np.frombuffer(seed.encode(), np.uint8))
    shocks = rng.standard_normal(SYNTHETIC_SAMPLES) * math.sqrt(1 - SLOW_CORRELATION**2)
    slow = np.empty(SYNTHETIC_SAMPLES)
    slow[0] = rng.standard_normal()
    for index in range(1, SYNTHETIC_SAMPLES):
        slow[index] = SLOW_CORRELATION * slow[index - 1] + shocks[index]
    noise = rng.standard_normal(SYNTHETIC_SAMPLES)
    return even_ranks(math.sqrt(SLOW_FRACTION) * slow + math.sqrt(1 - SLOW_FRACTION) * noise)


def even_ranks(values: Samples) -> Samples:
    """Ranks, evenly from 0 to 1; equal values get the mean of theirs. One value alone gets 0.5."""
    if len(values) == 1:
        return np.full(1, 0.5)
    rising = np.sort(values)
    first, last = np.searchsorted(rising, values, "left"), np.searchsorted(rising, values, "right") - 1
    return (first + last) / (2 * (len(values) - 1))


@functools.lru_cache(maxsize=4)
def _load(path: Path, _size: int, _modified_ns: int) -> NDArray[np.floating]:
    """Read `util`; pickled content is never opened, nothing is allocated on a header's word alone."""
    where = f"trace {path}: array {KEY!r}"
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{KEY}.npy")
            with archive.open(member) as file:
                version = npy.read_magic(file)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = read(file)
            if dtype.kind not in "fiu" or len(shape) != 3 or shape[2] != 2 or min(shape) < 1:
                raise UserError(f"{where} is {dtype} {list(shape)}: numbers [n, samples, 2] are wanted")
            num_bytes = dtype.itemsize * math.prod(shape)
            if num_bytes > min(MAX_BYTES, member.file_size):
                raise UserError(f"{where} has {num_bytes} bytes by its header, more than there are or may be")
            with archive.open(member) as file:
                util = npy.read_array(file, allow_pickle=False)
    except KeyError:
        raise UserError(f"{where} is missing: write it with numpy.savez(file, {KEY}=...)") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise UserError(f"{where} cannot be read ({error}): write the file again with numpy.savez") from None
    if not np.isfinite(util).all():
        raise UserError(f"{where} holds values that are not finite: leave such recordings out")
    return util
