"""Whole sets: when they are told, what is let through, and how they are learned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_agent.gossip import versions
from device_agent.wire.whispers import Demand, Held, Whole
from firmware_profiles.errors import PeerError
from models.prototypes.packing import pack, unpack
from models.prototypes.prototype_set import PrototypeSet, of_samples
from tests.fixtures.set_sharing import OWN, Device, whole, whole_of

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
