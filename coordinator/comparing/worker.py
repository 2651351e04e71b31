"""The process of one run of a comparison: reads its job, simulates, writes the result, ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from coordinator.comparing.store import to_content, write_whole
from coordinator.twins.result import to_json
from coordinator.twins.scenario import Scenario
from coordinator.twins.simulator import Moment, simulate
from firmware_profiles.errors import EdgetideError

REPORT_S = 1.0
"""Between two lines of progress."""

PROGRESS = "progress "


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is told.

    Attributes:
        scenario, method, digest: of the planned run. settings: as it is run; its paths are absolute.
        result: file to write.
    """

    scenario: str
    method: str
    digest: str
    settings: Scenario
    result: str


def work(job: Job) -> None:
    """Run a job to its end and write what came of it.

    Raises:
        UserError: the scenario cannot be run.
        OSError: the result cannot be written.
    """
    began_s = time.perf_counter()
    result = simulate(job.settings, progress=_reporter())
    content = to_content(
        to_json(result),
        scenario=job.scenario,
        method=job.method,
        seed=job.settings.seed,
        digest=job.digest,
        wall_s=round(time.perf_counter() - began_s, 3),
    )
    write_whole(Path(job.result), content)


def main() -> None:
    """Run the job in the file that the first argument names: exit 0, or 1 with one clear line."""
    try:
        work(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job))
    except (EdgetideError, OSError) as error:
        sys.stderr.write(f"edgetide: error: {error}\n")
        sys.exit(1)


def _reporter() -> Callable[[Moment], None]:
    """Say on stdout now and then which share of the rounds is over."""
    said_s = time.monotonic()

    def report(moment: Moment) -> None:
        nonlocal said_s
        if time.monotonic() - said_s >= REPORT_S:
            said_s = time.monotonic()
            sys.stdout.write(f"{PROGRESS}{(moment.round - 1) / moment.num_rounds:.4f}\n")
            sys.stdout.flush()

    return report
