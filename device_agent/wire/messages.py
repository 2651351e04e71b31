"""Every message of the protocol, as frozen data.

People's topics (`status`, `hello`, `telemetry`, `run`) carry JSON; machines' topics carry one
MessagePack `Envelope` whose body is one of the tagged structs below. Unknown fields of a newer
peer are ignored; types, ranges and lengths are checked by `codec` before anything is used.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from device_agent.wire.fields import Count, Digest, Fraction, Id, Reason, Seconds, Vector
from device_agent.wire.stream_report import StreamReport

SCHEMA_VERSION = 2

# ---------------------------------------------------------------- people's topics: JSON


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`<device>/status`, retained, and the last will. `online` False with reason "lost" is the will."""

    online: bool
    boot_epoch: Count
    reason: Reason = ""


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """`<device>/hello`, retained: who the device is. Sent at every connect.

    Attributes:
        boot_epoch: counts the starts of this agent, kept on its disk.
        profile: name of its firmware profile.
        num_samples: samples of its local training data.
        input_shape: shape of one sample.
        num_classes: classes its labels span.
        cpu_share_fraction: share of all cores its policy allows at most, divided by its cohort.
        policy_digest: digest of the policy in force.
    """

    device: Id
    boot_epoch: Count
    version: Annotated[str, Meta(max_length=64)]
    profile: Annotated[str, Meta(max_length=64)]
    engine: Annotated[str, Meta(max_length=32)]
    num_cores: Annotated[int, Meta(ge=1, le=65536)]
    memory_total_bytes: Count | None
    num_samples: Count
    input_shape: Annotated[tuple[Count, ...], Meta(max_length=8)]
    num_classes: Count
    cpu_share_fraction: Fraction
    policy_digest: Annotated[str, Meta(max_length=64)] = ""


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """`<device>/telemetry`, QoS 0: what a person watching the fleet wants to see now.

    Attributes:
        state: idle, fetching, training, paused or reporting.
        reason: why it pauses, "" otherwise.
        vector: kept channels of the last mini-batch, None before the first.
        macs_fraction: training MACs of that vector over those of the full network.
        steps_done: mini-batches of this order so far.
        mean_macs_fraction: mean of macs_fraction over the mini-batches since the last telemetry.
        accuracy: of the latest predictions, where a device learns from a stream; its samples are its steps.
    """

    device: Id
    boot_epoch: Count
    state: Annotated[str, Meta(max_length=32)]
    reason: Reason = ""
    round: Count | None = None
    vector: Vector | None = None
    macs_fraction: Fraction | None = None
    mean_macs_fraction: Fraction | None = None
    steps_done: Count = 0
    steps_planned: Count = 0
    loss: float | None = None
    cpu_share_fraction: Fraction | None = None
    cpu_others_fraction: Fraction | None = None
    memory_available_bytes: Count | None = None
    memory_own_bytes: Count | None = None
    battery_fraction: Fraction | None = None
    charging: bool | None = None
    temperature_celsius: float | None = None
    throttled: bool | None = None
    clock_hz: float | None = None
    outbox_messages: Count = 0
    accuracy: Fraction | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """`coordinator/run`, retained: what the fleet is doing. A device that sees a new run drops old orders."""

    run: Id
    strategy: Annotated[str, Meta(max_length=32)]
    state: Annotated[str, Meta(max_length=32)]  # waiting, training, finished
    round: Count
    num_rounds: Count
    model_version: Count
    accuracy: Fraction | None = None


# ---------------------------------------------------------------- machines' topics: MessagePack


class BlobRef(msgspec.Struct, frozen=True, kw_only=True):
    """Content named by its SHA-256. Small content may travel inline; the rest is fetched in chunks."""

    digest: Digest
    size_bytes: Count
    data: bytes | None = None


class Neighbour(msgspec.Struct, frozen=True, kw_only=True):
    """A device to exchange with, and how many neighbours it has itself."""

    device: Id
    degree: Annotated[int, Meta(ge=1, le=100_000)]


