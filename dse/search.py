"""The search: vectors are asked for, measured part by part, and told, by any number of workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from dse.costs import VectorCost
from dse.front import MIN_GAIN_SHARE, as_point, to_reference
from dse.hopeless import Record, is_hopeless, part_noise
from dse.hypervolume import dominated_volume
from dse.samplers import SamplerName, VectorSampler, search_space
from dse.settings import Objective
from dse.study import (
    FINISHED,
    fail_lost_trials,
    heartbeat,
    identity,
    quiet,
    to_measurement,
    vector_of,
)
from firmware_profiles.errors import UserError
from models.subnet import DropoutVector, full_vector
from models.widths import WidthPlan

__all__ = ["Progress", "Question", "SearchOptions", "quiet", "search"]

MIN_GROWTH = 0.01
"""Share by which the hypervolume must grow for a search not to have stalled."""

_POLL_S = 0.5
_ALIVE = (*FINISHED, TrialState.RUNNING)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of every vector.

    Attributes:
        plan: the width groups.
        objectives: what is traded off, progress last.
        stages: names of the stages a gain is measured at.
        num_repeats: measurements of each stage.
        costs: of a vector.
        measure: gain of one part, 0 <= part < stages x repeats: repeat by repeat, stage by stage.
        checksum: digest of the warm starts.
    """

    plan: WidthPlan
    objectives: tuple[Objective, ...]
    stages: tuple[str, ...]
    num_repeats: int
    costs: Callable[[DropoutVector], VectorCost]
    measure: Callable[[DropoutVector, int], float]
    checksum: str = ""

    @property
    def num_parts(self) -> int:
        """Parts of a whole measurement."""
        return len(self.stages) * self.num_repeats


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How long and how to search; workers of one study may differ in them.

    Attributes:
        num_trials: finished trials the study shall have, those of before and of others included.
        seed: decides the vectors, 0 or more.
        sampler: what makes them.
        stops_hopeless: whether a vector is given up that would clearly end behind another.
        until_stalled: end before `num_trials` once this many trials did not make the hypervolume grow by
            `MIN_GROWTH`; None: never.
    """

    num_trials: int
    seed: int
    sampler: SamplerName = "tpe"
    stops_hopeless: bool = True
    until_stalled: int | None = None


Progress = Callable[[int], None]
"""Told the number of finished trials of the study."""


def search(
    study: optuna.Study, question: Question, options: SearchOptions, on_trial: Progress = lambda _num: None
) -> None:
    """Ask for vectors, measure and tell, until the study has as many trials as it shall.

    What is asked for depends on the seed and on what is in the study, not on how often a search was
    interrupted. A vector that comes again is told again, not measured again. Where other workers measure
    the last ones, it waits for them: if one of them is lost, its trial is made up for.

    Args:
        study: from `dse.study.open_study`.
        question: what is measured.
        options: how long and how.
        on_trial: told the number of finished trials.

    Raises:
        UserError: this machine measures something else than the study's first.
        KeyboardInterrupt: the user interrupted; the study can go on later.
    """
    study.sampler = VectorSampler(question.plan, options.sampler, options.seed)
    first_seen_s: dict[int, float] = {}
    while True:
        fail_lost_trials(study, first_seen_s, time.monotonic())
        trials = study.get_trials(deepcopy=False, states=_ALIVE)
        done = [trial for trial in trials if trial.state in FINISHED]
        on_trial(len(done))
        if len(done) >= options.num_trials or has_stalled(done, question, options.until_stalled):
            return
        if len(trials) >= options.num_trials:
            time.sleep(_POLL_S)
            continue
        _check_same_start(trials, question)
        _one_trial(study, done, question, options)


def has_stalled(trials: Sequence[FrozenTrial], question: Question, patience: int | None) -> bool:
    """Whether the last `patience` finished trials made the hypervolume hardly grow."""
    if patience is None or len(trials) < 2 * patience:
        return False
    before, now = (_volume(part, question) for part in (trials[:-patience], trials))
    return now <= before * (1 + MIN_GROWTH)


def _volume(trials: Sequence[FrozenTrial], question: Question) -> float:
    found = [to_measurement(trial, question.plan) for trial in trials if trial.state == TrialState.COMPLETE]
    full = question.costs(full_vector(question.plan))
    points = [as_point(one, question.objectives) for one in found]
    return dominated_volume(points, to_reference(full, question.objectives))


def _check_same_start(trials: Sequence[FrozenTrial], question: Question) -> None:
    """Gains from other warm starts are not comparable; the first trial's count."""
    for trial in trials:
        theirs = trial.user_attrs.get("worker", {}).get("warm_starts")
        if theirs is not None and theirs != question.checksum:
            raise UserError(
                f"This machine's warm starts have checksum {question.checksum}, those of trial "
                f"{trial.number} had {theirs}: gains from other warm starts cannot be compared. Take "
                "the same engine and versions, or give all workers one folder with --warm-starts, or take "
                "another --name."
            )
        if theirs is not None:
            return


