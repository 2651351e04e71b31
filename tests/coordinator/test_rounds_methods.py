"""What a method changes in the rounds: who takes part, what momentum goes on from, who comes too late."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from coordinator.database import Version
from coordinator.model_store import ModelStore
from coordinator.runtime import _weights_before
from coordinator.strategies.averages import AverageSettings
from coordinator.strategies.rounds_of_averages import averages_of, choose_devices
from device_agent.wire.messages import Decline, Status
from models.subnet_settings import SubnetSettings

rounds = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "rounds_fleet.py")))
tiny, Fleet, scaled = rounds.tiny, rounds.Fleet, rounds.scaled

NAMES = [f"device-{number}" for number in range(20)]
HELLOS = [tiny.make_hello(device=name) for name in NAMES]


def asked(fleet):
    return {send.to for send in fleet.orders()}


def config(**changes):
    return Fleet(devices=1, **changes).core.config


# ---------------------------------------------------------------- who takes part


def test_only_so_many_devices_get_an_order():
    fleet = Fleet(devices=20, devices_per_round=5).join(*NAMES)
    assert len(asked(fleet)) == 5


def test_without_a_number_everybody_with_data_takes_part():
    mixed = [*HELLOS, tiny.make_hello(device="empty", num_samples=0)]
    assert choose_devices(config(), 1, 0, mixed) == NAMES


def test_who_takes_part_depends_on_seed_and_round_alone():
    run = config(devices_per_round=5)
    chosen = choose_devices(run, 3, 0, HELLOS)
    assert chosen == sorted(choose_devices(run, 3, 0, HELLOS[::-1]), key=NAMES.index)
    assert chosen == ["device-0", "device-5", "device-8", "device-17", "device-18"]
    assert chosen != choose_devices(config(devices_per_round=5, seed=9), 3, 0, HELLOS)


def test_over_many_rounds_every_device_takes_part_about_equally_often():
    run = config(devices_per_round=5)
    counts = Counter(name for number in range(200) for name in choose_devices(run, number, 0, HELLOS))
    assert len(counts) == 20
    assert all(30 <= count <= 70 for count in counts.values())


def test_a_device_that_comes_back_gets_no_order_when_all_places_are_taken():
    fleet = Fleet(devices=20, devices_per_round=5).join(*NAMES)
    outside = next(name for name in NAMES if name not in asked(fleet))
    fleet.leave(outside)
    fleet.join(outside).join("newcomer")
    assert len(asked(fleet)) == 5


def test_a_device_that_was_chosen_and_comes_back_gets_its_order_again():
    fleet = Fleet(devices=20, devices_per_round=5).join(*NAMES)
    inside = fleet.orders()[0].to
    fleet.leave(inside)
    fleet.join(inside)
    sent = fleet.orders(inside)
    assert len(sent) > 1
    assert len({send.body.order for send in sent}) == 1


def test_who_joins_while_places_are_free_takes_one():
    fleet = Fleet(devices=2, devices_per_round=3).join("a", "b").join("c").join("d")
    assert asked(fleet) == {"a", "b", "c"}


def test_the_round_closes_when_those_chosen_have_answered():
    fleet = Fleet(devices=20, devices_per_round=5).join(*NAMES)
    fleet.finish_round(*sorted(asked(fleet)))
    assert fleet.core.version == 1
    assert len({send.to for send in fleet.orders() if send.body.round == 2}) == 5


def test_a_round_that_is_repeated_asks_others():
    fleet = Fleet(devices=20, devices_per_round=5).join(*NAMES)
    first = asked(fleet)
    fleet.wait(rounds.DEADLINE_S + rounds.GRACE_S)
    second = {send.to for send in fleet.orders()[5:]}
    assert fleet.core.round == 1
    assert len(second) == 5
    assert second != first


def test_a_device_that_declines_keeps_its_place():
    fleet = Fleet(devices=20, devices_per_round=5).join(*NAMES)
    first = fleet.orders()[0]
    fleet.say(first.to, Decline(order=first.body.order, round=1, reason="battery"))
    assert len(asked(fleet)) == 5


# ---------------------------------------------------------------- server momentum


def with_momentum(**core):
    fleet = Fleet(devices=1, num_rounds=4, **core)
    fleet.core.strategy = averages_of(AverageSettings(server_momentum=0.5))
    return fleet.join("a")


def moved(fleet, since):
    """How far every entry of the model moved."""
    steps = [float(np.unique((w - since[name]).round(4)).item()) for name, w in fleet.core.weights.items()]
    return steps[0]


def test_momentum_goes_on_from_round_to_round():
    fleet, start = with_momentum(), rounds.WEIGHTS
    seen = []
    for sequence in (1, 2, 3):
        fleet.update("a", sequence, delta=scaled(0.4))
        seen.append(moved(fleet, start))
    assert seen == pytest.approx([0.4, 0.4 + 0.6, 0.4 + 0.6 + 0.7])


def test_a_coordinator_that_starts_again_goes_on_with_the_momentum_it_had():
    fleet = with_momentum()
    fleet.update("a", 1, delta=scaled(0.4))
    fresh = Fleet(devices=1, num_rounds=4, version=1, round=2, before=dict(rounds.WEIGHTS))
    fresh.core.strategy, fresh.core.weights = fleet.core.strategy, dict(fleet.core.weights)
    fresh.join("a")
    for one in (fleet, fresh):
        one.update("a", 2, delta=scaled(0.4))
    for name, value in fleet.core.weights.items():
        np.testing.assert_array_equal(fresh.core.weights[name], value)


def test_a_model_that_is_put_in_force_begins_without_momentum():
    fleet = with_momentum()
    fleet.update("a", 1, delta=scaled(0.4))
    fleet.do(fleet.core.on_model_rollout(dict(rounds.WEIGHTS)))
    assert fleet.core.before is None
    fleet.update("a", 2, delta=scaled(0.4))
    assert moved(fleet, rounds.WEIGHTS) == pytest.approx(0.4)


def curve(store, *weights_and_rounds):
    return [
        Version(version=number, digest=store.put(weights), round=round_number)
        for number, (weights, round_number) in enumerate(weights_and_rounds)
    ]


def test_the_version_before_is_read_from_the_model_store(tmp_path):
    store = ModelStore(tmp_path)
    found = _weights_before(curve(store, (scaled(1), 0), (scaled(2), 1)), store)
    assert all(np.array_equal(found[name], value) for name, value in scaled(1).items())


@pytest.mark.parametrize("later", [(), ((2, 1), (3, 1))])
def test_nothing_is_before_the_first_version_or_a_model_that_was_put_in_force(tmp_path, later):
    store = ModelStore(tmp_path)
    made = curve(store, (scaled(1), 0), *((scaled(factor), number) for factor, number in later))
    assert _weights_before(made, store) is None


def test_a_version_before_that_is_gone_begins_momentum_anew_and_says_so(tmp_path, caplog):
    store = ModelStore(tmp_path)
    made = curve(store, (scaled(1), 0), (scaled(2), 1))
    store.prune([made[1].digest])
    assert _weights_before(made, store) is None
    assert "server momentum begins anew" in caplog.text


# ---------------------------------------------------------------- draws by importance


def late_update(draw):
    """What becomes of an update of b that builds on the version before."""
    fleet = Fleet(devices=2)
    subnets = SubnetSettings(draw=draw)
    settings = msgspec.structs.replace(fleet.core.bundle.settings, subnets=subnets)
    fleet.core.bundle = msgspec.structs.replace(fleet.core.bundle, settings=settings)
    fleet.join("a", "b")
    fleet.update("a", 1)
    fleet.wait(rounds.DEADLINE_S + rounds.GRACE_S)
    assert fleet.core.version == 1
    old = next(send for send in fleet.orders("b") if send.body.round == 1)
    body = rounds.make_update(old.body)
    effects = fleet.say("b", body, 1, base_version=0)
    return fleet.acks(effects), fleet


def test_an_update_whose_channels_were_chosen_by_older_weights_is_expired():
    acks, fleet = late_update("importance")
    assert acks == [("b", "expired")]
    assert fleet.core.version == 1


@pytest.mark.parametrize("draw", ["random", "rolling", "ordered"])
def test_an_update_of_any_other_draw_counts_when_it_is_a_version_late(draw):
    acks, _ = late_update(draw)
    assert acks == []


def test_offline_devices_are_not_chosen():
    fleet = Fleet(devices=20, devices_per_round=5)
    for name in NAMES[:10]:
        fleet.do(fleet.core.on_status(fleet.now_s, name, Status(online=False, boot_epoch=1)))
    fleet.join(*NAMES[10:])
    assert asked(fleet) == set()
    fleet.join(*NAMES[:10])
    assert len(asked(fleet)) == 5
