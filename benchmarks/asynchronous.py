"""Learning that waits for nobody: without a server, without rounds, in fewer bytes, and as theory says.

    python -m benchmarks.asynchronous --out RESULTS [--part theory peers peers-50 loss async compression]
                                      [--methods NAME ...] [--data DIR] [--seeds 0-4] [--workers N] [--json]
    python -m benchmarks.asynchronous --quick

It can be stopped and started again, and run in parts: finished runs are kept in RESULTS and not repeated.
Settings of every method are chosen from the same few on a seed that is not reported. DIR may hold
`fashion-mnist` and `vm_traces.npz` (`benchmarks.prepare_data`); without them the shipped images and generated
traces are used.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import asynchronous_compression, asynchronous_peers, asynchronous_rounds
from benchmarks.asynchronous_runs import Bench
from benchmarks.asynchronous_theory import report_theory
from benchmarks.report import Report, parser, publish
from coordinator.comparing.plan import parse_seeds
from firmware_profiles.errors import UserError

NUM_QUICK = 5
"""Devices: with two classes each they hold all ten."""

QUICK_UNTIL_S = 10.0
QUICK_KEYS: asynchronous_peers.Keys = {"optimizer.learning_rate": 0.2, "peers.window": 5}


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for and print what is there; returns the exit status."""
    options = _options(arguments)
    try:
        if options.quick:
            with tempfile.TemporaryDirectory() as folder:
                return publish(_quick(_bench(options, Path(folder))), as_json=options.json)
        bench = _bench(options, _folder(options))
        return publish(together([PARTS[part](bench) for part in options.part]), as_json=options.json)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1


def together(reports: list[Report]) -> Report:
    """One report of several."""
    whole = Report("asynchronous")
    for one in reports:
        whole.rows += one.rows
        whole.checks += one.checks
    return whole


def _theory(_bench: Bench) -> Report:
    return report_theory()


def _peers(bench: Bench) -> Report:
    runs = asynchronous_peers.measure(bench, asynchronous_peers.tune(bench), 10)
    return asynchronous_peers.report_peers(10, runs)


def _many_peers(bench: Bench) -> Report:
    tuned = asynchronous_peers.tune(bench)
    runs = asynchronous_peers.measure(bench, tuned, 50, asynchronous_peers.HALF_S)
    return asynchronous_peers.report_peers(50, runs)


def _loss(bench: Bench) -> Report:
    tuned = asynchronous_peers.tune(bench)["dsgd"]
    return asynchronous_peers.report_losses(asynchronous_peers.measure_losses(bench, tuned))


def _async(bench: Bench) -> Report:
    runs = asynchronous_rounds.measure(bench, asynchronous_rounds.tune(bench))
    return asynchronous_rounds.report_rounds(runs)


def _compression(bench: Bench) -> Report:
    runs = asynchronous_compression.measure(bench, asynchronous_compression.tune(bench))
    return asynchronous_compression.report_compression(runs)


PARTS: dict[str, Callable[[Bench], Report]] = {
    "theory": _theory,
    "peers": _peers,
    "peers-50": _many_peers,
    "loss": _loss,
    "async": _async,
    "compression": _compression,
}


def _quick(bench: Bench) -> Report:
    """A miniature of one part: few virtual seconds, no tuning."""
    tuned = dict.fromkeys(asynchronous_peers.METHODS, QUICK_KEYS)
    runs = asynchronous_peers.measure(bench, tuned, NUM_QUICK, QUICK_UNTIL_S)
    return asynchronous_peers.report_peers(NUM_QUICK, runs)


def _folder(options: argparse.Namespace) -> Path:
    if options.out is None:
        raise UserError("say by --out where results are kept")
    return Path(options.out)


def _bench(options: argparse.Namespace, out: Path) -> Bench:
    folder = None if options.data is None else Path(options.data).resolve()
    images = None if folder is None else folder / "fashion-mnist"
    traces = None if folder is None else folder / "vm_traces.npz"
    return Bench(
        out=out,
        num_workers=options.workers,
        data=(f"data={json.dumps(str(images))}",) if images is not None and images.exists() else (),
        seeds=(0,) if options.quick else parse_seeds(options.seeds),
        methods=tuple(options.methods or ()),
        vm_traces=traces if traces is not None and traces.exists() else None,
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    made = parser("Figures of asynchronous learning.")
    made.add_argument("--out", metavar="DIR", help="folder of results")
    made.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS), help="what to run")
    known = [*asynchronous_peers.METHODS, asynchronous_rounds.ROUNDS, *asynchronous_rounds.ASYNC]
    made.add_argument("--methods", nargs="+", choices=known, help="of the parts peers, peers-50 and async")
    made.add_argument("--seeds", default="0-4", help="seeds of all methods, such as 0-4")
    made.add_argument("--workers", type=int, default=None, help="processes at a time; the cores by default")
    return made.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
