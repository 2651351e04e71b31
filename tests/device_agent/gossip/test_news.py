"""What is news, to whom it is told, and what is done with it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from device_agent.gossip.news import DEMAND_EVERY, TIMES_UNITS, NewsSharing, Shadow
from device_agent.gossip.telling import ALL, Numbering
from device_agent.wire.whispers import Demand, Held, News
from firmware_profiles.errors import PeerError
from models.gossip_settings import NewsSettings
from models.prototypes.learner import PrototypeLearner
from models.prototypes.packing import MAX_PROTOTYPES, UnknownUnitsError, pack, units_in, unpack
from models.prototypes.prototype_set import of_samples
from models.prototypes.settings import LearnerSettings
from models.prototypes.units import units_for

ALL_NEWS = NewsSettings(below=1.0, demand_below=0.0)


class Device:
    """A learner and its sharing; learns each sample that is given to it."""

    def __init__(self, settings=ALL_NEWS, num_features=1, pool=20, seed=0):
        self.learner = PrototypeLearner(num_features, 2, LearnerSettings(pool=pool))
        self.sharing = NewsSharing(
            self.learner,
            settings,
            Numbering(7, 1),
            num_features=num_features,
            num_classes=2,
            pool=pool,
            seed=seed,
        )

    def sees(self, x, y, neighbours=("b", "c")):
        sample = np.array(x, np.float32).reshape(-1)
        self.learner.predict_proba(sample)
        self.learner.learn(sample, y)
        return self.sharing.after(sample, y, neighbours)


def samples(num, seed=0):
    """Two classes around -1 and 1."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, num)
    return zip((2 * labels - 1 + rng.normal(0, 0.3, num)).tolist(), labels.tolist(), strict=True)


def news(tells):
    return [tell for tell in tells if isinstance(tell.whisper.said, News)]


def packed_in(tell):
    assert isinstance(tell.whisper.said, News)
    return tell.whisper.said.packed


def units_of(tell):
    found = units_in(packed_in(tell), 1)
    assert found is not None
    return found


def demands(tells):
    return [tell.whisper.said.wants for tell in tells if isinstance(tell.whisper.said, Demand)]


def packed(vectors, labels, **changes):
    told = of_samples(vectors, labels)
    units = changes["units"] if "units" in changes else units_for(told)
    return pack(told, 2, units=units, with_weights=False, with_ages=False)


def test_the_first_samples_are_told_whatever_they_are():
    device = Device(NewsSettings(below=0.0, at_first=3, demand_below=0.0))
    assert [len(device.sees(1.0, 1)) for _ in range(5)] == [1, 1, 1, 0, 0]


def test_what_neighbours_already_explain_is_not_told_and_what_they_do_not_is():
    device = Device(NewsSettings(at_first=0, demand_below=0.0))
    for x, y in samples(10):
        device.sees(x, y, neighbours=())
    heard = [[side * (1 + number / 100)] for side in (-1, 1) for number in range(6)]
    device.sharing.on_said("b", News(packed(heard, [0] * 6 + [1] * 6)))
    assert device.sees(1.05, 1) == []
    assert len(device.sees(1.05, 0)) == 1


def test_what_was_told_once_is_known_to_the_neighbours():
    device = Device(NewsSettings(at_first=0, demand_below=0.0))
    num_told = [len(device.sees(1.0, 1)) for _ in range(20)]
    assert num_told[0] == 1
    assert num_told[10:] == [0] * 10


def test_without_neighbours_nothing_is_told():
    device = Device()
    assert device.sees(1.0, 1, neighbours=()) == []
    assert len(device.sees(1.0, 1)) == 1


def test_a_sample_goes_to_all_in_one_message_and_comes_as_it_was():
    (tell,) = Device().sees(0.25, 1)
    found = unpack(packed_in(tell), 1, 2)
    assert tell.to == ALL
    assert (found.vectors.tolist(), found.labels.tolist()) == ([[0.25]], [1])


