"""Equal tuning for every method of the study: as many settings for each, on a validation split.

Three learning rates times two server momenta over fewer rounds (the schedule is compressed with them), then
two more settings at the best of these: a method's own, or two more learning rates where it has none. The seed
is none of the study's, and the test set is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.distreal_cells import Cell
from coordinator.comparing.compare import Watch, compare
from coordinator.comparing.summary import ScenarioSummary
from firmware_profiles.errors import UserError

Keys = dict[str, Any]

SEED = 1000
ROUNDS = 25
VALIDATION_FRACTION = 0.1
LEARNING_RATES = (0.1, 0.2, 0.4)
SERVER_MOMENTA = (0.0, 0.5)
MORE_LEARNING_RATES = (0.05, 0.8)

OWN_SETTINGS: dict[str, tuple[Keys, Keys]] = {
    "heterofl": (
        {"subnets.scaling": False},
        {"subnets.scaling": False, "subnets.mask_absent_classes": False},
    ),
    "fjord-kd": ({"subnets.self_distillation": 0.25}, {"subnets.self_distillation": 0.75}),
    "uniform-floor": ({"subnets.floor_fraction": 0.15}, {"subnets.floor_fraction": 0.5}),
    "distreal": ({"subnets.floor_fraction": 0.15}, {"subnets.floor_fraction": 0.5}),
}


def tune(
    cell: Cell,
    methods: Mapping[str, Keys],
    *,
    out: Path,
    num_samples: int,
    num_workers: int | None = None,
    watch: Watch | None = None,
) -> dict[str, Keys]:
    """Find the settings of each method for a cell.

    Args:
        cell: where.
        methods: to be tuned.
        out: folder of the runs, so that it can be resumed.
        num_samples: training samples there are.
        num_workers: processes at a time.
        watch: told how it goes on.

    Returns:
        The methods with the keys that did best.

    Raises:
        UserError: a run failed.
    """
    overrides = [
        *cell.overrides,
        f"rounds={ROUNDS}",
        "measure_on=validation",
        f"num_validation={max(1, round(VALIDATION_FRACTION * num_samples))}",
        f"name={cell.name} tuning",
    ]

    def scores(candidates: Mapping[str, Sequence[Keys]]) -> dict[str, list[float]]:
        """Final accuracy of each candidate of each method."""
        named = {
            f"{method} {index}": keys
            for method, choices in candidates.items()
            for index, keys in enumerate(choices)
        }
        found = compare(
            [cell.path],
            methods=named,
            seeds=[SEED],
            overrides=overrides,
            out=out,
            num_workers=num_workers,
            watch=watch,
        )
        if found.failures:
            first_failure = found.failures[0]
            raise UserError(f"tuning: {first_failure.run}: {first_failure.reason}")
        (summary,) = found.scenarios.values()
        return {
            method: [_final(summary, f"{method} {index}") for index in range(len(choices))]
            for method, choices in candidates.items()
        }

    first = {method: first_settings(keys) for method, keys in methods.items()}
    found = scores(first)
    best = {method: _best(first[method], found[method]) for method in methods}
    second = {method: second_settings(method, keys) for method, (keys, _) in best.items()}
    found = scores(second)
    return {
        method: max([best[method], _best(second[method], found[method])], key=lambda pair: pair[1])[0]
        for method in methods
    }


def first_settings(keys: Keys) -> list[Keys]:
    """The candidates of the first round."""
    return [
        {**keys, "learning_rate": rate, "averages.server_momentum": momentum}
        for rate in LEARNING_RATES
        for momentum in SERVER_MOMENTA
    ]


def second_settings(method: str, keys: Keys) -> list[Keys]:
    """Two more: settings of the method's own, or learning rates."""
    own = OWN_SETTINGS.get(method)
    return [
        {**keys, **more} for more in own or tuple({"learning_rate": rate} for rate in MORE_LEARNING_RATES)
    ]


def write_methods(path: Path, methods: Mapping[str, Keys], cell: Cell) -> None:
    """Write tuned methods as a file that comparisons take."""
    lines = [f"# Tuned on {cell.name}: a validation split, seed {SEED}, {ROUNDS} rounds."]
    lines += [
        f"{name}: {yaml.safe_dump(dict(keys), default_flow_style=True, sort_keys=False, width=1000).strip()}"
        for name, keys in methods.items()
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def _final(summary: ScenarioSummary, method: str) -> float:
    return summary.methods[method].accuracy[-1].smoothed.mean


def _best(choices: Sequence[Keys], scores: Sequence[float]) -> tuple[Keys, float]:
    index = max(range(len(choices)), key=scores.__getitem__)
    return choices[index], scores[index]
