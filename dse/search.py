"""The search: Optuna's NSGA-II over the kept channels of each width group, asked and told.

A study lives in a database by URL, so any number of processes can work on one, and one that was
interrupted goes on where it was.

References:
    Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE TEVC 6(2), 2002.
    Seeding the population with uniform vectors is a choice of ours: the front then starts where a
    uniform rate for all layers would be.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import optuna
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from dse.front import Measurement
from firmware_profiles.errors import UserError
from models.subnet import DropoutVector, full_vector, uniform_vector
from models.widths import WidthPlan

UNIFORM_FRACTIONS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
POPULATION = 24
MIN_KEEP_FRACTION = 0.1
_GAIN = "gain"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's log lines and its warnings about experimental parts to itself."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def open_study(url: str, name: str, facts: Mapping[str, str]) -> optuna.Study:
    """Create a study or go on with the one of that name.

    Args:
        url: of the database, such as `sqlite:///search.db`.
        name: of the study in it.
        facts: what measurements depend on; they must be those the study was begun with.

    Raises:
        UserError: the database cannot be used, or the study measures something else.
    """
    try:
        study = optuna.create_study(
            storage=url, study_name=name, directions=["minimize", "maximize"], load_if_exists=True
        )
        begun_with = study.user_attrs.get("facts")
        if begun_with is None:
            study.set_user_attr("facts", dict(facts))
            return study
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"The study database {url} cannot be used: {reason}. Give a URL such as sqlite:///search.db."
        ) from None
    for key in sorted({*facts, *begun_with}):
        if facts.get(key) != begun_with.get(key):
            raise UserError(
                f"Study '{name}' was begun with {key} {begun_with.get(key)}, this command says "
                f"{facts.get(key)}. Give the same options, or another --name."
            )
    return study


def measurements(study: optuna.Study, plan: WidthPlan) -> list[Measurement]:
    """Everything the study has measured, by trial number, each vector once."""
    found: dict[DropoutVector, Measurement] = {}
    for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        vector = tuple(int(trial.params[key]) for key in _keys(plan))
        found.setdefault(vector, Measurement(vector, int(trial.values[0]), float(trial.values[1])))
    return list(found.values())


def search(
    study: optuna.Study,
    plan: WidthPlan,
    measure: Callable[[DropoutVector], Measurement],
    num_trials: int,
    seed: int,
    on_trial: Callable[[Measurement, int], None] = lambda _measured, _num_done: None,
) -> None:
    """Ask for vectors, measure and tell, until the study has `num_trials` of them.

    The first ones are uniform; the rest NSGA-II makes. What it makes depends on the seed and on what
    is in the study, not on how often the search was interrupted. A vector that comes again is told
    again, not measured again.

    Args:
        study: from `open_study`.
        plan: the width groups.
        measure: the objectives of one vector.
        num_trials: completed trials the study shall have, those of before included.
        seed: decides the vectors, 0 or more.
        on_trial: told each measurement and the number of completed trials.

    Raises:
        KeyboardInterrupt: the user interrupted; the study can go on later.
    """
    seeds = _uniform(plan)
    while True:
        trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.RUNNING])
        num_done = sum(trial.state == TrialState.COMPLETE for trial in trials)
        if num_done >= num_trials:
            return
        # A sampler of its own for each trial: what it draws follows from the place in the study alone.
        study.sampler = optuna.samplers.NSGAIISampler(
            population_size=POPULATION, seed=(seed * 1_000_003 + len(trials)) % 2**32
        )
        if len(trials) < len(seeds):
            study.enqueue_trial(dict(zip(_keys(plan), seeds[len(trials)], strict=True)))
        trial = study.ask()
        vector = tuple(
            trial.suggest_int(key, low, group.num_channels)
            for key, low, group in zip(_keys(plan), _lowest(plan), plan.groups, strict=True)
        )
        known = {one.vector: one for one in measurements(study, plan)}
        try:
            measured = known.get(vector) or measure(vector)
        except BaseException:
            study.tell(trial, state=TrialState.FAIL)
            raise
        study.tell(trial, [float(measured.macs), measured.gain])
        on_trial(measured, num_done + 1)


def _uniform(plan: WidthPlan) -> list[DropoutVector]:
    """The uniform vectors the search begins with, the full one first, each once."""
    vectors = [full_vector(plan), *(uniform_vector(plan, fraction) for fraction in UNIFORM_FRACTIONS)]
    lowest = _lowest(plan)
    lifted = [tuple(map(max, vector, lowest)) for vector in vectors]
    return list(dict.fromkeys(lifted))


def _lowest(plan: WidthPlan) -> DropoutVector:
    """Fewer channels than these are not searched: there is nothing to find (see `table_entries`)."""
    return tuple(max(1, round(MIN_KEEP_FRACTION * group.num_channels)) for group in plan.groups)


def _keys(plan: WidthPlan) -> list[str]:
    return [f"{index}:{group.name}" for index, group in enumerate(plan.groups)]
