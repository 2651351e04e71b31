"""The Pareto table: dropout vectors worth choosing, and the choice of one for a budget.

A table is a YAML file (format "edgetide-table/1") that `edgetide dse run` writes, people read and
devices look up before every mini-batch::

    format: edgetide-table/1
    model: cnn-28                 # name of the graph
    graph_digest: "9f0c..."       # its digest: a table of another network is refused
    batch_size: 32                # of the mini-batches that memory_bytes and core_seconds mean
    source: "edgetide dse run ..."
    entries:                      # by rising macs; the last one drops nothing
      - vector: [8, 16, 16]       # kept channels of each width group
        macs: 1042752             # training MACs of one sample
        progress: 0.41            # expected convergence; higher is better
        memory_bytes: 1843200     # of training one mini-batch
        core_seconds: 0.0061      # of one mini-batch, or null if nobody measured it
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml
from msgspec import Meta

from firmware_profiles.errors import PeerError, UserError
from firmware_profiles.resources import Budget, Pause
from firmware_profiles.strict import Fault, load_strict, parse_strict
from models.cost import CostModel
from models.graph import ModelGraph
from models.graph import digest as graph_digest
from models.subnet import DropoutVector, full_vector, uniform_vector
from models.widths import WidthPlan

FORMAT = "edgetide-table/1"

_Kept = Annotated[int, Meta(ge=1, le=2**20)]
_Count = Annotated[int, Meta(ge=1, le=2**53)]


class TableEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One Pareto-optimal dropout vector.

    Attributes:
        vector: kept channels of each width group.
        macs: training MACs of one sample (forward and backward).
        progress: expected convergence of training with it, from the search; higher is better.
        memory_bytes: memory that training one mini-batch needs (weights, gradients, activations).
        core_seconds: seconds of one core for one mini-batch, or None if nobody measured it.
    """

    vector: Annotated[tuple[_Kept, ...], Meta(max_length=4096)]
    macs: _Count
    progress: Annotated[float, Meta(ge=-1e9, le=1e9)]
    memory_bytes: _Count
    core_seconds: Annotated[float, Meta(gt=0.0, le=1e6)] | None = None


class ParetoTable(msgspec.Struct, frozen=True, kw_only=True):
    """The offline look-up table of DISTREAL, sorted by rising MACs; the last entry drops nothing.

    Attributes:
        model: name of the graph.
        graph_digest: `models.graph.digest` of it.
        batch_size: samples of the mini-batches that memory and seconds mean.
        entries: 1 to 4096 of them, no vector twice.
        source: how the table came about, such as the command that made it.
    """

    model: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,64}\Z")]
    graph_digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    batch_size: Annotated[int, Meta(ge=1, le=2**20)]
    entries: Annotated[tuple[TableEntry, ...], Meta(min_length=1, max_length=4096)]
    source: Annotated[str, Meta(max_length=1000)]


class _TableFile(ParetoTable, frozen=True, kw_only=True):
    format: Literal["edgetide-table/1"]


def find_fault(table: ParetoTable, digest: str | None = None, plan: WidthPlan | None = None) -> Fault | None:
    """Say what is wrong with a table, or None.

    Args:
        table: its fields have the right types and ranges already.
        digest: of the graph it is to be used with, or None to leave that open.
        plan: width plan of that graph, or None to leave that open.
    """
    if digest is not None and table.graph_digest != digest:
        return Fault(
            "graph_digest",
            f"the table was made for another network ({table.model}, {table.graph_digest[:12]}…) than this "
            f"one ({digest[:12]}…); search a new one with `edgetide dse run`",
        )
    full = table.entries[-1].vector if plan is None else full_vector(plan)
    seen: dict[DropoutVector, int] = {}
    for index, entry in enumerate(table.entries):
        place = f"entries[{index}]"
        if fault := _unfit(entry.vector, full, f"{place}.vector"):
            return fault
        if entry.vector in seen:
            return Fault(f"{place}.vector", f"is that of entries[{seen[entry.vector]}] again; keep one")
        if index and entry.macs < table.entries[index - 1].macs:
            return Fault(
                f"{place}.macs", f"{entry.macs} is below the entry before it; sort the entries by rising macs"
            )
        seen[entry.vector] = index
    last = len(table.entries) - 1
    if table.entries[last].vector != full:
        return Fault(
            f"entries[{last}].vector",
            f"the last entry keeps {list(table.entries[last].vector)}; it must drop nothing: {list(full)}",
        )
    return None


def load_table(path: str | Path) -> ParetoTable:
    """Read a table file. Whether it fits a network is `find_fault`'s to say.

    Raises:
        UserError: it cannot be read or does not fit the format; names file, line and key.
    """
    return _of_file(load_strict(path, _TableFile, find_fault))


def parse_table(data: bytes, digest: str, plan: WidthPlan | None = None) -> ParetoTable:
    """Read a table that another process sent, for the network it must fit.

    Args:
        data: content of a table file, at most 1 MiB.
        digest: `models.graph.digest` of the network.
        plan: its width plan, for checking the vectors.

    Raises:
        PeerError: it does not fit the format or the network.
    """
    try:
        text = data.decode("utf-8")
        return _of_file(
            parse_strict(text, "table", _TableFile, lambda table: find_fault(table, digest, plan))
        )
    except (UserError, UnicodeDecodeError) as error:
        raise PeerError(f"a table of {len(data)} bytes cannot be used: {error}") from error


