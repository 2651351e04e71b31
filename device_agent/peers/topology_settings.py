"""Who is whose neighbour, as people write it down."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MOST_NEIGHBOURS = 1000
"""That a device can be told of."""


class TopologySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How neighbours are found among the devices that are online.

    Attributes:
        kind: `random`: `num_neighbours` of all, by chance; everybody where there are no more. `ring`.
            `grid`: four neighbours, fewer at the edges, as near to a square as the number allows.
            `geometric`: each device has a place in the unit square, and those within `radius` are
            neighbours; the radius grows by tenths until all are connected. `full`: everybody with everybody;
            of more devices than can be told of MOST_NEIGHBOURS draws. `file`: as an edge list says.
        num_neighbours: of `random`, even: so many draws, of which two that meet are one neighbour.
        radius: of `geometric`, in lengths of the square's side.
        file: of `file`: two ids a line, `#` begins a comment.
        redraw_windows: places (in `random`, `ring` and `grid` orders) are drawn anew every so many windows;
            None: they stay.
        seed: of the places; None: the run's.
    """

    kind: Literal["random", "ring", "grid", "geometric", "full", "file"] = "random"
    num_neighbours: Annotated[int, Meta(ge=2, le=MOST_NEIGHBOURS, multiple_of=2)] = 32
    radius: Annotated[float, Meta(gt=0.0, le=1.5)] = 0.4
    file: Annotated[str, Meta(min_length=1, max_length=500)] | None = None
    redraw_windows: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**53)] | None = None

    def __post_init__(self) -> None:
        """Refuse a file without its kind, the kind without a file, and to draw what is written down."""
        if (self.kind == "file") != (self.file is not None):
            raise ValueError("kind file needs file: the path of an edge list, and no other kind takes one")
        if self.redraw_windows is not None and self.kind in ("file", "full"):
            raise ValueError(f"redraw_windows changes nothing of the kind {self.kind}: leave it out")
