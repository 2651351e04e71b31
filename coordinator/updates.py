"""What becomes of an update: whether it is wanted, whether it is sound, and how it is settled."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from coordinator.effects import Settled
from coordinator.orders import MAX_BATCHES, Device
from device_agent.effects import Note, Send
from device_agent.wire.messages import Ack, Envelope, Update
from device_agent.wire.stream_report import MAX_SAMPLES, StreamReport
from firmware_profiles.errors import PeerError
from models.bundle import Bundle
from models.compression.codec import decode, most_bytes
from models.compression.trained import trained_entries
from models.prototypes.reported import read_reported
from models.subnet import Array, check_vector

Key = tuple[str, int, int]
"""(device, boot epoch, sequence): names an update for ever."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which updates the coordinator can use at this moment.

    Attributes:
        run: id of the run. boot_epoch: counts the coordinator's starts.
        is_open: whether a round takes updates now. is_over: whether the last round is committed.
        version: the newest version. oldest_base: updates of versions before it were trained on a model
            that has been replaced. max_staleness: versions an update may be late.
        batch_size: samples of a mini-batch. bundle: what is trained.
        weights: of the newest version; only what is drawn by their importance needs them.
    """

    run: str
    boot_epoch: int
    is_open: bool
    is_over: bool
    version: int
    oldest_base: int
    max_staleness: int
    batch_size: int
    bundle: Bundle
    weights: Mapping[str, Array] | None = None

    @property
    def max_delta_bytes(self) -> int:
        """A delta cannot be larger than the weights as float32, with names and shapes."""
        return most_bytes(self.bundle.graph.parameters)

    def num_data(self, device: Device, update: Update) -> int:
        """Samples that a device has, as many as an order's mini-batches could hold at most."""
        claimed = update.num_samples if device.hello is None else device.hello.num_samples
        return max(1, min(claimed, MAX_BATCHES * self.batch_size))


def key_of(envelope: Envelope) -> Key:
    """What names the message for ever."""
    return envelope.sender, envelope.boot_epoch, envelope.sequence


def verdict(envelope: Envelope, update: Update, device: Device, wanted: Wanted) -> tuple[str, str] | None:
    """(outcome, reason) of an update that need not be looked into, None for one that is wanted."""
    base_version = -1 if envelope.base_version is None else envelope.base_version
    staleness, num_bytes = wanted.version - base_version, update.delta.size_bytes
    num_steps, most_late = len(update.step_vectors), wanted.max_staleness
    is_repeated = update.order in device.folded_orders
    checks = (
        (envelope.run != wanted.run, "expired", f"belongs to run {envelope.run}"),
        (wanted.is_over, "expired", "the run is over"),
        (is_repeated, "expired", "another update for the same order counts already"),
        (
            not device.may_have(update.order, wanted.boot_epoch),
            "refused",
            f"order {update.order} was never given to this device",
        ),
        (base_version < 0, "refused", "it does not say which version it builds on"),
        (base_version < wanted.oldest_base, "expired", "another model was put in force"),
        (staleness > most_late, "expired", f"{staleness} versions late, at most {most_late} count"),
        (
            staleness > 0 and wanted.bundle.settings.subnets.draw == "importance",
            "expired",
            f"its channels were chosen by the weights of version {base_version}, which are gone",
        ),
        (
            num_bytes > wanted.max_delta_bytes,
            "refused",
            f"its delta has {num_bytes} bytes, this model's at most {wanted.max_delta_bytes}",
        ),
        (  # each is replayed
            num_steps > device.most_batches,
            "refused",
            f"{num_steps} mini-batches, at most {device.most_batches} were ordered",
        ),
    )
    return next(((outcome, reason) for holds, outcome, reason in checks if holds), None)


