"""Measuring the front a second time, so that luck is not taken for progress.

The search picks the luckiest measurements. What the table says comes from other warm starts, mini-batches
and draws; it is kept in the study, so that an interrupted run goes on here too. Most candidates are there by
luck: they race (see `dse.hopeless`), and those clearly behind after a warm start see no further one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import optuna

from dse.front import Measurement, does_good, pareto_layers
from dse.hopeless import Record, is_hopeless, part_noise
from dse.objectives import gain
from dse.search import records_of, resources_of
from dse.site import Site
from dse.study import finished, measurements
from models.subnet import DropoutVector, full_vector

NUM_LAYERS = 2
"""Fronts that are measured a second time: what luck put on the first one may stand on the second."""

NUM_FRESH = 3
"""Warm starts of the second measurement."""


class Unit(NamedTuple):
    """One vector from one fresh warm start, at all stages."""

    repeat: int
    vector: DropoutVector


def candidates(site: Site, study: optuna.Study) -> list[DropoutVector]:
    """The vectors that may be in the table, the full one last."""
    full = full_vector(site.plan)
    layers = pareto_layers(measurements(study, site.plan), NUM_LAYERS, site.run.settings.objectives)
    return [*(one.vector for one in layers if one.gain > 0 and one.vector != full), full]


def contenders(
    site: Site, study: optuna.Study, vectors: Sequence[DropoutVector], repeat: int, noise: float | None
) -> list[DropoutVector]:
    """Which of the vectors the warm starts before `repeat` left in the race; the full one always.

    A vector is clearly behind one that takes no more and that, so far, may be in the table itself.

    Args:
        site: what is measured on.
        study: of the run, with the units of all the vectors at the warm starts before.
        vectors: those still in the race, the full one last.
        repeat: of the next warm start: `fresh_repeats`.
        noise: of a part of a measurement, see `dse.hopeless`; None: it is not known, so all are left.
    """
    settings = site.run.settings
    repeats = range(settings.num_repeats, repeat)
    if noise is None or not repeats:
        return list(vectors)
    *_, full = means = measured_anew(site, study, vectors, repeats)
    kept = study.user_attrs
    records = {
        vector: Record(
            resources_of(site.pricing(vector), settings.objectives),
            tuple(part for one in repeats for part in kept[_key(Unit(one, vector))]["gains"]),
        )
        for vector in vectors
    }
    rivals = [records[one.vector] for one in means if does_good(one, full)] or [records[full.vector]]
    return [
        vector
        for vector in vectors
        if vector == full.vector or not is_hopeless(*records[vector], rivals, len(settings.stages), noise)
    ]


def noise_of_parts(site: Site, study: optuna.Study) -> float | None:
    """Of a measurement's parts, by the search; None: it is not known, or nothing shall be given up."""
    stages = tuple(map(str, site.run.settings.stages))
    return part_noise(records_of(finished(study), stages), len(stages)) if site.run.stops_hopeless else None


def fresh_repeats(site: Site) -> range:
    """The warm starts that no trial of the search has seen."""
    first = site.run.settings.num_repeats
    return range(first, first + NUM_FRESH)


def open_units(site: Site, study: optuna.Study, units: Sequence[Unit]) -> list[Unit]:
    """Which of them are still to be measured, the dearest vectors first."""
    kept = study.user_attrs
    left = [unit for unit in units if _key(unit) not in kept]
    return sorted(left, key=lambda unit: -site.pricing(unit.vector).macs)


def measure_units(
    site: Site, study: optuna.Study, units: Sequence[Unit], on_unit: Callable[[int], None]
) -> None:
    """Measure units and keep what was found in the study.

    Args:
        site: what is measured on.
        study: of the run.
        units: by repeat.
        on_unit: told how many of them are done.
    """
    num_done = 0
    for repeat in dict.fromkeys(unit.repeat for unit in units):
        starts = site.warm_starts([repeat])
        for unit in units:
            if unit.repeat == repeat:
                gains = [gain(site.bench, start, unit.vector) for start in starts]
                study.set_user_attr(_key(unit), {"vector": list(unit.vector), "gains": gains})
                num_done += 1
                on_unit(num_done)


def measured_anew(
    site: Site, study: optuna.Study, vectors: Sequence[DropoutVector], repeats: Sequence[int]
) -> list[Measurement]:
    """The means over some fresh warm starts, for vectors of which none of their units is open."""
    kept = study.user_attrs
    found = []
    for vector in vectors:
        gains = [kept[_key(Unit(repeat, vector))]["gains"] for repeat in repeats]
        costs = site.pricing(vector)
        means = tuple(sum(stage) / len(repeats) for stage in zip(*gains, strict=True))
        found.append(Measurement(vector, costs.macs, costs.memory_bytes, costs.cost, means))
    return found


def _key(unit: Unit) -> str:
    vector = hashlib.sha256(repr(unit.vector).encode()).hexdigest()[:16]
    return f"anew {unit.repeat} {vector}"
