"""Prototypes: labelled vectors that stand for samples seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.prototypes.scaling import LARGEST
from models.subnet import Array, Indices


@dataclass(frozen=True)
class PrototypeSet:
    """Some prototypes in units of the data, not of any scaling.

    Attributes:
        vectors: float32 [n, d], finite. labels: int64 [n], the index of a class.
        weights: float32 [n], the samples that each stands for. ages: float32 [n], the samples that its holder
            saw since the youngest of them.
    """

    vectors: Array
    labels: Indices
    weights: Array
    ages: Array

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Indices | NDArray[np.bool_] | slice) -> PrototypeSet:
        """These rows, by index, mask or slice."""
        return PrototypeSet(self.vectors[rows], self.labels[rows], self.weights[rows], self.ages[rows])


def of_samples(vectors: ArrayLike, labels: ArrayLike) -> PrototypeSet:
    """Samples as prototypes of themselves, just seen."""
    indices = np.asarray(labels, np.int64)
    num = len(indices)
    return PrototypeSet(
        np.asarray(vectors, np.float32), indices, np.ones(num, np.float32), np.zeros(num, np.float32)
    )


def empty(num_features: int) -> PrototypeSet:
    """No prototypes of so many features."""
    return of_samples(np.zeros((0, num_features), np.float32), np.zeros(0, np.int64))


def joined(sets: Sequence[PrototypeSet]) -> PrototypeSet:
    """All of them, one after another.

    Raises:
        ValueError: there are none, or they differ in the number of features.
    """
    return PrototypeSet(
        np.concatenate([one.vectors for one in sets]),
        np.concatenate([one.labels for one in sets]),
        np.concatenate([one.weights for one in sets]),
        np.concatenate([one.ages for one in sets]),
    )


def check(prototypes: PrototypeSet, num_features: int, num_classes: int) -> None:
    """Refuse what a learner of so many features and classes cannot use.

    Raises:
        ValueError: a shape does not fit, a value is not finite or too large, there is no such class, or an
            age or weight is negative.
    """
    num = len(prototypes.labels)
    shapes = [
        array.shape for array in (prototypes.vectors, prototypes.labels, prototypes.weights, prototypes.ages)
    ]
    if shapes != [(num, num_features), (num,), (num,), (num,)]:
        raise ValueError(f"prototypes of shapes {shapes} are not of {num_features} features")
    if not np.abs(prototypes.vectors).max(initial=0.0) <= LARGEST:
        raise ValueError(f"a prototype's feature is not finite or beyond {LARGEST:g}")
    if num and not 0 <= prototypes.labels.min() <= prototypes.labels.max() < num_classes:
        raise ValueError(f"a prototype's class is none of 0 to {num_classes - 1}")
    for name, values in (("weight", prototypes.weights), ("age", prototypes.ages)):
        if num and not 0.0 <= values.min() <= values.max() <= LARGEST:
            raise ValueError(f"a prototype's {name} is not finite or negative")


def check_sizes(num_features: int, num_classes: int) -> None:
    """Refuse what nothing can be learned from.

    Raises:
        ValueError: there is no feature, or only one class.
    """
    if num_features < 1 or num_classes < 2:
        raise ValueError(f"{num_features} features and {num_classes} classes are too few: 1 and 2 at least")


def checked_class(y: int, num_classes: int) -> int:
    """A class, if there is such a one.

    Raises:
        ValueError: there is not.
    """
    if not 0 <= y < num_classes:
        raise ValueError(f"class {y} is none of the {num_classes} classes, 0 to {num_classes - 1}")
    return int(y)
