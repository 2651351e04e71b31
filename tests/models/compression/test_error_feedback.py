from __future__ import annotations

import numpy as np
import pytest

from models.compression.codec import decode
from models.compression.error_feedback import WITH_FEEDBACK, ErrorFeedback
from models.compression.settings import CompressionSettings

TOP_1_OF_4 = CompressionSettings(scheme="top-k", keep_fraction=0.25)


def one(*values):
    return {"w": np.array(values, np.float32)}


def send(feedback, delta, settings=TOP_1_OF_4, seed=1, mask=None):
    """What the other side gets, and the feedback that follows."""
    content, after = feedback.encode(delta, settings, seed=seed, mask=mask)
    return decode(content, {"w": delta["w"].shape}, seed=seed, mask=mask)["w"], after


def test_what_was_left_out_is_added_to_the_next_update():
    first, after = send(ErrorFeedback(), one(4, 3, 0, 0))
    second, last = send(after, one(0, 1, 0, 2))
    np.testing.assert_array_equal(first, [4, 0, 0, 0])
    np.testing.assert_array_equal(second, [0, 4, 0, 0])
    np.testing.assert_array_equal(last.residual["w"], [0, 0, 0, 2])


@pytest.mark.parametrize("scheme", sorted(WITH_FEEDBACK))
def test_all_that_was_learned_is_sent_or_waits(scheme):
    settings = CompressionSettings(scheme=scheme, keep_fraction=0.1, block=8)
    random, feedback = np.random.default_rng(0), ErrorFeedback()
    learned, sent = np.zeros(50), np.zeros(50)
    for seed in range(20):
        delta = random.normal(0, 1, 50).astype(np.float32)
        got, feedback = send(feedback, {"w": delta}, settings, seed)
        learned, sent = learned + delta, sent + got
    np.testing.assert_allclose(sent + feedback.residual["w"], learned, atol=1e-4)


def test_feedback_counts_only_once_it_is_taken_on():
    before = ErrorFeedback(one(0, 3, 0, 0))
    send(before, one(4, 0, 0, 0))
    np.testing.assert_array_equal(before.residual["w"], [0, 3, 0, 0])


def test_what_waits_for_an_entry_stays_until_it_is_trained_again():
    mask = {"w": np.array([True, True, False, False])}
    sent, after = send(ErrorFeedback(one(0, 0, 5, 0)), one(1, 2, 0, 0), mask=mask)
    np.testing.assert_array_equal(sent, [0, 2, 0, 0])
    np.testing.assert_array_equal(after.residual["w"], [1, 0, 5, 0])


def test_a_single_number_has_its_residual_too():
    settings = CompressionSettings(scheme="int8")
    _, after = send(ErrorFeedback(), {"w": np.array(0.1, np.float32)}, settings)
    assert after.residual["w"].shape == ()


@pytest.mark.parametrize("scheme", ["none", "float16"])
def test_schemes_that_leave_nothing_out_keep_nothing(scheme):
    _, after = send(ErrorFeedback(), one(4, 3, 0, 0), CompressionSettings(scheme=scheme))
    assert after.residual == {}
