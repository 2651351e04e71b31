"""Versions of a set: the newest, and the one that changes are told of."""

from __future__ import annotations

import pytest

from device_agent.gossip import versions
from device_agent.gossip.versions import Versions


@pytest.fixture
def three(monkeypatch):
    """Of at most three texts, or ten letters."""
    monkeypatch.setattr(versions, "MOST_VERSIONS", 3)
    monkeypatch.setattr(versions, "MOST_BYTES", 10)
    return Versions(len)


def kept(some):
    return [number for number in range(20) if some.get(number) is not None]


def test_the_newest_are_kept(three):
    for number in range(1, 8):
        three.add(number, "a")
    assert kept(three) == [5, 6, 7]
    assert len(three) == 3


def test_they_take_so_many_bytes_at_most_but_the_newest_is_kept_however_large(three):
    for number in range(1, 5):
        three.add(number, "abcd")
    assert kept(three) == [3, 4]
    three.add(5, "a" * 100)
    assert kept(three) == [5]


def test_the_base_is_kept_until_there_is_a_newer_one_and_what_is_older_goes(three):
    three.add(1, "one")
    three.add(2, "two")
    three.rely_on(2)
    assert kept(three) == [2]
    for number in range(3, 10):
        three.add(number, "a")
    assert kept(three) == [2, 7, 8, 9]
    assert three.base == "two"
    three.rely_on(8)
    assert kept(three) == [8, 9]


def test_an_older_base_or_one_that_is_gone_changes_nothing(three):
    for number in range(1, 7):
        three.add(number, "a")
    three.rely_on(2)
    assert three.base is None
    three.rely_on(6)
    three.rely_on(5)
    assert kept(three) == [6]


def test_without_a_base_the_versions_stay(three):
    three.add(1, "one")
    three.rely_on(1)
    three.forget_base()
    assert three.base is None
    three.rely_on(1)
    assert three.base == "one"
