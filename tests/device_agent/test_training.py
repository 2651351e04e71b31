from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from coordinator.aggregate import Aggregator
from coordinator.strategies.rounds_of_averages import AVERAGES
from device_agent.strategies.strategy import Chosen, DeviceStrategy
from device_agent.strategies.subnets import SUBNETS
from device_agent.training import StepCost, TrainingJob, train
from firmware_profiles.errors import WorldError
from firmware_profiles.resources import Pause
from models.losses import LossSettings
from models.subnet import kept_indices, sample
from models.subnet_settings import SubnetSettings

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "tiny_fleet.py")))

SMALL, MIDDLE, WHOLE = (2,), (4,), (8,)
FULL = SubnetSettings(choice="fixed")


def in_turn(*vectors):
    """A strategy that takes the given vectors one after another."""
    left = iter(vectors)

    def choose(moment):
        wanted = next(left)
        if isinstance(wanted, Pause):
            return wanted
        entry = next(entry for entry in moment.table.entries if entry.vector == wanted)
        return Chosen(entry, moment.table.entries[-1])

    return DeviceStrategy(begin=lambda _start: choose)


class Trainer:
    """A job at its first request for a budget."""

    def __init__(
        self,
        strategy=SUBNETS,
        *,
        subnets=SubnetSettings(),  # noqa: B008 - frozen
        loss=LossSettings(),  # noqa: B008 - frozen
        num_batches=3,
        num_samples=16,
        seed=5,
        engine=None,
        data=None,
        core_seconds=lambda _entry: 0.001,
        **job,
    ):
        bundle = tiny.make_bundle()
        settings = msgspec.structs.replace(bundle.settings, subnets=subnets, loss=loss)
        self.bundle = msgspec.structs.replace(bundle, settings=settings)
        self.table = self.bundle.table
        self.weights = tiny.make_weights(self.bundle)
        self.before = {name: value.copy() for name, value in self.weights.items()}
        self.seed = seed
        self.job = train(
            TrainingJob(
                order=1,
                bundle=self.bundle,
                weights=self.weights,
                num_batches=num_batches,
                seed=seed,
                strategy=strategy,
                **{"round": 1, **job},
            ),
            data or tiny.make_data(num_samples),
            engine or tiny.NumpyEngine(),
            table=lambda: self.table,
            core_seconds=core_seconds,
            num_cores=1,
        )
        self.first = next(self.job)

    def step(self):
        return self.job.send(tiny.make_budget())

    def finish(self, budget=None):
        with pytest.raises(StopIteration) as end:
            self.job.send(budget)
        return end.value.value


def test_a_job_first_asks_for_a_budget():
    assert Trainer().first is None


def test_a_budget_buys_one_mini_batch_and_what_it_cost_is_told():
    trainer = Trainer(in_turn(MIDDLE))
    cost = trainer.step()
    middle, whole = (entry.macs for entry in trainer.table.entries[1:])
    assert isinstance(cost, StepCost)
    assert (cost.vector, cost.num_samples) == (MIDDLE, tiny.BATCH_SIZE)
    assert (cost.macs, cost.full_macs) == (middle * tiny.BATCH_SIZE, whole * tiny.BATCH_SIZE)
    assert cost.loss_sum > 0


def test_a_job_ends_after_the_mini_batches_ordered():
    trainer = Trainer(num_batches=2)
    trainer.step()
    trainer.step()
    result = trainer.finish(tiny.make_budget())
    assert len(result.step_vectors) == 2
    assert result.num_samples == 2 * tiny.BATCH_SIZE


def test_a_job_finished_early_returns_what_was_done():
    trainer = Trainer(num_batches=100)
    costs = [trainer.step(), trainer.step()]
    result = trainer.finish()
    assert len(result.step_vectors) == 2
    assert result.macs == sum(cost.macs for cost in costs)
    assert result.loss_sum == pytest.approx(sum(cost.loss_sum for cost in costs))


