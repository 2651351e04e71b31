"""Which devices exchange with which: pure functions of settings, devices and window.

Places come from a hash of seed, draw and the device's own id. So a device that joins or leaves moves no
other, and whoever knows the same devices finds the same neighbours: the coordinator for all, or a device
for itself among those whose retained `hello` it has heard (`own_neighbours`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import dist, isqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from device_agent.peers.topology_settings import MOST_NEIGHBOURS, TopologySettings
from device_agent.wire.messages import Neighbour
from firmware_profiles.errors import UserError

Edge = tuple[str, str]
Neighbours = dict[str, tuple[Neighbour, ...]]
"""Of each device, by id; both sides of an edge have each other."""

GROWTH = 1.1
_ID = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(frozen=True)
class Topology:
    """Settings with what they leave to the run.

    Attributes:
        settings: as written. seed: of the places. edges: of the kind `file`.
    """

    settings: TopologySettings
    seed: int
    edges: tuple[Edge, ...] = ()


def load_topology(settings: TopologySettings, seed: int) -> Topology:
    """Make settings concrete.

    Args:
        settings: as written.
        seed: of the run.

    Raises:
        UserError: the edge list cannot be used.
    """
    edges = () if settings.file is None else read_edges(Path(settings.file))
    return Topology(settings, seed if settings.seed is None else settings.seed, edges)


def neighbours(topology: Topology, devices: Iterable[str], window: int = 0) -> Neighbours:
    """Neighbours of each device.

    Args:
        topology: see `load_topology`.
        devices: ids of those that take part; the order does not matter.
        window: counted from 0; matters where places are drawn anew.

    Returns:
        Each device with its neighbours, by id. Drawn kinds connect all devices. Of a file's graph, what is
        left without the devices that are away may fall apart; a device that it does not name has none.
    """
    known = sorted(set(devices), key=lambda device: (len(device), device))
    every = topology.settings.redraw_windows
    draw = 0 if every is None else window // every
    edges = _EDGES[topology.settings.kind](topology, known, draw)
    met: dict[str, set[str]] = {device: set() for device in known}
    for one, other in edges:
        met[one].add(other)
        met[other].add(one)
    return {
        device: tuple(Neighbour(device=other, degree=len(met[other])) for other in sorted(met[device]))
        for device in known
    }


def own_neighbours(
    topology: Topology, device: str, heard: Iterable[str], window: int = 0
) -> tuple[Neighbour, ...]:
    """Neighbours that a device finds by itself among those it has heard of."""
    return neighbours(topology, {device, *heard}, window)[device]


def metropolis_matrix(found: Neighbours, working_fraction: float = 1.0) -> NDArray[np.float64]:
    """The Metropolis-Hastings mixing matrix; symmetric, rows and columns sum to 1.

    Args:
        found: neighbours of each device.
        working_fraction: of the exchanges that come about; the matrix is then the expected one.

    Returns:
        float64 [devices, devices], in the order of `found`: 1 / (1 + the larger number of neighbours) for a
        pair, times `working_fraction`.

    References:
        Xiao, Boyd, "Fast linear iterations for distributed averaging", Systems & Control Letters 53, 2004.
    """
    index = {device: number for number, device in enumerate(found)}
    matrix = np.zeros((len(found), len(found)))
    for device, mine in found.items():
        for other in mine:
            weight = working_fraction / (1 + max(len(mine), other.degree))
            matrix[index[device], index[other.device]] = weight
    np.fill_diagonal(matrix, 1.0 - matrix.sum(axis=1))
    return matrix


def spectral_gap(matrix: NDArray[np.float64]) -> float:
    """How fast mixing brings devices together: 1 minus the second largest modulus of an eigenvalue.

    Args:
        matrix: symmetric mixing matrix [devices, devices].

    Returns:
        0 (not connected) to 1 (one exchange makes all equal).
    """
    values = np.sort(np.abs(np.linalg.eigvalsh(matrix)))
    return float(1.0 - values[-2]) if len(values) > 1 else 1.0


def read_edges(path: Path) -> tuple[Edge, ...]:
    """Read an edge list: two ids a line, `#` begins a comment.

    Raises:
        UserError: the file cannot be read, a line is no edge or a repeat, or the graph falls apart.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"topology file {path} cannot be read: {error}") from error
    lines: dict[Edge, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if words := line.partition("#")[0].split():
            edge = _edge(f"{path}, line {number}", words)
            if edge in lines:
                raise UserError(f"{path}, line {number}: {' '.join(edge)} is line {lines[edge]} already")
            lines[edge] = number
    if not lines:
        raise UserError(f"topology file {path} has no edges: write two ids a line, such as node-1 node-2")
    ids = sorted({device for edge in lines for device in edge})
    if cut_off := set(ids) - _reached(ids[0], lines):
        raise UserError(
            f"topology file {path}: {min(cut_off)} cannot be reached from {ids[0]}; "
            "add an edge between their parts"
        )
    return tuple(lines)


def _edge(where: str, words: Sequence[str]) -> Edge:
    if len(words) != 2:
        raise UserError(f"{where}: {' '.join(words)!r} is no edge; write two ids, such as node-1 node-2")
    for word in words:
        if not _ID.fullmatch(word):
            raise UserError(f"{where}: {word!r} is no id: use 1 to 64 of a-z, 0-9 and '-'")
    if words[0] == words[1]:
        raise UserError(f"{where}: {words[0]} would be its own neighbour")
    return min(words), max(words)


# ---------------------------------------------------------------- kinds: (topology, devices, draw) -> edges


def _random(topology: Topology, devices: Sequence[str], draw: int) -> Iterable[Edge]:
    return _drawn(topology, devices, draw, topology.settings.num_neighbours)


def _ring(topology: Topology, devices: Sequence[str], draw: int) -> Iterable[Edge]:
    order = _order(topology, devices, draw)
    return list(pairwise([*order, order[0]])) if len(order) > 2 else list(pairwise(order))


def _grid(topology: Topology, devices: Sequence[str], draw: int) -> Iterable[Edge]:
    order = _order(topology, devices, draw)
    width = isqrt(max(0, len(order) - 1)) + 1  # the last row may be short
    beside = [(one, other) for number, (one, other) in enumerate(pairwise(order)) if (number + 1) % width]
    return [*beside, *zip(order, order[width:], strict=False)]


def _geometric(topology: Topology, devices: Sequence[str], draw: int) -> Iterable[Edge]:
    places = {device: _place(topology, device, draw) for device in devices}
    lengths = {pair: dist(places[pair[0]], places[pair[1]]) for pair in combinations(devices, 2)}
    radius = topology.settings.radius
    while True:
        edges = [pair for pair, length in lengths.items() if length <= radius]
        if not devices or len(_reached(devices[0], edges)) == len(devices):
            return edges
        radius *= GROWTH  # at the square's diagonal at the latest everybody is in reach


def _full(topology: Topology, devices: Sequence[str], draw: int) -> Iterable[Edge]:
    return _drawn(topology, devices, draw, MOST_NEIGHBOURS)


def _file(topology: Topology, devices: Sequence[str], _draw: int) -> Iterable[Edge]:
    present = set(devices)
    return [edge for edge in topology.edges if present.issuperset(edge)]


def _drawn(topology: Topology, devices: Sequence[str], draw: int, most: int) -> Iterable[Edge]:
    """Everybody with everybody, or rings by chance over each other: connected, and all are near each other.

    References:
        Friedman, "A proof of Alon's second eigenvalue conjecture", 2008: the spectral gap of such graphs is
        near the best that their degree allows, whatever the number of devices.
    """
    if len(devices) <= most + 1:
        return combinations(devices, 2)
    orders = (
        sorted(devices, key=lambda device: _place(topology, device, f"{draw}.{ring}"))
        for ring in range(most // 2)
    )
    return {(min(pair), max(pair)) for order in orders for pair in pairwise([*order, order[0]])}


_EDGES: Mapping[str, Callable[[Topology, Sequence[str], int], Iterable[Edge]]] = {
    "random": _random,
    "ring": _ring,
    "grid": _grid,
    "geometric": _geometric,
    "full": _full,
    "file": _file,
}


def _order(topology: Topology, devices: Sequence[str], draw: int) -> list[str]:
    """As given, or by chance where the order is drawn."""
    if topology.settings.redraw_windows is None:
        return list(devices)
    return sorted(devices, key=lambda device: _place(topology, device, draw))


def _place(topology: Topology, device: str, draw: int | str) -> tuple[float, float]:
    """A point of the unit square, by chance and always the same."""
    drawn = hashlib.sha256(f"{topology.seed}/{draw}/{device}/place".encode()).digest()
    return int.from_bytes(drawn[:7], "big") / 2**56, int.from_bytes(drawn[7:14], "big") / 2**56


def _reached(start: str, edges: Iterable[Edge]) -> set[str]:
    """Devices connected with `start`, itself included."""
    beside: dict[str, list[str]] = {}
    for one, other in edges:
        beside.setdefault(one, []).append(other)
        beside.setdefault(other, []).append(one)
    reached, ahead = {start}, [start]
    while ahead:
        for device in beside.get(ahead.pop(), ()):
            if device not in reached:
                reached.add(device)
                ahead.append(device)
    return reached