def test_what_came_goes_into_the_pool_and_is_not_told_on():
    device, foreign = Device(), [[5.0], [6.0], [7.0]]
    assert device.sharing.on_said("b", News(packed(foreign, [0, 1, 0]))) == []
    assert device.learner.pool_size == 3
    brought = None
    for x, y in samples(30):
        for tell in device.sees(x, y):
            brought = units_in(packed_in(tell), 1) or brought
            assert unpack(packed_in(tell), 1, 2, brought).vectors[0] == pytest.approx(x, abs=0.01)


# ------------------------------------------------------------ units


def brings_units(device, x, neighbours=("b", "c")):
    (tell,) = device.sees(x, 1, neighbours)
    return units_in(packed_in(tell), 1) is not None


def test_units_travel_at_first_and_then_now_and_then():
    device = Device(NewsSettings(below=1.0, demand_below=0.0, units_every=8))
    found = [number for number in range(20) if brings_units(device, number % 3)]
    assert found == [*range(TIMES_UNITS), 8, 9, 10, 16, 17, 18]


@pytest.mark.parametrize(("lost", "unread"), [({8}, []), ({8, 9}, []), ({8, 9, 10}, [11, 12, 13, 14, 15])])
def test_lost_messages_with_units_cost_those_until_the_next_one_that_brings_them(lost, unread):
    sender, receiver = Device(NewsSettings(below=1.0, demand_below=0.0, units_every=8)), Device()
    tells = [news(sender.sees(number % 5, 1))[0] for number in range(20)]
    found = []
    for number, tell in enumerate(tells):
        if number in lost:
            continue
        try:
            receiver.sharing.on_said("a", tell.whisper.said)
        except UnknownUnitsError:
            found.append(number)
    assert found == unread


def test_a_neighbour_that_is_new_or_began_anew_is_brought_units():
    device = Device()
    for number in range(10):
        device.sees(number % 3, 1)
    assert not brings_units(device, 1)
    of_three = ("b", "c", "d")
    some = [True] * TIMES_UNITS + [False]  # in case one is lost
    assert [brings_units(device, 1, of_three) for _ in some] == some
    device.sharing.restarted("c")
    assert [brings_units(device, 1, of_three) for _ in some] == some
    device.sharing.forget("d")
    assert not brings_units(device, 1, ("b", "c"))
    assert brings_units(device, 1, of_three)


def test_a_feature_that_leaves_its_units_is_told_as_it_is():
    sender, receiver = Device(), Device()
    for x in (0.0, 1e-6, 0.0, 1e-6, 1.0, 1e6):
        (tell,) = sender.sees(x, 1)
        receiver.sharing.on_said("a", tell.whisper.said)
        assert receiver.sharing._shadow.prototypes(0).vectors[-1, 0] == pytest.approx(x, rel=0.01, abs=1e-6)


def test_a_feature_that_does_not_move_has_units_too():
    sender, receiver = Device(), Device()
    for _ in range(5):
        (tell,) = sender.sees(0.1, 1)
        receiver.sharing.on_said("a", tell.whisper.said)
    assert receiver.learner.pool_size == 5


# ------------------------------------------------------------ demand

WORTHLESS, WORTHY = (0.9, 0.0), (0.0, 1.0)


def with_pool_worth(device, worth, monkeypatch):
    """A pool of full size whose experts have so much of the weight."""
    monkeypatch.setattr(PrototypeLearner, "pool_size", property(lambda _: 100))
    monkeypatch.setattr(PrototypeLearner, "pool_weight", property(lambda _: worth))
    return device


def test_a_device_whose_pool_is_worth_little_says_so_once_and_changes_its_mind_late(monkeypatch):
    device, said = Device(NewsSettings(demand_below=0.2)), []
    for worth in (0.25, 0.19, 0.25, 0.29, 0.31, 0.25):
        with_pool_worth(device, worth, monkeypatch)
        said.append(demands(device.sees(1.0, 1)))
    assert said == [[], [False], [], [], [True], []]


