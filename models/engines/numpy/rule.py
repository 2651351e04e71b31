"""The form of every operator of the numpy engine: a function and its vector-Jacobian product."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from models.engines.numpy.memory import Buffers
from models.subnet import Array

Attributes = Mapping[str, Any]
Wanted = tuple[bool, ...]
"""For each input whether its gradient is used."""

Maker = Callable[[Attributes, tuple[bool, ...]], "Rule"]
"""From a node's attributes and, for each input, whether it is a value (with a batch axis)."""


class Rule(NamedTuple):
    """One operator with its attributes bound.

    Attributes:
        forward: (buffers, *inputs) -> (output, saved). Values have the batch as their last axis;
            parameters and constants come as the graph has them. `saved` is what `backward` needs.
        backward: (buffers, saved, gradient, wanted) -> for each input its gradient, or None where
            it is not wanted. It is called once at most and may overwrite `saved` and `gradient`, but no
            weight. What it returns shares no memory but with `gradient`, and no two of them share any.
        in_place: as `forward`, for a first input that nobody reads any more: it may be overwritten. None
            where that saves nothing.
    """

    forward: Callable[..., tuple[Array, Any]]
    backward: Callable[[Buffers, Any, Array, Wanted], tuple[Array | None, ...]]
    in_place: Callable[..., tuple[Array, Any]] | None = None
