"""Aggregation of updates of any sub-networks: streaming, in O(model) memory.

For update i let n_i be its weight, d_i its delta, t_i its mini-batches, s_i[e] the share of them whose
sub-network held entry e, and N = sum n_i. The mean delta of entry e is

    D[e] = T sum_i n_i d_i[e] t_i^-r / m[e]        T = sum_i n_i t_i^r / N

    plain       m[e] = N                                   FedAvg
    touched     m[e] = sum_i n_i [s_i[e] > 0]              the mean over those that trained the entry
    by-steps    m[e] = max( sum_i n_i s_i[e], N / cap )    the mean of d_i / s_i with weights n_i s_i

and 0 where no update trained the entry. With r = `step_normalisation` = 1 this is FedNova: every update
counts as if it had made as many mini-batches as the mean, T; with r = 0 deltas stay as they are. `by-steps`
does not dilute an entry that half of the mini-batches trained by the other half; one that hardly any
trained is raised `cap` times at most, because its delta is mostly noise. Where every update is full, all
three are the same.

The new weights are, with the weights w_before of the version before (server momentum m, rate l)

    w' = w + m (w - w_before) + l D

which is FedAvgM: its velocity is (w - w_before) / l, so nothing but versions has to be kept.

References:
    McMahan et al., AISTATS 2017 (plain). Diao et al., HeteroFL, ICLR 2021 (touched). Wang et al., FedNova,
    NeurIPS 2020, arXiv 2007.07481. Hsu et al., FedAvgM, 2019, arXiv 1909.06335. How DISTREAL's
    server combines random sub-networks is not published in detail: by-steps is a reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.strategies.averages import AverageSettings
from coordinator.sums import WeightedSums
from firmware_profiles.errors import PeerError, UserError
from models.draws import Draw, make_draw
from models.subnet import Array, DropoutVector, check_vector, full_vector
from models.subnet_settings import SubnetSettings
from models.touches import Counts, Touches
from models.weights import check_finite, check_shapes
from models.widths import WidthPlan

DrawOf = Callable[[int, int], Draw]
"""(seed, round) of an order -> how its devices chose the kept channels."""

MAX_NORM_RATIO = 10.0
"""A delta's L2 norm over the weights' own (or 1): more is no training, but would ruin the model for all."""


class Aggregator:
    """Folds updates into one new set of weights.

    Args:
        plan: the width plan that the devices trained with.
        base: the weights before the round, float32; not modified.
        settings: how to average.
        draw: how the devices chose the kept channels; random ones by default.
        class_names: tensors of the last layer, whose rows of masked classes count as not trained: those
            whose delta is 0 throughout. Empty where nothing is masked.

    Attributes:
        plan, settings: as given.
        num_updates: updates folded so far.
        num_samples: their samples, weights left out.
    """

    def __init__(
        self,
        plan: WidthPlan,
        base: Mapping[str, Array],
        settings: AverageSettings | None = None,
        draw: DrawOf | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        self.settings = settings or AverageSettings()
        self.num_updates = 0
        self.num_samples = 0
        self.plan, self._base = plan, base
        self._shapes = {name: tensor.shape for name, tensor in base.items()}
        self._max_norm = MAX_NORM_RATIO * max(1.0, _norm(base))
        self._draw = draw or _random(plan)
        self._class_names = tuple(class_names)
        num_classes = len(base[class_names[0]]) if class_names else 0
        self._touches = Touches(plan, base, class_names, num_classes)
        self._divisors = WeightedSums({i: counts.shape for i, counts in enumerate(self._touches.zeros())})
        self._sums = WeightedSums(self._shapes)
        self._weight = self._step_weight = self._full_weight = 0.0

    def fold(
        self,
        delta: Mapping[str, Array],
        num_samples: int,
        vectors: Sequence[DropoutVector],
        step_vectors: Sequence[int],
        seed: int,
        weight: float = 1.0,
        *,
        round_number: int = 1,
        num_data: int | None = None,
    ) -> None:
        """Add one update. An update that is refused changes nothing.

        The caller bounds `len(step_vectors)` by the batches it ordered: each is replayed.

        Args:
            delta: weights after minus weights before, float32, full shapes.
            num_samples: samples trained, 1 or more.
            vectors: the distinct dropout vectors used.
            step_vectors: for each mini-batch the index of its vector.
            seed: seed of the draws.
            weight: multiplies the update's own, more than 0; for instance less for a stale update.
            round_number: of the order.
            num_data: samples that the device has, 1 or more; None: as many as it trained.

        Raises:
            PeerError: the update does not fit the model, or holds values that cannot be used.
        """
        if not (weight > 0 and np.isfinite(weight)):
            raise ValueError(f"weight is {weight}: leave the update out instead of folding it with no weight")
        _check_delta(delta, self._shapes, self._max_norm)
        _check_steps(self.plan, num_samples, vectors, step_vectors)
        amount = weight * self.settings.own_weight(num_samples, num_data)
        steps = float(len(step_vectors)) ** self.settings.step_normalisation
        counts = self._count(delta, vectors, step_vectors, self._draw(seed, round_number))
        if counts is None:
            self._sums.add(delta, amount / steps)
            self._full_weight += amount
        else:
            self._sums.add(delta, amount / steps, self._masks(counts))
            self._divide(counts, amount, len(step_vectors))
        self._weight += amount
        self._step_weight += amount * steps
        self.num_updates += 1
        self.num_samples += num_samples

    def finish(self, before: Mapping[str, Array] | None = None, scale: float = 1.0) -> dict[str, Array]:
        """The new weights: float32, full shapes, copies. Folding may go on afterwards.

        Args:
            before: weights of the version before the base, which server momentum goes on from; None where
                there is none, or another model took its place.
            scale: factor on the server's learning rate, this once.
        """
        settings = self.settings
        new: dict[str, Array] = {}
        for name, tensor in self._base.items():
            moved = self._mean_delta(name)
            moved *= settings.server_learning_rate * scale
            if settings.server_momentum and before is not None:
                moved += settings.server_momentum * (tensor.astype(np.float64) - before[name])
            # Adding in float64 and rounding once is what float32 addition does with a float32 mean.
            moved += tensor
            new[name] = moved.astype(np.float32)
        return new

    def _mean_delta(self, name: str) -> NDArray[np.float64]:
        index = self._touches.index(name)
        mean = self._sums.total(name)
        mean *= self._step_weight / self._weight if self._weight else 1.0
        if self.settings.entries == "plain" or self._full_weight == self._weight:
            mean /= self._weight or np.inf
            return mean
        touched = self._divisors.total(index) + self._full_weight
        least = self._weight / self.settings.cap if self.settings.entries == "by-steps" else 0.0
        # Divided by infinity, an entry that nobody trained keeps its value.
        divisor = np.where(touched > 0, np.maximum(touched, least), np.inf)
        mean /= self._touches.spread(divisor, index)
        return mean

    def _divide(self, counts: Sequence[Counts], amount: float, num_steps: int) -> None:
        """Add an update's weight to the divisors of the entries that it trained."""
        if self.settings.entries == "by-steps":
            self._divisors.add(dict(enumerate(counts)), amount / num_steps)
        else:
            self._divisors.add({i: (count > 0).astype(np.float32) for i, count in enumerate(counts)}, amount)

    def _masks(self, counts: Sequence[Counts]) -> dict[str, NDArray[np.bool_]]:
        """Where an update is listened to: what it says about entries it did not train is not."""
        partly = {index: count > 0 for index, count in enumerate(counts) if not count.min() > 0}
        spread = {index: self._touches.spread(touched, index) for index, touched in partly.items()}
        indices = {name: self._touches.index(name) for name in self._base}
        return {name: spread[index] for name, index in indices.items() if index in spread}

    def _count(
        self,
        delta: Mapping[str, Array],
        vectors: Sequence[DropoutVector],
        step_vectors: Sequence[int],
        draw: Draw,
    ) -> list[Counts] | None:
        """How many mini-batches touched each block; None where all touched all, or it does not matter."""
        if self.settings.entries == "plain":
            return None
        is_present = None
        if self._class_names:
            rows = [delta[name].reshape(len(delta[name]), -1).any(axis=1) for name in self._class_names]
            is_present = np.logical_or.reduce(rows)
        full = full_vector(self.plan)
        if all(vectors[index] == full for index in set(step_vectors)) and (
            is_present is None or is_present.all()
        ):
            return None
        return self._touches.count(draw, vectors, step_vectors, is_present)


