"""What the files of a fleet that has ended say became of every update.

Three books that are kept apart: the coordinator's database, the devices' outboxes, and the devices' logs of
what they put there. What is in one and in no other was lost, or applied twice.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Key = tuple[str, int, int]
"""Device, boot epoch, sequence: names an update for ever."""

_PUT = re.compile(r"update put in the outbox|window reported")
_KILLED = re.compile(r"^.*does not end; killed.*$", re.MULTILINE)


@dataclass(frozen=True)
class Books:
    """Of one run.

    Attributes:
        outcomes: update -> (applied, expired or refused; the version it went into, None where in none).
        num_updates: version -> updates it says it was made of.
        waiting: updates in outboxes.
        num_put: updates that devices say they have put there.
        peers: reports of exchanges, as the devices made them.
        at_end: processes that had to be killed at the end.
    """

    outcomes: dict[Key, tuple[str, int | None]]
    num_updates: dict[int | None, int]
    waiting: frozenset[Key]
    num_put: int
    peers: tuple[dict[str, Any], ...]
    at_end: tuple[str, ...]

    @property
    def num_known(self) -> int:
        """Updates of which somebody knows."""
        return len(self.outcomes.keys() | self.waiting)

    @property
    def num_lost(self) -> int:
        """Updates that were put in an outbox and of which nobody knows."""
        return max(0, self.num_put - self.num_known)

    def num_unexplained(self, num_kills: int) -> int:
        """Updates that no device says it has made; a kill may fall between the deed and its line."""
        return max(0, self.num_known - self.num_put - num_kills)

    @property
    def num_wrong_versions(self) -> int:
        """Versions that were not made of exactly the updates that are booked on them."""
        booked = Counter(version for what, version in self.outcomes.values() if what == "applied")
        versions = booked.keys() | self.num_updates.keys()
        return sum(booked.get(version, 0) != self.num_updates.get(version, 0) for version in versions)

    def count(self, outcome: str) -> int:
        """Updates of an outcome."""
        return sum(what == outcome for what, _ in self.outcomes.values())

    def num_overdrawn_pairs(self) -> int:
        """Pairs of neighbours of which more exchanges have ended than were begun."""
        begun, ended = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for report in self.peers:
            for other, counts in report["exchanges"].items():
                pair = report["device"], other
                begun[pair] += counts["begun"]
                ended[pair] += counts["completed"] + counts["taken_back"] + counts["one_sided"]
        return sum(ended[pair] > begun[pair] for pair in ended)


def read_books(state: Path, said: str) -> Books:
    """The books of the run in a state folder of `edgetide up`.

    Args:
        state: the folder; all processes have ended.
        said: what `edgetide up` wrote on stderr.

    Raises:
        sqlite3.Error: a database cannot be read.
        ValueError: there is more than one run.
    """
    database = state / "coordinator" / "coordinator.sqlite"
    rows = _rows(
        database, "SELECT run, device, boot_epoch, sequence, outcome, version, peers FROM outcomes ORDER BY 1"
    )
    if len({row[0] for row in rows}) > 1:
        raise ValueError(f"{database} has more than one run")
    put = sum(
        len(_PUT.findall((state / "logs" / f"{agent.name}.log").read_text(errors="replace")))
        for agent in (state / "agents").iterdir()
    )
    return Books(
        outcomes={(row[1], row[2], row[3]): (row[4], row[5]) for row in rows},
        num_updates={
            version: number
            for version, number in _rows(database, "SELECT version, num_updates FROM versions")
            if number
        },
        waiting=frozenset(
            (agent.name, *key)
            for agent in (state / "agents").iterdir()
            for key in _rows(agent / "outbox.sqlite", "SELECT boot_epoch, sequence FROM message")
        ),
        num_put=put,
        peers=tuple({**json.loads(row[6]), "device": row[1]} for row in rows if row[6] is not None),
        at_end=tuple(_KILLED.findall(said)),
    )


def _rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()
