"""What a process needs to measure vectors for a run: network, data, engine, warm starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import msgspec
import optuna
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from dse.costs import Price, Pricing
from dse.objectives import Bench, WarmStart, gain, make_bench
from dse.samplers import SamplerName
from dse.search import Question, SearchOptions
from dse.settings import SearchSettings
from dse.study import open_study
from dse.warm import checksum, warm_starts
from firmware_profiles.errors import UserError
from firmware_profiles.state import default_state
from models.data.dataset import DataSplit, load_data, match
from models.engines.choose import make_engine
from models.graph import ModelGraph
from models.graph import digest as graph_digest
from models.losses import LossSettings
from models.subnet import Array, DropoutVector
from models.weights import digest as weights_digest
from models.widths import WidthPlan, plan_widths
from models.zoo import load_model
from models.zoo.initial import initial_weights


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What to search and how long.

    Attributes:
        model: name or file, as the user gave it.
        data: name or path, as the user gave it.
        url: of the study's database.
        name: of the study in it.
        num_trials: finished trials the study shall have in the end.
        engine: a name of `models.engines.choose.ENGINE_NAMES`.
        settings: how vectors are measured.
        command: what made the table, for its `source`.
        price: how the cost objective is reckoned.
        sampler: what makes the vectors.
        stops_hopeless: whether vectors are given up early.
        until_stalled: trials without growth that end the search, None: it goes to the end.
        num_workers: processes on this machine; 1 is this process alone.
        warm_folder: where warm starts are kept; None: beside the study.
    """

    model: str
    data: str
    url: str
    name: str
    num_trials: int
    engine: str
    settings: SearchSettings
    command: str
    price: Price = Price()
    sampler: SamplerName = "tpe"
    stops_hopeless: bool = True
    until_stalled: int | None = None
    num_workers: int = 1
    warm_folder: str | None = None

    @property
    def options(self) -> SearchOptions:
        """How long and how to search."""
        return SearchOptions(
            num_trials=self.num_trials,
            seed=self.settings.seed,
            sampler=self.sampler,
            stops_hopeless=self.stops_hopeless,
            until_stalled=self.until_stalled,
        )


@dataclass(frozen=True, eq=False)
class Site:
    """One process' part in a run.

    Attributes:
        run: what is searched.
        graph: the network.
        plan: its width groups.
        bench: what measurements are made on.
    """

    run: Run
    graph: ModelGraph
    plan: WidthPlan
    bench: Bench

    @cached_property
    def pricing(self) -> Pricing:
        """The costs of a vector."""
        return Pricing(self.graph, self.plan, self.run.settings.batch_size, self.run.price)

    @property
    def facts(self) -> dict[str, str]:
        """What measurements depend on: a study goes on only if all of it is the same."""
        settings = self.run.settings
        named = {name: repr(getattr(settings, name)) for name in settings.__struct_fields__}
        return {
            **named,
            "data": self.run.data,
            "model": f"{self.graph.name} {graph_digest(self.graph)[:12]}",
            "weights": weights_digest(self.bench.initial)[:12],
            "cost": repr(self.run.price),
        }

    def open_study(self) -> optuna.Study:
        """The study of the run.

        Raises:
            UserError: the database cannot be used, or the study measures something else.
        """
        return open_study(self.run.url, self.run.name, self.facts, self.run.settings.objectives)

    def warm_starts(
        self, repeats: Sequence[int], on_repeat: Callable[[int], None] = lambda _num_done: None
    ) -> list[WarmStart]:
        """Warm starts of some repeats, read if they are kept beside the study already."""
        return warm_starts(self.bench, repeats, warm_folder(self.run), repr(self.facts), on_repeat)

    def question(self, starts: Sequence[WarmStart]) -> Question:
        """What the search asks of every vector, from these warm starts."""
        settings = self.run.settings
        return Question(
            plan=self.plan,
            objectives=settings.objectives,
            stages=tuple(map(str, settings.stages)),
            num_repeats=settings.num_repeats,
            costs=self.pricing,
            measure=partial(_measure, self.bench, starts),
            checksum=checksum(starts),
        )


def make_site(run: Run, graph: ModelGraph, initial: Mapping[str, Array], data: DataSplit) -> Site:
    """Put together what a process needs.

    Args:
        run: what is searched.
        graph: the network.
        initial: its initial weights, float32.
        data: to search with; its test part is not used.

    Raises:
        UserError: network, data or engine cannot be used.
    """
    plan = plan_widths(graph)
    if not plan.groups:
        raise UserError(f"{graph.name}: no layer of it can be narrowed, so there is nothing to search.")
    data = match(data, graph.input_shape, graph.num_classes)
    engine = make_engine(run.engine, graph, LossSettings(), 1)
    return Site(run, graph, plan, make_bench(graph, plan, engine, initial, data.train, run.settings))


def load_site(run: Run) -> Site:
    """Load network and data by the names the user gave.

    Raises:
        UserError: one of them cannot be used.
    """
    split = load_data(run.data, run.settings.seed)
    graph, stored = load_model(run.model, split.train.shape, split.train.num_classes)
    return make_site(run, graph, stored or initial_weights(graph, run.settings.seed), split)


def warm_folder(run: Run) -> Path:
    """Where the warm starts of a run are kept: beside a study that is a file."""
    if run.warm_folder is not None:
        return Path(run.warm_folder)
    try:
        url = make_url(run.url)
    except ArgumentError:
        return default_state("dse")
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        return Path(url.database).with_suffix(".warm")
    return default_state("dse")


def _measure(bench: Bench, starts: Sequence[WarmStart], vector: DropoutVector, part: int) -> float:
    return gain(bench, starts[part], vector)
