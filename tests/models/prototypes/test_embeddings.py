from __future__ import annotations

import numpy as np
import pytest

from models.prototypes.embeddings import ClassMeans, merged, nearest_classes
from models.prototypes.prototype_set import empty, of_samples


def means_of(values, labels, num_classes=3):
    means = ClassMeans(1, num_classes)
    means.add(np.array(values, np.float32)[:, None], np.array(labels))
    return means.prototypes()


def test_a_class_is_the_mean_of_its_embeddings_and_weighs_as_many():
    found = means_of([1, 3, 8], [0, 0, 2])
    assert found.vectors[:, 0].tolist() == [2, 8]
    assert found.labels.tolist() == [0, 2]
    assert found.weights.tolist() == [2, 1]


def test_batches_give_what_one_batch_gives():
    means = ClassMeans(1, 3)
    for value, label in ((1, 0), (8, 2), (3, 0)):
        means.add(np.array([[value]], np.float32), np.array([label]))
    assert means.prototypes().vectors.tolist() == means_of([1, 3, 8], [0, 0, 2]).vectors.tolist()


def test_sets_are_merged_by_the_samples_behind_them():
    found = merged([means_of([1, 3], [0, 0]), means_of([8, 5], [0, 1]), empty(1)])
    assert found.vectors[:, 0].tolist() == [4, 5]
    assert found.weights.tolist() == [3, 1]


def test_the_nearest_mean_tells_the_class_far_from_the_origin_too():
    classes = of_samples(np.array([[1e6], [1e6 + 1]]), np.array([4, 2]))
    rows = np.array([[1e6 + 0.25], [1e6 + 0.75]], np.float32)
    assert nearest_classes(rows, classes).tolist() == [4, 2]


def test_the_first_of_two_equally_near_means_wins():
    classes = of_samples(np.array([[-1.0], [1.0]]), np.array([1, 0]))
    assert nearest_classes(np.zeros((1, 1), np.float32), classes).tolist() == [1]


def test_embeddings_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        means_of([np.nan], [0])


def test_a_class_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="class"):
        means_of([1], [3])


def test_nothing_can_be_merged_or_near():
    with pytest.raises(ValueError, match="no prototypes"):
        merged([])
    with pytest.raises(ValueError, match="without prototypes"):
        nearest_classes(np.zeros((1, 1), np.float32), empty(1))
