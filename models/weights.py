"""Weights as bytes: files (safetensors), blobs for the wire (MessagePack), digests, and their checks."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from firmware_profiles.errors import PeerError, UserError
from models.subnet import Array

_FLOAT32 = np.dtype("<f4")


class _Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """The same bytes as the wire's `Tensor`: raw little-endian values."""

    dtype: Annotated[str, Meta(max_length=16)]
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**53)], ...], Meta(max_length=8)]
    data: memoryview  # of the blob itself: read without a copy


class _Tensors(msgspec.Struct, frozen=True, kw_only=True):
    """The same bytes as the wire's `Tensors`."""

    tensors: dict[Annotated[str, Meta(max_length=256)], _Tensor]


_DECODER = msgspec.msgpack.Decoder(_Tensors)


def digest(weights: Mapping[str, Array]) -> str:
    """SHA-256 of the tensors in order of their names: name, dtype, shape and little-endian bytes of each."""
    state = hashlib.sha256()
    for name in sorted(weights):
        values = np.ascontiguousarray(weights[name])
        values = values.astype(values.dtype.newbyteorder("<"), copy=False)
        state.update(repr((name, values.dtype.str, weights[name].shape)).encode())
        state.update(values.tobytes())
    return state.hexdigest()


def pack(weights: Mapping[str, Array]) -> bytes:
    """Write float32 tensors as a weights blob: MessagePack {tensors: {name: {dtype, shape, data}}}.

    Raises:
        TypeError: a tensor is not float32.
    """
    tensors = {}
    for name, values in weights.items():
        if values.dtype != np.float32:
            raise TypeError(f"tensor {name!r} is {values.dtype}; weights are float32")
        data = np.ascontiguousarray(values, _FLOAT32).tobytes()
        tensors[name] = _Tensor(dtype="float32", shape=values.shape, data=memoryview(data))
    return msgspec.msgpack.encode(_Tensors(tensors=tensors))


def unpack(data: bytes, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Read a weights blob of exactly the expected tensors, all finite.

    Nothing larger than `data` itself is ever allocated.

    Args:
        data: from `pack`, or from anywhere.
        expected: name -> shape of every tensor that must be there, and no other may.

    Returns:
        Name -> writable float32 array, in the order of `expected`.

    Raises:
        PeerError: it is anything else; the message names the tensor and what was found.
    """
    try:
        found = _DECODER.decode(data).tensors
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"a weights blob of {len(data)} bytes is not readable: {error}") from error
    _check_names(found.keys(), expected)
    weights = {}
    for name, shape in expected.items():
        tensor = found[name]
        if tensor.dtype != "float32":
            raise PeerError(f"tensor {name!r} is {_shown(tensor.dtype)}, float32 is expected")
        if tensor.shape != tuple(shape):
            raise PeerError(f"tensor {name!r} has shape {list(tensor.shape)}, {list(shape)} is expected")
        num_bytes = 4 * math.prod(shape)
        if len(tensor.data) != num_bytes:
            raise PeerError(
                f"tensor {name!r} has {len(tensor.data)} bytes, shape {list(shape)} takes {num_bytes}"
            )
        weights[name] = np.frombuffer(tensor.data, _FLOAT32).astype(np.float32).reshape(shape)
    check_finite(weights)
    return weights


def check_finite(weights: Mapping[str, Array]) -> None:
    """Check that there is no NaN and no infinity.

    Raises:
        PeerError: there is; it names the first such tensor and entry.
    """
    for name, values in weights.items():
        flat = values.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(np.dot(flat, flat)):
                continue  # NaN and infinity would have shown in the sum, which costs one pass
        finite = np.isfinite(values)
        if not finite.all():
            place = [int(axis[0]) for axis in np.nonzero(~finite)]
            value = float(values[tuple(place)])
            raise PeerError(f"tensor {name!r} holds {value} at {place}: values must be finite")


def check_against(weights: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that the tensors are exactly those expected: float32, finite, of these shapes.

    Raises:
        PeerError: a tensor is missing, too many, or of another shape or dtype; the message names it.
    """
    check_shapes(weights, shapes)
    check_finite(weights)


def check_shapes(weights: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that the tensors are those expected, float32 and of these shapes; not their values.

    Raises:
        PeerError: a tensor is missing, too many, or of another shape or dtype; the message names it.
    """
    _check_names(weights.keys(), shapes)
    for name, shape in shapes.items():
        values = weights[name]
        if values.dtype != np.float32:
            raise PeerError(f"tensor {name!r} is {values.dtype}, float32 is expected")
        if values.shape != tuple(shape):
            raise PeerError(f"tensor {name!r} has shape {list(values.shape)}, {list(shape)} is expected")


def save(path: Path, weights: Mapping[str, Array], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file so that `path` holds either the old content or all of the new.

    Args:
        path: the file.
        weights: tensors by name.
        metadata: plain data for the file's header.

    Raises:
        OSError: the disk refused.
    """
    tensors = {name: np.asarray(values, order="C") for name, values in weights.items()}
    data = safetensors.save(tensors, metadata)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself
    finally:
        os.close(directory)


def load(path: Path) -> dict[str, Array]:
    """Read a safetensors file.

    Raises:
        UserError: it is missing, damaged, or holds anything but finite float32 tensors.
    """
    try:
        weights = safetensors.load(path.read_bytes())
        for name, values in weights.items():
            if values.dtype != np.float32:
                raise UserError(
                    f"weights file {path}: tensor {name!r} is {values.dtype}, float32 is expected"
                )
        check_finite(weights)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, PeerError) as error:
        raise UserError(
            f"weights file {path} cannot be used: {error}. Give a .safetensors file of this network's weights"
        ) from error
    return weights


def _check_names(names: Collection[str], expected: Mapping[str, tuple[int, ...]]) -> None:
    missing, unknown = sorted(expected.keys() - set(names)), sorted(set(names) - expected.keys())
    if missing:
        raise PeerError(f"tensor {missing[0]!r} is missing ({len(missing)} of {len(expected)} are)")
    if unknown:
        raise PeerError(f"tensor {_shown(unknown[0])} is not part of the model ({len(unknown)} such)")


def _shown(text: str) -> str:
    """Quote what a peer wrote, cut to a length fit for a log line."""
    return repr(text if len(text) <= 64 else text[:64] + "...")
