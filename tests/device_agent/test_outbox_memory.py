"""The outbox of a twin: the same messages and names, without a disk."""

from __future__ import annotations

import random

from device_agent.outbox import Outbox
from device_agent.wire.messages import Decline

DECLINE = Decline(order=1, round=1, reason="no time")


def open_outbox(sender="twin"):
    return Outbox(None, sender, clock=lambda: 0.0, boot_id=lambda: "boot", rng=random.Random(0))


def test_a_message_stays_until_it_is_acknowledged():
    with open_outbox() as outbox:
        envelope = outbox.put(run="run", body=DECLINE)
        assert [due.sequence for due in outbox.due(0.0)] == [envelope.sequence]
        outbox.acknowledge(envelope.boot_epoch, envelope.sequence)
        assert len(outbox) == 0


def test_boot_epochs_begin_at_one_whatever_the_clock_says():
    with open_outbox() as outbox:
        assert outbox.boot_epoch == 1


def test_two_in_one_process_share_nothing():
    with open_outbox("a") as one, open_outbox("b") as other:
        one.put(run="run", body=DECLINE)
        assert (len(one), len(other)) == (1, 0)
