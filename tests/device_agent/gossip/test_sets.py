"""Whole sets: when they are told, what is let through, and how they are learned."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_agent.gossip import versions
from device_agent.gossip.sets import SetSharing, UnreadChangeError
from device_agent.gossip.telling import Numbering
from device_agent.wire.whispers import Changed, Demand, Held, Whole
from firmware_profiles.errors import PeerError
from models.gossip_settings import SetSettings
from models.prototypes.changes import pack_change
from models.prototypes.ilvq import Ilvq
from models.prototypes.packing import pack, unpack
from models.prototypes.prototype_set import PrototypeSet, of_samples
from models.prototypes.settings import IlvqSettings
from models.prototypes.units import units_for


class Learner(Ilvq):
    """Notes what it learns."""

    def __init__(self, max_prototypes):
        super().__init__(1, 2, IlvqSettings(max_prototypes=max_prototypes))
        self.learned = []

    def learn(self, x, y):
        super().learn(x, y)
        self.learned.append((round(float(x[0]), 2), y))


class Device:
    """A learner and its sharing."""

    def __init__(self, max_prototypes=50, num_features=1, **changes):
        self.learner = Learner(max_prototypes)
        self.sharing = SetSharing(
            self.learner,
            SetSettings(**changes),
            Numbering(7, 1),
            num_features=num_features,
            num_classes=2,
            max_prototypes=max_prototypes,
            seed=3,
        )

    def sees(self, x, y, neighbours=()):
        """Learn a sample; what was learned of others' then, and what is told."""
        sample = np.array([x], np.float32)
        self.learner.learn(sample, y)
        before = len(self.learner.learned)
        tells = self.sharing.after(sample, y, neighbours)
        return self.learner.learned[before:], tells

    def knows(self, *rows):
        self.learner.replace(of_samples([[x] for x, _ in rows], [y for _, y in rows]))
        return self

    def hears(self, sender, rows, version=1):
        told = of_samples([[x] for x, _ in rows], [y for _, y in rows])
        return self.sharing.on_said(sender, whole(told, version))


def whole(told, version=1):
    return Whole(version, pack(told, 2, units=units_for(told), with_ages=False))


def whole_of(tell):
    assert isinstance(tell.whisper.said, Whole)
    return tell.whisper.said


OWN = [(0.0, 0), (1.0, 0), (2.0, 0), (7.0, 1), (8.0, 1), (9.0, 1)]


# ------------------------------------------------------------ what is learned


def test_the_mailbox_keeps_the_newest_set_of_a_neighbour_only():
    device = Device()
    device.hears("b", [(1.0, 0), (2.0, 0), (3.0, 1)], version=1)
    device.hears("b", [(4.0, 1)], version=2)
    assert device.sees(0.0, 0)[0] == [(4.0, 1)]
    assert device.sees(0.0, 0)[0] == []


def test_a_set_that_was_overtaken_is_not_taken_for_the_newest():
    device = Device()
    device.hears("b", [(4.0, 1)], version=2)
    device.hears("b", [(1.0, 0)], version=1)
    assert device.sees(0.0, 0)[0] == [(4.0, 1)]


def test_a_neighbour_that_began_anew_counts_its_sets_afresh():
    device = Device()
    device.hears("b", [(4.0, 1)], version=9)
    device.sharing.restarted("b")
    device.hears("b", [(1.0, 0)], version=1)
    assert device.sees(0.0, 0)[0] == [(1.0, 0)]


def test_after_a_sample_so_many_are_learned_one_of_each_neighbour_in_turn():
    device = Device(learned=3, skips_known=False)
    device.hears("b", [(1.0, 0)] * 4)
    device.hears("c", [(2.0, 1)] * 2)
    assert device.sees(0.0, 0)[0] == [(1.0, 0), (2.0, 1), (1.0, 0)]
    assert device.sees(0.0, 0)[0] == [(2.0, 1), (1.0, 0), (1.0, 0)]
    assert device.sees(0.0, 0)[0] == []