def test_a_pool_of_wrong_labels_is_worth_little():
    device = Device(NewsSettings(demand_below=0.15))
    rng, said = np.random.default_rng(0), []
    for x, y in samples(150):
        wrong = rng.normal(0, 0.3) + 2 * y - 1
        device.sharing.on_said("b", News(packed([[wrong]], [1 - y])))
        said += demands(device.sees(x, y))
    assert said == [False]


@pytest.mark.parametrize("last", [True, False])
def test_a_demand_is_said_again_lest_it_was_lost(last, monkeypatch):
    device = with_pool_worth(Device(), 0.0, monkeypatch)
    device.sharing._settings = NewsSettings()
    said = [demands(device.sees(1.0, 1))]
    if last:
        with_pool_worth(device, 1.0, monkeypatch)
        said.append(demands(device.sees(1.0, 1)))
    said += [demands(device.sees(1.0, 1)) for _ in range(DEMAND_EVERY)]
    assert [one for one in said if one] == ([[False], [True], [True]] if last else [[False], [False]])


def test_a_device_that_never_said_otherwise_need_not_say_that_it_wants_more():
    device = Device(NewsSettings())
    assert not any(demands(device.sees(1.0, 1)) for _ in range(2 * DEMAND_EVERY + 1))


def test_a_device_that_lost_its_pool_wants_more_again():
    device = Device(NewsSettings(at_first=5))
    device.sharing.on_said("b", News(packed([[float(x)] for x in range(-5, 5)], [1] * 5 + [0] * 5)))
    said = []
    for x, y in samples(100):
        said += demands(device.sees(x, y))
    assert said[-1] is False
    device.sharing.forget("b")
    assert demands(device.sees(1.0, 1, neighbours=("c",))) == [True]


def settled(settings=ALL_NEWS):
    """A device that has told its units."""
    device = Device(settings)
    for number in range(5):
        device.sees(number, 1, ("b", "c", "d", "e", "f"))
    return device


def told_to(device, num=150):
    rows = [device.sees(number % 5, 1, ("b", "c", "d", "e", "f")) for number in range(num)]
    return [[tell.to for tell in tells] for tells in rows]


def test_to_those_who_want_no_more_probes_only_are_told():
    device = settled(NewsSettings(below=1.0, demand_below=0.0, probes=0.1, units_every=10**6))
    for one in "bcdef":
        device.sharing.on_said(one, Demand(wants=False))
    found = told_to(device)
    assert all(one in ([], [ALL]) for one in found)
    assert 5 <= found.count([ALL]) <= 25
    device.sharing.on_said("c", Demand(wants=True))
    found = told_to(device)
    assert all(one in (["c"], [ALL]) for one in found)
    assert 5 <= found.count([ALL]) <= 25
    device.sharing.on_said("d", Demand(wants=True))
    assert ["c", "d"] in told_to(device)
    device.sharing.on_said("e", Demand(wants=True))
    assert set(map(tuple, told_to(device))) == {(ALL,)}


def test_without_probes_nobody_is_told_what_nobody_wants_until_one_begins_anew():
    device = settled(NewsSettings(below=1.0, demand_below=0.0, probes=0.0, units_every=10**6))
    for one in "bcdef":
        device.sharing.on_said(one, Demand(wants=False))
    assert told_to(device) == [[]] * 150
    device.sharing.restarted("e")
    assert told_to(device, 5) == [[ALL], [ALL], [ALL], ["e"], ["e"]]  # at first with units


def test_where_nobody_may_be_told_it_is_not_asked_what_is_news(monkeypatch):
    device = settled(NewsSettings(at_first=1, below=0.9, demand_below=0.0, probes=0.0))
    asked = []
    monkeypatch.setattr(device.learner, "pool_probability", lambda *_: asked.append(1) or 0.0)
    for one in "bcdef":
        device.sharing.on_said(one, Demand(wants=False))
    told_to(device, 20)
    assert not asked
    device.sharing.on_said("c", Demand(wants=True))
    assert [["c"] in told_to(device, 20), len(asked)] == [True, 20]


