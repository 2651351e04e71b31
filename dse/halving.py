"""Successive halving by what a run is expected to come to, not by what a short one shows.

Runs of many candidates are too dear, so all get a short one, fewer a longer one, and so on. Learning curves
cross: whoever leads after a short run need not lead at the end. So candidates are ranked by a forecast of
their full run, which the caller makes of everything that was measured (such as `dse.scaling_law`). All runs
of a rung have the same length and the same seed, so that their differences are paired.

`ask` says what to run and `tell` what came of it; nothing here runs anything. What is asked depends on
nothing but what was told, in any order within a rung, so a plan goes on after an interruption by being told
again what is known.

References:
    Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS
    2016 (successive halving); Desautels, Krause and Burdick, "Parallelizing exploration-exploitation
    tradeoffs in Gaussian process bandit optimization", JMLR 15, 2014 (GP-BUCB: a batch is picked
    as if what was picked before it were measured already). Ranking by a forecast of the full length is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

NUM_DRAWS = 4096
"""Of the forecast, for the probability of being best."""


@dataclass(frozen=True, kw_only=True)
class HalvingSettings:
    """How a budget is spread.

    Attributes:
        num_rungs: each gets an equal share of the budget that is left.
        num_first: candidates of the first rung at most. reduction: of their number from rung to rung.
        num_last: candidates of a rung at least, if they can be paid.
        num_steps: rounds of a full run: lengths are whole rounds.
        min_steps: rounds of the shortest run worth making.
        optimism: standard deviations a candidate is given in the first rung, evenly fewer in later ones.
        margin: by which a run may be dearer than its estimate; what is told corrects the estimates.
        confidence: that the best is the best at which no more is run.
        seed: of the first rung; the next ones count on.
    """

    num_rungs: int = 3
    num_first: int = 12
    reduction: float = 3.0
    num_last: int = 2
    num_steps: int = 100
    min_steps: int = 5
    optimism: float = 1.5
    margin: float = 1.2
    confidence: float = 0.98
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that no plan can be made with."""
        if min(self.num_rungs, self.num_first, self.num_last, self.num_steps, self.min_steps) < 1:
            raise ValueError("numbers of rungs, candidates and steps are at least 1")
        if self.reduction < 1.0 or self.margin < 1.0:
            raise ValueError("reduction and margin are at least 1")


