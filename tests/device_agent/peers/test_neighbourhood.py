"""With whom a device exchanges, how often, and who begins."""

from __future__ import annotations

import pytest

from device_agent.peers.neighbourhood import Neighbourhood
from device_agent.wire.messages import Neighbour, Peering
from models.peer_settings import PeerSettings


def make(device, neighbours, **settings):
    """The neighbourhood of a device; `neighbours`: id -> how many it has itself."""
    peering = Peering(
        neighbours=tuple(Neighbour(device=one, degree=degree) for one, degree in neighbours.items())
    )
    return Neighbourhood(device, PeerSettings(**settings), peering, seed=1)


def test_all_neighbours_count_where_none_are_drawn():
    assert make("a", {"b": 1, "c": 5}).degree == 2


@pytest.mark.parametrize(("num", "degree"), [(10, 6), (50, 6), (4, 3), (2, 1)])
def test_where_all_know_each_other_half_of_the_exchanges_are_begun_by_others(num, degree):
    others = {f"node-{index}": num - 1 for index in range(num - 1)}
    assert make("a", others, partners=3).degree == degree


def test_the_hub_of_a_star_expects_all_its_leaves():
    hub = make("hub", {f"leaf-{index}": 1 for index in range(30)}, partners=3)
    leaf = make("leaf-0", {"hub": 30}, partners=3)
    assert (hub.degree, leaf.degree) == (30, 1)
    assert hub.begins("leaf-0")
    assert leaf.begins("hub")


@pytest.mark.parametrize("partners", [None, 3])
def test_of_two_that_both_exchange_with_all_one_begins(partners):
    one, other = (make(me, {them: 1}, partners=partners) for me, them in (("a", "b"), ("b", "a")))
    assert one.begins("b") != other.begins("a")


def test_as_many_partners_as_wanted_are_drawn():
    drawn = make("a", {f"node-{index}": 9 for index in range(9)}, partners=3)
    assert {len(set(drawn.draw())) for _ in range(10)} == {3}


@pytest.mark.parametrize(("answered", "num"), [(1.0, 3), (0.75, 4), (0.5, 6), (0.1, 6)])
def test_more_are_drawn_where_few_answer_and_at_most_twice_as_many(answered, num):
    drawn = make("a", {f"node-{index}": 20 for index in range(20)}, partners=3)
    assert {len(set(drawn.draw(answered))) for _ in range(10)} == {num}


def test_a_part_of_a_draw_is_drawn_so_often():
    drawn = make("a", {f"node-{index}": 20 for index in range(20)}, partners=3)
    nums = [len(drawn.draw(2 / 3)) for _ in range(200)]  # 4.5 on average
    assert set(nums) == {4, 5}
    assert 4.3 < sum(nums) / 200 < 4.7


def test_who_has_an_exchange_under_way_is_not_drawn():
    drawn = make("a", {f"node-{index}": 9 for index in range(9)}, partners=3)
    free = {"node-1", "node-4"}
    assert {frozenset(drawn.draw(1.0, free.__contains__)) for _ in range(10)} == {frozenset(free)}