def check(envelope: Envelope, update: Update, wanted: Wanted) -> None:
    """Check what an update claims before it is folded; there is no verdict against it.

    Raises:
        PeerError: its claims contradict one another or the run.
        UserError: a vector does not fit the network.
    """
    if envelope.base_version is None or envelope.base_version > wanted.version:
        raise PeerError(f"it builds on version {envelope.base_version}, the newest is {wanted.version}")
    if (update.stream is None) != (wanted.bundle.settings.gossip is None):
        raise PeerError("it tells of a stream where a network is trained, or the other way round")
    if update.stream is not None:
        check_stream(update, update.stream, wanted.bundle.graph.num_classes)
        return
    num_steps = len(update.step_vectors)
    if update.peers is not None and not (num_steps or update.num_samples):
        return  # only its neighbours moved its weights
    if not num_steps or max(update.step_vectors) >= len(update.vectors):
        raise PeerError("step_vectors does not fit vectors")
    if not 0 < update.num_samples <= num_steps * wanted.batch_size:
        raise PeerError(f"{update.num_samples} samples do not fit {num_steps} mini-batches")
    for vector in update.vectors:
        check_vector(wanted.bundle.plan, vector)


def check_stream(update: Update, report: StreamReport, num_classes: int) -> None:
    """Check what an update claims of a stream.

    Raises:
        PeerError: its counts are not a square of so many classes, are of other samples than it says, or of
            more than it has seen or than there can be.
    """
    if len(report.counts) != num_classes**2:
        raise PeerError(f"{len(report.counts)} counts are not those of {num_classes} classes")
    if sum(report.counts) != update.num_samples:
        raise PeerError(f"its counts are of {sum(report.counts)} samples, it says {update.num_samples}")
    if not update.num_samples <= report.seen <= MAX_SAMPLES:
        raise PeerError(f"its counts are of {update.num_samples} samples, and it has seen {report.seen}")


def read_delta(content: bytes, update: Update, wanted: Wanted) -> dict[str, Array]:
    """An update's delta, float32 in full shapes, or a device's prototypes; `check` has nothing against it.

    Raises:
        PeerError: the content is not what the run's compression makes of such a delta.
    """
    bundle = wanted.bundle
    if update.stream is not None:
        return read_reported(content, math.prod(bundle.graph.input_shape), bundle.graph.num_classes)
    trained = trained_entries(
        bundle,
        update.vectors,
        update.step_vectors,
        seed=update.seed,
        round_number=update.round,
        weights=wanted.weights,
    )
    return decode(
        content,
        bundle.graph.parameters,
        seed=update.seed,
        mask=trained,
        settings=bundle.settings.delta_compression,
    )


def late_report(envelope: Envelope, update: Update, wanted: Wanted) -> StreamReport | None:
    """What an update that changes no model tells of the run's streams all the same; None: nothing sound."""
    if update.stream is None or envelope.run != wanted.run or wanted.bundle.settings.gossip is None:
        return None
    try:
        check_stream(update, update.stream, wanted.bundle.graph.num_classes)
    except PeerError:
        return None
    return update.stream


def settle(envelope: Envelope, update: Update, outcome: str, reason: str = "") -> Settled:
    """What became of an update, as it is recorded."""
    return Settled(
        device=envelope.sender,
        boot_epoch=envelope.boot_epoch,
        sequence=envelope.sequence,
        outcome=outcome,
        reason=reason[:500],
        macs=update.macs,
        vectors={
            "-".join(map(str, update.vectors[index])): count
            for index, count in sorted(Counter(update.step_vectors).items())
            if index < len(update.vectors)
        },
        round=update.round,
        peers=update.peers,
        stream=update.stream,
    )


def drift_notes(settled: Settled) -> list[Note]:
    """What a device's report says of changes in its stream."""
    drifts = settled.stream.drifts if settled.stream is not None else ()
    return [
        Note(
            "stream drifted",
            settled.device,
            {"sample": drift.sample, "errors_before": drift.before, "errors_after": drift.after},
        )
        for drift in drifts
    ]


def histogram(staleness: Iterable[int | None]) -> dict[str, int]:
    """Versions late -> how many applied updates were, as JSON has it; None is not counted."""
    counts = Counter(late for late in staleness if late is not None)
    return {str(late): counts[late] for late in sorted(counts)}


def acknowledge(run: str, settled: Settled) -> Send:
    """Tell the device what became of its update for good."""
    ack = Ack(
        boot_epoch=settled.boot_epoch,
        sequence=settled.sequence,
        outcome=settled.outcome,
        reason=settled.reason,
    )
    return Send(to=settled.device, body=ack, run=run)
