"""Sets told as changes of what a neighbour has, whatever is lost or late on the way."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_agent.gossip import versions
from device_agent.gossip.sets import UnreadChangeError
from device_agent.wire.whispers import Changed, Held, Whole
from firmware_profiles.errors import PeerError
from models.prototypes.changes import pack_change
from models.prototypes.prototype_set import of_samples
from tests.fixtures.set_sharing import OWN, Device


def talk(one, other, said, sender="a"):
    """Have a device hear what one of them told; what it answers is heard at once."""
    for tell in other.sharing.on_said(sender, said):
        one.sharing.on_said("b", tell.whisper.said)


def tells(device, x, y):
    """Learn a sample; what is told of the set then."""
    _, (tell,) = device.sees(x, y, ["b"])
    return tell.whisper.said


def read_of(device):
    """The rows of the set that a device heard last."""
    found = device.sharing._received["a"]
    return sorted(zip(found.labels.tolist(), found.vectors[:, 0].tolist(), strict=True))


def own_of(device):
    own = device.learner.prototypes()
    return sorted(zip(own.labels.tolist(), own.vectors[:, 0].tolist(), strict=True))


def near(found, expected):
    assert [label for label, _ in found] == [label for label, _ in expected]
    np.testing.assert_allclose([x for _, x in found], [x for _, x in expected], atol=10.0 / 2048)


SOME = [(0.01 * number, number % 2) for number in range(40)]


def pair(**changes):
    """A device that tells, and one that hears and learns nothing of it."""
    return Device(**changes).knows(*OWN, *SOME), Device(learned=0, **changes)


def test_what_a_neighbour_holds_is_told_by_its_changes_in_fewer_bytes():
    one, other = pair()
    whole_said = tells(one, 0.05, 0)
    talk(one, other, whole_said)
    changed = tells(one, 0.06, 0)
    assert isinstance(changed, Changed)
    assert (changed.base, changed.version) == (whole_said.version, whole_said.version + 1)
    assert len(changed.packed) < len(whole_said.packed) / 3
    talk(one, other, changed)
    near(read_of(other), own_of(one))


def test_a_set_that_is_not_smaller_as_changes_is_told_whole():
    one, other = pair()
    talk(one, other, tells(one, 0.05, 0))
    one.knows(*((1e9 * x, y) for x, y in OWN))
    assert isinstance(tells(one, 0.0, 0), Whole)


def test_without_changes_sets_are_whole():
    one, other = pair(tells_changes=False)
    talk(one, other, tells(one, 0.05, 0))
    assert isinstance(tells(one, 0.06, 0), Whole)


def test_errors_do_not_add_up_over_many_changes():
    one, other = pair()
    for number in range(200):
        talk(one, other, tells(one, 0.3 + 0.003 * number, number % 2))
    near(read_of(other), own_of(one))


def test_a_change_of_a_set_that_is_not_here_is_asked_for_as_a_whole():
    one, other = pair()
    talk(one, other, tells(one, 0.05, 0))
    changed = tells(one, 0.06, 0)
    other.sharing.restarted("a")
    with pytest.raises(UnreadChangeError, match="version 1"):
        other.sharing.on_said("a", changed)
    one.sharing.on_said("b", Held(0))
    again = tells(one, 0.07, 0)
    assert isinstance(again, Whole)
    talk(one, other, again)
    near(read_of(other), own_of(one))


def test_a_change_that_comes_after_a_newer_set_is_not_read():
    one, other = pair()
    talk(one, other, tells(one, 0.05, 0))
    late, newer = tells(one, 0.5, 0), tells(one, 0.9, 0)
    talk(one, other, newer)
    before = read_of(other)
    assert other.sharing.on_said("a", late) == []
    assert read_of(other) == before


def test_a_damaged_change_is_refused_and_the_next_is_read():
    one, other = pair()
    talk(one, other, tells(one, 0.05, 0))
    changed = tells(one, 0.5, 0)
    with pytest.raises(UnreadChangeError, match="asked for"):
        other.sharing.on_said("a", msgspec.structs.replace(changed, packed=changed.packed[:-1]))
    talk(one, other, changed)
    near(read_of(other), own_of(one))


def test_answers_may_come_many_sets_later():
    one, other = pair()
    said = [tells(one, 0.01 * number, 0) for number in range(10)]
    assert {type(whole_said) for whole_said in said} == {Whole}
    for number in range(20):
        talk(one, other, said.pop(0))
        said.append(tells(one, 0.1 + 0.01 * number, number % 2))
    assert {type(changed) for changed in said} == {Changed}


def test_one_version_may_be_told_to_two_neighbours_in_two_ways():
    one, (b, c) = Device().knows(*OWN, *SOME), (Device(learned=0), Device(learned=0))
    for number in range(6):
        one.knows(*((x + 0.0137 * number * (1 + x), y) for x, y in (*OWN, *SOME)))
        _, told = one.sees(0.05 + 0.01 * number, 0, ["b", "c"])
        for tell in told:
            hears = b if tell.to == "b" else c
            for answer in hears.sharing.on_said("a", tell.whisper.said):
                if tell.to == "b" or number:  # the first answer of c is lost
                    one.sharing.on_said(tell.to, answer.whisper.said)
        near(read_of(b), own_of(one))
        near(read_of(c), own_of(one))
    assert {type(tell.whisper.said) for tell in told} == {Changed}


def test_values_as_large_as_any_are_told_and_read():
    one, other = Device().knows((1e15, 0), (-1e15, 1), (0.0, 1)), Device(learned=0)
    for number in range(4):
        talk(one, other, tells(one, 1e15 - 1e9 * number, 0))
    assert len(read_of(other)) == len(own_of(one))


def test_who_is_no_neighbour_for_now_is_told_the_whole_set_again():
    one, other = pair()
    talk(one, other, tells(one, 0.05, 0))
    one.sharing.part("b")
    assert isinstance(tells(one, 0.06, 0), Whole)


def test_changes_that_make_too_many_prototypes_are_refused():
    one, other = pair()
    talk(one, other, tells(one, 0.05, 0))
    base = other.sharing._received["a"]
    many = of_samples([[x] for x in np.linspace(0, 9, 60)], [0] * 60)
    with pytest.raises(PeerError, match="60 prototypes, 1 to 50"):
        other.sharing.on_said("a", Changed(1, 2, pack_change(base, many, 2)))


class Link:
    """One device tells another its sets; everything may be lost, and overtaken by what comes after it."""

    def __init__(self):
        self.one, self.other = pair()
        self.on_the_way, self.answers, self.told = [], [], {}
        self.num_told = 0

    def tell(self, _place):
        self.num_told += 1
        said = tells(self.one, 0.01 * self.num_told, self.num_told % 2)
        self.told[said.version] = own_of(self.one)
        self.on_the_way.append(said)

    def hear(self, place):
        for said in taken(self.on_the_way, place):
            self.answers += heard(self.other, said)
            if self.answers[-1:] != [Held(0)]:
                near(read_of(self.other), self.told[self.other.sharing._newest["a"]])

    def answer(self, place):
        for said in taken(self.answers, place):
            self.one.sharing.on_said("b", said)

    def lose(self, place):
        taken(self.on_the_way, place)

    def lose_answer(self, place):
        taken(self.answers, place)

    def check_kept(self):
        for kept in (*self.one.sharing._told.values(), *self.other.sharing._held.values()):
            assert len(kept) <= versions.MOST_VERSIONS + 1


def heard(device, said):
    """What it answers, as its gossiper has it."""
    try:
        return [tell.whisper.said for tell in device.sharing.on_said("a", said)]
    except UnreadChangeError:
        return [Held(0)]


def taken(waiting, place):
    """One of them, if there is one."""
    return [waiting.pop(place % len(waiting))] if waiting else []


events = st.tuples(st.sampled_from(["tell", "hear", "answer", "lose", "lose_answer"]), st.integers(0, 5))


@settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(events, max_size=60))
def test_whatever_is_lost_or_late_a_set_is_read_as_it_was_told(events):
    link = Link()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, "MOST_VERSIONS", 3)
        for happens, place in events:
            getattr(link, happens)(place)
            link.check_kept()
    link.on_the_way, link.answers = [], []
    for _ in range(2):  # what comes is read, or asked for as a whole and read then
        link.tell(0)
        link.hear(0)
        link.answer(0)
    near(read_of(link.other), own_of(link.one))