class Peering(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a device exchanges with. `epoch` counts changes of the topology."""

    neighbours: Annotated[tuple[Neighbour, ...], Meta(max_length=1000)]
    epoch: Count = 0


class Order(msgspec.Struct, frozen=True, kw_only=True, tag="order"):
    """Coordinator -> device: train. `Envelope.base_version` names the weights' version.

    Attributes:
        order: names this order; an update answers it.
        bundle: graph, width plan, table and training settings (`models.bundle`).
        weights: tensors to start from.
        num_batches: mini-batches to train.
        deadline_s: seconds from receipt until the update should leave the device.
        learning_rate: replaces the bundle's, for a schedule over rounds.
        peering: of a decentralised method; None: there is no exchange.
    """

    order: Count
    round: Count
    strategy: Annotated[str, Meta(max_length=32)]
    bundle: BlobRef
    weights: BlobRef
    num_batches: Annotated[int, Meta(ge=1, le=10**9)]
    deadline_s: Seconds
    seed: Count
    learning_rate: Annotated[float, Meta(gt=0.0, le=1e3)] | None = None
    peering: Peering | None = None


class Exchanges(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the exchanges that a device began with a neighbour, since its last report.

    Attributes:
        begun: offers sent. completed: both sides pulled. taken_back: the other side had given up, so the own
            pull was undone. one_sided: the own pull was made, and of the other's nobody knows.
    """

    begun: Count = 0
    completed: Count = 0
    taken_back: Count = 0
    one_sided: Count = 0


class PeerReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a device's learning from its neighbours went, since its last report.

    Attributes:
        step: barriers it has passed in this run.
        exchanges: by neighbour.
        staleness: gradients applied, by the barriers since each was begun; the last entry counts all later.
        discarded: gradients given up.
        sketch: seeded random projection of its weights, for the consensus distance.
        bytes_sent: to neighbours.
    """

    step: Count
    exchanges: Annotated[dict[Id, Exchanges], Meta(max_length=1000)] = {}
    staleness: Annotated[tuple[Count, ...], Meta(max_length=64)] = ()
    discarded: Count = 0
    sketch: Annotated[tuple[float, ...], Meta(max_length=256)] = ()
    bytes_sent: Count = 0


class Update(msgspec.Struct, frozen=True, kw_only=True, tag="update"):
    """Device -> coordinator: what was learned for one order.

    Which entries each mini-batch touched costs almost nothing on the wire: the coordinator replays
    the bundle's draw (`models.draws`) of `vectors[step_vectors[i]]` at mini-batch i.

    Attributes:
        vectors: the distinct dropout vectors used.
        step_vectors: for each mini-batch the index of its vector.
        delta: weights after minus weights before.
        macs: training MACs spent. loss_sum: over samples, weight num_samples.
        busy_s: seconds of computing, pauses and duty-cycle sleep left out.
        peers: of a decentralised method.
        stream: of a method that learns from streams; `delta` is then the device's prototypes
            (`models.prototypes.packing`), and there are no mini-batches.
    """

    order: Count
    round: Count
    num_samples: Count
    vectors: Annotated[tuple[Vector, ...], Meta(max_length=4096)]
    step_vectors: Annotated[tuple[Annotated[int, Meta(ge=0, le=4095)], ...], Meta(max_length=1_000_000)]
    seed: Count
    delta: BlobRef
    macs: Count
    loss_sum: float
    busy_s: Seconds
    wall_s: Seconds
    peers: PeerReport | None = None
    stream: StreamReport | None = None


class Decline(msgspec.Struct, frozen=True, kw_only=True, tag="decline"):
    """Device -> coordinator: nothing was trained for this order, and why."""

    order: Count
    round: Count
    reason: Reason


class Ack(msgspec.Struct, frozen=True, kw_only=True, tag="ack"):
    """Either side: the message with this boot epoch and sequence has been dealt with for good.

    outcome: applied, expired (too late to help; counted), duplicate, refused (reason says why).
    """

    boot_epoch: Count
    sequence: Count
    outcome: Annotated[str, Meta(max_length=32)]
    reason: Reason = ""


class Rollout(msgspec.Struct, frozen=True, kw_only=True, tag="rollout"):
    """Coordinator -> device: put this policy or table in force at the next mini-batch."""

    kind: Annotated[str, Meta(max_length=32)]  # policy, table
    content: BlobRef


class RolledOut(msgspec.Struct, frozen=True, kw_only=True, tag="rolled-out"):
    """Device -> coordinator: the content with this digest is in force, or was refused and why."""

    kind: Annotated[str, Meta(max_length=32)]
    digest: Digest
    in_force: bool
    reason: Reason = ""


class Offer(msgspec.Struct, frozen=True, kw_only=True, tag="offer"):
    """Device -> neighbour: my weights at this moment; let us pull towards each other.

    Attributes:
        nonce: names the exchange, among those this sender began in this boot epoch.
        degree: neighbours that the sender exchanges with between two barriers. step: barriers it has passed.
        weights: its weights, inline. wants_answer: False: nothing comes back, the receiver just mixes it in.
    """

    nonce: Count
    degree: Annotated[int, Meta(ge=1, le=100_000)]
    step: Count
    weights: BlobRef
    wants_answer: bool = True


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag="answer"):
    """Neighbour -> device: my weights at the moment of your offer; I pull when you settle."""

    nonce: Count
    degree: Annotated[int, Meta(ge=1, le=100_000)]
    step: Count
    weights: BlobRef


class Settle(msgspec.Struct, frozen=True, kw_only=True, tag="settle"):
    """Device -> neighbour: I have pulled; pull too. Sent again until it is answered."""

    nonce: Count


class Settled(msgspec.Struct, frozen=True, kw_only=True, tag="settled"):
    """Neighbour -> device: I have pulled too, or I had given the exchange up and have not."""

    nonce: Count
    applied: bool


class ChunkRequest(msgspec.Struct, frozen=True, kw_only=True, tag="chunk-request"):
    """Receiver -> holder: send chunk `index` of this content."""

    digest: Digest
    index: Count


class Chunk(msgspec.Struct, frozen=True, kw_only=True, tag="chunk"):
    """Holder -> receiver: one chunk. `num_chunks` 0 says the holder does not have the content (any more)."""

    digest: Digest
    index: Count
    num_chunks: Count
    data: bytes


Body = (
    Order
    | Update
    | Decline
    | Ack
    | Rollout
    | RolledOut
    | Offer
    | Answer
    | Settle
    | Settled
    | ChunkRequest
    | Chunk
)


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What every machine message travels in.

    Attributes:
        schema: SCHEMA_VERSION of the sender.
        run: the run it belongs to.
        sender: id of the sender; must agree with the topic.
        boot_epoch: counts the sender's starts; with `sequence` it names the message for ever.
        sequence: counts the sender's messages within one boot epoch.
        base_version: model version it builds on, None where none is meant.
        base_digest: digest of that version's weights.
        age_ms: age as measured by the sender at this sending; None if it does not know (reboot).
    """

    schema: int
    run: Id
    sender: Id
    boot_epoch: Count
    sequence: Count
    body: Body
    base_version: Count | None = None
    base_digest: Digest | None = None
    age_ms: Count | None = None


# ---------------------------------------------------------------- tensors


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """Raw little-endian values. `dtype` is float32, float16, int64 or int8."""

    dtype: Annotated[str, Meta(max_length=16)]
    shape: Annotated[tuple[Count, ...], Meta(max_length=8)]
    data: bytes


class Tensors(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a weights or delta blob."""

    tensors: dict[Annotated[str, Meta(max_length=256)], Tensor]
