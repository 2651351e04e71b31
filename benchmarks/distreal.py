"""Does DISTREAL pay? Methods x seeds on simulated fleets that are short of time, of batches, of memory.

    python -m benchmarks.prepare_data --data RAW --out DIR
    python -m benchmarks.distreal --data DIR --out RESULTS --tune
    python -m benchmarks.distreal --data DIR --out RESULTS [--family time batch memory]
                                  [--dataset fashion cifar digits] [--cells NAME ...] [--methods NAME ...]
                                  [--seeds 0-4] [--robustness] [--report] [--workers N] [--json]
    python -m benchmarks.distreal --quick

It can be stopped and started again, and run in parts: finished runs are kept in RESULTS and not repeated.
The checks are made of those that are there. `--tune` finds each method's settings in one cell, the
time-limited one at 20 % on the first data set, and writes them to RESULTS/methods.yaml; all cells take them
from there, else from examples/scenarios/methods.yaml. The method `planned` is what `edgetide dse plan`
recommends for the cell, with the settings that it recommends.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.distreal_cells import (
    DATA,
    FAMILIES,
    METHODS,
    TUNED_BUDGET,
    Cell,
    iid_cell,
    matrix_cells,
    quick_cell,
    redraw_cells,
    unconstrained_cell,
)
from benchmarks.distreal_checks import OURS, Measured, checks_of, ordering
from benchmarks.distreal_plans import PLANNED, is_planned, planned
from benchmarks.distreal_tuning import tune, write_methods
from benchmarks.report import Report, parser, publish
from coordinator.comparing.compare import Watch, compare
from coordinator.comparing.plan import parse_seeds, read_methods
from coordinator.comparing.runs import Now
from coordinator.comparing.summary import BEST_TARGET
from firmware_profiles.errors import UserError
from models.data.dataset import load_data

QUICK_METHODS = ("full", OURS)
METHODS_OF = {
    "matrix": (
        *("full", "drop", "small-20", "small-45", "small-65", "small-20-aided"),
        *("heterofl", "fjord", "fedrolex", "feddrop", "fiarse", "uniform-floor"),
        *("distreal-paper", "distreal-live", "distreal-fixed-50", "distreal-fixed-100", "distreal-plain"),
        *("distreal-45", OURS, PLANNED),
    ),
    "iid": (
        *("full", "small-45", "small-65", "heterofl", "fjord", "fedrolex", "uniform-floor", "distreal-paper"),
        *("distreal-fixed-100", OURS, PLANNED),
    ),
    "unconstrained": ("full",),
    "redraw": ("full", "small-65", "heterofl", "fjord", "uniform-floor", OURS),
}
"""What runs in a cell of a kind unless `--methods` says otherwise."""


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for and print what is there; returns the exit status."""
    options = _options(arguments)
    try:
        if options.quick:
            return _quick(options)
        folder, out = Path(options.data), Path(options.out)
        if options.tune:
            _tune(options, folder, out)
            return 0
        return publish(study(_cells(options, folder), options, out), as_json=options.json)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1


def study(cells: list[Cell], options: argparse.Namespace, out: Path) -> Report:
    """Run what is missing of the cells, and report on all that is there."""
    report = Report("distreal")
    measured = []
    for cell in cells:
        one = _measure(cell, options, out)
        if one is None:
            continue
        measured.append(one)
        report.rows += rows_of(one)
    report.checks = checks_of(measured)
    return report


def rows_of(one: Measured) -> list[dict[str, Any]]:
    """One row for each method of a cell, in percent, virtual seconds and seconds."""
    places = {method: place for place, method in enumerate(ordering(one), 1)}
    rows = []
    for name, method in one.summary.methods.items():
        last = method.accuracy[-1].smoothed
        to_best = next(time for time in method.times if time.target == BEST_TARGET)
        runs = one.runs[name].values()
        rows.append(
            {
                "cell": one.cell.name,
                "method": name,
                "place": places[name],
                "num_seeds": len(method.seeds),
                **{f"at_{at.share:.0%}": round(100 * at.smoothed.mean, 2) for at in method.accuracy},
                "sd": None if last.sd is None else round(100 * last.sd, 2),
                "to_95%_s": None if to_best.seconds is None else round(to_best.seconds.mean, 1),
                "reached": f"{to_best.num_reached}/{to_best.num_runs}",
                "budget_used": None
                if method.budget_used_fraction is None
                else round(method.budget_used_fraction.mean, 3),
                "gmac": round(method.macs.mean / 1e9, 1),
                "mib": round(method.bytes_sent.mean / 2**20, 1),
                "wall_s": round(sum(run.wall_s for run in runs) / len(runs), 1),
            }
        )
    return rows


