"""Who exchanges with whom in a window, and what a method says of it."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from coordinator.method import check_compression, read_topology, resolve_method
from coordinator.orders import Device, RunConfig, make_order
from coordinator.peering import Assignment, assignment_of, window_s, windowed
from coordinator.strategies.mean_of_devices import MEAN_OF_DEVICES
from coordinator.strategies.presets import PRESETS
from device_agent.peers.topology import Topology
from device_agent.peers.topology_settings import TopologySettings
from device_agent.wire.messages import BlobRef, Hello, PeerReport, Update
from firmware_profiles.errors import UserError
from models.compression.settings import CompressionSettings
from models.peer_settings import PeerSettings
from models.subnet import full_vector

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "tiny_fleet.py")))

DECENTRALISED = ("dsgd", "dsgd-paper", "dsgd-discard", "dsgd-synchronous", "ad-psgd", "swift", "epidemic")
CONFIG = RunConfig(
    run="r",
    strategy_name="dsgd",
    num_rounds=3,
    min_devices=2,
    deadline_s=10,
    grace_s=2,
    passes=1,
    batch_size=4,
    seed=1,
)


def ring(**fields):
    return Assignment(Topology(TopologySettings(kind="ring", **fields), seed=1))


def names(peering):
    return [one.device for one in peering.neighbours]


def test_a_window_connects_the_devices_that_are_here_when_it_opens():
    assignment = ring()
    assignment.open(["a", "b", "c", "d"], 0)
    assert names(assignment.of("a")) == ["b", "d"]
    assert [one.degree for one in assignment.of("a").neighbours] == [2, 2]


def test_a_device_that_leaves_is_nobodys_neighbour_from_the_next_window_on():
    assignment = ring()
    assignment.open(["a", "b", "c", "d"], 0)
    before = assignment.of("a")
    assignment.open(["a", "b", "c"], 1)
    assert names(assignment.of("a")) == ["b", "c"]
    assert assignment.of("a").epoch == before.epoch + 1


def test_a_device_that_comes_within_a_window_has_nobody_until_the_next():
    assignment = ring()
    assignment.open(["a", "b"], 0)
    assert names(assignment.of("late")) == []
    assignment.open(["a", "b", "late"], 1)
    assert names(assignment.of("late")) == ["a", "b"]


def test_the_epoch_stays_while_nothing_changes_and_rises_over_a_restart():
    assignment = ring()
    assignment.open(["a", "b"], 0)
    before = assignment.of("a").epoch
    assignment.open(["b", "a"], 1)
    assert assignment.of("a").epoch == before
    again = assignment_of(PRESETS["dsgd"], seed=1, boot_epoch=2)
    assert again is not None
    assert again.epoch > before


def test_a_graph_drawn_anew_every_window_changes_the_epoch():
    assignment = ring(redraw_windows=1)
    devices = [f"node-{number}" for number in range(9)]
    epochs = []
    for window in range(3):
        assignment.open(devices, window)
        epochs.append(assignment.of("node-0").epoch)
    assert epochs == [1, 2, 3]


def test_an_order_of_a_window_is_for_its_mini_batches_and_a_late_report_does_not_count():
    method = resolve_method("dsgd", peers={"window": 5, "unit_batches": 3})
    config = windowed(CONFIG, method)
    hello = Hello(
        device="a",
        boot_epoch=1,
        version="1",
        profile="p",
        engine="numpy",
        num_cores=1,
        memory_total_bytes=None,
        num_samples=400,
        input_shape=(3,),
        num_classes=2,
        cpu_share_fraction=1.0,
    )
    assignment = assignment_of(method, 1, 1)
    assert assignment is not None
    assignment.open(["a", "b"], 0)
    ref = BlobRef(digest="0" * 64, size_bytes=1)
    order = make_order(config, 1, Device(hello, order=1), ref, ref, 10.0, assignment.of("a"))
    assert order.num_batches == 15
    assert order.peering is not None
    assert names(order.peering) == ["b"]
    assert config.max_staleness == 0


def test_a_method_without_exchanges_is_left_as_it_is():
    assert windowed(CONFIG, PRESETS["distreal"]) is CONFIG
    assert assignment_of(PRESETS["distreal"], 1, 1) is None


def test_devices_are_not_drawn_where_all_exchange():
    with pytest.raises(UserError, match="leave devices_per_round out"):
        windowed(replace(CONFIG, devices_per_round=2), PRESETS["dsgd"])


def test_a_window_of_barriers_has_as_long_as_its_barriers_and_a_little_more():
    assert window_s(PeerSettings(window=10, barrier_s=0.5), 60.0) == pytest.approx(6.0)


@pytest.mark.parametrize("pace", ["wait-free", "synchronous"])
def test_devices_at_a_pace_of_their_own_are_waited_for(pace):
    settings = PeerSettings(pace=pace, window=10, barrier_s=0.5)
    assert window_s(settings, 60.0) == 60.0
    assert window_s(settings, 10.0) == 50.0


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (None, {}),
        ("ring", {"kind": "ring"}),
        ("geometric:0.6", {"kind": "geometric", "radius": 0.6}),
        ("my/edges.txt", {"kind": "file", "file": "my/edges.txt"}),
    ],
)
def test_the_option_names_a_kind_or_an_edge_list(text, fields):
    assert read_topology(text) == fields


@pytest.mark.parametrize("text", ["star", "geometric:far", "geometric:9"])
def test_an_option_that_names_neither_is_refused(text):
    with pytest.raises(UserError, match="topology"):
        read_topology(text)


def test_the_mean_counts_every_device_once_however_much_it_trained():
    bundle = tiny.make_bundle()
    weights = tiny.make_weights(bundle)
    aggregator = MEAN_OF_DEVICES.open(bundle, weights)
    full = full_vector(bundle.plan)
    for shift, vectors, steps, samples in ((1.0, (full,), (0,) * 9, 36), (2.0, (), (), 0)):
        delta = {name: np.full_like(value, shift) for name, value in weights.items()}
        update = Update(
            order=1,
            round=1,
            num_samples=samples,
            vectors=vectors,
            step_vectors=steps,
            seed=1,
            delta=BlobRef(digest="0" * 64, size_bytes=1),
            macs=0,
            loss_sum=0.0,
            busy_s=0.0,
            wall_s=0.0,
            peers=PeerReport(step=1),
        )
        MEAN_OF_DEVICES.fold(aggregator, update, delta, 1.0, 4)
    mean = MEAN_OF_DEVICES.finish(aggregator, None, 1.0)
    for name, value in weights.items():
        np.testing.assert_allclose(mean[name], value + 1.5, rtol=1e-6)


# ---------------------------------------------------------------- presets


@pytest.mark.parametrize("name", DECENTRALISED)
def test_every_decentralised_method_takes_the_mean_of_the_devices_weights(name):
    preset = PRESETS[name]
    assert preset.peers is not None
    assert (preset.averages.entries, preset.averages.weighting) == ("plain", "equal")
    assert (preset.averages.server_momentum, preset.averages.step_normalisation) == (0.0, 0.0)


def test_the_three_forms_of_the_paper_differ_in_what_becomes_of_late_gradients_alone():
    reuse, discard, synchronous = (PRESETS[name].peers for name in DECENTRALISED[1:4])
    assert reuse is not None
    assert discard is not None
    assert synchronous is not None
    assert (reuse.late, discard.late) == ("reuse", "discard")
    assert (reuse.pace, discard.pace, synchronous.pace) == ("barrier", "barrier", "synchronous")
    assert {one.weight for one in (reuse, discard, synchronous)} == {"metropolis"}


def test_baselines_are_as_their_papers_have_them():
    ad_psgd, swift, epidemic = (PRESETS[name] for name in DECENTRALISED[4:])
    assert ad_psgd.peers == PeerSettings(pace="wait-free", partners=1, weight="half")
    assert swift.peers == PeerSettings(pace="wait-free", exchange="push")
    assert epidemic.peers == PeerSettings(exchange="push", partners=3, weight="uniform")
    assert epidemic.topology.kind == "full"


def test_single_fields_of_an_exchange_can_be_replaced():
    method = resolve_method("swift", peers={"barrier_s": 0.5}, topology={"kind": "grid"})
    assert method.peers == PeerSettings(pace="wait-free", exchange="push", barrier_s=0.5)
    assert method.topology == TopologySettings(kind="grid")


@pytest.mark.parametrize(
    ("strategy", "changes", "told"),
    [
        ("dsgd", {"peers": {"barier_s": 1}}, 'peers: key "barier_s" is unknown; did you mean'),
        ("dsgd", {"topology": {"kind": "star"}}, "topology: Invalid enum value 'star'"),
        ("full", {"peers": {"window": 2}}, "full has no exchange between devices"),
        ("distreal", {"topology": {"kind": "ring"}}, "choose one of dsgd, dsgd-paper"),
        ("fiarse", {"asynchrony": {}}, "draws channels by the weights of one version"),
    ],
)
def test_what_does_not_fit_a_method_is_refused(strategy, changes, told):
    with pytest.raises(UserError, match=told):
        resolve_method(strategy, **changes)


@pytest.mark.parametrize(
    ("strategy", "scheme", "told"),
    [
        ("dsgd", "top-k", "these devices exchange weights: choose float16, int8 or random-mask"),
        ("swift", "random-mask", "this strategy pushes: choose float16 or int8"),
    ],
)
def test_a_compression_that_means_nothing_between_neighbours_is_refused(strategy, scheme, told):
    with pytest.raises(UserError, match=told):
        check_compression(resolve_method(strategy), CompressionSettings(scheme=scheme))


@pytest.mark.parametrize(
    ("strategy", "scheme"), [("dsgd", "random-mask"), ("swift", "int8"), ("async", "top-k")]
)
def test_other_compressions_are_taken(strategy, scheme):
    check_compression(resolve_method(strategy), CompressionSettings(scheme=scheme))
