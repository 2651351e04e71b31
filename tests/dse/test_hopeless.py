"""Races: a vector is given up when it is clearly behind, and not before."""

import numpy as np
import pytest

from dse.hopeless import MIN_RECORDS, Record, is_hopeless, part_noise

NOISE = 0.01


def records(*gains, resources=1.0):
    return [Record((resources,), tuple(one)) for one in gains]


def test_a_vector_far_behind_a_cheaper_one_is_hopeless_after_one_part():
    assert is_hopeless((2.0,), [0.1], records((0.5, 0.5)), 1, NOISE)


def test_a_vector_behind_within_the_noise_is_measured_on():
    assert not is_hopeless((2.0,), [0.49], records((0.5, 0.5)), 1, NOISE)


def test_a_vector_cheaper_than_its_betters_is_measured_on():
    assert not is_hopeless((0.5,), [0.1], records((0.5, 0.5)), 1, NOISE)


def test_of_several_resources_less_of_one_is_enough_to_be_measured_on():
    rival = [Record((1.0, 5.0), (0.5, 0.5))]
    assert not is_hopeless((2.0, 4.0), [0.1], rival, 1, NOISE)
    assert is_hopeless((2.0, 6.0), [0.1], rival, 1, NOISE)


def test_a_vector_clearly_worse_than_not_training_is_hopeless_however_cheap():
    dearer = records((0.5, 0.5))
    assert is_hopeless((0.5,), [-0.1], dearer, 1, NOISE)
    assert not is_hopeless((0.5,), [-0.01], dearer, 1, NOISE)


def test_a_vector_that_harms_at_one_stage_may_yet_help_at_another():
    assert not is_hopeless((0.5,), [-0.1], records((0.5, 0.5)), 2, NOISE)


def test_parts_are_compared_part_by_part_so_that_a_bad_warm_start_is_nobodys_fault():
    # The first repeat brings everybody little.
    assert not is_hopeless((2.0,), [0.1], records((0.1, 0.9)), 1, NOISE)


def test_a_stage_not_yet_seen_may_still_be_as_good_as_the_best_seen_there():
    specialist, rival = (0.0, 0.9), (0.3, 0.3)
    assert not is_hopeless((2.0,), [0.1], records(specialist, rival), 2, NOISE)
    assert is_hopeless((2.0,), [0.1], records(rival), 2, NOISE)


def test_without_a_known_noise_nothing_is_given_up():
    assert not is_hopeless((2.0,), [-1.0], records((0.5, 0.5)), 1, None)


def test_the_noise_is_what_vector_and_repeat_do_not_explain():
    rng = np.random.default_rng(0)
    vectors, repeats = rng.normal(0, 0.5, (400, 1, 2)), rng.normal(0, 0.5, (1, 3, 2))
    gains = vectors + repeats + rng.normal(0, NOISE, (400, 3, 2))
    found = [Record((1.0,), tuple(one.ravel())) for one in gains]
    assert part_noise(found, 2) == pytest.approx(NOISE, rel=0.1)


@pytest.mark.parametrize(("num_records", "num_parts"), [(MIN_RECORDS - 1, 4), (MIN_RECORDS, 2)])
def test_the_noise_is_unknown_with_few_vectors_or_a_single_repeat(num_records, num_parts):
    assert part_noise([Record((1.0,), (0.1,) * num_parts)] * num_records, 2) is None


def test_a_vector_that_is_as_good_as_its_rival_is_rarely_given_up():
    rng = np.random.default_rng(1)
    given_up = 0
    for _ in range(500):
        rival, ours = rng.normal(0.2, NOISE, (2, 4))
        given_up += is_hopeless((2.0,), list(ours[:2]), records(rival), 1, NOISE)
    assert given_up <= 25  # 2 standard errors, one-sided: 2.3 % are expected
