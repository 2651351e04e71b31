"""Faults in the simulator: names, links of pairs, and what becomes of a fleet under each kind."""

from itertools import pairwise

import msgspec
import pytest

from coordinator.twins.fault_timeline import FaultEvent, fault_events
from coordinator.twins.faults import Churn, Crash, Faults, PairFault, Partition, Slow, check_names, members_of
from coordinator.twins.groups import Link
from coordinator.twins.network import LinkNetwork
from coordinator.twins.pair_links import FIRST_TIMEOUT_S, PairLinks
from coordinator.twins.simulator import simulate
from device_agent.wire.memory import Delivery, MemoryBroker
from firmware_profiles.errors import UserError

MEMBERS = members_of(["pump-1", "pump-2", "fan-1"])


def message(from_="pump-1", to="fan-1", *, qos=0, sent_s=0.0, publication: int | None = 1):
    return Delivery(from_, to, f"f/{from_}/peer/{to}", b"x", qos, sent_s, publication)


def network(*rules, members=MEMBERS, seed="7", links=None):
    return LinkNetwork(links or {}, seed, PairLinks([PairFault(**rule) for rule in rules], members, seed))


def arrivals(links, num=1000, **told):
    return [bool(links(message(**told))) for _ in range(num)]


# ---------------------------------------------------------------- names


def test_a_name_stands_for_a_device_its_group_or_every_device():
    assert MEMBERS["*"] == ("pump-1", "pump-2", "fan-1")
    assert MEMBERS["pump"] == ("pump-1", "pump-2")
    assert MEMBERS["fan-1"] == ("fan-1",)
    assert MEMBERS["coordinator"] == ("coordinator",)


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"links": (PairFault(from_="pomp"),)}, r"faults.links.0.from 'pomp' .* did you mean \"pump\"\?"),
        (
            {"partitions": (Partition(from_s=0, until_s=1, devices=("*", "fun")),)},
            r"partitions.0.devices 'fun'",
        ),
        (
            {"slow": (Slow(from_s=0, until_s=1, devices=("coordinator",), factor=2),)},
            r"slow.0.devices 'coordinator'",
        ),
        ({"churn": Churn(mean_up_s=1, mean_down_s=1, devices=("none",))}, r"churn.devices 'none'"),
        (
            {"crashes": (Crash(at_s=1, back_s=2, device="pump"),)},
            r"crashes.0.device 'pump' is not one device",
        ),
    ],
)
def test_a_name_of_nobody_is_refused_with_the_nearest(faults, said):
    with pytest.raises(UserError, match=said):
        check_names(Faults(**faults), MEMBERS)


@pytest.mark.parametrize(
    "text",
    ["partitions: [{from_s: 5, until_s: 5, devices: [one]}]", "crashes: [{at_s: 5, back_s: 4, device: x}]"],
)
def test_a_fault_that_ends_before_it_begins_is_refused(make_scenario, text):
    with pytest.raises(UserError, match="is not after"):
        make_scenario(f"faults={{{text}}}")


# ---------------------------------------------------------------- links


def test_a_pair_loses_its_share_of_qos_0_and_the_same_messages_for_the_same_seed():
    lost = arrivals(network({"loss_fraction": 0.3})).count(False)
    assert lost == 321
    assert arrivals(network({"loss_fraction": 0.3})) == arrivals(network({"loss_fraction": 0.3}))
    assert arrivals(network({"loss_fraction": 0.3}, seed="8")) != arrivals(network({"loss_fraction": 0.3}))


def test_a_link_that_fades_is_down_both_ways_for_a_whole_span():
    links = network({"loss_fraction": 0.3, "coherence_s": 0.5})
    there = [bool(links(message(sent_s=step / 4, publication=step))) for step in range(2000)]
    back = [
        bool(links(message("fan-1", "pump-1", sent_s=step / 4, publication=step))) for step in range(2000)
    ]
    assert there == back
    assert there[::2] == there[1::2]
    assert 0.25 < there.count(False) / len(there) < 0.35


