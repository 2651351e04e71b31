"""Types of the messages' fields, with their ranges."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Id = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,64}\Z")]  # \Z: $ would let a final newline through
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e9)]
Reason = Annotated[str, Meta(max_length=500)]
Vector = Annotated[tuple[Annotated[int, Meta(ge=1, le=2**20)], ...], Meta(max_length=4096)]