@dataclass(frozen=True, order=True)
class Trial:
    """A run to make.

    Attributes:
        rung: 0 for the first. candidate: index. num_steps: rounds. seed: the same for a whole rung.
    """

    rung: int
    candidate: int
    num_steps: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        trial: what was asked. score: higher is better; None: the run failed, the candidate is out.
        cost: in the unit of the budget.
    """

    trial: Trial
    score: float | None
    cost: float


@dataclass(frozen=True, eq=False)
class Forecast:
    """The candidates' scores after a full run, as far as they are known.

    Attributes:
        mean: [C]. covariance: [C, C]; what candidates have in common counts in no difference of two.
    """

    mean: Vector
    covariance: Matrix

    def among(self, chosen: Sequence[int]) -> Forecast:
        """Of these candidates alone, in this order."""
        return Forecast(self.mean[list(chosen)], self.covariance[np.ix_(chosen, chosen)])

    def difference(self, one: int, other: int) -> tuple[float, float]:
        """Mean and standard deviation of one candidate's score less another's."""
        cov = self.covariance
        variance = cov[one, one] + cov[other, other] - 2 * cov[one, other]
        return float(self.mean[one] - self.mean[other]), math.sqrt(max(0.0, float(variance)))

    def probability_best(self, seed: int = 0) -> Vector:
        """[C]: how likely each candidate is the best of all."""
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        draws = np.random.default_rng(seed).standard_normal((NUM_DRAWS, len(self.mean)))
        best = np.argmax(self.mean + draws @ root.T, axis=1)
        return np.bincount(best, minlength=len(self.mean)) / NUM_DRAWS


Predict = Callable[[Sequence[Outcome]], Forecast]
"""Outcomes in order of their trials, none of a failed run -> forecast for a full run of each candidate."""


@dataclass
class _Rung:
    """A rung that is open until all its runs are told."""

    trials: tuple[Trial, ...]
    outcomes: dict[Trial, Outcome] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial not in self.outcomes)


class Halving:
    """Asks for runs until the budget is spent or the best is known.

    Args:
        costs: estimate of each candidate's full run, above 0, in the unit of the budget.
        budget: never exceeded, as long as no run is dearer than `margin` times its estimate, which grows
            with what dearer runs came to.
        predict: see Predict.
        settings: see HalvingSettings.

    Raises:
        ValueError: there is no candidate, or a cost is not above 0.
    """

    def __init__(
        self, costs: Sequence[float], budget: float, predict: Predict, settings: HalvingSettings
    ) -> None:
        if not costs or min(costs) <= 0.0:
            raise ValueError("every candidate's full run costs more than 0")
        self._costs = np.array(costs, np.float64)
        self._budget, self._predict, self._settings = budget, predict, settings
        self._rungs: list[_Rung] = []
        self._forecast: tuple[int, Forecast] | None = None  # outcomes it was made of, and what it was
        self._is_over = False

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """All that was told, by rung and candidate."""
        return tuple(
            rung.outcomes[trial] for rung in self._rungs for trial in rung.trials if trial in rung.outcomes
        )

    @property
    def spent(self) -> float:
        """Cost of all that was told."""
        return sum(outcome.cost for outcome in self.outcomes)

    @property
    def failed(self) -> frozenset[int]:
        """Candidates that cannot run."""
        return frozenset(one.trial.candidate for one in self.outcomes if one.score is None)

    def ask(self) -> tuple[Trial, ...]:
        """The runs of the open rung that were not told yet; none when the plan is made."""
        if self._rungs and (missing := self._rungs[-1].missing):
            return missing
        if not self._is_over:
            trials = self._open_rung()
            self._is_over = not trials
            if trials:
                self._rungs.append(_Rung(trials))
            return trials
        return ()

    def tell(self, outcome: Outcome) -> None:
        """Take in what came of a run.

        Raises:
            ValueError: it was not asked, or told before.
        """
        if not self._rungs or outcome.trial not in self._rungs[-1].missing:
            raise ValueError(f"{outcome.trial} is not open")
        self._rungs[-1].outcomes[outcome.trial] = outcome

    def rebudget(self, budget: float) -> None:
        """Put another budget in force, as when the run that it is a share of turns out cheaper or dearer."""
        self._budget = budget

    def forecast(self) -> Forecast:
        """What is expected now."""
        known = [outcome for outcome in self.outcomes if outcome.score is not None]
        if self._forecast is None or self._forecast[0] != len(known):
            self._forecast = len(known), self._predict(known)
        return self._forecast[1]

    def ranking(self) -> tuple[int, ...]:
        """Candidates that were run and can, best expected first; before any run, all of them."""
        failed, mean = self.failed, self.forecast().mean
        run = {one.trial.candidate for one in self.outcomes} - failed
        return tuple(sorted(run or set(range(len(mean))) - failed, key=lambda one: (-mean[one], one)))

    # ------------------------------------------------------------ opening a rung

    def _open_rung(self) -> tuple[Trial, ...]:
        settings, index = self._settings, len(self._rungs)
        left = settings.num_rungs - index
        if left <= 0:
            return ()
        forecast = self.forecast()
        if index and forecast.probability_best(settings.seed).max() >= settings.confidence:
            return ()
        wanted = max(settings.num_last, math.ceil(settings.num_first / settings.reduction**index))
        optimism = settings.optimism * left / settings.num_rungs
        picks = pick_batch(forecast, wanted, optimism, self.failed)
        if not picks:
            return ()
        # A budget too small for all the rungs goes to fewer of them.
        for num_rungs in range(left, 0, -1):
            share = (self._budget - self.spent) / num_rungs
            for num in range(len(picks), min(settings.num_last, len(picks)) - 1 if num_rungs > 1 else 0, -1):
                num_steps = self._affordable_steps(picks[:num], share)
                if num_steps >= settings.min_steps:
                    seed = settings.seed + index
                    return tuple(Trial(index, one, num_steps, seed) for one in sorted(picks[:num]))
        return ()

    def _affordable_steps(self, picks: Sequence[int], share: float) -> int:
        """Rounds that each of these can run for the share."""
        per_run = float(self._costs[list(picks)].sum()) * self._dearness() * self._settings.margin
        return min(self._settings.num_steps, math.floor(self._settings.num_steps * share / per_run))

    def _dearness(self) -> float:
        """By how much runs were dearer than estimated: the worst, or 1 before any."""
        steps = self._settings.num_steps
        return max(
            (
                one.cost * steps / (float(self._costs[one.trial.candidate]) * one.trial.num_steps)
                for one in self.outcomes
            ),
            default=1.0,
        )


def pick_batch(
    forecast: Forecast, num: int, optimism: float, excluded: frozenset[int] = frozenset()
) -> list[int]:
    """Pick candidates to measure together: the best expected one, then those that may yet be better.

    What is picked counts as measured for those picked after it, so near twins are not picked at once.

    Args:
        forecast: of all candidates.
        num: how many, at most.
        optimism: standard deviations that are added to the mean.
        excluded: never picked.
    """
    mean, cov = forecast.mean.copy(), forecast.covariance.copy()
    mean[list(excluded)] = -np.inf
    picks: list[int] = []
    while len(picks) < num and np.isfinite(mean).any():
        sd = np.sqrt(np.maximum(np.diag(cov), 0.0))
        one = int(np.argmax(mean + (optimism if picks else 0.0) * sd))
        picks.append(one)
        mean[one] = -np.inf
        noise = 0.1 * float(np.diag(forecast.covariance).mean()) + 1e-12
        cov -= np.outer(cov[:, one], cov[one]) / (cov[one, one] + noise)
    return picks