def test_qos_1_is_late_and_never_lost():
    delays_s = [network({"loss_fraction": 1.0})(message(qos=1)) for _ in range(20)]
    assert all(delays_s)
    assert max(delays_s) >= (FIRST_TIMEOUT_S,)


def test_one_device_more_changes_nothing_for_the_others():
    more = members_of(["pump-1", "pump-2", "fan-1", "fan-2"])
    assert arrivals(network({"loss_fraction": 0.5})) == arrivals(
        network({"loss_fraction": 0.5}, members=more)
    )


def test_each_direction_of_a_pair_has_its_own_fate():
    links = network({"loss_fraction": 0.5})
    back = [bool(links(message("fan-1", "pump-1"))) for _ in range(1000)]
    assert back != arrivals(links)


def test_the_first_rule_that_fits_is_the_pairs():
    links = network({"from_": "pump-2", "loss_fraction": 1.0}, {"latency_ms": 20})
    assert links(message("pump-2")) == ()
    assert links(message("pump-1")) == pytest.approx((0.020,))


def test_every_device_does_not_mean_the_coordinator():
    links = network({"loss_fraction": 1.0}, {"to": "coordinator", "latency_ms": 30})
    assert links(message(to="coordinator")) == pytest.approx((0.030,))
    assert links(message("coordinator", "fan-1")) == (0.0,)


def test_what_one_pair_holds_back_does_not_hold_up_the_others():
    links = network({"from_": "pump-1", "latency_ms": 500}, links={"fan-1": Link(latency_ms=10)})
    assert links(message()) == pytest.approx((0.510,))
    assert links(message("pump-2", publication=2)) == pytest.approx((0.010,))


def test_a_retained_message_of_the_brokers_own_does_not_pass_the_pair():
    assert network({"loss_fraction": 1.0})(message(publication=None)) == (0.0,)


def test_a_schedule_holds_each_line_until_the_next_and_begins_again(tmp_path):
    path = tmp_path / "link.csv"
    path.write_text("t_s,loss_fraction,latency_ms\n0,0,10\n5,1,\n10,0,10\n")
    links = network({"schedule": str(path), "latency_ms": 40})
    told = [
        links(message(sent_s=time_s, publication=int(10 * time_s)))
        for time_s in (0.0, 4.9, 5.0, 9.9, 10.0, 15.0, 20.0)
    ]
    assert [round(delay[0], 6) if delay else None for delay in told] == [
        0.01,
        0.01,
        None,
        None,
        0.01,
        None,
        0.01,
    ]


def test_a_schedule_of_one_line_without_latency_is_constant(tmp_path):
    path = tmp_path / "link.csv"
    path.write_text("t_s,loss_fraction\n0,0\n")
    assert network({"schedule": str(path), "latency_ms": 40})(message(sent_s=99.0)) == pytest.approx((0.040,))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("t_s,loss\n0,0\n", "no column 'loss_fraction'"),
        ("t_s,loss_fraction\n0,1.5\n", "loss_fraction 1.5 is not from 0 to 1"),
        ("t_s,loss_fraction,latency_ms\n0,0,-4\n", "latency_ms -4 is not from 0"),
    ],
)
def test_a_schedule_that_cannot_be_used_is_refused(tmp_path, text, said):
    path = tmp_path / "link.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        network({"schedule": str(path)})


def test_peers_over_the_broker_lose_the_share_of_their_link():
    broker, got = MemoryBroker(network=network({"loss_fraction": 0.3})), []
    broker.connect("fan-1").subscribe("f/pump-1/peer/fan-1", lambda _topic, payload: got.append(payload))
    sender = broker.connect("pump-1")
    for number in range(1000):
        sender.publish("f/pump-1/peer/fan-1", str(number).encode(), qos=0)
    broker.run_until_idle()
    assert (len(got), broker.num_lost) == (1000 - 321, 321)


