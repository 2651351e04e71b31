"""Updates as bytes, in the number format and the choice of entries that a run's settings name.

Where sub-networks were trained, both sides know which entries may have changed
(`models.compression.trained`): only those are written, tensor after tensor in order of their names, and no
index travels for it. A scheme's bytes are MessagePack, a map whose key `scheme` says which of
`models.compression.schemes` it is. The scheme `none` is the weights blob of `models.weights`, which has no
such key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from firmware_profiles.errors import PeerError, WorldError
from models.compression.schemes import READ, WRITE, Content, Context
from models.compression.settings import CompressionSettings
from models.subnet import Array
from models.weights import pack, unpack

Mask = Mapping[str, NDArray[np.bool_]]
"""By tensor, in its shape: the entries that may differ from 0. Tensors left out may throughout."""


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    scheme: Annotated[str, Meta(max_length=64)] = "none"


_HEAD = msgspec.msgpack.Decoder(_Head)
_DECODER = msgspec.msgpack.Decoder(Content)


def encode(
    tensors: Mapping[str, Array], settings: CompressionSettings, *, seed: int, mask: Mask | None = None
) -> bytes:
    """Write an update.

    Args:
        tensors: float32 by name. They are rounded, and all but a choice of entries is left out, as the
            settings say; `decode` gives what remains.
        settings: the run's.
        seed: of the order.
        mask: entries that may differ from 0; the others are not written. None: all. Not used by `none`.

    Raises:
        WorldError: a value is not finite.
    """
    _check_finite(tensors)
    if settings.scheme == "none":
        return pack(tensors)
    names = sorted(tensors)
    parts = [_chosen(tensors[name], mask, name) for name in names]
    values = np.concatenate(parts, dtype=np.float32) if parts else np.empty(0, np.float32)
    context = Context([len(part) for part in parts], seed)
    return msgspec.msgpack.encode(WRITE[settings.scheme](values, context, settings))


def decode(
    content: bytes,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    seed: int,
    mask: Mask | None = None,
    settings: CompressionSettings | None = None,
    max_bytes: int | None = None,
) -> dict[str, Array]:
    """Read an update; never more than a few times the tensors' own size is allocated.

    Args:
        content: from `encode`, or from anywhere.
        shapes: name -> shape of every tensor.
        seed: of the order.
        mask: what `encode` was given; entries outside it are 0.
        settings: of the run, whose scheme it must have; None: any.
        max_bytes: longer content is not looked into; None: `most_bytes(shapes)`.

    Returns:
        Name -> writable float32 array, all finite, in the order of `shapes`.

    Raises:
        PeerError: it is anything else.
    """
    limit = most_bytes(shapes) if max_bytes is None else max_bytes
    if len(content) > limit:
        raise PeerError(f"an update has {len(content)} bytes, this model's at most {limit}")
    scheme = _scheme(content)
    if settings is not None and scheme != settings.scheme:
        raise PeerError(
            f"an update is compressed by {scheme!r}, the run's scheme is {settings.scheme!r}: it was made "
            "before --compression was changed, or by another version of edgetide"
        )
    if scheme == "none":
        return unpack(content, shapes)
    if scheme not in READ:
        raise PeerError(
            f"an update is compressed by {scheme!r}; known are {', '.join(READ)}: "
            "run the same edgetide version on the coordinator and the devices"
        )
    try:
        found = _DECODER.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"an update of {len(content)} bytes is not readable: {error}") from error
    names = sorted(shapes)
    context = Context([_num_chosen(shapes[name], mask, name) for name in names], seed)
    if found.num_entries != context.num_entries:
        raise PeerError(
            f"a compressed update has {found.num_entries} entries, {context.num_entries} were trained"
        )
    parts = np.split(READ[scheme](found, context), np.cumsum(context.lengths)[:-1]) if names else []
    spread = {name: _spread(part, shapes[name], mask, name) for name, part in zip(names, parts, strict=True)}
    return {name: spread[name] for name in shapes}


def most_bytes(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes that an update of these tensors has at most, in whichever scheme."""
    return 4096 + sum(4 * math.prod(shape) + len(name.encode()) + 128 for name, shape in shapes.items())


def _scheme(content: bytes) -> str:
    try:
        return _HEAD.decode(content).scheme
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"an update of {len(content)} bytes is not readable: {error}") from error


# ---------------------------------------------------------------- entries of tensors


def _check_finite(tensors: Mapping[str, Array]) -> None:
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise WorldError(f"tensor {name!r} of an update is no longer finite; lower the learning rate")


def _chosen(values: Array, mask: Mask | None, name: str) -> Array:
    return values.reshape(-1) if mask is None or name not in mask else values[mask[name]]


def _num_chosen(shape: tuple[int, ...], mask: Mask | None, name: str) -> int:
    return math.prod(shape) if mask is None or name not in mask else int(np.count_nonzero(mask[name]))


def _spread(part: Array, shape: tuple[int, ...], mask: Mask | None, name: str) -> Array:
    if mask is None or name not in mask:
        return part.reshape(shape).copy()
    whole = np.zeros(shape, np.float32)
    whole[mask[name]] = part
    return whole
