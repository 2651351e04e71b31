"""Repeats are recognised in bounded memory."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.wire.dedupe import SeenMessages
from device_agent.wire.messages import SCHEMA_VERSION, Ack, Envelope

BODY = Ack(boot_epoch=0, sequence=0, outcome="applied")


def message(sequence, boot_epoch=1, sender="a"):
    return Envelope(
        schema=SCHEMA_VERSION, run="r", sender=sender, boot_epoch=boot_epoch, sequence=sequence, body=BODY
    )


def first_time(seen, envelope):
    new = seen.is_new(envelope)
    seen.remember(envelope)
    return new


def test_a_message_is_new_until_it_is_remembered():
    seen = SeenMessages()
    assert seen.is_new(message(1))
    assert seen.is_new(message(1))
    seen.remember(message(1))
    assert not seen.is_new(message(1))


def test_sender_boot_epoch_and_sequence_name_a_message_together():
    seen = SeenMessages()
    names = [("a", 1, 1), ("b", 1, 1), ("a", 2, 1), ("a", 1, 2)]
    assert all(first_time(seen, message(s, e, d)) for d, e, s in names)


def test_messages_may_come_in_any_order():
    seen = SeenMessages()
    assert [first_time(seen, message(n)) for n in (3, 1, 2, 1, 3)] == [True, True, True, False, False]


def test_what_was_forgotten_counts_as_seen():
    seen = SeenMessages(max_sequences=2)
    for number in (1, 2, 3):
        seen.remember(message(number))
    assert not seen.is_new(message(1))


def test_a_forgotten_boot_epoch_counts_as_seen():
    seen = SeenMessages(max_epochs=2)
    for epoch in (1, 2, 3):
        seen.remember(message(9, epoch))
    assert not seen.is_new(message(9, 1))


def test_a_sender_that_jumps_ahead_harms_only_itself():
    seen = SeenMessages(max_epochs=2, max_senders=2)
    for epoch in (2**50, 2**51, 2**52):
        seen.remember(message(1, epoch, "mallory"))
    assert seen.is_new(message(1, 1, "a"))


def test_the_sender_silent_for_longest_is_forgotten():
    seen = SeenMessages(max_senders=2)
    for sender in ("a", "b", "a", "c"):
        seen.remember(message(len(seen._senders), 1, sender))
    assert set(seen._senders) == {"a", "c"}


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=60))
def test_nothing_is_new_twice(names):
    seen = SeenMessages(max_sequences=3, max_epochs=2)
    told_new = [name for name in names if first_time(seen, message(name[1], name[0]))]
    assert len(told_new) == len(set(told_new))