def test_a_neighbour_who_floods_does_not_keep_the_others_out():
    device = Device(learned=1, skips_known=False)
    device.hears("b", [(1.0, 0)] * 50, version=0)
    device.hears("c", [(2.0, 1)] * 3)
    learned = []
    for version in range(1, 7):
        device.hears("b", [(1.0, 0)] * 50, version)
        learned += device.sees(0.0, 0)[0]
    assert learned.count((2.0, 1)) == 3


def test_nothing_foreign_is_learned_where_none_is_allowed():
    device = Device(learned=0)
    device.hears("b", [(1.0, 0)])
    assert device.sees(0.0, 0)[0] == []


@pytest.mark.parametrize(
    ("skips", "learned"), [(True, [(5.0, 0), (9.0, 0)]), (False, [*OWN, (5.0, 0), (9.0, 0)])]
)
def test_prototypes_that_are_own_ones_are_not_learned_again(skips, learned):
    device = Device(skips_known=skips).knows(*OWN)
    device.hears("b", [*OWN, (5.0, 0), (9.0, 0)])  # at 9 there is an own one, but of another class
    assert sorted((round(x), y) for x, y in device.sees(0.0, 0)[0]) == sorted(learned)


def test_a_neighbour_that_is_gone_leaves_nothing():
    device = Device()
    device.hears("b", [(1.0, 0)])
    device.sharing.forget("b")
    assert device.sees(0.0, 0)[0] == []
    kept = vars(device.sharing)
    assert not any(kept[name] for name in ("_received", "_mail", "_told", "_held", "_newest"))


# ------------------------------------------------------------ what is told


def told_to(device, neighbours, num=1):
    return [[tell.to for tell in device.sees(0.0, 0, neighbours)[1]] for _ in range(num)]


def test_the_own_set_is_told_as_it_is():
    _, (tell,) = Device().knows(*OWN).sees(0.0, 0, ["b"])
    found = unpack(whole_of(tell).packed, 1, 2)
    np.testing.assert_allclose(found.vectors[:, 0], [x for x, _ in OWN], atol=0.01)
    assert found.labels.tolist() == [y for _, y in OWN]


def test_partners_are_drawn_anew_and_are_at_most_the_neighbours():
    found = told_to(Device(partners=2).knows(*OWN), ["b", "c", "d"], 30)
    assert {len(set(one)) for one in found} == {2}
    assert {one for row in found for one in row} == {"b", "c", "d"}
    assert sorted(told_to(Device(partners=9).knows(*OWN), ["b", "c"])[0]) == ["b", "c"]
    assert told_to(Device(partners=9).knows(*OWN), []) == [[]]


def test_it_tells_after_a_share_of_the_samples():
    found = told_to(Device(probability=0.2, partners=1).knows(*OWN), ["b"], 200)
    assert 25 <= found.count(["b"]) <= 55


def test_versions_of_sets_count_up():
    device = Device().knows(*OWN)
    versions = [[whole_of(tell).version for tell in device.sees(0.0, 0, "bc")[1]] for _ in range(3)]
    assert versions == [[1, 1], [2, 2], [3, 3]]


def test_the_papers_gate_tells_who_said_nothing_yet_or_something_far_away():
    device = Device(gate="paper", learned=0).knows(*OWN)
    assert told_to(device, ["b"]) == [["b"]]
    device.hears("b", OWN)
    device.hears("c", [(x + 100, y) for x, y in OWN])
    assert told_to(device, ["b"]) == [[]]
    assert told_to(device, ["c"]) == [["c"]]


def held(device, tell):
    device.sharing.on_said(tell.to, Held(whole_of(tell).version))