def _random(plan: WidthPlan) -> DrawOf:
    return lambda seed, round_number: make_draw(
        SubnetSettings(), plan, seed=seed, round_number=round_number, weights=None
    )


def _check_delta(delta: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], max_norm: float) -> None:
    check_shapes(delta, shapes)
    with np.errstate(over="ignore", invalid="ignore"):
        flat = [delta[name].reshape(-1) for name in shapes]
        square = sum(float(np.dot(values, values)) for values in flat)
    if square <= max_norm**2:
        return  # one pass over the values: NaN and infinity would have shown in the sum
    check_finite(delta)
    if _norm(delta) > max_norm:
        largest = max(float(np.abs(values).max(initial=0.0)) for values in flat)
        raise PeerError(
            f"the delta is over {MAX_NORM_RATIO:g} times as large as the weights "
            f"(an entry moves by {largest:g}): that is no training"
        )


def _norm(tensors: Mapping[str, Array]) -> float:
    """L2 norm of all entries together, in float64: squares might not be float32."""
    flat = [values.reshape(-1).astype(np.float64) for values in tensors.values()]
    return math.sqrt(sum(float(np.dot(values, values)) for values in flat))


def _check_steps(
    plan: WidthPlan, num_samples: int, vectors: Sequence[DropoutVector], step_vectors: Sequence[int]
) -> None:
    if num_samples < 1 or not step_vectors:
        raise PeerError(f"update of {num_samples} samples and {len(step_vectors)} steps trained nothing")
    if not 0 <= min(step_vectors) <= max(step_vectors) < len(vectors):
        raise PeerError(
            f"steps name vectors {min(step_vectors)} to {max(step_vectors)}, the update has {len(vectors)}"
        )
    try:
        for vector in vectors:
            check_vector(plan, vector)
    except UserError as error:
        raise PeerError(f"update cannot be replayed: {error}") from error
