"""Whether a fleet of real processes keeps its books, and learns, while everything around it fails.

    python -m benchmarks.unreliable_fleet [--quick] [--json] [--broker NAME] [--strategy NAME] [--keep DIR]

Each run is an `edgetide up` with eight agents on the shipped data. After its first round opens the broker is
killed and started again, two agents and the coordinator are, and half of the fleet is cut off for half a
minute. It is done over mosquitto and over the embedded broker, for the asynchronous and the decentralised
strategy, beside one run of each strategy without faults.

Then the coordinator's database, the devices' outboxes and their logs are held against each other: no update
may be in a model twice or under a version that does not know it, and none that was put in an outbox may be
gone without a word. Only accuracy and times depend on the machine: what the processes share of it decides how
many mini-batches they train.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.fleet_books import Books, read_books
from benchmarks.live_fleet import ROOT, STOP_S
from benchmarks.report import Check, Report, parser, publish
from coordinator.broker import find_mosquitto
from coordinator.twins.faults import Crash, Faults, Partition

NUM_DEVICES = 8
LIMIT_S = 600.0

FAULTS = Faults(
    partitions=(Partition(from_s=20, until_s=50, devices=("right",)),),
    crashes=(
        Crash(at_s=10, back_s=12, device="broker"),
        Crash(at_s=15, back_s=20, device="left-1"),
        Crash(at_s=35, back_s=40, device="right-1"),
        Crash(at_s=55, back_s=58, device="coordinator"),
    ),
)
"""Seconds since the first round opened."""

OPTIONS = {
    "async": {"--rounds": 20, "--round-seconds": 5},
    "dsgd": {"--rounds": 100, "--barrier-seconds": 1},
}
"""By strategy; a run is to outlast its faults."""

MIN_ACCURACY = {"async": 0.75, "dsgd": 0.6}
MAX_LOSS = 0.05
"""Of accuracy, against the run without faults."""


@dataclass(frozen=True)
class Finished:
    """A run that has ended.

    Attributes:
        strategy, broker: of it. faults: that it had.
        report: what it printed. books: what its files say.
    """

    strategy: str
    broker: str
    faults: Faults
    report: dict[str, Any]
    books: Books

    @property
    def title(self) -> str:
        """What checks call it."""
        return f"{self.strategy}, {self.broker}, {'faults' if self.faults.crashes else 'no faults'}"

    def links(self) -> dict[str, int]:
        """What became of the exchanges of all pairs together; empty for a method without."""
        rows = self.report.get("peers", {}).get("links", [])
        names = ("begun", "completed", "taken_back", "one_sided")
        return {name: sum(row[2 + number] for row in rows) for number, name in enumerate(names) if rows}


def scenario_of(faults: Faults) -> bytes:
    """A scenario file with two groups of devices."""
    group = {"profile": "raspberry-pi-4", "count": NUM_DEVICES // 2}
    content = {
        "name": "unreliable fleet",
        "min_devices": NUM_DEVICES // 2,
        "devices": [{"id": "left", **group}, {"id": "right", **group}],
        "faults": msgspec.to_builtins(faults),
    }
    return json.dumps(content).encode()  # YAML has JSON within


def run_fleet(strategy: str, broker: str, faults: Faults, folder: Path, *, quick: bool) -> Finished:
    """Run `edgetide up` to its end.

    Args:
        strategy: a key of OPTIONS.
        broker: as `--broker`.
        faults: that it is to have.
        folder: an empty one.
        quick: half as many rounds.

    Raises:
        RuntimeError: it failed or took too long; with what it said last.
    """
    scenario = folder / "scenario.yaml"
    scenario.write_bytes(scenario_of(faults))
    options = {
        "--devices": NUM_DEVICES,
        "--strategy": strategy,
        "--broker": broker,
        "--faults": scenario,
        "--model": "cnn-tiny-28",
        "--port": 0,
        "--state": folder / "state",
        **OPTIONS[strategy],
    }
    if quick:
        options["--rounds"] = OPTIONS[strategy]["--rounds"] // 2
    argv = [
        sys.executable,
        "-m",
        "coordinator.cli",
        "up",
        *(str(part) for pair in options.items() for part in pair),
    ]
    said = folder / "said"
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            [*argv, "--exit", "--json"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
        printed = _until_end(process)
    told = said.read_text(errors="replace")
    if process.returncode != 0:
        raise RuntimeError(f"{strategy} over {broker} failed ({process.returncode}):\n{told[-3000:]}")
    report = json.loads(printed.splitlines()[-1])
    return Finished(strategy, broker, faults, report, read_books(folder / "state", told))


def _until_end(process: subprocess.Popen[bytes]) -> bytes:
    try:
        return process.communicate(timeout=LIMIT_S)[0]
    except BaseException:  # too long, or Ctrl-C here, which it has not heard
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()
        process.communicate()
        raise


def sooner(faults: Faults, factor: float) -> Faults:
    """The same in less time."""
    return Faults(
        partitions=tuple(
            Partition(from_s=one.from_s * factor, until_s=one.until_s * factor, devices=one.devices)
            for one in faults.partitions
        ),
        crashes=tuple(
            Crash(at_s=one.at_s * factor, back_s=one.back_s * factor, device=one.device)
            for one in faults.crashes
        ),
    )


def row(run: Finished) -> dict[str, Any]:
    """A line of the table."""
    books, report = run.books, run.report
    return {
        "run": run.title,
        "accuracy": report["accuracy"],
        "wall_s": report["wall_s"],
        "put": books.num_put,
        **{outcome: books.count(outcome) for outcome in ("applied", "expired", "refused")},
        "waiting": len(books.waiting - books.outcomes.keys()),
        "megabytes": report["bytes_sent"] / 1e6,
        **run.links(),
    }


def checks(run: Finished, undisturbed: Finished | None) -> Iterator[Check]:
    """What must hold of a run.

    Args:
        run: that has ended.
        undisturbed: the one of its strategy without faults, None: this is it.
    """
    books, peer = run.books, "database, outboxes and logs"
    num_kills = len(run.faults.crashes)
    zeros = {
        "updates lost without a word": books.num_lost,
        "updates that no device has made": books.num_unexplained(num_kills),
        "versions not made of the updates booked on them": books.num_wrong_versions,
        "updates in two versions": books.count("applied") - sum(books.num_updates.values()),
        "updates refused": books.count("refused"),
        "pairs with more exchanges ended than begun": books.num_overdrawn_pairs(),
        "processes killed at the end": len(books.at_end),
    }
    for name, value in zeros.items():
        yield Check(f"{run.title}: {name}", value, "==", 0, peer)
    accuracy = run.report["accuracy"]
    yield Check(f"{run.title}: accuracy", accuracy, ">=", MIN_ACCURACY[run.strategy], "held-out data")
    last_s = run.faults.last_s
    yield Check(f"{run.title}: seconds", run.report["wall_s"], ">=", last_s, "the end of its last fault")
    if undisturbed is not None:
        lost = undisturbed.report["accuracy"] - accuracy
        yield Check(f"{run.title}: accuracy lost", lost, "<=", MAX_LOSS, "the run without faults")


def main() -> int:
    """Run, print, return the exit status."""
    options = parser(__doc__ or "")
    options.add_argument("--broker", choices=["mosquitto", "embedded"], help="over this one only")
    options.add_argument("--strategy", choices=list(OPTIONS), help="this one only")
    options.add_argument("--keep", metavar="DIR", help="folder that keeps the runs' files")
    chosen = options.parse_args()
    found = ["mosquitto", "embedded"] if find_mosquitto() else ["embedded"]
    brokers = [chosen.broker] if chosen.broker else found[:1] if chosen.quick else found
    faults = sooner(FAULTS, 0.5) if chosen.quick else FAULTS
    os.environ["OMP_NUM_THREADS"] = "1"
    report = Report("unreliable_fleet")
    with tempfile.TemporaryDirectory(prefix="edgetide-unreliable-") as passing:
        for strategy in [chosen.strategy] if chosen.strategy else OPTIONS:
            undisturbed = None
            for broker, hit in [(brokers[0], Faults()), *((broker, faults) for broker in brokers)]:
                folder = Path(
                    chosen.keep or passing, f"{strategy}-{broker}-{'faults' if hit.crashes else 'calm'}"
                )
                folder.mkdir(parents=True)
                run = run_fleet(strategy, broker, hit, folder, quick=chosen.quick)
                report.rows.append(row(run))
                report.checks += checks(run, undisturbed)
                undisturbed = undisturbed or run
                print(f"{run.title}: done", file=sys.stderr)
    return publish(report, as_json=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
