"""Mini-batches in parts: the gradient is that of the whole, the memory that of a part."""

from __future__ import annotations

import numpy as np
import pytest

from models.cost import cost
from models.engines.choose import make_engine
from models.losses import LossSettings
from models.micro_batches import InParts, MicroBatches
from models.subnet import full_vector, uniform_vector
from models.table import uniform_table
from models.widths import plan_widths
from models.zoo import load_model
from models.zoo.initial import initial_weights

GRAPH, _ = load_model("cnn-28")
PLAN = plan_widths(GRAPH)
FULL = full_vector(PLAN)
BATCH = 32


@pytest.mark.parametrize("size", [1, 3, 4, 7, 8])
def test_the_parts_gradients_add_up_to_that_of_the_whole(size):
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(8, 1, 28, 28)).astype(np.float32)
    targets = {"labels": rng.integers(0, 10, 8)}
    engine, weights = make_engine("numpy", GRAPH, LossSettings(), 1), initial_weights(GRAPH, 0)
    whole, parts = engine.gradients(weights, inputs, targets), InParts(engine, size)
    added = parts.gradients(weights, inputs, targets)
    assert added.loss == pytest.approx(whole.loss, rel=1e-5)
    for name, gradient in whole.gradients.items():
        np.testing.assert_allclose(added.gradients[name], gradient, atol=1e-5)


def test_what_fits_is_not_cut():
    micro = MicroBatches(GRAPH, PLAN, BATCH, 4)
    assert micro.size(FULL, cost(GRAPH, PLAN, FULL, BATCH).memory_bytes) == BATCH
    assert micro.size(FULL, cost(GRAPH, PLAN, FULL, BATCH).memory_bytes - 1) < BATCH


def test_a_part_is_as_large_as_the_memory_allows_and_no_smaller_than_the_least():
    micro = MicroBatches(GRAPH, PLAN, BATCH, 4)
    of = cost(GRAPH, PLAN, FULL, 9)
    sums_bytes = 4 * of.num_parameters
    assert micro.size(FULL, of.memory_bytes + sums_bytes) == 9
    assert micro.size(FULL, of.memory_bytes + sums_bytes - 1) == 8
    assert micro.size(FULL, 1) == 4


def test_the_table_says_what_the_smallest_parts_need():
    table = uniform_table(GRAPH, PLAN, BATCH, (0.25, 1.0))
    micro = MicroBatches(GRAPH, PLAN, BATCH, 4)
    least = micro.table(table)
    expected = cost(GRAPH, PLAN, FULL, 4)
    assert least.entries[-1].memory_bytes == expected.memory_bytes + 4 * expected.num_parameters
    assert least.entries[-1].memory_bytes < table.entries[-1].memory_bytes
    assert [entry.vector for entry in least.entries] == [entry.vector for entry in table.entries]
    assert micro.table(table) is least


def test_a_least_part_of_the_whole_mini_batch_saves_nothing():
    vector = uniform_vector(PLAN, 0.5)
    assert (
        MicroBatches(GRAPH, PLAN, BATCH, 64).least_bytes(vector)
        == cost(GRAPH, PLAN, vector, BATCH).memory_bytes
    )
