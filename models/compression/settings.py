"""How the numbers of an update are written for the way to another machine."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class CompressionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of deltas and gradients, or of the weights that devices exchange; all others travel whole.

    Attributes:
        scheme: `none`: float32. `float16`. `int8`: in blocks, each with a scale. `top-k`: the entries of the
            largest magnitude. `random-mask`: entries drawn by the order's seed, or by the exchange's nonce.
            What the last three leave out of an update is added to the next one (error feedback). Weights
            have no `top-k`.
        block: int8 values that share a scale.
        keep_fraction: share of the entries that `top-k` and `random-mask` send.
    """

    scheme: Literal["none", "float16", "int8", "top-k", "random-mask"] = "none"
    block: Annotated[int, Meta(ge=8, le=65_536)] = 256
    keep_fraction: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.01
