"""A device's life, and fleets of them."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
import pytest

from benchmarks import gossip_fleet
from benchmarks.gossip_fleet import Network, NodeStream, run_fleet
from device_agent.gossip import gossiper as gossiper_module
from device_agent.gossip.gossiper import MOST_DRIFTS, Gossiper
from device_agent.wire.whispers import Changed, Demand, Held, News, Whisper, Whole, encode_whisper, mark_of
from firmware_profiles.errors import PeerError
from models.gossip_settings import GossipSettings, NewsSettings, SetSettings
from models.prototypes.learner import PrototypeLearner
from models.prototypes.packing import pack, units_in
from models.prototypes.prototype_set import of_samples
from models.prototypes.settings import LearnerSettings
from models.prototypes.units import Units, units_for

NEWS = GossipSettings(news=NewsSettings(below=1.0, demand_below=0.0, probes=0.0))
SETS = GossipSettings(learner="ilvq", shares="sets", sets=SetSettings(gate="calibrated"))
X = np.array([1.0, 2.0], np.float32)


def gossiper(settings=NEWS, device="a", neighbours=("b", "c")):
    made = Gossiper(
        device=device,
        boot_epoch=1,
        run="run-1",
        settings=settings,
        num_features=2,
        num_classes=2,
        seed=0,
    )
    made.meet(neighbours)
    return made


def whisper(said, sequence=0, boot_epoch=1, run="run-1", age_ms=0):
    return Whisper(1, mark_of(run), boot_epoch, sequence, age_ms, said)


def packed(x, y, units=None, **changes):
    told = of_samples([x], [y])
    return pack(told, 2, units=units or units_for(told), with_ages=False, **changes)


HELLO = News(packed(X, 1))


def experts(device):
    assert isinstance(device.learner, PrototypeLearner)
    return device.learner


def same_state(learner, before):
    after = learner.state()
    return all(np.array_equal(array, before[name]) for name, array in after.items())


# ------------------------------------------------------------ the stream


def test_a_sample_is_predicted_then_learned_and_counted_once_its_label_comes():
    device = gossiper()
    assert device.on_sample(7, X) == 0
    assert device.prequential.counts.sum() == 0
    assert len(device.on_label(7, 1)) == 1
    assert device.prequential.counts.tolist() == [[0, 0], [1, 0]]
    assert device.on_sample(8, X) == 1


def test_labels_may_come_late_and_in_another_order():
    device = gossiper()
    assert [device.on_sample(number, X + number) for number in range(3)] == [0, 0, 0]
    for number in (2, 0, 1):
        device.on_label(number, number % 2)
    assert device.prequential.counts.tolist() == [[2, 0], [1, 0]]


def test_a_label_that_comes_twice_or_for_no_sample_changes_nothing():
    device = gossiper()
    device.on_sample(0, X)
    device.on_label(0, 1)
    before = device.learner.state()
    assert device.on_label(0, 0) == device.on_label(5, 0) == []
    assert device.prequential.counts.sum() == 1
    assert same_state(device.learner, before)


def test_samples_whose_labels_never_come_are_not_kept_for_ever(monkeypatch):
    monkeypatch.setattr(gossiper_module, "MOST_WAITING", 2)
    device = gossiper()
    for number in range(5):
        device.on_sample(number, X)
    assert device.num_unlabelled == 3
    assert [len(device.on_label(number, 1)) for number in range(5)] == [0, 0, 0, 1, 1]


def test_a_label_of_no_class_is_refused_and_the_right_one_may_still_come():
    device = gossiper()
    device.on_sample(0, X)
    with pytest.raises(ValueError, match="class 2"):
        device.on_label(0, 2)
    assert len(device.on_label(0, 1)) == 1


@pytest.mark.parametrize("settings", [NEWS, SETS], ids=["news", "sets"])
@pytest.mark.parametrize("bad", [[np.nan, 0], [np.inf, 0], [1e16, 0], [1.0]])
def test_features_that_cannot_be_used_are_refused_and_nothing_changes(settings, bad):
    device = gossiper(settings)
    before = device.learner.state()
    with pytest.raises(ValueError, match="feature"):
        device.on_sample(0, np.array(bad, np.float32))
    assert device.on_label(0, 1) == []
    assert same_state(device.learner, before)


def test_the_caller_may_use_its_array_again():
    device, again = gossiper(), np.array([3.0, 4.0], np.float32)
    device.on_sample(0, again)
    again[:] = 0.0
    device.on_label(0, 1)
    np.testing.assert_array_equal(experts(device).scales().mean, [3.0, 4.0])


def test_drifts_are_noted_and_only_the_latest_kept():
    device = gossiper(GossipSettings(shares="nothing"))
    for number in range(240):
        device.on_sample(number, np.zeros(2, np.float32))
        device.on_label(number, int(number >= 150 and number % 2))
    assert device.drifts[0].after > device.drifts[0].before
    assert device.drifts.maxlen == MOST_DRIFTS


# ------------------------------------------------------------ neighbours


def test_a_whisper_that_comes_again_changes_nothing():
    device = gossiper()
    for _ in range(3):
        assert device.on_whisper(1.0, "b", whisper(HELLO)) == []
    assert (experts(device).pool_size, device.num_repeats) == (1, 2)


def test_whispers_may_come_in_any_order():
    device = gossiper()
    for sequence in (5, 3, 4, 3):
        device.on_whisper(1.0, "b", whisper(HELLO, sequence))
    assert (experts(device).pool_size, device.num_repeats) == (3, 1)


def test_what_a_neighbour_said_before_its_restart_comes_too_late():
    device = gossiper()
    device.on_whisper(1.0, "b", whisper(HELLO, 0, boot_epoch=2))
    device.on_whisper(1.0, "b", whisper(HELLO, 9, boot_epoch=1))
    assert (experts(device).pool_size, device.num_repeats) == (1, 1)


def test_a_neighbour_that_restarts_is_heard_and_told_anew():
    device = gossiper()
    for one in "bc":
        device.on_whisper(1.0, one, whisper(Demand(wants=False), 8))
    device.on_sample(0, X)
    assert device.on_label(0, 1) == []
    device.on_whisper(2.0, "b", whisper(HELLO, 0, boot_epoch=2))
    device.on_sample(1, X)
    assert len(device.on_label(1, 1)) == 1
    assert device.num_repeats == 0


def test_a_neighbour_that_restarts_is_told_a_set_that_has_not_changed():
    device, receiver = gossiper(SETS, neighbours=("b",)), gossiper(SETS, "b", ("a",))
    for number in range(4):
        device.on_sample(number, X)
        for tell in device.on_label(number, 0):
            for answer in receiver.on_whisper(1.0, "a", tell.whisper):
                device.on_whisper(1.0, "b", answer.whisper)
    device.on_sample(4, X)
    assert device.on_label(4, 0) == []
    device.on_whisper(2.0, "b", whisper(Whole(1, packed(X, 0)), 0, boot_epoch=2))
    device.on_sample(5, X)
    assert [tell.to for tell in device.on_label(5, 0)] == ["b"]


@pytest.mark.parametrize(
    ("settings", "sender", "run", "reason"),
    [
        (NEWS, "b", "run-2", "another run"),
        (NEWS, "z", "run-1", "no neighbour"),
        (NEWS, "a", "run-1", "no neighbour"),
        (SETS, "b", "run-1", "shares sets"),
        (GossipSettings(shares="nothing"), "b", "run-1", "shares nothing"),
    ],
)
def test_strangers_and_other_runs_are_refused_and_leave_nothing(settings, sender, run, reason):
    device = gossiper(settings)
    with pytest.raises(PeerError, match=reason):
        device.on_whisper(1.0, sender, whisper(HELLO, run=run))
    assert device.ages == {}


def test_strangers_cost_no_memory():
    device = gossiper()
    for number in range(100):
        with pytest.raises(PeerError):
            device.on_whisper(1.0, f"z-{number}", whisper(HELLO))
    assert device._heard == {}


def test_what_a_neighbour_told_stays_while_it_is_away_and_counts_once():
    device = gossiper()
    device.on_whisper(1.0, "b", whisper(HELLO))
    device.on_whisper(1.0, "c", whisper(HELLO))
    device.meet(["c", "a", "c"])
    assert device.neighbours == ("c",)
    assert experts(device).pool_size == 2
    device.meet(["b", "c"])
    device.on_whisper(2.0, "b", whisper(HELLO))
    assert (device.num_repeats, experts(device).pool_size) == (1, 2)


def test_of_many_that_are_no_neighbours_any_more_the_first_are_forgotten(monkeypatch):
    monkeypatch.setattr(gossiper_module, "MOST_KNOWN", 1)
    device = gossiper(neighbours=("b", "c"))
    device.on_whisper(1.0, "b", whisper(HELLO))
    device.on_whisper(1.0, "c", whisper(HELLO))
    device.meet([])
    assert experts(device).pool_size == 1
    assert set(device.ages) == {"c"}


def test_after_a_time_without_the_broker_the_units_travel_again():
    device = gossiper()
    told = [tell for number in range(4) for tell in learned(device, number)]
    assert [units_in(tell.whisper.said.packed, 2) is None for tell in told] == [False] * 3 + [True]
    device.lost_touch()
    (again,) = learned(device, 4)
    assert units_in(again.whisper.said.packed, 2) is not None


def learned(device, number):
    device.on_sample(number, X)
    return device.on_label(number, 1)


def test_a_learner_that_no_board_has_room_for_is_refused():
    settings = GossipSettings(experts=LearnerSettings(memory=100_000, pool=100_000))
    with pytest.raises(ValueError, match="MiB"):
        Gossiper(
            device="a", boot_epoch=1, run="r", settings=settings, num_features=784, num_classes=2, seed=0
        )


def test_a_message_whose_units_were_lost_is_counted_and_makes_nothing_fresher():
    device = gossiper()
    units = Units(np.zeros(2, np.float32), np.ones(2, np.float32))
    device.on_whisper(1.0, "b", whisper(News(packed(X, 1, units, with_units=False))))
    assert (device.num_unread, experts(device).pool_size, device.ages) == (1, 0, {})


def test_ages_follow_what_came_with_its_age():
    device = gossiper()
    device.on_whisper(1.0, "b", whisper(HELLO, 0, age_ms=500))
    assert device.ages["b"].age_s == 0.5
    device.on_whisper(2.0, "b", whisper(Demand(wants=True), 1))
    assert device.ages["b"].last_s == 1.0
    device.on_whisper(3.0, "b", whisper(HELLO, 2))
    assert (device.ages["b"].age_s, device.ages["b"].peak_sum_s) == (0.0, 2.5)


@pytest.mark.parametrize("settings", [NEWS, SETS], ids=["news", "sets"])
def test_content_is_as_old_as_its_sample_when_the_label_comes_late(settings):
    device = gossiper(settings)
    device.on_sample(0, X, 10.0)
    assert {tell.whisper.age_ms for tell in device.on_label(0, 1, 12.5)} == {2500}
    device.on_sample(1, X)
    assert {tell.whisper.age_ms for tell in device.on_label(1, 1)} == {0}


# ------------------------------------------------------------ fleets


def streams(num=50, label_delay=0):
    made = []
    for node in range(3):
        rng = np.random.default_rng(node)
        labels = rng.integers(0, 2, num)
        vectors = (rng.normal(0, 0.7, (num, 2)) + 2.0 * labels[:, None]).astype(np.float32)
        made.append(NodeStream(vectors, labels, np.arange(num) / 10 + node / 1e3, label_delay))
    return made


def traces(settings, seed):
    lossy = Network(loss_fraction=0.2)
    return [
        (
            node.gossiper.prequential.counts.tolist(),
            {name: array.tobytes() for name, array in node.gossiper.learner.state().items()},
            (node.bytes_sent, node.bytes_received, node.num_sent),
            node.gossiper.ages,
        )
        for node in run_fleet(streams(), settings, num_classes=2, network=lossy, seed=seed)
    ]


CLUSTERED = GossipSettings(
    learner="ilvq", shares="sets", sets=SetSettings(clustering="kmeans", most=10, partners=1)
)


def kinds_told(monkeypatch, settings, **network):
    """How many whispers of each kind a fleet tells."""
    kinds = Counter()

    def counted(whisper):
        kinds[type(whisper.said).__name__] += 1
        return encode_whisper(whisper)

    monkeypatch.setattr(gossip_fleet, "encode_whisper", counted)
    run_fleet(streams(), settings, num_classes=2, network=Network(**network))
    return kinds


@pytest.mark.parametrize("network", [{}, {"delay_s": 0.35}, {"loss_fraction": 0.5}])
def test_changes_are_told_over_slow_and_lossy_links_too(monkeypatch, network):
    settings = msgspec.structs.replace(SETS, sets=SetSettings())
    kinds = kinds_told(monkeypatch, settings, **network)
    assert kinds["Changed"] > kinds["Whole"]


@pytest.mark.parametrize("settings", [GossipSettings(), CLUSTERED], ids=["news", "sets"])
def test_two_fleets_with_the_same_seeds_are_equal_bit_for_bit(settings):
    first = traces(settings, seed=1)
    assert first == traces(settings, seed=1)
    assert first != traces(settings, seed=2)


def test_a_change_of_a_set_that_never_came_is_counted_and_answered_by_asking_for_the_whole():
    device = gossiper(SETS)
    (asked,) = device.on_whisper(5.0, "b", whisper(Changed(3, 4, b"\x01")))
    assert (asked.to, asked.whisper.said) == ("b", Held(0))
    assert device.num_unread == 1
    assert device.ages == {}


def test_a_neighbour_that_comes_back_is_told_the_whole_set():
    device = gossiper(SETS, neighbours=("b",))
    for number in range(3):
        device.on_sample(number, X + number)
        for tell in device.on_label(number, number % 2):
            device.on_whisper(0.0, "b", whisper(Held(tell.whisper.said.version), sequence=number))
    device.meet(["c"])
    device.meet(["b"])
    device.on_sample(9, X)
    (tell,) = device.on_label(9, 1)
    assert isinstance(tell.whisper.said, Whole)


def test_losses_harm_nobody():
    network = Network(loss_fraction=0.5)
    for node in run_fleet(streams(), GossipSettings(), num_classes=2, network=network):
        counts = node.gossiper.prequential.counts
        assert np.trace(counts) / counts.sum() > 0.85


def test_labels_that_come_late_are_learned_but_for_the_last():
    nodes = run_fleet(streams(label_delay=5), GossipSettings(), num_classes=2)
    assert [node.gossiper.prequential.counts.sum() for node in nodes] == [45] * 3
    assert nodes[0].gossiper.ages["node-1"].age_s == pytest.approx(0.5, abs=0.002)


# ------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"learner": "ilvq", "shares": "news"}, "needs the learner experts"),
        ({"learner": "experts", "shares": "sets"}, "needs the learner ilvq"),
        ({"shares": "news", "experts": LearnerSettings(pool=0)}, r"experts\.pool"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        GossipSettings(**changes)


@pytest.mark.parametrize(
    "settings", [NEWS, SETS, GossipSettings(shares="nothing", experts=LearnerSettings(pool=0))]
)
def test_settings_are_read_as_they_were_written(settings):
    assert msgspec.json.decode(msgspec.json.encode(settings), type=GossipSettings) == settings
