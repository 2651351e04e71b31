"""Who is whose neighbour."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.peers.topology import (
    Topology,
    load_topology,
    metropolis_matrix,
    neighbours,
    own_neighbours,
    spectral_gap,
)
from device_agent.peers.topology_settings import TopologySettings
from firmware_profiles.errors import UserError


def make(kind, *, seed=1, **fields):
    return load_topology(TopologySettings(kind=kind, **fields), seed)


def ids(number):
    return [f"node-{index + 1}" for index in range(number)]


def links(found):
    return {(device, other.device) for device, mine in found.items() for other in mine}


def test_a_ring_gives_everybody_two_neighbours():
    found = neighbours(make("ring"), ids(10))
    assert [one.device for one in found["node-10"]] == ["node-1", "node-9"]
    assert all(len(mine) == 2 for mine in found.values())


def test_a_ring_of_two_is_one_link_and_one_device_is_alone():
    assert links(neighbours(make("ring"), ids(2))) == {("node-1", "node-2"), ("node-2", "node-1")}
    assert neighbours(make("ring"), ids(1)) == {"node-1": ()}


def test_a_grid_of_seven_is_as_near_to_a_square_as_it_can_be():
    found = neighbours(make("grid"), ids(7))  # 1 2 3 / 4 5 6 / 7
    assert [one.device for one in found["node-4"]] == ["node-1", "node-5", "node-7"]
    assert [one.device for one in found["node-3"]] == ["node-2", "node-6"]


def test_full_connects_everybody_with_everybody():
    assert len(links(neighbours(make("full"), ids(6)))) == 30


def test_full_of_more_than_a_device_can_be_told_of_gives_each_up_to_a_thousand():
    found = neighbours(make("full"), ids(1010))
    assert all(500 < len(mine) <= 1000 for mine in found.values())


def test_random_connects_everybody_while_there_are_few():
    assert links(neighbours(make("random"), ids(33))) == links(neighbours(make("full"), ids(33)))


def test_a_random_graph_of_many_is_nearly_as_well_connected_as_a_full_one():
    found = neighbours(make("random"), ids(200))
    assert all(24 <= len(mine) <= 32 for mine in found.values())
    assert spectral_gap(metropolis_matrix(found)) > 0.5  # of a ring with as many neighbours: 0.03


def test_a_device_that_leaves_a_random_graph_moves_few():
    topology = make("random", num_neighbours=4)
    before, after = (links(neighbours(topology, devices)) for devices in (ids(50), ids(49)))
    gone = {pair for pair in before if "node-50" in pair}
    assert len(after - before) <= 4
    assert before - after == gone


def test_a_device_that_leaves_moves_no_other_on_a_geometric_graph():
    topology = make("geometric", radius=0.9)
    before, after = (links(neighbours(topology, devices)) for devices in (ids(12), ids(11)))
    assert after == {(one, other) for one, other in before if "node-12" not in (one, other)}


def test_places_drawn_anew_change_the_graph_every_so_many_windows():
    topology = make("geometric", redraw_windows=3)
    drawn = [neighbours(topology, ids(12), window) for window in range(6)]
    assert drawn[0] == drawn[2] != drawn[3] == drawn[5]


def test_a_ring_drawn_anew_is_a_ring_of_another_order():
    topology = make("ring", redraw_windows=1)
    assert links(neighbours(topology, ids(9), 0)) != links(neighbours(topology, ids(9), 1))
    assert all(len(mine) == 2 for mine in neighbours(topology, ids(9), 1).values())


def test_the_run_decides_the_places_unless_the_topology_has_a_seed_of_its_own():
    assert links(neighbours(make("geometric"), ids(12))) != links(
        neighbours(make("geometric", seed=2), ids(12))
    )
    settings = TopologySettings(kind="geometric", seed=7)
    own = [neighbours(load_topology(settings, run), ids(12)) for run in (1, 2)]
    assert own[0] == own[1]


@given(
    kind=st.sampled_from(["random", "ring", "grid", "geometric", "full"]),
    number=st.integers(0, 30),
    seed=st.integers(0, 1000),
    radius=st.floats(0.01, 1.0),
)
def test_drawn_topologies_are_mutual_connected_and_know_their_degrees(kind, number, seed, radius):
    found = neighbours(
        Topology(TopologySettings(kind=kind, radius=radius, num_neighbours=4), seed), ids(number)
    )
    assert set(found) == set(ids(number))
    pairs = links(found)
    assert pairs == {(other, one) for one, other in pairs}
    assert all(one.degree == len(found[one.device]) for mine in found.values() for one in mine)
    assert all(device not in {one.device for one in mine} for device, mine in found.items())
    if number > 1:
        assert spectral_gap(metropolis_matrix(found)) > 1e-9  # 0 where the graph falls apart


def test_a_device_finds_the_same_neighbours_by_itself():
    topology = make("geometric")
    found = neighbours(topology, ids(12))
    heard = [device for device in ids(12) if device != "node-5"]
    assert own_neighbours(topology, "node-5", heard) == found["node-5"]


def test_a_file_names_the_edges(tmp_path):
    path = tmp_path / "edges.txt"
    path.write_text("# three in a row\nnode-1 node-2\nnode-3 node-2  # the last\n")
    found = neighbours(make("file", file=str(path)), ids(4))
    assert [one.device for one in found["node-2"]] == ["node-1", "node-3"]
    assert found["node-2"][0].degree == 1
    assert found["node-4"] == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a b c\n", "line 1: 'a b c' is no edge"),
        ("a b\n\nb a\n", "line 3: a b is line 1 already"),
        ("a a\n", "its own neighbour"),
        ("A b\n", "'A' is no id"),
        ("# nothing\n", "has no edges"),
        ("a b\nc d\n", "c cannot be reached from a"),
    ],
)
def test_a_bad_edge_list_says_where_it_is_bad(tmp_path, text, told):
    path = tmp_path / "edges.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        make("file", file=str(path))


def test_a_missing_edge_list_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        make("file", file=str(tmp_path / "none.txt"))


@pytest.mark.parametrize(
    "fields", [{"kind": "file"}, {"kind": "ring", "file": "x"}, {"kind": "full", "redraw_windows": 2}]
)
def test_settings_that_contradict_themselves_are_refused(fields):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, TopologySettings)


def test_the_mixing_matrix_is_symmetric_and_doubly_stochastic_and_loss_makes_it_slower():
    found = neighbours(make("grid"), ids(9))
    whole, lossy = metropolis_matrix(found), metropolis_matrix(found, 0.7)
    for matrix in (whole, lossy):
        np.testing.assert_allclose(matrix, matrix.T)
        np.testing.assert_allclose(matrix.sum(axis=1), 1.0)
    assert 0 < spectral_gap(lossy) < spectral_gap(whole)


def test_the_spectral_gap_of_a_full_graph_is_one_and_of_a_ring_that_of_the_cosine():
    assert spectral_gap(metropolis_matrix(neighbours(make("full"), ids(5)))) == pytest.approx(1.0)
    expected = 1 - (1 + 2 * np.cos(2 * np.pi / 10)) / 3
    assert spectral_gap(metropolis_matrix(neighbours(make("ring"), ids(10)))) == pytest.approx(expected)
