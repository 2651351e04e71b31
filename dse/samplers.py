"""Which vector comes next: uniform ones first, then what an Optuna sampler makes of the study.

References:
    Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE TEVC 6(2), 2002.
    Ozaki et al., "Multiobjective tree-structured Parzen estimator", JAIR 73, 2022.
    Eshelman and Schaffer, "Real-coded genetic algorithms and interval-schemata", FOGA 2, 1993: the BLX-alpha
    crossover draws between and a little beyond two parents. Swapping their entries, Optuna's default, makes
    vectors of a few groups that were measured already.
    Beginning with uniform vectors is a choice of ours: the front then starts where a uniform rate for all
    layers would be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from optuna import Study
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.samplers.nsgaii import BLXAlphaCrossover
from optuna.trial import FrozenTrial, TrialState

from models.subnet import DropoutVector, full_vector, uniform_vector
from models.widths import WidthPlan

SamplerName = Literal["nsga2", "tpe", "random"]
UNIFORM_FRACTIONS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
MIN_POPULATION = 10
"""Of NSGA-II; networks of many width groups get two for each group."""

_NUM_BY_CHANCE = 16
MIN_KEEP_FRACTION = 0.1

_INNER: Mapping[SamplerName, Callable[[int, int], BaseSampler]] = {
    "nsga2": lambda seed, num_groups: NSGAIISampler(
        population_size=max(MIN_POPULATION, 2 * num_groups), crossover=BLXAlphaCrossover(), seed=seed
    ),
    "tpe": lambda seed, _num_groups: TPESampler(
        n_startup_trials=_NUM_BY_CHANCE, multivariate=True, constant_liar=True, seed=seed
    ),
    "random": lambda seed, _num_groups: RandomSampler(seed=seed),
}


class VectorSampler(BaseSampler):
    """A sampler whose vectors follow from the seed and the study alone.

    Each trial has a sampler of its own, seeded by its place among the trials that were not lost, so that
    neither the number of workers' samplers nor interruptions decide what is drawn.

    Args:
        plan: the width groups.
        name: which of Optuna's samplers.
        seed: decides the vectors, 0 or more.
    """

    def __init__(self, plan: WidthPlan, name: SamplerName, seed: int) -> None:
        self._space: dict[str, BaseDistribution] = {**search_space(plan)}
        self._first = [dict(zip(self._space, vector, strict=True)) for vector in uniform_vectors(plan)]
        self._name: SamplerName = name
        self._seed = seed
        self._inner = _INNER[name](seed, len(self._space))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All groups: each of them is asked for in every trial."""
        del study, trial
        return self._space

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],  # noqa: ARG002 - it is always all groups
    ) -> dict[str, Any]:
        """The next uniform vector, or what the inner sampler says."""
        before = [
            one
            for one in study.get_trials(deepcopy=False)
            if one.number < trial.number and one.state not in (TrialState.FAIL, TrialState.WAITING)
        ]
        self._inner = _INNER[self._name]((self._seed * 1_000_003 + len(before)) % 2**32, len(self._space))
        if len(before) < len(self._first):
            taken = [one.params for one in before]
            return next((params for params in self._first if params not in taken), {})
        space = self._inner.infer_relative_search_space(study, trial)
        return self._inner.sample_relative(study, trial, space) if space else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Whatever the relative sample left out."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell the inner sampler."""
        self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Tell the inner sampler."""
        self._inner.after_trial(study, trial, state, values)


def search_space(plan: WidthPlan) -> dict[str, IntDistribution]:
    """Kept channels of each width group, by the parameter's name in the study.

    Fewer channels than a tenth are not searched: there is nothing to find (see `dse.front.does_good`).
    """
    return {
        key: IntDistribution(low, group.num_channels)
        for key, low, group in zip(keys(plan), _lowest(plan), plan.groups, strict=True)
    }


def keys(plan: WidthPlan) -> list[str]:
    """The parameters' names in the study."""
    return [f"{index}:{group.name}" for index, group in enumerate(plan.groups)]


def uniform_vectors(plan: WidthPlan) -> list[DropoutVector]:
    """The uniform vectors the search begins with, the full one first, each once."""
    vectors = [full_vector(plan), *(uniform_vector(plan, fraction) for fraction in UNIFORM_FRACTIONS)]
    lowest = _lowest(plan)
    return list(dict.fromkeys(tuple(map(max, vector, lowest)) for vector in vectors))


def _lowest(plan: WidthPlan) -> DropoutVector:
    return tuple(max(1, round(MIN_KEEP_FRACTION * group.num_channels)) for group in plan.groups)
