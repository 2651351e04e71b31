"""One run of the search, from a model and data to a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dse.front import Measurement, pareto_layers, table_entries
from dse.objectives import Bench, SearchSettings, WarmStart, make_bench, measure, warm_up
from dse.search import measurements, open_study, quiet, search
from firmware_profiles.errors import UserError
from models.cost import cost
from models.data.dataset import DataSplit, match
from models.engines.choose import make_engine
from models.graph import ModelGraph
from models.graph import digest as graph_digest
from models.losses import LossSettings
from models.subnet import Array, full_vector
from models.table import ParetoTable, dump_table
from models.widths import plan_widths

SOURCE_LIMIT = 1000
NUM_LAYERS = 2
"""Fronts that are measured a second time: what luck put on the first one may stand on the second."""

NUM_FRESH = 4
"""Warm starts of the second measurement."""

OnPhase = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What to search and how long.

    Attributes:
        model: name or file, as the user gave it.
        data: name or path, as the user gave it.
        url: of the study's database.
        name: of the study in it.
        num_trials: completed trials the study shall have in the end.
        engine: a name of `models.engines.choose.ENGINE_NAMES`.
        settings: how vectors are measured.
        command: what made the table, for its `source`.
    """

    model: str
    data: str
    url: str
    name: str
    num_trials: int
    engine: str
    settings: SearchSettings
    command: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run found.

    Attributes:
        table: the Pareto table.
        num_trials: completed trials of the study, those of earlier runs included.
        num_dropped: vectors measured a second time that are not in the table.
        wall_s: duration of this run.
    """

    table: ParetoTable
    num_trials: int
    num_dropped: int
    wall_s: float


def run(
    plan_of_run: Run,
    graph: ModelGraph,
    initial: Mapping[str, Array],
    data: DataSplit,
    on_phase: OnPhase = lambda _phase, _done, _total: None,
) -> Outcome:
    """Search, measure the front anew, and make the table.

    The search picks the luckiest measurements; what the table says is measured a second time, from other
    warm starts with other mini-batches and draws, so that luck is not taken for progress.

    Args:
        plan_of_run: what to do.
        graph: the network.
        initial: its initial weights, float32.
        data: to search with; its test part is not used.
        on_phase: told what goes on: name of the phase, what is done of it, and the total.

    Raises:
        UserError: data, study or settings cannot be used.
        KeyboardInterrupt: interrupted; the same command goes on.
    """
    started_s = time.monotonic()
    settings, plan = plan_of_run.settings, plan_widths(graph)
    if not plan.groups:
        raise UserError(f"{graph.name}: no layer of it can be narrowed, so there is nothing to search.")
    data = match(data, graph.input_shape, graph.num_classes)
    engine = make_engine(plan_of_run.engine, graph, LossSettings(), 1)
    bench = make_bench(graph, plan, engine, initial, data.train, settings)
    with quiet():
        study = open_study(plan_of_run.url, plan_of_run.name, facts(plan_of_run, graph))
        starts = _warm_starts(bench, range(settings.num_repeats), on_phase)
        on_phase("search", len(measurements(study, plan)), plan_of_run.num_trials)
        search(
            study,
            plan,
            partial(measure, bench, starts),
            plan_of_run.num_trials,
            settings.seed,
            lambda _measured, num_done: on_phase("search", num_done, plan_of_run.num_trials),
        )
        found = measurements(study, plan)
    full = full_vector(plan)
    candidates = [
        one.vector for one in pareto_layers(found, NUM_LAYERS) if one.gain > 0 and one.vector != full
    ]
    starts = _warm_starts(bench, range(settings.num_repeats, settings.num_repeats + NUM_FRESH), on_phase)
    fresh: list[Measurement] = []
    for done, vector in enumerate([*candidates, full]):
        on_phase("measure the front anew", done, len(candidates) + 1)
        fresh.append(measure(bench, starts, vector))
    on_phase("measure the front anew", len(fresh), len(fresh))
    entries = table_entries(
        fresh[:-1], fresh[-1], lambda vector: cost(graph, plan, vector, settings.batch_size).memory_bytes
    )
    table = ParetoTable(
        model=graph.name,
        graph_digest=graph_digest(graph),
        batch_size=settings.batch_size,
        entries=entries,
        source=plan_of_run.command[:SOURCE_LIMIT],
    )
    return Outcome(
        table=table,
        num_trials=plan_of_run.num_trials,
        num_dropped=len(fresh) - len(entries),
        wall_s=time.monotonic() - started_s,
    )


def _warm_starts(bench: Bench, repeats: range, on_phase: OnPhase) -> list[WarmStart]:
    starts = []
    for repeat in repeats:
        on_phase("warm starts", repeat - repeats.start, len(repeats))
        starts.append(warm_up(bench, repeat))
    return starts


def facts(plan_of_run: Run, graph: ModelGraph) -> dict[str, str]:
    """What measurements depend on: a study goes on only if all of it is the same."""
    settings = plan_of_run.settings
    named = {name: repr(getattr(settings, name)) for name in settings.__struct_fields__}
    return {**named, "data": plan_of_run.data, "model": f"{graph.name} {graph_digest(graph)[:12]}"}


def write_table(path: Path, table: ParetoTable) -> None:
    """Write a table file whole or not at all.

    Raises:
        UserError: it cannot be written there.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(f"# Made by: {table.source}\n{dump_table(table)}", "utf-8")
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}. Give another --out.") from error
