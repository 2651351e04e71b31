"""A study: what many workers on many machines measure together, in a database by URL."""

from __future__ import annotations

import logging
import os
import platform
import random
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from dse.front import Measurement
from dse.samplers import keys
from dse.settings import Objective
from firmware_profiles.errors import UserError
from models.subnet import DropoutVector
from models.widths import WidthPlan

HEARTBEAT_S = 15
"""How often a worker says that it is alive."""

GRACE_S = 90
"""Silence after which a worker on another machine is taken for lost."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_SQLITE_TIMEOUT_S = 60.0
_NUM_TRIES = 5
_RACES = (OperationalError, IntegrityError, ProgrammingError, optuna.exceptions.StorageInternalError)


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


def open_study(
    url: str,
    name: str,
    facts: Mapping[str, str],
    objectives: Sequence[Objective] = ("cost", "progress"),
) -> optuna.Study:
    """Create a study or go on with the one of that name.

    Args:
        url: of the database, such as `sqlite:///search.db` or `postgresql+psycopg://user@host/name`.
        name: of the study in it.
        facts: what measurements depend on; they must be those the study was begun with.
        objectives: what is traded off, progress last.

    Raises:
        UserError: the database cannot be used, or the study measures something else.
    """
    ways = {"progress": StudyDirection.MAXIMIZE}
    directions = [ways.get(objective, StudyDirection.MINIMIZE) for objective in objectives]
    try:
        study = _create(url, name, directions)
        begun_with = study.user_attrs.get("facts")
        if begun_with is None:
            study.set_user_attr("facts", dict(facts))
            return study
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"The study database {shown(url)} cannot be used: {reason}. Give a URL such as "
            "sqlite:///search.db, or postgresql+psycopg://USER@HOST/NAME with edgetide[postgres] installed."
        ) from None
    for key in sorted({*facts, *begun_with}):
        if facts.get(key) != begun_with.get(key):
            raise UserError(
                f"Study '{name}' was begun with {key} {begun_with.get(key)}, this command says "
                f"{facts.get(key)}. Give the same options, or another --name."
            )
    return study


def measurements(study: optuna.Study, plan: WidthPlan) -> list[Measurement]:
    """Everything the study has measured to the end, by trial number, each vector once."""
    found: dict[DropoutVector, Measurement] = {}
    for trial in finished(study):
        if trial.state == TrialState.COMPLETE:
            measured = to_measurement(trial, plan)
            found.setdefault(measured.vector, measured)
    return list(found.values())


def to_measurement(trial: FrozenTrial, plan: WidthPlan) -> Measurement:
    """What a completed trial found."""
    costs: dict[str, float] = trial.user_attrs["costs"]
    gains: dict[str, list[float]] = trial.user_attrs["gains"]
    return Measurement(
        vector=vector_of(trial, plan),
        macs=int(trial.user_attrs["macs"]),
        memory_bytes=int(costs["memory_bytes"]),
        cost=float(costs["cost"]),
        stage_gains=tuple(sum(stage) / len(stage) for stage in gains.values()),
    )


def vector_of(trial: FrozenTrial, plan: WidthPlan) -> DropoutVector:
    """The vector of a trial."""
    return tuple(int(trial.params[key]) for key in keys(plan))


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that were measured, to the end or until they were hopeless, by number."""
    return study.get_trials(deepcopy=False, states=FINISHED)


def identity() -> dict[str, Any]:
    """Which process this is, so that others on this machine can see that it is gone."""
    return {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def fail_lost_trials(study: optuna.Study, first_seen_s: dict[int, float], now_s: float) -> None:
    """Give up running trials whose worker is gone: killed, crashed, or silent for `GRACE_S`.

    Args:
        study: theirs.
        first_seen_s: when trials were first seen that do not say who runs them; it is kept up to date.
        now_s: a monotonic clock.
    """
    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        worker = trial.user_attrs.get("worker")
        if worker is None:  # killed before it could say so, or about to say so
            is_lost = now_s - first_seen_s.setdefault(trial.number, now_s) > GRACE_S
        else:
            is_lost = worker["machine"] == _machine() and not _is_alive(worker["pid"], worker["started"])
        if is_lost:
            with suppress(ValueError):  # another worker was faster
                study.tell(trial.number, state=TrialState.FAIL)


@contextmanager
def heartbeat(study: optuna.Study, trial: optuna.Trial) -> Iterator[None]:
    """Tell other machines that a trial goes on for as long as the block lasts."""
    storage = study._storage  # noqa: SLF001 - Optuna beats for `optimize` alone, not for ask and tell
    storage = getattr(storage, "_backend", storage)
    if not isinstance(storage, RDBStorage):
        yield
        return
    is_over = threading.Event()
    storage.record_heartbeat(trial._trial_id)  # noqa: SLF001 - as above
    thread = threading.Thread(target=_beat, args=(storage, trial._trial_id, is_over), daemon=True)  # noqa: SLF001
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _beat(storage: RDBStorage, trial_id: int, is_over: threading.Event) -> None:
    while not is_over.wait(HEARTBEAT_S):
        with suppress(SQLAlchemyError, optuna.exceptions.OptunaError):  # the next beat may come through
            storage.record_heartbeat(trial_id)


def _create(url: str, name: str, directions: Sequence[StudyDirection]) -> optuna.Study:
    """Create or load; workers that make the same tables at the same time get in each other's way."""
    for left in reversed(range(_NUM_TRIES)):
        try:
            return optuna.create_study(
                storage=_storage(url), study_name=name, directions=directions, load_if_exists=True
            )
        except _RACES:  # noqa: PERF203 - a few times
            if not left:
                raise
            time.sleep(random.uniform(0.05, 0.25))
    raise AssertionError("unreachable")


def _storage(url: str) -> RDBStorage:
    """Open the database, or make it."""
    parsed = make_url(url)
    options: dict[str, Any] = {}
    if parsed.get_backend_name() == "sqlite" and parsed.database and parsed.database != ":memory:":
        options = {"creator": partial(_connect, parsed.database)}
    return RDBStorage(url, engine_kwargs=options, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)


def _connect(path: str) -> sqlite3.Connection:
    """Open a SQLite file so that workers read it while one of them writes; a crash of ours loses nothing."""
    connection = sqlite3.connect(path, timeout=_SQLITE_TIMEOUT_S, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def shown(url: str) -> str:
    """The URL of a database, without a password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


def _machine() -> str:
    """This boot of this machine, and which of its process tables: containers have their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _started(pid: int) -> float:
    return psutil.Process(pid).create_time()


def _is_alive(pid: int, started: float) -> bool:
    """Whether a process goes on that began at that time; the clock may have been set a little since."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 60 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
