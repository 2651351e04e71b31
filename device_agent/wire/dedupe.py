"""Which messages were dealt with already: a repeat changes nothing.

Memory is bounded by forgetting upwards: what is forgotten counts as seen, so a repeat is never
taken for news. The price: a message overtaken by `max_sequences` later ones of its boot epoch, or
by `max_epochs` restarts of its sender, is taken for a repeat.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from heapq import heappop, heappush

from device_agent.wire.messages import Envelope


@dataclass
class _Epoch:
    """Sequences seen within one boot epoch; everything below `floor` counts as seen."""

    floor: int = 0
    seen: set[int] = field(default_factory=set)
    smallest_first: list[int] = field(default_factory=list)


@dataclass
class _Sender:
    """Boot epochs of one sender; everything below `floor` counts as seen."""

    floor: int = 0
    epochs: dict[int, _Epoch] = field(default_factory=dict)


class SeenMessages:
    """Remembers (sender, boot epoch, sequence) in bounded memory.

    Check with `is_new`, act, then `remember`: a crash in between repeats the act, which must be
    harmless; the other order would lose the message.

    Args:
        max_sequences: remembered per sender and boot epoch.
        max_epochs: boot epochs remembered per sender.
        max_senders: the sender silent for longest is forgotten altogether beyond this many.
    """

    def __init__(self, *, max_sequences: int = 4096, max_epochs: int = 8, max_senders: int = 4096) -> None:
        self._max_sequences = max_sequences
        self._max_epochs = max_epochs
        self._max_senders = max_senders
        self._senders: OrderedDict[str, _Sender] = OrderedDict()

    def is_new(self, envelope: Envelope) -> bool:
        """Whether this message was not dealt with before."""
        sender = self._senders.get(envelope.sender)
        if sender is None:
            return True
        if envelope.boot_epoch < sender.floor:
            return False
        epoch = sender.epochs.get(envelope.boot_epoch)
        return epoch is None or (envelope.sequence >= epoch.floor and envelope.sequence not in epoch.seen)

    def remember(self, envelope: Envelope) -> None:
        """Note that this message has been dealt with for good."""
        if not self.is_new(envelope):
            return
        sender = self._senders.setdefault(envelope.sender, _Sender())
        self._senders.move_to_end(envelope.sender)
        if len(self._senders) > self._max_senders:
            self._senders.popitem(last=False)
        epoch = sender.epochs.setdefault(envelope.boot_epoch, _Epoch())
        epoch.seen.add(envelope.sequence)
        heappush(epoch.smallest_first, envelope.sequence)
        if len(epoch.seen) > self._max_sequences:
            smallest = heappop(epoch.smallest_first)
            epoch.seen.remove(smallest)
            epoch.floor = smallest + 1
        if len(sender.epochs) > self._max_epochs:
            oldest = min(sender.epochs)
            del sender.epochs[oldest]
            sender.floor = oldest + 1
