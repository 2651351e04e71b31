"""What compression leaves out of one update is added to the next.

With e the residual (0 at first), C the compressor and d the delta of an update

    c = C(d + e)        is sent,
    e' = d + e - c      is kept.

What is never chosen, or always rounded away, so adds up until it is sent. Entries
that this update's sub-networks did not train wait for one that does.

References:
    Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, NeurIPS 2018, arXiv 1809.07599, algorithm 1.
    Karimireddy et al., Error Feedback Fixes SignSGD, ICML 2019, arXiv 1901.09847.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from models.compression.codec import Mask, decode, encode
from models.compression.settings import CompressionSettings
from models.subnet import Array

WITH_FEEDBACK = frozenset({"int8", "top-k", "random-mask"})
"""Schemes that keep a residual."""


@dataclass(frozen=True)
class ErrorFeedback:
    """A device's residual.

    Attributes:
        residual: e, float32 by tensor; tensors left out have none yet.
    """

    residual: Mapping[str, Array] = field(default_factory=dict)

    def encode(
        self,
        delta: Mapping[str, Array],
        settings: CompressionSettings,
        *,
        seed: int,
        mask: Mask | None = None,
    ) -> tuple[bytes, ErrorFeedback]:
        """Write a delta with what the updates before it left out.

        Args:
            delta: d. The other arguments are those of `models.compression.codec.encode`.
            settings: of the run.
            seed: of the order.
            mask: entries that were trained.

        Returns:
            The bytes, and the feedback that follows once they are sure to be sent.

        Raises:
            WorldError: a value is not finite.
        """
        if settings.scheme not in WITH_FEEDBACK:
            return encode(delta, settings, seed=seed, mask=mask), self
        total = {
            name: np.asarray(values + self.residual[name]) if name in self.residual else values
            for name, values in delta.items()
        }
        content = encode(total, settings, seed=seed, mask=mask)
        shapes = {name: values.shape for name, values in total.items()}
        sent = decode(content, shapes, seed=seed, mask=mask, max_bytes=len(content))
        return content, ErrorFeedback({name: np.asarray(total[name] - sent[name]) for name in total})
