"""What an agent that learns from a stream takes of a board: samples per second of CPU time, and memory.

    python -m benchmarks.gossip_agent [--quick] [--json]

It plays a stream of 32 features to two real agents (`edgetide up --strategy gossip`), faster than they can
learn it. An agent's own reports say how many samples it has predicted and learned, the system how much CPU
time its process took for them, all of it counted: the learner, the gate, messages, MQTT, sensors, logs. The
start, and the first window, in which memory and pool fill up, come before that. Beside it, in this process,
the learner alone, with its memory and pool filled: what there is to be had.
"""

from __future__ import annotations

import contextlib
import csv
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.live_fleet import LiveFleet, live_fleet
from benchmarks.report import Check, Report, median, parser, publish
from models.prototypes.learner import PrototypeLearner
from models.prototypes.prototype_set import of_samples

NUM_FEATURES, NUM_DEVICES = 32, 2
MIN_SAMPLES_PER_CPU_S = 2000.0
MAX_RSS_MB = 60.0
"""The limits that were set for an agent process."""

SAMPLE_S = 0.0002  # between two samples of a device: less than it takes to learn one
LIMIT_S = 600.0  # for an agent to begin, and for the stream to end
POLL_S = 0.05
CHUNK = 250  # samples that the learner alone is timed over


@dataclass
class Watched:
    """An agent's process, looked at whenever it had reported more samples.

    Attributes:
        num_samples: learned so far. cpu_s: spent so far, at the same moments. rss_bytes: the highest.
    """

    num_samples: list[int] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    rss_bytes: int = 0

    def look(self, num_samples: int, process: psutil.Process) -> None:
        """Note how far it is, if that is further than before."""
        self.rss_bytes = max(self.rss_bytes, process.memory_info().rss)
        if num_samples > (self.num_samples[-1] if self.num_samples else 0):
            times = process.cpu_times()
            self.num_samples.append(num_samples)
            self.cpu_s.append(times.user + times.system)

    @property
    def rate(self) -> float:
        """Samples per second of CPU time, from its first report to its last."""
        num_samples = self.num_samples[-1] - self.num_samples[0] if self.num_samples else 0
        spent_s = self.cpu_s[-1] - self.cpu_s[0] if num_samples else 0.0
        if spent_s < 0.1:
            raise RuntimeError(
                "an agent's reports are too close to each other to tell its speed: give it more rows"
            )
        return num_samples / spent_s


def make_stream(num_rows: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Two classes of Gaussian samples that overlap: features [n, 32], labels [n]."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, num_rows)
    centres = random.normal(0.0, 0.22, (2, NUM_FEATURES))
    features = random.normal(size=(num_rows, NUM_FEATURES)) + centres[labels]
    return features.astype(np.float32), labels


def write(path: Path, features: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """The stream as a CSV file."""
    with path.open("w", newline="", encoding="ascii") as file:
        rows = csv.writer(file)
        rows.writerow([*(f"f{index}" for index in range(NUM_FEATURES)), "label"])
        for values, label in zip(features.round(4).tolist(), labels.tolist(), strict=True):
            rows.writerow([*values, label])


def watch_agents(path: Path, num_passes: int) -> dict[str, Watched]:
    """Play the file to agents so many times, and look at each of them until all are through."""
    options = ["--strategy", "gossip", "--data", str(path), "--devices", str(NUM_DEVICES)]
    options += ["--sample-seconds", str(SAMPLE_S), "--rounds", str(num_passes)]
    with live_fleet(options) as fleet:
        fleet.wait_for("agents", lambda view: len(view["devices"]) == NUM_DEVICES, LIMIT_S)
        agents = agents_of(fleet)
        watched = {device: Watched() for device in agents}
        ends_s = time.monotonic() + LIMIT_S
        while time.monotonic() < ends_s:
            devices = (fleet.get("streams") or {}).get("devices", [])
            for one in devices:
                watched[one["device"]].look(one["labelled"], agents[one["device"]])
            if len(devices) == NUM_DEVICES and all(one["is_over"] for one in devices):
                return watched
            time.sleep(POLL_S)
    raise RuntimeError(f"the stream was not over within {LIMIT_S:.0f} s")


def agents_of(fleet: LiveFleet) -> dict[str, psutil.Process]:
    """By device, the processes of a fleet's agents."""
    found = {}
    for process in fleet.processes():
        with contextlib.suppress(psutil.Error):  # one that has ended meanwhile
            if of := re.search(r"agent run .*--id (\S+)", " ".join(process.cmdline())):
                found[of[1]] = process
    if len(found) != NUM_DEVICES:
        raise RuntimeError(f"found agents of {sorted(found)}, {NUM_DEVICES} should run")
    return found


def learner_rates(
    features: NDArray[np.float32], labels: NDArray[np.int64], num_repeats: int
) -> Iterator[float]:
    """Samples per second of CPU time of the learner alone, with memory and pool filled."""
    learner = PrototypeLearner(NUM_FEATURES, 2)
    learner.receive("peer", of_samples(features[-100:], labels[-100:]))
    for start in range(0, (num_repeats + 1) * CHUNK, CHUNK):
        began_s = time.process_time()
        for x, y in zip(features[start : start + CHUNK], labels[start : start + CHUNK], strict=True):
            learner.predict_proba(x)
            learner.learn(x, int(y))
        if start:  # the first fills the memory
            yield CHUNK / (time.process_time() - began_s)


def main() -> int:
    """Measure and print."""
    options = parser("What an agent that learns from a stream takes of a board.").parse_args()
    num_rows, num_passes, num_repeats = (8_000, 1, 10) if options.quick else (24_000, 3, 40)
    features, labels = make_stream(num_rows)
    report = Report("gossip_agent")
    alone = list(learner_rates(features, labels, num_repeats // 2))
    with tempfile.TemporaryDirectory(prefix="edgetide-bench-") as folder:
        path = Path(folder, "stream.csv")
        write(path, features, labels)
        watched = watch_agents(path, num_passes)
    alone += learner_rates(features, labels, num_repeats // 2)
    report.rows.append({"process": "the learner alone", "samples_per_cpu_s": median(alone)})
    for device, one in sorted(watched.items()):
        report.rows.append(
            {
                "process": f"agent of {device}",
                "samples_per_cpu_s": one.rate,
                "samples": one.num_samples[-1],
                "cpu_s": one.cpu_s[-1],
                "peak_rss_mb": one.rss_bytes / 1e6,
            }
        )
    name = "samples predicted and learned per second of an agent's CPU time"
    peer = f"the learner alone: {median(alone):.0f}"
    rate = median([one.rate for one in watched.values()])
    report.checks.append(Check(name, rate, ">=", MIN_SAMPLES_PER_CPU_S, peer))
    highest = max(one.rss_bytes for one in watched.values()) / 1e6
    where = f"{num_rows} rows of {NUM_FEATURES} features in the file"
    report.checks.append(Check("resident memory of an agent, MB", highest, "<=", MAX_RSS_MB, where))
    return publish(report, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
