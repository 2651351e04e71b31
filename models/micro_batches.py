"""Mini-batches in parts whose gradients are added up, so that a wide network trains in little memory.

What a mini-batch needs besides the weights grows with its samples (`models.cost`). Where it does not fit,
it is computed part by part; the gradient is that of the whole mini-batch, so training is the same. It takes
as many multiply-accumulates, and the fixed part of a step once a part. Batch norm is the exception: its
moments are then those of the parts.

References:
    Gradient accumulation is common practice; Huang et al., "GPipe", NeurIPS 2019, section 2.2, call the
    parts micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.cost import CostModel
from models.engines.engine import Engine, Gradients
from models.graph import ModelGraph
from models.subnet import Array, DropoutVector
from models.table import ParetoTable
from models.widths import WidthPlan


class _Need(NamedTuple):
    """Memory of training with a vector: the sums of the gradients, the rest, and what each sample adds."""

    sums_bytes: int
    fixed_bytes: int
    sample_bytes: int


class MicroBatches:
    """How large the parts of a mini-batch may be.

    Args:
        graph, plan: the network.
        batch_size: samples of a mini-batch.
        least: samples that a part has at least, unless the mini-batch has fewer.
    """

    def __init__(self, graph: ModelGraph, plan: WidthPlan, batch_size: int, least: int) -> None:
        self.batch_size, self.least = batch_size, min(least, batch_size)
        self._models = CostModel(graph, plan, 1), CostModel(graph, plan, 2)
        self._needs: dict[DropoutVector, _Need] = {}
        self._tables: dict[int, tuple[ParetoTable, ParetoTable]] = {}

    def least_bytes(self, vector: DropoutVector) -> int:
        """Memory of training with a vector in the smallest parts."""
        need = self._need(vector)
        sums = need.sums_bytes if self.least < self.batch_size else 0
        whole = need.fixed_bytes + self.batch_size * need.sample_bytes
        return min(whole, need.fixed_bytes + sums + self.least * need.sample_bytes)

    def size(self, vector: DropoutVector, memory_bytes: int) -> int:
        """Samples of a part that fits in the memory: the whole mini-batch if it can be."""
        need = self._need(vector)
        if need.fixed_bytes + self.batch_size * need.sample_bytes <= memory_bytes:
            return self.batch_size
        fitting = (memory_bytes - need.fixed_bytes - need.sums_bytes) // max(1, need.sample_bytes)
        return int(min(self.batch_size, max(self.least, fitting)))

    def table(self, table: ParetoTable) -> ParetoTable:
        """The table with the memory that its vectors need in the smallest parts."""
        known = self._tables.get(id(table))
        if known is None or known[0] is not table:
            entries = tuple(
                msgspec.structs.replace(
                    entry, memory_bytes=min(entry.memory_bytes, self.least_bytes(entry.vector))
                )
                for entry in table.entries
            )
            known = table, msgspec.structs.replace(table, entries=entries)
            self._tables = {id(table): known}
        return known[1]

    def _need(self, vector: DropoutVector) -> _Need:
        if vector not in self._needs:
            one, two = (model.costs([vector]) for model in self._models)
            sample_bytes = int(two.memory_bytes[0] - one.memory_bytes[0])
            self._needs[vector] = _Need(
                4 * int(one.num_parameters[0]), int(one.memory_bytes[0]) - sample_bytes, sample_bytes
            )
        return self._needs[vector]


class InParts:
    """An engine whose gradients are computed part by part and added up.

    Args:
        engine: computes the parts.
        size: samples of a part, 1 or more.
    """

    def __init__(self, engine: Engine, size: int) -> None:
        self.name, self._engine, self._size = engine.name, engine, size

    def gradients(
        self, weights: Mapping[str, Array], inputs: Array, targets: Mapping[str, NDArray]
    ) -> Gradients:
        """As the engine's own, for the mean loss over all samples; see `models.engines.engine`."""
        total, loss, sums, moments = len(inputs), 0.0, {}, {}
        for part in self._parts(total):
            share = np.float32((part.stop - part.start) / total)
            made = self._engine.gradients(
                weights, inputs[part], {name: values[part] for name, values in targets.items()}
            )
            loss += float(share) * made.loss
            for into, values in ((sums, made.gradients), (moments, made.statistics)):
                for name, value in values.items():
                    into[name] = into[name] + share * value if name in into else share * value
        return Gradients(loss, sums, moments)

    def statistics(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, Array]:
        """As the engine's own."""
        return self._engine.statistics(weights, inputs)

    def outputs(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, Array]:
        """As the engine's own."""
        return self._engine.outputs(weights, inputs)

    def _parts(self, total: int) -> Iterator[slice]:
        """Parts as equal as can be: a last one of a single sample would be slow."""
        num_parts = -(-total // self._size)
        ends = [total * (index + 1) // num_parts for index in range(num_parts)]
        return (slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True))
