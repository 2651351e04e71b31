"""Takes updates in: each is fetched, checked, folded into the open round and settled, once for ever."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from coordinator.effects import CoordinatorEffect, Record, Settled
from coordinator.orders import Device
from coordinator.strategies.strategy import Folding
from coordinator.updates import (
    Key,
    Wanted,
    acknowledge,
    check,
    key_of,
    late_report,
    read_delta,
    settle,
    verdict,
)
from device_agent.effects import Fetch, Note
from device_agent.wire.messages import Envelope, Update
from device_agent.wire.stream_report import StreamReport
from firmware_profiles.errors import EdgetideError
from models.subnet import Array

MAX_FETCHES = 4
"""Updates of one device whose content is fetched at a time; it offers the others again."""

MAX_FETCHES_IN_ALL = 64
"""Updates whose content is fetched at a time; the others wait for their turn."""

Fold = Callable[[str, Update, Mapping[str, Array], int, int], None]
"""Folds (device, update, its delta, staleness in versions, samples the device has) into the open round."""


@dataclass
class Intake:
    """The updates of a run on their way into its model.

    Attributes:
        settled: what became of every update so far; a repeat is answered from it.
        pending: folded into the open round; settled when it is committed.
        fetching: digest of the content -> the update it belongs to; those that wait for their turn included.
        aggregator: of the open round, None between rounds.
    """

    settled: dict[Key, str] = field(default_factory=dict)
    pending: dict[Key, Settled] = field(default_factory=dict)
    fetching: dict[str, tuple[Envelope, Update]] = field(default_factory=dict)
    aggregator: Folding | None = None
    _fold: Fold | None = None
    _queue: deque[str] = field(default_factory=deque)

    # ------------------------------------------------------------ rounds

    def open(self, aggregator: Folding, fold: Fold) -> None:
        """A round begins."""
        self.aggregator, self._fold = aggregator, fold

    def close(self) -> None:
        """The round takes no more updates; its own stay pending until `commit`."""
        self.aggregator = self._fold = None

    def expire(self, reason: str) -> None:
        """The open round is given up: what was folded into it changes no model."""
        self.close()
        self.pending = {
            key: replace(one, outcome="expired", reason=reason, staleness=None)
            for key, one in self.pending.items()
        }

    def commit(self) -> tuple[Settled, ...]:
        """The round is durable: its updates are settled, and returned to be acknowledged."""
        settled = tuple(self.pending.values())
        self.settled.update({key: one.outcome for key, one in self.pending.items()})
        self.pending = {}
        return settled

    # ------------------------------------------------------------ updates

    def offer(
        self, envelope: Envelope, update: Update, device: Device, wanted: Wanted
    ) -> list[CoordinatorEffect]:
        """A device offers an update, perhaps again."""
        key = key_of(envelope)
        if key in self.settled:
            known = settle(envelope, update, "duplicate", f"was {self.settled[key]}")
            return [acknowledge(wanted.run, known)]
        num_fetches = sum(other.sender == envelope.sender for other, _ in self.fetching.values())
        if key in self.pending or update.delta.digest in self.fetching or num_fetches >= MAX_FETCHES:
            return []  # a repeat of what is being dealt with, or too much at a time: it is offered again
        if found := verdict(envelope, update, device, wanted):
            return self._turn_away(envelope, update, device, wanted, *found)
        if not wanted.is_open:
            return []  # offered again by the outbox
        if update.delta.data is not None:
            return self._take(envelope, update, update.delta.data, device, wanted)
        num_in_flight = len(self.fetching) - len(self._queue)
        self.fetching[update.delta.digest] = (envelope, update)
        self._queue.append(update.delta.digest)
        return self._fetch_next() if num_in_flight < MAX_FETCHES_IN_ALL else []

    def holder(self, digest: str) -> str:
        """The device whose update this content belongs to, "" if nobody waits for it."""
        return self.fetching[digest][0].sender if digest in self.fetching else ""

    def take(
        self, digest: str, content: bytes, devices: Mapping[str, Device], wanted: Wanted
    ) -> list[CoordinatorEffect]:
        """Content that was fetched is here and its digest is right."""
        found = self.fetching.pop(digest, None)
        if found is None:
            return []
        following, device = self._fetch_next(), devices.get(found[0].sender)
        if device is None or not wanted.is_open:
            return following  # offered again by the outbox
        return [*following, *self._take(*found, content, device, wanted)]

    def give_up(self, digest: str, reason: str) -> list[CoordinatorEffect]:
        """Content cannot be had now; the device will offer its update again."""
        found = self.fetching.pop(digest, None)
        if found is None:
            return []
        note = Note("update's content could not be fetched", found[0].sender, {"reason": reason})
        return [note, *self._fetch_next()]

    def _fetch_next(self) -> list[CoordinatorEffect]:
        """Fetch what has waited longest."""
        while self._queue:
            if found := self.fetching.get(self._queue.popleft()):
                envelope, update = found
                return [Fetch(envelope.sender, update.delta.digest, update.delta.size_bytes)]
        return []

    def _take(
        self, envelope: Envelope, update: Update, content: bytes, device: Device, wanted: Wanted
    ) -> list[CoordinatorEffect]:
        key = key_of(envelope)
        if key in self.settled or key in self.pending:
            return [Note("second content for one update dropped", envelope.sender)]
        # another model may have come while it was fetched
        found = verdict(envelope, update, device, wanted) or self._refusal(
            envelope, update, content, device, wanted
        )
        if found is not None:
            return self._turn_away(envelope, update, device, wanted, *found)
        device.fold(update.order)
        device.has_bundle = True
        _look_at(device, update.stream)
        staleness = wanted.version - (envelope.base_version or 0)
        self.pending[key] = replace(settle(envelope, update, "applied"), staleness=staleness)
        details = {"round": update.round, "batches": len(update.step_vectors), "staleness": staleness}
        return [Note("update received", envelope.sender, details)]

    def _refusal(
        self, envelope: Envelope, update: Update, content: bytes, device: Device, wanted: Wanted
    ) -> tuple[str, str] | None:
        """Fold an update; (outcome, reason) if it cannot be trusted, and nothing was changed."""
        assert self._fold is not None
        try:
            check(envelope, update, wanted)
            delta = read_delta(content, update, wanted)
            num_data = wanted.num_data(device, update)
            staleness = wanted.version - (envelope.base_version or 0)
            self._fold(envelope.sender, update, delta, staleness, num_data)
        except EdgetideError as error:
            return "refused", str(error)
        return None

    def _turn_away(
        self,
        envelope: Envelope,
        update: Update,
        device: Device,
        wanted: Wanted,
        outcome: str,
        reason: str,
    ) -> list[CoordinatorEffect]:
        """Settle an update that changes no model."""
        told = late_report(envelope, update, wanted) if outcome == "expired" else None
        settled = replace(settle(envelope, update, outcome, reason), stream=told)
        _look_at(device, told)
        self.settled[key_of(envelope)] = outcome
        device.answer(update.order)
        return [
            Record(settled),
            acknowledge(wanted.run, settled),
            Note(f"update {outcome}", envelope.sender, {"round": update.round, "reason": settled.reason}),
        ]


def _look_at(device: Device, report: StreamReport | None) -> None:
    """Whether a device's stream still has something to come that the run may wait for."""
    if report is not None:
        device.is_done = report.is_over or report.num_left is None
