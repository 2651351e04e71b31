"""The cost model of a step: fitted to synthetic timings whose coefficients are known."""

from __future__ import annotations

import numpy as np
import pytest

from models.cost import CostModel
from models.cost_fit import StepCoefficients, fit, relative_errors
from models.subnet import full_vector, uniform_vector
from models.widths import plan_widths
from models.zoo import load_model

TRUE = StepCoefficients(
    core_seconds_per_step=2e-3, core_seconds_per_mac=5e-11, core_seconds_per_activation_byte=1e-9
)


@pytest.fixture(scope="module")
def model():
    graph, _ = load_model("cnn-28")
    return CostModel(graph, plan_widths(graph), 32)


@pytest.fixture(scope="module")
def vectors():
    graph, _ = load_model("cnn-28")
    plan = plan_widths(graph)
    random = np.random.default_rng(3)
    full = np.array(full_vector(plan))
    drawn = [tuple(int(k) for k in random.integers(1, full + 1)) for _ in range(20)]
    return [uniform_vector(plan, 0.25), uniform_vector(plan, 0.6), *drawn, full_vector(plan)]


def test_seconds_are_the_fixed_part_and_macs_and_bytes_of_the_whole_mini_batch(model, vectors):
    costs = model.costs(vectors[:1])
    by_hand = 2e-3 + 32 * (5e-11 * costs.macs_training[0] + 1e-9 * costs.activation_bytes[0])
    assert TRUE.predict(model, vectors[:1])[0] == pytest.approx(by_hand)


@pytest.mark.parametrize(
    "true",
    [
        TRUE,
        StepCoefficients(
            core_seconds_per_step=0.0, core_seconds_per_mac=5e-11, core_seconds_per_activation_byte=0.0
        ),
        StepCoefficients(
            core_seconds_per_step=3e-3, core_seconds_per_mac=0.0, core_seconds_per_activation_byte=2e-9
        ),
    ],
)
def test_known_coefficients_are_recovered(model, vectors, true):
    found = fit(model, vectors[:8], true.predict(model, vectors[:8]).tolist())
    made = found.coefficients
    assert made.core_seconds_per_step == pytest.approx(true.core_seconds_per_step, rel=1e-3, abs=1e-8)
    assert made.core_seconds_per_mac == pytest.approx(true.core_seconds_per_mac, rel=1e-3, abs=1e-16)
    assert made.core_seconds_per_activation_byte == pytest.approx(
        true.core_seconds_per_activation_byte, rel=1e-3, abs=1e-14
    )
    assert np.abs(found.left_out_errors).max() < 1e-6


def test_noise_of_three_percent_costs_about_as_much_in_prediction(model, vectors):
    noise = np.random.default_rng(0).normal(1.0, 0.03, len(vectors))
    measured = TRUE.predict(model, vectors) * noise
    made = fit(model, vectors[:12], measured[:12].tolist()).coefficients
    truth = TRUE.predict(model, vectors[12:])
    assert np.median(relative_errors(made.predict(model, vectors[12:]), truth)) < 0.03


def test_one_measurement_far_off_moves_the_others_little(model, vectors):
    noise = np.random.default_rng(1).normal(1.0, 0.01, len(vectors))
    measured = TRUE.predict(model, vectors) * noise
    measured[5] *= 3.0
    made = fit(model, vectors, measured.tolist()).coefficients
    others = [index for index in range(len(vectors)) if index != 5]
    errors = relative_errors(made.predict(model, vectors), TRUE.predict(model, vectors))[others]
    assert errors.max() < 0.05


def test_no_coefficient_is_negative(model, vectors):
    costs = model.costs(vectors)
    falling = (1.0 / costs.macs_training).tolist()
    made = fit(model, vectors, falling).coefficients
    assert made.core_seconds_per_mac == made.core_seconds_per_activation_byte == 0.0
    assert made.core_seconds_per_step > 0.0


def test_blocks_of_channels_are_computed_whole(model):
    filled, exact = model.costs([(1, 8, 16)], channel_block=8), model.costs([(8, 8, 16)])
    assert filled.macs_training[0] == exact.macs_training[0]
    assert filled.activation_bytes[0] == model.costs([(1, 8, 16)]).activation_bytes[0]


def test_a_single_measurement_makes_a_fit_that_goes_through_it(model, vectors):
    made = fit(model, vectors[:1], [0.01])
    assert made.coefficients.predict(model, vectors[:1])[0] == pytest.approx(0.01)


@pytest.mark.parametrize("seconds", [[], [0.0], [float("nan")], [-1.0]])
def test_seconds_that_no_clock_gives_are_refused(model, vectors, seconds):
    with pytest.raises(ValueError, match="above 0"):
        fit(model, vectors[: len(seconds)], seconds)