# ---------------------------------------------------------------- the stream of events


def test_events_come_by_time_and_name_each_device_of_a_group():
    faults = Faults(
        partitions=(Partition(from_s=5, until_s=9, devices=("pump", "pump-1")),),
        slow=(Slow(from_s=1, until_s=6, devices=("fan",), factor=3),),
        crashes=(Crash(at_s=7, back_s=8, device="coordinator"),),
    )
    assert list(fault_events(faults, MEMBERS, 0)) == [
        FaultEvent(1, "slow", "fan-1", 3),
        FaultEvent(5, "partition", "pump-1"),
        FaultEvent(5, "partition", "pump-2"),
        FaultEvent(6, "recover", "fan-1", 3),
        FaultEvent(7, "crash", "coordinator", 1),
        FaultEvent(8, "restart", "coordinator"),
        FaultEvent(9, "heal", "pump-1"),
        FaultEvent(9, "heal", "pump-2"),
    ]


def churn_of(device, members, num=40):
    faults = Faults(churn=Churn(mean_up_s=10, mean_down_s=2))
    stream = fault_events(faults, members, 1)
    return [
        event for event, _ in zip(stream, range(num * len(members["*"])), strict=False) if event.who == device
    ]


def test_churn_alternates_for_ever_and_is_each_devices_own():
    alone = churn_of("pump-1", members_of(["pump-1"]))
    assert {event.what for event in alone[::2]} == {"leave"}
    assert {event.what for event in alone[1::2]} == {"return"}
    shared = churn_of("pump-1", MEMBERS)
    assert shared[:20] == alone[:20]


def test_churn_lasts_as_long_as_it_says_in_the_mean():
    times_s = [0.0, *(event.at_s for event in churn_of("pump-1", members_of(["pump-1"]), 4000))]
    gaps_s = [after - before for before, after in pairwise(times_s)]
    assert sum(gaps_s[::2]) / len(gaps_s[::2]) == pytest.approx(10, rel=0.1)
    assert sum(gaps_s[1::2]) / len(gaps_s[1::2]) == pytest.approx(2, rel=0.1)


# ---------------------------------------------------------------- a fleet


def test_a_partition_heals_and_its_updates_arrive_then(make_scenario):
    result = simulate(make_scenario("faults.partitions=[{from_s: 3, until_s: 25, devices: [two]}]"))
    assert [device.updates for device in result.devices] == [2, 2]
    assert result.accuracy_curve[1][0] >= 25.0


def test_who_is_cut_off_from_the_beginning_is_not_there(make_scenario):
    with pytest.raises(UserError, match=r"round 1 of 2 is still waiting"):
        simulate(
            make_scenario("limit_s=50", "faults.partitions=[{from_s: 0, until_s: 1000, devices: [two]}]")
        )


def test_partitions_that_overlap_end_with_the_last(make_scenario):
    spans = "[{from_s: 3, until_s: 25, devices: [two]}, {from_s: 4, until_s: 12, devices: ['*']}]"
    assert simulate(make_scenario(f"faults.partitions={spans}")).accuracy_curve[1][0] >= 25.0


CHURN = "faults.churn={mean_up_s: 6, mean_down_s: 2}"


def test_under_churn_every_update_comes_and_the_same_seed_repeats(make_scenario):
    result = simulate(make_scenario(CHURN))
    assert [device.updates for device in result.devices] == [2, 2]
    assert result == simulate(make_scenario(CHURN))
    assert result != simulate(make_scenario())


def test_slow_doubles_the_virtual_seconds(make_scenario):
    normal = simulate(make_scenario("rounds=1", "strategy=full"))
    slow = simulate(
        make_scenario(
            "rounds=1", "strategy=full", "faults.slow=[{from_s: 0, until_s: 1000, devices: ['*'], factor: 2}]"
        )
    )
    assert slow.virtual_s == pytest.approx(2 * normal.virtual_s, rel=0.02)


