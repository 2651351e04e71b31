"""What a device chooses before a mini-batch, for every way of choosing."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from coordinator.strategies.names import STRATEGIES
from coordinator.strategies.presets import PRESETS
from device_agent.strategies.names import DEVICE_STRATEGIES
from device_agent.strategies.strategy import Moment, OrderStart
from firmware_profiles.resources import Pause
from models.subnet_settings import SubnetSettings
from models.table import uniform_table

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "fixtures" / "tiny_fleet.py")))

BUNDLE = tiny.make_bundle()
TABLE = BUNDLE.table
SMALL, MIDDLE, WHOLE = TABLE.entries
FIFTHS = uniform_table(
    (WIDE := tiny.make_bundle(hidden=10)).graph, WIDE.plan, tiny.BATCH_SIZE, (0.2, 0.4, 0.6, 0.8)
)


def seconds_by_macs(entry):
    """1 ms for the full vector, less for the others."""
    return 0.001 * entry.macs / WHOLE.macs


class Order:
    """An order whose mini-batches are chosen one after another."""

    def __init__(self, name="distreal", *, table=TABLE, seed=1, round_number=1, is_first=False, **settings):
        start = OrderStart(
            settings=SubnetSettings(**settings) if settings else PRESETS[name].subnets,
            round_number=round_number,
            seed=seed,
            is_first=is_first,
        )
        self.choose, self.table, self.step = DEVICE_STRATEGIES[name].begin(start), table, 0

    def next(self, **budget):
        chosen = self.choose(self.moment(tiny.make_budget(**budget)))
        self.step += 1
        return chosen if isinstance(chosen, Pause) else chosen.entry

    def choose_within(self, left_s, core_seconds=seconds_by_macs, num_samples=None):
        return self.choose(self.moment(tiny.make_budget(time_left_s=left_s), core_seconds, num_samples))

    def moment(self, budget, core_seconds=seconds_by_macs, num_samples=None):
        return Moment(
            table=self.table,
            budget=budget,
            step=self.step,
            num_cores=1,
            core_seconds=core_seconds,
            num_samples=self.table.batch_size if num_samples is None else num_samples,
        )


# At 1 ms a mini-batch the whole network fits; at half the CPU the middle one; at 30 % the small one.
RICH = {"time_left_s": 1.0, "num_batches_left": 1000}
MEDIUM, POOR, STARVED = {**RICH, "share": 0.5}, {**RICH, "share": 0.3}, {**RICH, "share": 0.01}


def test_every_strategy_has_both_halves_under_one_name():
    assert set(STRATEGIES) == set(DEVICE_STRATEGIES) == set(PRESETS)
    assert all(STRATEGIES[name][0] is half for name, half in DEVICE_STRATEGIES.items())


@pytest.mark.parametrize("name", sorted(set(DEVICE_STRATEGIES) - {"fjord", "fjord-kd"}))
def test_a_rich_budget_trains_the_full_network(name):
    assert Order(name).next() is WHOLE


@pytest.mark.parametrize("name", sorted(DEVICE_STRATEGIES))
def test_memory_too_small_for_the_network_pauses_and_says_so(name):
    pause = Order(name).next(memory_bytes=10)
    assert isinstance(pause, Pause)
    assert "memory" in pause.reason or "MiB" in pause.reason


@pytest.mark.parametrize("name", sorted(DEVICE_STRATEGIES))
def test_a_mini_batch_that_would_not_be_done_before_the_deadline_is_not_begun(name):
    pause = Order(name).next(time_left_s=1e-5, num_batches_left=1)
    assert isinstance(pause, Pause)
    assert pause.reason.startswith("time:")


@pytest.mark.parametrize("name", sorted(DEVICE_STRATEGIES))
def test_the_first_mini_batch_ever_is_tried_because_nobody_knows_how_long_it_takes(name):
    order = Order(name, is_first=True)
    assert not isinstance(order.next(time_left_s=1e-5), Pause)
    assert isinstance(order.next(time_left_s=1e-5), Pause)


@pytest.mark.parametrize("name", sorted(DEVICE_STRATEGIES))
def test_time_that_is_over_is_a_pause(name):
    assert Order(name).next(time_left_s=0.0) == Pause("the time for this order is over")


def test_the_live_choice_follows_the_budget_down_and_up():
    order = Order(choice="live")
    assert [order.next(**b) for b in (RICH, MEDIUM, POOR, RICH)] == [WHOLE, MIDDLE, SMALL, WHOLE]


def test_the_widest_choice_spends_the_time_that_is_left_on_few_wide_mini_batches():
    order = Order(choice="widest")
    assert [order.next(**b) for b in (RICH, MEDIUM, POOR)] == [WHOLE] * 3
    ends = [
        order.next(time_left_s=left_s, num_batches_left=9) for left_s in (1e-3, 9e-4, seconds_by_macs(SMALL))
    ]
    assert ends == [WHOLE, MIDDLE, SMALL]
    assert isinstance(order.next(time_left_s=0.9 * seconds_by_macs(SMALL)), Pause)


def test_the_widest_choice_keeps_to_memory_and_floor():
    assert Order(choice="widest").next(**RICH, memory_bytes=MIDDLE.memory_bytes) == MIDDLE
    low = Order(choice="widest", floor_fraction=0.4).next(time_left_s=seconds_by_macs(SMALL))
    assert isinstance(low, Pause)


@pytest.mark.parametrize(
    ("left_s", "trains", "num_samples"),
    [(1.0e-3, WHOLE, None), (0.9e-3, WHOLE, 3), (0.5e-3, WHOLE, 2), (0.45e-3, MIDDLE, 3), (0.2e-3, SMALL, 3)],
)
def test_a_mini_batch_is_cut_to_the_samples_there_is_time_for_before_it_is_made_narrow(
    left_s, trains, num_samples
):
    order = Order(choice="widest", cut_batch=2)
    chosen = order.choose_within(left_s)
    assert (chosen.entry, chosen.num_samples) == (trains, num_samples)


def test_cuts_are_of_the_mini_batches_that_are_really_trained():
    chosen = Order(choice="widest", cut_batch=2).choose_within(0.5e-3, num_samples=16)
    assert (chosen.entry, chosen.num_samples) == (WHOLE, 8)


def test_a_sandwich_step_that_there_is_no_time_for_leaves_the_cut_one():
    order = Order(choice="widest", cut_batch=1, sandwich_fraction=1.0)
    chosen = order.choose_within(0.9 * seconds_by_macs(SMALL))
    assert chosen.num_samples is not None
    assert order.choose_within(seconds_by_macs(SMALL)).entry is SMALL


def test_with_a_teacher_mini_batches_are_not_cut():
    chosen = Order(choice="widest", cut_batch=1, self_distillation=0.3).choose_within(0.9e-3)
    assert (chosen.entry, chosen.num_samples) == (MIDDLE, None)


def test_fewer_samples_than_the_least_are_not_trained():
    pause = Order(choice="widest", cut_batch=2).choose_within(0.02e-3)
    assert isinstance(pause, Pause)
    assert pause.reason.startswith("time:")


def test_the_fixed_part_of_a_step_is_not_saved_by_fewer_samples():
    def seconds(entry):
        return 0.4e-3 + 0.6e-3 * entry.macs / WHOLE.macs

    order = Order(choice="widest", cut_batch=1)
    assert order.choose_within(0.9e-3, core_seconds=seconds).num_samples == 3
    assert isinstance(order.choose_within(0.41e-3, core_seconds=seconds), Pause)


def test_below_the_cheapest_vector_it_pauses_and_says_why():
    pause = Order(choice="live").next(**STARVED)
    assert isinstance(pause, Pause)
    assert pause.reason.startswith("time:")


def test_the_choice_per_order_stays_with_its_first_budget():
    order = Order(choice="per-order")
    assert [order.next(**b) for b in (MEDIUM, RICH, POOR)] == [MIDDLE] * 3


def test_the_choice_per_order_waits_until_something_fits():
    order = Order(choice="per-order")
    assert isinstance(order.next(**STARVED), Pause)
    assert [order.next(**b) for b in (POOR, RICH)] == [SMALL, SMALL]


def test_the_level_of_a_device_that_never_trained_is_chosen_when_one_mini_batch_was_timed():
    order = Order(choice="per-order", is_first=True)
    assert [order.next() for _ in range(3)] == [SMALL, WHOLE, WHOLE]


def test_a_level_whose_memory_is_gone_pauses_instead_of_shrinking():
    order = Order(choice="per-order")
    order.next()
    assert isinstance(order.next(memory_bytes=SMALL.memory_bytes), Pause)


def test_below_draws_evenly_from_the_widths_up_to_its_level():
    order = Order(choice="below", table=FIFTHS)
    level = FIFTHS.entries[3]
    share = 0.001 * level.macs / WHOLE.macs * 1000
    counts = Counter(order.next(**RICH, share=share).vector for _ in range(400))
    assert set(counts) == {entry.vector for entry in FIFTHS.entries[:4]}
    assert all(70 <= count <= 130 for count in counts.values())


def test_fixed_takes_the_largest_vector_within_its_share_whatever_the_budget():
    order = Order(choice="fixed", fixed_fraction=0.6)
    assert [order.next(**b) for b in (RICH, POOR, STARVED)] == [MIDDLE] * 3


def test_fixed_below_the_cheapest_takes_the_cheapest():
    assert Order(choice="fixed", fixed_fraction=0.01).next() is SMALL


def test_full_that_does_not_fit_the_memory_says_what_it_needs():
    pause = Order("full").next(memory_bytes=WHOLE.memory_bytes - 1)
    assert "the full network needs" in pause.reason


def test_below_the_floor_time_is_saved_up_for_a_vector_above_it():
    order = Order(floor_fraction=0.4)
    assert isinstance(order.next(**POOR), Pause)
    assert order.next(**{**POOR, "num_batches_left": 500}) is MIDDLE


def test_a_ceiling_holds_from_its_round_on():
    ceilings = ((3, 0.6), (5, 1.0))
    found = [Order(ceilings=ceilings, round_number=number).next() for number in (2, 3, 4, 5)]
    assert found == [WHOLE, MIDDLE, MIDDLE, WHOLE]


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"floor_fraction": 0.3, "ceilings": ((1, 0.48),)}, MIDDLE),
        ({"floor_fraction": 0.0, "ceilings": ((1, 0.01),)}, SMALL),
    ],
)
def test_limits_that_leave_nothing_leave_the_nearest_vector(settings, left):
    assert Order(**settings).next() is left


def test_a_share_of_the_sandwich_is_the_cheapest_admissible_vector():
    order = Order(sandwich_fraction=0.25, floor_fraction=0.3)
    counts = Counter(order.next().vector for _ in range(400))
    assert set(counts) == {MIDDLE.vector, WHOLE.vector}
    assert 70 <= counts[MIDDLE.vector] <= 130


def test_a_device_that_affords_nothing_more_has_no_sandwich():
    order = Order(sandwich_fraction=1.0)
    assert order.next(**POOR) is SMALL


def test_another_order_draws_other_widths():
    drawn = [
        [order.next().vector for _ in range(8)]
        for order in (Order(choice="below", table=FIFTHS, seed=seed) for seed in (1, 1, 2))
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_where_nothing_above_the_floor_fits_in_memory_the_largest_that_fits_is_trained():
    order = Order(floor_fraction=0.9)
    assert order.next(**RICH, memory_bytes=MIDDLE.memory_bytes) == MIDDLE
    assert order.next(**RICH, memory_bytes=SMALL.memory_bytes) == SMALL
    assert isinstance(order.next(**RICH, memory_bytes=SMALL.memory_bytes - 1), Pause)