def test_those_who_are_not_told_are_not_taken_to_know():
    device = settled(NewsSettings(at_first=1, demand_below=0.0, probes=0.0))
    for one in "bcdef":
        device.sharing.on_said(one, Demand(wants=False))
    size = len(device.sharing._shadow)
    device.sees(100.0, 0)
    assert len(device.sharing._shadow) == size


# ------------------------------------------------------------ hostile neighbours


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Held(1), "this run shares news"),
        (News(b""), "header"),
        (News(packed([[1.0]], [1])[:-1]), "bytes"),
        (News(packed([[1.0, 2.0]], [1])), "bytes"),
        (News(packed([[2e15]], [1], units=None)), "beyond 1e"),
        (News(packed([[np.nan]], [1], units=None)), "finite"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_changes(said, reason):
    device = Device()
    with pytest.raises(PeerError, match=reason):
        device.sharing.on_said("b", said)
    assert device.learner.pool_size == len(device.sharing._shadow) == 0


def test_units_of_a_message_that_cannot_be_read_are_not_kept():
    sender, receiver = Device(), Device()
    for number in range(5):
        receiver.sharing.on_said("a", sender.sees(number, 1)[0].whisper.said)
    with pytest.raises(PeerError):
        receiver.sharing.on_said("a", News(packed([[1.0]], [1]) + b"more"))
    receiver.sharing.on_said("a", sender.sees(2.0, 1)[0].whisper.said)
    assert receiver.learner.pool_size == 6


def test_of_a_flood_only_as_much_as_the_pool_holds_is_looked_at():
    device = Device(pool=10)
    flood = News(packed(np.arange(MAX_PROTOTYPES)[:, None] / 1000, np.zeros(MAX_PROTOTYPES, int)))
    assert len(flood.packed) > 100_000
    tracemalloc.start()
    for _ in range(3):
        device.sharing.on_said("b", flood)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert device.learner.pool_size == len(device.sharing._shadow) == 10
    assert device.sharing._shadow.prototypes(0).vectors.min() > 65.5
    assert kept < 20_000


def test_a_flood_of_wrong_labels_costs_few_own_predictions():
    alone, flooded = Device(), Device()
    rng, right = np.random.default_rng(1), np.zeros(2)
    for x, y in samples(100):
        sample = np.array([x], np.float32)
        flooded.sharing.on_said("b", News(packed(rng.normal(0, 1, (20, 1)), rng.integers(0, 2, 20))))
        for place, device in enumerate((alone, flooded)):
            right[place] += device.learner.predict_proba(sample).argmax() == y
            device.sees(x, y)
    assert right[0] > 95
    assert right[0] - right[1] <= 2


def test_extreme_prototypes_of_a_neighbour_do_no_harm():
    device = Device()
    for x, y in samples(60):
        device.sharing.on_said("b", News(packed([[1e15], [-1e15], [1e-38]], [0, 1, 1], units=None)))
        assert np.isfinite(device.learner.predict_proba(np.array([x], np.float32))).all()
        device.sees(x, y)


# ------------------------------------------------------------ the shadow


def test_a_shadow_keeps_the_newest_and_how_old_they_are():
    shadow = Shadow(3, 1)
    shadow.add(of_samples([[1.0], [2.0]], [0, 1]), 10)
    assert (len(shadow), shadow.prototypes(12).ages.tolist()) == (2, [2, 2])
    shadow.add(of_samples([[3.0], [4.0]], [0, 1]), 11)
    found = shadow.prototypes(12)
    assert sorted(zip(found.vectors[:, 0], found.labels, found.ages, strict=True)) == [
        (2, 1, 2),
        (3, 0, 1),
        (4, 1, 1),
    ]


def test_of_more_at_once_a_shadow_keeps_the_last():
    shadow = Shadow(2, 1)
    shadow.add(of_samples([[1.0], [2.0], [3.0]], [0, 0, 0]), 1)
    assert sorted(shadow.prototypes(1).vectors[:, 0]) == [2, 3]


def test_units_suit_what_the_learner_has_seen():
    (tell,) = Device().sees(3.0, 1)
    assert (units_of(tell).offsets.tolist(), units_of(tell).factors.tolist()) == ([3.0], [1.0])
