"""What a broken or hostile client can publish while a fleet learns: each is refused, the run goes on."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from device_agent.wire.chunks import serve
from device_agent.wire.codec import decode, digest_of, encode, encode_public, refer
from device_agent.wire.messages import (
    SCHEMA_VERSION,
    Ack,
    BlobRef,
    ChunkRequest,
    Decline,
    Envelope,
    Hello,
    Order,
    Rollout,
    Run,
    Status,
    Update,
)
from models.weights import pack
from models.zoo import load_model

pytestmark = pytest.mark.timeout(170)

ROOT = "edgetide/v1/edgetide"
ROUNDS = 12
"""Of two seconds: the run has to outlast what is sent to it, on a busy machine too."""
GOLDEN = sorted((Path(__file__).parent.parent / "fixtures" / "wire").iterdir())
DIGEST = "ab" * 32


def hello_of(device, **changes):
    hello = Hello(
        device=device,
        boot_epoch=1,
        version="0",
        profile="rogue",
        engine="torch",
        num_cores=1,
        memory_total_bytes=None,
        num_samples=64,
        input_shape=(1, 28, 28),
        num_classes=10,
        cpu_share_fraction=1.0,
    )
    return encode_public(msgspec.structs.replace(hello, **changes))


class RogueDevice:
    """A device that was let into the fleet and sends what it likes. It serves its content in chunks."""

    def __init__(self, observer, run, name):
        self.client, self.run, self.name = observer.client, run, name
        self.sent, self.blobs, self.acks, self.orders = [], {}, {}, []
        self.version = 0
        self.is_numbering = threading.Lock()  # updates and chunks are sent on two threads
        self.client.message_callback_add(f"{ROOT}/{name}/down", self._on_down)

    def join(self, **changes):
        self.client.publish(
            f"{ROOT}/{self.name}/status", encode_public(Status(online=True, boot_epoch=1)), qos=1
        )
        self.client.publish(f"{ROOT}/{self.name}/hello", hello_of(self.name, **changes), qos=1)

    def leave(self):
        self.client.publish(
            f"{ROOT}/{self.name}/status", encode_public(Status(online=False, boot_epoch=1)), qos=1
        )

    def send(self, body, leaf="up", **fields):
        with self.is_numbering:
            envelope = Envelope(
                schema=SCHEMA_VERSION,
                run=self.run,
                sender=self.name,
                boot_epoch=1,
                sequence=len(self.sent),
                body=body,
                **{"base_version": self.version, **fields},
            )
            self.sent.append((f"{ROOT}/{self.name}/{leaf}", encode(envelope)))
        self.send_again(envelope.sequence)
        return envelope.sequence

    def send_again(self, sequence):
        self.client.publish(*self.sent[sequence], qos=1)

    def insist(self, sequence):
        """Whether a message was answered; if not it is sent again, as an outbox does."""
        if sequence not in self.acks:
            self.send_again(sequence)
            time.sleep(0.5)
        return sequence in self.acks

    def offer(self, blob):
        self.blobs[digest_of(blob)] = blob
        return BlobRef(digest=digest_of(blob), size_bytes=len(blob))

    def _on_down(self, _client, _data, message):
        envelope = decode(message.payload, message.topic)
        body = envelope.body
        if isinstance(body, ChunkRequest):
            self.send(serve(self.blobs.get, body), "up/bulk")
        elif isinstance(body, Ack):
            self.acks.setdefault(body.sequence, body)  # a repeat is called a duplicate
        elif isinstance(body, Order):
            self.version = envelope.base_version
            self.orders.append(body)
            self.send(Decline(order=body.order, round=body.round, reason="not in the mood"))


@pytest.fixture(scope="module")
def fleet(make_fleet, observe, broker):
    fleet = make_fleet("--exit", broker=broker, rounds=ROUNDS)
    fleet.observer = observe(fleet.broker_url)
    fleet.wait_until_training("device-1", "device-2")
    fleet.run = fleet.get("fleet")["run"]["run"]
    fleet.first_pids = {name: fleet.pid(name) for name in ("coordinator", "device-1", "device-2", "broker")}
    return fleet


def mutated(rng, payload):
    """Cut, flip or splice."""
    data = bytearray(payload)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(4)
        if kind == 0:
            del data[place:]
        elif kind == 1 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.randint(1, 40))
        else:
            data += data[place:]
    return bytes(data)


def test_two_hundred_mutated_messages_on_every_topic_are_refused_and_logged(fleet):
    rng = random.Random(7)
    leaves = [
        "up",
        "up/bulk",
        "down",
        "down/bulk",
        "status",
        "hello",
        "telemetry",
        "run",
        "peer/all",
        "a/b/c",
    ]
    senders = ["device-1", "device-2", "coordinator", "nobody", "Not An Id", "x" * 100]
    since = {name: len(fleet.log(name)) for name in ("coordinator", "device-1", "device-2")}
    for number in range(200):
        golden = GOLDEN[number % len(GOLDEN)].read_bytes()
        payload = mutated(rng, golden) if number % 5 else rng.randbytes(rng.randint(0, 3000))
        topic = f"{ROOT}/{senders[number % len(senders)]}/{leaves[number % len(leaves)]}"
        fleet.observer.client.publish(topic, payload, qos=number % 2)
    for name, position in since.items():
        fleet.wait_for_line(name, r"message refused: edgetide/v1/edgetide/\S+: ", position)


def test_an_oversized_payload_hurts_nobody_but_its_sender(fleet, observe):
    glutton = observe(fleet.broker_url)
    since = len(fleet.log("coordinator"))
    for num_bytes in (193 * 1024, 250 * 1024, 3 * 2**20):
        glutton.client.publish(f"{ROOT}/device-1/up", bytes(num_bytes), qos=0)
    fleet.wait_for_line("coordinator", r"message refused: \S+/device-1/up: \D*\d+ bytes", since)


BAD_UPDATES = {
    "NaN": ({"value": np.nan}, {}, "values must be finite"),
    "infinity": ({"value": np.inf}, {}, "values must be finite"),
    "huge": ({"value": 1e35}, {}, "that is no training"),
    "of other shapes": ({"shape": (3,)}, {}, "has shape"),
    "without a tensor": ({"leave_out": 1}, {}, "missing"),
    "of a future version": ({}, {"base_version": 10**6}, "builds on version 1000000"),
    "with too many samples": ({"num_samples": 10**6}, {}, "1000000 samples do not fit"),
    "with a vector too wide": ({"vectors": ((33, 64, 64),)}, {}, "33"),
    "with a vector too short": ({"vectors": ((8, 16),)}, {}, "2"),
    "with more steps than were ordered": ({"step_vectors": (0,) * 60_000}, {}, "60000 mini-batches"),
    "of a size no delta has": ({"size_bytes": 2**40}, {}, "1099511627776 bytes"),
}


def bad_update(
    rogue,
    *,
    value=0.0,
    shape=None,
    leave_out=0,
    num_samples=32,
    vectors=((32, 64, 64),),
    step_vectors=(0,),
    size_bytes=None,
):
    parameters = load_model("cnn-28")[0].parameters
    names = list(parameters)[leave_out:]
    delta = {name: np.full(shape or parameters[name], value, np.float32) for name in names}
    delta[names[0]].flat[0] = 1e-6 * len(rogue.sent)  # no two alike
    ref = rogue.offer(pack(delta))
    return Update(
        order=1,
        round=1,
        num_samples=num_samples,
        vectors=vectors,
        step_vectors=step_vectors,
        seed=1,
        delta=ref if size_bytes is None else msgspec.structs.replace(ref, size_bytes=size_bytes),
        macs=1,
        loss_sum=1.0,
        busy_s=1.0,
        wall_s=1.0,
    )


def test_bad_updates_of_a_device_in_the_fleet_are_refused_with_a_reason(fleet):
    rogue = RogueDevice(fleet.observer, fleet.run, "rogue-1")
    rogue.join()
    fleet.wait_for("an order for the rogue", lambda: rogue.orders)
    sequences = {}
    for name, (changes, fields, _) in BAD_UPDATES.items():
        sequences[name] = rogue.send(bad_update(rogue, **changes), **fields)
    for name, sequence in sequences.items():
        fleet.wait_for(f"an answer to the update {name}", lambda sequence=sequence: rogue.insist(sequence))
    for name, (_, _, reason) in BAD_UPDATES.items():
        ack = rogue.acks[sequences[name]]
        assert (name, ack.outcome) == (name, "refused")
        assert reason in ack.reason
    rogue.leave()


def test_an_unknown_device_is_not_listened_to(fleet):
    stranger = RogueDevice(fleet.observer, fleet.run, "stranger-1")
    since = len(fleet.log("coordinator"))
    stranger.send(bad_update(stranger))
    fleet.wait_for_line("coordinator", "stranger-1: update of an unknown device ignored", since)


def test_a_device_that_claims_absurd_amounts_of_data_does_not_stop_the_coordinator(fleet):
    boaster = RogueDevice(fleet.observer, fleet.run, "boaster-1")
    boaster.join(num_samples=2**53)
    fleet.wait_for("an order for the boaster", lambda: boaster.orders)
    boaster.leave()


def test_forged_words_of_the_coordinator_are_survived(fleet):
    client = fleet.observer.client

    def forge(body, *, run=fleet.run, epoch=1, sequence=1_000_000, **fields):
        envelope = Envelope(
            schema=SCHEMA_VERSION,
            run=run,
            sender="coordinator",
            boot_epoch=epoch,
            sequence=sequence,
            body=body,
            **fields,
        )
        client.publish(f"{ROOT}/device-1/down", encode(envelope), qos=1)

    nothing = BlobRef(digest=DIGEST, size_bytes=1000)
    order = Order(
        order=1,
        round=1,
        strategy="distreal",
        bundle=nothing,
        weights=nothing,
        num_batches=1,
        deadline_s=1.0,
        seed=1,
    )
    since = len(fleet.log("device-1"))
    forge(Ack(boot_epoch=1, sequence=1, outcome="applied"), sequence=1_000_000)
    forge(order, sequence=1_000_001, base_version=0, base_digest=DIGEST)  # older than what it trains
    forge(order, sequence=1_000_002)  # without a base
    forge(Rollout(kind="policy", content=refer(b"hours: [sometimes]")), sequence=1_000_003)
    forge(Rollout(kind="table", content=refer(b"format: edgetide-table/1")), sequence=1_000_004)
    forge(Rollout(kind="firmware", content=refer(b"\x7fELF")), sequence=1_000_005)
    for kind in ("policy", "table", "firmware"):
        fleet.wait_for_line("device-1", rf"rollout refused \{{'kind': '{kind}'", since)
    client.publish(f"{ROOT}/coordinator/run", encode_public(run_of("run-of-another")), qos=1)
    fleet.wait_for_line("device-1", "update put in the outbox|order dropped", since)


def run_of(name):
    return Run(run=name, strategy="distreal", state="training", round=1, num_rounds=9, model_version=1)


def test_the_run_ends_well_and_counts_what_was_refused(fleet):
    assert fleet.wait() == 0, fleet.explain()
    report = fleet.report
    assert report["rounds"] == ROUNDS
    assert report["accuracy"] > 0.11  # no poison: chance is 0.1, and rounds are short
    assert report["updates_refused"] == len(BAD_UPDATES)
    assert {device["id"] for device in report["devices"]} == {"device-1", "device-2"}


def test_no_part_of_the_fleet_failed(fleet):
    fleet.wait()
    for name in ("coordinator", "device-1", "device-2", "broker"):
        assert "Traceback" not in fleet.log(name)
    assert "started again" not in fleet.said