def test_a_job_finished_before_its_first_mini_batch_has_nothing_to_tell():
    result = Trainer().finish()
    assert (result.step_vectors, result.delta, result.num_samples) == ([], {}, 0)


def test_what_a_strategy_cannot_do_with_is_a_pause_and_costs_no_mini_batch():
    trainer = Trainer(in_turn(Pause("memory"), SMALL))
    assert trainer.step() == Pause("memory")
    assert isinstance(trainer.step(), StepCost)
    assert trainer.finish().step_vectors == [0]


def test_each_vector_is_named_once_and_each_step_names_its_vector():
    trainer = Trainer(in_turn(WHOLE, SMALL, WHOLE, SMALL, SMALL), num_batches=5)
    for _ in range(5):
        trainer.step()
    result = trainer.finish()
    assert result.vectors == [WHOLE, SMALL]
    assert result.step_vectors == [0, 1, 0, 1, 1]


def test_the_budget_of_the_moment_decides_the_vector_of_the_next_mini_batch():
    trainer = Trainer()
    rich, poor = (
        tiny.make_budget(memory_bytes=2**30),
        tiny.make_budget(memory_bytes=trainer.table.entries[0].memory_bytes),
    )
    assert [trainer.job.send(budget).vector for budget in (rich, poor, rich)] == [WHOLE, SMALL, WHOLE]


def test_a_table_swapped_in_mid_job_takes_effect_at_the_next_mini_batch():
    trainer = Trainer()
    assert trainer.step().vector == WHOLE
    best_is_small = tuple(
        msgspec.structs.replace(entry, progress=-float(entry.macs)) for entry in trainer.table.entries
    )
    trainer.table = msgspec.structs.replace(trainer.table, entries=best_is_small)
    assert trainer.step().vector == SMALL


def test_training_leaves_the_weights_it_was_given_as_they_were():
    trainer = Trainer()
    trainer.step()
    trainer.finish()
    assert all(np.array_equal(trainer.weights[name], trainer.before[name]) for name in trainer.before)


def test_the_delta_is_the_difference_that_the_same_job_on_the_coordinators_copy_makes():
    trainer, again = Trainer(in_turn(WHOLE, SMALL)), Trainer(in_turn(WHOLE, SMALL))
    for one in (trainer, again):
        one.step()
        one.step()
    result, same = trainer.finish(), again.finish()
    for name, value in result.delta.items():
        assert value.shape == trainer.weights[name].shape
        assert np.abs(value).max() > 0
        np.testing.assert_array_equal(value, same.delta[name])


def test_replaying_the_draws_tells_exactly_which_entries_were_touched():
    trainer = Trainer(in_turn(SMALL, SMALL), num_batches=2, seed=11)
    trainer.step()
    trainer.step()
    result = trainer.finish()
    plan = trainer.bundle.plan
    assert len({int(c) for c in range(8)} - _channels(plan, result, 11)) > 0, "this seed touches everything"
    for name, delta in result.delta.items():
        touched = np.zeros(delta.shape, bool)
        for step, index in enumerate(result.step_vectors):
            axes = kept_indices(plan, name, sample(plan, result.vectors[index], 11, step))
            where = [
                np.arange(size) if kept is None else kept
                for kept, size in zip(axes, delta.shape, strict=True)
            ]
            touched[np.ix_(*where)] = True
        assert not delta[~touched].any()
        assert (delta[touched] != 0).all()


@pytest.mark.parametrize("draw", ["random-per-order", "ordered", "rolling", "importance"])
def test_the_coordinator_replays_every_kind_of_draw(draw):
    trainer = Trainer(in_turn(SMALL, MIDDLE), num_batches=2, round=5, subnets=SubnetSettings(draw=draw))
    trainer.step()
    trainer.step()
    result = trainer.finish()
    replay = AVERAGES.open(trainer.bundle, trainer.weights)
    AVERAGES.fold(replay, tiny_update(result, trainer), result.delta, 1.0, 16)
    moved = replay.finish()["a.bias"] - trainer.weights["a.bias"]
    trained = set(np.flatnonzero(result.delta["a.bias"]))
    assert set(np.flatnonzero(moved)) == trained
    assert len(trained) < 8


