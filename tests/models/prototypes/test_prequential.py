from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.prototypes.prequential import Prequential, accuracy, f1_scores


def counted(pairs, num_classes):
    counts = Prequential(num_classes)
    for true, predicted in pairs:
        counts.add(true, predicted)
    return counts.counts


def test_rows_are_true_classes_and_columns_predicted_ones():
    assert counted([(0, 1), (0, 1), (1, 1)], 2).tolist() == [[0, 2], [0, 1]]


def test_before_the_first_label_there_is_no_accuracy():
    assert accuracy(Prequential(3).counts) is None


def test_the_counts_of_devices_add_up():
    first, second = counted([(0, 0)], 2), counted([(0, 1), (1, 1), (1, 0)], 2)
    assert accuracy(first + second) == 0.5


def test_f1_is_that_of_precision_and_recall():
    # Class 1: 2 of 3 predicted ones are right, 2 of 4 true ones are found.
    counts = counted([(1, 1), (1, 1), (1, 0), (1, 0), (0, 1)], 2)
    precision, recall = 2 / 3, 2 / 4
    assert f1_scores(counts)[1] == pytest.approx(2 * precision * recall / (precision + recall))


def test_a_class_that_is_neither_there_nor_predicted_scores_0():
    assert f1_scores(counted([(0, 0)], 3)).tolist() == [1.0, 0.0, 0.0]


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_scores_are_those_of_the_pairs_counted_one_by_one(pairs):
    counts = counted(pairs, 4)
    assert accuracy(counts) == pytest.approx(sum(true == predicted for true, predicted in pairs) / len(pairs))
    for label, score in enumerate(f1_scores(counts)):
        found = sum(pair == (label, label) for pair in pairs)
        wrong = sum((true == label) != (predicted == label) for true, predicted in pairs)
        assert score == pytest.approx(found and found / (found + wrong / 2))