def test_a_device_that_was_slow_recovers(make_scenario):
    span = "faults.slow=[{from_s: 0, until_s: 3, devices: [one-1], factor: 4}]"
    result = simulate(make_scenario("rounds=1", "strategy=full", span))
    assert result.virtual_s == pytest.approx(4 * 1.305 + 4 * 1.305, rel=0.03)


def test_a_crashed_device_begins_its_order_again_and_counts_once(make_scenario):
    result = simulate(make_scenario("faults.crashes=[{at_s: 3, back_s: 10, device: two-1}]"))
    assert [device.updates for device in result.devices] == [2, 2]
    assert result.devices[1].steps > result.devices[0].steps
    assert result.accuracy_curve[1][0] > 10.0


def test_an_update_in_the_outbox_survives_the_crash_of_its_device(make_scenario):
    """Trained while cut off, killed before it could be sent: the next process sends it."""
    result = simulate(
        make_scenario(
            "rounds=1",
            "faults.partitions=[{from_s: 3, until_s: 20, devices: [two]}]",
            "faults.crashes=[{at_s: 15, back_s: 18, device: two-1}]",
        )
    )
    assert [(device.updates, device.steps) for device in result.devices] == [(1, 5), (1, 5)]
    assert 20.0 <= result.accuracy_curve[1][0] < 22.0


def test_a_crashed_coordinator_goes_on_and_no_update_is_lost_or_counted_twice(make_scenario):
    """Killed in the second round: the updates wait in the outboxes, and the round is ordered again."""
    crash = "faults.crashes=[{at_s: 8, back_s: 30, device: coordinator}]"
    result = simulate(make_scenario("rounds=3", crash))
    assert [(device.updates, device.steps) for device in result.devices] == [(4, 4 * 5), (4, 4 * 5)]
    assert (result.client_updates, result.updates_expired, result.updates_refused) == (8, 0, 0)
    assert len(result.accuracy_curve) == 4
    assert result.accuracy_curve[2][0] >= 30.0
    assert result == simulate(make_scenario("rounds=3", crash))


def test_a_broker_that_was_restarted_has_its_clients_back_and_no_update_is_lost(make_scenario):
    """Down while both devices finish: their updates wait, and count once when it is back."""
    result = simulate(make_scenario("faults.crashes=[{at_s: 3, back_s: 12, device: broker}]"))
    assert [(device.updates, device.steps) for device in result.devices] == [(2, 10), (2, 10)]
    assert (result.updates_expired, result.updates_refused) == (0, 0)
    assert 12.0 <= result.accuracy_curve[1][0] < 15.0


def test_a_coordinator_that_comes_while_the_broker_is_down_waits_for_it(make_scenario):
    crashes = "{at_s: 2, back_s: 12, device: broker}, {at_s: 3, back_s: 5, device: coordinator}"
    result = simulate(make_scenario(f"faults.crashes=[{crashes}, {{at_s: 4, back_s: 6, device: one-1}}]"))
    assert min(device.updates for device in result.devices) == 2
    assert (result.updates_expired, result.updates_refused) == (0, 0)
    assert result.accuracy_curve[1][0] >= 12.0


def test_everything_may_crash_at_once_and_again(make_scenario):
    crashes = ", ".join(
        f"{{at_s: {at_s}, back_s: {at_s + 4}, device: {device}}}"
        for at_s in (2, 9)
        for device in ("coordinator", "one-1", "two-1")
    )
    result = simulate(make_scenario(f"faults.crashes=[{crashes}]"))
    assert [device.updates for device in result.devices] == [2, 2]


def test_a_scenario_without_faults_is_as_before(make_scenario):
    scenario = make_scenario()
    assert scenario.faults == Faults()
    lossless = msgspec.structs.replace(scenario, faults=Faults(links=(PairFault(),)))
    assert simulate(lossless) == simulate(scenario)