def tiny_update(result, trainer):
    return SimpleNamespace(
        num_samples=result.num_samples,
        vectors=tuple(result.vectors),
        step_vectors=tuple(result.step_vectors),
        seed=trainer.seed,
        round=5,
    )


def test_unfinished_work_that_does_not_count_is_not_reported_and_says_why():
    trainer = Trainer(num_batches=3, subnets=SubnetSettings(partial_work=False))
    trainer.step()
    result = trainer.finish()
    assert (result.step_vectors, result.delta) == ([], {})
    assert "1 of 3" in result.reason


def test_finished_work_is_reported_where_a_part_would_not_count():
    trainer = Trainer(num_batches=2, subnets=SubnetSettings(partial_work=False))
    trainer.step()
    trainer.step()
    assert len(trainer.finish(tiny.make_budget()).step_vectors) == 2


def _channels(plan, result, seed):
    kept = set()
    for step, index in enumerate(result.step_vectors):
        kept |= {int(channel) for channel in sample(plan, result.vectors[index], seed, step).kept[0]}
    return kept


def test_the_coordinator_makes_of_one_full_update_the_very_weights_the_device_had():
    trainer = Trainer(subnets=FULL)
    for _ in range(3):
        trainer.step()
    result = trainer.finish()
    aggregator = Aggregator(trainer.bundle.plan, trainer.weights)
    aggregator.fold(result.delta, result.num_samples, result.vectors, result.step_vectors, trainer.seed)
    for name, value in aggregator.finish().items():
        np.testing.assert_allclose(value, trainer.weights[name] + result.delta[name], rtol=1e-6, atol=1e-7)


def test_the_orders_learning_rate_replaces_the_bundles():
    slow, fast = Trainer(in_turn(WHOLE), learning_rate=0.001), Trainer(in_turn(WHOLE), learning_rate=0.1)
    slow.step()
    fast.step()
    slow_delta, fast_delta = slow.finish().delta["a.bias"], fast.finish().delta["a.bias"]
    np.testing.assert_allclose(fast_delta, 100 * slow_delta, rtol=1e-3, atol=2e-5)


def test_another_seed_draws_other_sub_networks():
    kept = []
    for seed in (1, 2):
        trainer = Trainer(in_turn(SMALL), seed=seed)
        trainer.step()
        kept.append(frozenset(np.flatnonzero(trainer.finish().delta["a.bias"])))
    assert kept[0] != kept[1]


def test_fewer_samples_than_a_mini_batch_are_trained_all_at_once():
    trainer = Trainer(num_samples=3)
    assert trainer.step().num_samples == 3


def test_a_mini_batch_that_is_cut_trains_its_first_samples():
    def some(moment):
        return Chosen(moment.table.entries[-1], moment.table.entries[-1], 2 if moment.step else None)

    trainer = Trainer(DeviceStrategy(begin=lambda _start: some), num_batches=2)
    whole, part = trainer.step(), trainer.step()
    assert (whole.num_samples, part.num_samples) == (tiny.BATCH_SIZE, 2)
    assert part.macs == whole.macs * 2 // tiny.BATCH_SIZE
    assert trainer.finish().num_samples == tiny.BATCH_SIZE + 2


def test_a_loss_that_is_not_finite_ends_the_job_and_says_what_to_do():
    class Exploding(tiny.NumpyEngine):
        def gradients(self, weights, inputs, targets):
            return super().gradients(weights, inputs, targets)._replace(loss=float("nan"))

    trainer = Trainer(engine=Exploding())
    with pytest.raises(WorldError, match="lower the learning rate"):
        trainer.step()


def test_a_job_learns():
    trainer = Trainer(subnets=FULL, num_batches=60)
    losses = [trainer.step().loss_sum for _ in range(60)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
