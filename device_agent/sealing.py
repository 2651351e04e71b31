"""A delta, compressed as its run's settings say."""

from __future__ import annotations

from device_agent.residual_store import Belongs, ResidualStore, Sealed
from device_agent.training import TrainingJob, TrainingResult
from models.compression.error_feedback import WITH_FEEDBACK, ErrorFeedback
from models.compression.trained import trained_entries


def seal(job: TrainingJob, result: TrainingResult, belongs: Belongs, residuals: ResidualStore) -> Sealed:
    """Compress what a job learned.

    Args:
        job: the order, with its bundle and the weights it started from.
        result: its result; `result.delta` is not empty.
        belongs: names run and network.
        residuals: what earlier updates left out; only read.

    Raises:
        WorldError: a value is not finite.
    """
    settings = job.bundle.settings.delta_compression
    has_feedback = settings.scheme in WITH_FEEDBACK
    mask = trained_entries(
        job.bundle,
        result.vectors,
        result.step_vectors,
        seed=job.seed,
        round_number=job.round,
        weights=job.weights,
    )
    expected = job.bundle.graph.parameters
    before = ErrorFeedback(residuals.load(belongs, expected) if has_feedback else {})
    content, after = before.encode(result.delta, settings, seed=job.seed, mask=mask)
    return Sealed(content=content, belongs=belongs, residual=after.residual if has_feedback else None)
