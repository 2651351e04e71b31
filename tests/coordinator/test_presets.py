"""Each method against its paper's definition, on a network with one hidden layer of 8 channels.

Two devices train one order each: `strong` affords the full network, `weak` a quarter of its MACs.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from coordinator.method import loss_of, resolve_method
from coordinator.settings import LearningConfig, prepare_learning
from coordinator.strategies.names import STRATEGIES
from coordinator.strategies.presets import FIFTHS, HALVES, PRESETS
from device_agent.strategies.names import DEVICE_STRATEGIES
from device_agent.training import StepCost, TrainingJob, train
from device_agent.wire.messages import BlobRef, Update
from firmware_profiles.errors import UserError
from models.data.batches import shuffled_batches
from models.data.dataset import Dataset
from models.engines.choose import make_engine
from models.subnet import ordered_subnet
from models.table import uniform_table

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fixtures" / "tiny_fleet.py")))

HIDDEN = 8
STRONG, WEAK = 1.0, 0.25


def engine_of(bundle):
    """The engine whose every channel moves, where it knows the loss."""
    loss = bundle.settings.loss
    return tiny.NumpyEngine() if loss.name == "cross-entropy" else make_engine("numpy", bundle.graph, loss, 1)


class Device:
    """One order of a method, trained on a device that affords a share of the full MACs a mini-batch."""

    def __init__(self, name, share, *, round_number=1, num_batches=4, seed=7, labels=None, stop_after=None):
        preset = PRESETS[name]
        bundle = tiny.make_bundle(hidden=HIDDEN)
        levels = preset.levels or (0.25, 0.5)
        self.bundle = msgspec.structs.replace(
            bundle,
            table=uniform_table(bundle.graph, bundle.plan, tiny.BATCH_SIZE, levels),
            settings=msgspec.structs.replace(
                bundle.settings, subnets=preset.subnets, loss=loss_of(preset.subnets)
            ),
        )
        self.strategy = STRATEGIES[name][1]
        self.weights, self.round, self.seed = tiny.make_weights(self.bundle), round_number, seed
        data = tiny.make_data(16)
        if labels is not None:
            data = Dataset(data.samples, np.array(labels), tiny.CLASSES)
        full_macs = self.bundle.table.entries[-1].macs
        job = train(
            TrainingJob(
                order=1,
                round=round_number,
                bundle=self.bundle,
                weights=self.weights,
                num_batches=num_batches,
                seed=seed,
                strategy=DEVICE_STRATEGIES[name],
            ),
            data,
            engine_of(self.bundle),
            table=lambda: self.bundle.table,
            core_seconds=lambda entry: entry.macs / full_macs,
            num_cores=1,
        )
        next(job)
        self.costs, self.pauses = [], []
        try:
            while True:
                ended = stop_after is not None and len(self.costs) >= stop_after
                left = num_batches - len(self.costs)
                budget = tiny.make_budget(time_left_s=share * left * 1.001, num_batches_left=max(1, left))
                answer = job.send(None if ended or self.pauses else budget)
                (self.costs if isinstance(answer, StepCost) else self.pauses).append(answer)
        except StopIteration as end:
            self.result = end.value

    @property
    def vectors(self):
        """Kept channels of each mini-batch."""
        return [cost.vector[0] for cost in self.costs]

    @property
    def channels(self):
        """Hidden channels whose bias moved."""
        return np.flatnonzero(self.result.delta["a.bias"]).tolist()

    def update(self, value=None):
        """Its update; with a value in place of every trained entry, so that averages can be read off."""
        delta = self.result.delta
        if value is not None:
            delta = {
                name: np.where(array != 0, np.float32(value), np.float32(0)) for name, array in delta.items()
            }
        return (
            Update(
                order=1,
                round=self.round,
                num_samples=self.result.num_samples,
                vectors=tuple(self.result.vectors),
                step_vectors=tuple(self.result.step_vectors),
                seed=self.seed,
                delta=BlobRef(digest="0" * 64, size_bytes=0),
                macs=1,
                loss_sum=1.0,
                busy_s=1.0,
                wall_s=1.0,
            ),
            delta,
        )


def averaged(*devices, values=(1.0, 3.0), num_data=(16, 16)):
    """How far each hidden channel's bias moves when these devices' updates are averaged."""
    first = devices[0]
    aggregator = first.strategy.open(first.bundle, first.weights)
    for device, value, num in zip(devices, values, num_data, strict=False):
        first.strategy.fold(aggregator, *device.update(value), 1.0, num)
    new = first.strategy.finish(aggregator, None)
    return {name: new[name] - first.weights[name] for name in new}


# ---------------------------------------------------------------- HeteroFL


def test_heterofl_trains_the_first_channels_of_the_devices_level_for_the_whole_order():
    weak = Device("heterofl", WEAK)
    assert PRESETS["heterofl"].levels == HALVES == (0.0625, 0.125, 0.25, 0.5, 1.0)
    assert weak.vectors == [2, 2, 2, 2]
    assert weak.channels == [0, 1]
    assert Device("heterofl", STRONG).channels == list(range(8))


def test_heterofl_averages_an_entry_over_the_devices_that_hold_it_whatever_their_samples():
    moved = averaged(Device("heterofl", STRONG), Device("heterofl", WEAK, num_batches=2))["a.bias"]
    np.testing.assert_allclose(moved, [2, 2, 1, 1, 1, 1, 1, 1], rtol=1e-5)


def test_heterofl_scales_kept_activations_by_the_rate():
    subnets = PRESETS["heterofl"].subnets
    assert subnets.scaling
    weak = Device("heterofl", WEAK, num_batches=1)
    kept = {name: value.copy() for name, value in weak.weights.items()}
    kept = {
        "a.weight": kept["a.weight"][:2],
        "a.bias": kept["a.bias"][:2],
        "b.weight": kept["b.weight"][:, :2],
    }
    data, seed = tiny.make_data(16), weak.seed
    inputs, labels = data.batch(next(shuffled_batches(16, tiny.BATCH_SIZE, seed)))
    engine = engine_of(weak.bundle)
    scaled = {**kept, "b.weight": kept["b.weight"] * np.float32(4)}  # 1 / rate
    loss = engine.gradients(scaled, inputs, {"labels": labels}).loss
    assert weak.costs[0].loss_sum == pytest.approx(loss * len(labels), rel=1e-5)


def test_heterofl_counts_the_last_layers_rows_only_of_devices_that_have_the_class():
    both = Device("heterofl", STRONG)
    only_first = Device("heterofl", STRONG, labels=[0] * 16)
    moved = averaged(both, only_first)["b.weight"]
    np.testing.assert_allclose(moved[1], 1.0, rtol=1e-5)  # the other has no sample of class 1
    np.testing.assert_allclose(moved[0], 2.0, rtol=1e-5)


# ---------------------------------------------------------------- FjORD


def test_fjord_draws_each_mini_batchs_width_from_the_levels_up_to_the_devices_own():
    assert PRESETS["fjord"].levels == FIFTHS == (0.2, 0.4, 0.6, 0.8, 1.0)
    strong = Device("fjord", STRONG, num_batches=60)
    weak = Device("fjord", 0.7, num_batches=60)
    assert set(strong.vectors) == {2, 3, 5, 6, 8}
    assert set(weak.vectors) == {2, 3, 5}


def test_fjords_widths_are_nested():
    weak = Device("fjord", 0.6, num_batches=20)
    assert weak.channels == list(range(max(weak.vectors)))


def test_fjord_averages_by_samples_over_the_devices_that_hold_an_entry():
    strong, weak = Device("fjord", STRONG, num_batches=20), Device("fjord", 0.25, num_batches=20)
    moved = averaged(strong, weak, num_data=(30, 10))["a.bias"]
    np.testing.assert_allclose(moved[:2], (30 * 1 + 10 * 3) / 40, rtol=1e-5)
    np.testing.assert_allclose(moved[2:], 1.0, rtol=1e-5)


def test_fjord_with_distillation_differs_from_fjord_by_its_loss_alone():
    plain, taught = PRESETS["fjord"], PRESETS["fjord-kd"]
    without = msgspec.structs.replace(taught.subnets, self_distillation=0.0)
    assert (without, taught.averages, taught.levels) == (plain.subnets, plain.averages, plain.levels)
    loss = loss_of(taught.subnets)
    assert (loss.name, loss.temperature) == ("distillation", 1.0)
    assert loss.label_weight + loss.distillation_weight == 1.0
    assert loss_of(plain.subnets).name == "cross-entropy"


def test_fjords_teacher_is_paid_for():
    plain, taught = Device("fjord", STRONG), Device("fjord-kd", 1.5)
    assert taught.vectors == plain.vectors
    forward = plain.bundle.graph.parameters["a.weight"][0] * (tiny.INPUTS + tiny.CLASSES)
    for one, other in zip(taught.costs, plain.costs, strict=True):
        assert one.macs == other.macs + forward * one.num_samples


# ---------------------------------------------------------------- FedRolex, Federated Dropout, FIARSE


def test_fedrolexs_window_moves_on_by_one_channel_a_round_and_wraps_round():
    windows = [Device("fedrolex", WEAK, round_number=number).channels for number in (1, 2, 7, 8, 9)]
    assert windows == [[0, 1], [1, 2], [6, 7], [0, 7], [0, 1]]


def test_fedrolex_averages_over_the_devices_that_hold_an_entry():
    moved = averaged(Device("fedrolex", STRONG, round_number=8), Device("fedrolex", WEAK, round_number=8))
    np.testing.assert_allclose(moved["a.bias"], [2, 1, 1, 1, 1, 1, 1, 2], rtol=1e-5)


def test_federated_dropout_trains_one_random_sub_model_a_client_and_round():
    weak = Device("feddrop", WEAK, num_batches=12)
    assert len(weak.channels) == 2
    others = {tuple(Device("feddrop", WEAK, num_batches=2, seed=seed).channels) for seed in range(12)}
    assert len(others) > 4


def test_fiarse_keeps_the_channels_of_the_largest_weights_at_the_orders_start():
    weak = Device("fiarse", WEAK)
    norms = np.linalg.norm(weak.weights["a.weight"], axis=1)
    assert weak.channels == sorted(np.argsort(-norms)[:2].tolist())


# ---------------------------------------------------------------- the full network, the small one


def test_full_trains_the_full_network_and_reports_what_it_managed():
    weak = Device("full", STRONG, stop_after=2)
    assert weak.vectors == [8, 8]
    assert len(weak.result.step_vectors) == 2


def test_drop_reports_nothing_that_is_not_finished():
    late, in_time = Device("drop", STRONG, stop_after=3), Device("drop", STRONG)
    assert late.result.step_vectors == []
    assert "3 of 4" in late.result.reason
    assert len(in_time.result.step_vectors) == 4


@pytest.mark.parametrize("name", ["full", "small", "distreal-paper"])
def test_the_plain_average_is_fedavg(name):
    one, two = Device(name, STRONG), Device(name, STRONG)
    moved = averaged(one, two, num_data=(16, 16))
    for values in moved.values():
        np.testing.assert_allclose(values, 2.0, rtol=1e-5)


def test_drop_weighs_by_the_samples_that_a_device_has():
    moved = averaged(Device("drop", STRONG), Device("drop", STRONG), num_data=(10, 30))
    np.testing.assert_allclose(moved["a.bias"], (10 * 1 + 30 * 3) / 40, rtol=1e-5)


def test_small_is_fedavg_of_a_narrower_network_for_everybody():
    learning = prepare_learning(LearningConfig(model="cnn-28", data="fashion-mnist-small", strategy="small"))
    assert learning.bundle.graph.name == "cnn-28-w45"
    assert learning.bundle.table.entries[-1].vector == (14, 29, 29)
    assert learning.whole.name == "cnn-28"
    assert {name: value.shape for name, value in learning.weights.items()} == learning.bundle.graph.parameters
    assert learning.bundle.settings.subnets.choice == "fixed"


# ---------------------------------------------------------------- DISTREAL and its uniform form


@pytest.mark.parametrize("name", ["distreal-paper", "uniform"])
def test_distreal_draws_random_filters_anew_for_every_mini_batch(name):
    subnets, own = PRESETS[name].subnets, PRESETS["distreal"].subnets
    assert (subnets.choice, subnets.draw, subnets.floor_fraction) == ("live", "random", 0.0)
    assert (own.choice, own.draw) == ("widest", "random")
    weak = Device(name, WEAK, num_batches=12)
    assert set(weak.vectors) == {2}
    assert len(weak.channels) > 2


def test_distreals_paper_form_dilutes_what_few_mini_batches_trained_and_the_average_by_steps_does_not():
    paper, default = (
        averaged(Device(name, STRONG), Device(name, WEAK), values=(0.0, 1.0))
        for name in ("distreal-paper", "uniform")
    )
    weak = Device("uniform", WEAK)
    np.testing.assert_allclose(paper["a.bias"][weak.channels], 0.5, rtol=1e-5)
    assert (default["a.bias"][weak.channels] > 0).all()


def test_uniform_has_one_rate_for_all_layers_and_distreal_the_searched_table():
    uniform, distreal = (
        prepare_learning(
            LearningConfig(model="cnn-28", data="fashion-mnist-small", strategy=name)
        ).bundle.table
        for name in ("uniform", "distreal")
    )
    assert "not searched" in uniform.source
    assert "edgetide dse run" in distreal.source


# ---------------------------------------------------------------- methods as data


@pytest.mark.parametrize("name", PRESETS)
def test_every_method_names_its_source(name):
    assert "arXiv" in PRESETS[name].source or "McMahan" in PRESETS[name].source


def test_single_fields_of_a_method_can_be_replaced():
    method = resolve_method(
        "distreal",
        base_width=0.65,
        levels=(0.5,),
        subnets={"floor_fraction": 0.5, "ceilings": [[10, 0.5]]},
        averages={"server_momentum": 0.5},
    )
    assert (method.base_width, method.levels) == (0.65, (0.5,))
    assert method.subnets.ceilings == ((10, 0.5),)
    assert method.averages.server_momentum == 0.5
    assert method.averages.entries == PRESETS["distreal"].averages.entries


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subnets": {"flor_fraction": 0.5}}, "subnets.*flor_fraction.*floor_fraction"),
        ({"subnets": {"floor_fraction": 2}}, "subnets.*<= 1"),
        ({"averages": {"server_momentum": "much"}}, "averages.*float"),
        ({"base_width": 0.0}, "base_width is 0"),
        ({"subnets": {"ceilings": [[5, 0.5], [3, 1.0]]}}, "rising rounds"),
    ],
)
def test_fields_and_values_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        resolve_method("distreal", **changes)


def test_an_unknown_strategy_is_refused_with_those_there_are():
    with pytest.raises(UserError, match='did you mean "fedrolex"'):
        resolve_method("fedrollex")
    with pytest.raises(UserError, match=r"valid: .*distreal, .*fedrolex"):
        resolve_method("xyz")


def test_the_channels_of_a_narrower_network_are_those_of_the_first_ones():
    bundle = tiny.make_bundle(hidden=HIDDEN)
    assert ordered_subnet(bundle.plan, (2,)).kept[0].tolist() == [0, 1]
