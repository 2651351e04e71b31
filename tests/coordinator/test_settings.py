from __future__ import annotations

import numpy as np
import onnx
import pytest

from coordinator import settings
from coordinator.settings import (
    OPTIMIZERS,
    LearningConfig,
    deadline_on_one_machine,
    prepare_learning,
    read_optimizer,
    seconds_of_a_full_step,
)
from firmware_profiles.errors import UserError
from models.graph import ModelGraph, Node, validate
from models.onnx_file import to_onnx
from models.optim.settings import OptimizerSettings
from models.table import dump_table


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    """40 samples of shape (3,) in 2 classes."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(
        path,
        x_train=rng.normal(size=(40, 3)).astype(np.float32),
        y_train=np.arange(40) % 2,
        x_test=rng.normal(size=(8, 3)).astype(np.float32),
        y_test=np.arange(8) % 2,
    )
    return path


def graph_with_norm(inputs=3):
    nodes = (
        Node("Gemm", ("x", "a.weight"), "a", {}),
        Node(
            "BatchNormalization",
            ("a", "n.scale", "n.bias", "n.mean", "n.var"),
            "n",
            {"epsilon": 1e-5},
        ),
        Node("Relu", ("n",), "r", {}),
        Node("Gemm", ("r", "b.weight"), "y", {}),
    )
    parameters = {"a.weight": (6, inputs), "n.scale": (6,), "n.bias": (6,), "b.weight": (2, 6)}
    statistics = {"n.mean": (6,), "n.var": (6,)}
    return validate(ModelGraph("normed", "x", (inputs,), "y", nodes, parameters, statistics, {}, {}))


def write_model(path, graph, *, with_weights):
    weights = None
    if with_weights:
        weights = {
            name: np.full(shape, 0.5, np.float32)
            for name, shape in {**graph.parameters, **graph.statistics}.items()
        }
    onnx.save(to_onnx(graph, weights), str(path))
    return path


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return write_model(
        tmp_path_factory.mktemp("model") / "normed.onnx", graph_with_norm(), with_weights=False
    )


@pytest.fixture
def config(data_file, model_file):
    def make(**changes):
        return LearningConfig(**{"model": str(model_file), "data": str(data_file), **changes})

    return make


def test_a_model_file_and_a_data_file_become_a_bundle_weights_and_data(config):
    learning = prepare_learning(config())
    assert learning.bundle.graph.input_shape == (3,)
    assert set(learning.weights) == set(learning.bundle.graph.parameters)
    assert (len(learning.data.train), len(learning.data.test)) == (40, 8)


def test_without_a_table_of_its_own_a_model_gets_a_uniform_one_that_ends_with_the_full_network(config):
    table = prepare_learning(config()).bundle.table
    assert len(table.entries) > 2
    assert table.entries[-1].vector == (6,)
    assert "not searched" in table.source


def test_the_shipped_network_comes_with_its_shipped_table():
    learning = prepare_learning(LearningConfig(model="cnn-28", data="fashion-mnist-small"))
    assert "edgetide dse run" in learning.bundle.table.source


def test_the_same_seed_begins_with_the_same_weights_and_another_does_not(config):
    one, same, other = (prepare_learning(config(seed=seed)).weights for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_the_weights_in_a_file_are_begun_with_and_its_statistics_are_left_aside(tmp_path, config):
    path = write_model(tmp_path / "trained.onnx", graph_with_norm(), with_weights=True)
    learning = prepare_learning(config(model=str(path)))
    assert set(learning.weights) == set(learning.bundle.graph.parameters)
    assert (learning.weights["a.weight"] == 0.5).all()


def test_a_narrower_network_begins_with_the_first_channels_of_a_file(tmp_path, config):
    path = write_model(tmp_path / "trained.onnx", graph_with_norm(), with_weights=True)
    whole, half = (prepare_learning(config(model=str(path), base_width=width)) for width in (None, 0.5))
    assert half.bundle.table.entries[-1].vector == (3,)
    assert half.whole == whole.bundle.graph
    assert (half.weights["a.weight"] == whole.weights["a.weight"][:3]).all()


def test_levels_make_the_table_and_a_given_table_goes_before_them(tmp_path, config):
    learning = prepare_learning(config(levels=(0.5, 1.0)))
    assert [entry.vector for entry in learning.bundle.table.entries] == [(3,), (6,)]
    path = tmp_path / "own.yaml"
    path.write_text(dump_table(learning.bundle.table))
    assert prepare_learning(config(strategy="fedrolex", table=path)).bundle.table == learning.bundle.table


def test_the_strategy_and_what_replaces_it_travel_in_the_bundle(config):
    learning = prepare_learning(config(strategy="fjord-kd", subnets={"self_distillation": 0.25}))
    settings = learning.bundle.settings
    assert (settings.subnets.choice, settings.subnets.self_distillation) == ("below", 0.25)
    assert (settings.loss.name, settings.loss.label_weight) == ("distillation", 0.75)
    assert seconds_of_a_full_step(learning, num_steps=1) > 0


def test_the_averages_are_those_of_the_strategy_with_what_replaces_them(config):
    learning = prepare_learning(config(strategy="heterofl", averages={"weighting": "data"}))
    aggregator = learning.strategy.open(learning.bundle, learning.weights)
    assert (aggregator.settings.entries, aggregator.settings.weighting) == ("touched", "data")


def test_a_given_table_is_used(tmp_path, config):
    table = prepare_learning(config()).bundle.table
    path = tmp_path / "own.yaml"
    path.write_text(dump_table(table))
    assert prepare_learning(config(table=path)).bundle.table == table


def test_a_table_of_another_network_is_refused_and_named(tmp_path, config):
    cnn = prepare_learning(LearningConfig(model="cnn-28", data="fashion-mnist-small")).bundle.table
    path = tmp_path / "cnn.yaml"
    path.write_text(dump_table(cnn))
    with pytest.raises(UserError, match=r"cnn\.yaml.*another network"):
        prepare_learning(config(table=path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "telepathy"}, "is unknown"),
        ({"model": "cnn-29"}, "did you mean cnn-28"),
        ({"data": "nowhere.npz"}, "nowhere.npz"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": 1e9}, "learning_rate"),
        ({"passes": float("inf")}, "passes"),
        ({"num_rounds": 0}, "num_rounds"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**80}, "seed"),
        ({"batch_size": 0}, "batch_size"),
        ({"base_width": 0.0}, "base_width"),
        ({"levels": (0.5, 1.5)}, "1.5"),
    ],
)
def test_what_cannot_be_used_is_named(config, changes, message):
    with pytest.raises(UserError, match=message):
        prepare_learning(config(**changes))


def test_a_model_of_another_input_than_the_datas_is_refused(tmp_path, config):
    path = write_model(tmp_path / "wide.onnx", graph_with_norm(inputs=7), with_weights=False)
    with pytest.raises(UserError, match=r"shape \[3\].*takes \[7\]"):
        prepare_learning(config(model=str(path)))


# ---------------------------------------------------------------- the schedule


def test_the_learning_rate_falls_along_a_cosine_to_a_tenth(config):
    rates = prepare_learning(config(num_rounds=5, learning_rate=0.2)).learning_rates()
    assert rates[0] == pytest.approx(0.2)
    assert rates[-1] == pytest.approx(0.02)
    assert rates[2] == pytest.approx(0.11)
    assert list(rates) == sorted(rates, reverse=True)


def test_a_single_round_has_the_first_learning_rate(config):
    assert prepare_learning(config(num_rounds=1, learning_rate=0.2)).learning_rates() == (pytest.approx(0.2),)


def test_a_step_schedule_counts_rounds(config):
    optimizer = OptimizerSettings(learning_rate=1.0, schedule="step", every=2, factor=0.5)
    rates = prepare_learning(config(num_rounds=5, optimizer=optimizer)).learning_rates()
    assert rates == (1.0, 1.0, 0.5, 0.5, 0.25)


def test_a_device_reads_in_its_bundle_what_the_run_decided(config):
    learning = prepare_learning(config(num_rounds=7, optimizer=OPTIMIZERS["adamw"], learning_rate=0.01))
    settings = learning.bundle.settings.optimizer
    assert (settings.method, settings.learning_rate, settings.total) == ("adamw", 0.01, 7)


def test_a_warm_up_longer_than_the_run_is_refused(config):
    optimizer = OptimizerSettings(schedule="cosine", warmup=5)
    with pytest.raises(UserError, match="optimizer: a warmup of 5 leaves nothing of total 5"):
        prepare_learning(config(num_rounds=5, optimizer=optimizer))


# ---------------------------------------------------------------- the optimiser


def test_an_optimizer_is_named_or_read_from_a_file(tmp_path):
    path = tmp_path / "optimizer.yaml"
    path.write_text("method: adamw\nbetas: [0.8, 0.99]\nkeep_state: true\n")
    assert read_optimizer("sgd") == OPTIMIZERS["sgd"]
    assert read_optimizer(str(path)) == OptimizerSettings(method="adamw", betas=(0.8, 0.99), keep_state=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("method: adam", r"optimizer\.yaml:1: key \"method\".*'adam'; did you mean .adamw"),
        ("method: adamw\nmomentum: 0.5", "momentum belongs to method sgd"),
        ("schedule: step", "wants every"),
        ("learning: 0.1", r"optimizer\.yaml:1: key \"learning\".*learning_rate"),
    ],
)
def test_an_optimizer_file_that_does_not_fit_is_refused_by_line_and_key(tmp_path, content, message):
    path = tmp_path / "optimizer.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_optimizer(str(path))


def test_an_unknown_optimizer_is_refused_with_those_there_are():
    with pytest.raises(UserError, match="'lion' is unknown: choose sgd, adamw or name a YAML file"):
        read_optimizer("lion")


# ---------------------------------------------------------------- the deadline


@pytest.fixture
def slow_steps(monkeypatch):
    """A machine on which a full step takes one second of a core."""
    monkeypatch.setattr(settings, "seconds_of_a_full_step", lambda learning: 1.0)


def test_devices_with_a_core_each_get_time_for_their_batches_and_a_tenth(config, slow_steps):
    learning = prepare_learning(config(passes=2.0, batch_size=10))
    # 40 samples in 2 parts of 20: 2 batches a pass, 4 in all, 1 s each.
    assert deadline_on_one_machine(learning, num_devices=2, num_cores=4) == pytest.approx(4.4)


def test_devices_that_share_cores_get_more_time(config, slow_steps):
    learning = prepare_learning(config(passes=2.0, batch_size=10))
    alone = deadline_on_one_machine(learning, num_devices=2, num_cores=2)
    assert deadline_on_one_machine(learning, num_devices=2, num_cores=1) == pytest.approx(2 * alone)


def test_a_deadline_is_never_too_short_to_answer(config, slow_steps):
    learning = prepare_learning(config(passes=0.01))
    assert deadline_on_one_machine(learning, num_devices=40, num_cores=64) == 3.0


def test_a_full_step_is_measured_on_this_machine(config):
    assert 0.0 < settings.seconds_of_a_full_step(prepare_learning(config()), num_steps=2) < 60.0
