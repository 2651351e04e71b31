"""The cells of the DISTREAL study: a scenario of a family, on a data set, at a budget."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from firmware_profiles.errors import UserError

SCENARIOS = Path(__file__).resolve().parent.parent / "examples" / "scenarios"
METHODS = SCENARIOS / "methods.yaml"

TIME_BUDGETS = (0.5, 0.2, 0.07)
"""Mean share of a pass over the local data with the full network."""

TUNED_BUDGET = 0.2
"""Of the time-limited family, at which methods are tuned for all cells."""

ROUNDS = 60
"""Of every run: what lets the study end in hours."""

UNCONSTRAINED_BUDGET = 50.0
"""Every device passes over its data as often as it is told to."""

REDRAWS = ("step", "round", "never")


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set of the study and the world that fits it.

    Attributes:
        file: in the folder of data. model: of the zoo. partition: over the devices.
        batch_size: of local training.
        batch_limited_fraction: budget at which boards a quarter as fast as the fastest have two thirds of the
            time of one mini-batch with the full network.
        every_s: virtual seconds between two samples of availability: about a twelfth of a round at
            TUNED_BUDGET. grace_s: of a round.
    """

    file: str
    model: str
    partition: str
    batch_size: int
    batch_limited_fraction: float
    every_s: float
    grace_s: float


DATA = {
    "fashion": Data(
        file="fashion-mnist",
        model="cnn-tiny-28",
        partition="dirichlet:0.3",
        batch_size=32,
        batch_limited_fraction=0.08,
        every_s=5.0,
        grace_s=5.0,
    ),
    "cifar": Data(
        file="cifar10.npz",
        model="cnn-tiny-32",
        partition="dirichlet:0.3",
        batch_size=32,
        batch_limited_fraction=0.1,
        every_s=10.0,
        grace_s=10.0,
    ),
    "digits": Data(
        file="digits.npz",
        model="cnn-tiny-1d",
        partition="owner",
        batch_size=8,
        batch_limited_fraction=0.3,
        every_s=0.1,
        grace_s=0.5,
    ),
}

FAMILIES = ("time", "batch", "memory")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One scenario of the study.

    Attributes:
        name: of the scenario as it is run. family, dataset: what it belongs to.
        budget: mean share of a full pass a round; None: the scenario's own.
        kind: `matrix`; `iid`; `unconstrained`; or `redraw`, of robustness.
        overrides: `key=value` over the scenario's file.
    """

    name: str
    family: str
    dataset: str
    budget: float | None
    kind: str
    overrides: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The scenario's file."""
        return SCENARIOS / f"distreal_{self.family}.yaml"


def matrix_cells(families: list[str], datasets: list[str], folder: Path) -> list[Cell]:
    """The core matrix: every family on every data set, the time-limited one at three budgets.

    Raises:
        UserError: a data set is not in the folder.
    """
    cells = []
    for dataset in datasets:
        world = world_of(dataset, folder)
        for family in families:
            if family == "time":
                cells += [
                    _cell(f"time {budget:.0%} {dataset}", family, dataset, budget, world)
                    for budget in TIME_BUDGETS
                ]
            elif family == "batch":
                cells.append(
                    _cell(f"batch {dataset}", family, dataset, DATA[dataset].batch_limited_fraction, world)
                )
            else:
                # Classes that only some hold are not shared out by owner.
                cells.append(
                    _cell(f"memory {dataset}", family, dataset, 0.5, (*world, "partition=dirichlet:0.3"))
                )
    return cells


def unconstrained_cell(dataset: str, folder: Path) -> Cell:
    """The time-limited scenario without its limit."""
    name = f"unconstrained {dataset}"
    return _cell(name, "time", dataset, UNCONSTRAINED_BUDGET, world_of(dataset, folder), kind="unconstrained")


def iid_cell(dataset: str, folder: Path) -> Cell:
    """The time-limited scenario with samples shared out evenly, every class alike."""
    name = f"iid {dataset}"
    world = (*world_of(dataset, folder), "partition=iid")
    return _cell(name, "time", dataset, TUNED_BUDGET, world, kind="iid")


def redraw_cells(dataset: str, folder: Path) -> list[Cell]:
    """The time-limited scenario with availability drawn each mini-batch, each round, and never again."""
    world = world_of(dataset, folder)
    return [
        _cell(
            f"redraw {redraw} {dataset}",
            "time",
            dataset,
            TUNED_BUDGET,
            (*world, _load({"kind": "availability", "high": 0.9, "redraw": redraw})),
            kind="redraw",
        )
        for redraw in REDRAWS
    ]


def quick_cell() -> Cell:
    """A miniature on data that ships: a dozen devices, few rounds."""
    small = ("devices.*.count=3", "devices_per_round=4", "rounds=4", "partition=iid", "measure_samples=200")
    return _cell("quick", "time", "shipped", TUNED_BUDGET, ("devices.*.data_fraction=0.1", *small))


def world_of(dataset: str, folder: Path) -> tuple[str, ...]:
    """What a data set changes of a scenario.

    Raises:
        UserError: it is not in the folder.
    """
    data = DATA[dataset]
    path = (folder / data.file).resolve()
    if not path.exists():
        raise UserError(
            f"{path}: there is no such data. Make it: python -m benchmarks.prepare_data --out {folder}"
        )
    recorded = (folder / "vm_traces.npz").resolve()
    load = (
        {"kind": "vm", "file": str(recorded), "rank": True, "high": 0.9, "every_s": data.every_s}
        if recorded.exists()
        else {"kind": "availability", "high": 0.9, "every_s": data.every_s}
    )
    return (
        f"data={json.dumps(str(path))}",
        f"model={data.model}",
        f"partition={data.partition}",
        f"batch_size={data.batch_size}",
        f"grace_s={data.grace_s}",
        _load(load),
    )


def _load(trace: dict[str, object]) -> str:
    return f"devices.*.resources.cpu_others_fraction={json.dumps(trace)}"


def _cell(
    name: str,
    family: str,
    dataset: str,
    budget: float,
    overrides: tuple[str, ...],
    *,
    kind: str = "matrix",
) -> Cell:
    return Cell(
        name=name,
        family=family,
        dataset=dataset,
        budget=budget,
        kind=kind,
        overrides=(f"rounds={ROUNDS}", *overrides, f"budget_fraction={budget}", f"name={name}"),
    )
