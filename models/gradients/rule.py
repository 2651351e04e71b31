"""What a rule is: one function an operator, which emits the forward pass and returns the pullback.

Every value stands *batch last*: a sample of shape [C, H, W] is [C, H, W, N] for a mini-batch of N. Then a
convolution's windows are gathered in runs of N floats by tables that depend on no width, its product is
one matrix product for all samples, and per-channel sums run over contiguous memory (measured: 1.3 to 3
times faster in onnxruntime than Conv and ConvTranspose on [N, C, H, W]).

References: the vector-Jacobian product and its name follow JAX (Bradbury et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from models.gradients.emitter import Emitter
from models.graph import Attribute
from models.operators import Operand

Pullback: TypeAlias = "Callable[[str], tuple[str | None, ...]]"
"""From the gradient of the output to the gradient of each input (None: it has none)."""


class Emitted(NamedTuple):
    """What a rule made.

    Attributes:
        output: name of the value, batch last.
        pullback: emits the gradients of the inputs, when it is called.
        statistics: batch-norm moments beside the output, name -> value of shape [C].
    """

    output: str
    pullback: Pullback
    statistics: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Site:
    """One node of a ModelGraph as a rule sees it.

    Attributes:
        inputs: emitted names of its inputs: values batch last, parameters as they are.
        operands: kind and full-width shape of each input (a value's without the batch).
        shape: full-width shape of one sample of the output.
        attributes: of the node.
        wanted: for each input, whether its gradient is wanted.
        batch: int64 [1], the mini-batch's size.
        training: batch norm takes the mini-batch's moments.
        names: the inputs' own names in the ModelGraph.
    """

    inputs: tuple[str, ...]
    operands: tuple[Operand, ...]
    shape: tuple[int, ...]
    attributes: dict[str, Attribute]
    wanted: tuple[bool, ...]
    batch: str
    training: bool
    names: tuple[str, ...]

    def ints(self, key: str) -> tuple[int, ...]:
        """An attribute that is a tuple of whole numbers."""
        value = self.attributes[key]
        assert isinstance(value, tuple)
        return value

    def int(self, key: str) -> int:
        """An attribute that is a whole number."""
        value = self.attributes[key]
        assert isinstance(value, int)
        return value

    def float(self, key: str) -> float:
        """An attribute that is a number."""
        value = self.attributes[key]
        assert isinstance(value, (int, float))
        return float(value)


Rule: TypeAlias = "Callable[[Emitter, Site], Emitted]"
