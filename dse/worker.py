"""A worker process: it is given a run and then tasks, one line of JSON each, and answers each with a line.

Several of them measure for one study. A worker ends with its parent, and at SIGTERM gives up its trial.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import IO, Literal

import msgspec

from dse.anew import Unit, measure_units
from dse.search import search
from dse.site import Run, Site, load_site
from dse.study import quiet
from firmware_profiles.errors import EdgetideError


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker shall do.

    Attributes:
        kind: train warm starts, take part in the search, or measure units anew.
        repeats: warm starts to train.
        units: to measure anew.
    """

    kind: Literal["warm", "search", "anew"]
    repeats: tuple[int, ...] = ()
    units: tuple[Unit, ...] = ()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How a task ended: `error` is None, or one clear line."""

    error: str | None = None


def main() -> int:
    """Serve one parent until it closes our input."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing that a library prints is an answer
    try:
        with quiet():
            serve(sys.stdin.buffer, answers)
    except (KeyboardInterrupt, BrokenPipeError):
        return 1
    return 0


def serve(tasks: IO[bytes], answers: IO[bytes]) -> None:
    """Read a run, then tasks; answer the run and each task."""
    site = None
    for answer in _answers(tasks, site):
        answers.write(msgspec.json.encode(answer) + b"\n")


def _answers(tasks: IO[bytes], site: Site | None) -> Iterator[Answer]:
    for line in tasks:
        try:
            if site is None:
                site = load_site(msgspec.json.decode(line, type=Run))
            else:
                carry_out(site, msgspec.json.decode(line, type=Task))
        except EdgetideError as error:  # noqa: PERF203 - tasks are long
            yield Answer(error=str(error))
        else:
            yield Answer()


def carry_out(site: Site, task: Task) -> None:
    """Do one task in this process."""
    parent = os.getppid()

    def on_progress(_num_done: int) -> None:
        if os.getppid() != parent:
            raise KeyboardInterrupt  # whoever started us is gone

    if task.kind == "warm":
        site.warm_starts(task.repeats, on_progress)
        return
    study = site.open_study()
    if task.kind == "search":
        starts = site.warm_starts(range(site.run.settings.num_repeats))
        search(study, site.question(starts), site.run.options, on_progress)
    else:
        measure_units(site, study, task.units, on_progress)


if __name__ == "__main__":
    sys.exit(main())