def table_digest(table: ParetoTable) -> str:
    """SHA-256, in hex, of the table as `dump_table` writes it: a file's comments don't count."""
    return hashlib.sha256(dump_table(table).encode()).hexdigest()


def dump_table(table: ParetoTable) -> str:
    """Write a table as the content of a table file; `load_table` reads the same table back."""
    lines = [
        f"format: {FORMAT}",
        f"model: {_quoted(table.model)}",
        f"graph_digest: {_quoted(table.graph_digest)}",
        f"batch_size: {table.batch_size}",
        f"source: {_quoted(table.source)}",
        "entries: # by rising macs; the last one drops nothing",
    ]
    for entry in table.entries:
        lines += [
            f"  - vector: {list(entry.vector)}",
            f"    macs: {entry.macs}",
            f"    progress: {entry.progress!r}",
            f"    memory_bytes: {entry.memory_bytes}",
            f"    core_seconds: {'null' if entry.core_seconds is None else repr(entry.core_seconds)}",
        ]
    return "\n".join(lines) + "\n"


def uniform_table(
    graph: ModelGraph, plan: WidthPlan, batch_size: int, fractions: Sequence[float]
) -> ParetoTable:
    """Make a table of uniform keep fractions, for a network that nobody has searched yet.

    Its `progress` is the share of the full network's MACs: an order, not a measurement.

    Args:
        graph: the network.
        plan: its width plan.
        batch_size: samples of a mini-batch.
        fractions: keep fractions, each in (0, 1]; 1 is added if it is missing.

    Raises:
        UserError: a fraction is outside (0, 1].
    """
    vectors = sorted({uniform_vector(plan, fraction) for fraction in (*fractions, 1.0)})
    costs = CostModel(graph, plan, batch_size).costs(vectors)
    entries = [
        TableEntry(
            vector=vector,
            macs=int(macs),
            progress=float(macs / costs.macs_training.max()),
            memory_bytes=int(memory),
        )
        for vector, macs, memory in zip(vectors, costs.macs_training, costs.memory_bytes, strict=True)
    ]
    return ParetoTable(
        model=graph.name,
        graph_digest=graph_digest(graph),
        batch_size=batch_size,
        entries=tuple(entries),
        source=f"uniform keep fractions {', '.join(f'{fraction:g}' for fraction in fractions)}; not searched",
    )


def select(
    table: ParetoTable,
    budget: Budget,
    num_cores: int,
    core_seconds: Callable[[TableEntry], float],
    num_threads: int | None = None,
) -> TableEntry | Pause:
    """Choose the vector of highest expected progress that fits the budget, before every mini-batch.

    Args:
        table: what there is to choose from.
        budget: what the next mini-batch may take.
        num_cores: cores of the machine, of which the budget grants a share.
        core_seconds: seconds of one core that an entry's mini-batch takes, such as `StepTimes.predict`.
        num_threads: threads the engine computes with, so that one thread is not reckoned faster than
            one core; None if it can use all.

    Returns:
        The entry (of equal progress the one with fewer MACs), or why nothing fits.
    """
    if budget.time_left_s <= 0.0:
        return Pause("the time for this order is over")
    cores = num_cores * budget.cpu_share_fraction
    if num_threads is not None:
        cores = min(cores, float(num_threads))
    allowed_core_seconds = cores * budget.time_left_s / budget.num_batches_left
    best: TableEntry | None = None
    for entry in table.entries:
        if (
            (best is None or entry.progress > best.progress)
            and entry.memory_bytes <= budget.memory_bytes
            and core_seconds(entry) <= allowed_core_seconds
        ):
            best = entry
    return best or _why_not(table, budget, cores, core_seconds)


def _unfit(vector: DropoutVector, full: DropoutVector, key: str) -> Fault | None:
    if len(vector) != len(full):
        return Fault(key, f"has {len(vector)} numbers, the network has {len(full)} width groups")
    for group, (kept, limit) in enumerate(zip(vector, full, strict=True)):
        if kept > limit:
            return Fault(f"{key}[{group}]", f"keeps {kept} channels of {limit}")
    return None


def _why_not(
    table: ParetoTable, budget: Budget, cores: float, core_seconds: Callable[[TableEntry], float]
) -> Pause:
    in_memory = [entry for entry in table.entries if entry.memory_bytes <= budget.memory_bytes]
    if not in_memory:
        least = min(entry.memory_bytes for entry in table.entries)
        return Pause(
            f"memory: the smallest vector takes {_mb(least)}, {_mb(budget.memory_bytes)} are granted "
            f"({_mb(least - budget.memory_bytes)} too little)"
        )
    needed_s = min(core_seconds(entry) for entry in in_memory) / cores
    allowed_s = budget.time_left_s / budget.num_batches_left
    return Pause(
        f"time: at {budget.cpu_share_fraction:.0%} of the CPU the fastest vector takes {needed_s:.3g} s "
        f"a mini-batch, {allowed_s:.3g} s are left for each ({needed_s / allowed_s:.2g} times too long)"
    )


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, default_style='"', width=10**9).strip()


def _of_file(file: _TableFile) -> ParetoTable:
    fields = {name: getattr(file, name) for name in ParetoTable.__struct_fields__}
    return ParetoTable(**fields)
