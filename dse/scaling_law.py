"""What a full run will come to, from short ones: one law for all candidates, with priors.

The error of a network of width w after S steps of a run whose learning rate has run through its schedule is

    error = E (1 + kappa ln(1 / w)) + B S^-beta

as in the scaling law of Hoffmann et al.: the first term is what the width can reach at all, the second what
is still missing. Small networks make more steps in the same time and come close to their limit early; so
curves cross, and short runs alone, in which the second term rules, prefer small networks. S is counted as
effective steps of each class of the data: a step with a random sub-network of the share m of the MACs counts
m^rho, and a rate other than the best one wastes steps:

    S_k = length x sum over devices of (steps x part of class k x m^rho) x exp(-lambda (ln rate - ln best)^2)

less about S0 steps at the beginning, S_k^2 / (S_k + S0). The rate is divided by 1 - momentum and by
1 - server momentum. Classes that no device trains stay at error 1. The logarithm of the error is measured
with noise that falls with the length of the run, with an effect that all runs of a rung share, and with
deviations of each family and each candidate from the law. All of it is Gaussian, so the posterior is found
by Gauss-Newton steps (Laplace's approximation).

The priors are from about 100 runs of a small convolutional network on Fashion-MNIST by 20 devices: kappa
0.33, beta 0.45, rho 1.7, lambda 0.5, S0 20. E and B, which depend on the data, are left nearly open.

References:
    Hoffmann et al., "Training compute-optimal large language models", 2022, arXiv 2203.15556 (the law);
    Domhan, Springenberg and Hutter, "Speeding up automatic hyperparameter optimization of deep neural
    networks by extrapolation of learning curves", IJCAI 2015 (priors on curves). Effective steps are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dse.halving import Forecast, Outcome

Array = NDArray[np.float64]

MIN_ERROR, MAX_ERROR = 0.002, 0.98
NUM_ITERATIONS = 25
CONVERGED = 1e-5
DERIVATIVE_STEP = 1e-4

PRIOR: dict[str, tuple[float, float]] = {
    "log_limit": (math.log(0.15), 0.8),
    "log_missing": (math.log(0.42), 0.7),
    "beta": (0.45, 0.10),
    "kappa": (0.33, 0.12),
    "rho": (1.7, 0.4),
    "lambda": (0.5, 0.15),
    "log_best_rate": (math.log(0.8), 0.7),
    "log_transient": (math.log(20.0), 0.7),
}
"""Mean and standard deviation of each parameter of the law."""

NAMES = tuple(PRIOR)
FAMILY_SD, FAMILY_SLOPE_SD, CANDIDATE_SD, RUNG_SD, NOISE_SD = 0.06, 0.03, 0.02, 0.05, 0.05
RUNG_SLOPE_SD, TRANSIENT_ROUNDS = 0.1, 1.0
"""What the ln errors of a rung of r rounds, of length t, have in common is ln(1 + TRANSIENT_ROUNDS / r), give
or take RUNG_SD - RUNG_SLOPE_SD ln t: the levels of short runs foretell less than their order."""

NOISE_EXPONENT = -0.4
"""Noise of a run of length t: NOISE_SD t^NOISE_EXPONENT, of ln error."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Traits:
    """What the law knows of a candidate.

    Attributes:
        family: candidates of one family deviate alike.
        width: keep fraction of its network, 0 < w <= 1.
        rate: learning rate, divided by 1 - momentum and 1 - server momentum.
        shares: [J]: shares of its network's MACs that mini-batches have.
        steps: [K, J]: mini-batches of each class and share in a full run, one device after another.
        class_weights: [K]: share of each class in what is measured; sums to 1.
    """

    family: str
    width: float
    rate: float
    shares: Array
    steps: Array
    class_weights: Array