def _one_trial(
    study: optuna.Study, done: Sequence[FrozenTrial], question: Question, options: SearchOptions
) -> None:
    trial = study.ask()
    try:
        with heartbeat(study, trial):
            trial.set_user_attr("worker", {**identity(), "warm_starts": question.checksum})
            vector = tuple(
                trial.suggest_int(key, kept.low, kept.high)
                for key, kept in search_space(question.plan).items()
            )
            values = (
                None
                if _is_one_too_many(study, trial.number, options)
                else _answer(trial, vector, done, question, options)
            )
    except BaseException:
        _tell(study, trial, TrialState.FAIL, None)
        raise
    _tell(study, trial, *(values or (TrialState.FAIL, None)))


def _tell(study: optuna.Study, trial: optuna.Trial, state: TrialState, values: list[float] | None) -> None:
    """Tell the outcome, unless others took this worker for lost and have failed its trial."""
    try:
        study.tell(trial, values, state=state)
    except ValueError:
        if study.get_trials(deepcopy=False)[trial.number].state != TrialState.FAIL:
            raise


def _is_one_too_many(study: optuna.Study, number: int, options: SearchOptions) -> bool:
    """Whether other workers asked at the same time, and theirs are enough."""
    if number < options.num_trials:
        return False
    others = study.get_trials(deepcopy=False, states=_ALIVE)
    return sum(one.number < number for one in others) >= options.num_trials


def _answer(
    trial: optuna.Trial,
    vector: DropoutVector,
    done: Sequence[FrozenTrial],
    question: Question,
    options: SearchOptions,
) -> tuple[TrialState, list[float] | None]:
    """Measure a vector until it is done or hopeless, and note what was found in the trial."""
    costs = question.costs(vector)
    trial.set_user_attr("macs", costs.macs)
    trial.set_user_attr("costs", {"memory_bytes": costs.memory_bytes, "cost": costs.cost})
    known = next((one for one in done if vector_of(one, question.plan) == vector), None)
    if known is not None:
        trial.set_user_attr("again", known.number)
        trial.set_user_attr("gains", known.user_attrs["gains"])
        return known.state, known.values
    resources = resources_of(costs, question.objectives)
    records = records_of(done, question.stages)
    noise = part_noise(records, len(question.stages)) if options.stops_hopeless else None
    gains: list[float] = []
    is_measured = False
    while not is_measured:
        gains.append(question.measure(vector, len(gains)))
        is_measured = len(gains) == question.num_parts
        if not is_measured and is_hopeless(resources, gains, records, len(question.stages), noise):
            break
    by_stage = {name: gains[index :: len(question.stages)] for index, name in enumerate(question.stages)}
    trial.set_user_attr("gains", by_stage)
    if not is_measured:
        trial.set_user_attr("parts_saved", question.num_parts - len(gains))
        return TrialState.PRUNED, None
    gain = sum(gains) / len(gains)
    trial.set_constraint("does no good", _least_gain(done, question) - gain)
    return TrialState.COMPLETE, [*resources, gain]


def _least_gain(done: Sequence[FrozenTrial], question: Question) -> float:
    """What a vector must gain so as not to be taken for not training (see `dse.front.does_good`)."""
    full = full_vector(question.plan)
    known = (
        one for one in done if one.state == TrialState.COMPLETE and vector_of(one, question.plan) == full
    )
    trial = next(known, None)
    return 0.0 if trial is None else max(0.0, MIN_GAIN_SHARE * trial.values[-1])


def records_of(trials: Sequence[FrozenTrial], stages: Sequence[str]) -> list[Record]:
    """What the trials that were measured to the end take, and the gain of each of their parts."""
    records = []
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            by_stage = [trial.user_attrs["gains"][name] for name in stages]
            gains = tuple(gain for repeat in zip(*by_stage, strict=True) for gain in repeat)
            records.append(Record(tuple(trial.values[:-1]), gains))
    return records


def resources_of(costs: VectorCost, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """The objectives to minimise, in the order of a trial's values."""
    values = {"cost": costs.cost, "memory": float(costs.memory_bytes)}
    return tuple(values[name] for name in objectives if name != "progress")
