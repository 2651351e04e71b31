"""Timing a board's steps and what is concluded, with clocks that are made up."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest

from device_agent.bench import Timing, calibrate, conclude, spread, time_steps
from device_agent.bench_subject import load_subject, make_mini_batch
from firmware_profiles.errors import UserError
from models.cost import CostModel
from models.cost_fit import StepCoefficients
from models.data.dataset import load_data
from models.engines.choose import make_engine
from models.graph import digest
from models.table import ParetoTable, dump_table, find_fault, uniform_table

SECONDS = {(1,): 0.1, (2,): 0.2, (3,): 0.4}


class Board:
    """Steps take SECONDS of its core, times `slow`; others may take the core away meanwhile."""

    def __init__(self, slow=lambda _step: 1.0, taken_s=lambda _step: 0.0):
        self.core_s = self.wall_s = 0.0
        self.num_steps = 0
        self._slow, self._taken_s = slow, taken_s

    def step(self, vector):
        spent_s = SECONDS[vector] * self._slow(self.num_steps)
        self.core_s += spent_s
        self.wall_s += spent_s + self._taken_s(self.num_steps)
        self.num_steps += 1

    def time(self, num_repeats=9, **named):
        clocks = (lambda: self.core_s, lambda: self.wall_s)
        timings = time_steps(self.step, list(SECONDS), num_repeats, clocks=clocks, **named)
        return {timing.vector: timing for timing in timings}


@pytest.fixture(scope="module")
def bundle():
    """The default network with a table of many entries."""
    found = load_subject("cnn-28", None, None)
    levels = [level / 20 for level in range(2, 21)]
    table = uniform_table(found.graph, found.plan, found.table.batch_size, levels)
    return msgspec.structs.replace(found, table=table)


def test_a_quiet_board_is_timed_as_it_is():
    found = Board().time()
    assert {vector: timing.core_seconds for vector, timing in found.items()} == pytest.approx(SECONDS)
    assert all(timing.num_steps == 18 and timing.num_disturbed == 0 for timing in found.values())


def test_single_slow_steps_do_not_count():
    noise = random.Random(0)
    found = Board(slow=lambda _step: 5.0 if noise.random() < 0.15 else 1.0).time()
    assert {vector: timing.core_seconds for vector, timing in found.items()} == pytest.approx(SECONDS)


def test_passes_that_are_slow_as_a_whole_do_not_bend_the_relations():
    found = Board(slow=lambda step: 1.0 + (step // 9) * 0.2).time()
    assert found[(3,)].core_seconds / found[(1,)].core_seconds == pytest.approx(4.0, rel=1e-6)


def test_steps_whose_core_was_taken_away_are_left_out():
    taken = Board(taken_s=lambda step: 1.0 if step % 5 == 0 else 0.0).time()
    assert sum(timing.num_disturbed for timing in taken.values()) > 0
    several = Board(taken_s=lambda step: 1.0 if step % 5 == 0 else 0.0).time(one_thread=False)
    assert sum(timing.num_disturbed for timing in several.values()) == 0


def test_where_every_step_was_disturbed_all_of_them_count():
    found = Board(taken_s=lambda _step: 1.0).time()
    assert all(timing.num_steps == 18 for timing in found.values())


def test_fit_and_validation_take_different_vectors_and_the_ends_are_fitted(bundle):
    fitted, validated = spread(bundle.table, 8)
    assert len(fitted) == len(validated) == 8
    assert not set(fitted) & set(validated)
    assert fitted[0] == 0
    assert fitted[-1] == len(bundle.table.entries) - 1


@pytest.mark.parametrize(
    ("size", "num_fitted", "num_validated"), [(1, 1, 0), (2, 2, 0), (4, 3, 1), (9, 6, 3)]
)
def test_a_small_table_sets_a_third_aside_if_it_can(bundle, size, num_fitted, num_validated):
    table = msgspec.structs.replace(bundle.table, entries=bundle.table.entries[-size:])
    fitted, validated = spread(table, 8)
    assert (len(fitted), len(validated)) == (num_fitted, num_validated)


def timings_of(bundle, indices, true):
    model = CostModel(bundle.graph, bundle.plan, bundle.table.batch_size)
    vectors = [bundle.table.entries[index].vector for index in indices]
    return model, [
        Timing(vector=vector, core_seconds=float(seconds), num_steps=9, num_disturbed=0)
        for vector, seconds in zip(vectors, true.predict(model, vectors), strict=True)
    ]


def test_the_rewritten_table_fits_its_network_and_says_the_seconds_of_every_entry(bundle):
    true = StepCoefficients(
        core_seconds_per_step=1e-3, core_seconds_per_mac=4e-11, core_seconds_per_activation_byte=1e-9
    )
    fitted, validated = spread(bundle.table, 5)
    model, timings = timings_of(bundle, (*fitted, *validated), true)
    found = conclude(model, bundle.table, timings[:5], timings[5:])
    assert found.worst_error < 1e-6
    assert find_fault(found.table, digest(bundle.graph), bundle.plan) is None
    expected = true.predict(model, [entry.vector for entry in bundle.table.entries])
    assert [entry.core_seconds for entry in found.table.entries] == pytest.approx(expected.tolist(), rel=1e-3)
    without = [msgspec.structs.replace(entry, core_seconds=None) for entry in found.table.entries]
    assert without == [msgspec.structs.replace(entry, core_seconds=None) for entry in bundle.table.entries]


def test_a_vector_set_aside_that_takes_longer_is_reported_as_error(bundle):
    true = StepCoefficients(
        core_seconds_per_step=1e-3, core_seconds_per_mac=4e-11, core_seconds_per_activation_byte=0.0
    )
    fitted, validated = spread(bundle.table, 5)
    model, timings = timings_of(bundle, (*fitted, *validated), true)
    late = Timing(
        vector=timings[-1].vector, core_seconds=2 * timings[-1].core_seconds, num_steps=9, num_disturbed=0
    )
    found = conclude(model, bundle.table, timings[:5], [*timings[5:-1], late])
    assert found.worst_error == pytest.approx(0.5, abs=1e-3)
    assert found.median_error < 1e-3


def test_a_real_engine_is_calibrated(bundle):
    small = msgspec.structs.replace(bundle.table, batch_size=2)
    bundle = msgspec.structs.replace(bundle, table=small)
    inputs, targets = make_mini_batch(bundle, None)
    engine = make_engine("numpy", bundle.graph, bundle.settings.loss, 1)
    passes = []
    found = calibrate(
        bundle,
        engine,
        inputs=inputs,
        targets=targets,
        num_vectors=3,
        num_repeats=2,
        num_threads=1,
        on_progress=lambda done, total: passes.append((done, total)),
    )
    assert passes == [(1, 2), (2, 2)]
    assert found.coefficients.channel_block == 8
    assert all(entry.core_seconds and entry.core_seconds > 0 for entry in found.table.entries)


def test_the_mini_batch_is_the_data_where_data_is_given(bundle):
    data = load_data("fashion-mnist-small")
    inputs, targets = make_mini_batch(bundle, data)
    np.testing.assert_array_equal(targets["labels"], data.train.labels[:32])
    assert inputs.shape == (32, 1, 28, 28)


def test_a_table_of_another_network_is_refused(bundle, tmp_path):
    other = msgspec.structs.replace(bundle.table, graph_digest="0" * 64)
    path = tmp_path / "other.yaml"
    path.write_text(dump_table(other))
    with pytest.raises(UserError, match="another network"):
        load_subject("cnn-28", path, None)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "model.bundle"
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="neither an ONNX file"):
        load_subject(str(path), None, None)


def test_a_network_without_a_table_gets_uniform_vectors():
    found = load_subject("dscnn-1d", None, None)
    assert isinstance(found.table, ParetoTable)
    assert len(found.table.entries) >= 16
