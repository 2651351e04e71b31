"""Which whispers count, in whatever order they come."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.gossip.telling import ALL, REMEMBERED, Heard, Numbering
from device_agent.wire.whispers import Held, Whisper


def whisper(sequence, boot_epoch=1):
    return Whisper(1, 7, boot_epoch, sequence, 0, Held(1))


def test_whispers_are_numbered_from_0_whoever_they_go_to():
    numbering = Numbering(run=7, boot_epoch=3)
    tells = [numbering.tell("b", Held(1)), numbering.tell(ALL, Held(2), age_s=1.5)]
    assert [(tell.to, tell.whisper.boot_epoch, tell.whisper.sequence) for tell in tells] == [
        ("b", 3, 0),
        (ALL, 3, 1),
    ]
    assert [tell.whisper.age_ms for tell in tells] == [0, 1500]


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.integers(0, REMEMBERED - 1), max_size=40))
def test_each_counts_once_in_any_order(sequences):
    heard = Heard()
    assert sum(heard.is_new(whisper(one)) for one in sequences) == len(set(sequences))


def test_of_an_older_life_nothing_counts_any_more():
    heard = Heard()
    assert heard.is_new(whisper(0, boot_epoch=2))
    assert not heard.is_new(whisper(5, boot_epoch=1))


def test_a_restart_counts_from_0_again():
    heard = Heard()
    assert heard.is_new(whisper(9))
    assert heard.is_new(whisper(0, boot_epoch=2))
    assert heard.is_new(whisper(9, boot_epoch=2))
    assert not heard.is_new(whisper(0, boot_epoch=2))


@pytest.mark.parametrize(("behind", "is_new"), [(REMEMBERED - 1, True), (REMEMBERED, False)])
def test_what_is_too_old_to_tell_counts_as_a_repeat(behind, is_new):
    heard = Heard()
    heard.is_new(whisper(5000))
    assert heard.is_new(whisper(5000 - behind)) is is_new


def test_what_is_remembered_of_a_neighbour_does_not_grow():
    heard = Heard()
    for number in range(10 * REMEMBERED):
        assert heard.is_new(whisper(3 * number))
    assert len(heard._came) <= 2 * REMEMBERED
    assert not heard.is_new(whisper(heard.highest))