class ScalingLaw:
    """Forecasts of full runs; scores are accuracies 0..1, forecasts are of -ln(1 - accuracy).

    Args:
        traits: of each candidate. num_steps: rounds of a full run.
        effects: family -> known deviation of its ln error from the law; 0 if left out.
        handicap: of the ln error of measured runs, by which they differ from the run that is planned.
    """

    def __init__(
        self,
        traits: Sequence[Traits],
        num_steps: int,
        effects: Mapping[str, float] | None = None,
        handicap: float = 0.0,
    ) -> None:
        self._traits, self._num_steps, self._handicap = tuple(traits), num_steps, handicap
        self._families = sorted({one.family for one in traits})
        self._effects = np.array([(effects or {}).get(family, 0.0) for family in self._families])

    def __call__(self, outcomes: Sequence[Outcome]) -> Forecast:
        """Forecast of -ln error after a full run."""
        return self.at(outcomes, 1.0)

    def at(self, outcomes: Sequence[Outcome], length: float) -> Forecast:
        """Forecast of -ln error of a run of this length whose schedule ends with it.

        Args:
            outcomes: of runs that did not fail.
            length: share of the full run, 0 < length <= 1.
        """
        return self.mean_at(outcomes, {length: 1.0})

    def mean_at(self, outcomes: Sequence[Outcome], weights: Mapping[float, float]) -> Forecast:
        """Forecast of a weighted sum of -ln errors of several lengths.

        Args:
            outcomes: of runs that did not fail.
            weights: length -> weight.
        """
        mean, covariance = self._posterior(outcomes)
        num, num_rungs = len(self._traits), self._num_rungs(outcomes)
        parts = [
            self._linear(mean, [(one, length, None) for one in range(num)], num_rungs) for length in weights
        ]
        expected = sum(weight * part[0] for weight, part in zip(weights.values(), parts, strict=True))
        jacobian = sum(weight * part[1] for weight, part in zip(weights.values(), parts, strict=True))
        spread = jacobian @ covariance @ np.transpose(jacobian)
        return Forecast(-np.asarray(expected), (spread + spread.T) / 2)

    def parameters(self, outcomes: Sequence[Outcome]) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of each parameter of the law."""
        mean, covariance = self._posterior(outcomes)
        sds = np.sqrt(np.diag(covariance))
        return {name: (float(mean[index]), float(sds[index])) for index, name in enumerate(NAMES)}

    # ------------------------------------------------------------ the law

    def _log_errors(self, laws: Array, candidate: int, length: float) -> Array:
        """Logarithm of the error [L] of a run under each of the laws [L, parameters]."""
        one, value = self._traits[candidate], dict(zip(NAMES, laws.T, strict=True))
        limit = np.exp(value["log_limit"]) * np.maximum(0.1, 1.0 - value["kappa"] * math.log(one.width))
        waste = np.maximum(0.0, value["lambda"]) * (math.log(one.rate) - value["log_best_rate"]) ** 2
        worth = one.shares ** np.maximum(0.0, value["rho"])[:, None]  # [L, J]
        steps = length * (worth @ one.steps.T) * np.exp(-np.minimum(waste, 50.0))[:, None]  # [L, K]
        steps = steps**2 / (steps + np.exp(value["log_transient"])[:, None] + 1e-12)
        beta = np.maximum(0.05, value["beta"])[:, None]
        missing = np.exp(value["log_missing"])[:, None] * np.maximum(steps, 1e-9) ** -beta
        # Near chance an error stops rising: a smooth least of the law and the most there can be.
        raw = limit[:, None] + missing
        errors = raw / (1.0 + (raw / MAX_ERROR) ** 4) ** 0.25
        return np.log(np.where(steps > 1e-6, errors, 1.0) @ one.class_weights)

    # ------------------------------------------------------------ the posterior

    def _num_rungs(self, outcomes: Sequence[Outcome]) -> int:
        return 1 + max((one.trial.rung for one in outcomes), default=0)

    def _posterior(self, outcomes: Sequence[Outcome]) -> tuple[Array, Array]:
        """Mean and covariance of law, families, families' slopes, candidates and rungs."""
        num_rungs = self._num_rungs(outcomes)
        places = [
            (one.trial.candidate, one.trial.num_steps / self._num_steps, one.trial.rung) for one in outcomes
        ]
        lengths = np.ones(num_rungs)
        for _, length, rung in places:
            lengths[rung] = length
        prior_mean, prior_sd = self._prior(lengths)
        if not outcomes:
            return prior_mean, np.diag(prior_sd**2)
        accuracies = np.array([one.score for one in outcomes], np.float64)
        observed = np.log(np.clip(1.0 - accuracies, MIN_ERROR, 1.0))
        noise = np.array([NOISE_SD * length**NOISE_EXPONENT for _, length, _ in places])
        state, covariance = prior_mean.copy(), np.diag(prior_sd**2)
        for iteration in range(NUM_ITERATIONS):
            expected, jacobian = self._linear(state, places, num_rungs)
            scaled = jacobian * prior_sd  # [N, P]: parameters in units of their prior
            gram = scaled @ scaled.T + np.diag(noise**2)
            gain = prior_sd[:, None] * scaled.T @ np.linalg.inv(gram)
            target = prior_mean + gain @ (observed - expected + jacobian @ (state - prior_mean))
            covariance = np.diag(prior_sd**2) - gain @ (jacobian * prior_sd**2)
            change = (0.5 if iteration < NUM_ITERATIONS // 2 else 1.0) * (target - state)
            state = state + change
            if float(np.abs(change).max()) < CONVERGED:
                break
        return state, covariance

    def _prior(self, lengths: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of each parameter, with rungs of these lengths."""
        law = np.array([PRIOR[name] for name in NAMES])
        families, candidates = len(self._families), len(self._traits)
        means = [
            law[:, 0],
            self._effects,
            np.zeros(families + candidates),
            self._handicap + self._beginning(lengths),
        ]
        sds = [
            law[:, 1],
            np.full(families, FAMILY_SD),
            np.full(families, FAMILY_SLOPE_SD),
            np.full(candidates, CANDIDATE_SD),
            RUNG_SD - RUNG_SLOPE_SD * np.log(lengths),
        ]
        return np.concatenate(means), np.concatenate(sds)

    def _beginning(self, lengths: Array) -> Array:
        """What runs of these lengths lose by the rounds a fleet takes to find its way, over the full run."""
        whole = math.log1p(TRANSIENT_ROUNDS / self._num_steps)
        return np.log1p(TRANSIENT_ROUNDS / (self._num_steps * lengths)) - whole

    def _linear(
        self, state: Array, places: Sequence[tuple[int, float, int | None]], num_rungs: int
    ) -> tuple[Array, Array]:
        """Expected ln error [N] of (candidate, length, rung) and its derivatives [N, P]."""
        num_law, families, candidates = len(NAMES), len(self._families), len(self._traits)
        jacobian = np.zeros((len(places), num_law + 2 * families + candidates + num_rungs))
        expected = np.zeros(len(places))
        law = state[:num_law]
        moved = np.vstack([law, law + DERIVATIVE_STEP * np.eye(num_law)])
        for row, (candidate, length, rung) in enumerate(places):
            values = self._log_errors(moved, candidate, length)
            expected[row] = values[0]
            jacobian[row, :num_law] = (values[1:] - values[0]) / DERIVATIVE_STEP
            family = num_law + self._families.index(self._traits[candidate].family)
            jacobian[row, family] = 1.0
            jacobian[row, family + families] = math.log(length)
            jacobian[row, num_law + 2 * families + candidate] = 1.0
            if rung is not None:
                jacobian[row, num_law + 2 * families + candidates + rung] = 1.0
        return expected + jacobian[:, num_law:] @ state[num_law:], jacobian
