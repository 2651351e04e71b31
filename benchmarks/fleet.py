"""How fast a fleet's networks shrink when others need the machine, and grow when they are done.

    python -m benchmarks.fleet [--quick] [--json]

It starts a real `edgetide up` with two devices a core, waits until all of them train, and then looks
at the fleet once a second in three phases: undisturbed, with half of the cores (of two cores: one)
loaded by matrix products of processes that are not the fleet's, and undisturbed again. It needs a
machine on which nothing else runs.

A device's value is the mean share of the full network's MACs over the mini-batches of its last
telemetry; while it trains none (between rounds, or paused) the last value holds, so that a pause does
not pass for a smaller network. The fleet's value is the mean over the devices.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.live_fleet import LiveFleet, busy_cores, live_fleet
from benchmarks.report import Check, Report, parser, publish

SETTLED_AFTER_S = 10
"""Seconds within which the networks have to follow; what comes after them in a phase must hold."""

SMOOTHED_OVER_S = 3
MAX_FALL_FRACTION = 0.75
MIN_RETURN_FRACTION = 0.95
START_LIMIT_S = 120.0
QUIET_FRACTION = 0.05
"""Of all cores; more, used by others before the load, spoils the measurement."""


@dataclass
class Watch:
    """The series, one row a second.

    Attributes:
        rows: of the report. last: each device's value.
    """

    began_s: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, float] = field(default_factory=dict)

    def look(self, fleet: LiveFleet, phase: str) -> None:
        """Add one row."""
        view = fleet.get("fleet")
        if view is None:
            raise RuntimeError("the coordinator does not answer any more")
        devices = view["devices"]
        for device in devices:
            if device["mean_macs_fraction"] is not None:
                self.last[device["device"]] = device["mean_macs_fraction"]
        others = [d["cpu_others_fraction"] for d in devices if d["cpu_others_fraction"] is not None]
        row = {
            "at_s": round(time.monotonic() - self.began_s, 1),
            "phase": phase,
            "round": (view["run"] or {}).get("round"),
            "mean_macs_fraction": round(mean(list(self.last.values())), 4),
            "cpu_others_fraction": round(mean(others), 3) if others else None,
            "num_paused": sum(d["state"] == "paused" for d in devices),
            **{d["device"]: self.last.get(d["device"]) for d in devices},
        }
        self.rows.append(row)
        print(f"{phase} {row['at_s']:.0f} s: {row['mean_macs_fraction']:.2f}", file=sys.stderr)

    def watch(self, fleet: LiveFleet, phase: str, seconds: int) -> None:
        """Look once a second."""
        for _ in range(seconds):
            began_s = time.monotonic()
            self.look(fleet, phase)
            time.sleep(max(0.0, 1.0 - (time.monotonic() - began_s)))

    def values(self, phase: str) -> list[float]:
        """The fleet's values in a phase."""
        return [row["mean_macs_fraction"] for row in self.rows if row["phase"] == phase]


def mean(values: Sequence[float]) -> float:
    """The mean; of nothing it is an error."""
    return sum(values) / len(values)


def seconds_until(values: Sequence[float], low: float | None = None, high: float | None = None) -> float:
    """Seconds until the mean of the last few values is at most `low`, or at least `high`.

    Returns:
        The number of values in all if it never happened: it took longer than that.
    """
    for count in range(SMOOTHED_OVER_S, len(values) + 1):
        smooth = mean(values[count - SMOOTHED_OVER_S : count])
        if (low is not None and smooth <= low) or (high is not None and smooth >= high):
            return float(count)
    return float(len(values))


def checks(before: Sequence[float], loaded: Sequence[float], after: Sequence[float]) -> list[Check]:
    """What must hold of the three phases, one value a second each."""
    level = mean(before)
    fallen, returned = mean(loaded[SETTLED_AFTER_S:]), mean(after[SETTLED_AFTER_S:])
    falls_s = seconds_until(loaded, low=MAX_FALL_FRACTION * level)
    returns_s = seconds_until(after, high=MIN_RETURN_FRACTION * level)
    peer = "the same fleet before the load"
    return [
        Check("seconds until mean MACs are 25 % fewer", falls_s, "<=", SETTLED_AFTER_S, peer),
        Check("fall of mean MACs, from 10 s of load on", 1 - fallen / level, ">=", 0.25, peer),
        Check("seconds until mean MACs are back at 95 %", returns_s, "<=", SETTLED_AFTER_S, peer),
        Check("mean MACs from 10 s after the load on", returned / level, ">=", MIN_RETURN_FRACTION, peer),
    ]


def measure(report: Report, before_s: int, loaded_s: int) -> None:
    """Watch a fleet through the three phases."""
    num_cores = os.cpu_count() or 1
    num_devices = max(2, 2 * num_cores)
    num_loaded = max(1, num_cores // 2)
    with live_fleet(["--devices", str(num_devices), "--rounds", "500", "--learning-rate", "0.01"]) as fleet:
        fleet.wait_for(
            f"{num_devices} devices that train",
            lambda view: (
                sum(device["mean_macs_fraction"] is not None for device in view["devices"]) == num_devices
            ),
            START_LIMIT_S,
        )
        fleet.wait_for("the first round's end", lambda view: view["run"]["round"] > 1, START_LIMIT_S)
        watch = Watch(time.monotonic())
        watch.watch(fleet, "before", before_s)
        with busy_cores(num_loaded, 10.0 * loaded_s):
            watch.watch(fleet, "loaded", loaded_s)
        watch.watch(fleet, "after", loaded_s)
    others = [row["cpu_others_fraction"] or 0.0 for row in watch.rows if row["phase"] == "before"]
    if mean(others) > QUIET_FRACTION:
        print(
            f"the machine was not quiet: others used {mean(others):.0%} of it before the load",
            file=sys.stderr,
        )
    report.rows = watch.rows
    report.checks = checks(watch.values("before"), watch.values("loaded"), watch.values("after"))


def main() -> int:
    """Measure and print."""
    options = parser("How fast a fleet's networks follow the load of the machine.").parse_args()
    report = Report("fleet")
    measure(report, *((8, 14) if options.quick else (20, 20)))
    return publish(report, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