def test_the_calibrated_gate_tells_until_the_neighbour_has_the_set_and_again_when_it_has_changed():
    device = Device(gate="calibrated").knows(*OWN)
    device.sees(0.0, 0, ["b"])
    _, (tell,) = device.sees(0.0, 0, ["b"])
    held(device, tell)
    assert told_to(device, ["b", "c"]) == [["c"]]
    device.knows(*((x + 100, y) for x, y in OWN))
    assert told_to(device, ["b"]) == [["b"]]


def test_an_answer_to_a_forgotten_set_or_to_none_says_nothing():
    device = Device(gate="calibrated").knows(*OWN)
    device.sharing.on_said("b", Held(1))
    _, (tell,) = device.sees(0.0, 0, ["b"])
    for _ in range(versions.MOST_VERSIONS):
        device.sees(0.0, 0, ["b"])
    held(device, tell)
    assert told_to(device, ["b"]) == [["b"]]


def test_an_answer_that_comes_after_the_next_set_was_told_still_counts():
    device = Device(gate="calibrated").knows(*OWN)
    _, (tell,) = device.sees(0.0, 0, ["b"])
    device.sees(0.0, 0, ["b"])
    held(device, tell)
    assert told_to(device, ["b"]) == [[]]


def test_a_neighbour_that_began_anew_has_no_set():
    device = Device(gate="calibrated").knows(*OWN)
    _, (tell,) = device.sees(0.0, 0, ["b"])
    held(device, tell)
    device.sharing.restarted("b")
    assert told_to(device, ["b"]) == [["b"]]


@pytest.mark.parametrize(
    ("gate", "tells_changes", "num"),
    [
        ("calibrated", False, 1),
        ("paper", False, 0),
        ("open", False, 0),
        ("paper", True, 1),
        ("open", True, 1),
    ],
)
def test_whoever_gets_a_set_answers_where_the_gate_or_changes_need_it(gate, tells_changes, num):
    answers = Device(gate=gate, tells_changes=tells_changes).hears("b", OWN, version=5)
    assert [(tell.to, tell.whisper.said) for tell in answers] == [("b", Held(5))] * num


# ------------------------------------------------------------ changes of a set


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


# ------------------------------------------------------------ hostile neighbours


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Demand(wants=True), "this run shares sets"),
        (Whole(1, b""), "header"),
        (whole(of_samples(np.zeros((0, 1)), [])), "0 prototypes"),
        (whole(of_samples(np.zeros((51, 1)), [0] * 51)), "51 prototypes, 1 to 50"),
        (Whole(1, pack(of_samples([[2e15]], [0]), 2, units=None)), "beyond 1e"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_changes(said, reason):
    device = Device()
    with pytest.raises(PeerError, match=reason):
        device.sharing.on_said("b", said)
    assert device.sees(0.0, 0)[0] == []
    assert device.sharing._received == {}


hostile = st.lists(
    st.tuples(
        st.floats(-999999986991104.0, 999999986991104.0, width=32),
        st.integers(0, 1),
        st.sampled_from([0.0, 1.0, 1e6]),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=20, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(hostile, min_size=1, max_size=3), st.sampled_from(["dbscan", "kmeans"]))
def test_any_set_that_is_let_through_can_be_learned_clustered_and_told(sets, clustering):
    device = Device(gate="paper", clustering=clustering, most=4)
    for version, rows in enumerate(sets):
        vectors, labels, weights = (np.array(column) for column in zip(*rows, strict=True))
        ages = np.zeros(len(rows), np.float32)
        told = PrototypeSet(vectors[:, None].astype(np.float32), labels, weights.astype(np.float32), ages)
        device.sharing.on_said("b", Whole(version, pack(told, 2, units=None)))
        _, tells = device.sees(1.0, 0, ["b", "c"])
        for tell in tells:
            assert Device(tells_changes=False).sharing.on_said("a", tell.whisper.said) == []


def test_sets_that_may_outgrow_a_message_are_refused_before_the_run():
    with pytest.raises(ValueError, match=r"lower ilvq\.max_prototypes"):
        Device(max_prototypes=2000, num_features=300)
