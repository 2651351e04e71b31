"""The finished trials of a study, read back as plain data; nothing in the study is changed.

It reads studies by what they say of themselves: the objective to maximise is the gain, parameters are called
`<index>:<width group>`, and the MACs are an attribute of each trial or its first objective to minimise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from dse.study import quiet
from dse.trial import StudyTrials, Trial
from firmware_profiles.errors import UserError
from firmware_profiles.fit import nearest

_PARAMETER = re.compile(r"(\d+):(.*)")


def read_trials(url: str, name: str | None = None) -> StudyTrials:
    """Read a study's finished trials.

    Args:
        url: of the study's database.
        name: of the study, or None if there is only one in it.

    Raises:
        UserError: there is no such database or study, or it is no search for dropout vectors.
    """
    _check_there(url)
    try:
        with quiet():
            names = optuna.get_all_study_names(storage=url)
            chosen = _choose(url, names, name)
            study = optuna.load_study(study_name=chosen, storage=url)
            directions = study.directions
            trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"The study database {url} cannot be read: {reason}.") from None
    return _to_plain(chosen, directions, trials)


def _check_there(url: str) -> None:
    """Opening a SQLite file that is not there would make an empty one."""
    try:
        parsed = make_url(url)
    except SQLAlchemyError:
        raise UserError(f"{url!r} is no URL of a database; give one such as sqlite:///search.db") from None
    path = parsed.database
    if parsed.get_backend_name() == "sqlite" and (not path or not Path(path).is_file()):
        raise UserError(f"There is no study database {path or url}; `edgetide dse run` writes one.")


def _choose(url: str, names: Sequence[str], name: str | None) -> str:
    if name is not None and name not in names:
        raise UserError(f"There is no study {name!r} in {url}; {nearest(name, names)}")
    if name is None and len(names) != 1:
        there = ", ".join(repr(one) for one in names) or "none"
        raise UserError(f"{url} holds {len(names)} studies ({there}); choose one with --name.")
    return names[0] if name is None else name


def _to_plain(name: str, directions: Sequence[StudyDirection], trials: Sequence[FrozenTrial]) -> StudyTrials:
    try:
        cost, gain = (directions.index(way) for way in (StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE))
    except ValueError:
        raise UserError(f"Study {name!r} has no cost to minimise with a gain to maximise.") from None
    groups: dict[int, str] = {}
    found: list[Trial] = []
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    for trial in complete:
        kept = _kept_by_group(name, trial)
        groups.update({index: group for index, (group, _kept) in kept.items()})
        found.append(
            Trial(
                number=trial.number,
                vector=tuple(kept[index][1] for index in sorted(kept)),
                macs=int(trial.user_attrs.get("macs", trial.values[cost])),
                gain=float(trial.values[gain]),
            )
        )
    names = tuple(groups[index] for index in sorted(groups))
    return StudyTrials(name, names, tuple(found), len(trials) - len(complete))


def _kept_by_group(name: str, trial: FrozenTrial) -> dict[int, tuple[str, int]]:
    kept: dict[int, tuple[str, int]] = {}
    for key, value in trial.params.items():
        parts = _PARAMETER.fullmatch(key)
        if parts is None:
            raise UserError(
                f"Study {name!r} is no search for dropout vectors: it has a parameter {key!r}. "
                "Choose another one with --name."
            )
        kept[int(parts[1])] = (parts[2], int(value))
    return kept