def _measure(cell: Cell, options: argparse.Namespace, out: Path) -> Measured | None:
    known = read_methods(_methods_file(out))
    wanted = options.methods or METHODS_OF[cell.kind]
    if unknown := set(wanted) - {*known, PLANNED}:
        raise UserError(f"--methods: {', '.join(sorted(unknown))}: there are {', '.join([*known, PLANNED])}")
    methods = {name: keys for name, keys in known.items() if name in wanted}
    if PLANNED in wanted and (is_planned(cell, out / "plans") or not options.report):
        methods[PLANNED] = planned(cell, out / "plans", options.workers)
    print(f"{cell.name}: {len(methods)} methods, seeds {options.seeds}", file=sys.stderr)
    results = compare(
        [cell.path],
        methods=methods,
        seeds=parse_seeds(options.seeds),
        overrides=cell.overrides,
        reference=next((name for name in (PLANNED, OURS) if name in methods), None),
        out=out,
        num_workers=options.workers,
        watch=Watch(now=_tell),
        only_stored=options.report,
    )
    for text in results.complaints:
        print(text, file=sys.stderr)
    summary = results.scenarios.get(cell.name)
    return None if summary is None else Measured(cell, results.outcomes[cell.name], summary)


def _tell(now: Now) -> None:
    """Say on stderr what a run has come to."""
    if now.finished is not None:
        left = len(now.waiting) + len(now.running)
        end = now.reason or f"{now.wall_s:.0f} s"
        print(f"{now.finished}: {end}; {left} to go", file=sys.stderr)


def _methods_file(out: Path) -> Path:
    tuned = out / "methods.yaml"
    return tuned if tuned.exists() else METHODS


def _cells(options: argparse.Namespace, folder: Path) -> list[Cell]:
    cells = matrix_cells(options.family, options.dataset, folder)
    if "time" in options.family:
        cells += [unconstrained_cell(dataset, folder) for dataset in options.dataset]
        cells += [iid_cell(dataset, folder) for dataset in options.dataset]
        if options.robustness:
            cells += [cell for dataset in options.dataset for cell in redraw_cells(dataset, folder)]
    if unknown := set(options.cells or ()) - {cell.name for cell in cells}:
        raise UserError(
            f"--cells: {', '.join(sorted(unknown))}: there are {', '.join(c.name for c in cells)}"
        )
    return [cell for cell in cells if not options.cells or cell.name in options.cells]


def _tune(options: argparse.Namespace, folder: Path, out: Path) -> None:
    (cell,) = (c for c in matrix_cells(["time"], options.dataset[:1], folder) if c.budget == TUNED_BUDGET)
    path = out / "methods.yaml"
    known = read_methods(METHODS)
    wanted = {name: keys for name, keys in known.items() if not options.methods or name in options.methods}
    tuned = tune(
        cell,
        wanted,
        out=out / "tuning",
        num_samples=len(load_data(str(folder / DATA[cell.dataset].file)).train),
        num_workers=options.workers,
        watch=Watch(now=_tell),
    )
    before = read_methods(path) if path.exists() else known
    write_methods(path, {**before, **tuned}, cell)
    print(f"{path}: {len(tuned)} methods tuned", file=sys.stderr)


def _quick(options: argparse.Namespace) -> int:
    options.methods, options.seeds = QUICK_METHODS, "0-1"
    with tempfile.TemporaryDirectory() as folder:
        report = study([quick_cell()], options, Path(options.out or folder))
    return publish(report, as_json=options.json)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    made = parser("Does DISTREAL pay? Methods x seeds on simulated fleets.")
    made.add_argument("--out", metavar="DIR", help="folder of the results, which are kept")
    made.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    made.add_argument("--dataset", nargs="+", choices=list(DATA), default=["fashion", "cifar"])
    made.add_argument(
        "--cells", nargs="+", metavar="NAME", help="such as 'time 20%% fashion'; all by default"
    )
    made.add_argument("--methods", nargs="+", metavar="NAME", help="of the file of methods")
    made.add_argument("--seeds", default="0-4", help="such as 0-4 or 0,2")
    made.add_argument("--tune", action="store_true", help="tune the methods on a validation split, no more")
    made.add_argument("--robustness", action="store_true", help="also availability redrawn at other times")
    made.add_argument("--report", action="store_true", help="run nothing, report on what is there")
    made.add_argument("--workers", type=int, metavar="N", help="processes at a time; the cores by default")
    options = made.parse_args(arguments)
    if not options.quick and not (options.data and options.out):
        made.error("--data and --out are needed, or --quick")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
