"""One mini-batch as a method wants it: the draw, factors, class priors, parts, a larger self as teacher.

Self-distillation of weight a: a sub-network learns from the logits z of the largest one that the device
can afford, drawn alike, in the same weights,

    loss = (1 - a) CE(own logits, labels) + a T^2 KL(softmax(z / T) || softmax(own logits / T))

and the largest one itself from the labels alone. T is the bundle's temperature.

References:
    Horvath et al., FjORD, NeurIPS 2021, arXiv 2102.13451, self-distillation: the same two terms for a width
    and the client's largest one. Their public code trains the largest one on the labels in the same
    mini-batch; here it is only asked, and learns when it is drawn itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.cost import cost
from models.draws import Draw
from models.engines.engine import Engine, Gradients
from models.factors import Factors, apply, class_bias, class_factors, combined, scaling_factors
from models.graph import ModelGraph
from models.micro_batches import InParts, MicroBatches
from models.optim.optimizer import Optimizer
from models.priors import WithPriors, log_priors
from models.step import StepResult, training_step
from models.subnet import Array, DropoutVector, Subnet, cut
from models.subnet_settings import SubnetSettings
from models.widths import WidthPlan


@dataclass
class SubStep:
    """Trains mini-batches of one order.

    Attributes:
        engine: of the graph and the bundle's loss.
        graph, plan: the network. settings: the method's. draw: of the order.
        class_counts: int64 [classes], local samples of each.
        parts: how small a mini-batch's parts may be, None: it is never cut.
    """

    engine: Engine
    graph: ModelGraph
    plan: WidthPlan
    settings: SubnetSettings
    draw: Draw
    class_counts: NDArray[np.int64]
    parts: MicroBatches | None = None
    _teacher_macs: dict[DropoutVector, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Work out what does not change.

        Raises:
            UserError: absent classes are to be masked, and the network does not end in a Gemm.
        """
        masked = self.settings.mask_absent_classes and not self.is_present.all()
        self._classes: Factors = class_factors(self.graph, self.is_present) if masked else {}
        if self.settings.label_prior and (bias := class_bias(self.graph)) is not None:
            offsets = np.float32(self.settings.label_prior) * log_priors(self.class_counts)
            self.engine = WithPriors(self.engine, bias, offsets)

    @property
    def is_present(self) -> NDArray[np.bool_]:
        """Which classes have local samples, bool [classes]."""
        return self.class_counts > 0

    def run(
        self,
        weights: Mapping[str, Array],
        optimizer: Optimizer,
        vectors: tuple[DropoutVector, DropoutVector],
        step: int,
        inputs: Array,
        labels: NDArray[np.int64],
        part_size: int | None = None,
    ) -> StepResult:
        """Train one mini-batch, in place.

        Args:
            weights: full float32 parameters.
            optimizer: the same one for all mini-batches.
            vectors: what is trained, and the largest that could be.
            step: number of the mini-batch in its order.
            inputs: float32 [N, *input_shape].
            labels: int64 [N].
            part_size: samples that are computed at a time; None: all of them.
        """
        vector, largest = vectors
        subnet, engine = self.draw(vector, step), self.engine
        if part_size is not None and part_size < len(inputs):
            engine = InParts(engine, part_size)
        targets: dict[str, NDArray] = {"labels": labels}
        if self.settings.self_distillation:
            teacher = subnet if vector == largest else self.draw(largest, step)
            targets["teacher_logits"] = self._logits(weights, teacher, inputs)
            if vector == largest:
                engine = _LabelsAlone(engine, self.settings.self_distillation)
        return training_step(
            engine, self.plan, weights, optimizer, subnet, inputs, targets, self._factors(subnet)
        )

    def teacher_macs(self, largest: DropoutVector) -> int:
        """Forward MACs of one sample that the teacher takes; 0 without self-distillation."""
        if not self.settings.self_distillation:
            return 0
        if largest not in self._teacher_macs:
            passes = 2 if self.graph.statistics else 1  # batch statistics first
            self._teacher_macs[largest] = passes * cost(self.graph, self.plan, largest, 1).macs_forward
        return self._teacher_macs[largest]

    def silence_absent(self, delta: Mapping[str, Array]) -> None:
        """Take out of a delta, in place, what weight decay did to the masked classes."""
        for name in self._classes:
            delta[name][~self.is_present] = 0.0

    def _factors(self, subnet: Subnet) -> Factors:
        if not self.settings.scaling:
            return self._classes
        return combined(scaling_factors(self.graph, self.plan, subnet), self._classes)

    def _logits(self, weights: Mapping[str, Array], teacher: Subnet, inputs: Array) -> Array:
        """Logits of a sub-network in its batch statistics."""
        sub = apply(cut(self.plan, weights, teacher), self._factors(teacher))
        moments = self.engine.statistics(sub, inputs) if self.graph.statistics else {}
        return self.engine.outputs({**sub, **moments}, inputs)["logits"]


class _LabelsAlone:
    """An engine whose teacher is the student: the divergence is 0, and the labels' loss counts in full."""

    def __init__(self, engine: Engine, teacher_weight: float) -> None:
        self.name, self.engine, self.teacher_weight = engine.name, engine, teacher_weight

    def gradients(
        self, weights: Mapping[str, Array], inputs: Array, targets: Mapping[str, Array]
    ) -> Gradients:
        loss, gradients, statistics = self.engine.gradients(weights, inputs, targets)
        factor = 1.0 / (1.0 - self.teacher_weight)
        scaled = {name: gradient * np.float32(factor) for name, gradient in gradients.items()}
        return Gradients(loss * factor, scaled, statistics)

    def statistics(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, Array]:
        return self.engine.statistics(weights, inputs)

    def outputs(self, weights: Mapping[str, Array], inputs: Array) -> dict[str, Array]:
        return self.engine.outputs(weights, inputs)
